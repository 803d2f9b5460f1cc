"""A model opened for use: camera frames in, labelled answers out, whatever the engine."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from edgepv.data.frames import preprocess
from edgepv.errors import EdgepvError, UsageError
from edgepv.runtimes.cuts import SceneCuts
from edgepv.runtimes.engine import CancelledError, Engine, Read, open_engine
from edgepv.runtimes.particles import Births
from edgepv.stream import Stepper, Tensors
from edgepv.types import ModelSpec, Variant

MAX_LOOK_BACK = 4096
Gap = Literal["hold", "reset"]


@dataclass(frozen=True)
class Answer:
    """The model's word on one frame.

    index: frames since the states were last forgotten. label, score: of a classifier, else None. scores: of
    all labels, the softmax of logits, which adds up to 1, or the probabilities that the model answers (see
    ``ModelSpec.scores``). outputs: everything the model answered, by name, without the batch axis. ids: of a
    tracker, the number of the particle in each place.
    valid: False until the model has seen a full window. restarted: the states were forgotten right
    before this frame. missed: frames that were lost within what this answer looks back on.
    pre_ms, infer_ms: time spent on preprocessing and in the engine.
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

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of a tracker, the point in each row of "tracks", -1 for none; counted by places otherwise."""
        return self.ids or tuple(range(len(self.outputs["tracks"])))


class Lane:
    """One variant with its engine and its states."""

    def __init__(self, engine: Engine, variant: Variant) -> None:
        self.variant, self._engine = variant, engine
        into = getattr(engine, "infer_into", None)
        self.stepper = Stepper(engine.infer, variant.spec, variant.stream, into=into)
        self.ids: tuple[int, ...] = ()
        self._births = _births(variant)

    def step(self, frame: np.ndarray) -> tuple[Tensors, float, float]:
        """(outputs by name without batch axis, ms of preprocessing, ms in the engine) for one camera frame.

        Raises UsageError for a frame of another kind, and if the model's answer is not finite or of another
        shape.
        """
        start = time.perf_counter()
        tensor = preprocess(frame, self.variant.spec)
        ready = time.perf_counter()
        if self._births and self.stepper.seen == 0:
            self._births.reset()
            self._write(self._births.update(None, frame))
        made = self._stepped(tensor)
        if self._births:
            self.ids = tuple(self._births.ids.tolist())
            self._write(self._births.update(made["tracks"], frame))
        outputs = {a.name: np.array(made[a.name][0]) for a in self.variant.spec.answers}
        done = time.perf_counter()
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise UsageError(
                    f"{self.variant.name} answered '{name}' with values that are not finite at frame "
                    f"{self.stepper.seen - 1}. The bundle or the engine is broken: run edgepv verify"
                )
        return outputs, 1e3 * (ready - start), 1e3 * (done - ready)

    def _stepped(self, tensor: np.ndarray) -> Tensors:
        """The outputs. Raises UsageError for what an engine raises of its own, and for another shape."""
        try:
            made = self.stepper.step(tensor)
            shapes = [(a.name, made[a.name].shape, a.shape) for a in self.variant.spec.answers]
        except (EdgepvError, CancelledError):
            raise
        except Exception as e:  # each engine has types of its own
            why = next(iter(str(e).splitlines()), "")
            raise UsageError(
                f"{self.variant.name} cannot be run: {type(e).__name__}: {why}. "
                "The bundle or the engine is broken: run edgepv verify"
            ) from e
        for name, got, wanted in shapes:
            if got != wanted:
                raise UsageError(
                    f"{self.variant.name} answered '{name}' {got}, the manifest says {wanted}. "
                    "The bundle is broken: run edgepv verify"
                )
        return made

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
    if spec.task != "tracking" or not spec.particles or not {"position", "life"} <= names:
        return None
    height, width = spec.input.shape[-2:]
    return Births(spec.particles, aspect=width / height)


class Continuity:
    """Whether a frame still belongs to what was seen before it, and what of that an answer has to say.

    gap, cuts: as in ``Session``.
    """

    def __init__(self, gap: Gap, cuts: bool) -> None:
        self._gap, self._wants_cuts = gap, cuts
        self.reset()
        self._restarted = False

    def breaks(self, frame: np.ndarray, missed: int, warmup: int) -> bool:
        """Whether the states are to be forgotten before this frame. warmup: what the model looks back on."""
        cut = self._cuts is not None and self._cuts(frame)
        return cut or (missed > 0 and (self._gap == "reset" or missed >= warmup))

    def note(self, missed: int) -> None:
        """So many frames were lost before the one that comes."""
        self._lost.append(missed)

    def forget(self) -> None:
        """The states were forgotten."""
        self._lost: deque[int] = deque(maxlen=MAX_LOOK_BACK)
        self._restarted = True

    def reset(self) -> None:
        """The states were forgotten, and what the scene looked like with them."""
        self._cuts = SceneCuts() if self._wants_cuts else None
        self.forget()

    def answer(self, lane: Lane, outputs: Tensors, pre_ms: float, infer_ms: float) -> Answer:
        """The answer that a lane's outputs give; only the first one after a restart says so."""
        restarted, self._restarted = self._restarted, False
        stepper, spec = lane.stepper, lane.variant.spec
        scores = scored(spec, outputs["logits"]) if spec.task == "classification" else None
        best = int(scores.argmax()) if scores is not None else 0
        return Answer(
            index=stepper.seen - 1,
            label=spec.labels[best] if scores is not None else None,
            score=float(scores[best]) if scores is not None else None,
            scores=tuple(float(s) for s in scores) if scores is not None else (),
            valid=stepper.valid,
            pre_ms=pre_ms,
            infer_ms=infer_ms,
            restarted=restarted,
            missed=sum(islice(reversed(self._lost), stepper.warmup)),
            outputs=outputs,
            ids=lane.ids,
        )


