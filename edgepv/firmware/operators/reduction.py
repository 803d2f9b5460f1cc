"""ReduceMean and its like: over places of a ring, over the picture, or over any axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgepv.firmware.graph import Graph, Node
from edgepv.firmware.loops import nest
from edgepv.firmware.numbers import literal
from edgepv.firmware.views import Parts, View, padded, whole_channels

if TYPE_CHECKING:
    from edgepv.firmware.lowering import Lowering

STARTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ReduceMean": ("0.0", "sum += (double)x0[{0}];"),
        "ReduceSum": ("0.0", "sum += (double)x0[{0}];"),
        "ReduceMax": ("-INFINITY", "sum = (double)x0[{0}] < sum ? sum : (double)x0[{0}];"),
        "ReduceMin": ("INFINITY", "sum = (double)x0[{0}] > sum ? sum : (double)x0[{0}];"),
        "ReduceSumSquare": ("0.0", "sum += (double)x0[{0}] * (double)x0[{0}];"),
        "ReduceL2": ("0.0", "sum += (double)x0[{0}] * (double)x0[{0}];"),
    }
)
"""Operator -> (what a sum begins with, how an element is taken in)."""


def axes_of(graph: Graph, node: Node) -> tuple[int, ...]:
    """The axes that a node takes together, from its input or, before opset 18, its attribute."""
    rank = len(graph.shapes[node.inputs[0]])
    given = graph.constant(node, 1)
    axes = node.attributes.get("axes") if given is None else given.reshape(-1).tolist()
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        return ()
    return tuple(sorted(int(axis) % rank for axis in axes)) if axes else tuple(range(rank))


def lower(low: Lowering, node: Node) -> None:
    """Take axes together."""
    axes, value = axes_of(low.graph, node), low.values.get(node.inputs[0])
    each_one = isinstance(value, Parts) and all(v.shape[value.axis] == 1 for v in value.views)
    if (
        isinstance(value, Parts)
        and each_one
        and axes == (value.axis,)
        and node.op in ("ReduceMean", "ReduceSum")
    ):
        _over_parts(low, node, value)
        return
    x, y = low.view(node.inputs[0]), low.result(node.output)
    if node.op == "ReduceMean" and _is_picture(x, y, axes) and not low.graph.codes:
        sizes = f"{padded(x.shape[1])}, {x.shape[2]}, {x.shape[3]}, {x.strides[2]}, {x.strides[3]}"
        low.layer("mean", node.name, (x,), (y,), (f"edgepv_mean({sizes}, x0, y0);",))
        return
    _general(low, node, x, y, axes)


def _over_parts(low: Lowering, node: Node, value: Parts) -> None:
    """Over values that lie apart, such as the places of a ring."""
    y = low.result(node.output)
    first = value.views[0]
    shaped = View(y.buffer, y.offset, first.shape, _with_axes(first.shape, y, (value.axis,)))
    names = [f"x{k}" for k in range(len(value.views))]

    def inner(at: list[str]) -> list[str]:
        if low.graph.codes:  # in double, as _general has it: there is one answer
            total = " + ".join(f"(double){name}[{place}]" for name, place in zip(names, at[1:]))
            share = f" / {len(names)}.0" if node.op == "ReduceMean" else ""
            return [f"y0[{at[0]}] = (float)(({total}){share});"]
        total = " + ".join(f"{name}[{place}]" for name, place in zip(names, at[1:]))
        factor = f" * {literal(1 / len(names))}" if node.op == "ReduceMean" else ""
        return [f"y0[{at[0]}] = ({total}){factor};"]

    lines = nest(first.shape, (shaped.strides, *(v.strides for v in value.views)), inner)
    low.layer("mean", node.name, value.views, (y,), tuple(lines))


def _with_axes(shape: tuple[int, ...], y: View, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an answer under the axes of what was reduced: 0 along those taken together."""
    if len(y.shape) == len(shape):
        return tuple(0 if axis in axes else stride for axis, stride in enumerate(y.strides))
    kept = iter(y.strides)
    return tuple(0 if axis in axes else next(kept) for axis in range(len(shape)))


def _is_picture(x: View, y: View, axes: tuple[int, ...]) -> bool:
    """Whether every channel's mean over one picture is wanted, and vectors fit both."""
    if len(x.shape) != 4 or axes != (2, 3) or x.shape[0] != 1:
        return False
    return whole_channels(x) and y.buffer.values >= padded(x.shape[1]) and y.offset == 0


def _general(low: Lowering, node: Node, x: View, y: View, axes: tuple[int, ...]) -> None:
    """Sums are double: those over a picture are long."""
    strides = _with_axes(x.shape, y, axes)
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    count = math.prod(x.shape[axis] for axis in axes)
    start, take = STARTS[node.op]
    ending = {"ReduceMean": f"sum / {count}.0", "ReduceL2": "sqrt(sum)"}.get(node.op, "sum")

    def inner(at: list[str]) -> list[str]:
        shape = tuple(x.shape[axis] for axis in axes)
        steps = tuple(x.strides[axis] for axis in axes)
        reduced = nest(shape, (steps,), lambda within: [take.format(f"at + {within[0]}")])
        return [
            f"double sum = {start};",
            f"const size_t at = {at[1]};",
            "{", *(_deeper(line) for line in reduced), "}",
            f"y0[{at[0]}] = (float)({ending});",
        ]  # fmt: skip

    over = tuple(x.shape[axis] for axis in kept)
    lines = nest(over, (tuple(strides[a] for a in kept), tuple(x.strides[a] for a in kept)), inner)
    low.layer("reduce", node.name, (x,), (y,), ("{", *lines, "}"))


def _deeper(line: str) -> str:
    """The counters of an inner nest under names of their own."""
    for depth in range(5):
        line = line.replace(f"i{depth}", f"j{depth}")
    return "    " + line


OPERATORS: Mapping[str, Callable[[Lowering, Node], None]] = MappingProxyType(dict.fromkeys(STARTS, lower))
