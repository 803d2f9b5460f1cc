"""Intervals that say what a small test set can and cannot tell."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

from edgepv.base.late import np
from edgepv.base.tasks import TASKS
from edgepv.types import Accuracy, ClassScore, Metric, PairedDrop, TaskSpec

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution: two-sided 95 %

SQNR_CAP_DB = 200.0  # what equal numbers are given; JSON has no infinity


def wilson(hits: float, n: float, z: float = Z95) -> tuple[float, float]:
    """95 % interval of a proportion, as fractions of 1.

    Source: Wilson 1927; behaves at 0 and n hits, where the normal interval has no width.
    Raises ValueError if n is 0: nothing was measured, and nothing has no interval.
    """
    if n <= 0:
        raise ValueError("an interval needs at least one clip")
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(lost: float, won: float, n: float, z: float = Z95) -> tuple[float, float]:
    """95 % interval of (lost - won) / n for paired answers, as fractions of 1.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design": the score interval. With no disagreement at all it is still
    +- z^2 / (n + z^2), because n clips without a flip do not prove that the next will not flip.
    """
    if n <= 0:
        raise ValueError("a paired interval needs at least one clip")
    point = (lost - won) / n

    def edge(outside: float, sign: float) -> float:
        inside = point
        for _ in range(60):
            middle = (inside + outside) / 2
            if sign * _tango(lost, won, n, middle) < z:
                inside = middle
            else:
                outside = middle
        return inside

    return edge(-1.0, 1.0), edge(1.0, -1.0)


def _tango(lost: float, won: float, n: float, delta: float) -> float:
    """Tango's score of a true difference ``delta``: standard errors that the one seen is above it."""
    a, b = 2.0 * n, -lost - won + (2 * n - lost + won) * delta
    c = -won * delta * (1 - delta)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + delta * (1 - delta))
    if variance <= 0:
        return 0.0 if lost - won == n * delta else math.copysign(math.inf, lost - won - n * delta)
    return (lost - won - n * delta) / math.sqrt(variance)


def group_count(groups: Sequence[str] | None) -> int | None:
    """How many groups the clips come in; None if that is not known, or every clip is a group of its own."""
    count = len(set(groups)) if groups is not None else 0
    return count if groups is not None and count < len(groups) else None


def variance_of_mean(values: np.ndarray, which: np.ndarray) -> float:
    """Variance of the mean of ``values`` (n,): the larger of that over clips and that over groups.

    Few groups look more alike than they are. Over groups by leaving out each once (the jackknife, CR3): with
    groups of one size the usual one, over groups less one; a group of most of the clips tells little of its
    own spread. Source: MacKinnon, Nielsen and Webb 2023, "Leverage, influence, and the jackknife in clustered
    regression models".
    """
    n, sizes = len(values), np.bincount(which)
    moved = np.bincount(which, values - values.mean()) / (n - sizes)
    over_groups = float((moved**2).sum()) * (len(sizes) - 1) / len(sizes)
    return max(float(values.var(ddof=1)) / n, over_groups)


def independent(values: np.ndarray, groups: Sequence[str] | None) -> float:
    """How many independent clips would tell as much about the mean of ``values`` as these n in groups.

    n over the design effect (Kish 1965, "Survey Sampling": the variance of the mean over that of as many
    independent clips), and less where few groups, or few that are large, tell little of their spread: times
    (z / t)^2, see ``_over_groups``. Source: Korn and Graubard 1998, "Confidence intervals for proportions
    with small expected number of positive counts estimated from survey data". n where all values are equal:
    no spread was seen, and none can be estimated.
    """
    n = len(values)
    plain = float(np.std(values)) ** 2 / n
    if groups is None or group_count(groups) is None or plain == 0:
        return float(n)
    variance, freedom = _over_groups(values, groups)
    return n / max(1.0, variance / plain) * (Z95 / student(freedom)) ** 2


def jackknifed(
    value: Callable[[np.ndarray], float], count: int, groups: Sequence[str] | None = None
) -> np.ndarray:
    """(count,) figures whose mean is ``value`` of all clips, and whose spread is the jackknife's.

    value: of the clips that are kept, (count,) bool; a smooth function of sums over clips, no mean over them.
    groups: which clips belong together. The figures of a group's clips are moved so that their mean says how
    far the value falls without all of them: that is less than the sum of what each of them does, where they
    are views of one picture. Source: Miller 1974, "The jackknife: a review".
    """
    whole = value(np.ones(count, bool))
    figures: np.ndarray = whole + _pulls(value, np.arange(count))
    if groups is None or group_count(groups) in (None, 1):
        return figures
    which = np.unique(groups, return_inverse=True)[1]
    mean = np.bincount(which, figures) / np.bincount(which)
    moved: np.ndarray = figures + (whole + _pulls(value, which) - mean)[which]
    return moved


