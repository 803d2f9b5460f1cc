"""Accuracy lost, from margins: what counting flips throws away.

A clip's margin is the score of its true label less the best other score: above 0 it is answered rightly. Let
m be the original's margin and m + d the variant's. A clip flips where they differ in sign; counting flips
uses one bit of each clip, and on a hundred clips cannot tell 1 point from none. But the share of clips that
flip is known from those that do not. With S a step from 0 to 1 smoothed over the width of a kernel k, the
accuracy lost is

    -f(0) E[d | m = 0] + E[S(m) - S(m + d) + k(m) d],

f the density of margins: the mean change of the clips that stand at the border, times how many stand there,
and what the whole change of each clip costs beyond its first order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgepv.base.late import np
from edgepv.metrics.stats import Z95, group_count, paired_drop, side_of, student, variance_of_mean
from edgepv.types import Counted, PairedDrop

DENSITY_WIDTH = 1.33  # of Silverman's rule: a kernel of fourth order takes a wider one than his Gaussian
CHANGE_WIDTH = 2.5  # of Silverman's rule: the change of a margin varies slowly with the margin
LARGE = 1.25  # of the width: beyond it the step is too smooth for the change (about 8 dB of SQNR)
LEAST = 8  # clips: fewer tell no density
FEWEST = 1.0  # margins that count at the border: below, the density there is a guess


@dataclass(frozen=True)
class ExpectedLoss:
    """Accuracy expected to be lost, in points, with its 95 % interval; why: what forbids to rely on it."""

    points: float
    low: float
    high: float
    why: str | None = None


def margins(scores: np.ndarray, truth: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n,) score of the true label less the best other one, of scores (n, classes).

    A tie is answered by the first of the best, and has the smallest margin of that sign.
    """
    rows, true = np.arange(len(scores)), np.asarray(truth)
    others = np.array(scores, np.float64)
    others[rows, true] = -np.inf
    margin = scores[rows, true] - others.max(1)
    tie = np.where(scores.argmax(1) == true, 1, -1) * np.finfo(np.float64).tiny
    return np.where(margin == 0, tie, margin)


def expected_loss(
    before: np.ndarray,
    after: np.ndarray,
    groups: Sequence[str] | None = None,
    independent: int | None = None,
) -> ExpectedLoss:
    """What ``after`` loses against ``before``, margins (n,) of the same clips, in points of accuracy.

    groups: clips that belong together (a camera, a take, a film), which are the units of every error; None
    where each clip stands for itself. independent: how many of n count for the width of the kernel, such as
    the clips that n frames come from; None: all. ``why`` is set where too few margins are near 0, or the
    changes are too large, for the expansion to hold.

    The derivative of a probability: Hong 2009, "Estimating quantile sensitivities". f(0) and S: a Gaussian
    kernel of fourth order, wider than Silverman's rule (1986); its gap to that of second order is what
    smoothing may hide, and widens the interval (Calonico, Cattaneo and Farrell 2018, "On the effect of bias
    estimation on coverage accuracy in nonparametric inference"). E[d | m = 0]: local linear regression (Fan
    and Gijbels 1996). Errors: sandwich (HC3, MacKinnon and White 1985) over groups, with the degrees of
    freedom of the groups that stand at the border, see ``_freedom``. Limits of the product from those of its
    factors, a score interval for the density: Zou and Donner 2008, "Construction of confidence limits about
    effect measures: a general approach". benchmarks/gate.py holds it against known truth.
    """
    m, d = np.asarray(before, np.float64), np.subtract(after, before, dtype=np.float64)
    n, count = len(m), group_count(groups)
    which = np.arange(n) if count is None or groups is None else np.unique(groups, return_inverse=True)[1]
    width = silverman(m, independent)
    if width == 0 or n < LEAST:
        return ExpectedLoss(math.nan, -math.inf, math.inf, "too few clips, or all alike")
    border = _border(m, which, DENSITY_WIDTH * width)
    if border.near < FEWEST:
        return ExpectedLoss(math.nan, -math.inf, math.inf, "too few clips near the border between answers")
    weight = np.exp(-0.5 * (m / (CHANGE_WIDTH * width)) ** 2)
    shift, shift_error, freedom = change_at_border(m, d, weight, which, count)
    t = student(freedom)
    rest = _beyond_first_order(m, d, DENSITY_WIDTH * width)
    rest_error = math.sqrt(variance_of_mean(rest, which))
    lost, f = -shift, border.density
    thin, thick = border.limits(Z95 if count is None else t)
    upper, lower = (thick, thin) if lost >= 0 else (thin, thick)
    ends = [
        math.sqrt((f * t * shift_error) ** 2 + (lost * (end - f)) ** 2 + (t * rest_error) ** 2)
        + border.hidden * abs(shift)
        for end in (lower, upper)
    ]
    points = f * lost + float(rest.mean())
    size = math.sqrt(float((weight * d**2).sum() / weight.sum()))
    why = "changes as large as the margins" if size > LARGE * DENSITY_WIDTH * width else None
    return ExpectedLoss(100 * points, 100 * (points - ends[0]), 100 * (points + ends[1]), why)


