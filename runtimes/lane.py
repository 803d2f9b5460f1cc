"""One variant stepping through a camera's frames: its states, its warm-up, its answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgepv.base.tasks import task_of
from edgepv.data.boxes import Detections, detections
from edgepv.data.frames import preprocess
from edgepv.data.masks import Mask, mask_of
from edgepv.errors import EdgepvError, EngineError
from edgepv.runtimes.births import Births
from edgepv.runtimes.engine import CancelledError, Engine
from edgepv.stream import KeepsStates, Stepper, Tensors
from edgepv.types import ModelSpec, Variant

Gap = Literal["hold", "reset"]


@dataclass(frozen=True)
class Answer:
    """The model's word on one frame.

    index: frames since the states were last forgotten. label, score: of a classifier, else None. scores: of
    all labels, the softmax of logits, which adds up to 1, or the probabilities that the model answers (see
    ``ModelSpec.scores``). outputs: everything the model answered, by name, without the batch axis. ids: of a
    tracker, the number of the particle in each place. detections: of a detector, what it found. mask: of a
    segmenter, what stands where.
    valid: False until the model has seen a full window. restarted: the states were forgotten right
    before this frame. missed: frames that were lost within what this answer looks back on.
    pre_ms, infer_ms: time spent on preprocessing, and in the engine with the reading of boxes or masks.
    """

    index: int
    label: str | None
    score: float | None
    scores: tuple[float, ...]
    valid: bool
    pre_ms: float
    infer_ms: float
    restarted: bool = False
    missed: int = 0
    outputs: Tensors = field(default_factory=dict, compare=False, repr=False)
    ids: tuple[int, ...] = ()
    detections: Detections | None = field(default=None, compare=False)
    mask: Mask | None = field(default=None, compare=False)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of a tracker, the point in each row of "tracks", -1 for none; counted by places otherwise."""
        return self.ids or tuple(range(len(self.outputs["tracks"])))


class Lane:
    """One variant with its engine and its states."""

    def __init__(self, engine: Engine, variant: Variant) -> None:
        self.variant, self._engine = variant, engine
        into = getattr(engine, "infer_into", None)
        self._keeps = isinstance(engine.infer, KeepsStates)
        infer = engine.infer if self._keeps else self._finite(engine.infer)
        self.stepper = Stepper(infer, variant.spec, variant.stream, into=into and self._finite(into))
        self.ids: tuple[int, ...] = ()
        self.detections: Detections | None = None
        self.mask: Mask | None = None
        self._segments = task_of(variant.spec).segments
        self._births = _births(variant)

    def step(self, frame: np.ndarray) -> tuple[Tensors, float, float]:
        """(outputs by name without batch axis, ms of preprocessing, ms in the engine) for one camera frame.

        Raises UsageError for a frame of another kind, EngineError if the model's answer is of another
        shape or not finite; the states are then as before the frame, unless they are a GPU's own.
        """
        start = time.perf_counter()
        tensor = preprocess(frame, self.variant.spec)
        ready = time.perf_counter()
        if self._births and self.stepper.seen == 0:
            self._births.reset()
            self._write(self._births.update(None, frame))
        batched = self._stepped(tensor)
        if self._keeps:
            self._refuse_infinite(batched)
        if self._births:
            self.ids = tuple(self._births.ids.tolist())
            self._write(self._births.update(batched["tracks"], frame))
        outputs = {a.name: np.array(batched[a.name][0]) for a in self.variant.spec.answers}
        if self.variant.spec.boxes is not None:
            self.detections = detections(self.variant.spec, outputs, frame.shape[:2])
        if self._segments:
            self.mask = mask_of(self.variant.spec, outputs, frame.shape[:2])
        done = time.perf_counter()
        return outputs, 1e3 * (ready - start), 1e3 * (done - ready)

    def _stepped(self, tensor: np.ndarray) -> Tensors:
        """The outputs. Raises EngineError for what an engine raises of its own, and for another shape."""
        try:
            outputs = self.stepper.step(tensor)
            shapes = [(a.name, outputs[a.name].shape, a.shape) for a in self.variant.spec.answers]
        except (EdgepvError, CancelledError):
            raise
        except Exception as e:  # each engine has types of its own
            why = next(iter(str(e).splitlines()), "")
            raise EngineError(
                f"{self.variant.name} cannot be run: {type(e).__name__}: {why}. "
                "The bundle or the engine is broken: run edgepv verify"
            ) from e
        for name, got, wanted in shapes:
            if got != wanted:
                raise EngineError(
                    f"{self.variant.name} answered '{name}' {got}, the manifest says {wanted}. "
                    "The bundle is broken: run edgepv verify"
                )
        return outputs

    def _finite(self, infer: Callable[..., Tensors]) -> Callable[..., Tensors]:
        """The same ``infer``, or ``infer_into``, that raises EngineError before its new states are taken."""

        def checked(*tensors: Tensors) -> Tensors:
            outputs = infer(*tensors)
            self._refuse_infinite(outputs)
            return outputs

        return checked

    def _refuse_infinite(self, outputs: Tensors) -> None:
        for answer in self.variant.spec.answers:
            if not np.isfinite(outputs[answer.name]).all():
                raise EngineError(
                    f"{self.variant.name} answered '{answer.name}' with values that are not finite at frame "
                    f"{self.stepper.seen - 1}. The bundle or the engine is broken: run edgepv verify"
                )

    def _write(self, states: Tensors) -> None:
        for name, value in states.items():
            self.stepper.write(name, value)

    def remember(self, frame: np.ndarray) -> None:
        """Let the states see one more frame; no answer is wanted."""
        self.stepper.remember(preprocess(frame, self.variant.spec))

    def cancel(self) -> bool:
        """End the call that runs in another thread; False if this engine cannot."""
        cancel = getattr(self._engine, "cancel", None)
        if cancel:
            cancel()
        return cancel is not None

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def _births(variant: Variant) -> Births | None:
    """Who bears and kills the particles of a tracker; None for a model that does not leave it to the host."""
    spec, stream = variant.spec, variant.stream
    names = {state.name for state in stream.states} if stream else set()
    if not task_of(spec).follows or not spec.particles or not {"position", "life"} <= names:
        return None
    height, width = spec.input.shape[-2:]
    return Births(spec.particles, aspect=width / height)


def scored(spec: ModelSpec, answer: np.ndarray) -> np.ndarray:
    """Scores, 0 to 1, of one row of a classifier's answers: their softmax, or the probabilities they are."""
    return answer.clip(0, 1) if spec.scores == "probabilities" else softmax(answer)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one row of logits."""
    e = np.exp(logits - logits.max())
    return e / e.sum()
