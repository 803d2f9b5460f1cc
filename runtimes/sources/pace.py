"""Time: a file replayed as if it were a camera, and which frames of a camera a model is owed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from edgepv.data.video import ROUNDED_S, STEADY_S
from edgepv.errors import UsageError
from edgepv.runtimes.sources import Frame, Source

MEASURED_S = 3.0
LEARN = 0.2


class Pace:
    """A source handed out at its own speed times ``rate``; who comes late loses frames.

    time_s stays as the source says it, so at rate 2 an hour of it passes in half an hour. lost: frames so far
    that nobody took in time. sleep: waits for seconds; by default until ``close``.
    """

    live = True

    def __init__(
        self,
        source: Source,
        *,
        rate: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        if not 0 < rate < math.inf:
            raise UsageError(f"a pace of {rate} is impossible. 1 is the speed of the camera, 2 twice that")
        if source.live:
            raise UsageError("only a file can be replayed at a pace; a live source has its own")
        self._source, self._rate = source, rate
        self._closed = threading.Event()
        self._clock, self._sleep = clock, sleep or self._closed.wait
        self._ahead: Frame | None = None
        self._zero_s: float | None = None  # when time_s = 0 is
        self._distance_s: float | None = None
        self.fps: Fraction | None = source.fps
        self.lost = 0

    def read(self) -> Frame | None:
        """The frame that a camera would give now; waits until it is due. None at the end."""
        if self._zero_s is None:
            self._ahead = self._source.read()
            first_s = self._ahead.time_s if self._ahead else 0.0
            self._zero_s = self._clock() - first_s / self._rate
        frame = self._newest(self._zero_s)
        if frame is None:
            return None
        if frame.restarted:  # nobody waits for the hours by which a clock jumped
            self._zero_s = self._clock() - frame.time_s / self._rate
        wait_s = self._due_s(frame, self._zero_s) - self._clock()
        if wait_s > 0:
            self._sleep(wait_s)
        if self._closed.is_set():
            return None
        return replace(frame, arrived_s=self._clock(), lasts_s=self._lasts(frame))

    def _lasts(self, frame: Frame) -> float | None:
        """Until the frame after it; for the last one, and before a jump, the distance before."""
        if self._ahead and not self._ahead.restarted:
            self._distance_s = self._ahead.time_s - frame.time_s
        return self._distance_s

    def _due_s(self, frame: Frame, zero_s: float) -> float:
        return zero_s + frame.time_s / self._rate

    def _newest(self, zero_s: float) -> Frame | None:
        """The frame that a camera would give now: the last one whose time has come, or the next."""
        frame, self._ahead = self._ahead, self._source.read() if self._ahead else None
        while frame and self._ahead and self._due_s(self._ahead, zero_s) <= self._clock():
            self.lost += 1
            frame, self._ahead = self._ahead, self._source.read()
        return frame

    def close(self) -> None:
        """Close the source; a ``read`` that waits returns None."""
        self._closed.set()
        self._source.close()


class Due:
    """Which frames of a camera a model at ``fps`` gets, by their time stamps.

    Model tick k is at k / fps after the first frame, and is owed the newest frame of that time, as in a file
    (``clips.resample``). A frame is due unless every tick before the frame after it has been answered; a tick
    whose frame was lost is answered by the one that comes late. camera: the camera's rate, if known (else:
    the model's); a time stamp may be off by just under half of its period without changing anything. Of a
    file the frame after is known: where its stamps are not of that rate, they decide.
    """

    def __init__(self, fps: Fraction, camera: Fraction | None = None) -> None:
        self._fps, self._camera = fps, camera or fps
        self._ticks_per_frame = fps / self._camera
        self.reset()

    def reset(self) -> None:
        """The next frame is the first again: the source restarted."""
        self._start_s: Fraction | None = None
        self._tick = 0

    def learn(self, rate: float) -> None:
        """The camera's rate was measured: it counts where what it said is off by more than a fifth."""
        if abs(rate / float(self._camera) - 1) > LEARN:
            self._camera = Fraction(rate).limit_denominator(1000)
            self._ticks_per_frame = self._fps / self._camera

    def due(self, time_s: float, lasts_s: float | None = None) -> tuple[bool, int]:
        """Whether the frame of ``time_s`` is due, and how many ticks before it got none since the last.

        lasts_s: until the frame after it, if known.
        """
        first, last = self._ticks(time_s, lasts_s)
        if last < self._tick:
            return False, 0
        answered = max(self._tick, min(first, last))
        missed = answered - self._tick
        self._tick = answered + 1
        return True, missed

    def _ticks(self, time_s: float, lasts_s: float | None) -> tuple[int, int]:
        """The first and the last tick while a frame is the newest; the last is before the first for none."""
        now_s = Fraction(time_s)
        if self._start_s is None:
            self._start_s = now_s
        passed_s = now_s - self._start_s
        index = round(passed_s * self._camera)
        if lasts_s is not None and not self._is_steady(passed_s - index / self._camera, lasts_s):
            seen_s = round(passed_s, 6) - ROUNDED_S
            until_s = round(passed_s + Fraction(lasts_s), 6) - ROUNDED_S
            return math.ceil(seen_s * self._fps), math.ceil(until_s * self._fps) - 1
        return math.ceil(index * self._ticks_per_frame), math.ceil((index + 1) * self._ticks_per_frame) - 1

    def _is_steady(self, off_s: Fraction, lasts_s: float) -> bool:
        """Whether the frame and the one after it are where the camera's rate has them."""
        return abs(off_s) <= STEADY_S and abs(off_s + Fraction(lasts_s) - 1 / self._camera) <= STEADY_S


class Rate:
    """The rate that a camera really has, measured over MEASURED_S seconds at a time."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The next frame is the first again: the source restarted."""
        self._begun_s: float | None = None
        self._count = 0

    def __call__(self, time_s: float) -> float | None:
        """Frames a second, once enough of them came since it was last known; else None."""
        if self._begun_s is None or time_s < self._begun_s:
            self._begun_s, self._count = time_s, 0
            return None
        self._count += 1
        took_s = time_s - self._begun_s
        if took_s < MEASURED_S:
            return None
        rate = self._count / took_s
        self._begun_s, self._count = time_s, 0
        return rate