def margin_drop(
    before: np.ndarray,
    after: np.ndarray,
    *,
    max_drop: float,
    groups: Sequence[str] | None = None,
    independent: int | None = None,
) -> PairedDrop:
    """Accuracy lost between margins (n,) of the same clips, and whether ``max_drop`` points are kept.

    pass, fail: the whole interval of ``expected_loss`` is at or below, or above, max_drop. It decides nothing
    against the count: where counting the clips is sure of the contrary, it is inconclusive. Where the
    margins cannot tell, counting decides (``edgepv.metrics.stats.paired_drop``), and ``why`` says so.
    groups, independent: as in ``expected_loss``.
    """
    counted = paired_drop((before > 0).tolist(), (after > 0).tolist(), max_drop=max_drop, groups=groups)
    if counted.groups == 1:
        return counted
    loss = expected_loss(before, after, groups, independent)
    if loss.why:
        return replace(counted, why=f"counted, because of {loss.why}")
    verdict = side_of(loss.low, loss.high, max_drop)
    if {verdict, counted.verdict} == {"pass", "fail"}:
        verdict = "inconclusive"
    return replace(
        counted,
        points=loss.points,
        low=loss.low,
        high=loss.high,
        verdict=verdict,
        clips_needed=_clips_needed(loss, max_drop, len(before)) if verdict == "inconclusive" else None,
        counted=Counted(counted.points, counted.low, counted.high),
    )


def _clips_needed(loss: ExpectedLoss, max_drop: float, n: int) -> int | None:
    """Clips that would decide today's loss if its interval narrows with their root; None above 10^6."""
    apart = max_drop - loss.points
    half = loss.high - loss.points if apart > 0 else loss.points - loss.low
    if apart == 0 or half <= abs(apart):
        return None
    needed = math.ceil(n * (half / apart) ** 2)
    return needed if needed < 1_000_000 else None


@dataclass(frozen=True)
class Border:
    """How many margins stand at 0, the border between two answers.

    density: of margins at 0. near: margins that count there, as independent ones. hidden: what smoothing may
    hide of the density.
    """

    density: float
    near: float
    hidden: float

    @classmethod
    def of(cls, kernel: np.ndarray, which: np.ndarray, hidden: float = 0.0) -> Border:
        """From what each of n clips, of the groups ``which`` (n,), has in the kernel at 0."""
        f = float(kernel.mean())
        near = f**2 / variance_of_mean(kernel, which) if f > 0 else 0.0
        return cls(f, near, hidden)

    def limits(self, z: float) -> tuple[float, float]:
        """Score interval of the density, ``z`` standard errors wide."""
        spread = z * math.sqrt(self.near + z**2 / 4)
        low, high = (self.density * (self.near + z**2 / 2 + s * spread) / self.near for s in (-1, 1))
        return low, high


