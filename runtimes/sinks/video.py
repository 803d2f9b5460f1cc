"""The camera's picture with the answers drawn under it, into one file: ``video:out.mp4``."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.errors import UsageError
from edgepv.runtimes.picture.drawing import Painter
from edgepv.runtimes.picture.outlines import outlined
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Setup

WAITING = 8
"""Pictures that wait to be encoded: 50 MB at full HD."""
CLOSE_S = 5.0
"""For what waits to be encoded, and for the file's end to be written."""
RESERVE_BYTES, RESERVE_BYTES_PER_FRAME = 1 << 20, 64
"""Left free on the disk, so that the index of an .mp4, which comes last, still fits."""


class VideoFile:
    """Draws and encodes in its own thread; frames beyond WAITING are dropped and counted, never waited for.

    The file appears under its name when it is closed. All frames have the size of the first one.
    """

    pixels = True
    draws = True

    def __init__(self, path: Path, setup: Setup) -> None:
        self._path, self._fps, self._say, self._shapes = path, setup.fps, setup.say, setup.shapes
        self._queue: queue.Queue[tuple[Record, np.ndarray] | None] = queue.Queue(WAITING)
        self._taken = self._sent = self._lost = 0
        self._full = False
        self._fault: Exception | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"video {path}", daemon=True)
        self._thread.start()

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Take an answer with its frame (H, W, 3) BGR; other records are not drawn."""
        if record["type"] != "answer" or frame is None:
            return
        with self._lock:
            self._taken += 1
        if self._full or self._queue.full():
            self._count(lost=1)
            return
        try:
            self._queue.put_nowait((dict(record), frame.copy()))
        except queue.Full:
            self._count(lost=1)

    def counts(self) -> dict[str, int]:
        """taken = sent + queued + lost, in frames."""
        with self._lock:
            queued = self._taken - self._sent - self._lost
            return {"taken": self._taken, "sent": self._sent, "queued": queued, "lost": self._lost}

    def close(self) -> None:
        """Encode what waits, and give the file its name. Raises what went wrong although it must not."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)
        if self._fault:
            raise self._fault

    def _run(self) -> None:
        try:
            with whole_file(self._path) as tmp:
                self._encode(tmp)
                if not self._sent:
                    raise _NothingWrittenError
        except _NothingWrittenError:
            pass
        except OSError as e:
            self._stop(f"cannot be written ({e.strerror})")
        self._full = True
        self._discard()

    def _encode(self, tmp: Path) -> None:
        """Write frames until the end or until the disk is all but full."""
        writer, painter = None, Painter()
        try:
            while (work := self._queue.get()) is not None:
                try:
                    picture = painter.draw(outlined(work[1], self._shapes), work[0])
                except Exception as e:  # a fault of ours: what was drawn is kept
                    self._fault = e
                    self._stop(f"ends after {self._sent} frames: {type(e).__name__}: {e}")
                    self._count(lost=1)
                    return
                if writer is None:
                    size = (picture.shape[1], picture.shape[0])
                    writer = self._open(tmp, size)
                if writer is None or not self._room(tmp):
                    self._count(lost=1)
                    return
                writer.write(letterbox(picture, size))
                self._count(sent=1)
        finally:
            if writer is not None:
                writer.release()

    def _open(self, tmp: Path, size: tuple[int, int]) -> Any:
        cv2 = need("cv2", extra="cpu")
        writer = cv2.VideoWriter(str(tmp), cv2.VideoWriter.fourcc(*"mp4v"), float(self._fps), size)
        if writer.isOpened():
            return writer
        self._stop("cannot be written: OpenCV has no MPEG-4 encoder here")
        return None

    def _room(self, tmp: Path) -> bool:
        left = shutil.disk_usage(tmp.parent).free
        if left > RESERVE_BYTES + RESERVE_BYTES_PER_FRAME * self._sent:
            return True
        self._stop(f"ends after {self._sent} frames: the disk is full")
        return False

    def _stop(self, why: str) -> None:
        self._full = True
        self._say(f"{self._path} {why}; frames from here on are not recorded")

    def _discard(self) -> None:
        """Count what came too late."""
        while True:
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                return
            if work is not None:
                self._count(lost=1)

    def _count(self, *, sent: int = 0, lost: int = 0) -> None:
        with self._lock:
            self._sent += sent
            self._lost += lost


class _NothingWrittenError(Exception):
    """No frame was written: no file is left."""


def letterbox(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in ``size`` (width, height), its shape kept, black beside or above and below it."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    cv2 = need("cv2", extra="cpu")
    width, height = size
    factor = min(width / picture.shape[1], height / picture.shape[0])
    w, h = max(1, int(picture.shape[1] * factor)), max(1, int(picture.shape[0] * factor))
    box = np.zeros((height, width, 3), np.uint8)
    x, y = (width - w) // 2, (height - h) // 2
    box[y : y + h, x : x + w] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
    return box


def open_video_sink(url: str, setup: Setup) -> VideoFile:
    """``video:PATH.mp4``. Raises UsageError for another kind of file or a folder that cannot be written."""
    path = Path(url.partition(":")[2])
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"'{url}': the annotated video is written as .mp4. Write video:out.mp4")
    need("cv2", extra="cpu")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written. Check that its folder exists and is yours to write to")
    return VideoFile(path, setup)
