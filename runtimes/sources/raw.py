"""Frames without a container, from stdin, a fifo or a file."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from edgepv.base.optional import need
from edgepv.errors import UsageError, unknown
from edgepv.runtimes.sources import Frame, OnStatus
from edgepv.runtimes.sources.address import options, rate_option

# format: (bytes of two pixels by two, the OpenCV conversion to BGR)
FORMATS = {
    "bgr24": (12, None),
    "rgb24": (12, "COLOR_RGB2BGR"),
    "gray8": (4, "COLOR_GRAY2BGR"),
    "nv12": (6, "COLOR_YUV2BGR_NV12"),
    "yuv420p": (6, "COLOR_YUV2BGR_I420"),
}
LOOK_S = 0.1  # how long a waiting read goes without looking whether it was closed


@dataclass(frozen=True)
class Layout:
    """How the bytes of one frame lie: width and height in pixels, one of FORMATS."""

    width: int
    height: int
    format: str

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return self.width * self.height * FORMATS[self.format][0] // 4

    def pixels(self, data: bytearray) -> np.ndarray:
        """(H, W, 3) uint8 BGR of the bytes of one frame."""
        conversion = FORMATS[self.format][1]
        flat = np.frombuffer(data, np.uint8)
        if conversion is None:
            return flat.reshape(self.height, self.width, 3)
        cv2 = need("cv2", extra="cpu")
        rows = (
            flat.reshape(-1, self.width, 3) if conversion == "COLOR_RGB2BGR" else flat.reshape(-1, self.width)
        )
        return cv2.cvtColor(rows, getattr(cv2, conversion))


def open_raw(text: str, on_status: OnStatus) -> Raw:
    """ "raw:-?size=640x480&fps=30000/1001&format=bgr24"; - is stdin, anything else a path.

    With live=1 the writer is a camera: frames are stamped when they come, not index / fps.
    Raises UsageError for a missing path, a size, rate or format that makes no sense.
    """
    wanted = {"size": None, "fps": None, "format": "bgr24", "live": "0"}
    path, given = options(text, wanted)
    path = path.removeprefix("raw:")
    size = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", given["size"])
    if size is None:
        raise UsageError(f"{text}: size={given['size']} is no size. Write size=640x480")
    if given["format"] not in FORMATS:
        raise UsageError(f"{text}: {unknown('format', given['format'], FORMATS)}")
    layout = Layout(int(size[1]), int(size[2]), given["format"])
    if layout.format in ("nv12", "yuv420p") and (layout.width % 2 or layout.height % 2):
        raise UsageError(f"{text}: {layout.format} needs an even width and height")
    if given["live"] not in ("0", "1"):
        raise UsageError(f"{text}: live={given['live']} is neither 0 nor 1")
    rate = rate_option(text, given["fps"])
    return Raw(_descriptor(path), path, layout, rate, on_status, live=given["live"] == "1")


def _descriptor(path: str) -> int:
    if path == "-":
        return os.dup(0)
    if not Path(path).exists() or Path(path).is_dir():
        raise UsageError(f"{path} does not exist or is a folder. Make the fifo first: mkfifo {path}")
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a fifo opens before its writer comes


class Raw:
    """Raw frames of one size and format; the end of the bytes is the end."""

    def __init__(
        self, fd: int, name: str, layout: Layout, rate: Fraction, on_status: OnStatus, *, live: bool = False
    ) -> None:
        self._file = os.fdopen(fd, "rb", buffering=0)
        self._name, self._layout, self._rate, self._status = name, layout, rate, on_status
        self.fps: Fraction | None = rate
        self.live = live
        self._read = 0
        self._closed = False
        self._reading = threading.Lock()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def read(self) -> Frame | None:
        """The next whole frame; None at the end. A frame that is cut off is reported."""
        data = bytearray(self._layout.nbytes)
        with self._reading:
            filled = self._fill(memoryview(data))
        arrived = time.monotonic()
        if self._closed:
            return None
        if filled < len(data):
            if filled:
                why = f"the stream ended after {filled} of {len(data)} bytes of frame {self._read}"
                self._status({"type": "status", "what": "partial_frame", "why": why})
            return None
        taken = arrived if self.live else float(self._read / self._rate)
        self._read += 1
        return Frame(self._layout.pixels(data), taken, arrived)

    def _fill(self, view: memoryview) -> int:
        """How many bytes of ``view`` were filled before the end, or before ``close``."""
        filled = 0
        while filled < len(view) and not self._closed:
            if not self._poll.poll(LOOK_S * 1000):
                continue
            got = self._file.readinto(view[filled:])
            if got == 0:
                break
            filled += got or 0
        return filled

    def close(self) -> None:
        """Close the file; a ``read`` that waits in another thread ends first."""
        self._closed = True
        with self._reading:
            self._file.close()
