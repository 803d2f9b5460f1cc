"""How good a detector's boxes are: average precision, what one picture adds to it, and boxes against boxes.

AP is COCO's (Lin et al. 2014): of each label, precision at 101 recalls, interpolated; the mean over labels
that have a true box. Which box is right is pycocotools' word. AP is no mean over pictures, so its intervals
are the jackknife's: ``ap_figures`` gives each picture a figure whose mean is AP, and whose spread, and that
of the difference of two models' figures, is the jackknife's. Intervals over clips and groups, of one model
and paired, are then those of any other task. AP is a smooth function of sums over pictures, which is all the
jackknife needs (Miller 1974, "The jackknife: a review"); a bootstrap would cost a thousand evaluations and
give an interval that differs from run to run. Neither knows of changes that few pictures show, so a loss has
an interval that counts with them, of one box each (``edgepv.metrics.stats.interval_of_changes``).
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgepv.base.optional import need
from edgepv.data.annotated import TrueBoxes
from edgepv.data.boxes import Detections, detections, row_scores
from edgepv.data.truth import EvalClip
from edgepv.metrics.stats import jackknifed, mean_accuracy, mean_interval, share_interval
from edgepv.types import Accuracy, ClassScore, Flips, ModelSpec

OVERLAPS = np.linspace(0.5, 0.95, 10)  # COCO's: AP50 is that of the first, AP50:95 the mean over all
RECALLS = np.linspace(0, 1, 101)  # COCO's
LEAST_SCORE = 0.01  # boxes below it come after all that matter: AP50 of YOLOX-nano is the same to 3 digits
SAME_BOX = 0.5  # intersection over union above which two models' boxes are one


@dataclass(frozen=True)
class Matches:
    """Boxes of one label that were found on all clips, D, and which of them are right.

    label: its name. scores: (D,). clip: (D,) which clip each is on. hit, ignored: (overlaps, D) whether it is
    the box of something true at each of ``OVERLAPS``, or of others, and whether it does not count. support:
    (clips,) how many are true.
    """

    label: str
    scores: np.ndarray
    clip: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    support: np.ndarray


def found_on(
    spec: ModelSpec,
    answers: Sequence[np.ndarray],
    clips: Sequence[EvalClip],
    least: float | None = LEAST_SCORE,
) -> list[list[Detections]]:
    """What a model's answers say is on every frame of every clip; see ``edgepv.data.boxes.detections``."""
    return [
        [detections(spec, one, clip.size, least) for one in by_name(spec, rows[: len(clip.frames)])]
        for rows, clip in zip(answers, clips, strict=True)
    ]


def by_name(spec: ModelSpec, rows: np.ndarray) -> list[dict[str, np.ndarray]]:
    """A detector's answers (T, values) of whole outputs side by side, as outputs by name of each frame."""
    sizes = [int(np.prod(answer.shape)) for answer in spec.answers]
    edges = np.cumsum(sizes)[:-1]
    frames = [np.split(row.reshape(-1), edges) for row in rows]
    return [
        {a.name: part.reshape(a.shape[1:]) for a, part in zip(spec.answers, parts, strict=True)}
        for parts in frames
    ]


