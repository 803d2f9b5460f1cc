"""A camera in, events out: what ``edgepv run`` does with a live source, until it is stopped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from edgepv.runtimes.deadline import DeadlineRunner, Reply
from edgepv.runtimes.events.rules import LiveConfig
from edgepv.runtimes.output import Output
from edgepv.runtimes.picture.privacy import PrivacyMask
from edgepv.runtimes.places import ZoneSearch
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks.ending import END_S
from edgepv.runtimes.sources import Frame, Source
from edgepv.runtimes.sources.pace import Due, Rate

KEPT_FRAMES = 32
KEPT_INDICES = 4096
SLOW_CAMERA = 0.9


class Live:
    """One camera: reads, masks, offers the frames that are due, and tells what the runner replies.

    The runner is to be made with ``say`` and ``status`` that lead to ``tell`` and to the output. What is told
    is told in the runner's own thread: no receiver and no rule, however slow, keeps a frame from being read
    or answered in time. fps: the model's frame rate. search: is shown the frames the model gets. on_reply:
    hears every reply after it was told, such as a canary.
    """

    def __init__(
        self,
        source: Source,
        runner: DeadlineRunner,
        output: Output,
        config: LiveConfig,
        fps: Fraction,
        *,
        search: ZoneSearch | None = None,
        on_reply: Callable[[Reply], None] = lambda reply: None,
    ) -> None:
        self._source, self._runner, self._output = source, runner, output
        self._mask = PrivacyMask(config.masks) if config.masks else None
        self._due = Due(fps, source.fps)
        self._fps, self._search, self._on_reply = fps, search, on_reply
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._shown: OrderedDict[int, np.ndarray] = OrderedDict()
        self._indices: OrderedDict[int, int] = OrderedDict()
        self._read = 0
        self._rate, self._slow = Rate(), False

    def run(self) -> Record:
        """Until the source ends, ``stop`` is called, or no variant works any more; returns the summary.

        Raises what ended it, after running events were ended and the receivers closed. What receivers and
        listeners raised ends nothing: it is in the summary. Those that hang are left behind, see ``END_S``.
        """
        self._runner.start()
        try:
            while not self._stopped.is_set() and not self._runner.failed:
                with self._output.traced("capture", "capture"):
                    frame = self._source.read()
                if frame is None:
                    break
                self._take(frame)
            self._runner.finish()
        finally:
            self._runner.close()
            self._source.close()
            self._output.counts["replies_dropped"] = self._runner.replies_dropped
            self._output.close(END_S)
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

    def _take(self, frame: Frame) -> None:
        index, self._read = self._read, self._read + 1
        self._output.counts["frames_read"] = self._read
        if frame.restarted:
            self._due.reset()
            self._rate.reset()
            self._runner.note("restarted", frame.why)
        self._watch_the_rate(frame.time_s)
        is_due, missed = self._due.due(frame.time_s, frame.lasts_s)
        if not is_due:
            return
        pixels = self._mask(frame.pixels) if self._mask else frame.pixels
        if self._search:
            self._search.see(pixels, restarted=frame.restarted)
        with self._lock:  # nobody looks up a number that is not noted yet
            number = self._runner.offer(
                pixels,
                time_s=frame.time_s,
                arrived_s=frame.arrived_s,
                missed=missed,
                restarted=frame.restarted,
            )
            self._indices[number] = index
            while len(self._indices) > KEPT_INDICES:
                self._indices.popitem(last=False)
            if self._output.wants_pixels:
                self._shown[number] = pixels
                while len(self._shown) > KEPT_FRAMES:
                    self._shown.popitem(last=False)

    def tell(self, reply: Reply) -> None:
        """Takes the runner's replies; give it to the runner as ``say``."""
        with self._lock:
            frame = self._shown.pop(reply.number, None)
            index = self._indices.pop(reply.number, None)
        self._output.reply(reply, frame, index=index)
        self._output.faults.call("on_reply", self._on_reply, reply)

    def _watch_the_rate(self, time_s: float) -> None:
        """Tell when the camera becomes slower than the model, as many do in the dark, and when it is not."""
        rate = self._rate(time_s)
        if rate is None:
            return
        self._due.learn(rate)
        if (slow := rate < SLOW_CAMERA * self._fps) == self._slow:
            return
        self._slow = slow
        trained = f"it gives {rate:.3g} frames a second, the model was trained at {float(self._fps):g}"
        if slow:
            self._runner.note("slow_camera", f"{trained}: motion looks faster than it is")
        else:
            self._runner.note("slow_camera_over", trained)
