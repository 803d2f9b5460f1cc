"""Intervals that say what a small test set can and cannot tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from edgepv.types import Accuracy, ClassScore, Metric, PairedDrop, Verdict

Z95 = 1.959963984540054

SQNR_CAP_DB = 200.0  # what equal numbers are given; JSON has no infinity


def wilson(hits: float, n: int, z: float = Z95) -> tuple[float, float]:
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


def paired_interval(lost: int, won: int, n: int, z: float = Z95) -> tuple[float, float]:
    """95 % interval of (lost - won) / n for paired answers, as fractions of 1.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design": the score interval. With no disagreement at all it is still
    +- z^2 / (n + z^2), because n clips without a flip do not prove that the next will not flip.
    """
    if n <= 0:
        raise ValueError("a paired interval needs at least one clip")
    point = (lost - won) / n

    def score(delta: float) -> float:
        a, b = 2.0 * n, -lost - won + (2 * n - lost + won) * delta
        c = -won * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * q + delta * (1 - delta))
        if variance <= 0:
            return 0.0 if lost - won == n * delta else math.copysign(math.inf, lost - won - n * delta)
        return (lost - won - n * delta) / math.sqrt(variance)

    def edge(outside: float, sign: float) -> float:
        inside = point
        for _ in range(60):
            middle = (inside + outside) / 2
            if sign * score(middle) < z:
                inside = middle
            else:
                outside = middle
        return inside

    return edge(-1.0, 1.0), edge(1.0, -1.0)


def paired_drop(
    reference_right: Sequence[bool], variant_right: Sequence[bool], *, max_drop: float
) -> PairedDrop:
    """Accuracy lost on the same clips, in points, and whether ``max_drop`` points are kept.

    pass: the whole interval is at or below max_drop. fail: the whole interval is above it.
    Anything else is inconclusive, and ``clips_needed`` says how many clips would settle it at the
    disagreement seen so far.
    """
    if len(reference_right) != len(variant_right):
        raise ValueError("a paired test needs the same clips on both sides")
    n = len(reference_right)
    lost = sum(a and not b for a, b in zip(reference_right, variant_right))
    won = sum(b and not a for a, b in zip(reference_right, variant_right))
    low, high = (100 * edge for edge in paired_interval(lost, won, n))
    verdict: Verdict = "inconclusive"
    if high <= max_drop:
        verdict = "pass"
    elif low > max_drop:
        verdict = "fail"
    needed = None if verdict != "inconclusive" else _clips_needed(lost, won, n, max_drop)
    return PairedDrop(100 * (lost - won) / n, low, high, n, lost, won, max_drop, verdict, needed)


def _clips_needed(lost: int, won: int, n: int, max_drop: float) -> int | None:
    """Smallest clip count at which today's rates would be decided; None if never below 10^6."""
    size = n
    while size < 1_000_000:
        size = math.ceil(size * 1.05) + 1
        scale = size / n
        low, high = paired_interval(round(lost * scale), round(won * scale), size)
        if 100 * high <= max_drop or 100 * low > max_drop:
            return size
    return None


def accuracy(truth: Sequence[int], scores: np.ndarray, labels: Sequence[str]) -> Accuracy:
    """Top-1 with its interval, macro F1, ROC-AUC, per-class table and confusion matrix.

    truth: n label indices. scores: (n, classes), larger is likelier. confusion[t][p] counts clips
    of label t answered p. ROC-AUC is one-vs-rest, averaged over the classes that occur.
    """
    n, classes = scores.shape
    answers = scores.argmax(axis=1)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (np.asarray(truth), answers), 1)
    hits = int(np.trace(confusion))
    low, high = wilson(hits, n)
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


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t for ``freedom`` degrees of freedom, 1 or more; to three decimals.

    Beyond the table by the expansion of Abramowitz and Stegun, 26.7.5.
    """
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over clips, by Student's t: it holds for four clips as for four hundred.

    One clip tells nothing of another: then the interval is everything.
    Source: Student 1908, "The Probable Error of a Mean".
    """
    if len(values) < 2:
        return -math.inf, math.inf
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - student(len(values) - 1) * error, mean + student(len(values) - 1) * error


def mean_accuracy(values: np.ndarray, metric: Metric) -> Accuracy:
    """Mean of one figure a clip, with its interval; one clip alone has none but itself."""
    mean = float(values.mean())
    low, high = mean_interval(values) if len(values) > 1 else (mean, mean)
    if metric == "delta_avg":
        low, high = max(low, 0.0), min(high, 1.0)
    return Accuracy(mean, low, high, len(values), metric=metric)


def mean_drop(
    before: np.ndarray, after: np.ndarray, *, max_drop: float, unit: Literal["points", "dB"]
) -> PairedDrop:
    """Mean loss over the same clips, with its interval, and whether ``max_drop`` is kept.

    before, after: (n,) figures in ``unit``, larger is better. Verdicts as in ``paired_drop``.
    """
    loss = before - after
    low, high = mean_interval(loss)
    verdict: Verdict = "pass" if high <= max_drop else "fail" if low > max_drop else "inconclusive"
    worse, better = int((loss > 0).sum()), int((loss < 0).sum())
    mean = float(loss.mean())
    needed = None if verdict != "inconclusive" else _means_needed(loss, max_drop)
    if len(loss) < 2:
        low = high = mean
    return PairedDrop(mean, low, high, len(loss), worse, better, max_drop, verdict, needed, unit)


def _means_needed(loss: np.ndarray, max_drop: float) -> int | None:
    """Clips at which today's mean and spread would be decided; None if never below 10^6."""
    apart = abs(max_drop - float(loss.mean()))
    if len(loss) < 2 or apart == 0:
        return None
    spread = float(loss.std(ddof=1)) / apart
    needed = len(loss) + 1
    while student(needed - 1) * spread > math.sqrt(needed):
        needed = max(needed + 1, math.ceil((Z95 * spread) ** 2))
        if needed >= 1_000_000:
            return None
    return needed


def worded(value: float, metric: Metric) -> str:
    """A figure of a metric as a person reads it: "78.8 %", or "31.25 dB"."""
    return f"{value:.2f} dB" if metric == "psnr" else f"{100 * value:.1f} %"


METRIC_NAMES: Mapping[Metric, str] = {"top1": "top-1", "delta_avg": "delta-avg", "psnr": "PSNR"}


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
