"""What may be odd about a whole picture: scores by their names, for the anomaly rule and for who sets it.

A score is how unsure a classifier is, a further answer of the model that is one number, such as pv-graph's
"surprise", or "background": the share of the pixels that differ from what is usually there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from edgepv.base.optional import need
from edgepv.base.tasks import task_of
from edgepv.runtimes.lane import Answer
from edgepv.types import ModelSpec

Doubt: TypeAlias = Literal["entropy", "rest", "margin"]
DOUBTS: tuple[Doubt, ...] = get_args(Doubt)
BACKGROUND = "background"

HEIGHT = 120
"""Rows of the picture that the background is learned of: a person far away still covers some pixels."""
HISTORY = 500
"""Frames that the background is learned over, OpenCV's own default."""
SETTLED = 50
"""Frames until the background is known: before, every picture would be new, so the score is 0."""


def known(spec: ModelSpec) -> tuple[str, ...]:
    """Names of the scores that a model's camera has."""
    unsure = DOUBTS if task_of(spec).classifies and len(spec.labels) > 1 else ()
    return (*unsure, *spec.numbers, BACKGROUND)


def bounded(name: str) -> bool:
    """Whether a score is 0 to 1 by what it is; a model's own number may be anything."""
    return name in DOUBTS or name == BACKGROUND


class Odd:
    """The scores of these names, frame after frame of one camera. Not for several threads at once."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._background = Background() if BACKGROUND in self._names else None

    @property
    def wants_pixels(self) -> bool:
        """Whether the picture itself is looked at."""
        return self._background is not None

    def forget(self) -> None:
        """What comes next shows another scene."""
        if self._background:
            self._background.forget()

    def __call__(self, answer: Answer, frame: np.ndarray | None) -> dict[str, float]:
        """By name; NaN where it is not known, as of a rung that does not answer it.

        frame: (H, W, 3) uint8 BGR, the one that was answered to; without it, and in the first frames of a
        scene, the background is not known.
        """
        found: dict[str, float] = {}
        for name in self._names:
            if name in DOUBTS:
                found[name] = doubt(answer.scores, name)
            elif name != BACKGROUND:
                found[name] = float(answer.outputs.get(name, np.array(math.nan)).reshape(()))
            elif self._background:
                share = self._background(frame) if frame is not None else math.nan
                found[name] = share if self._background.known else math.nan
        return found


class Background:
    """The share of a picture's pixels that are not what is usually there, 0 to 1.

    Each pixel has a mixture of Gaussians that is learned as it goes. It looks at every pixel for itself:
    leaves, rain and a lamp that is switched on are as new as a person.
    Source: Zivkovic 2004, "Improved Adaptive Gaussian Mixture Model for Background Subtraction" (OpenCV's
    MOG2). settled: frames until it is known.
    """

    def __init__(self, settled: int = SETTLED) -> None:
        self._settled = settled
        self.forget()

    def forget(self) -> None:
        """Learn anew."""
        cv2 = need("cv2", extra="cpu")
        self._model: Any = cv2.createBackgroundSubtractorMOG2(history=HISTORY, detectShadows=False)
        self._seen = 0

    @property
    def known(self) -> bool:
        """Whether it has seen enough."""
        return self._seen > self._settled

    def __call__(self, frame: np.ndarray) -> float:
        """The share of one more frame, (H, W, 3) uint8 BGR; 0 until it is known."""
        cv2 = need("cv2", extra="cpu")
        height, width = frame.shape[:2]
        size = (max(1, round(width * HEIGHT / height)), HEIGHT)
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if height > HEIGHT else frame
        mask = self._model.apply(small)
        self._seen += 1
        return float(np.count_nonzero(mask) / mask.size) if self.known else 0.0


def doubt(scores: Sequence[float], how: str) -> float:
    """How unsure the model is, 0 (sure) to 1, by one of ``DOUBTS``. scores: sum to 1."""
    if how == "rest":
        return 1.0 - max(scores)
    if len(scores) < 2:
        return 0.0
    if how == "margin":
        best, second = sorted(scores, reverse=True)[:2]
        return 1.0 - (best - second)
    return -sum(s * math.log(s) for s in scores if s > 0) / math.log(len(scores))
