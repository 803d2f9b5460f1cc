"""How good a model's answers are, whatever its task.

What is true of a clip, one figure for each clip, and what two models' figures on the same clips can tell.

A classifier is judged by top-1. A tracker by delta-avg: the share of visible points within 1, 2, 4, 8 and 16
px of the truth on a frame of 256 x 256, averaged over the five (Doersch et al. 2022, "TAP-Vid"). A restorer
by the PSNR of its pictures, in dB. A detector by AP50, see ``edgepv.metrics.detection``, a segmenter by mIoU,
see ``edgepv.metrics.segmentation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from edgepv.base.registry import resolve
from edgepv.base.tasks import task_of
from edgepv.data.frames import pictures
from edgepv.data.truth import EvalClip, Points, aspect
from edgepv.errors import UsageError
from edgepv.metrics import segmentation
from edgepv.metrics.detection import box_change, rated, truth_of
from edgepv.metrics.margins import margin_drop, margins
from edgepv.metrics.pictures import psnr_db
from edgepv.metrics.stats import accuracy, mean_accuracy, mean_drop
from edgepv.types import Accuracy, ModelSpec, PairedDrop

SIDE = 256  # px; TAP-Vid measures on frames of 256 x 256
TOLD = 1.0  # points that a clip takes from AP or mIoU, or gives it, beside the others, to be counted
WITHIN_PX = (1, 2, 4, 8, 16)  # TAP-Vid's thresholds


class Pictures(NamedTuple):
    """Which pictures of a restorer are judged, and where they stand among its answers.

    late: frames from the one a picture shows to the one that is answered by it. first: of the pictures that
    are judged. behind: pictures at the end of a clip that are not.
    """

    late: int
    first: int
    behind: int

    @classmethod
    def of(cls, warmup: int, late: int) -> Pictures:
        """Those of one model: all that it shows after its warm-up."""
        return cls(late, max(0, warmup - 1 - late), late)

    def beside(self, other: Pictures) -> Pictures:
        """The same answers, judged by the pictures that ``other`` shows, too."""
        return Pictures(self.late, max(self.first, other.first), max(self.behind, other.behind))

    @property
    def needed(self) -> int:
        """Frames of a clip beyond those that are judged."""
        return self.first + self.behind


def figures(
    spec: ModelSpec,
    answers: Sequence[np.ndarray],
    clips: Sequence[EvalClip],
    warmup: int,
    pictures: Pictures | None = None,
) -> np.ndarray:
    """One figure for each clip: a label's margin (above 0 is right), delta-avg in [0, 1], or PSNR in dB.

    Of a detector, figures whose mean is AP50, of a segmenter mIoU. pictures: of a restorer, which are judged;
    None: all after its warm-up.
    """
    if task_of(spec).finds:
        found: np.ndarray = resolve(task_of(spec).figure)(spec, answers, clips)
        return found
    figure, which = resolve(task_of(spec).figure), pictures or Pictures.of(warmup, spec.lag)
    if task_of(spec).segments:
        shares: np.ndarray = figure(spec, answers, clips, which.late, which.first)
        return shares
    both = zip(answers, clips, strict=True)
    return np.array([figure(spec, rows, clip.truth, warmup, which) for rows, clip in both])


def margin(spec: ModelSpec, rows: np.ndarray, truth: int, warmup: int, which: Pictures) -> float:
    """Of a classifier: the margin of the true label over the others, of the mean over valid frames."""
    return float(margins(clip_scores(rows, warmup)[None], [truth])[0])


def delta_avg(spec: ModelSpec, rows: np.ndarray, truth: Points, warmup: int, which: Pictures) -> float:
    """Of a tracker, TAP-Vid's: over all points and frames after the first, where the points were given."""
    frames, count = truth.position.shape[:2]
    apart = distance_px(spec, rows[:frames, :count], truth.position)
    seen = truth.visible[1:]
    return float(np.mean([(apart[1:][seen] < px).mean() for px in WITHIN_PX]))


