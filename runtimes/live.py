"""A camera in, events out: what ``edgepv run`` does with a live source, until it is stopped."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from edgepv.errors import EdgepvError
from edgepv.runtimes.deadline import DeadlineRunner, Reply
from edgepv.runtimes.events import LiveConfig
from edgepv.runtimes.output import Output
from edgepv.runtimes.privacy import Mask
from edgepv.runtimes.sources import Frame, Source
from edgepv.runtimes.sources.pace import Due

KEPT_FRAMES = 32
SLOW_CAMERA = Fraction(9, 10)


class Live:
    """One camera: reads, masks, offers the frames that are due, and tells what the runner replies.

    fps: the model's frame rate. on_reply: hears every reply after it was told, such as a canary.
    """

    def __init__(
        self,
        source: Source,
        runner: DeadlineRunner,
        output: Output,
        config: LiveConfig,
        fps: Fraction,
        *,
        on_reply: Callable[[Reply], None] = lambda reply: None,
    ) -> None:
        self._source, self._runner, self._output = source, runner, output
        self._mask = Mask(config.masks) if config.masks else None
        self._due = Due(fps, source.fps)
        self._fps, self._on_reply = fps, on_reply
        self._stopped = threading.Event()
        self._shown: OrderedDict[int, np.ndarray] = OrderedDict()
        self._wall_s = time.time() - time.monotonic()
        self.error: EdgepvError | None = None

    def run(self) -> dict[str, Any]:
        """Until the source ends, ``stop`` is called, or no variant works any more; returns the summary.

        Raises what ended it, after running events were ended and the receivers closed.
        """
        self._warn_of_a_slow_camera()
        try:
            with self._runner:
                while not self._stopped.is_set() and not self._runner.failed:
                    frame = self._source.read()
                    if frame is None:
                        break
                    self._take(frame)
                self._runner.finish()
        finally:
            self._source.close()
            self._output.close(self._now_s())
        if self._runner.failed:
            raise self._runner.failed
        return self._output.summary()

    def stop(self) -> None:
        """Let ``run`` return soon. From any thread."""
        self._stopped.set()
        self._source.close()

    @property
    def unheard(self) -> bool:
        """Whether the reader of a pipe has gone, as ``head`` does."""
        return self._output.unheard

    def _now_s(self) -> float:
        return self._wall_s + time.monotonic()

    def _take(self, frame: Frame) -> None:
        if frame.restarted:
            self._due.reset()
            self._output.status("restarted", frame.why)
        is_due, missed = self._due.due(frame.time_s)
        if not is_due:
            return
        pixels = self._mask(frame.pixels) if self._mask else frame.pixels
        with self._runner.desk.lock:
            number = self._runner.offer(
                pixels,
                time_s=frame.time_s,
                arrived_s=frame.arrived_s,
                missed=missed,
                restarted=frame.restarted,
            )
            if self._output.wants_pixels:
                self._shown[number] = pixels
                while len(self._shown) > KEPT_FRAMES:
                    self._shown.popitem(last=False)

    def tell(self, reply: Reply) -> None:
        """Takes the runner's replies; give it to the runner as ``say``."""
        frame = self._shown.pop(reply.number, None)
        self._output.reply(reply, self._now_s() - reply.latency_ms / 1e3, frame)
        self._on_reply(reply)

    def _warn_of_a_slow_camera(self) -> None:
        rate = self._source.fps
        if rate and rate < SLOW_CAMERA * self._fps:
            self._output.status(
                "slow_camera",
                f"it gives {float(rate):g} frames a second, the model was trained at {float(self._fps):g}: "
                "motion looks faster than it is",
            )
