"""What keeps a live source going: reopen it, skip what is damaged, keep its time growing."""

from __future__ import annotations

import atexit
import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from edgepv.errors import EdgepvError, SourceLostError, UsageError
from edgepv.runtimes.backoff import pause_s
from edgepv.runtimes.sources import Frame, OnStatus, Source
from edgepv.runtimes.sources.images import size_change

SILENT_S = 20.0  # a source that says nothing this long hangs; the sources' own limits are shorter
END_S = 6.0  # how long the end of the program waits for a source that is still being read
DAMAGED_IN_A_ROW = 100
JUMP_S, JUMP_PERIODS = 10.0, 50


class Reconnecting:
    """A live source that is opened again, for ever, when it dies.

    open_again: opens it, or raises UsageError; called in a thread of its own, as every read is, so that
    ``close`` need not wait for a camera that hangs. on_status is told of camera_lost, camera_back,
    frames_skipped, size_changed and clock_jumped. must_open: open it now, and raise if that fails.
    sleep: waits for seconds; by default until ``close``. skipped: damaged frames so far.

    ``time_s`` of its frames never goes back: after a restart it goes on from the last frame by the time that
    passed here.
    """

    live = True

    def __init__(
        self,
        open_again: Callable[[], Source],
        on_status: OnStatus,
        *,
        must_open: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._open_again, self._on_status = open_again, on_status
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._clock, self._sleep = clock, sleep or self._closed.wait
        self._worker: _Worker | None = None
        self._lost_s: float | None = None
        self._tries = 0
        self._times = _OneTime()
        self._damaged = _Damage()
        self._shape: tuple[int, ...] | None = None
        self.fps: Fraction | None = None
        if must_open:
            self._connected()

    @property
    def skipped(self) -> int:
        """Damaged frames since the start."""
        return self._damaged.total

    def read(self) -> Frame | None:
        """The next whole frame, however long the camera is away; None once closed or at a file's end."""
        while not self._closed.is_set():
            try:
                worker = self._connected()
                frame = worker.ask() if worker else None
                if frame is None:
                    return None
                if not self._is_damaged(frame):
                    return self._placed(frame)
            except (SourceLostError, UsageError) as error:
                self._lose(str(error))
        return None

    def close(self) -> None:
        """End; a ``read`` that waits in another thread returns None."""
        with self._lock:
            self._closed.set()
            if self._worker:
                self._worker.leave()

    def _connected(self) -> _Worker | None:
        """The thread that has the source, which is opened if it is not; None once closed."""
        with self._lock:
            if self._closed.is_set():
                return None
            opening = self._worker is None
            worker = self._worker = self._worker or _Worker(self._open_again)
        if opening:
            self.fps = worker.ask()
        return None if self._closed.is_set() else worker

    def _lose(self, why: str) -> None:
        """Let the source go, tell once, wait: 0.5 s, 1 s, 2 s ... 30 s, each shortened by up to a half."""
        if self._worker:
            self._worker.leave()
            self._worker = None
        if self._closed.is_set():
            return
        if self._lost_s is None:
            self._lost_s = self._clock()
            self._say("camera_lost", why)
        pause = pause_s(self._tries)
        self._tries += 1
        self._sleep(pause)

    def _is_damaged(self, frame: Frame) -> bool:
        fault = damage(frame.pixels)
        burst = self._damaged.count(bool(fault))
        if fault and burst >= DAMAGED_IN_A_ROW:
            raise SourceLostError(f"{burst} damaged frames in a row; the last: {fault}")
        if burst and not fault:
            self._say("frames_skipped", f"{burst} damaged", count=burst)
        return bool(fault)

    def _placed(self, frame: Frame) -> Frame:
        """The frame on the one growing time, and marked if nothing before it belongs to it."""
        before, self._shape = self._shape, frame.pixels.shape
        resized, jumped = size_change(before, self._shape), self._times.jump(frame.time_s, self.fps)
        why = ""
        if self._lost_s is not None:
            why = "reconnected" if before else ""
            self._say("camera_back", f"after {self._clock() - self._lost_s:.1f} s", tries=self._tries)
            self._lost_s, self._tries = None, 0
        elif resized or jumped:
            why = resized or jumped
            self._say("size_changed" if resized else "clock_jumped", why)
        again = bool(why) or frame.restarted
        time_s = self._times.place(frame, self.fps, fresh=bool(why))
        return dataclasses.replace(frame, time_s=time_s, restarted=again, why=why or frame.why)

    def _say(self, what: str, why: str, **more: Any) -> None:
        self._on_status({"type": "status", "what": what, "why": why, **more})


def damage(pixels: np.ndarray) -> str:
    """What is wrong with a frame; "" if it is (H, W, 3) uint8 with at least one pixel."""
    if pixels.size == 0:
        return "it could not be decoded"
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        return f"it is {pixels.shape} {pixels.dtype}, not (H, W, 3) uint8"
    return ""


class _Damage:
    """Counts damaged frames, in all and in a row."""

    def __init__(self) -> None:
        self.total = self._row = 0

    def count(self, damaged: bool) -> int:
        """How many in a row up to this frame; for a whole frame, how many ended just before it."""
        self.total += damaged
        row = self._row + damaged
        self._row = row if damaged else 0
        return row


class _OneTime:
    """Puts the times of a source whose clock starts again onto one that never goes back."""

    def __init__(self) -> None:
        self._shift = 0.0
        self._source_s: float | None = None  # of the last frame, by the source
        self._placed_s = self._arrived_s = 0.0

    def jump(self, time_s: float, fps: Fraction | None) -> str:
        """ "the clock jumped by -3.0 s" if the source's time went back or much too far ahead."""
        if self._source_s is None:
            return ""
        step = time_s - self._source_s
        period = float(1 / fps) if fps else JUMP_S / 2
        limit = max(2 * period, min(JUMP_S, JUMP_PERIODS * period))
        return "" if 0 <= step <= limit else f"the clock jumped by {step:+.1f} s"

    def place(self, frame: Frame, fps: Fraction | None, *, fresh: bool) -> float:
        """Its time in seconds. fresh: it goes on from the last frame by the time that passed here."""
        if fresh and self._source_s is not None:
            passed = max(frame.arrived_s - self._arrived_s, float(1 / fps) if fps else 0.0)
            self._shift = self._placed_s + passed - frame.time_s
        self._source_s, self._arrived_s = frame.time_s, frame.arrived_s
        self._placed_s = frame.time_s + self._shift
        return self._placed_s


class _Worker:
    """A thread that opens, reads and closes one source, and can be left behind while it hangs."""

    def __init__(self, open_again: Callable[[], Source]) -> None:
        self._asks: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asked = True  # the first answer, the frame rate, comes unasked
        self._thread = threading.Thread(target=self._work, args=(open_again,), daemon=True)
        self._thread.start()
        # A thread that is inside OpenCV when the interpreter goes aborts the process.
        atexit.register(self._end)

    def ask(self) -> Any:
        """The frame rate, the first time; then the next frame. None once left.

        Raises what the source raised; SourceLostError if it is silent.
        """
        if not self._asked:
            self._asks.put(True)
        self._asked = False
        try:
            answer = self._answers.get(timeout=SILENT_S)
        except queue.Empty:
            raise SourceLostError(f"the source said nothing for {SILENT_S:g} s") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def leave(self) -> None:
        """Ask nothing more; whoever waits for an answer gets None now."""
        self._asks.put(False)
        self._answers.put(None)

    def _end(self) -> None:
        self.leave()
        self._thread.join(END_S)

    def _work(self, open_again: Callable[[], Source]) -> None:
        source = None
        try:
            source = open_again()
            self._answers.put(source.fps)
            while self._asks.get():
                self._answers.put(source.read())
        except BaseException as error:
            known = isinstance(error, EdgepvError) or not isinstance(error, Exception)
            self._answers.put(error if known else SourceLostError(f"{type(error).__name__}: {error}"))
        finally:
            if source:
                source.close()
            atexit.unregister(self._end)
