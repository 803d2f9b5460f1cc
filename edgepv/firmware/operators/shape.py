"""Operators that compute nothing: most of them are another look at the same memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgepv.firmware.graph import Node
from edgepv.firmware.loops import nest
from edgepv.firmware.states import RESHAPES, slice_of
from edgepv.firmware.views import Buffer, Parts, Shape, View, plain

if TYPE_CHECKING:
    from edgepv.firmware.lowering import Lowering


def reshape(low: Lowering, node: Node) -> None:
    """The same values under another shape; copied where they do not lie so."""
    shape = low.graph.shapes[node.output]
    value = low.values.get(node.inputs[0])
    parts = _reshaped_parts(value, shape) if isinstance(value, Parts) else None
    if parts is not None:
        low.values[node.output] = parts
        return
    view = low.view(node.inputs[0])
    looked_at = view.reshape(shape)
    if looked_at is not None:
        low.values[node.output] = looked_at
        return
    target = low.result(node.output)
    other = target.reshape(view.shape)
    if other is None:  # it lies in rows neither here nor there
        between = Buffer(node.name, "arena", math.prod(shape), ctype=view.buffer.ctype)
        other = plain(between, view.shape)
        low.copy(node.name, view, other)
        view, other = plain(other.buffer, shape), target
    low.copy(node.name, view, other)


def _reshaped_parts(value: Parts, shape: Shape) -> Parts | None:
    """Parts under another shape, where the new axis they lie along is as outermost as the old one."""
    whole, count = value.shape, len(value.views)
    alike = all(view.shape == value.views[0].shape for view in value.views)
    if math.prod(whole[: value.axis]) != 1 or not alike:
        return None
    for axis, length in enumerate(shape):
        if math.prod(shape[:axis]) == 1 and length % count == 0:
            part = (*shape[:axis], length // count, *shape[axis + 1 :])
            views = [view.reshape(part) for view in value.views]
            return Parts(axis, tuple(v for v in views if v)) if None not in views else None
    return None


def transpose(low: Lowering, node: Node) -> None:
    """The axes in another order."""
    rank = len(low.graph.shapes[node.inputs[0]])
    order = node.attributes.get("perm") or list(range(rank))[::-1]
    value = low.values.get(node.inputs[0])
    if isinstance(value, Parts):
        views = tuple(view.transpose(order) for view in value.views)
        low.values[node.output] = Parts(list(order).index(value.axis), views)
        return
    low.values[node.output] = low.view(node.inputs[0]).transpose(order)


def concat(low: Lowering, node: Node) -> None:
    """Values that lie apart stay where they are, until someone needs them in one piece."""
    rank = len(low.graph.shapes[node.output])
    axis = int(node.attributes["axis"]) % rank
    views: list[View] = []
    for name in node.inputs:
        value = low.values.get(name)
        apart = isinstance(value, Parts) and value.axis == axis
        views += value.views if isinstance(value, Parts) and apart else [low.view(name)]
    low.values[node.output] = Parts(axis, tuple(views))


def cut(low: Lowering, node: Node) -> None:
    """Slice: a part of each axis."""
    cuts, value = slice_of(low.graph, node), low.values.get(node.inputs[0])
    if isinstance(value, Parts) and list(cuts) == [value.axis]:
        start, length, step = cuts[value.axis]
        if step == 1 and all(view.shape[value.axis] == 1 for view in value.views):
            low.values[node.output] = Parts(value.axis, value.views[start : start + length])
            return
    view = low.view(node.inputs[0])
    for axis, (start, length, step) in cuts.items():
        view = view.slice(axis, start, length, step)
    low.values[node.output] = view


def split(low: Lowering, node: Node) -> None:
    """Split: one axis in pieces."""
    view = low.view(node.inputs[0])
    axis, at = int(node.attributes.get("axis", 0)) % len(view.shape), 0
    for name in node.outputs:
        length = low.graph.shapes[name][axis]
        low.values[name] = view.slice(axis, at, length)
        at += length


def gather(low: Lowering, node: Node) -> None:
    """Gather by constant indices: entries of one axis, one after another."""
    view, indices = low.view(node.inputs[0]), low.graph.constant(node, 1)
    assert indices is not None
    axis = int(node.attributes.get("axis", 0)) % len(view.shape)
    if indices.ndim > 1:
        raise node.refusal(f"its indices are {indices.shape}, and only one axis of them is known")
    entries = [view.slice(axis, int(i) % view.shape[axis], 1) for i in indices.reshape(-1)]
    if indices.ndim == 1:
        low.values[node.output] = Parts(axis, tuple(entries))
        return
    only = entries[0]
    shape, strides = only.shape, only.strides
    low.values[node.output] = replace(
        only, shape=shape[:axis] + shape[axis + 1 :], strides=strides[:axis] + strides[axis + 1 :]
    )


def expand(low: Lowering, node: Node) -> None:
    """Repeated along axes, by strides of 0."""
    low.values[node.output] = low.view(node.inputs[0]).broadcast(low.graph.shapes[node.output])


def pad(low: Lowering, node: Node) -> None:
    """Pad: a constant around."""
    x, pads = low.view(node.inputs[0]), low.graph.constant(node, 1)
    fill, axes = low.graph.constant(node, 2), low.graph.constant(node, 3)
    mode = node.attributes.get("mode", b"constant")
    if mode != b"constant" or axes is not None or pads is None or (pads < 0).any():
        raise node.refusal(f"it pads by '{mode.decode()}' or some axes; only a constant around all is known")
    y = low.result(node.output)
    value = 0.0 if fill is None else float(fill.reshape(-1)[0])
    lines = nest(y.shape, (y.strides,), lambda at: [f"y0[{at[0]}] = {value!r}f;"])
    inside = y
    for axis, before in enumerate(pads[: len(x.shape)].tolist()):
        inside = inside.slice(axis, before, x.shape[axis])
    start = f" + {inside.offset - y.offset}"
    lines += nest(x.shape, (inside.strides, x.strides), lambda at: [f"y0[{at[0]}{start}] = x0[{at[1]}];"])
    low.layer("pad", node.name, (x,), (y,), tuple(lines))


def depth_to_space(low: Lowering, node: Node) -> None:
    """Channels become pixels: a copy between two looks at the same values."""
    x = low.view(node.inputs[0])
    n, channels, height, width = x.shape
    size = int(node.attributes["blocksize"])
    depth = channels // (size * size)
    first = node.attributes.get("mode", b"DCR") == b"CRD"
    inner = (depth, size, size) if first else (size, size, depth)
    order = (0, 1, 4, 2, 5, 3) if first else (0, 3, 4, 1, 5, 2)
    y = low.result(node.output)
    source = x.reshape((n, *inner, height, width))
    target = y.reshape((n, depth, height, size, width, size))
    if source is None or target is None:
        raise AssertionError(node.name)  # axes are only cut, never merged
    low.copy(node.name, source.transpose(order), target)


OPERATORS: Mapping[str, Callable[[Lowering, Node], None]] = MappingProxyType(
    {
        **dict.fromkeys(RESHAPES, reshape),
        "Transpose": transpose,
        "Concat": concat,
        "Slice": cut,
        "Split": split,
        "Gather": gather,
        "Expand": expand,
        "Pad": pad,
        "DepthToSpace": depth_to_space,
    }
)
