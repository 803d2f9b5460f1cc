"""MaxPool and AveragePool, and the same over the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgepv.firmware.graph import Node
from edgepv.firmware.layout import window
from edgepv.firmware.views import View, padded, whole_channels

if TYPE_CHECKING:
    from edgepv.firmware.lowering import Lowering


def windowed(low: Lowering, node: Node) -> None:
    """Over windows that are cut off at the edges of the picture."""
    x, y = low.image(node.inputs[0]), low.result(node.output)
    strides, dilations, pads = window(node)
    if dilations != (1, 1) or len(node.outputs) > 1:
        raise node.refusal("it is dilated, or its indices are wanted")
    _pool(low, node, x, y, tuple(node.attributes["kernel_shape"]), strides, pads)


def whole(low: Lowering, node: Node) -> None:
    """Over the whole picture."""
    x, y = low.image(node.inputs[0]), low.result(node.output)
    _pool(low, node, x, y, x.shape[2:], (1, 1), (0, 0, 0, 0))


def _pool(
    low: Lowering,
    node: Node,
    x: View,
    y: View,
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> None:
    frames, channels, height, width = y.shape
    source = f"x0 + n * {x.strides[0]} + top * {x.strides[2]} + left * {x.strides[3]}"
    target = f"y0 + n * {y.strides[0]} + v * {y.strides[2]} + u * {y.strides[3]}"
    steps = f"{x.strides[2]}, {x.strides[3]}"
    fits = whole_channels(x) and whole_channels(y)
    if "Max" in node.op and node.output in low.graph.codes:
        lines = [f"edgepv_code_most({channels}, {x.strides[1]}, rows, columns, {steps}, {source}, {target});"]
    elif "Max" in node.op and fits:
        lines = [
            f"EDGEPV_SPLIT({padded(channels)}, edgepv_most, rows, columns, {steps}, {source}, {target});"
        ]
    elif "Max" in node.op:
        lines = [f"edgepv_most_of({channels}, {x.strides[1]}, rows, columns, {steps}, {source}, {target});"]
    else:
        count = "(float)(rows * columns)"
        if node.attributes.get("count_include_pad", 0):  # but not what a rounded up size adds at the far ends
            down, across = (
                f"edgepv_least({s} + {k}, {n + p}) - {s}" for s, k, n, p in _padded(x, kernel, strides, pads)
            )
            count = f"(float)(({down}) * ({across}))"
        sizes = f"{channels}, {x.strides[1]}, {y.strides[1]}, rows, columns, {steps}"
        lines = [f"edgepv_average({sizes}, {count}, {source}, {target});"]
    low.layer(
        "pool",
        node.name,
        (x,),
        (y,),
        (
            f"for (size_t n = 0; n < {frames}; n++) for (size_t v = 0; v < {height}; v++)",
            f"    for (size_t u = 0; u < {width}; u++) {{",
            f"        const size_t top = edgepv_above(v * {strides[0]}, {pads[0]});",
            f"        const size_t left = edgepv_above(u * {strides[1]}, {pads[1]});",
            f"        const size_t rows = edgepv_least(v * {strides[0]} + {kernel[0]},"
            f" {x.shape[2] + pads[0]}) - {pads[0]} - top;",
            f"        const size_t columns = edgepv_least(u * {strides[1]} + {kernel[1]},"
            f" {x.shape[3] + pads[1]}) - {pads[1]} - left;",
            *(f"        {line}" for line in lines),
            "    }",
        ),
    )


def _padded(
    x: View, kernel: tuple[int, ...], strides: tuple[int, int], pads: tuple[int, int, int, int]
) -> list[tuple[str, int, int, int]]:
    """(start, kernel, length with the padding before, padding behind) of both axes."""
    return [
        (f"v * {strides[0]}", kernel[0], x.shape[2] + pads[0], pads[2]),
        (f"u * {strides[1]}", kernel[1], x.shape[3] + pads[1], pads[3]),
    ]


OPERATORS: Mapping[str, Callable[[Lowering, Node], None]] = MappingProxyType(
    {
        "MaxPool": windowed,
        "AveragePool": windowed,
        "GlobalAveragePool": whole,
        "GlobalMaxPool": whole,
    }
)
