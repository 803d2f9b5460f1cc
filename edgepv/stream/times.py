"""The two ways of laying out time: a whole clip at once, or the frames of one step with states.

Operators ask for time through the same three verbs (``gather``, ``relabel``, ``align``), so there is
one rule per operator and it serves both rewrites.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from edgepv.errors import UsageError
from edgepv.stream.values import Clock, RefusedError, TimedTensor


class Taps(NamedTuple):
    """Rows that an operator sees through its window: tap j is ``joined[starts[j]::step][:height]``.

    hidden: (row, tap) pairs that lie beyond the clip, known while verifying only.
    """

    joined: Tensor
    starts: tuple[int, ...]
    step: int
    height: int
    clock: Clock
    hidden: frozenset[tuple[int, int]] = frozenset()

    def each(self) -> list[Tensor]:
        """One tensor (height, ...) per tap, oldest first."""
        if len(self.joined) == self.height and self.starts == (0,) and self.step == 1:
            return [self.joined]
        ends = ((s, s + self.step * (self.height - 1) + 1) for s in self.starts)
        return [self.joined[a : b : self.step] for a, b in ends]

    def stacked(self) -> Tensor:
        """All taps, (height, taps, elements of a row); no copy where one step sees them in order."""
        k = len(self.starts)
        in_order = all(b - a == 1 for a, b in pairwise(self.starts))
        if self.height == 1 and in_order:
            whole = len(self.joined) == k
            return (self.joined if whole else self.joined[self.starts[0] :][:k]).reshape(1, k, -1)
        return torch.stack([tap.reshape(self.height, -1) for tap in self.each()], 1)

    def reduced(self, over: Callable[[Tensor, int], Tensor]) -> Tensor:
        """``over`` (a mean, a maximum) of all taps, (height, ...)."""
        return over(self.stacked(), 1).reshape(self.height, *self.joined.shape[1:])


def clock_of(v: TimedTensor, offsets: Sequence[int], stride: int, first: int, n: int) -> Clock:
    """Clock of an operator whose position i reads positions i * stride + first + offsets of ``v``.

    Positions are ``stride`` times as far apart also where the clip has room for one only: in a stream the
    layers behind read its neighbours.
    """
    old, new = first + min(offsets), first + max(offsets)
    c = v.clock
    clean = (-((old - c.clean[0]) // stride), (c.clean[1] - new) // stride)
    return replace(
        c,
        period=c.period * stride,
        ready=c.ready + c.period * new,
        oldest=c.oldest + c.period * old,
        clean=(max(0, clean[0]), min(n - 1, clean[1])),
    )


def joint_clock(clocks: Sequence[Clock]) -> Clock:
    """Clock of an operator that joins equal positions of several values.

    Their periods differ only where each has one position; then a row is due when all of them have one.
    """
    return Clock(
        period=math.lcm(*(c.period for c in clocks)),
        ready=max(c.ready for c in clocks),
        oldest=min(c.oldest for c in clocks),
        clean=(max(c.clean[0] for c in clocks), min(c.clean[1] for c in clocks)),
        endless=any(c.endless for c in clocks),
    )


class Time(Protocol):
    """A layout of time."""

    def gather(
        self,
        v: TimedTensor,
        offsets: Sequence[int],
        *,
        n: int,
        stride: int = 1,
        first: int = 0,
        fill: float = 0.0,
    ) -> Taps:
        """What ``n`` windows over ``v`` see; ``fill`` stands beyond the ends of a clip."""

    def relabel(self, v: TimedTensor, start: int, step: int, n: int) -> TimedTensor:
        """Positions start, start + step, ... of ``v``, the original's slice along time."""

    def align(self, values: Sequence[TimedTensor]) -> tuple[list[Tensor], Clock]:
        """Rows of equal positions, side by side."""

    def hold(self, like: Tensor, shape: tuple[int, ...], clock: Clock, init: float = 0.0) -> Tensor:
        """A recurrent state (``init`` at the start), to be handed back with ``keep``."""

    def resumed(self, state: Tensor, row: int, clock: Clock, init: float = 0.0) -> Tensor:
        """A recurrent state as a row finds it: ``init`` again where the recurrence has to start anew."""

    def keep(self, fresh: Tensor) -> None:
        """The new value of the oldest state that ``hold`` gave and that was not handed back yet."""


