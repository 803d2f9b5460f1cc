"""States of a stream as firmware keeps them: rings of places, of which a step fills those that are spare.

A step that fails moves no ring, so it changes nothing: what it wrote lies in places that no one reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgepv.firmware.graph import Graph, Node
from edgepv.firmware.views import Buffer, Shape, View, aligned
from edgepv.types import StateSpec

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Dropout"})
"""Operators that leave all values where they are."""


@dataclass
class Ring:
    """One state. rows: places that a step reads, oldest first; fresh: places that it fills.

    A state that is replaced is one row along no axis. values: what fills the fresh places. begins: what every
    value is at first, or the code of it. places: memory of every place, those of the rows first; views: the
    rows that lie there.
    """

    name: str
    state: StateSpec
    axis: int | None
    rows: int
    fresh: int
    values: tuple[str, ...]
    begins: float
    places: list[Buffer] = field(default_factory=list)
    views: list[View] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of one place, so that the next lies aligned."""
        return aligned(self.places[0].bytes)

    def row_shape(self, graph: Graph) -> Shape:
        """Shape of one place."""
        shape = list(graph.shapes[self.name])
        if self.axis is not None:
            shape[self.axis] = 1
        return tuple(shape)


def ring_of(graph: Graph, state: StateSpec, name: str, output: str) -> Ring:
    """How one state is kept. name, output: of it in the graph.

    A state that a model shifts by itself (it takes off the oldest rows of a concatenation) is a ring as well
    as one that the host shifts, and costs no copies.
    """
    begins = float(graph.codes[name].of(state.init)) if name in graph.codes else state.init
    if state.update == "shift":
        return Ring(name, state, 0, state.shape[0], state.fresh, (output,), begins)
    shifted = _shifted(graph, name, output)
    if shifted is not None:
        axis, values = shifted
        fresh = sum(graph.shapes[value][axis] for value in values)
        return Ring(name, state, axis, state.shape[axis], fresh, values, begins)
    return Ring(name, state, None, 1, 1, (output,), begins)


def _shifted(graph: Graph, name: str, output: str) -> tuple[int, tuple[str, ...]] | None:
    """(axis, values that are put behind the state) where ``output`` is a state moved along by them."""
    cut = graph.producers.get(output)
    if cut is None or cut.op != "Slice":
        return None
    joined = graph.producers.get(cut.inputs[0])
    if joined is None or joined.op != "Concat" or joined.inputs[0] != name or name in joined.inputs[1:]:
        return None
    shape = graph.shapes[joined.output]
    axis = int(joined.attributes["axis"]) % len(shape)
    fresh = shape[axis] - graph.shapes[name][axis]
    if slice_of(graph, cut) != {axis: (fresh, shape[axis] - fresh, 1)}:
        return None
    return axis, joined.inputs[1:]


def slice_of(graph: Graph, node: Node) -> dict[int, tuple[int, int, int]]:
    """axis -> (start, length, step) of a Slice, for the axes of which it leaves something out."""
    shape = graph.shapes[node.inputs[0]]
    starts, ends, axes, steps = (graph.constant(node, at) for at in (1, 2, 3, 4))
    if starts is None or ends is None:
        raise node.refusal("it says neither where it begins nor where it ends")
    cuts = {}
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
        axis = int(axes[place]) % len(shape) if axes is not None else place
        step = int(steps[place]) if steps is not None else 1
        taken = range(shape[axis])[slice(start, end, step)]
        if len(taken) != shape[axis] or step != 1:
            cuts[axis] = (taken.start, len(taken), step)
    return cuts


def root_of(graph: Graph, name: str) -> str:
    """The value that is computed, where ``name`` is it under another shape."""
    node = graph.producers.get(name)
    while node is not None and node.op in RESHAPES:
        name = node.inputs[0]
        node = graph.producers.get(name)
    return name
