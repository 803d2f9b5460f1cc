"""A live run as a trace: what each frame of each camera went through, for Perfetto or chrome://tracing.

Source of the format: "Trace Event Format" of Chromium's catapult project: complete events (``ph`` "X") with
``ts`` and ``dur`` in microseconds, instant events ("i") and the names of processes and threads ("M").
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgepv.base.files import write_text
from edgepv.errors import UsageError
from edgepv.runtimes.deadline import Reply
from edgepv.types import Json

MOST = 100_000
"""Events that are kept, the latest ones: about ten minutes of a camera of 30 frames a second, and 15 MB."""
OPENING = '{"displayTimeUnit":"ms","otherData":{"program":"edgepv"'
"""How a trace of ours begins: such a file may be written over."""
TRACKS = {"capture": 1, "queue": 2, "work": 3, "out": 4}
"""Track -> its number below a camera. A frame goes through them in this order, each in a thread of its own
(the queue is where it waits)."""
APART = 10
"""Threads of a camera: the track's number and so many times the camera's. Perfetto calls a thread whose id is
that of its process the main thread."""


class Trace:
    """What the cameras of one run did, the latest ``most`` events. Any thread may add to it."""

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=most)
        self._cameras: list[str] = []
        self._added, self.clock, self._begun_s = 0, clock, clock()

    def camera(self, name: str) -> CameraTrace:
        """What one camera adds its own with."""
        self._cameras.append(name)
        return CameraTrace(self, len(self._cameras))

    def add(
        self, camera: int, track: str, name: str, start_s: float, end_s: float | None, **args: Json
    ) -> None:
        """One event on a camera's track, from ``start_s`` to ``end_s`` by the clock; None: of one instant."""
        event: dict[str, Any] = {"name": name, "cat": track, "pid": camera, "tid": _thread(camera, track)}
        event["ts"] = self._us(start_s)
        if end_s is None:
            event |= {"ph": "i", "s": "t"}
        else:
            event |= {"ph": "X", "dur": max(0.0, round(self._us(end_s) - event["ts"], 3))}
        self._added += 1
        self._events.append(event | {"args": args})

    def _us(self, moment_s: float) -> float:
        return round(1e6 * (moment_s - self._begun_s), 3)

    def write(self, path: Path) -> None:
        """The trace as a file, whole, its events in order of time."""
        kept = tuple(self._events)  # a camera that was left behind may still add
        events = sorted(kept, key=lambda event: float(event["ts"]))
        about = json.dumps({"events left out": self._added - len(events)})[1:]
        lines = ",\n".join(json.dumps(event) for event in (*self._names(), *events))
        write_text(path, f'{OPENING},{about},"traceEvents":[\n{lines}\n]}}\n')

    def _names(self) -> Iterator[dict[str, Any]]:
        for number, name in enumerate(self._cameras, 1):
            yield _named("process_name", number, 0, f"camera {name}")
            for track in TRACKS:
                yield _named("thread_name", number, _thread(number, track), track)


def _thread(camera: int, track: str) -> int:
    return APART * camera + TRACKS[track]


def _named(what: str, camera: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": camera, "tid": thread, "args": {"name": name}}


class CameraTrace:
    """One camera's part of a trace."""

    def __init__(self, trace: Trace, number: int) -> None:
        self._trace, self._number = trace, number

    @contextlib.contextmanager
    def span(self, track: str, name: str) -> Iterator[None]:
        """What is done inside, on ``track``."""
        start_s = self._trace.clock()
        try:
            yield
        finally:
            self._trace.add(self._number, track, name, start_s, self._trace.clock())

    def answered(self, reply: Reply) -> None:
        """A frame's way to its reply: how long it waited, and what the model did.

        Preprocessing and the engine are drawn at the end of the work: what went before is the look for a
        scene cut, and a variant that caught up. A stale reply is an instant that says why.
        """
        add, number = self._trace.add, self._number
        arrived_s = reply.replied_s - reply.latency_ms / 1e3
        frame = {"frame": reply.number, "variant": reply.variant}
        if reply.stale or reply.answer is None or reply.wait_ms is None:
            add(number, "work", f"stale: {reply.why or 'no answer'}", reply.replied_s, None, **frame)
            return
        began_s, infer_s = arrived_s + reply.wait_ms / 1e3, reply.replied_s - reply.answer.infer_ms / 1e3
        pre_s = max(began_s, infer_s - reply.answer.pre_ms / 1e3)
        add(number, "queue", "queue", arrived_s, began_s, **frame)
        add(number, "work", "frame", began_s, reply.replied_s, **frame, missed=reply.answer.missed)
        add(number, "work", "pre", pre_s, max(pre_s, infer_s), **frame)
        add(number, "work", "infer", max(pre_s, infer_s), reply.replied_s, **frame)


def check_free(path: Path) -> None:
    """Raise UsageError for a place where a trace cannot be written, or that holds something else."""
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder. Make it, or name another place with --trace")
    if not path.exists():
        return
    with contextlib.suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
        if file.read(len(OPENING)) in (OPENING, ""):
            return
    raise UsageError(f"{path} exists and is no trace of edgepv. Name another file with --trace")
