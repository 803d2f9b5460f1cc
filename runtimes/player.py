"""Clips shown to an opened variant from a fresh state: whole, painted over, or with particles killed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgepv.data.frames import hold_last
from edgepv.runtimes.engine import Engine
from edgepv.stream import Stepper
from edgepv.types import Variant

WINDOWS = 4
"""Windows of a clip that a model without a step is shown."""
LEAST = 1e-7
"""Probabilities below it count as this, as float32 cannot tell them from 0 beside 1."""
LIFE = "life"


class Player:
    """Shows clips to one opened variant; not for several threads at once."""

    def __init__(self, engine: Engine, variant: Variant) -> None:
        self.variant, self._engine = variant, engine
        self._stepper = Stepper(engine.infer, variant.spec, variant.stream)

    @property
    def particles(self) -> int:
        """How many particles the model follows; 0 for none."""
        states = self.variant.stream.states if self.variant.stream else ()
        return next((s.shape[1] for s in states if s.name == LIFE), 0)

    def logits(self, frames: np.ndarray, dead: Sequence[int] = ()) -> np.ndarray:
        """(classes,) mean of the valid answers to a clip, logits, or the logarithm of mean probabilities.

        frames: (T, C, h, w) float32, preprocessed. dead: particles that do not live in any of them.
        """
        frames = hold_last(frames, self._stepper.warmup)
        rows = self._windows(frames) if self.variant.stream is None else self._steps(frames, dead)
        mean: np.ndarray = np.mean(rows, axis=0)
        return np.log(mean.clip(LEAST)) if self.variant.spec.scores == "probabilities" else mean

    def _steps(self, frames: np.ndarray, dead: Sequence[int]) -> list[np.ndarray]:
        answer = self.variant.spec.answer.name
        return [out[answer][0] for out in self.steps(frames, dead) if self._stepper.valid]

    def steps(self, frames: np.ndarray, dead: Sequence[int] = ()) -> Iterable[dict[str, np.ndarray]]:
        """All outputs after every frame, by name with the batch axis, from a fresh state.

        frames, dead: as for ``logits``. The model must be streamed.
        """
        self._stepper.reset()
        for frame in frames:
            feeds = self._stepper.feeds(frame[None])
            if feeds is not None and len(dead):
                life = feeds[LIFE].copy()
                life[:, list(dead)] = -1
                feeds = feeds | {LIFE: life}
            yield self._stepper.run(feeds)

    def _windows(self, frames: np.ndarray) -> list[np.ndarray]:
        spec = self.variant.spec
        starts = sorted({round(s) for s in np.linspace(0, len(frames) - spec.frames, WINDOWS)})
        clips = (frames[s : s + spec.frames].transpose(1, 0, 2, 3)[None] for s in starts)
        feeds = ({spec.input.name: np.ascontiguousarray(c)} for c in clips)
        return [self._engine.infer(one)[spec.answer.name][0] for one in feeds]


def above_mean(logits: np.ndarray, label: int) -> float:
    """How far the logit of label number ``label`` is above the mean of all, of (classes,) logits."""
    return float(logits[label] - logits.mean())
