"""Operators that look at a neighbourhood: convolution, pooling, reduction, products of matrices, norms."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgepv.stream.interpreter import GraphInterpreter, rule
from edgepv.stream.rules.running import means
from edgepv.stream.rules.shape import common_axis, constant
from edgepv.stream.times import Clip
from edgepv.stream.values import (
    Axis,
    RefusedError,
    TimedTensor,
    along,
    in_time,
    last_dims,
    row_dims,
    row_shape,
    spread_dims,
    with_last_dims,
    with_last_shape,
)

CONVOLVE: tuple[Callable[..., Tensor] | None, ...] = (None, F.conv1d, F.conv2d)


def _each(value: int | Sequence[int], count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


@rule("conv1d", "conv2d", "conv3d", "convolution")
def convolution(
    walk: GraphInterpreter,
    x: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> TimedTensor:
    """A convolution: plain per row, or over time as a 2-D convolution of the rows its kernel spans.

    Source: a k x h x w kernel on C channels equals an h x w kernel on k * C channels.
    """
    if not isinstance(x, TimedTensor) or not isinstance(weight, Tensor):
        raise RefusedError(
            "convolves with weights that are made from the video (a kernel per clip)",
            "give it weights that stay the same",
        )
    count = weight.ndim - 2
    stride, dilation = _each(stride, count), _each(dilation, count)
    kernel = list(weight.shape[2:])
    pads = _pads(padding, kernel, dilation)
    if len(x.dims) != count + 2:
        raise RefusedError("convolves a tensor without a batch dimension")
    weight, bias = _with_norm(walk, weight, bias)
    channel = len(x.dims) - count - 1
    at = x.axis.at if x.axis else -1
    if at == channel and x.n > 1:
        return _time_in_channels(walk, x, weight, bias, stride, pads, dilation, groups)
    if at > channel:
        return _over_time(walk, x, weight, bias, (stride, pads, dilation, groups), at - channel - 1)
    if count > 2:
        raise RefusedError("convolves a volume without time")
    convolve = CONVOLVE[count]
    assert convolve
    rows = last_dims(x, count + 1)
    features = convolve(_padded_sides(rows, pads), weight, bias, stride, _common(pads), dilation, groups)
    return with_last_dims(x, features, features.shape[1:], count + 1)


def _pads(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) per dimension; "same" puts the odd one after, as torch does."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in _each(padding, len(kernel))]


def _common(pads: Sequence[tuple[int, int]]) -> list[int]:
    return [min(p) for p in pads]


def _padded_sides(rows: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
    extra = [side - min(p) for p in reversed(pads) for side in p]
    return F.pad(rows, extra) if any(extra) else rows


def _with_norm(walk: GraphInterpreter, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weights with the batch norm behind this convolution folded in."""
    affine = walk.graph.affine.get(walk.node.name)
    if affine is None:
        return weight, bias
    scale, shift = affine
    folded = walk.constant("_weight", lambda: weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)))
    return folded, walk.constant("_bias", lambda: shift + (0.0 if bias is None else bias * scale))


def _over_time(
    walk: GraphInterpreter, x: TimedTensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...], t: int
) -> TimedTensor:
    """The kernel's dimension ``t`` runs over time, the others over what is left."""
    stride, pads, dilation, groups = how
    if math.prod(row_shape(x.dims, x.axis)) != math.prod(x.sizes[1:]) or x.axis != Axis(t + 2):
        raise RefusedError("convolves frames that share a dimension with something else")
    dims = tuple(walk.node.meta["val"].shape)
    taps = walk.gather(
        x,
        [dilation[t] * j for j in range(weight.shape[2 + t])],
        n=dims[2 + t],
        stride=stride[t],
        first=-pads[t][0],
    )
    rest = [[v for i, v in enumerate(vs) if i != t] for vs in (stride, pads, dilation)]
    features = _in_space(walk, taps, weight.movedim(2 + t, 2), bias, rest, groups)
    return TimedTensor(features, dims, x.axis, dims[2 + t], taps.clock)


