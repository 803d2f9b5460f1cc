"""What travels along a captured graph while it is rewritten: tensors with their time taken apart.

A clip tensor such as (1, C, T, H, W), (T, C, H, W) or (1, T * N, D) is held as ``rows``: time in front,
everything else behind it in order, the batch of one dropped: (m, C, H, W). So no tensor of a video model
needs more than four dimensions, and looking back in time is slicing the first axis. ``dims`` remembers
the shape the original has at this place, and ``axis`` where time stands in it, so that every reshape
and permute of the original can be followed exactly, whatever T is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from torch import Tensor

MAX_RANK = 4
"""Camera NPUs and mobile GPU delegates take tensors of four dimensions."""


class RefusedError(Exception):
    """An operator that cannot be rewritten. why: what stands against it. cure: what to change."""

    def __init__(
        self, why: str, cure: str = "write this line with operators that work frame by frame"
    ) -> None:
        super().__init__(why)
        self.why, self.cure = why, cure


class Axis(NamedTuple):
    """Where time stands: ``dims[at] == outer * n * inner``, row-major."""

    at: int
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Clock:
    """When the positions of a value are due, in frames of the clip; position i is due i * period later.

    ready, oldest: the newest and the oldest frame that position 0 rests on (below 0: before the clip).
    clean: first and last position that no end of the clip reaches: elsewhere the clip model saw padding
    (or a recurrent start) where a stream sees real frames. endless: rests on every frame since a reset.
    """

    period: int
    ready: int
    oldest: int
    clean: tuple[int, int]
    endless: bool = False

    def later(self, frames: int) -> Clock:
        """The same, ``frames`` frames further on."""
        return replace(self, ready=self.ready + frames, oldest=self.oldest + frames)


@dataclass(frozen=True, eq=False)
class TimedTensor:
    """rows: (m, *physical(dims, axis)). n: positions in time of the original's tensor; 1 once pooled."""

    rows: Tensor
    dims: tuple[int, ...]
    axis: Axis | None
    n: int
    clock: Clock

    @property
    def sizes(self) -> tuple[int, ...]:
        """The original's shape with time taken out of its dimension."""
        if self.axis is None:
            return self.dims
        at, outer, inner = self.axis
        return (*self.dims[:at], outer * inner, *self.dims[at + 1 :])

    def with_rows(self, rows: Tensor, clock: Clock, n: int) -> TimedTensor:
        """Other rows of the same physical shape, for ``n`` positions."""
        dims = self.dims
        if self.axis:
            at, outer, inner = self.axis
            dims = (*dims[:at], outer * n * inner, *dims[at + 1 :])
        return TimedTensor(rows, dims, self.axis, n, clock)


@dataclass(frozen=True, eq=False)
class Sum(TimedTensor):
    """The sum of all positions so far in a stream, where it would grow without end. Rows hold their mean.

    It must be divided by the number of positions before anything else reads it.
    """

    REFUSED: ClassVar[tuple[str, str]] = (
        "adds up all frames so far (a cumulative sum), which grows without end in a stream",
        "divide it at once by their number: torch.cumsum(x, dim) / torch.arange(1, T + 1)",
    )


def row_dims(dims: Sequence[int], axis: Axis | None) -> list[int]:
    """Dimensions of the original that rows have, too: not pure time, not a batch of one in front."""
    pure = axis.at if axis and axis.outer * axis.inner == 1 else -1
    batch = bool(dims) and (dims[0] if not axis or axis.at != 0 else axis.outer * axis.inner) == 1
    return [i for i in range(len(dims)) if i != pure and not (i == 0 and batch)]


def row_shape(dims: Sequence[int], axis: Axis | None) -> tuple[int, ...]:
    """Shape of one row."""
    sizes = list(dims)
    if axis:
        sizes[axis.at] = axis.outer * axis.inner
    return tuple(sizes[i] for i in row_dims(dims, axis))


