"""Video files, network streams and local cameras, through OpenCV."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.optional import need
from edgepv.data.video import VideoReader, frame_rate
from edgepv.errors import DeviceError, SourceLostError, UsageError
from edgepv.runtimes.sources import Frame, OnStatus, Source
from edgepv.runtimes.sources.address import without_password
from edgepv.runtimes.sources.diagnose import has_length, why_not
from edgepv.runtimes.sources.pace import Pace

OPEN_S = 5.0
READ_S = 5.0
WHOLE = 0.9  # of the frames that a file promises, which is no exact number in every kind of file
MOST_FRAMES = 1e9  # more is no count; FFmpeg says numbers like -9e18 for "unknown"
DRIFT, DRIFT_S, DRIFTS = 0.2, 10.0, 3
STREAM_OPTIONS = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
_environment = threading.Lock()


def open_file(text: str, on_status: OnStatus) -> VideoFile:
    """A video file. Raises UsageError if it is missing or no video."""
    return VideoFile(Path(text).absolute(), on_status)  # to FFmpeg a relative rtsp:1.mp4 is an address


class VideoFile:
    """A video file; its frames have the times that it shows them at, from 0 on (``edgepv.data.video``).

    on_status is told at the end of what is doubtful, such as a picture that is shorter than the file. Raises
    UsageError at a place that is damaged.
    """

    live = False

    def __init__(self, path: Path, on_status: OnStatus) -> None:
        self._video, self._status = VideoReader(path), on_status
        self.fps: Fraction | None = self._video.fps
        self._lock = threading.Lock()

    def read(self) -> Frame | None:
        """The next frame; None at the end. A jump of the file's clock is reported."""
        with self._lock:
            frame = self._video.read()
            doubt, self._video.doubt = self._video.doubt, None
        if doubt:
            self._status({"type": "status", "what": doubt[0], "why": doubt[1]})
        if frame is None:
            return None
        jump = frame.jump_s
        why = "" if jump is None else f"the clock jumped by {jump:+.1f} s"
        return Frame(frame.pixels, float(frame.time_s), time.monotonic(), bool(why), why)

    def close(self) -> None:
        """Close the file, after the frame that is being read."""
        with self._lock:
            self._video.close()


def open_stream(text: str, on_status: OnStatus) -> Source:
    """An RTSP or HTTP stream: over TCP, with time limits, and as little buffering as FFmpeg can.

    What has an end, such as an .mp4 at an http address, is played once, at its own speed.

    The user's OPENCV_FFMPEG_CAPTURE_OPTIONS, if set, is taken instead of ours: rtsp_transport;udp for one
    that has no TCP.
    """
    cv2 = need("cv2", extra="cpu")
    capture = _open(text, cv2, STREAM_OPTIONS)
    name = without_password(text)
    if not capture.isOpened():
        raise UsageError(f"{name} cannot be opened: {why_not(text)}")
    if not text.lower().startswith("http"):
        return Camera(name, capture)
    counted = 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < MOST_FRAMES
    jpeg = int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG")
    if counted or (not jpeg and has_length(text)):
        capture.release()
        capture = _open(text, cv2, "")  # without a buffer the first frames of a file are lost
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if counted else 0
        return Pace(WebFile(name, capture, promised, on_status))
    # A multipart stream has no time stamps: FFmpeg makes them up, at 25 frames a second.
    return Camera(name, capture, stamped=not jpeg)


def _open(text: str, cv2: Any, options: str) -> Any:
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_S * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_S * 1000]
    with _quiet_options(cv2, options):
        return cv2.VideoCapture(text, cv2.CAP_FFMPEG, [int(x) for x in limits])


def open_v4l2(text: str, on_status: OnStatus) -> Camera:
    """A local camera: /dev/video0 or v4l2:0."""
    cv2 = need("cv2", extra="cpu")
    device = text.removeprefix("v4l2:")
    device = f"/dev/video{device}" if device.isdigit() else device
    if not Path(device).exists():
        raise DeviceError(f"{device} does not exist. Plug the camera in; see: ls /dev/video*")
    with _quiet_options(cv2, ""):
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise DeviceError(f"{device} cannot be opened as a camera. Is another program using it?")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return Camera(device, capture)


