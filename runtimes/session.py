"""A model opened for use: camera frames in, labelled answers out, whatever the engine."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from edgepv.runtimes.engine import Read
from edgepv.runtimes.ladder import Ladder, open_ladder
from edgepv.runtimes.lane import Answer, Gap
from edgepv.types import Variant


class Session:
    """A ladder of one rung, stepped frame by frame in the caller's thread, without a deadline.

    Use as a context manager; not for several threads at once.
    """

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder

    @property
    def variant(self) -> Variant:
        """The variant that answers."""
        return self._ladder.variant

    def step(self, frame: np.ndarray, *, missed: int = 0) -> Answer:
        """Answer for one camera frame, (H, W, 3) uint8 BGR of any size.

        missed: frames, at the model's rate, that were lost since the one before. Raises UsageError for a
        frame of another kind, and if the model's answer is not finite.
        """
        return self._ladder.step(frame, missed=missed)

    def reset(self) -> None:
        """Forget all frames: call it when the camera was away."""
        self._ladder.reset()

    def close(self) -> None:
        """Free the engine."""
        self._ladder.close()

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
    """Open one variant of a bundle.

    source: the bundle's folder, or what reads its files; see open_engine, which says what it raises.
    threads: of the engine. gap, cuts: see Ladder.
    """
    return Session(open_ladder([variant], source, threads=threads, gap=gap, cuts=cuts))
