"""Operators that move, cut, join or map values one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgepv.stream.capture import BATCH_NORM, CLIP_STATISTICS, scale_and_shift
from edgepv.stream.interpreter import GraphInterpreter, rule
from edgepv.stream.times import Clip
from edgepv.stream.values import (
    MAX_RANK,
    Axis,
    RefusedError,
    TimedTensor,
    broadcast_rows,
    constant_rows,
    in_four_dims,
    permute,
    row_dims,
    spread_dims,
    with_last_shape,
)


@rule("clone", "contiguous", "alias", "detach", "dropout", "lift_fresh_copy", "feature_dropout")
def same(walk: GraphInterpreter, x: TimedTensor, *_: object, **__: object) -> TimedTensor:
    """What changes nothing in eval mode."""
    return x


@rule("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty")
def constant_like(walk: GraphInterpreter, x: TimedTensor, *args: Any, **kwargs: Any) -> Tensor:
    """A constant with the shape of a value. What is left empty is overwritten: zeros will do."""
    value = walk.node.meta["val"]
    name = walk.node.target._schema.name
    fill = 1.0 if "ones" in name else float(args[-1]) if "full" in name else 0.0
    return walk.constant("", lambda: torch.full(tuple(value.shape), fill, dtype=value.dtype))


@rule("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten", "unflatten", "view_copy")
def reshaped(walk: GraphInterpreter, x: TimedTensor, *_: object, **__: object) -> TimedTensor:
    """Any change of shape that keeps the order of elements."""
    return walk.reshaped(x)


@rule("permute")
def permuted(walk: GraphInterpreter, x: TimedTensor, order: Sequence[int]) -> TimedTensor:
    """Reordered dimensions."""
    return permute(x, order)


@rule("transpose", "swapaxes")
def transposed(walk: GraphInterpreter, x: TimedTensor, a: int, b: int) -> TimedTensor:
    """Two dimensions exchanged."""
    order = list(range(len(x.dims)))
    order[a], order[b] = order[b], order[a]
    return permute(x, order)


@rule("t")
def matrix_transposed(walk: GraphInterpreter, x: TimedTensor) -> TimedTensor:
    """A matrix transposed."""
    return permute(x, list(reversed(range(len(x.dims)))))


@rule("expand")
def expanded(walk: GraphInterpreter, x: TimedTensor, size: Sequence[int], **_: object) -> TimedTensor:
    """Repeated along dimensions of size one, not along time."""
    dims = tuple(walk.node.meta["val"].shape)
    axis = _at_end(x.axis, len(x.dims), len(dims))
    n = x.n if axis and dims[axis.at] == x.dims[x.axis.at if x.axis else 0] else 1
    if n != x.n or (x.axis is None and dims == x.dims):
        if dims == x.dims:
            return x
        raise RefusedError("repeats one value for all frames of the clip")
    rows = broadcast_rows(x, dims, axis)
    sizes = list(dims)
    if axis:
        sizes[axis.at] = axis.outer * axis.inner
    return TimedTensor(
        rows.expand(len(rows), *(sizes[i] for i in row_dims(dims, axis))), dims, axis, x.n, x.clock
    )


def _at_end(axis: Axis | None, rank: int, wanted: int) -> Axis | None:
    """The axis of a value of ``rank`` dimensions when others are put in front up to ``wanted``."""
    return axis._replace(at=axis.at + wanted - rank) if axis else None


@rule("pointwise")
def pointwise(walk: GraphInterpreter, *args: Any, **kwargs: Any) -> TimedTensor:
    """Any operator that works element by element, broadcasting included."""
    flat = [*args, *kwargs.values()]
    values = [a for a in flat if isinstance(a, TimedTensor)]
    shapes = [shape_of(a) for a in flat if isinstance(a, TimedTensor | Tensor)]
    dims = spread_dims(*shapes)
    axis, n = common_axis(values, len(dims))
    rows, clock = walk.align(values)
    ready = {id(v): broadcast_rows(_with(v, r), dims, axis) for v, r in zip(values, rows)}

    def place(i: int, a: Any) -> Any:
        if isinstance(a, TimedTensor):
            return ready[id(a)]
        return constant(walk, a, dims, axis, n, f"_c{i}") if isinstance(a, Tensor) and a.ndim else a

    placed = [place(i, a) for i, a in enumerate(args)]
    named = {k: place(len(args) + i, a) for i, (k, a) in enumerate(kwargs.items())}
    return TimedTensor(walk.node.target(*placed, **named), dims, axis, n, clock)


def shape_of(x: TimedTensor | Tensor) -> tuple[int, ...]:
    """Shape in the original."""
    return x.dims if isinstance(x, TimedTensor) else tuple(x.shape)


def _with(v: TimedTensor, rows: Tensor) -> TimedTensor:
    return TimedTensor(rows, v.dims, v.axis, v.n, v.clock)


def common_axis(values: Sequence[TimedTensor], rank: int) -> tuple[Axis | None, int]:
    """Where time stands in the result of joining ``values``, and how many positions it has."""
    moving = [v for v in values if v.n > 1]
    chosen = moving or [v for v in values if v.axis] or list(values)
    axes = {_at_end(v.axis, len(v.dims), rank) for v in chosen}
    if len(axes) > 1 and moving:
        raise RefusedError("joins values whose frames stand in different dimensions")
    if len({v.n for v in moving}) > 1:
        raise RefusedError("joins values with different numbers of frames")
    return (next(iter(axes)) if len(axes) == 1 else None), chosen[0].n


def constant(
    walk: GraphInterpreter, c: Tensor, dims: Sequence[int], axis: Axis | None, n: int, suffix: str
) -> Tensor:
    """A constant beside rows. In a stream it may not depend on the position in the clip."""
    rows = walk.constant(suffix, lambda: constant_rows(c, dims, axis, n))
    if len(rows) > 1 and not isinstance(walk.time, Clip):
        raise RefusedError(
            "uses another constant for every position in the clip (a positional embedding)",
            "make it relative to the newest frame, or let the model see time by convolution or recurrence",
        )
    return rows


@rule("prelu")
def prelu(walk: GraphInterpreter, x: TimedTensor, weight: Tensor) -> TimedTensor:
    """A slope per channel for what is below zero."""
    if row_dims(x.dims, x.axis)[0] != 1:
        raise RefusedError("has a slope per frame")
    return _with(x, F.prelu(x.rows, weight))


@rule("glu")
def gated(walk: GraphInterpreter, x: TimedTensor, dim: int = -1) -> TimedTensor:
    """One half of a dimension, each element let through by the other half's."""
    dim %= len(x.dims)
    half = x.dims[dim] // 2
    a, b = (cut(walk, x, dim, i * half, i * half + half) for i in (0, 1))
    (a_rows, b_rows), _ = walk.align([a, b])
    return _with(a, a_rows * torch.sigmoid(b_rows))


