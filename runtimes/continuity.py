"""Frames in order, gaps between them, and what a stream must forget after one."""

from __future__ import annotations

from collections import deque
from itertools import islice

import numpy as np

from edgepv.base.tasks import task_of
from edgepv.errors import UsageError
from edgepv.runtimes.lane import Answer, Gap, Lane, scored
from edgepv.runtimes.scene_cuts import SceneCuts
from edgepv.stream import Tensors
from edgepv.types import Variant

MAX_LOOK_BACK = 4096


class Continuity:
    """Whether a frame still belongs to what was seen before it, and what of that an answer has to say.

    gap, cuts: as in ``Ladder``.
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
        scores = scored(spec, outputs[spec.answer.name]) if task_of(spec).classifies else None
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
            detections=lane.detections,
            mask=lane.mask,
        )


def check_alike(one: Variant, other: Variant) -> None:
    """Raise UsageError unless ``other`` may answer in the place of ``one``."""
    mine, theirs = ((v.spec.fps, v.spec.labels, v.spec.task) for v in (one, other))
    if mine != theirs or not task_of(one.spec).classifies:
        raise UsageError(
            f"{other.name} has another frame rate or other labels than {one.name}, or is no classifier: "
            "they cannot stand in for each other"
        )
