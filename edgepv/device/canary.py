"""Is a new bundle worse than the one before it? Rates, limits, and a verdict from counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgepv.errors import UsageError

CHANCE = 1e-3


@dataclass(frozen=True)
class Rate:
    """How many events a bundle raised in how many frames."""

    frames: int
    events: int


@dataclass(frozen=True)
class Limits:
    """What a trial must keep. frames: how many are watched. miss_rate: share of missed deadlines.

    low, high: the event rate may lie between low and high times the one of the bundle before.
    """

    frames: int = 600
    miss_rate: float = 0.05
    low: float = 0.2
    high: float = 5.0

    def __post_init__(self) -> None:
        sound = self.frames >= 1 and 0 <= self.miss_rate <= 1 and 0 <= self.low <= 1 <= self.high < math.inf
        if not sound:
            raise UsageError(
                f"canary limits {self} make no sense: 0 <= low <= 1 <= high, 0 <= miss_rate <= 1"
            )


@dataclass(frozen=True)
class Verdict:
    """Whether the trial is to be committed, and why."""

    commit: bool
    why: str


class Canary:
    """Watches a trial frame by frame. old: event rate of the bundle before; None: rates are not compared.

    Rates are compared by counts: a rate is outside only if chance would make it look so in fewer than 1 of
    1000 trials that keep the limit. A quiet camera with two events instead of none is no explosion.
    """

    def __init__(self, limits: Limits, old: Rate | None = None) -> None:
        self._limits, self._old = limits, old
        self._frames = self._missed = self._events = 0
        self.verdict: Verdict | None = None

    @property
    def rate(self) -> Rate:
        """What was seen so far."""
        return Rate(self._frames, self._events)

    def feed(self, *, missed: bool, failed: bool, events: int) -> Verdict | None:
        """Outcome of one frame; returns the verdict once there is one.

        missed: no answer in time. failed: the answer was not finite, or the engine raised. events: new ones.
        """
        if self.verdict is None:
            self._frames += 1
            self._missed += missed
            self._events += events
            self.verdict = self._failure(failed, events) or self._end()
        return self.verdict

    def _failure(self, failed: bool, events: int) -> Verdict | None:
        limits = self._limits
        if failed:
            return Verdict(False, f"frame {self._frames} had no finite answer")
        if self._missed > limits.miss_rate * limits.frames:
            seen = f"{self._missed} of {self._frames} frames missed the deadline"
            return Verdict(False, f"{seen}, allowed {limits.miss_rate:.1%} of {limits.frames}")
        if events and self._old and self._chance(limits.high, self._old) < CHANCE:
            return Verdict(False, f"{self._compared(self._old)}, allowed {limits.high:g} times as many")
        return None

    def _end(self) -> Verdict | None:
        limits = self._limits
        if self._frames < limits.frames:
            return None
        missed = f"{self._missed} of {self._frames} deadlines missed"
        if self._old is None:
            return Verdict(True, f"{missed}; event rates were not compared")
        if limits.low > 0 and 1 - self._chance(limits.low, self._old, more_than=True) < CHANCE:
            return Verdict(False, f"{self._compared(self._old)}, wanted {limits.low:g} times as many")
        return Verdict(True, f"{missed}; {self._compared(self._old)}")

    def _compared(self, old: Rate) -> str:
        return f"{self._events} events in {self._frames} frames, before {old.events} in {old.frames}"

    def _chance(self, factor: float, old: Rate, *, more_than: bool = False) -> float:
        """Chance of at least (or more than) this many events if the true rate were ``factor`` times the old.

        Given their sum, the counts of two Poisson streams are binomial with the ratio of their exposures.
        Source: Przyborowski and Wilenski 1940, the exact test of two Poisson means. The whole trial counts
        as exposure from the start, so that looking after every frame finds no more than looking once.
        """
        exposure = factor * self._limits.frames
        share = exposure / (exposure + max(old.frames, 1))
        return at_least(self._events + more_than, self._events + old.events, share)


def at_least(k: int, n: int, p: float) -> float:
    """Chance of k or more hits in n tries of chance p, 0 < p < 1."""
    logs = (math.log(p), math.log1p(-p))
    ways = (math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k, n + 1))
    return min(1.0, sum(math.exp(w + i * logs[0] + (n - i) * logs[1]) for i, w in enumerate(ways, k)))
