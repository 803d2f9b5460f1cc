"""Which values are images, channels innermost, and how wide a border of zeros each must have."""

from __future__ import annotations

from edgepv.firmware.graph import Graph, Node
from edgepv.firmware.operators.pointwise import OPERATORS
from edgepv.firmware.states import RESHAPES, Ring, root_of
from edgepv.firmware.views import Border

CONVOLUTIONS = frozenset({"Conv", "CodeConv"})
SPATIAL = frozenset({*CONVOLUTIONS, "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "DepthToSpace"})
CODES = frozenset({"QuantizeLinear", "DequantizeLinear", "CodeTable", "CodeAdd", "CodeScale"})
"""Element by element, of codes."""
SLICING = frozenset({"Concat", "Slice", "Split"})


def images(graph: Graph, rings: list[Ring]) -> set[str]:
    """Values (N, C, H, W) that lie with their channels innermost.

    What a spatial operator reads or writes is one, and so is what is combined with one element by element,
    cut out of it, put together with it, or kept of it as a state.
    """
    groups: dict[str, str] = {}

    def top(name: str) -> str:
        while name in groups:
            name = groups[name]
        return name

    def join(one: str, other: str) -> None:
        if top(one) != top(other):
            groups[top(one)] = top(other)

    for node in graph.nodes:
        for name in _alike(graph, node):
            join(name, node.output)
        for name in node.outputs[1:]:
            join(name, node.output)
    for ring in rings:
        for value in ring.values:
            if len(graph.shapes[value]) == len(graph.shapes[ring.name]) == 4:
                join(ring.name, value)
    seeds = {
        top(name) for node in graph.nodes if node.op in SPATIAL for name in (node.inputs[0], node.output)
    }
    return {name for name, shape in graph.shapes.items() if len(shape) == 4 and top(name) in seeds}


def _alike(graph: Graph, node: Node) -> list[str]:
    """Inputs that lie as a node's output does."""
    shape = graph.shapes[node.output]
    inputs = [n for n in node.inputs if n and n not in graph.constants and len(graph.shapes[n]) == 4]
    if len(shape) != 4:
        return []
    if node.op in SLICING:
        return inputs
    if node.op in OPERATORS or node.op in RESHAPES or node.op in CODES:
        return [n for n in inputs if graph.shapes[n][2:] == shape[2:]]
    return []


def borders(graph: Graph, rings: list[Ring]) -> dict[str, Border]:
    """The border of every value that a convolution reads beyond its edges."""
    found: dict[str, Border] = {}

    def ask(name: str, border: Border) -> None:
        found[name] = found.get(name, Border()) | border
        node = graph.producers.get(name)
        if node is not None and node.op in RESHAPES:
            ask(node.inputs[0], border)
        elif node is not None and node.op in ("Concat", "Mul"):
            for part in node.inputs:
                if graph.shapes[part][2:] == graph.shapes[name][2:]:
                    ask(part, border)

    for node in graph.nodes:
        if node.op in CONVOLUTIONS and len(graph.shapes[node.output]) == 4:
            border = needed_border(graph, node)
            if border:
                ask(node.inputs[0], border)
    for ring in rings:  # a state and what comes into it lie in the same places
        roots = [root_of(graph, value) for value in ring.values]
        whole = Border()
        for name in (ring.name, *ring.values, *roots):
            whole = whole | found.get(name, Border())
        if whole:
            found |= dict.fromkeys((ring.name, *ring.values, *roots), whole)
    return found


def needed_border(graph: Graph, conv: Node) -> Border:
    """How far a convolution reads beyond its input (N, C, H, W)."""
    height, width = graph.shapes[conv.inputs[0]][2:]
    out_height, out_width = graph.shapes[conv.output][2:]
    kernel = graph.shapes[conv.inputs[1]][2:]
    strides, dilations, pads = window(conv)
    down = (out_height - 1) * strides[0] + (kernel[0] - 1) * dilations[0] - pads[0] - (height - 1)
    across = (out_width - 1) * strides[1] + (kernel[1] - 1) * dilations[1] - pads[1] - (width - 1)
    return Border(pads[0], pads[1], max(0, down), max(0, across))


def window(node: Node) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """(strides, dilations, pads: top, left, bottom, right) of an operator with a window over an image."""
    if node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise node.refusal("its padding is left to the engine (auto_pad). Export with pads as numbers")
    strides, dilations = (tuple(node.attributes.get(key, (1, 1))) for key in ("strides", "dilations"))
    pads = tuple(node.attributes.get("pads", (0, 0, 0, 0)))
    if len(strides) != 2 or len(dilations) != 2 or len(pads) != 4:
        raise node.refusal("its window is not two-dimensional. Export a model whose frames are (N, C, H, W)")
    return strides, dilations, pads