class Clip:
    """Every position of the clip is a row."""

    def gather(
        self,
        v: TimedTensor,
        offsets: Sequence[int],
        *,
        n: int,
        stride: int = 1,
        first: int = 0,
        fill: float = 0.0,
    ) -> Taps:
        """What ``n`` windows over the clip see, ``fill`` beyond its ends; see ``Time.gather``."""
        left = max(0, -(first + min(offsets)))
        right = max(0, (n - 1) * stride + first + max(offsets) - (v.n - 1))
        parts = [v.rows.new_full((k, *v.rows.shape[1:]), fill) if k else None for k in (left, right)]
        present = [p for p in (parts[0], v.rows, parts[1]) if p is not None]
        joined = torch.cat(present) if len(present) > 1 else v.rows
        starts = tuple(left + first + o for o in offsets)
        return Taps(joined, starts, stride, n, clock_of(v, offsets, stride, first, n))

    def relabel(self, v: TimedTensor, start: int, step: int, n: int) -> TimedTensor:
        """Rows start, start + step, ... of the clip."""
        rows = v.rows[start : start + step * (n - 1) + 1 : step]
        return v.with_rows(rows, clock_of(v, [0], step, start, n), n)

    def align(self, values: Sequence[TimedTensor]) -> tuple[list[Tensor], Clock]:
        """The rows as they are: all of one clip."""
        return [v.rows for v in values], joint_clock([v.clock for v in values])

    def hold(self, like: Tensor, shape: tuple[int, ...], clock: Clock, init: float = 0.0) -> Tensor:
        """``init`` everywhere: a clip has no past."""
        return like.new_full(shape, init)

    def resumed(self, state: Tensor, row: int, clock: Clock, init: float = 0.0) -> Tensor:
        """The state as it is: a clip is one recurrence."""
        return state

    def keep(self, fresh: Tensor) -> None:
        """Forget it: no clip follows."""