def telling_rows(spec: ModelSpec, answers: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A detector's answers (T, ...), 0 in the rows that by ``like``, the original's, say nothing.

    Thousands of cells where nothing is found hold sizes of nothing; what becomes of those changes no box.
    Where a detector has several outputs all rows count.
    """
    if len(spec.answers) > 1:
        return answers
    said = np.stack([row_scores(spec, one) >= LEAST_SCORE for one in by_name(spec, like)])
    by_rows = answers.shape[1:] == spec.answer.shape[1:] and said.shape[1] == answers.shape[1]
    told: np.ndarray = answers * (said[:, :, None] if by_rows else said[:, None])
    return told


def ap_figures(spec: ModelSpec, answers: Sequence[np.ndarray], clips: Sequence[EvalClip]) -> np.ndarray:
    """(clips,) figures, of which AP50 is the mean and the jackknife's error the standard error of that mean.

    Those of a clip are AP50 and n - 1 times how far it falls without the clip, from the mean of that.
    """
    table = matches(spec, found_on(spec, answers, clips), truth_of(clips))
    return jackknife(table, len(clips), [clip.group or f"clip {i}" for i, clip in enumerate(clips)])


def box_change(truth: Sequence[Sequence[TrueBoxes]]) -> float:
    """By how much one true box, found or lost, moves the figure of its clip (``ap_figures``).

    truth: of every frame of every clip. A box is worth its share of its label's boxes, and a label its share
    of AP. Of several labels it is the mean over boxes, each counted as often as it is worth: rare ones are a
    large part of what may be lost. 0 without a true box.
    """
    boxes = Counter(
        label
        for frames in truth
        for one in frames
        for label, crowd in zip(one.labels, one.crowd, strict=True)
        if not crowd
    )
    return len(truth) * sum(1 / count for count in boxes.values()) / max(len(boxes), 1) ** 2


def rated(
    spec: ModelSpec, answers: Sequence[np.ndarray], clips: Sequence[EvalClip], groups: Sequence[str] | None
) -> Accuracy:
    """AP50 over the clips with its interval, AP50:95 beside it, and every label at the scores of the spec."""
    truth = truth_of(clips)
    table = matches(spec, found_on(spec, answers, clips), truth)
    said = matches(spec, found_on(spec, answers, clips, None), truth)
    classes = tuple(_class_score(one) for one in said)
    whole = mean_accuracy(jackknife(table, len(clips), groups), spec.metric, groups)
    return replace(whole, ap50_95=float(mean_ap(table, np.ones(len(clips))).mean()), classes=classes)


def truth_of(clips: Sequence[EvalClip]) -> list[tuple[TrueBoxes, ...]]:
    """True boxes of every frame of clips of which they are known."""
    return [clip.truth for clip in clips if isinstance(clip.truth, tuple)]


def jackknife(table: Sequence[Matches], count: int, groups: Sequence[str] | None = None) -> np.ndarray:
    """The figures of ``ap_figures`` from what was matched on ``count`` clips; zeros without a true box.

    groups: which clips belong together.
    """
    return jackknifed(lambda kept: float(mean_ap(table, kept)[0]), count, groups)


def mean_ap(table: Sequence[Matches], weights: np.ndarray, overlaps: int = len(OVERLAPS)) -> np.ndarray:
    """(overlaps,) AP at each of those matched at, the mean over labels with a true box; 0 where none is.

    weights: (clips,) how often each clip counts.
    """
    rows = [average_precision(one, weights) for one in table if (one.support * weights).sum() > 0]
    return np.mean(rows, 0) if rows else np.zeros(overlaps)


def average_precision(one: Matches, weights: np.ndarray) -> np.ndarray:
    """(overlaps,) of one label; equal to pycocotools' where every weight is 1."""
    order = np.argsort(-one.scores, kind="stable")
    times = weights[one.clip[order]] * ~one.ignored[:, order]
    hits = np.cumsum(times * one.hit[:, order], 1)
    recall = hits / (one.support * weights).sum()
    precision = hits / np.maximum(np.cumsum(times, 1), np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    at = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall])
    padded = np.concatenate([envelope, np.zeros((len(envelope), 1))], 1)
    ap: np.ndarray = np.take_along_axis(padded, at, 1).mean(1)
    return ap


def matches(
    spec: ModelSpec,
    found: Sequence[Sequence[Detections]],
    truth: Sequence[Sequence[TrueBoxes]],
    overlaps: np.ndarray = OVERLAPS,
) -> list[Matches]:
    """Which boxes are right at each of ``overlaps``, of every label that has a true box."""
    pictures = [(i, f, t) for i, both in enumerate(zip(found, truth, strict=True)) for f, t in zip(*both)]
    labels = sorted({spec.labels.index(name) for _, _, t in pictures for name in t.labels})
    judged = _judged(spec, [(f, t) for _, f, t in pictures], labels, overlaps)
    clip = np.array([i for i, _, _ in pictures])
    return [_of_label(spec.labels[label], judged[label], clip, len(truth), len(overlaps)) for label in labels]


def _of_label(
    label: str, judged: Sequence[dict[str, np.ndarray] | None], clip: np.ndarray, count: int, overlaps: int
) -> Matches:
    """From what pycocotools says of one label on every picture; None: nothing is there or found."""
    some = [(i, one) for i, one in zip(clip, judged, strict=True) if one is not None]
    support = np.zeros(count)
    for i, one in some:
        support[i] += int((np.asarray(one["gtIgnore"]) == 0).sum())
    none = np.zeros((overlaps, 0), bool)
    return Matches(
        label=label,
        scores=np.concatenate([np.zeros(0), *(one["dtScores"] for _, one in some)]),
        clip=np.concatenate([np.zeros(0, int), *(np.full(len(one["dtScores"]), i) for i, one in some)]),
        hit=np.concatenate([none, *(np.asarray(one["dtMatches"]) > 0 for _, one in some)], 1),
        ignored=np.concatenate([none, *(np.asarray(one["dtIgnore"], bool) for _, one in some)], 1),
        support=support,
    )


