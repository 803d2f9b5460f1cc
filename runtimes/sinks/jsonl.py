"""One line of JSON per record, to stdout (``jsonl:-``) or appended to a file (``jsonl:events.jsonl``)."""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgepv.errors import UsageError
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Setup, as_json

WAITING = 1_000
"""Records that wait for a slow reader: half a minute of 30 a second."""
CLOSE_S = 3.0
"""For the queue to take the last word, and again for the thread to write: as for the disk, see spool."""


class JsonLines:
    """Writes in its own thread, straight to the file descriptor; a line is written whole or not at all.

    ended: the reader of the pipe is gone; nothing more is written, and nothing is said about it.
    """

    pixels = False

    def __init__(self, fd: int, name: str, say: Callable[[str], None]) -> None:
        self.ended = False
        self._fd, self._name, self._say = fd, name, say
        self._queue: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._taken = self._sent = self._lost = 0
        self._told = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"jsonl {name}", daemon=True)
        self._thread.start()

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Take one record; it is lost, and counted, if the reader is WAITING records behind."""
        line = as_json(record).encode() + b"\n"
        with self._lock:
            self._taken += 1
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._count(lost=1)

    def counts(self) -> dict[str, int]:
        """taken = sent + queued + lost."""
        with self._lock:
            queued = self._taken - self._sent - self._lost
            return {"taken": self._taken, "sent": self._sent, "queued": queued, "lost": self._lost}

    def close(self) -> None:
        """Write what waits, for up to CLOSE_S seconds."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive() and self._fd > 2:
            os.close(self._fd)
            self._fd = -1

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            if self.ended or not self._write(line):
                self._count(lost=1)
            else:
                self._count(sent=1)

    def _write(self, line: bytes) -> bool:
        """Whether the whole line was written; what was written of it otherwise is taken back."""
        done = 0
        try:
            while done < len(line):
                done += os.write(self._fd, line[done:])
            return True
        except BrokenPipeError:
            self.ended = True
        except OSError as e:
            self._take_back(done)
            if not self._told:
                self._told = True
                self._say(f"{self._name} cannot be written ({e.strerror}): records are lost until it can")
        return False

    def _take_back(self, done: int) -> None:
        if done and stat.S_ISREG(os.fstat(self._fd).st_mode):
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - done)

    def _count(self, *, sent: int = 0, lost: int = 0) -> None:
        with self._lock:
            self._sent += sent
            self._lost += lost


def open_jsonl(url: str, setup: Setup) -> JsonLines:
    """``jsonl:-`` for stdout, or ``jsonl:PATH``, a file that is appended to."""
    path = url.partition(":")[2]
    if not path:
        raise UsageError(f"'{url}' names no file. Write jsonl:- for stdout, or jsonl:events.jsonl")
    if path == "-":
        sys.stdout.flush()
        return JsonLines(1, "stdout", setup.say)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as e:
        raise UsageError(f"{path} cannot be opened for writing ({e.strerror}). Check the path") from None
    return JsonLines(fd, path, setup.say)
