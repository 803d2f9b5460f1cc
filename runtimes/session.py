"""A model opened for use: camera frames in, labelled answers out, whatever the engine."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from edgepv.errors import UsageError
from edgepv.runtimes.continuity import Continuity, check_alike
from edgepv.runtimes.engine import Engine, Read, open_engine
from edgepv.runtimes.lane import Answer, Gap, Lane
from edgepv.types import Variant


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