def _pulls(value: Callable[[np.ndarray], float], which: np.ndarray) -> np.ndarray:
    """(groups,) how far each group of clips, ``which`` (clips,), pulls a value to itself; their mean is 0."""
    sizes = np.bincount(which)
    if len(sizes) == 1:
        return np.zeros(1)
    others = len(which) - sizes
    without = np.array([value(which != group) for group in range(len(sizes))])
    pulls: np.ndarray = others / sizes * ((others * without).sum() / others.sum() - without)
    return pulls


def side_of(low: float, high: float, limit: float) -> Literal["pass", "fail", "inconclusive"]:
    """On which side of a limit a loss is by its whole interval: "pass" at or below, "fail" above it."""
    return "pass" if high <= limit else "fail" if low > limit else "inconclusive"


def paired_drop(
    reference_right: Sequence[bool],
    variant_right: Sequence[bool],
    *,
    max_drop: float,
    groups: Sequence[str] | None = None,
) -> PairedDrop:
    """Accuracy lost on the same clips, in points, and whether ``max_drop`` points are kept.

    pass: the whole interval is at or below max_drop. fail: the whole interval is above it.
    Anything else is inconclusive, and ``clips_needed`` says how many clips would settle it at the
    disagreement seen so far. groups: which clips belong together; one group alone is always inconclusive.
    """
    if len(reference_right) != len(variant_right):
        raise ValueError("a paired test needs the same clips on both sides")
    n = len(reference_right)
    lost = sum(a and not b for a, b in zip(reference_right, variant_right))
    won = sum(b and not a for a, b in zip(reference_right, variant_right))
    points, count = 100 * (lost - won) / n, group_count(groups)
    if count == 1:
        return PairedDrop(points, points, points, n, lost, won, max_drop, "inconclusive", groups=1)
    change = np.subtract(np.asarray(reference_right, float), np.asarray(variant_right, float))
    share = independent(change, groups) / n
    low, high = (100 * edge for edge in paired_interval(share * lost, share * won, share * n))
    verdict = side_of(low, high, max_drop)
    needed = None if verdict != "inconclusive" else clips_needed(lost, won, n, max_drop, share)
    return PairedDrop(points, low, high, n, lost, won, max_drop, verdict, needed, groups=count)


def clips_needed(lost: int, won: int, n: int, max_drop: float, share: float) -> int | None:
    """Smallest clip count at which today's rates would be decided; None if never below 10^6.

    share: of the clips, how many count as independent. An interval lies on one side of ``max_drop`` where the
    score there is beyond ``Z95``: its edges need not be found.
    """
    size = n
    while size < 1_000_000:
        size = math.ceil(size * 1.05) + 1
        scale = size / n
        counts = (share * round(lost * scale), share * round(won * scale), share * size)
        if abs(_tango(*counts, max_drop / 100)) >= Z95:
            return size
    return None


def share_interval(right: np.ndarray, groups: Sequence[str] | None) -> tuple[float, float]:
    """95 % interval of the share of ``right`` (n,), by Wilson over the clips that count as independent.

    One group tells nothing of another: then both ends are the share itself.
    """
    hits, n = int(np.sum(right)), len(right)
    if group_count(groups) == 1:
        return hits / n, hits / n
    share = independent(np.asarray(right, float), groups) / n
    return wilson(share * hits, share * n)


def accuracy(
    truth: Sequence[int], scores: np.ndarray, labels: Sequence[str], groups: Sequence[str] | None = None
) -> Accuracy:
    """Top-1 with its interval, macro F1, ROC-AUC, per-class table and confusion matrix.

    truth: n label indices. scores: (n, classes), larger is likelier. confusion[t][p] counts clips
    of label t answered p. ROC-AUC is one-vs-rest, averaged over the classes that occur. groups: which clips
    belong together (a camera, a sink, a take, a film); None if nobody knows.
    """
    n, classes = scores.shape
    answers = scores.argmax(axis=1)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (np.asarray(truth), answers), 1)
    hits = int(np.trace(confusion))
    low, high = share_interval(answers == np.asarray(truth), groups)
    table = tuple(_class_score(confusion, i, labels[i]) for i in range(classes))
    f1s = [row.f1 for row in table if row.f1 is not None]
    by_class = [roc_auc(np.asarray(truth) == i, scores[:, i]) for i in range(classes)]
    aucs = [auc for auc in by_class if auc is not None]
    return Accuracy(
        value=hits / n,
        low=low,
        high=high,
        n=n,
        macro_f1=float(np.mean(f1s)) if f1s else None,
        roc_auc=float(np.mean(aucs)) if aucs else None,
        classes=table,
        confusion=tuple(tuple(int(v) for v in row) for row in confusion),
        groups=group_count(groups),
    )


