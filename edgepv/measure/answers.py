"""What a variant answers on clips, and the clip's scores."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from edgepv.base.tasks import task_of
from edgepv.data.calibration import to_and_fro
from edgepv.data.frames import hold_last
from edgepv.metrics.tasks import clip_scores
from edgepv.stream import Infer, Stepper, Tensors, roll
from edgepv.types import ModelSpec, Variant


def clip_answers(
    infer: Infer, variant: Variant, clips: Iterable[np.ndarray], starts: Iterable[Tensors] = ()
) -> list[np.ndarray]:
    """Answers after every frame of every clip, streamed frame by frame as a camera would.

    clips: (T, C, H, W) float32 each, preprocessed; short ones go on, see ``filled``. starts: states that a
    clip begins with, one for each clip; none: all begin as the model says.
    Returns one array per clip: (T, classes) of logits, (T, K, 3) of tracks, (T, 3, H, W) of pictures, (T,
    N, values) of boxes, or (T, values) where a detector answers them in several outputs, side by side. A
    classifier's window is not computed before it is full: those rows are the first valid one.
    """
    stepper, name = Stepper(infer, variant.spec, variant.stream), variant.spec.answer.name
    windowed = variant.stream is None and task_of(variant.spec).classifies
    answers = []
    for clip, start in itertools.zip_longest(clips, starts):
        frames = filled(clip, variant, stepper.warmup)
        if windowed:
            answers.append(_windows(stepper, frames, name))
        else:
            rows = [_together(out, variant.spec) for _, out in roll(stepper, frames, start)]
            answers.append(np.concatenate(rows))
    return answers


def _together(out: Tensors, spec: ModelSpec) -> np.ndarray:
    """The answer that is judged; of a detector, all that its boxes are read from."""
    if spec.boxes is None or len(spec.answers) == 1:
        return out[spec.answer.name]
    return np.concatenate([out[one.name].reshape(1, -1) for one in spec.answers], 1)


def _windows(stepper: Stepper, frames: np.ndarray, name: str) -> np.ndarray:
    """Answers of a window after every frame of a clip, those before it is full as the first one."""
    stepper.reset()
    early = stepper.warmup - 1
    for frame in frames[:early]:
        stepper.remember(frame[None])
    rows = [stepper.step(frame[None])[name] for frame in frames[early:]]
    return np.concatenate([rows[0]] * early + rows)


def filled(clip: np.ndarray, variant: Variant, warmup: int) -> np.ndarray:
    """A clip (T, C, H, W) that is long enough for an answer; longer ones are as they are.

    To what was made to step, a clip shorter than its warm-up is played to and fro until there are as many
    valid answers as the clip model's window gives: a still picture is not what it is to be judged by. For
    all others the last frame is held.
    """
    stream = variant.stream
    if stream is None or stream.exactness is None or not task_of(variant.spec).classifies:
        return hold_last(clip, warmup)
    if len(clip) >= warmup:
        return clip
    return to_and_fro(clip, warmup + max(0, len(clip) - variant.spec.frames))


def scores(logits: Sequence[np.ndarray], warmup: int) -> np.ndarray:
    """One row of scores per clip, (clips, classes): the mean of the valid frames' logits."""
    return np.stack([clip_scores(rows, warmup) for rows in logits])