@rule(BATCH_NORM[6:])
def batch_norm(walk: GraphInterpreter, x: TimedTensor, *args: Any) -> tuple[TimedTensor]:
    """A batch norm that no convolution took in: one multiply and one add per channel."""
    shape = (-1, *(1,) * (len(x.dims) - 2))
    scale = walk.constant("_scale", lambda: scale_and_shift(*args)[0].reshape(shape))
    shift = walk.constant("_shift", lambda: scale_and_shift(*args)[1].reshape(shape))
    by = constant(walk, scale, x.dims, x.axis, x.n, "_scale_rows")
    plus = constant(walk, shift, x.dims, x.axis, x.n, "_shift_rows")
    return (_with(x, x.rows * by + plus),)


@rule("_native_batch_norm_legit", "native_batch_norm", "_native_batch_norm_legit_functional", "batch_norm")
def clip_statistics(walk: GraphInterpreter, x: TimedTensor, *_: object) -> TimedTensor:
    """Batch norm on the statistics of the clip itself."""
    raise RefusedError(*CLIP_STATISTICS)


def sliced(
    walk: GraphInterpreter,
    x: TimedTensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> TimedTensor:
    """A range of one dimension; of time it is only another name for the same rows."""
    dim %= len(x.dims)
    a, b, step = slice(start, end, step).indices(x.dims[dim])
    return cut(walk, x, dim, a, b, step)


def cut(walk: GraphInterpreter, x: TimedTensor, dim: int, start: int, end: int, step: int = 1) -> TimedTensor:
    """Elements start, start + step, ... below end of dimension ``dim``."""
    count = len(range(start, end, step))
    timed = x.axis is not None and dim == x.axis.at
    if count == x.dims[dim] and not (timed and step > 1):
        return x
    if timed and x.axis:
        return _cut_in_time(walk, x, start, end, step)
    dims = (*x.dims[:dim], count, *x.dims[dim + 1 :])
    order = kept_with(x.dims, x.axis, dim)
    at = order.index(dim)
    sizes = [x.sizes[d] for d in order]
    if len(sizes) < MAX_RANK:
        rows = with_last_shape(x.rows, sizes)[(slice(None),) * (at + 1) + (slice(start, end, step),)]
    else:
        flat = x.rows.reshape(-1, sizes[at], math.prod(sizes[at + 1 :]))
        rows = flat[:, start:end:step].reshape(len(x.rows), -1)
    return TimedTensor(in_four_dims(rows, dims, x.axis), dims, x.axis, x.n, x.clock)


def _cut_in_time(walk: GraphInterpreter, x: TimedTensor, start: int, end: int, step: int) -> TimedTensor:
    """Frames of a clip. Where a frame has several elements in that dimension, only whole frames are cut."""
    assert x.axis
    _, outer, inner = x.axis
    if outer * inner == 1:
        return walk.time.relabel(x, start, step, len(range(start, end, step)))
    if outer > 1 or step > 1 or start % inner or end % inner:
        raise RefusedError(
            "cuts a dimension that holds frames and something else, not between two frames",
            "cut whole frames, or cut before frames are stacked",
        )
    return walk.time.relabel(x, start // inner, 1, (end - start) // inner)


def kept_with(dims: Sequence[int], axis: Axis | None, dim: int) -> list[int]:
    """``row_dims``, and ``dim`` in any case."""
    return sorted({*row_dims(dims, axis), dim})


def _full(rows: Tensor, sizes: Sequence[int], axis: Axis | None, dim: int) -> Tensor:
    """Rows with dimension ``dim`` present even if it is a batch of one."""
    dims = list(sizes)
    return with_last_shape(rows, [dims[i] for i in kept_with(dims, axis, dim)])


@rule("select", "select_copy")
def selected(walk: GraphInterpreter, x: TimedTensor, dim: int, index: int) -> TimedTensor:
    """One element of a dimension, which is dropped."""
    dim %= len(x.dims)
    index %= x.dims[dim]
    return without(cut(walk, x, dim, index, index + 1), dim)


def without(x: TimedTensor, dim: int) -> TimedTensor:
    """Drop a dimension of size one."""
    dims = (*x.dims[:dim], *x.dims[dim + 1 :])
    axis = x.axis
    if axis and axis.at == dim:
        axis = None
    elif axis and axis.at > dim:
        axis = axis._replace(at=axis.at - 1)
    return TimedTensor(in_four_dims(x.rows, dims, axis), dims, axis, x.n, x.clock)


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unbind", "split_copy", "unbind_copy")
def pieces(walk: GraphInterpreter, x: TimedTensor, *_: object, **__: object) -> list[TimedTensor]:
    """Consecutive ranges of one dimension."""
    shapes = [tuple(v.shape) for v in walk.node.meta["val"]]
    unbound = len(shapes[0]) < len(x.dims)
    arguments = [*walk.node.args[1:], *walk.node.kwargs.values()]
    dim = (arguments[0] if arguments else 0) if unbound else (arguments[1] if len(arguments) > 1 else 0)
    dim = int(dim) % len(x.dims)
    parts, at = [], 0
    for shape in shapes:
        size = 1 if unbound else shape[dim]
        part = cut(walk, x, dim, at, at + size)
        parts.append(without(part, dim) if unbound else part)
        at += size
    return parts


@rule("cat", "concat", "concatenate")
def joined(walk: GraphInterpreter, parts: Sequence[Any], dim: int = 0) -> Any:
    """Values side by side in one dimension."""
    parts = [p for p in parts if not (isinstance(p, Tensor) and p.numel() == 0)]
    rank = len(parts[0].dims if isinstance(parts[0], TimedTensor) else parts[0].shape)
    dim %= rank
    values = [p for p in parts if isinstance(p, TimedTensor)]
    alone = len(values) == 1 < len(parts)  # one frame between constants
    if any(v.axis and v.axis.at == dim and (v.n > 1 or alone) for v in values):
        return _in_time(walk, parts, dim)
    if len(values) == len(parts) > 1 and (series := _series(walk, values, dim)):
        return series
    axis, n = common_axis(values, rank)
    axis = None if axis and axis.at == dim else axis  # pooled values: their time becomes a plain dimension
    rows, clock = walk.align(values)
    sizes = [list(p.sizes) if isinstance(p, TimedTensor) else list(p.shape) for p in parts]
    dims = list(next(v for v in values if v.n == n).dims)
    dims[dim] = sum(s[dim] for s in sizes)
    order = kept_with(dims, axis, dim) if dims[dim] > 1 or dim else row_dims(dims, axis)
    at, height = order.index(dim), max(len(r) for r in rows)
    aligned = iter(rows)
    laid = []
    for i, part in enumerate(parts):
        if isinstance(part, TimedTensor):
            laid.append(_around(next(aligned), [sizes[i][d] for d in order], at))
        else:
            shape = [*dims[:dim], sizes[i][dim], *dims[dim + 1 :]]
            c = constant(walk, part, shape, axis, n, f"_c{i}")
            if axis:
                shape[axis.at] = axis.outer * axis.inner
            laid.append(_around(c.expand(height, *c.shape[1:]), [shape[d] for d in order], at))
    whole = torch.cat(laid, at + 1 if len(order) < MAX_RANK else 2)
    return TimedTensor(in_four_dims(whole, dims, axis), tuple(dims), axis, n, clock)


def _around(rows: Tensor, shape: Sequence[int], at: int) -> Tensor:
    """Rows of that shape; where it has too many dimensions, those before ``at`` and the others joined."""
    if len(shape) < MAX_RANK:
        return with_last_shape(rows, shape)
    return rows.reshape(len(rows), math.prod(shape[:at]), math.prod(shape[at:]))


@rule("stack")
def stacked(walk: GraphInterpreter, parts: Sequence[Any], dim: int = 0) -> Any:
    """Values side by side in a new dimension."""
    rank = len(parts[0].dims if isinstance(parts[0], TimedTensor) else parts[0].shape) + 1
    dim %= rank
    return joined(walk, [with_one(p, dim) for p in parts], dim)


def with_one(x: Any, dim: int) -> Any:
    """``x`` with a dimension of size one put in."""
    if isinstance(x, Tensor):
        return x.unsqueeze(dim)
    dims = (*x.dims[:dim], 1, *x.dims[dim:])
    axis = x.axis._replace(at=x.axis.at + (x.axis.at >= dim)) if x.axis else None
    return TimedTensor(in_four_dims(x.rows, dims, axis), dims, axis, x.n, x.clock)


def _series(walk: GraphInterpreter, parts: Sequence[TimedTensor], dim: int) -> TimedTensor | None:
    """The frames of a loop put together again: one value, each part a constant time after the last."""
    first = parts[0]
    gaps = {b.clock.ready - a.clock.ready for a, b in pairwise(parts)}
    alike = all(p.n == 1 and p.dims == first.dims for p in parts)
    if not alike or len(gaps) != 1 or min(gaps) <= 0:
        return None
    if isinstance(walk.time, Clip):
        rows = torch.cat([p.rows for p in parts])
    elif walk.fact("series", lambda: all(_view_of_same(p.rows, first.rows) for p in parts)):
        rows = first.rows
    else:
        return None
    n = len(parts)
    clean = [i for i, p in enumerate(parts) if p.clock.clean[0] <= p.clock.clean[1]]
    clock = replace(first.clock, period=gaps.pop(), clean=(clean[0], clean[-1]) if clean else (n, -1))
    dims = (*first.dims[:dim], n * first.dims[dim], *first.dims[dim + 1 :])
    axis = Axis(dim, 1, first.dims[dim])
    return TimedTensor(in_four_dims(rows, dims, axis), dims, axis, n, clock)


def _view_of_same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.stride() == b.stride()


TOKEN = (
    "puts something learned beside the frames of the clip (a class token)",
    "read the answer off the frames' own tokens, and let attention over time look back only (a causal mask)",
)
BEHIND = (
    "puts frames of different origin one after the other",
    "shift with zeros or older frames, and keep each frame's place in the clip",
)


def _in_time(walk: GraphInterpreter, parts: Sequence[Any], dim: int) -> TimedTensor:
    """Parts one after the other in time: the longest gives the law, the others stand at the clip's ends."""
    lengths = [p.n if isinstance(p, TimedTensor) else p.shape[dim] for p in parts]
    main = max(range(len(parts)), key=lambda i: (isinstance(parts[i], TimedTensor), lengths[i]))
    v: TimedTensor = parts[main]
    total = sum(lengths)
    start = sum(lengths[:main])
    if v.axis and v.axis.outer * v.axis.inner > 1:
        learned = all(isinstance(p, Tensor) for i, p in enumerate(parts) if i != main)
        raise RefusedError(*(TOKEN if learned else BEHIND))
    taps = walk.gather(v, [0], n=total, first=-start)
    if not isinstance(walk.time, Clip):
        others = [p for i, p in enumerate(parts) if i != main]
        if walk.fact("tail", lambda: any(isinstance(p, TimedTensor) or bool(p.any()) for p in others)):
            learned = all(isinstance(p, Tensor) for p in others)
            raise RefusedError(*(TOKEN if learned else BEHIND))
        return v.with_rows(taps.each()[0], taps.clock, total)
    dims = (*v.dims[:dim], 1, *v.dims[dim + 1 :])
    rows = [
        p.rows if isinstance(p, TimedTensor) else _every(constant_rows(p, dims, v.axis, size), size)
        for p, size in zip(parts, lengths)
    ]
    return v.with_rows(torch.cat(rows), taps.clock, total)


def _every(rows: Tensor, n: int) -> Tensor:
    return rows.expand(n, *rows.shape[1:])


@rule("constant_pad_nd", "pad")
def padded(walk: GraphInterpreter, x: TimedTensor, pads: Sequence[int], *rest: Any) -> TimedTensor:
    """Padding with a constant; of time it is only another name for the same rows (in a stream)."""
    mode = next((r for r in rest if isinstance(r, str)), "constant")
    value = next((float(r) for r in rest if isinstance(r, int | float)), 0.0)
    pairs = {len(x.dims) - 1 - i: (pads[2 * i], pads[2 * i + 1]) for i in range(len(pads) // 2)}
    if x.axis and any(pairs.get(x.axis.at, (0, 0))):
        left, right = pairs[x.axis.at]
        if mode != "constant" or min(left, right) < 0 or x.axis.outer * x.axis.inner > 1:
            raise RefusedError("pads time with something else than a constant", "pad with zeros")
        taps = walk.gather(x, [0], n=x.n + left + right, first=-left, fill=value)
        x = x.with_rows(taps.each()[0], taps.clock, x.n + left + right)
    rest_pads = {d: p for d, p in pairs.items() if any(p) and not (x.axis and d == x.axis.at)}
    if not rest_pads:
        return x
    lowest = min(rest_pads)
    order = kept_with(x.dims, x.axis, lowest)
    flat: list[int] = []
    for d in reversed([d for d in order if d >= lowest]):
        flat += rest_pads.get(d, (0, 0))
    rows = F.pad(_full(x.rows, x.sizes, x.axis, lowest), flat, mode, value if mode == "constant" else None)
    dims = tuple(s + sum(rest_pads.get(d, (0, 0))) for d, s in enumerate(x.dims))
    return TimedTensor(rows, dims, x.axis, x.n, x.clock)


@rule("flip")
def flipped(walk: GraphInterpreter, x: TimedTensor, dims: Sequence[int]) -> TimedTensor:
    """Dimensions of a frame in reverse order."""
    rows = x.rows
    for dim in (d % len(x.dims) for d in dims):
        if x.axis and x.axis.at == dim and x.n > 1:
            raise RefusedError(
                "runs the clip backwards, so the first answer needs the last frame",
                "leave out what reads the clip from its end (a backward pass)",
            )
        behind = math.prod(x.sizes[dim + 1 :])
        rows = rows.reshape(-1, x.sizes[dim], behind).flip(1).reshape(rows.shape)
    return _with(x, rows)


@rule("roll")
def rolled(
    walk: GraphInterpreter, x: TimedTensor, shifts: Sequence[int], dims: Sequence[int] = ()
) -> TimedTensor:
    """Rolled along dimensions. Along time, what comes in at one end of a clip is its other end."""
    for shift, dim in zip(shifts, dims):
        dim %= len(x.dims)
        at = -shift % x.dims[dim]
        if at:
            x = joined(walk, [cut(walk, x, dim, at, x.dims[dim]), cut(walk, x, dim, 0, at)], dim)
    return x


@rule("index_select")
def picked(walk: GraphInterpreter, x: TimedTensor, dim: int, index: Any) -> TimedTensor:
    """Elements of a dimension; of time in a stream evenly spaced ones."""
    if not isinstance(index, Tensor):
        raise RefusedError("picks elements by what the video shows", "pick them by their place")
    dim %= len(x.dims)
    places = walk.fact("places", index.flatten().tolist)
    gaps = {b - a for a, b in pairwise(places)} or {1}
    if len(gaps) == 1 and min(gaps) > 0 and places[0] >= 0:
        return cut(walk, x, dim, places[0], places[-1] + 1, gaps.pop())
    if not (x.axis and x.axis.at == dim and x.n > 1):
        pieces = [cut(walk, x, dim, i % x.dims[dim], i % x.dims[dim] + 1) for i in places]
        row: TimedTensor = joined(walk, pieces, dim)
        return row
    if x.axis.outer * x.axis.inner > 1 or not isinstance(walk.time, Clip):
        raise RefusedError(f"picks frames that are not evenly spaced: {_named(places)}", _even(places))
    return x.with_rows(x.rows[places], x.clock, len(places))


def _named(places: Sequence[int]) -> str:
    return ", ".join(map(str, places[:8])) + (", ..." if len(places) > 8 else "")


def _even(places: Sequence[int]) -> str:
    """The nearest even spacing, as a cure."""
    step = (places[-1] - places[0]) // max(1, len(places) - 1)
    if step < 1:
        return "take each frame once, in their order"
    spaced = range(places[0], places[0] + step * len(places), step)
    return f"take every {step}{_th(step)} frame, x[:, :, ::{step}], here {_named(spaced)}, as a stream does"


def _th(count: int) -> str:
    return {1: "st", 2: "nd", 3: "rd"}.get(count, "th")


@rule("index")
def indexed(walk: GraphInterpreter, x: TimedTensor, indices: Sequence[Any]) -> TimedTensor:
    """``x[:, :, places]`` with one list of places."""
    (dim, *more) = [d for d, i in enumerate(indices) if i is not None]
    if more or getattr(indices[dim], "ndim", 0) != 1:
        raise RefusedError("picks elements by several lists of places")
    return picked(walk, x, dim, indices[dim])


@rule("repeat")
def repeated(walk: GraphInterpreter, x: TimedTensor, times: Sequence[int]) -> TimedTensor:
    """Repeated along dimensions other than time."""
    for dim, count in enumerate(times):
        if count > 1:
            if len(times) != len(x.dims) or (x.axis and dim == x.axis.at):
                raise RefusedError("repeats along time or new dimensions")
            x = joined(walk, [x] * count, dim)
    return x


@rule("_to_copy", "to", "type_as")
def converted(walk: GraphInterpreter, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Another dtype."""
    dtype = walk.node.meta["val"].dtype
    if isinstance(x, Tensor):
        return walk.constant("", lambda: x.to(dtype))
    return x if x.rows.dtype == dtype else _with(x, x.rows.to(dtype))


for _name in (
    "relu", "relu6", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "selu",
    "celu", "mish", "softplus", "sigmoid", "tanh", "log_sigmoid", "softsign", "_prelu_kernel", "where",
):  # fmt: skip
    rule(_name)(pointwise)
