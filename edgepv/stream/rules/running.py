"""Operators that gather all positions so far: cumulative means and extremes, and what must not grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edgepv.stream.capture import layer, place
from edgepv.stream.interpreter import GraphInterpreter, rule
from edgepv.stream.rules.shape import pointwise
from edgepv.stream.times import Clip
from edgepv.stream.values import Clock, RefusedError, Sum, TimedTensor, along, constant_rows, in_time

ONE_OF_FRAMES = "works along a dimension that holds frames and something else"
LOWEST = float(torch.finfo(torch.float32).min)
LIKE = 1e-6
"""Share by which the divisors of a cumulative sum may differ from 1, 2, 3, ..."""


def endless(walk: GraphInterpreter, clock: Clock, n: int) -> Clock:
    """Clock behind a recurrence: it starts anew with every clip, in a stream only with a reset."""
    walk.edges.setdefault(layer(walk.node), place(walk.node))
    return replace(clock, clean=(n, -1), endless=True)


def means(walk: GraphInterpreter, x: TimedTensor, least: float = 0.0) -> Tensor:
    """The mean of all rows since the reset, behind each row. least: the smallest weight of the newest.

    Mean and count are held, not the sum: that would grow without end, and lose digits.
    """
    shape = tuple(x.rows.shape[1:])
    mean = walk.time.hold(x.rows, (1, *shape), x.clock)
    seen = walk.time.hold(x.rows, (1, *(1,) * len(shape)), x.clock)
    averages = []
    for j, row in enumerate(x.rows.split(1) if len(x.rows) > 1 else [x.rows]):
        mean, seen = (walk.time.resumed(state, j, x.clock) for state in (mean, seen))
        seen = seen + 1.0
        weight = 1.0 / seen
        mean = mean + (row - mean) * (weight.clamp(min=least) if least else weight)
        averages.append(mean)
    walk.time.keep(mean)
    walk.time.keep(seen)
    return torch.cat(averages) if len(averages) > 1 else averages[0]


@rule("cumsum")
def cumulative(walk: GraphInterpreter, x: TimedTensor, dim: int, **_: object) -> TimedTensor:
    """A sum of all elements so far. Of frames in a stream it is held as their mean; see ``Sum``."""
    dim %= len(x.dims)
    if not in_time(x, dim):
        return replace(x, rows=torch.cumsum(along(x, dim), 1).reshape(x.rows.shape))
    _refuse_mixed(x)
    if isinstance(walk.time, Clip):
        return replace(x, rows=torch.cumsum(x.rows, 0))
    return Sum(means(walk, x), x.dims, x.axis, x.n, endless(walk, x.clock, x.n))


def _refuse_mixed(x: TimedTensor) -> None:
    if x.axis and x.axis.outer * x.axis.inner > 1:
        raise RefusedError(ONE_OF_FRAMES)


@rule("mul", "div")
def scaled(walk: GraphInterpreter, *args: Any, **kwargs: Any) -> TimedTensor:
    """Product or quotient; of a sum of all frames so far the mean, if it is divided by their number."""
    sums = [a for a in args if isinstance(a, Sum)]
    if not sums:
        return pointwise(walk, *args, **kwargs)
    (x, c), divided = args[:2], "div" in walk.node.target._schema.name
    if not divided and isinstance(c, Sum):
        x, c = c, x
    count = _first_count(walk, x, c, divided) if isinstance(x, Sum) and isinstance(c, Tensor) else None
    if count is None:
        raise RefusedError(*Sum.REFUSED)
    mean = TimedTensor(x.rows, x.dims, x.axis, x.n, x.clock)
    factor = 1.0 / count if divided else count
    if bool(walk.fact("plain", lambda: bool((factor == 1).all()))):
        return mean
    return replace(mean, rows=x.rows * walk.constant("_share", lambda: factor))


def _first_count(walk: GraphInterpreter, x: TimedTensor, c: Tensor, divided: bool) -> Tensor | None:
    """What a sum of one position is divided by or multiplied with.

    None unless i + 1 positions are divided by i + 1 times as much.
    """

    def find() -> Tensor | None:
        if c.ndim > len(x.dims) or not x.axis:
            return None
        rows = constant_rows(c, x.dims, x.axis, x.n).double()
        counts = torch.arange(1, x.n + 1, dtype=torch.float64).reshape(-1, *(1,) * (rows.ndim - 1))
        first = rows / counts if divided else rows * counts
        same = bool(((first - first[:1]).abs() <= LIKE * first[:1].abs()).all())
        return first[:1].float() if same and len(rows) == x.n else None

    count: Tensor | None = walk.fact("count", find)
    return count


EXTREMES: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], float]] = {
    "aten::cummax": (torch.maximum, torch.cummax, LOWEST),
    "aten::cummin": (torch.minimum, torch.cummin, -LOWEST),
}


@rule("cummax", "cummin")
def extremes(walk: GraphInterpreter, x: TimedTensor, dim: int) -> tuple[TimedTensor]:
    """The largest or smallest so far; nobody may look at its place."""
    dim %= len(x.dims)
    better, whole, worst = EXTREMES[walk.node.target._schema.name]
    if not in_time(x, dim):
        return (replace(x, rows=whole(along(x, dim), 1)[0].reshape(x.rows.shape)),)
    _refuse_mixed(x)
    if isinstance(walk.time, Clip):
        return (replace(x, rows=whole(x.rows, 0)[0]),)
    best = walk.time.hold(x.rows, (1, *x.rows.shape[1:]), x.clock, worst)
    bests = []
    for j, row in enumerate(x.rows.split(1) if len(x.rows) > 1 else [x.rows]):
        best = better(walk.time.resumed(best, j, x.clock, worst), row)
        bests.append(best)
    walk.time.keep(best)
    rows = torch.cat(bests) if len(bests) > 1 else bests[0]
    return (replace(x, rows=rows, clock=endless(walk, x.clock, x.n)),)


@rule("cumprod", "logcumsumexp")
def grows(walk: GraphInterpreter, x: TimedTensor, dim: int, **_: object) -> TimedTensor:
    """What has no end in a stream."""
    dim %= len(x.dims)
    if in_time(x, dim):
        raise RefusedError(
            "gathers all frames so far in a number that grows or vanishes in a stream",
            "use a cumulative mean, torch.cumsum(x, dim) / torch.arange(1, T + 1), or a fixed window",
        )
    return replace(x, rows=walk.node.target(along(x, dim), 1).reshape(x.rows.shape))
