"""From a graph to layers of C: where each value lies, and which kernel makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from edgepv.errors import UsageError
from edgepv.firmware import layout
from edgepv.firmware.fusion import Fusions, Product, fuse
from edgepv.firmware.graph import Graph, Node
from edgepv.firmware.loops import nest
from edgepv.firmware.operators import (
    codes,
    convolution,
    matrix,
    pointwise,
    pool,
    reduction,
    resize,
    shape,
    softmax,
)
from edgepv.firmware.operators.reduction import axes_of
from edgepv.firmware.program import Layer, Weights, zero_border
from edgepv.firmware.states import RESHAPES, Ring, root_of
from edgepv.firmware.views import (
    Border,
    Buffer,
    Kind,
    Parts,
    Shape,
    View,
    image,
    image_values,
    plain,
    whole_channels,
)

Value: TypeAlias = View | Parts


@dataclass
class Lowering:
    """Goes through a graph node by node. frame: its input; answers: where each begins among the outputs.

    homes: memory that a value must be computed in, if that can be. sums: of the codes of each channel, by
    value.
    """

    graph: Graph
    frame: str
    rings: list[Ring]
    answers: dict[str, int]
    fusions: Fusions = field(default_factory=Fusions)
    images: set[str] = field(default_factory=set)
    borders: dict[str, Border] = field(default_factory=dict)
    homes: dict[str, Buffer] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    weights: Weights = field(default_factory=Weights)
    sums: dict[str, View] = field(default_factory=dict)
    input: View = field(init=False)

    def __post_init__(self) -> None:
        self.fusions = fuse(self.graph)
        self.images = layout.images(self.graph, self.rings)
        self.borders = layout.borders(self.graph, self.rings)
        self._place_input()
        for ring in self.rings:
            self._place_state(ring)
        self._place_answers()

    def run(self) -> None:
        """Lower every node, then bring what is not yet there to where the host looks for it."""
        for node in self.graph.nodes:
            if node.output in self.values or node.output in self.fusions.inside:
                continue
            product = self.fusions.products.get(node.output)
            (PRODUCTS[product.node.op](self, product) if product else self._node(node))
        for ring in self.rings:
            self._keep(ring)
        for name, offset in self.answers.items():
            shape_, view = self.graph.shapes[name], self.view(name)
            if not (view.buffer.kind == "output" and view.buffer.offset == offset and view.dense):
                home = Buffer(name, "output", math.prod(shape_), offset=offset)
                self.copy(name, view, plain(home, shape_))

    def _node(self, node: Node) -> None:
        lower = OPERATORS.get(node.op)
        if lower is None:
            known = ", ".join(sorted({*OPERATORS, *PRODUCTS}))
            raise node.refusal(f"there is no C for this operator. There is for {known}")
        lower(self, node)

    # -- places ------------------------------------------------------------------------------------------

    def _place_input(self) -> None:
        name = self.frame
        frames = self.graph.shapes[name]
        if len(frames) != 4:
            raise UsageError(f"input '{name}' is {frames}; firmware takes frames (chunk, C, H, W)")
        border = self.borders.get(name, Border())
        buffer = Buffer(name, "input", image_values(frames, border), border, frames[2:])
        self.values[name] = self.input = image(buffer, frames, border)
        self._clear_border(name, self.input)

    def _place_state(self, ring: Ring) -> None:
        """Give a state its places, laid out as what comes into them, so that this is computed there."""
        graph, count = self.graph, ring.rows + ring.fresh
        row = ring.row_shape(graph)
        root = root_of(graph, ring.values[0])
        ready = len(ring.values) == 1 and ring.fresh == 1 and root in graph.producers
        ready = ready and root not in self.homes and graph.shapes[ring.values[0]] == row
        like = root if ready else ring.name
        shape_ = graph.shapes[root] if ready else row
        views: list[View | None] = []
        for place in range(count):
            buffer, view = self.memory(like, shape_, "slot")
            buffer.state, buffer.place = self.rings.index(ring), place
            ring.places.append(buffer)
            views.append(view.reshape(row))
        if ready and None in views:  # its border keeps apart what would have to lie together
            ring.places.clear()
            size = math.prod(row)
            views = [plain(self.buffer(ring.name, "slot", size), row) for _ in range(count)]
            for place, kept in enumerate(v for v in views if v is not None):
                kept.buffer.state, kept.buffer.place = self.rings.index(ring), place
                ring.places.append(kept.buffer)
        elif ready:
            self.homes[root] = ring.places[-1]
        ring.views = [v for v in views if v is not None]
        read = tuple(ring.views[: ring.rows])
        self.values[ring.name] = read[0] if ring.axis is None else Parts(ring.axis, read)

    def _place_answers(self) -> None:
        for name, offset in self.answers.items():
            root = root_of(self.graph, name)
            free = root in self.graph.producers and root not in self.homes and root not in self.images
            if free:
                size = math.prod(self.graph.shapes[name])
                self.homes[root] = Buffer(name, "output", size, offset=offset)

    def _keep(self, ring: Ring) -> None:
        """Copy what comes into a state, unless it was computed there."""
        target = ring.views[ring.rows :]
        if self.homes.get(root_of(self.graph, ring.values[0])) is target[-1].buffer and self._came_home(ring):
            return
        if ring.axis is None:
            self.copy(ring.name, self.view(ring.values[0]), target[0])
            return
        rows = [
            self.view(value).slice(ring.axis, i, 1)
            for value in ring.values
            for i in range(self.graph.shapes[value][ring.axis])
        ]
        for source, place in zip(rows, target, strict=True):
            self.copy(ring.name, source, place)

    def _came_home(self, ring: Ring) -> bool:
        value = self.values[root_of(self.graph, ring.values[0])]
        return isinstance(value, View) and value.buffer is ring.places[-1]

    def memory(self, name: str, shape_: Shape, kind: Kind = "arena") -> tuple[Buffer, View]:
        """Memory for a value, laid out as it must be."""
        if name in self.images and len(shape_) == 4:
            border = self.borders.get(name, Border())
            buffer = self.buffer(name, kind, image_values(shape_, border), border, shape_[2:])
            return buffer, image(buffer, shape_, border)
        buffer = self.buffer(name, kind, math.prod(shape_))
        return buffer, plain(buffer, shape_)

    def buffer(
        self, name: str, kind: Kind, values: int, border: Border | None = None, size: Shape = ()
    ) -> Buffer:
        """Memory of as many floats, or of codes where the value is."""
        code = self.graph.codes.get(name)
        ctype, zero = ("float", 0) if code is None else ("uint8_t", code.zero)
        return Buffer(name, kind, values, border or Border(), size, ctype=ctype, zero=zero)

    def _clear_border(self, name: str, view: View) -> None:
        if view.buffer.border:
            self.layer("border", name, (), (view,), zero_border(view))

    # -- what operators call ------------------------------------------------------------------------------

    def result(self, name: str) -> View:
        """Where a value is to be written. Its border, if it has one, is zeroed."""
        shape_ = self.graph.shapes[name]
        home = self.homes.get(name)
        if home is not None:
            border = home.border
            view = image(home, shape_, border) if name in self.images else plain(home, shape_)
        else:
            home, view = self.memory(name, shape_)
            self._clear_border(name, view)
        self.values[name] = view
        return view

    def scratch(self, name: str, values: int, ctype: str = "float") -> View:
        """Memory for one layer alone."""
        return plain(Buffer(name, "arena", values, ctype=ctype), (values,))

    def view(self, name: str) -> View:
        """A value in one piece."""
        if name in self.graph.constants:
            return self.weights.add(name, self.graph.constants[name])
        value = self.values[name]
        if isinstance(value, View):
            return value
        if len(value.views) == 1:
            return value.views[0]
        _, whole = self.memory(name, value.shape)
        self._clear_border(name, whole)
        at = 0
        for part in value.views:
            length = part.shape[value.axis]
            self.copy(name, part, whole.slice(value.axis, at, length))
            at += length
        self.values[name] = whole
        return whole

    def image(self, name: str, border: Border | None = None) -> View:
        """A value (N, C, H, W) with channels innermost and at least this border."""
        wanted, view = border or Border(), self.view(name)
        if is_image(view) and self.has_border(view, wanted):
            return view
        return self._laid_out(name, view, wanted)

    def _laid_out(self, name: str, view: View, wanted: Border) -> View:
        """A copy of an image that is laid out as images are."""
        size = image_values(view.shape, wanted)
        buffer = Buffer(
            name, "arena", size, wanted, view.shape[2:], ctype=view.buffer.ctype, zero=view.buffer.zero
        )
        laid = image(buffer, view.shape, wanted)
        self._clear_border(name, laid)
        self.copy(name, view, laid)
        return laid

    def has_border(self, view: View, border: Border) -> bool:
        """Whether there are zeros around an image as far as ``border``."""
        whole = view.buffer.image == view.shape[2:]
        return not border or (whole and border | view.buffer.border == view.buffer.border)

    def padded_image(self, name: str, border: Border | None = None) -> View:
        """An image whose channels vectors can read to the last, with at least this border."""
        view = self.image(name, border)
        if whole_channels(view):
            return view
        return self._laid_out(name, view, border or Border())

    def mean_of(self, name: str) -> View | None:
        """Where the mean of a value over the picture goes, if it is wanted and has room for vectors."""
        if self.graph.codes:
            return None
        users = list(self.graph.users.get(name, []))
        for user in users:
            if user.op in RESHAPES:
                users += self.graph.users.get(user.output, [])
            rank = len(self.graph.shapes[user.inputs[0]])
            whole = user.op == "ReduceMean" and rank == 4 and axes_of(self.graph, user) == (2, 3)
            channels = self.graph.shapes[name][1]
            if (
                whole
                and self.graph.shapes[user.inputs[0]][:2] == (1, channels)
                and user.output in self.images
            ):
                return self.result(user.output)
        return None

    def layer(
        self, kind: str, node: str, inputs: tuple[View, ...], outputs: tuple[View, ...], body: tuple[str, ...]
    ) -> None:
        """One more function of C."""
        self.layers.append(Layer(kind, node, inputs, outputs, body))

    def copy(self, node: str, source: View, target: View) -> None:
        """Bring a value elsewhere, or into another layout."""
        lines = nest(
            target.shape, (target.strides, source.strides), lambda at: [f"y0[{at[0]}] = x0[{at[1]}];"]
        )
        self.layer("copy", node, (source,), (target,), tuple(lines))

    def constant(self, name: str, array: np.ndarray) -> View:
        """A constant made here."""
        return self.weights.add(name, array)


def is_image(view: View) -> bool:
    """Whether a view's channels are innermost and its pixels lie as images do."""
    _, c, h, w = view.shape
    pixel, row = view.strides[3], view.strides[2]
    return (c == 1 or view.strides[1] == 1) and (w == 1 or pixel >= c) and (h == 1 or row >= pixel * w)


Lower: TypeAlias = Callable[[Lowering, Node], None]
PRODUCTS: Mapping[str, Callable[[Lowering, Product], None]] = MappingProxyType(
    {"Conv": convolution.lower, "MatMul": matrix.lower, "Gemm": matrix.lower}
)
OPERATORS: Mapping[str, Lower] = MappingProxyType(
    {
        **dict.fromkeys(pointwise.OPERATORS, pointwise.lower),
        **shape.OPERATORS,
        **reduction.OPERATORS,
        **pool.OPERATORS,
        **codes.OPERATORS,
        "Resize": resize.lower,
        "Softmax": softmax.lower,
    }
)