def distance_px(spec: ModelSpec, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far apart two sets of places (..., K, 2 or more) are, in px of a frame of 256 x 256: (..., K)."""
    apart = (one[..., :2] - other[..., :2]) * [SIDE / aspect(spec), SIDE]
    px: np.ndarray = np.sqrt((apart**2).sum(-1))
    return px


def picture_psnr_db(
    spec: ModelSpec, rows: np.ndarray, truth: np.ndarray, warmup: int, which: Pictures
) -> float:
    """Of a restorer. Raises UsageError if a clip is over before the first picture that counts."""
    stop = len(truth) - which.behind
    if stop <= which.first:
        raise UsageError(
            f"a clip of {len(truth)} frames shows no picture that {spec.name} could be judged by: it takes "
            f"{which.needed + 1}. Give longer clips, or --stream window"
        )
    restored = pictures(spec, rows[which.late + which.first : which.late + stop])
    return psnr_db(truth[which.first : stop], restored)


def shows(
    spec: ModelSpec, answers: Sequence[np.ndarray], clips: Sequence[EvalClip], warmup: int
) -> tuple[int, float]:
    """(the lag, in frames, at which a restorer's pictures are nearest to the clean frames, by how many dB).

    The dB are how much nearer than at the lag that its spec says.
    """
    every = [Pictures.of(warmup, lag) for lag in range(spec.frames)]
    by_lag = []
    for one in every:
        alike = Pictures(one.late, max(p.first for p in every), max(p.behind for p in every))
        by_lag.append(figures(spec, answers, clips, warmup, alike).mean())
    best = int(np.argmax(by_lag))
    return best, float(by_lag[best] - by_lag[spec.lag])


def not_applied(drop: PairedDrop) -> PairedDrop:
    """A loss measured without clips of some label: one that is sure stays, else nothing was shown."""
    return drop if drop.verdict == "fail" else replace(drop, verdict="not applied", clips_needed=None)


def groups_of(clips: Sequence[EvalClip]) -> list[str] | None:
    """The group of every clip; None if that of one is not known."""
    known = [c.group for c in clips if c.group is not None]
    return known if len(known) == len(clips) else None


def rate(
    spec: ModelSpec,
    answers: Sequence[np.ndarray],
    clips: Sequence[EvalClip],
    warmup: int,
    pictures: Pictures | None = None,
) -> Accuracy:
    """The model's metric over the clips, with its interval, taken over their groups; see ``figures``."""
    groups = groups_of(clips)
    if task_of(spec).classifies:
        table = np.stack([clip_scores(rows, warmup) for rows in answers])
        return accuracy([int(c.truth) for c in clips], table, spec.labels, groups)  # type: ignore[arg-type]
    if task_of(spec).finds:
        return rated(spec, answers, clips, groups)
    if task_of(spec).segments:
        which = pictures or Pictures.of(warmup, spec.lag)
        return segmentation.rated(spec, answers, clips, which.late, which.first, groups)
    return mean_accuracy(figures(spec, answers, clips, warmup, pictures), spec.metric, groups)


def change_of(spec: ModelSpec, clips: Sequence[EvalClip]) -> float | None:
    """By how much one changed answer moves the figure of its clip at least; None: by any amount.

    Of a detector what a box is worth, see ``edgepv.metrics.stats.interval_of_changes``; of a segmenter
    ``task_drop`` looks itself.
    """
    return box_change(truth_of(clips)) if task_of(spec).finds else None


def task_drop(
    spec: ModelSpec,
    before: np.ndarray,
    after: np.ndarray,
    max_drop: float,
    groups: Sequence[str] | None = None,
    change: float | None = None,
) -> PairedDrop:
    """What ``after`` loses against ``before``, both from ``figures`` on the same clips of these groups.

    change: of those clips, see ``change_of``.
    """
    if task_of(spec).classifies:
        return margin_drop(before, after, max_drop=max_drop, groups=groups)
    unit = task_of(spec).unit
    scale = 100.0 if unit == "points" else 1.0
    if task_of(spec).segments:
        change = segmentation.clip_change(before, after)
    change = None if change is None else scale * change
    drop = mean_drop(
        scale * before, scale * after, max_drop=max_drop, unit=unit, groups=groups, change=change
    )
    if not (task_of(spec).finds or task_of(spec).segments):
        return drop
    loss = scale * (before - after)  # of a clip whose answers are as they were: what all clips share
    lost, won = (int((sign * (loss - np.median(loss)) > TOLD).sum()) for sign in (1, -1))
    return replace(drop, lost=lost, won=won)


def frame_drop(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], clips: Sequence[EvalClip], max_drop: float
) -> PairedDrop:
    """What a classifier's answers after each frame lose, which are what a camera raises alarms with.

    pairs: of each clip, logits (frames, classes) of the original and of a variant for the same frames. Errors
    are taken over the clips' groups, or over clips where those are not known. It is another figure than the
    loss of clips, whose answer is a mean over frames: a clip's frames do not tell what changes at a clip's
    border (benchmarks/gate.md).
    """
    known = groups_of(clips) or [f"clip {k}" for k in range(len(clips))]
    groups = [group for group, (rows, _) in zip(known, pairs, strict=True) for _ in rows]
    truth = [clip.truth for clip, (rows, _) in zip(clips, pairs, strict=True) for _ in rows]
    before, after = (
        margins(np.concatenate(side), np.asarray(truth, int)) for side in zip(*pairs, strict=True)
    )
    return margin_drop(before, after, max_drop=max_drop, groups=groups, independent=len(clips))


def clip_scores(logits: np.ndarray, warmup: int) -> np.ndarray:
    """One answer for a whole clip from the answers a streamed model gave after each frame.

    logits: (T, classes), one row per frame in order. Returns (classes,): the mean of the valid rows,
    those from frame ``warmup`` on, because earlier answers saw fewer frames than the model needs.
    Raises UsageError if there is no valid row; feed a short clip through ``hold_last`` first.
    """
    if len(logits) < warmup:
        raise UsageError(
            f"a clip of {len(logits)} frames is shorter than the {warmup} the model needs before its "
            "first answer. Use longer clips, or repeat the last frame"
        )
    mean: np.ndarray = logits[warmup - 1 :].mean(axis=0)
    return mean
