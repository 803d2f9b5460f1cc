"""How good a segmenter's masks are: mean intersection over union, and what one clip adds to it.

mIoU is Pascal VOC's (Everingham et al. 2010): of each label the px that both masks give it, over those that
one of them does, both summed over all clips; the mean over labels that have a true px. Masks are compared at
the true ones' resolution, the nearest answer at each px, without the px that are not judged.

It is no mean over clips, so its intervals are the jackknife's, as AP's (``edgepv.metrics.detection``), and
no narrower than a few large changes would make them, of a size as those seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgepv.data.masks import UNJUDGED, names_of, said, sampled
from edgepv.data.truth import EvalClip, Masks
from edgepv.metrics.stats import jackknifed, mean_accuracy
from edgepv.types import Accuracy, ClassScore, ModelSpec


def iou_figures(
    spec: ModelSpec, answers: Sequence[np.ndarray], clips: Sequence[EvalClip], late: int, first: int
) -> np.ndarray:
    """(clips,) figures, of which mIoU is the mean and the jackknife's error the standard error of that mean.

    answers: (T, C, h, w) of each clip. late: frames from the one that an answer is about to the one that it
    comes after. first: of the frames that are judged.
    """
    groups = [clip.group or f"clip {i}" for i, clip in enumerate(clips)]
    return jackknife(spec, confusions(spec, answers, clips, late, first), groups)


def clip_change(before: np.ndarray, after: np.ndarray) -> float:
    """By how much one changed clip moves its figure, from those (clips,) of two models.

    As much as the clip that moved most, beside what all share; where none moved, it may be all that one has,
    as nothing tells. See ``edgepv.metrics.stats.interval_of_changes``.
    """
    loss = before - after
    return float(np.abs(loss - np.median(loss)).max()) or 1.0


def rated(
    spec: ModelSpec,
    answers: Sequence[np.ndarray],
    clips: Sequence[EvalClip],
    late: int,
    first: int,
    groups: Sequence[str] | None,
) -> Accuracy:
    """mIoU over the clips with its interval, and precision, recall and F1 of the px of every label."""
    tables = confusions(spec, answers, clips, late, first)
    whole = mean_accuracy(jackknife(spec, tables, groups), spec.metric, groups)
    return replace(whole, classes=_classes(spec, tables))


def confusions(
    spec: ModelSpec, answers: Sequence[np.ndarray], clips: Sequence[EvalClip], late: int = 0, first: int = 0
) -> np.ndarray:
    """(clips, L, L) px of each clip by their true label (row) and what the answer says (column).

    L: how many numbers a mask may hold. A clip that is over before ``first``, as a picture is, is judged by
    the last answer to it, which is about its last frame.
    """
    count = len(names_of(spec))
    tables = np.zeros((len(clips), count, count), np.int64)
    for table, rows, clip in zip(tables, answers, clips, strict=True):
        assert isinstance(clip.truth, Masks), "only clips with masks are judged"
        masks = clip.truth.of_frame
        judged = range(first, min(len(masks), len(rows) - late))
        for i, row in [(i, i + late) for i in judged] or [(len(masks) - 1, len(rows) - 1)]:
            if (mask := masks[i]) is not None:
                table += confusion(spec, rows[row], mask, clip.size)
    return tables


def confusion(spec: ModelSpec, scores: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(L, L) px of one picture of (height, width) ``size``, from scores (C, h, w) and its true mask."""
    count = len(names_of(spec))
    answered = sampled(spec, said(spec, scores), size, (mask.shape[0], mask.shape[1]))
    judged = mask != UNJUDGED
    pairs = mask[judged].astype(np.int64) * count + answered[judged]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def jackknife(spec: ModelSpec, tables: np.ndarray, groups: Sequence[str] | None = None) -> np.ndarray:
    """The figures of ``iou_figures`` from the clips' confusions. groups: which clips belong together."""
    return jackknifed(lambda kept: mean_iou(spec, tables[kept].sum(0)), len(tables), groups)


def mean_iou(spec: ModelSpec, table: np.ndarray) -> float:
    """mIoU of a confusion (L, L): the mean over the spec's labels with a true px; 0 where there is none."""
    hits, true, answered = np.diag(table), table.sum(1), table.sum(0)
    there = [k for k in _labels(spec) if true[k] > 0]
    return float(np.mean([hits[k] / (true[k] + answered[k] - hits[k]) for k in there])) if there else 0.0


def shows_labels(spec: ModelSpec, tables: np.ndarray) -> bool:
    """Whether any px that is judged truly has one of the spec's labels: without, there is no mIoU."""
    return bool(tables.sum((0, 2))[_labels(spec)].any())


def _labels(spec: ModelSpec) -> range:
    """The numbers of a mask that mean one of the spec's labels."""
    return range(len(names_of(spec)) - len(spec.labels), len(names_of(spec)))


def _classes(spec: ModelSpec, tables: np.ndarray) -> tuple[ClassScore, ...]:
    """Of every label, by px; n: clips that show it."""
    total = tables.sum(0)
    rows = []
    for k in _labels(spec):
        hits, true, answered = (int(n) for n in (total[k, k], total[k].sum(), total[:, k].sum()))
        f1 = 2 * hits / (true + answered) if true else None
        precision, recall = (hits / n if n else None for n in (answered, true))
        rows.append(
            ClassScore(names_of(spec)[k], precision, recall, f1, int((tables[:, k].sum(1) > 0).sum()))
        )
    return tuple(rows)


def same_places(spec: ModelSpec, one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Share of all places at which two models' answers, (T, C, h, w) of each clip, say the same label."""
    same = [
        float((said(spec, a) == said(spec, b)).mean())
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y)
    ]
    return float(np.mean(same))