def _class_score(confusion: np.ndarray, i: int, label: str) -> ClassScore:
    right, said, real = confusion[i, i], confusion[:, i].sum(), confusion[i].sum()
    precision = float(right / said) if said else None
    recall = float(right / real) if real else None
    f1 = float(2 * right / (said + real)) if real else None
    return ClassScore(label, precision, recall, f1, int(real))


def roc_auc(positive: np.ndarray, score: np.ndarray) -> float | None:
    """Chance that a positive outranks a negative (ties count half); None if one side is empty."""
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((rank[positive].sum() - p * (p + 1) / 2) / (p * n))


T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantile of Student's t for 1 to 30 degrees of freedom."""


def student(freedom: float) -> float:
    """97.5 % quantile of Student's t for ``freedom`` degrees of freedom, 1 or more; to three decimals.

    Beyond the table by the expansion of Abramowitz and Stegun, 26.7.5; between two of its lines a straight
    one, which is a little above.
    """
    if freedom < len(T95):
        below = math.floor(freedom)
        return T95[below - 1] + (freedom - below) * (T95[below] - T95[below - 1])
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_interval(values: np.ndarray, groups: Sequence[str] | None = None) -> tuple[float, float]:
    """95 % interval of a mean over clips, by Student's t: it holds for four clips as for four hundred.

    groups: which clips belong together. One clip, or one group, tells nothing of another: then the interval
    is everything.
    Source: Student 1908, "The Probable Error of a Mean"; over groups see ``_over_groups``.
    """
    if 1 in (group_count(groups), len(values)):
        return -math.inf, math.inf
    variance, freedom = _of_mean(values, groups)
    mean, half = float(np.mean(values)), student(freedom) * math.sqrt(variance)
    return mean - half, mean + half


def _of_mean(values: np.ndarray, groups: Sequence[str] | None) -> tuple[float, float]:
    """(variance of the mean of ``values`` (n,), its degrees of freedom); groups: as in ``mean_interval``."""
    if groups is None or group_count(groups) is None:
        return float(np.var(values, ddof=1)) / len(values), float(len(values) - 1)
    return _over_groups(values, groups)


def interval_of_changes(
    loss: np.ndarray, change: float, groups: Sequence[str] | None = None
) -> tuple[float, float]:
    """95 % interval of a mean loss (n,) that is made of changes, of which few may have been seen.

    change: by how much one of them moves the figure of its clip. The spread of the clips knows nothing of
    what is rare, and where nothing changed there is none. But a mean loss of d takes d / p changes, each
    worth p of the mean, and so many vary from draw to draw by the root of their number: where d is true, the
    variance of the mean is p d at least, and what changes the other way adds its own. The interval has all d
    from which the loss is no further than Student's t times the root of that, or of the variance that was
    seen where it is larger: without any change up to t^2 p, as Tango's score interval (``paired_interval``)
    has it of flips. Over groups as ``mean_interval``, which this never is within. benchmarks/detection.py
    holds it against known truth.
    """
    ends = mean_interval(loss, groups)
    if ends[0] == -math.inf:
        return ends
    squared, piece = student(_of_mean(loss, groups)[1]) ** 2, change / len(loss)
    alone = groups is None or group_count(groups) is None
    which = np.arange(len(loss)) if alone else np.unique(np.asarray(groups), return_inverse=True)[1]
    moved = np.bincount(which, loss - np.median(loss)) / len(loss)
    far = []
    for sign, end in zip((-1, 1), ends):
        mean = sign * float(np.mean(loss))
        against = float((np.minimum(sign * moved, 0) ** 2).sum())
        under = (squared * piece) ** 2 + 4 * squared * (piece * mean + against)
        root = mean + (squared * piece + math.sqrt(max(under, 0.0))) / 2
        far.append(sign * max(sign * end, root) if under >= 0 and root > 0 else end)
    return far[0], far[1]