def _in_space(
    walk: GraphInterpreter, taps: Any, weight: Tensor, bias: Tensor | None, rest: Sequence[Any], groups: int
) -> Tensor:
    """weight: (O, I / groups, k, *space). Dense: taps become channels. Grouped: one convolution a tap."""
    k = weight.shape[2]
    if groups > 1 and k > 1:
        parts = [
            _one(tap, walk.constant(f"_tap{j}", lambda j=j: weight[:, :, j]), None, rest, groups)  # type: ignore[misc]
            for j, tap in enumerate(taps.each()[:-1])
        ]
        last = walk.constant("_last", lambda: weight[:, :, -1])
        features = _one(taps.each()[-1], last, bias, rest, groups)
        for part in parts:
            features = features + part
        return features
    if k == 1:
        flat = walk.constant("_flat", lambda: weight[:, :, 0])
        return _one(taps.each()[0], flat, bias, rest, groups)
    flat = walk.constant("_flat", lambda: weight.transpose(1, 2).flatten(1, 2))
    seen = taps.stacked()
    return _one(seen.reshape(len(seen), -1, *taps.joined.shape[2:]), flat, bias, rest, 1)


def _one(rows: Tensor, weight: Tensor, bias: Tensor | None, rest: Sequence[Any], groups: int) -> Tensor:
    """One convolution over the dimensions that are not time; none of them left is a linear layer."""
    stride, pads, dilation = rest
    convolve = CONVOLVE[weight.ndim - 2]
    if convolve:
        return convolve(_padded_sides(rows, pads), weight, bias, stride, _common(pads), dilation, groups)
    if groups == 1:
        return F.linear(rows, weight, bias)
    return F.conv1d(rows.unsqueeze(2), weight.unsqueeze(2), bias, groups=groups).squeeze(2)


