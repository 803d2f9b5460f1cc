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

from edgepv.errors import SourceLostError, UsageError
from edgepv.optional import need
from edgepv.runtimes.sources import Frame, OnStatus
from edgepv.runtimes.sources.address import without_password
from edgepv.video import VideoReader, frame_rate

OPEN_S = 5.0
READ_S = 5.0
STREAM_OPTIONS = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
_environment = threading.Lock()


def open_file(text: str, on_status: OnStatus) -> VideoFile:
    """A video file. Raises UsageError if it is missing or no video."""
    return VideoFile(Path(text).absolute(), on_status)  # to FFmpeg a relative rtsp:1.mp4 is an address


class VideoFile:
    """A video file; its frames have the times that it shows them at, from 0 on (``edgepv.video``).

    on_status is told at the end of what is doubtful, such as a picture that is shorter than the file. Raises
    UsageError at a place that is damaged.
    """

    live = False

    def __init__(self, path: Path, on_status: OnStatus) -> None:
        self._video, self._status = VideoReader(path), on_status
        self.fps: Fraction | None = self._video.fps
        self._lock = threading.Lock()

    def read(self) -> Frame | None:
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
        with self._lock:
            self._video.close()


def open_stream(text: str, on_status: OnStatus) -> Camera:
    """An RTSP or HTTP stream: over TCP, with time limits, and as little buffering as FFmpeg can.

    The user's OPENCV_FFMPEG_CAPTURE_OPTIONS, if set, is taken instead of ours: rtsp_transport;udp for one
    that has no TCP.
    """
    cv2 = need("cv2", extra="cpu")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_S * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_S * 1000]
    with _quiet_options(cv2):
        capture = cv2.VideoCapture(text, cv2.CAP_FFMPEG, [int(x) for x in limits])
    name = without_password(text)
    if not capture.isOpened():
        raise UsageError(
            f"{name} cannot be opened (tried for up to {OPEN_S:.0f} s). Check that the camera is on, and the "
            "address, the user and the password"
        )
    return Camera(name, capture)


def open_v4l2(text: str, on_status: OnStatus) -> Camera:
    """A local camera: /dev/video0 or v4l2:0."""
    cv2 = need("cv2", extra="cpu")
    device = text.removeprefix("v4l2:")
    device = f"/dev/video{device}" if device.isdigit() else device
    if not Path(device).exists():
        raise UsageError(f"{device} does not exist. Plug the camera in; see: ls /dev/video*")
    with _quiet_options(cv2):
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise UsageError(f"{device} cannot be opened as a camera. Is another program using it?")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return Camera(device, capture)


@contextlib.contextmanager
def _quiet_options(cv2: Any) -> Iterator[None]:
    """OpenCV takes these from the environment alone: set for the time of one opening, then put back.

    Its warnings ("Stream timeout triggered") stay off from here on: on_status says the same.
    """
    wanted = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": STREAM_OPTIONS, "OPENCV_FFMPEG_LOGLEVEL": "-8"}
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
    """An open live capture. One thread reads and closes it; see Reconnecting."""

    live = True

    def __init__(self, name: str, capture: Any) -> None:
        self._cv2 = need("cv2", extra="cpu")
        self._name = name
        self._capture = capture
        self._clock = StreamClock()
        self.fps: Fraction | None = frame_rate(capture.get(self._cv2.CAP_PROP_FPS))

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
        self._capture.release()


class StreamClock:
    """The stream's own time while it moves; from the first time it stands still on, the arrival."""

    def __init__(self) -> None:
        self._before: float | None = None
        self._shift: float | None = None
        self._last = (0.0, 0.0)  # (time handed out, arrival) of the frame before

    def __call__(self, taken_s: float, arrived_s: float) -> float:
        """Seconds for a frame that says ``taken_s`` of itself and was here at ``arrived_s``."""
        if self._shift is None and taken_s == self._before:
            self._shift = self._last[0] - self._last[1]
        self._before = taken_s
        time_s = taken_s if self._shift is None else arrived_s + self._shift
        self._last = (time_s, arrived_s)
        return time_s