def _over_groups(values: np.ndarray, groups: Sequence[str]) -> tuple[float, float]:
    """(variance of the mean of ``values`` (n,) that come in groups, its degrees of freedom).

    As many degrees of freedom as groups of equal size would have: a group of most of the clips leaves few.
    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    _, which = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(which)
    freedom = min(len(sizes) - 1, len(values) ** 2 / float((sizes**2).sum()))
    return variance_of_mean(values, which), freedom


def mean_accuracy(values: np.ndarray, metric: Metric, groups: Sequence[str] | None = None) -> Accuracy:
    """Mean of one figure a clip, with its interval; one clip or one group alone has none but itself."""
    mean = float(values.mean())
    low, high = mean_interval(values, groups)
    if low == -math.inf:
        low = high = mean
    if unit_of(metric) == "points":
        low, high = max(low, 0.0), min(high, 1.0)
    return Accuracy(mean, low, high, len(values), metric=metric, groups=group_count(groups))


def mean_drop(
    before: np.ndarray,
    after: np.ndarray,
    *,
    max_drop: float,
    unit: Literal["points", "dB"],
    groups: Sequence[str] | None = None,
    change: float | None = None,
) -> PairedDrop:
    """Mean loss over the same clips, with its interval, and whether ``max_drop`` is kept.

    before, after: (n,) figures in ``unit``, larger is better. Verdicts and groups as in ``paired_drop``.
    change: by how much one changed answer moves the figure of its clip, see ``interval_of_changes``; None
    where the figures move by any amount.
    """
    loss = before - after
    low, high = mean_interval(loss, groups) if change is None else interval_of_changes(loss, change, groups)
    verdict = side_of(low, high, max_drop)
    worse, better = int((loss > 0).sum()), int((loss < 0).sum())
    mean = float(loss.mean())
    needed = None
    if low == -math.inf:
        low = high = mean
    elif verdict == "inconclusive":
        needed = _means_needed(loss, max_drop, (high - low) / 2 / student(len(loss) - 1))
    counted = group_count(groups)
    return PairedDrop(mean, low, high, len(loss), worse, better, max_drop, verdict, needed, unit, counted)


def _means_needed(loss: np.ndarray, max_drop: float, error: float) -> int | None:
    """Clips at which today's mean and its error would be decided; None if never below 10^6.

    error: of the mean, as that over as many clips of their own.
    """
    apart = abs(max_drop - float(loss.mean()))
    if apart == 0:
        return None
    spread = error * math.sqrt(len(loss)) / apart
    needed = len(loss) + 1
    while student(needed - 1) * spread > math.sqrt(needed):
        needed = max(needed + 1, math.ceil((Z95 * spread) ** 2))
        if needed >= 1_000_000:
            return None
    return needed


def counted(n: int, groups: int | None, what: str = "") -> str:
    """ "146", or "146 in 16 groups" where they come in groups; what: the noun behind the number, "clips"."""
    told = f"{n:,} {what}".strip()
    return told if groups is None else f"{told} in {groups} group{'s' if groups > 1 else ''}"


def worded(value: float, metric: Metric) -> str:
    """A figure of a metric as a person reads it: "78.8 %", "31.25 dB", or the bare number."""
    unit = unit_of(metric)
    if unit is None:
        return f"{value:.4g}"
    return f"{value:.2f} dB" if unit == "dB" else f"{100 * value:.1f} %"


def metric_name(metric: Metric) -> str:
    """What reports call a metric."""
    task = _judged_by(metric)
    return task.metric_name if task else metric


def unit_of(metric: Metric) -> Literal["points", "dB"] | None:
    """The unit of a loss; in points a figure is a fraction of 1. None for a metric that nobody knows here."""
    task = _judged_by(metric)
    return task.unit if task else None


@functools.cache
def _judged_by(metric: Metric) -> TaskSpec | None:
    return next((task for task in TASKS.every()[0].values() if task.metric == metric), None)


def percentiles_ms(seconds: Sequence[float]) -> tuple[float, float, float]:
    """p50, p95 and p99 of call times, in ms."""
    p50, p95, p99 = np.percentile(np.asarray(seconds) * 1e3, [50, 95, 99])
    return float(p50), float(p95), float(p99)


def sqnr_db(reference: np.ndarray, got: np.ndarray) -> float:
    """Signal power over error power, 10 log10, over every element; ``SQNR_CAP_DB`` when equal."""
    reference, got = np.asarray(reference, np.float64), np.asarray(got, np.float64)
    if not np.isfinite(got).all():
        return -SQNR_CAP_DB
    error = float(((reference - got) ** 2).sum())
    signal = float((reference**2).sum())
    if error == 0:
        return SQNR_CAP_DB
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / error), -SQNR_CAP_DB, SQNR_CAP_DB))


def cross_entropy(scores: np.ndarray, truth: Sequence[int]) -> float:
    """Mean -log p of the right label, in nats."""
    shifted = scores - scores.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(truth)), list(truth)].mean())


UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))  # bytes in each, the largest first


def figure(value: float) -> str:
    """A number with three significant digits: 0.0123, 1.23, 123, 12,300."""
    if not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "-infinite"}.get(value, "not a number")
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def size(count: float) -> str:
    """Bytes as a person reads them; 1 MB is 10^6 bytes."""
    for scale, unit in UNITS:
        if count >= scale:
            return f"{figure(count / scale)} {unit}"
    return f"{count:.0f} B"
