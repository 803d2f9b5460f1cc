"""What can be reached without a network, on the same clips and by the same figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepv.base.optional import need
from edgepv.base.tasks import task_of
from edgepv.data.frames import pictures
from edgepv.data.masks import names_of
from edgepv.data.truth import EvalClip, Points
from edgepv.metrics.pictures import psnr_db
from edgepv.metrics.segmentation import confusions
from edgepv.metrics.stats import mean_accuracy
from edgepv.metrics.tasks import Pictures, groups_of, rate
from edgepv.types import Baseline, ModelSpec


def baselines(spec: ModelSpec, clips: Sequence[EvalClip], which: Pictures) -> tuple[Baseline, ...]:
    """The method without a network that the task has, on clips of which all is known; () where it has none.

    which: of a restorer, the pictures that its model is judged by, so that both are judged by the same.
    """
    task = task_of(spec)
    if task.classifies:
        return (_most_frequent(spec, clips),)
    if task.segments:
        return (_one_label_everywhere(spec, clips, which),)
    if all(isinstance(c.truth, Points) for c in clips):
        return (_standing_still(spec, clips),)
    return (_interpolated(spec, clips, which),) if task.shows else ()


def _most_frequent(spec: ModelSpec, clips: Sequence[EvalClip]) -> Baseline:
    counts = np.bincount([int(c.truth) for c in clips], minlength=len(spec.labels))  # type: ignore[arg-type]
    answer = np.eye(len(spec.labels), dtype=np.float32)[[int(counts.argmax())]]
    accuracy = rate(spec, [answer] * len(clips), clips, 1)
    told = f"always answers {spec.labels[int(counts.argmax())]}, as {counts.max()} of {len(clips)} clips are"
    return Baseline("most frequent label", told, accuracy)


def _one_label_everywhere(spec: ModelSpec, clips: Sequence[EvalClip], which: Pictures) -> Baseline:
    """The label that most px have; scores (C, 1, 1) of one place cover all of the picture."""
    count = len(spec.labels)
    blank = [np.zeros((len(c.frames), count, 1, 1), np.float32) for c in clips]
    true = confusions(spec, blank, clips, first=which.first).sum((0, 2))
    best = int(true.argmax())
    sure = np.array([np.inf if best else -np.inf], np.float32)  # of one label, beyond whatever score it wants
    scores = np.eye(count, dtype=np.float32)[best] if count > 1 else sure
    answers = [np.broadcast_to(scores[:, None, None], rows.shape) for rows in blank]
    name = names_of(spec)[best] or "nothing"
    told = f"{name} everywhere, as {100 * true[best] / true.sum():.1f} % of the px are"
    return Baseline("most frequent label", told, rate(spec, answers, clips, 1, Pictures(0, which.first, 0)))


def _standing_still(spec: ModelSpec, clips: Sequence[EvalClip]) -> Baseline:
    answers = []
    for clip in clips:
        assert isinstance(clip.truth, Points)
        frames, count = clip.truth.position.shape[:2]
        still = np.broadcast_to(clip.truth.position[:1], (frames, count, 2))
        answers.append(np.concatenate([still, np.ones((frames, count, 1))], -1))
    told = "every point stays where it was given in the first frame"
    return Baseline("standing still", told, rate(spec, answers, clips, 1))


def _interpolated(spec: ModelSpec, clips: Sequence[EvalClip], which: Pictures) -> Baseline:
    """The frames as they come in; of a model that enlarges, by OpenCV's bicubic interpolation."""
    values = [_psnr_of_input(spec, clip, which) for clip in clips]
    accuracy = mean_accuracy(np.array(values), spec.metric, groups_of(clips))
    if spec.answer.shape[-2:] == spec.input.shape[-2:]:
        return Baseline("as it comes in", "the spoilt frame itself", accuracy)
    return Baseline("bicubic", "the small frame, enlarged by bicubic interpolation", accuracy)


def _psnr_of_input(spec: ModelSpec, clip: EvalClip, which: Pictures) -> float:
    cv2 = need("cv2", extra="cpu")
    truth = np.asarray(clip.truth)
    judged = slice(which.first, len(truth) - which.behind)
    height, width = truth.shape[1:3]
    frames = pictures(spec, clip.frames[judged])
    enlarged = [cv2.resize(f, (width, height), interpolation=cv2.INTER_CUBIC) for f in frames]
    return psnr_db(truth[judged], np.stack(enlarged))
