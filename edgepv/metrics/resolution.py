"""What the clips at hand can tell of a variant, before there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgepv.metrics.margins import expected_loss, margins
from edgepv.metrics.stats import counted, group_count, paired_drop

ASSUMED_DB = 25.0  # SQNR of a good INT8 variant's scores
DRAWS = 21  # variants that are imagined; the median of their intervals hardly moves with more
SHARED = 0.5  # of the variance of a change: what clips of a group have in common


@dataclass(frozen=True)
class Resolution:
    """What ``n`` clips in ``groups`` can tell.

    points: the smallest loss that is told from none. needed: clips that would keep ``max_drop`` points apart
    from none; None if not even a million would, or if these do.
    """

    points: float
    n: int
    groups: int | None
    max_drop: float
    needed: int | None = None

    def told(self) -> str:
        """In a sentence."""
        clips = counted(self.n, self.groups, "clips")
        if self.groups == 1:
            return f"{clips} cannot decide the gate: nobody knows how another group would do"
        told = f"{clips} tell a loss of {self.points:.1f} points from none at {ASSUMED_DB:g} dB"
        if self.needed is None:
            return told
        return f"{told}; about {self.needed:,} would settle the allowed {self.max_drop:g}"


def resolution(
    scores: np.ndarray, truth: Sequence[int], groups: Sequence[str] | None, max_drop: float
) -> Resolution:
    """What clips can tell of a variant at ``ASSUMED_DB`` that loses nothing.

    scores: (n, classes) of the original. truth: n indices of labels. groups: which clips belong together.
    The gate itself judges variants that are drawn: the original's scores with Gaussian noise, of which clips
    of a group share half.
    """
    n, count, rng = len(scores), group_count(groups), np.random.default_rng(0)
    before = margins(scores, truth)
    which = np.unique(groups, return_inverse=True)[1] if groups is not None and count else np.arange(n)
    size = math.sqrt(float((scores**2).mean())) * 10 ** (-ASSUMED_DB / 20)

    def imagined() -> np.ndarray:
        own, common = (rng.normal(size=(k, scores.shape[1])) for k in (n, which.max() + 1))
        noise = math.sqrt(1 - SHARED) * own + math.sqrt(SHARED) * common[which]
        return margins(scores + size * noise, truth)

    if count == 1:
        return Resolution(math.inf, n, count, max_drop)
    found = [expected_loss(before, imagined(), groups) for _ in range(DRAWS)]
    halves = [one.high - one.points for one in found if not one.why]
    if 2 * len(halves) < DRAWS:
        right = (before > 0).tolist()
        drop = paired_drop(right, right, max_drop=max_drop, groups=groups)
        return Resolution(drop.high, n, count, max_drop, drop.clips_needed)
    points = float(np.median(halves))
    more = points > max_drop > 0
    return Resolution(points, n, count, max_drop, math.ceil(n * (points / max_drop) ** 2) if more else None)
