"""How answers hold on spoilt clips: the float model against a variant, on the same few clips."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgepv.data.before import bare
from edgepv.data.calibration import in_turns
from edgepv.data.clips import Clip
from edgepv.data.degrade import CORRUPTIONS
from edgepv.data.frames import pictures, preprocess
from edgepv.data.truth import EvalClip, Masks, Points, eval_clip
from edgepv.metrics.slices import estimate
from edgepv.metrics.tasks import change_of, figures, groups_of, rate, task_drop
from edgepv.pipeline.evaluate import Evaluation, play_clips
from edgepv.runtimes.engine import on_this_host, open_engine
from edgepv.types import Accuracy, Estimate, ModelSpec, Robustness, Variant

CLEAN = "none"
ANSWERS = 4
"""Answers of a clip, after the warm-up, that are looked at: neighbours of one video say nearly the same."""

LEAST_FRAMES = 20
"""Of a clip, for models that answer at once: a tracker loses its points later than that a picture was bad."""


@dataclass(frozen=True)
class SpoiltClips:
    """A few of the held-out clips under each corruption, and the float model to hold variants against.

    clips: the first of the held-out ones, labels and groups in turns, before the spec's chain. base: the
    float model in ``folder``.
    """

    evaluation: Evaluation
    clips: tuple[EvalClip, ...]
    base: Variant
    folder: Path

    @functools.cached_property
    def _versions(self) -> Mapping[str, tuple[EvalClip, ...]]:
        """Corruption -> the clips under it."""
        spec = self.evaluation.spec
        return {
            name: tuple(spoilt(clip, spec, name) for clip in self.clips) for name in (CLEAN, *CORRUPTIONS)
        }

    @functools.cached_property
    def _float_answers(self) -> Mapping[str, list[np.ndarray]]:
        return self._answers(self.base, self.folder)

    def _answers(self, variant: Variant, folder: Path) -> dict[str, list[np.ndarray]]:
        """Corruption -> what a variant answers to each clip."""
        runnable = on_this_host(variant)
        engine = open_engine(runnable, folder)
        try:
            return {name: play_clips(engine.infer, runnable, v) for name, v in self._versions.items()}
        finally:
            engine.close()

    def compare(self, variant: Variant, folder: Path) -> tuple[Robustness, ...]:
        """A variant against the float model, on clean clips first and then under each corruption."""
        got = self._answers(variant, folder)
        return tuple(
            self._row(name, variant.name, self._float_answers[name], got[name]) for name in self._versions
        )

    def _row(
        self, name: str, variant: str, before: Sequence[np.ndarray], after: Sequence[np.ndarray]
    ) -> Robustness:
        e, clips = self.evaluation, self._versions[name]
        which = e.pictures[1]
        was, is_now = (figures(e.spec, rows, clips, e.warmup, which) for rows in (before, after))
        drop = task_drop(e.spec, was, is_now, e.max_drop, groups_of(clips), change_of(e.spec, clips))
        return Robustness(
            corruption=name,
            how="as they are" if name == CLEAN else CORRUPTIONS[name][0],
            reference="float",
            variant=variant,
            n=len(clips),
            before=_value(rate(e.spec, before, clips, e.warmup, which)),
            after=_value(rate(e.spec, after, clips, e.warmup, which)),
            lost=estimate(drop),
        )


def spoilt_clips(
    evaluation: Evaluation, held_out: Sequence[Clip], base: Variant, folder: Path, most: int
) -> SpoiltClips | None:
    """At most ``most`` of the held-out clips to spoil; None where nobody knows what is true of them."""
    if not evaluation.known or not most:
        return None
    which = in_turns(held_out)[:most]
    if evaluation.spec.before:
        few = [eval_clip(held_out[i], bare(evaluation.spec)) for i in which]
    else:
        few = [evaluation.shown[i] for i in which]
    short = tuple(begun(clip, looked_at(evaluation.warmup)) for clip in few)
    return SpoiltClips(evaluation, short, base, folder)


def looked_at(warmup: int) -> int:
    """Frames of a clip that are looked at."""
    return max(LEAST_FRAMES, warmup + ANSWERS - 1)


def begun(clip: EvalClip, frames: int) -> EvalClip:
    """The beginning of a clip, as far as it is looked at; of a restorer's or segmenter's clip that is all.

    Masks are few, and may all lie further back.
    """
    truth = clip.truth
    if isinstance(truth, Points):
        truth = Points(truth.position[:frames], truth.visible[:frames])
    elif isinstance(truth, np.ndarray | Masks):
        return clip
    return replace(clip, frames=clip.frames[:frames], truth=truth)


def spoilt(clip: EvalClip, spec: ModelSpec, name: str) -> EvalClip:
    """A clip that has no chain behind it, under a corruption at the model's size, and then under the chain.

    The same at every call.
    """
    if name == CLEAN and not spec.before:
        return clip
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    seen = pictures(spec, clip.frames)
    if name != CLEAN:
        seen = np.stack([CORRUPTIONS[name][1](frame, rng) for frame in seen])
    frames = [preprocess(frame, spec) for frame in seen]
    return replace(clip, frames=np.concatenate(frames))


def _value(accuracy: Accuracy) -> Estimate:
    if accuracy.groups == 1:
        return Estimate(accuracy.value)
    return Estimate(accuracy.value, accuracy.low, accuracy.high)
