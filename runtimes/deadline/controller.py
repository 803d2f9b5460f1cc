"""Which variant the next frame gets: the largest that will be in time on a machine as slow as it is now."""

from __future__ import annotations

import math
from collections.abc import Sequence

MARGIN = 0.95
"""Share of the budget that the expected time may fill: the rest is for waking up and telling."""
SIGMAS = 2.0
"""Deviations above the mean that are expected: one frame in forty takes longer, if times are normal."""
PATIENCE = 12
"""Frames in a row that must agree before a step up: a second, at 12 a second."""
BACK_OFF = 24
"""Frames after a miss without a step up: two seconds, in which a load may come again."""
LONGEST_BACK_OFF = 8 * BACK_OFF
"""Frames at most, however often the step up fails: a machine that is idle again is used within seconds."""
FORGET = 0.2
"""Weight of the newest frame in mean and variance: half of what is known is of the last three frames."""
QUIET = 4 * BACK_OFF
"""Frames without a miss after which the back-off is short again."""


class Controller:
    """Picks a rung of a ladder of variants, rung 0 being the largest.

    One number describes the machine: its slow-down, time taken over time profiled, kept as an exponentially
    weighted mean and variance over all rungs, so that a rung that is not running is judged by the one that
    is. Down at once, to the first rung whose profile * (mean + 2 deviations) is within 95 % of the budget.
    Up by one rung, after 12 frames in a row agreed, and not within 24 frames of a miss; misses that come
    again and again double that. Source: the slow-down factor and its variance are from ALERT (Wan et al.,
    USENIX ATC 2020); the hysteresis is ours.

    profiles_ms: what one frame takes on the idle machine, preprocessing and inference, per rung.
    """

    def __init__(self, profiles_ms: Sequence[float]) -> None:
        self._profiles = tuple(profiles_ms)
        self._alive = list(range(len(profiles_ms)))
        self.mean, self.variance = 1.0, 0.0
        self.rung = 0
        self._agreed = self._hold = self._since_miss = 0
        self._back_off = BACK_OFF

    def expected_ms(self, rung: int) -> float:
        """What the rung will take, to be safe: profile * (mean + 2 deviations)."""
        return self._profiles[rung] * (self.mean + SIGMAS * math.sqrt(self.variance))

    def choose(self, budget_ms: float) -> int:
        """The rung for a frame that must be done within ``budget_ms``."""
        fits = [r for r in self._alive if self.expected_ms(r) <= MARGIN * budget_ms]
        wanted = fits[0] if fits else self._alive[-1]
        self._hold = max(0, self._hold - 1)
        if wanted >= self.rung:
            self.rung, self._agreed = wanted, 0
            return self.rung
        self._agreed += 1
        if self._agreed >= PATIENCE and not self._hold:
            self.rung, self._agreed = self._alive[self._alive.index(self.rung) - 1], 0
        return self.rung

    def observe(self, rung: int, took_ms: float, *, missed: bool) -> None:
        """Learn from one frame. A call that was stopped counts with the time it had."""
        delta = took_ms / self._profiles[rung] - self.mean
        self.mean += FORGET * delta
        self.variance = (1 - FORGET) * (self.variance + FORGET * delta * delta)
        self._since_miss = 0 if missed else self._since_miss + 1
        if missed:
            self._back_off = min(2 * self._back_off, LONGEST_BACK_OFF) if self._hold else self._back_off
            self._hold = self._back_off
        elif self._since_miss > QUIET:
            self._back_off = BACK_OFF

    def exclude(self, rung: int) -> bool:
        """Never choose a rung again, because it fails. False if none would be left."""
        if rung in self._alive and len(self._alive) > 1:
            near = self._alive.index(rung)
            self._alive.remove(rung)
            if self.rung == rung:
                self.rung = self._alive[min(near, len(self._alive) - 1)]
            return True
        return rung not in self._alive
