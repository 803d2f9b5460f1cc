"""A folder of images as a video."""

from __future__ import annotations

import contextlib
import re
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from edgepv.base.optional import need
from edgepv.base.quiet import hush_native
from edgepv.errors import UsageError
from edgepv.runtimes.sources import Frame, OnStatus
from edgepv.runtimes.sources.address import options, rate_option

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def open_images(text: str, on_status: OnStatus) -> Images:
    """The images of "folder" or "folder?fps=25". Raises UsageError if it holds none."""
    if Path(text).is_dir():
        return Images(Path(text), Fraction(10), on_status)
    folder, given = options(text, {"fps": "10"})
    return Images(Path(folder), rate_option(text, given["fps"]), on_status)


def natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 2.jpg before 10.jpg."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


class Images:
    """Images in natural order, at index / fps. A damaged one is skipped, and its time passes.

    Raises UsageError at the end if every image was damaged.
    """

    live = False

    def __init__(self, folder: Path, rate: Fraction, on_status: OnStatus) -> None:
        self._folder, self._rate, self._status = folder, rate, on_status
        self.fps: Fraction | None = rate
        self._paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES), key=natural)
        if not self._paths:
            raise UsageError(f"{folder} holds no image. Known suffixes: {', '.join(SUFFIXES)}")
        self._next = 0
        self._closed = False
        self._shape: tuple[int, ...] | None = None

    def read(self) -> Frame | None:
        """The next image that can be decoded; None at the end. UsageError if none of them could be."""
        while self._next < len(self._paths) and not self._closed:
            index, path = self._next, self._paths[self._next]
            self._next += 1
            pixels = decode(path)
            if pixels is not None:
                return self._frame(pixels, index)
            why = "cannot be decoded" if path.is_file() else "is no plain file"
            self._status({"type": "status", "what": "image_skipped", "why": f"{path} {why}"})
        if self._shape is None and not self._closed:
            raise UsageError(
                f"none of the {len(self._paths)} images in {self._folder} can be decoded. Are they whole?"
            )
        return None

    def _frame(self, pixels: np.ndarray, index: int) -> Frame:
        before, self._shape = self._shape, pixels.shape
        why = size_change(before, pixels.shape)
        return Frame(pixels, float(index / self._rate), time.monotonic(), bool(why), why)

    def close(self) -> None:
        """End at the next ``read``."""
        self._closed = True


def size_change(before: tuple[int, ...] | None, now: tuple[int, ...]) -> str:
    """ "size changed from 640x480 to 320x240" for two shapes (H, W, 3); "" if they are one, or the first."""
    if before is None or before == now:
        return ""
    return f"size changed from {before[1]}x{before[0]} to {now[1]}x{now[0]}"


def decode(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 BGR, or None if the file is damaged, cannot be read, or is none: a pipe would block."""
    cv2 = need("cv2", extra="cpu")
    if not path.is_file():
        return None
    with hush_native(), contextlib.suppress(cv2.error, OSError):
        return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return None