def with_last_shape(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """``rows`` with its trailing dimensions reshaped; the same tensor if nothing changes."""
    wanted = (rows.shape[0], *shape)
    return rows if tuple(rows.shape) == wanted else rows.reshape(wanted)


def in_four_dims(rows: Tensor, dims: Sequence[int], axis: Axis | None) -> Tensor:
    """Rows of a value with ``dims``; what would need more than four dimensions has its last ones joined.

    Rules ask for the dimensions they need with ``with_last_shape``, so joined ones are only a way to be kept.
    """
    shape = row_shape(dims, axis)
    return with_last_shape(rows, (*shape[:2], math.prod(shape[2:])) if len(shape) >= MAX_RANK else shape)


def reshape(v: TimedTensor, dims: Sequence[int]) -> TimedTensor:
    """The original's reshape to ``dims``. Raises RefusedError if it splits time."""
    dims = tuple(dims)
    axis = _axis_after(v, dims)
    return TimedTensor(in_four_dims(v.rows, dims, axis), dims, axis, v.n, v.clock)


def _axis_after(v: TimedTensor, dims: tuple[int, ...]) -> Axis | None:
    if v.axis is None:
        return None
    stride = v.axis.inner * math.prod(v.dims[v.axis.at + 1 :])
    for at in reversed(range(len(dims))):
        suffix = math.prod(dims[at + 1 :])
        if v.n == 1:
            if dims[at] == 1 and suffix == stride:
                return Axis(at)
            continue
        if stride % suffix or stride >= suffix * dims[at]:
            continue
        inner = stride // suffix
        if dims[at] % (inner * v.n) == 0:
            return Axis(at, dims[at] // (inner * v.n), inner)
    if v.n == 1:
        return None
    raise RefusedError(
        "splits the time axis (windows of frames inside the clip)",
        "keep the frames of a clip in one dimension, and look back by convolution or with a causal mask",
    )


def permute(v: TimedTensor, order: Sequence[int]) -> TimedTensor:
    """The original's permute."""
    order = [d % len(v.dims) for d in order]
    dims = tuple(v.dims[d] for d in order)
    axis = v.axis._replace(at=order.index(v.axis.at)) if v.axis else None
    solid = [d for d in range(len(order)) if v.sizes[d] != 1]
    wanted = [solid.index(d) for d in order if v.sizes[d] != 1]
    rows = v.rows
    if wanted != sorted(wanted):
        rows = _permuted(rows, [v.sizes[d] for d in solid], wanted)
    return TimedTensor(in_four_dims(rows, dims, axis), dims, axis, v.n, v.clock)


def _permuted(rows: Tensor, sizes: list[int], order: list[int]) -> Tensor:
    """Rows (m, *sizes) permuted; where that needs more than four dimensions, one dimension at a time."""
    if len(sizes) < MAX_RANK:
        return with_last_shape(rows, sizes).permute(0, *(i + 1 for i in order))
    now = list(range(len(sizes)))
    for to, dim in enumerate(order):
        at = now.index(dim)
        if at == to:
            continue
        jumped, moved = (math.prod(sizes[d] for d in part) for part in (now[to:at], now[at : at + 1]))
        behind = math.prod(sizes[d] for d in now[at + 1 :])
        rows = rows.reshape(-1, jumped, moved, behind).transpose(1, 2)
        now.insert(to, now.pop(at))
    return rows.reshape(-1, *(sizes[d] for d in now[:2]), math.prod(sizes[d] for d in now[2:]))


def in_time(v: TimedTensor, dim: int) -> bool:
    """Whether a dimension holds the frames of the clip."""
    return v.axis is not None and v.axis.at == dim and v.n > 1


def along(v: TimedTensor, dim: int) -> Tensor:
    """Rows as (-1, size of ``dim``, what is behind it)."""
    behind = math.prod(v.sizes[dim + 1 :])
    return v.rows.reshape(-1, v.sizes[dim], *[behind][: behind > 1])


def last_dims(v: TimedTensor, count: int) -> Tensor:
    """Rows as (m * leading, *last ``count`` dimensions), for operators that treat the rest as a batch.

    Raises RefusedError if time stands among those dimensions.
    """
    first = len(v.dims) - count
    if v.axis and v.axis.at >= first and v.n > 1:
        raise RefusedError("works across the frames of the clip", "let it work inside each frame")
    return (
        v.rows.reshape(-1, *v.sizes[first:])
        if _lead(v, first) != ()
        else with_last_shape(v.rows, v.sizes[first:])
    )


def _lead(v: TimedTensor, first: int) -> tuple[int, ...]:
    return tuple(s for s in v.sizes[:first] if s != 1)


def with_last_dims(v: TimedTensor, rows: Tensor, tail: Sequence[int], count: int) -> TimedTensor:
    """The inverse of ``last_dims``: new rows whose last dimensions are now ``tail``."""
    first = len(v.dims) - count
    dims = (*v.dims[:first], *tail)
    axis = v.axis if v.axis and v.axis.at < first else None
    return TimedTensor(rows.reshape(v.rows.shape[0], *row_shape(dims, axis)), dims, axis, v.n, v.clock)


def spread_dims(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Broadcast of the original's shapes."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    return tuple(max(column) for column in zip(*padded))


def broadcast_rows(v: TimedTensor, dims: Sequence[int], axis: Axis | None) -> Tensor:
    """Rows of ``v`` made to broadcast against rows of a value with ``dims`` and ``axis``."""
    sizes = (1,) * (len(dims) - len(v.dims)) + v.sizes
    return with_last_shape(v.rows, [sizes[i] for i in row_dims(dims, axis)])


def constant_rows(c: Tensor, dims: Sequence[int], axis: Axis | None, n: int) -> Tensor:
    """A constant of the original made to broadcast against rows.

    (1, ...) or, if it differs from position to position, (n, ...).
    """
    shape = [1] * (len(dims) - c.ndim) + list(c.shape)
    c = c.reshape(shape)
    if axis is None or shape[axis.at] == 1:
        return c.reshape(1, *(shape[i] for i in row_dims(dims, axis)))
    at, outer, inner = axis
    c = c.reshape(*shape[:at], outer, n, inner, *shape[at + 1 :]).movedim(at + 1, 0)
    shape[at] = outer * inner
    c = c.reshape(n, *(shape[i] for i in row_dims(dims, axis)))
    return c[:1] if bool((c == c[:1]).all()) else c


def laid_open(v: TimedTensor, rows: Tensor, clock: Clock) -> TimedTensor:
    """A value of one position that holds all ``n`` of ``v`` as the original does. rows: (m, n, elements)."""
    at, outer, _ = v.axis or Axis(0)
    lead = math.prod(v.dims[:at]) * outer if v.axis else 1
    spread = rows.reshape(len(rows), v.n, lead, -1).transpose(1, 2) if v.n > 1 and lead > 1 else rows
    return TimedTensor(in_four_dims(spread.reshape(len(rows), -1), v.dims, None), v.dims, None, 1, clock)


def static(x: object) -> bool:
    """Whether ``x`` does not depend on the video."""
    if isinstance(x, list | tuple):
        return all(static(y) for y in x)
    return not hasattr(x, "dims")