@contextlib.contextmanager
def _quiet_options(cv2: Any, options: str) -> Iterator[None]:
    """OpenCV takes these from the environment alone: set for the time of one opening, then put back.

    Its warnings ("Stream timeout triggered") stay off from here on: on_status says the same.
    """
    wanted = {"OPENCV_FFMPEG_LOGLEVEL": "-8"}
    if options:
        wanted["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = options
    logs = cv2.utils.logging
    with _environment:
        logs.setLogLevel(min(logs.getLogLevel(), logs.LOG_LEVEL_ERROR))
        ours = [name for name in wanted if name not in os.environ]
        os.environ.update({name: wanted[name] for name in ours})
        try:
            yield
        finally:
            for name in ours:
                del os.environ[name]


class Camera:
    """An open live capture. One thread reads and closes it; see Reconnecting.

    stamped: its frames say when they were taken; False: the arrival counts, and its rate is not known.
    """

    live = True

    def __init__(self, name: str, capture: Any, *, stamped: bool = True) -> None:
        self._cv2 = need("cv2", extra="cpu")
        self._name = name
        self._capture = capture
        self._clock = StreamClock(stamped=stamped)
        self.fps: Fraction | None = frame_rate(capture.get(self._cv2.CAP_PROP_FPS)) if stamped else None

    def read(self) -> Frame | None:
        """The next frame; one that cannot be decoded has no pixels, shape (0, 0, 3)."""
        if not self._capture.grab():
            raise SourceLostError(f"{self._name} ended, or gave no frame for {READ_S:.0f} s")
        arrived = time.monotonic()
        ok, pixels = self._capture.retrieve()
        taken = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000
        whole = pixels if ok else np.empty((0, 0, 3), np.uint8)
        return Frame(whole, self._clock(taken, arrived), arrived)

    def close(self) -> None:
        """Let the device or the connection go."""
        self._capture.release()


class WebFile:
    """A file at an address, frame by frame at its own times. One thread reads and closes it."""

    live = False

    def __init__(self, name: str, capture: Any, promised: int, on_status: OnStatus) -> None:
        self._cv2 = need("cv2", extra="cpu")
        self._name, self._capture, self._promised, self._on_status = name, capture, promised, on_status
        self.fps: Fraction | None = frame_rate(capture.get(self._cv2.CAP_PROP_FPS))
        self._read = 0

    def read(self) -> Frame | None:
        """The next frame; None at the end. Reports whether the file ended or broke off."""
        ok, pixels = self._capture.read()
        if not ok:
            why = f"{self._name} is a file: it ended after {self._read} frames"
            early = self._read < WHOLE * self._promised
            if early:
                why += f" of about {self._promised}; it is damaged, or the connection broke off"
            what = "file_broke_off" if early else "file_ended"
            self._on_status({"type": "status", "what": what, "why": why})
            return None
        self._read += 1
        return Frame(pixels, self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000, time.monotonic())

    def close(self) -> None:
        """Let the connection go."""
        self._capture.release()


class StreamClock:
    """The stream's own time while it can be believed; from then on, the arrival.

    It cannot when it stands still, and when for DRIFTS times DRIFT_S in a row it runs a fifth faster or
    slower than time passes here: a camera then numbers its frames by a rate that it does not have. stamped:
    False if the stream has no time of its own.
    """

    def __init__(self, *, stamped: bool = True) -> None:
        self._before: float | None = None
        self._shift: float | None = None if stamped else 0.0
        self._last = (0.0, 0.0)  # (time handed out, arrival) of the frame before
        self._since: tuple[float, float] | None = None
        self._drifts = 0

    def __call__(self, taken_s: float, arrived_s: float) -> float:
        """Seconds for a frame that says ``taken_s`` of itself and was here at ``arrived_s``."""
        if self._shift is None and (taken_s == self._before or self._drifted(taken_s, arrived_s)):
            self._shift = self._last[0] - self._last[1]
        self._before = taken_s
        time_s = taken_s if self._shift is None else arrived_s + self._shift
        self._last = (time_s, arrived_s)
        return time_s

    def _drifted(self, taken_s: float, arrived_s: float) -> bool:
        since = self._since = self._since or (taken_s, arrived_s)
        passed = arrived_s - since[1]
        if passed < DRIFT_S:
            return False
        self._since = (taken_s, arrived_s)
        pace = (taken_s - since[0]) / passed
        way = int(pace > 1 + DRIFT) - int(pace < 1 - DRIFT)
        self._drifts = self._drifts + way if self._drifts * way >= 0 and way else way
        return abs(self._drifts) >= DRIFTS