def _judged(
    spec: ModelSpec,
    pictures: Sequence[tuple[Detections, TrueBoxes]],
    labels: Sequence[int],
    overlaps: np.ndarray,
) -> dict[int, list[dict[str, np.ndarray] | None]]:
    """Label -> pycocotools' word on every picture. Boxes are shares of it, which changes no overlap."""
    coco = need("pycocotools.coco", extra="compress").COCO
    judge = need("pycocotools.cocoeval", extra="compress").COCOeval
    if not labels:
        return {}
    true: list[dict[str, object]] = []
    said: list[dict[str, object]] = []
    for number, (found, truth) in enumerate(pictures):
        for box, name, crowd in zip(truth.boxes, truth.labels, truth.crowd):
            true.append(_row(len(true) + 1, number, spec.labels.index(name), box) | {"iscrowd": int(crowd)})
        for box, label, score in zip(found.boxes, found.labels, found.scores):
            said.append(_row(len(said) + 1, number, int(label), box) | {"iscrowd": 0, "score": float(score)})
    images = [{"id": number} for number in range(len(pictures))]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        for rows in (true, said):
            side = coco()
            side.dataset = {"images": images, "annotations": rows, "categories": [{"id": i} for i in labels]}
            side.createIndex()
            sides.append(side)
        judged = judge(*sides, iouType="bbox")
        judged.params.iouThrs = overlaps
        judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ["all"]
        judged.params.maxDets = [spec.boxes.most if spec.boxes else 100]
        judged.evaluate()
    rows = iter(judged.evalImgs)
    return {label: [next(rows) for _ in images] for label in sorted(labels)}


def _row(number: int, picture: int, label: int, box: np.ndarray) -> dict[str, object]:
    """A box as pycocotools has it."""
    x1, y1, x2, y2 = (float(v) for v in box)
    sides = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    return {"id": number, "image_id": picture, "category_id": label, **sides}


def _class_score(one: Matches) -> ClassScore:
    """Precision and recall at overlap 0.5."""
    counts = ~one.ignored[0]
    counted, hits, real = int(counts.sum()), int((counts & one.hit[0]).sum()), int(one.support.sum())
    precision = hits / counted if counted else None
    recall = hits / real if real else None
    f1 = 2 * hits / (counted + real) if counted + real else None
    return ClassScore(one.label, precision, recall, f1, real)


def alike(one: Sequence[Sequence[Detections]], other: Sequence[Sequence[Detections]]) -> tuple[float, float]:
    """(share of two models' boxes that both have, see ``shared``, median difference of their scores).

    Without any box: (1, 0).
    """
    total, apart = 0, []
    for mine, theirs in ((a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y)):
        total += len(mine) + len(theirs)
        apart += [abs(float(mine.scores[i]) - float(theirs.scores[j])) for i, j in shared(mine, theirs)]
    return (2 * len(apart) / total if total else 1.0), float(np.median(apart)) if apart else 0.0


def shared(mine: Detections, theirs: Detections) -> list[tuple[int, int]]:
    """Places of the boxes of one picture that two models have.

    Of one label, with an overlap above ``SAME_BOX``; each is taken once, the surest first.
    """
    both, left = [], list(range(len(theirs)))
    for i, (box, label) in enumerate(zip(mine.boxes, mine.labels)):
        same = [j for j in left if theirs.labels[j] == label]
        overlap, j = max(((_overlap(box, theirs.boxes[j]), j) for j in same), default=(0.0, -1))
        if overlap > SAME_BOX:
            left.remove(j)
            both.append((i, j))
    return both


def changed_boxes(
    spec: ModelSpec, original: Sequence[np.ndarray], variant: Sequence[np.ndarray], clips: Sequence[EvalClip]
) -> Flips | None:
    """Of 1,000 boxes that either model says at the spec's scores, those that one of them alone says.

    original, variant: answers of each clip. A box that both say counts once, see ``shared``; how much surer
    the variant is of those is told too. Nothing is expected from near misses: what INT8 does to a box is no
    small change (docs/tasks.md). Intervals over the clips' groups. None where neither says a box.
    """
    changed: list[bool] = []
    surer: list[float] = []
    of_box: list[str] = []
    of_pair: list[str] = []
    sides = (found_on(spec, rows, clips, None) for rows in (original, variant))
    for k, (clip, one, other) in enumerate(zip(clips, *sides, strict=True)):
        group = clip.group or f"clip {k}"
        for mine, theirs in zip(one, other, strict=True):
            both = shared(mine, theirs)
            alone = len(mine) + len(theirs) - 2 * len(both)
            changed += [False] * len(both) + [True] * alone
            of_box += [group] * (len(both) + alone)
            surer += [float(theirs.scores[j]) - float(mine.scores[i]) for i, j in both]
            of_pair += [group] * len(both)
    if not changed:
        return None
    count = 1000 * float(np.mean(changed))
    low, high = (1000 * end for end in share_interval(np.array(changed), of_box))
    drift = None
    if surer:
        ends = mean_interval(np.array(surer), of_pair)
        drift = (float(np.mean(surer)), *ends) if np.isfinite(ends[0]) else None
    figures = (count, low, high)
    return Flips(
        *figures, len(changed), sum(changed), figures, len(set(of_box)), "counted", of="boxes", surer=drift
    )


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    inside = float(np.prod(sides.clip(0)))
    return inside / (float(np.prod(one[2:] - one[:2])) + float(np.prod(other[2:] - other[:2])) - inside)
