"""A world where time passes only when something waits: frames come, deadlines pass, engines follow traces."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np

from edgepv.runtimes.deadline import DeadlineRunner, Reply
from edgepv.runtimes.engines.null import NullEngine
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Lane
from edgepv.types import Deadline, ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

Delays: TypeAlias = Sequence[float] | Callable[[float], float]
FRAME = np.zeros((8, 8, 3), np.uint8)


def variant(name: str, *, looks_back: int = 1, width: int = 1) -> Variant:
    """A null variant that keeps ``width`` values and is valid after ``looks_back`` frames."""
    size = TensorSpec("frame", (1, 3, 8, 8))
    spec = ModelSpec(name, size, ("fight", "calm"), frames=looks_back, fps=Fraction(10))
    stream = StreamSpec((StateSpec("s", "s_out", (1, width)),), warmup=looks_back)
    outputs = {"logits": "logits", "s_out": "s_out"}
    inputs = {"frame": "frame", "s": "s"}
    return Variant(name, "null", "fp32", "step", "x.json", "", spec, stream, inputs, outputs)


class World:
    """A clock, the frames that will come, and a runner that lives by it. Seconds inside, ms outside."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._cancelled = False
        self.runner: DeadlineRunner | None = None
        self.replies: list[Reply] = []
        self.said_at_ms: list[float] = []
        self.news: list[tuple[str, str]] = []

    def at(self, ms: float, what: Callable[[], Any]) -> None:
        """Let something happen at a time."""
        heapq.heappush(self._events, (ms / 1e3, len(self._events) + len(self.replies), what))

    def wait(self, seconds: float) -> bool:
        """Let seconds pass, with all that happens in them; True if the engine was stopped meanwhile."""
        self._cancelled = False
        until = self.now + seconds
        while not self._cancelled and (coming := self._next()) is not None and coming <= until:
            self.now = max(self.now, coming)
            self._happen()
        if not self._cancelled:
            self.now = until
        return self._cancelled

    def _next(self) -> float | None:
        deadline = self.runner.scheduler.expire(self.now) if self.runner else None
        self._tell()
        times = [deadline, self._events[0][0] if self._events else None]
        return min((t for t in times if t is not None), default=None)

    def _happen(self) -> None:
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()
        if self.runner:
            self.runner.watch()
        self._tell()

    def _tell(self) -> None:
        """Listeners hear at once what was said: they take no time here."""
        if self.runner:
            self.runner.tell()

    def engine(self, variant: Variant, delays: Delays, *, stops: bool = True) -> NullEngine:
        """A null engine that takes the trace's delays in this world. stops: a call can be cancelled."""
        world = self

        class Engine(NullEngine):
            def cancel(self) -> None:
                world._cancelled = stops

        if not callable(delays):
            return Engine(variant, list(delays), self.wait)
        takes = delays
        return Engine(variant, [1.0], lambda seconds: self.wait(takes(1e3 * self.now) / 1e3))

    def run(
        self,
        rungs: Sequence[tuple[Variant, Delays]],
        arrivals_ms: Sequence[float],
        *,
        limit_ms: float,
        profiles_ms: Sequence[float] | None = None,
        stops: bool = True,
        on_miss: Literal["stale", "drop"] = "stale",
        **options: Any,
    ) -> list[Reply]:
        """The replies to all arrivals. rungs: (variant, the ms its calls take, in turn or by the time)."""

        def say(reply: Reply) -> None:
            self.replies.append(reply)
            self.said_at_ms.append(round(1e3 * self.now, 6))

        ladder = Ladder([Lane(self.engine(v, delays, stops=stops), v) for v, delays in rungs])
        profiles = profiles_ms or [d(0.0) if callable(d) else d[0] for _, d in rungs]
        runner = DeadlineRunner(
            ladder,
            profiles,
            Deadline(limit_ms, on_miss),
            say=say,
            status=lambda what, why: self.news.append((what, why)),
            clock=lambda: self.now,
            **options,
        )
        self.runner = runner
        for ms in arrivals_ms:
            self.at(ms, lambda: runner.offer(FRAME))
        while not runner.failed:
            worked = runner.cycle()
            self._tell()
            if not worked:
                coming = self._next()
                if coming is None:
                    break
                self.wait(max(0.0, coming - self.now))
        return self.replies
