"""Answers that change on video without labels: expected from all answers, and counted.

An answer's margin is the original's best score less its second. It flips where the variant's change d of that
margin is below -m. At the border, m = 0, the two best labels may be called either way round, so half of what
changes is a loss: to first order f(0) E[|d| | m = 0] / 2 of all answers flip, f the density of margins at 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgepv.metrics.margins import (
    CHANGE_WIDTH,
    FEWEST,
    LEAST,
    Border,
    bell,
    change_at_border,
    margins,
    silverman,
)
from edgepv.metrics.stats import share_interval, student
from edgepv.types import Flips

LARGE = 1.25  # of Silverman's width: beyond it flips are no longer in proportion to the change (about 10 dB)


def flips_per_1000(original: np.ndarray, variant: np.ndarray, groups: Sequence[str]) -> Flips:
    """Expected changes of the answer in 1,000 answers, with a 95 % interval, and those that were counted.

    original, variant: scores (n, classes) for the same frames. groups: the clip, camera or film that each
    answer belongs to, the units of every error. Where too few answers are close, or the changes are too
    large, the figure is the counted one and ``why`` says so.

    The change at the border, and the limits of the product, as in ``margins.expected_loss``. The density
    where it ends: a linear boundary kernel (Jones 1993, "Simple boundary correction for kernel density
    estimation"), as wide as for one answer a group. tests/metrics/test_flips.py holds it against known truth.
    """
    best = original.argmax(1)
    m, d = margins(original, best), margins(variant, best) - margins(original, best)
    changed = m + d < 0
    which = np.unique(groups, return_inverse=True)[1]
    n, count = len(m), int(which.max()) + 1
    low, high = share_interval(changed, groups)
    counted = (1000 * float(changed.mean()), 1000 * low, 1000 * high)
    figures, why = counted, "one group of clips"
    if count > 1:
        expected, why = _expected(m, d, which, count)
        figures = expected or counted
    return Flips(
        *figures, n, int(changed.sum()), counted, count, f"counted, because of {why}" if why else None
    )


def _expected(
    m: np.ndarray, d: np.ndarray, which: np.ndarray, count: int
) -> tuple[tuple[float, float, float] | None, str]:
    """(flips in 1,000 and the ends of their interval, or None; what forbids to tell them, or "")."""
    width = silverman(np.concatenate([m, -m]), count)
    if width == 0 or len(m) < LEAST:
        return None, "too few answers, or all alike"
    border = _border(m, which, width)
    if border.near < FEWEST:
        return None, "too few answers near the border between two labels"
    weight = np.exp(-0.5 * (m / (CHANGE_WIDTH * width)) ** 2)
    if math.sqrt(float((weight * d**2).sum() / weight.sum())) > LARGE * width:
        return None, "changes as large as the margins"
    change, error, freedom = change_at_border(m, np.abs(d), weight, which, count)
    change, t = max(change, 0.0), student(freedom)
    f = border.density
    ends = [math.hypot(f * t * error, change * (end - f)) / 2 for end in border.limits(t)]
    flips = f * change / 2
    return (1000 * flips, 1000 * max(flips - ends[0], 0.0), 1000 * (flips + ends[1])), ""


def _border(m: np.ndarray, which: np.ndarray, width: float) -> Border:
    """Of margins ``m`` (n,) that are never below 0, by Jones's kernel: the moments 1/2, 1/sqrt(2 pi), 1/2."""
    u, first = m / width, 1 / math.sqrt(2 * math.pi)
    return Border.of((0.5 - first * u) / (0.25 - first**2) * bell(u) / width, which)