def check_alike(one: Variant, other: Variant) -> None:
    """Raise UsageError unless ``other`` may answer in the place of ``one``."""
    mine, theirs = ((v.spec.fps, v.spec.labels, v.spec.task) for v in (one, other))
    if mine != theirs or one.spec.task != "classification":
        raise UsageError(
            f"{other.name} has another frame rate or other labels than {one.name}, or is no classifier: "
            "they cannot stand in for each other"
        )


class Session:
    """Steps one variant frame by frame. Use as a context manager; not for several threads at once.

    gap: what lost frames do to the states. "hold" keeps them, as if no time had passed, until more frames
    are lost than the model looks back on; "reset" forgets them at once. cuts: forget the states when the
    picture becomes another one. After that answers are not valid until a window is full again.
    """

    def __init__(self, engine: Engine, variant: Variant, *, gap: Gap = "hold", cuts: bool = False) -> None:
        self._lane = Lane(engine, variant)
        self._shadow: Lane | None = None
        self._continuity = Continuity(gap, cuts)

    @property
    def variant(self) -> Variant:
        """The variant that answers."""
        return self._lane.variant

    @property
    def switching(self) -> bool:
        """Whether another variant is warming up."""
        return self._shadow is not None

    def step(self, frame: np.ndarray, *, missed: int = 0) -> Answer:
        """Answer for one camera frame, (H, W, 3) uint8 BGR of any size.

        missed: frames, at the model's rate, that were lost since the one before. Raises UsageError for a
        frame of another kind, and if the model's answer is not finite.
        """
        if self._continuity.breaks(frame, missed, self._lane.stepper.warmup):
            self._forget()
            missed = 0
        self._continuity.note(missed)
        shadow = self._shadow.step(frame) if self._shadow else None
        outputs, pre_ms, infer_ms = self._lane.step(frame)
        if shadow and self._shadow and self._shadow.stepper.valid:
            self._lane.close()
            self._lane, self._shadow = self._shadow, None
            outputs, pre_ms, infer_ms = shadow
        return self._continuity.answer(self._lane, outputs, pre_ms, infer_ms)

    def switch(self, engine: Engine, variant: Variant) -> None:
        """Let another variant take over once its states are warm; until then this one answers.

        Raises UsageError if it was made for another frame rate or other labels.
        """
        try:
            check_alike(self.variant, variant)
        except UsageError:
            engine.close()
            raise
        if self._shadow:
            self._shadow.close()
        self._shadow = Lane(engine, variant)

    def reset(self) -> None:
        """Forget all frames: call it when the camera was away."""
        self._continuity.reset()
        self._forget()

    def _forget(self) -> None:
        for lane in filter(None, (self._lane, self._shadow)):
            lane.stepper.reset()
        self._continuity.forget()

    def close(self) -> None:
        """Free the engine."""
        for lane in filter(None, (self._lane, self._shadow)):
            lane.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_session(
    variant: Variant, source: Path | Read, *, threads: int = 1, gap: Gap = "hold", cuts: bool = False
) -> Session:
    """Open one variant of a bundle. source: see open_engine. gap, cuts: see Session."""
    return Session(open_engine(variant, source, threads=threads), variant, gap=gap, cuts=cuts)


def scored(spec: ModelSpec, answer: np.ndarray) -> np.ndarray:
    """Scores, 0 to 1, of one row of a classifier's answers: their softmax, or the probabilities they are."""
    return answer.clip(0, 1) if spec.scores == "probabilities" else softmax(answer)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one row of logits."""
    e = np.exp(logits - logits.max())
    return e / e.sum()