def first_step(clock: Clock, origin: int, every: int) -> int:
    """The step that makes position 0 of the first clip of a stream."""
    return max(0, (origin % every + clock.ready) // every)


@dataclass
class StatePlan:
    """One state as the planning pass met it. source: index among the fresh tensors; -1: the input.

    ages: frames from the newest of a step back to each row it holds.
    """

    name: str
    shape: tuple[int, ...]
    update: Literal["replace", "shift"]
    source: int
    fresh: int
    period: int = 1
    first: int = 0
    ages: tuple[int, ...] = ()
    init: float = 0.0


@dataclass
class Stream:
    """The ``every`` newest frames of an endless video; what came before is in states.

    A value with period p is computed on a grid of gcd(every, p) frames: with every = 1 at each frame
    (layers behind a stride then serve interleaved clips, one per phase), with every = p as seldom as
    the clip model does. given: the states of this step, None while planning (then they are made up).
    origin: frame of a step's grid at which clips begin.
    """

    every: int
    origin: int = 0
    given: list[Tensor] | None = None
    label: str = ""
    plans: list[StatePlan] = field(default_factory=list)
    fresh: list[Tensor] = field(default_factory=list)
    input: Tensor | None = None
    _known: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    _held: list[int] = field(default_factory=list)

    def mark(self) -> tuple[Any, ...]:
        """Where this step is, for ``back``."""
        return len(self.plans), len(self.fresh), dict(self._known), list(self._held)

    def back(self, mark: tuple[Any, ...]) -> None:
        """Forget the states that were asked for since ``mark``."""
        plans, fresh, self._known, self._held = mark
        del self.plans[plans:], self.fresh[fresh:]

    def grid(self, clock: Clock) -> tuple[int, int]:
        """(frames between rows, frame of the step at which its first row is due)."""
        g = math.gcd(self.every, clock.period)
        return g, (self.origin + clock.ready) % g

    def fitting(self, clock: Clock) -> Clock:
        """``clock``. Raises UsageError if rows of it and steps do not divide each other's length."""
        if math.gcd(self.every, clock.period) not in (self.every, clock.period):
            raise UsageError(
                f"a step of {self.every} frames does not fit layers that advance {clock.period} frames at a "
                "time. Use --every 1, or the stride that edgepv stream MODEL shows"
            )
        return clock

    def _clock(self, v: TimedTensor, offsets: Sequence[int], stride: int, first: int, n: int) -> Clock:
        """``clock_of``. One position per clip fits any step: it is computed as often as answers need it."""
        clock = clock_of(v, offsets, stride, first, n)
        return self.fitting(clock) if n > 1 else clock

    def ages(self, clock: Clock, places: Sequence[int]) -> tuple[int, ...]:
        """Frames from the newest of a step back to rows of a value; row 0 is the first of the step."""
        g, at = self.grid(clock)
        return tuple(self.every - 1 - at - g * i for i in places)

    def gather(
        self,
        v: TimedTensor,
        offsets: Sequence[int],
        *,
        n: int,
        stride: int = 1,
        first: int = 0,
        fill: float = 0.0,
    ) -> Taps:
        """What ``n`` windows see of the newest frames and of rows kept in states; see ``Time.gather``."""
        clock = self._clock(v, offsets, stride, first, n)
        newest = max(offsets)
        return self._at(v, clock, [v.clock.period * (newest - o) for o in offsets], fill)

    def _at(self, v: TimedTensor, clock: Clock, lags: Sequence[int], fill: float = 0.0) -> Taps:
        """Rows of ``v`` that were due ``lags`` frames before each row of ``clock``."""
        (g_in, at_in), (g_out, at_out) = self.grid(v.clock), self.grid(clock)
        count = self.every // g_out
        places = [(at_out - lag - at_in) // g_in for lag in lags]
        assert all((at_out - lag - at_in) % g_in == 0 for lag in lags), "rows fall between the grid's frames"
        step = g_out // g_in
        if len(v.rows) == 1:
            return self._steps_ago(v, clock, [-p for p in places], fill)
        back = max(0, -min(places))
        joined = torch.cat([self._past(v, back, 1, fill), v.rows]) if back else v.rows
        return Taps(joined, tuple(p + back for p in places), step, count, clock)

    def _steps_ago(self, v: TimedTensor, clock: Clock, ago: list[int], fill: float) -> Taps:
        """One row per step: a window that looks back in strides is a state with a period."""
        if not any(ago):
            return Taps(v.rows, (0,) * len(ago), 1, 1, clock)
        period = math.gcd(*ago)
        depth = max(ago) // period
        joined = self._past(v, depth, period, fill)
        if 0 in ago:
            joined = torch.cat([joined, v.rows])
        return Taps(joined, tuple(depth - a // period for a in ago), 1, 1, clock)

    def _past(self, v: TimedTensor, depth: int, period: int, fill: float) -> Tensor:
        """State of ``depth`` rows before those of ``v``; asked twice, it is one state."""
        key = (id(v.rows), depth, period)
        if key not in self._known:
            shape = (depth, *v.rows.shape[1:])
            ages = self.ages(v.clock, [-period * k for k in range(1, depth + 1)])
            plan = StatePlan(self.label, shape, "shift", self._source(v.rows), len(v.rows), period, ages=ages)
            self._known[key] = self._state(plan, v.rows)
        return self._known[key]

    def _source(self, rows: Tensor) -> int:
        if rows is self.input:
            return -1
        for i, known in enumerate(self.fresh):
            if known is rows:
                return i
        self.fresh.append(rows)
        return len(self.fresh) - 1

    def _state(self, plan: StatePlan, like: Tensor) -> Tensor:
        self.plans.append(plan)
        if self.given is None:
            return like.new_full(plan.shape, plan.init)
        return self.given[len(self.plans) - 1]

    def relabel(self, v: TimedTensor, start: int, step: int, n: int) -> TimedTensor:
        """The newest positions start, start + step, ... of a step; what came before is a state."""
        clock = self._clock(v, [0], step, start, n)
        return v.with_rows(self._at(v, clock, [0]).each()[0], clock, n)

    def align(self, values: Sequence[TimedTensor]) -> tuple[list[Tensor], Clock]:
        """Rows of equal positions, those that are ahead delayed by states; RefusedError for unequal rates."""
        moving = [v for v in values if v.n > 1] or list(values)
        periods = {v.clock.period for v in moving}
        if len(periods) > 1 and moving[0].n > 1:
            rates = " and ".join(map(str, sorted(periods)))
            raise RefusedError(
                f"joins values that advance at different rates, {rates} frames at a time",
                "let both advance alike: strides and slices x[:, :, ::k] of the same k",
            )
        clock = joint_clock([v.clock for v in moving])
        rows = []
        for v in values:
            lag = clock.ready - v.clock.ready
            if v not in moving:  # pooled over time and fed back: the newest there is
                lag %= self.grid(v.clock)[0]
                oldest = clock.ready - lag - (v.clock.ready - v.clock.oldest)
                clock = replace(clock, oldest=min(clock.oldest, oldest))
            rows.append(self._at(v, clock, [lag]).each()[0])
        return rows, clock

    def hold(self, like: Tensor, shape: tuple[int, ...], clock: Clock, init: float = 0.0) -> Tensor:
        """A state of ``shape`` from the step before; its new value is expected by ``keep``."""
        first = first_step(self.fitting(clock), self.origin, self.every)
        self._held.append(len(self.fresh))
        self.fresh.append(like)  # a place, taken by keep
        period = clock.period // self.grid(clock)[0] if self.every < clock.period else 1
        ages = self.ages(clock, [-period])
        plan = StatePlan(self.label, shape, "replace", self._held[-1], 1, period, first, ages, init)
        return self._state(plan, like)

    def resumed(self, state: Tensor, row: int, clock: Clock, init: float = 0.0) -> Tensor:
        """The state as it is: a stream never starts anew."""
        return state

    def keep(self, fresh: Tensor) -> None:
        """Hand back the new value of the oldest state that is waited for."""
        self.fresh[self._held.pop(0)] = fresh
