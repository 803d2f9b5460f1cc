"""Any GStreamer pipeline, through the ``gi`` binding."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import numpy as np

from edgepv.base.optional import present
from edgepv.data.video import frame_rate
from edgepv.errors import SourceLostError, TargetUnavailableError, UsageError
from edgepv.runtimes.sources import Frame, OnStatus
from edgepv.runtimes.sources.address import without_password
from edgepv.runtimes.sources.capture import StreamClock

WAIT_S, SLICE_S = 5.0, 0.2
SINK = "videoconvert ! video/x-raw,format=BGR ! appsink name=edgepv max-buffers=1 drop=true sync=false"


def open_gst(text: str, on_status: OnStatus) -> Pipeline:
    """ "gst:v4l2src ! jpegdec": the pipeline as for gst-launch-1.0, without a sink.

    Raises TargetUnavailableError without the binding, UsageError if it gives no first frame.
    """
    name = without_password(text)
    gst = _library()
    try:
        pipeline = gst.parse_launch(f"{text.removeprefix('gst:')} ! {SINK}")
    except Exception as error:  # GLib.Error, whose module may be missing
        raise UsageError(f"{name}: {without_password(str(error))}. Try it with gst-launch-1.0") from error
    opened = Pipeline(gst, pipeline, name)
    try:
        opened.start()
    except SourceLostError as error:
        opened.close()
        raise UsageError(str(error)) from error
    return opened


def _library() -> Any:
    try:
        if present("gi"):
            import gi

            gi.require_version("Gst", "1.0")
            gi.require_version("GstApp", "1.0")
            from gi.repository import Gst, GstApp  # noqa: F401 - GstApp gives appsink its methods

            Gst.init(None)
            return Gst
    except (ImportError, ValueError) as error:
        raise TargetUnavailableError(f"GStreamer cannot be used: {error}. {CURE}") from error
    raise TargetUnavailableError(f"gst: needs the Python binding of GStreamer, gi. {CURE}")


CURE = (
    "Run: apt-get install python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0, and make the "
    "environment with python3 -m venv --system-site-packages"
)


class Pipeline:
    """A playing pipeline. One thread reads and closes it; see Reconnecting."""

    live = True

    def __init__(self, gst: Any, pipeline: Any, name: str) -> None:
        self._gst, self._pipeline, self._name = gst, pipeline, name
        self._sink = pipeline.get_by_name("edgepv")
        self._clock = StreamClock()
        self._first: Any = None
        self.fps: Fraction | None = None

    def start(self) -> None:
        """Play, and learn the frame rate from the first frame. Raises SourceLostError if none comes."""
        self._pipeline.set_state(self._gst.State.PLAYING)
        self._first = self._pull()
        known, over, under = self._first.get_caps().get_structure(0).get_fraction("framerate")
        self.fps = frame_rate(Fraction(over, under)) if known and under else None

    def read(self) -> Frame | None:
        """The next frame; SourceLostError at the end, at an error, after ``WAIT_S`` without one."""
        sample, self._first = self._first or self._pull(), None
        arrived = time.monotonic()
        buffer = sample.get_buffer()
        none = buffer.pts == self._gst.CLOCK_TIME_NONE
        taken = arrived if none else buffer.pts / self._gst.SECOND
        return Frame(_pixels(sample, buffer), self._clock(taken, arrived), arrived)

    def _pull(self) -> Any:
        """The next sample. An element that fails says so on the bus only, so the wait is cut in slices."""
        bus = self._pipeline.get_bus()
        for _ in range(round(WAIT_S / SLICE_S)):
            sample = self._sink.try_pull_sample(int(SLICE_S * self._gst.SECOND))
            if sample is not None:
                return sample
            error = bus.pop_filtered(self._gst.MessageType.ERROR)
            if error is not None:
                raise SourceLostError(f"{self._name}: {without_password(error.parse_error()[0].message)}")
            if self._sink.is_eos():
                raise SourceLostError(f"{self._name}: it ended")
        raise SourceLostError(f"{self._name}: no frame for {WAIT_S:.0f} s")

    def close(self) -> None:
        """Stop the pipeline and free what it holds."""
        self._pipeline.set_state(self._gst.State.NULL)


def _pixels(sample: Any, buffer: Any) -> np.ndarray:
    """(H, W, 3) uint8 BGR. GStreamer fills every row up to a multiple of four bytes."""
    structure = sample.get_caps().get_structure(0)
    width, height = structure.get_value("width"), structure.get_value("height")
    flat = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)
    return flat.reshape(height, -1)[:, : width * 3].reshape(height, width, 3)
