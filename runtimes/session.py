"""A model opened for use: camera frames in, labelled answers out, whatever the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from edgepv.clips import preprocess
from edgepv.errors import UsageError
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.stream import Stepper
from edgepv.types import Variant


@dataclass(frozen=True)
class Answer:
    """The model's word on one frame.

    scores: softmax over the labels, sums to 1. valid: False until the model has seen a full window.
    pre_ms, infer_ms: time spent on preprocessing and in the engine.
    """

    index: int
    label: str
    score: float
    scores: tuple[float, ...]
    valid: bool
    pre_ms: float
    infer_ms: float


class Session:
    """Steps one variant frame by frame. Use as a context manager; not for several threads at once."""

    def __init__(self, engine: Engine, variant: Variant) -> None:
        self.variant = variant
        self._engine = engine
        self._stepper = Stepper(engine.infer, variant.spec, variant.stream)

    def step(self, frame: np.ndarray) -> Answer:
        """Answer for one camera frame, (H, W, 3) uint8 BGR of any size.

        Raises UsageError for a frame of another kind, and if the model's answer is not finite.
        """
        start = time.perf_counter()
        tensor = preprocess(frame, self.variant.spec)
        ready = time.perf_counter()
        logits = self._stepper.step(tensor)["logits"][0]
        done = time.perf_counter()
        if not np.isfinite(logits).all():
            raise UsageError(
                f"{self.variant.name} answered {logits.tolist()} at frame {self._stepper.seen - 1}. "
                "The bundle or the engine is broken: run edgepv verify"
            )
        scores = softmax(logits)
        best = int(scores.argmax())
        return Answer(
            index=self._stepper.seen - 1,
            label=self.variant.spec.labels[best],
            score=float(scores[best]),
            scores=tuple(float(s) for s in scores),
            valid=self._stepper.valid,
            pre_ms=1e3 * (ready - start),
            infer_ms=1e3 * (done - ready),
        )

    def reset(self) -> None:
        """Forget all frames: call it when the camera was away or the scene was cut."""
        self._stepper.reset()

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_session(variant: Variant, folder: Path, *, threads: int = 1) -> Session:
    """Open one variant of a bundle folder."""
    return Session(open_engine(variant, folder, threads=threads), variant)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one row of logits."""
    e = np.exp(logits - logits.max())
    return e / e.sum()
