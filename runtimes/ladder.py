"""Several variants of one model as one: only one answers, and another takes over once it has caught up."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgepv.base.optional import need
from edgepv.runtimes.continuity import Continuity, check_alike
from edgepv.runtimes.engine import CancelledError, Read, open_engine
from edgepv.runtimes.lane import Answer, Gap, Lane
from edgepv.types import Variant


class Ladder:
    """Opened variants, the largest first, of which ``active`` answers; often there is only one.

    A streamed variant that was not running knows nothing of the last frames. It takes over at once if it
    keeps the same states as the active one (another precision of the same net); else it is shown the last
    frames, which are kept here at the largest variant's size, until it is level with the present. That may
    be done piece by piece, whenever there is time (``catch_up``).

    gap: what lost frames do to the states. "hold" keeps them, as if no time had passed, until more frames
    are lost than the model looks back on; "reset" forgets them at once. cuts: forget the states when the
    picture becomes another one. After that answers are not valid until a window is full again.

    Not for several threads at once, but for ``cancel``. Raises UsageError for variants that cannot stand in
    for each other.
    """

    def __init__(self, lanes: Sequence[Lane], *, gap: Gap = "hold", cuts: bool = False) -> None:
        for lane in lanes[1:]:
            check_alike(lanes[0].variant, lane.variant)
        self.lanes, self._continuity = list(lanes), Continuity(gap, cuts)
        self.active, self.aimed = 0, 0
        self._size = max((lane.variant.spec.input.shape[-2:] for lane in lanes), key=np.prod)
        self._history: deque[np.ndarray] = deque(maxlen=max(lane.stepper.warmup for lane in lanes))
        self._todo: deque[np.ndarray] = deque()
        self._out: set[int] = set()

    @property
    def variant(self) -> Variant:
        """The variant that answers."""
        return self.lanes[self.active].variant

    @property
    def name(self) -> str:
        """The name of the variant that answers."""
        return self.variant.name

    @property
    def behind(self) -> int:
        """Frames that the variant aimed at has yet to be shown before it can take over."""
        return len(self._todo)

    def aim(self, rung: int) -> None:
        """Let the variant of rung ``rung`` take over as soon as it can; ``aim(active)`` takes that back."""
        if rung == self.aimed:
            return
        self.aimed = rung
        self._todo.clear()
        if rung == self.active:
            return
        lane = self.lanes[rung]
        lane.stepper.reset()
        if not self._migrate():
            self._todo.extend(list(self._history)[-lane.stepper.warmup :])

    def _migrate(self) -> bool:
        """Hand the active variant's states to the one aimed at, if they keep the same."""
        if self.active in self._out:
            return False
        return self.lanes[self.aimed].stepper.adopt(self.lanes[self.active].stepper)

    def catch_up(self) -> None:
        """Show one more of the last frames to the variant aimed at. Raises what its engine raises."""
        if self._todo:
            self.lanes[self.aimed].remember(self._todo.popleft())

    def step(self, frame: np.ndarray, *, missed: int = 0, restarted: bool = False) -> Answer:
        """Answer for one camera frame, (H, W, 3) uint8 BGR, by the variant aimed at if it has caught up.

        missed: frames, at the model's rate, that were lost since the one before. restarted: nothing that was
        before this frame belongs to it. Raises UsageError for a frame of another kind, for what the engine
        raises, and if the answer is not finite; CancelledError for a call that was ended, or whose variant
        was given up meanwhile. Nothing is remembered of the frame then.
        """
        warmup = self.lanes[self.active].stepper.warmup
        if self._continuity.breaks(frame, missed, warmup) or restarted:
            self.forget()
            missed = 0
        self._take_over()
        lane = self.lanes[self.active]
        outputs, pre_ms, infer_ms = lane.step(frame)
        if lane is not self.lanes[self.active] or self.active in self._out:
            raise CancelledError  # it was given up while it ran
        self._remember(frame)
        self._continuity.note(missed)
        return self._continuity.answer(lane, outputs, pre_ms, infer_ms)

    def _take_over(self) -> None:
        if self.active in self._out:  # whoever comes next has to work now, level or not
            self.active = self.aimed
            while self._todo:
                self.catch_up()
        elif self.aimed != self.active and not self._todo:
            self._migrate()
            self.active = self.aimed

    def _remember(self, frame: np.ndarray) -> None:
        if len(self.lanes) == 1:
            return
        cv2 = need("cv2", extra="cpu")
        height, width = self._size
        if frame.shape[:2] != (height, width):
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        self._history.append(frame)
        if self.aimed != self.active and self._todo:
            self._todo.append(frame)

    def reset(self) -> None:
        """Forget all frames: the camera was away."""
        self._continuity.reset()
        self.forget()

    def forget(self) -> None:
        """Forget all frames, but not what the scene looked like."""
        for lane in self.lanes:
            lane.stepper.reset()
        self._history.clear()
        self._todo.clear()
        self._continuity.forget()

    def highest(self, rung: int) -> None:
        """Let the rungs above go for good; to be called before the first frame."""
        for lane in self.lanes[:rung]:
            lane.close()
        del self.lanes[:rung]

    def leave(self, broken: int, rung: int) -> None:
        """Never use ``broken`` again; if it is the active one, ``rung`` answers from the next frame on."""
        self._out.add(broken)
        if broken in (self.active, self.aimed):
            self.aim(rung)

    def cancel(self) -> bool:
        """End the engine's call that runs in another thread, if it can; returns whether it can."""
        return self.lanes[self.active].cancel()

    def close(self) -> None:
        """Free all engines."""
        for lane in self.lanes:
            lane.close()


def open_ladder(
    variants: Sequence[Variant],
    source: Path | Read,
    *,
    threads: int = 1,
    gap: Gap = "hold",
    cuts: bool = False,
) -> Ladder:
    """Open variants of a bundle, the largest first.

    source: the bundle's folder, or what reads its files; see open_engine, which says what it raises.
    threads: of each engine. gap, cuts: see Ladder, which says what else is refused. What was opened before
    something is refused is closed.
    """
    with contextlib.ExitStack() as opened:  # closes what was opened if the next one cannot be
        lanes: list[Lane] = []
        for variant in variants:
            lanes.append(Lane(open_engine(variant, source, threads=threads), variant))
            opened.callback(lanes[-1].close)
        ladder = Ladder(lanes, gap=gap, cuts=cuts)
        opened.pop_all()
    return ladder