def _border(m: np.ndarray, which: np.ndarray, width: float) -> Border:
    """Of margins ``m`` (n,) of both signs, by a Gaussian kernel of fourth order of ``width``."""
    plain = bell(m / width) / width
    fourth = plain * (1.5 - 0.5 * (m / width) ** 2)
    return Border.of(fourth, which, hidden=abs(float(plain.mean() - fourth.mean())))


def silverman(m: np.ndarray, n: int | None = None) -> float:
    """Width of a Gaussian kernel by Silverman's rule, robust against long tails.

    n: how many of ``m`` are independent; None: all.
    """
    apart = float(np.subtract(*np.percentile(m, [75, 25]))) / 1.34
    spread = float(m.std(ddof=1)) if len(m) > 1 else 0.0
    return 0.9 * (min(spread, apart) if apart > 0 else spread) * math.pow(n or len(m), -0.2)


def change_at_border(
    m: np.ndarray, d: np.ndarray, weight: np.ndarray, which: np.ndarray, count: int | None
) -> tuple[float, float, float]:
    """(mean change at margin 0, its standard error, degrees of freedom) by local linear regression.

    Error: the larger of HC3 over clips and of the jackknife over groups, see ``variance_of_mean``.
    """
    x = np.stack([np.ones_like(m), m], 1)
    square = x[:, :, None] * (weight[:, None] * x)[:, None, :]
    inverse = np.linalg.pinv(square.sum(0))
    pull = (weight[:, None] * x) @ inverse  # of each clip on the two coefficients
    found = pull.T @ d
    left = pull[:, 0] * (d - x @ found) / (1 - np.clip((pull * x).sum(1), 0, 0.8))
    variance = float((left**2).sum()) * len(m) / (len(m) - 1)
    if count is not None:
        without = [_sums(part, which) for part in (square, weight[:, None] * x * d[:, None])]
        moved = found[0] - np.stack([np.linalg.pinv(a) @ b for a, b in zip(*without)])[:, 0]
        variance = max(variance, float((moved**2).sum()) * (len(moved) - 1) / len(moved))
    return float(found[0]), math.sqrt(variance), _freedom(pull[:, 0] ** 2, which, count)


def _sums(parts: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Sums of ``parts`` (n, ...) over all groups but one, (groups, ...)."""
    of_each = np.zeros((int(which.max()) + 1, *parts.shape[1:]))
    np.add.at(of_each, which, parts)
    without: np.ndarray = parts.sum(0) - of_each
    return without


def _freedom(pull: np.ndarray, which: np.ndarray, count: int | None) -> float:
    """Degrees of freedom of an error to which each clip adds ``pull`` (n,) times its variance; 1 or more.

    Of a sum of squares of unequal weight: Satterthwaite 1946, "An approximate distribution of estimates of
    variance components"; over groups: Bell and McCaffrey 2002, "Bias reduction in standard errors for linear
    regression with multi-stage samples", of their matrix the diagonal. A group far from the border counts
    for little. Clips that each stand for themselves: as many as would tell as much, less two coefficients.
    """
    if count is None:
        return max(1.0, 1 / float(pull.sum()) - 2)
    groups = np.bincount(which, pull)
    return max(1.0, min(count - 1, float(groups.sum() ** 2 / (groups**2).sum())))


def _beyond_first_order(m: np.ndarray, d: np.ndarray, width: float) -> np.ndarray:
    """(n,) what each change costs beyond its first order, by the smoothed step: S(m) - S(m + d) + k(m) d."""
    x, y = m / width, (m + d) / width
    rest: np.ndarray = _step(x) - _step(y) + bell(x) * (1.5 - 0.5 * x**2) * d / width
    return rest


def bell(x: np.ndarray) -> np.ndarray:
    """The Gaussian kernel."""
    bell: np.ndarray = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    return bell


def _step(x: np.ndarray) -> np.ndarray:
    """The integral of the Gaussian kernel of fourth order: from 0 to 1."""
    erf = np.vectorize(math.erf, otypes=[float])
    step: np.ndarray = 0.5 + 0.5 * erf(x / math.sqrt(2)) + 0.5 * x * bell(x)
    return step
