"""How well a classifier's score tells each label from the rest, whatever the threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepv.metrics.stats import roc_auc
from edgepv.types import Curve, OperatingPoint

MOST_POINTS = 33
"""Points of a curve that are kept: the areas are taken over all, and a chart shows no more."""
MOST_LABELS = 6
"""Labels that have a curve, those of the most clips."""


def curves(
    labels: Sequence[str], truth: Sequence[int], scores: np.ndarray, alarm: tuple[str, float, str] | None
) -> tuple[Curve, ...]:
    """One curve for each label against the rest; of two labels one, whose mirror is the other's.

    truth: (n,) label numbers. scores: (n, classes) in 0 to 1. alarm: (label, threshold, who says so) of the
    threshold that is used. Labels that no clip or every clip has are left out.
    """
    right = np.asarray(truth)
    if len(labels) == 2:
        wanted = [labels.index(alarm[0]) if alarm and alarm[0] in labels else 0]
    else:
        counts = np.bincount(right, minlength=len(labels))
        wanted = sorted(np.argsort(-counts, kind="stable")[:MOST_LABELS].tolist())
    found = []
    for i in wanted:
        one = curve(labels[i], right == i, scores[:, i])
        if one and alarm and alarm[0] == labels[i]:
            point = operating_point(right == i, scores[:, i], alarm[1], alarm[2])
            one = Curve(**{**vars(one), "at": point})
        found += [one] if one else []
    return tuple(found)


def curve(label: str, positive: np.ndarray, score: np.ndarray) -> Curve | None:
    """The curve of one label. positive: (n,) bool, score: (n,). None if one side has no clip.

    Average precision: the precision at each threshold, weighted by what recall it adds; no line is drawn
    between points, which would flatter (Davis and Goadrich 2006, "The relationship between Precision-Recall
    and ROC curves").
    """
    auc = roc_auc(positive, score)
    if auc is None:
        return None
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of each tie
    hits = np.cumsum(positive[order])[last]
    said = last + 1
    recall, others = hits / positive.sum(), (said - hits) / (~positive).sum()
    precision = hits / said
    average = float((np.diff(recall, prepend=0) * precision).sum())
    kept = np.unique(np.linspace(0, len(last) - 1, MOST_POINTS).astype(int))
    table = np.stack([score[order][last], others, recall, precision], 1)[kept]
    points = tuple((a, b, c, d) for a, b, c, d in np.round(table, 4).tolist())
    return Curve(label, len(score), int(positive.sum()), auc, average, points)


def operating_point(positive: np.ndarray, score: np.ndarray, threshold: float, source: str) -> OperatingPoint:
    """What an alarm at or above ``threshold`` catches of these clips, of which both kinds are there."""
    raised = score >= threshold
    precision = float(positive[raised].mean()) if raised.any() else None
    return OperatingPoint(
        threshold, float(raised[positive].mean()), float(raised[~positive].mean()), precision, source
    )