def _time_in_channels(
    walk: GraphInterpreter,
    x: TimedTensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    pads: Any,
    dilation: Any,
    groups: int,
) -> TimedTensor:
    """A 2-D convolution whose channels are all frames of the clip: a window over them."""
    if groups > 1 or len(stride) > 2:
        raise RefusedError("convolves frames stacked into channels, in groups")
    assert x.axis
    _, outer, inner = x.axis
    taps = walk.gather(x, range(x.n), n=1)
    seen = taps.stacked()  # (m, n, outer * inner * space)
    seen = seen.reshape(len(seen), -1, *x.sizes[x.axis.at + 1 :])
    flat = walk.constant(
        "_flat",
        lambda: (
            weight.reshape(len(weight), outer, x.n, inner, *weight.shape[2:]).transpose(1, 2).flatten(1, 3)
        ),
    )
    features = _one(seen, flat, bias, (stride, pads, dilation), 1)
    return TimedTensor(features, tuple(walk.node.meta["val"].shape), None, 1, taps.clock)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(
    walk: GraphInterpreter,
    x: TimedTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> TimedTensor:
    """Transposed convolution in space; a kernel of one over time is allowed."""
    count = weight.ndim - 2
    stride, padding, extra, dilation = (_each(v, count) for v in (stride, padding, output_padding, dilation))
    weight, bias = _transposed_norm(walk, weight, bias, groups)
    if count == 3:
        if x.axis != Axis(2) or (weight.shape[2], stride[0], padding[0], extra[0]) != (1, 1, 0, 0):
            raise RefusedError("makes new frames in between", "enlarge in space only")
        flat = walk.constant("_flat", lambda: weight[:, :, 0])
        features = F.conv_transpose2d(
            x.rows, flat, bias, stride[1:], padding[1:], extra[1:], groups, dilation[1:]
        )
        return TimedTensor(features, tuple(walk.node.meta["val"].shape), x.axis, x.n, x.clock)
    enlarge = F.conv_transpose1d if count == 1 else F.conv_transpose2d
    features = enlarge(last_dims(x, count + 1), weight, bias, stride, padding, extra, groups, dilation)
    return with_last_dims(x, features, features.shape[1:], count + 1)


def _transposed_norm(
    walk: GraphInterpreter, weight: Tensor, bias: Tensor | None, groups: int
) -> tuple[Tensor, Tensor | None]:
    affine = walk.graph.affine.get(walk.node.name)
    if affine is None:
        return weight, bias
    scale, shift = affine
    shape = (groups, 1, -1, *(1,) * (weight.ndim - 2))
    folded = walk.constant(
        "_weight",
        lambda: (weight.unflatten(0, (groups, -1)) * scale.reshape(shape)).flatten(0, 1),
    )
    return folded, walk.constant("_bias", lambda: shift + (0.0 if bias is None else bias * scale))


@rule("linear")
def linear(walk: GraphInterpreter, x: TimedTensor, weight: Tensor, bias: Tensor | None = None) -> TimedTensor:
    """A linear layer; over a dimension that holds frames it is a window over them."""
    last = len(x.dims) - 1
    if x.axis and x.axis.at == last and x.n > 1:
        return _linear_over_time(walk, x, weight, bias)
    dims = (*x.dims[:last], len(weight))
    rows = with_last_shape(x.rows, [x.sizes[i] for i in sorted({*row_dims(x.dims, x.axis), last})])
    return TimedTensor(F.linear(rows, weight, bias), dims, _before(x.axis, last), x.n, x.clock)


def _before(axis: Axis | None, dim: int) -> Axis | None:
    return axis if axis and axis.at < dim else None


def _linear_over_time(
    walk: GraphInterpreter, x: TimedTensor, weight: Tensor, bias: Tensor | None
) -> TimedTensor:
    assert x.axis
    at, outer, inner = x.axis
    rest = math.prod(x.dims[:at])
    taps = walk.gather(x, range(x.n), n=1)
    seen = taps.stacked().reshape(-1, x.n, rest, outer * inner)
    flat = walk.constant(
        "_flat", lambda: weight.reshape(len(weight), outer, x.n, inner).transpose(1, 2).flatten(1)
    )
    projected = F.linear(seen.transpose(1, 2).reshape(-1, rest, x.n * outer * inner), flat, bias)
    dims = (*x.dims[:at], len(weight))
    return TimedTensor(with_last_shape(projected, row_shape(dims, None)), dims, None, 1, taps.clock)


@rule("addmm")
def addmm(walk: GraphInterpreter, bias: Tensor, x: TimedTensor, weight: Tensor, **_: object) -> TimedTensor:
    """A linear layer in its older form."""
    return linear(walk, x, walk.constant("_t", lambda: weight.t()), bias)


@rule("matmul", "mm", "bmm")
def product(walk: GraphInterpreter, a: Any, b: Any) -> TimedTensor:
    """Products of matrices, frame by frame."""
    for v in (a, b):
        if isinstance(v, TimedTensor) and v.axis and v.n > 1 and v.axis.at >= len(v.dims) - 2:
            if v is a and isinstance(b, Tensor) and b.ndim == 2 and v.axis.at == len(v.dims) - 2:
                continue
            raise RefusedError(
                "multiplies frames with frames (attention over time, spelled out)",
                "write it with torch.nn.functional.scaled_dot_product_attention and a causal mask",
            )
    if isinstance(a, TimedTensor) and isinstance(b, Tensor) and b.ndim == 2:
        return linear(walk, a, walk.constant("_t", lambda: b.t()))
    return _paired(walk, a, b, torch.matmul)


def _paired(walk: GraphInterpreter, a: Any, b: Any, function: Callable[..., Tensor]) -> TimedTensor:
    """``function`` of two tensors whose last two dimensions are matrices."""
    values = [v for v in (a, b) if isinstance(v, TimedTensor)]
    shapes = [v.dims if isinstance(v, TimedTensor) else tuple(v.shape) for v in (a, b)]
    lead = spread_dims(*(s[:-2] for s in shapes)) if max(map(len, shapes)) > 2 else ()
    dims = (*lead, shapes[0][-2], shapes[1][-1])
    axis, n = common_axis(values, len(dims))
    rows, clock = walk.align(values)
    given = iter(rows)
    parts = []
    for i, v in enumerate((a, b)):
        tail = shapes[i][-2:]
        if isinstance(v, Tensor):
            sizes = [*(1,) * (len(dims) - v.ndim), *v.shape]
            c = constant(walk, v, sizes, axis, n, f"_c{i}")
            order = [d for d in row_dims(dims, axis) if d < len(lead)]
            parts.append(c.reshape(len(c), *(sizes[d] for d in order), *tail))
            continue
        sizes = [*(1,) * (len(dims) - len(v.dims)), *v.sizes]
        order = [d for d in row_dims(dims, axis) if d < len(lead)]
        parts.append(with_last_shape(next(given), [*(sizes[d] for d in order), *tail]))
    products = function(*parts)
    return TimedTensor(with_last_shape(products, row_shape(dims, axis)), dims, axis, n, clock)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def along_one(walk: GraphInterpreter, x: TimedTensor, dim: int, *args: Any) -> TimedTensor:
    """Operators along one dimension that is not time."""
    dim %= len(x.dims)
    if in_time(x, dim):
        raise RefusedError("works across the frames of the clip", "let it work inside each frame")
    return replace(x, rows=walk.node.target(along(x, dim), 1, *args).reshape(x.rows.shape))


@rule("layer_norm", "native_layer_norm")
def layer_norm(
    walk: GraphInterpreter,
    x: TimedTensor,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: object,
) -> Any:
    """Layer norm over dimensions that do not hold frames."""
    try:
        rows = last_dims(x, len(shape))
    except RefusedError as e:
        raise RefusedError("normalises over all frames of the clip", "normalise every frame by itself") from e
    normed = with_last_dims(x, F.layer_norm(rows, list(shape), weight, bias, eps), shape, len(shape))
    return (normed,) if walk.node.target._schema.name == "aten::native_layer_norm" else normed


@rule("instance_norm")
def instance_norm(walk: GraphInterpreter, x: TimedTensor, *how: Any) -> TimedTensor:
    """Instance norm of every frame by itself."""
    try:
        rows = last_dims(x, len(x.dims) - 1)
    except RefusedError as e:
        raise RefusedError("normalises over all frames of the clip", "normalise every frame by itself") from e
    return with_last_dims(x, walk.node.target(rows, *how), x.dims[1:], len(x.dims) - 1)


@rule("group_norm")
def group_norm(
    walk: GraphInterpreter,
    x: TimedTensor,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: object,
) -> TimedTensor:
    """Group norm of every frame by itself."""
    try:
        rows = last_dims(x, len(x.dims) - 1)
    except RefusedError as e:
        raise RefusedError("normalises over all frames of the clip", "normalise every frame by itself") from e
    return with_last_dims(x, F.group_norm(rows, groups, weight, bias, eps), x.dims[1:], len(x.dims) - 1)


@rule("pixel_shuffle", "pixel_unshuffle")
def picture(walk: GraphInterpreter, x: TimedTensor, *args: Any) -> TimedTensor:
    """Operators on the last three dimensions, a picture (C, H, W)."""
    shuffled = walk.node.target(last_dims(x, 3), *args)
    return with_last_dims(x, shuffled, shuffled.shape[1:], 3)


@rule("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa")
def enlarged(walk: GraphInterpreter, x: TimedTensor, *args: Any) -> TimedTensor:
    """Interpolation of each plane (H, W)."""
    return _each_plane(x, 2, lambda rows: walk.node.target(rows, *args))


@rule("upsample_nearest3d", "upsample_trilinear3d")
def volume(walk: GraphInterpreter, x: TimedTensor, *args: Any) -> TimedTensor:
    """Interpolation in space and time; in time for a whole clip only."""
    dims = tuple(walk.node.meta["val"].shape)
    mode = "nearest" if "nearest" in walk.node.target._schema.name else "bilinear"
    corners = bool(args[1]) if mode == "bilinear" else None
    if x.axis != Axis(2):
        raise RefusedError("enlarges a volume without time")
    rows = (
        F.interpolate(x.rows, dims[3:], mode=mode, align_corners=corners)
        if dims[3:] != x.dims[3:]
        else x.rows
    )
    if dims[2] != x.n and not isinstance(walk.time, Clip):
        raise RefusedError("makes new frames in between", "enlarge in space only")
    if dims[2] != x.n:
        flat = rows.flatten(1).t()[None]
        flat = F.interpolate(
            flat, dims[2], mode="nearest" if mode == "nearest" else "linear", align_corners=corners
        )
        rows = flat[0].t().reshape(dims[2], *rows.shape[1:])
    return TimedTensor(rows, dims, x.axis, dims[2], x.clock)


def _count(walk: GraphInterpreter) -> int:
    """How many dimensions an operator pools: the digit in its name."""
    match = re.search(r"(\d)d", walk.node.target._schema.name)
    assert match
    return int(match[1])


def _shape(walk: GraphInterpreter) -> tuple[int, ...]:
    """Shape of the (first) result in the original."""
    value = walk.node.meta["val"]
    return tuple((value[0] if isinstance(value, tuple | list) else value).shape)


POOLS: tuple[Any, ...] = (None, F.avg_pool1d, F.avg_pool2d), (None, F.max_pool1d, F.max_pool2d)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(
    walk: GraphInterpreter,
    x: TimedTensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    include_pad: bool = True,
    divisor: int | None = None,
) -> TimedTensor:
    """Mean over a window in space, then in time."""
    if ceil_mode or divisor:
        raise RefusedError("averages with ceil_mode or a divisor of its own")

    def space(rows: Tensor, k: list[int], s: list[int], p: list[int], _: list[int]) -> Tensor:
        mean: Tensor = POOLS[0][len(k)](rows, k, s, p, False, include_pad)
        return mean

    return _pooled(walk, x, (kernel, stride, padding, 1), space, torch.mean, 0.0, include_pad)


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(
    walk: GraphInterpreter,
    x: TimedTensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> TimedTensor:
    """Maximum over a window in space, then in time."""

    def space(rows: Tensor, k: list[int], s: list[int], p: list[int], d: list[int]) -> Tensor:
        highest: Tensor = POOLS[1][len(k)](rows, k, s, p, d, ceil_mode)
        return highest

    return _pooled(walk, x, (kernel, stride, padding, dilation), space, torch.amax, -math.inf, True)


@rule("max_pool3d_with_indices", "max_pool2d_with_indices", "max_pool1d_with_indices")
def max_pool_first(walk: GraphInterpreter, *args: Any) -> tuple[TimedTensor]:
    """Maximum with indices nobody looks at."""
    return (max_pool(walk, *args),)


def _pooled(
    walk: GraphInterpreter,
    x: TimedTensor,
    how: tuple[Any, ...],
    space: Callable[..., Tensor],
    over: Callable[[Tensor, int], Tensor],
    fill: float,
    padded_ok: bool,
) -> TimedTensor:
    count, dims = _count(walk), _shape(walk)
    kernel = _each(how[0], count)
    stride = _each(how[1], count) if how[1] not in (None, []) else kernel
    padding, dilation = _each(how[2], count), _each(how[3], count)
    first = len(x.dims) - count
    if x.axis is None or x.axis.at < first:
        if count > 2:
            raise RefusedError("pools a volume without time")
        return _each_plane(x, count, lambda rows: space(rows, kernel, stride, padding, dilation))
    if x.axis.outer * x.axis.inner > 1:
        raise RefusedError("pools frames that share a dimension with something else")
    t = x.axis.at - first
    flat = [[v for i, v in enumerate(vs) if i != t] for vs in (kernel, stride, padding, dilation)]
    rows = x.rows
    if flat[0] and any(k > 1 or s > 1 for k, s in zip(flat[0], flat[1])):
        rows = space(rows, *flat)
    x = TimedTensor(rows, (*dims[: x.axis.at], x.n, *dims[x.axis.at + 1 :]), x.axis, x.n, x.clock)
    if padding[t] and not padded_ok:
        raise RefusedError("averages over time without counting the padding")
    n = dims[x.axis.at] if x.axis else 1
    offsets = [dilation[t] * j for j in range(kernel[t])]
    taps = walk.gather(x, offsets, n=n, stride=stride[t], first=-padding[t], fill=fill)
    pooled = taps.reduced(over) if kernel[t] > 1 else taps.each()[0]
    return x.with_rows(pooled, taps.clock, n)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool3d")
def adaptive_average(walk: GraphInterpreter, x: TimedTensor, size: Sequence[int]) -> TimedTensor:
    """Mean to a given size; of time to one position, or a whole fraction."""
    return _adaptive(walk, x, F.adaptive_avg_pool2d, torch.mean)


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max(walk: GraphInterpreter, x: TimedTensor, size: Sequence[int]) -> tuple[TimedTensor]:
    """Maximum to a given size."""
    return (_adaptive(walk, x, F.adaptive_max_pool2d, torch.amax),)


def _each_plane(x: TimedTensor, count: int, make: Callable[[Tensor], Tensor]) -> TimedTensor:
    """What works on each plane of the last ``count`` dimensions by itself; frames may stand in channels."""
    rows = x.rows.reshape(-1, *x.sizes[len(x.dims) - count - 1 :])
    planes = make(rows)
    dims = (*x.dims[: len(x.dims) - count], *planes.shape[2:])
    return TimedTensor(planes.reshape(len(x.rows), *row_shape(dims, x.axis)), dims, x.axis, x.n, x.clock)


def _adaptive(
    walk: GraphInterpreter,
    x: TimedTensor,
    space: Callable[..., Tensor],
    over: Callable[[Tensor, int], Tensor],
) -> TimedTensor:
    count, dims = _count(walk), _shape(walk)
    first = len(dims) - count
    timed = x.axis is not None and x.axis.at >= first
    if not timed and count == 3:
        raise RefusedError("pools a volume without time")
    plain = [d for d in range(first, len(dims)) if not (timed and x.axis and d == x.axis.at)]
    if not timed:
        return _each_plane(x, count, lambda rows: _shrunk(rows, [dims[d] for d in plain], space))
    rows = _shrunk(x.rows, [dims[d] for d in plain], space)
    assert x.axis
    n = dims[x.axis.at]
    if x.n % n:
        raise RefusedError(f"pools {x.n} frames to {n}, windows of different length", "pool to one")
    k = x.n // n
    x = TimedTensor(rows, (*dims[: x.axis.at], x.n, *dims[x.axis.at + 1 :]), x.axis, x.n, x.clock)
    if k == 1:
        return x
    if n == 1:
        return _consumed(walk, x, over)
    taps = walk.gather(x, range(k), n=n, stride=k)
    return x.with_rows(taps.reduced(over), taps.clock, n)


def _shrunk(rows: Tensor, size: list[int], space: Callable[..., Tensor]) -> Tensor:
    """Adaptive pooling of the last dimensions; to one element it is a plain reduction."""
    old = list(rows.shape[len(rows.shape) - len(size) :])
    if old == size or not size:
        return rows
    if all(s == 1 for s in size):
        axes = list(range(rows.ndim - len(size), rows.ndim))
        return (
            rows.mean(axes, keepdim=True) if space is F.adaptive_avg_pool2d else rows.amax(axes, keepdim=True)
        )
    if len(size) == 1:
        return space(rows.unsqueeze(-1), (size[0], 1)).squeeze(-1)
    return space(rows, size)


REDUCE: dict[str, Callable[..., Tensor]] = {
    "aten::mean": torch.mean,
    "aten::sum": torch.sum,
    "aten::amax": torch.amax,
    "aten::amin": torch.amin,
}


@rule("mean", "sum", "amax", "amin")
def reduced(
    walk: GraphInterpreter, x: TimedTensor, dim: Any = None, keepdim: bool = False, **_: object
) -> TimedTensor:
    """Mean, sum or extreme over dimensions; over time it is a window as long as the clip."""
    reduce = REDUCE[walk.node.target._schema.name]
    rank = len(x.dims)
    dims = sorted(d % rank for d in (range(rank) if dim in (None, []) else _each(dim, 1)))
    timed = x.axis is not None and x.axis.at in dims
    sizes = list(x.sizes)
    order = sorted({*row_dims(x.dims, x.axis), *(d for d in dims if sizes[d] > 1)})
    places = [i + 1 for i, d in enumerate(order) if d in dims]
    rows = with_last_shape(x.rows, [sizes[d] for d in order])
    rows = reduce(rows, places, keepdim=True) if places else rows
    whole = tuple(1 if d in dims and not (x.axis and d == x.axis.at) else s for d, s in enumerate(x.dims))
    axis = x.axis
    if timed and axis:
        whole = (*whole[: axis.at], x.n, *whole[axis.at + 1 :])
        axis = Axis(axis.at)
    x = TimedTensor(with_last_shape(rows, row_shape(whole, axis)), whole, axis, x.n, x.clock)
    if timed and x.n > 1:
        x = _consumed(walk, x, reduce)
    if keepdim:
        return x
    return _dropped(x, dims)


def _dropped(x: TimedTensor, gone: Sequence[int]) -> TimedTensor:
    dims = tuple(s for d, s in enumerate(x.dims) if d not in gone)
    axis = x.axis
    if axis and axis.at in gone:
        axis = None
    elif axis:
        axis = axis._replace(at=axis.at - sum(d < axis.at for d in gone))
    return TimedTensor(with_last_shape(x.rows, row_shape(dims, axis)), dims, axis, x.n, x.clock)


def _consumed(walk: GraphInterpreter, x: TimedTensor, over: Callable[[Tensor, int], Tensor]) -> TimedTensor:
    """All positions of the clip become one: over a window as long as the clip, or what was asked for."""
    averages = any(word in walk.node.target._schema.name for word in ("mean", "avg"))
    if averages and walk.pool != "window" and not isinstance(walk.time, Clip):
        return _running(walk, x)
    taps = walk.gather(x, range(x.n), n=1)
    return x.with_rows(taps.reduced(over), taps.clock, 1)


MEANS = {"running": "a mean of everything since the reset", "ema": "an exponential mean"}


def _running(walk: GraphInterpreter, x: TimedTensor) -> TimedTensor:
    """Mean of all frames since the reset; an exponential one is the same until a clip's weight is reached."""
    walk.approximate(f"a mean over the clip became {MEANS[walk.pool]}")
    clock = replace(x.clock, ready=x.clock.ready + x.clock.period * (x.n - 1), endless=True)
    return x.with_rows(means(walk, x, 2.0 / (x.n + 1) if walk.pool == "ema" else 0.0), clock, 1)
