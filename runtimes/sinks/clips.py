"""A piece of video around each event, into a folder: ``clips:DIR?pre_s=3&post_s=5&most_s=60&quota_mb=1000``.

What came before an event waits in memory as JPEGs. Events that overlap share a clip, which bears the id of
the first; beside ``ID.mp4`` lies ``ID.json``, a ``KeptRecord``. Pictures are as they may leave: redacted.
Only clips in the folder itself count for the quota: one that was moved into a sub-folder stays.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.errors import UsageError, unknown
from edgepv.runtimes.picture.drawing import even
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Setup
from edgepv.runtimes.sinks.video import letterbox

WAITING = 8
"""Pictures that wait to be encoded: 50 MB at full HD."""
RING_BYTES = 32 << 20
"""JPEGs that wait for an event, at most: 3 s of full HD at 30 a second. Older ones go first."""
QUALITY = 85
"""Of a JPEG: what is encoded again as video shows no more blocks with it than without."""
CLOSE_S = 5.0
"""For what waits to be encoded, and for the file's end to be written."""


@dataclass(frozen=True)
class ClipRules:
    """What is kept: pre_s before the first event and post_s after the last, most_s in all; quota_mb of clips.

    Raises UsageError for what are no such numbers.
    """

    pre_s: float = 3.0
    post_s: float = 5.0
    most_s: float = 60.0
    quota_mb: float = 1000.0

    def __post_init__(self) -> None:
        if not (self.pre_s >= 0 and self.post_s >= 0 and 0 < self.most_s < math.inf and self.quota_mb > 0):
            raise UsageError(
                f"clips: {self}: seconds are 0 or more, most_s and quota_mb above 0. Correct the address"
            )


@dataclass
class _Recording:
    """A clip being written. began_s: time of its first event. writer: of its file, once there is one.

    times_s: of its frames. said, margin: as in ``KeptRecord``.
    """

    name: str
    began_s: float
    events: dict[str, Any] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    ended_s: float = 0.0
    file: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    writer: Any = None
    size: tuple[int, int] = (0, 0)
    times_s: list[float] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    margin: float | None = None
    dropped: bool = False

    def over(self, time_s: float, rules: ClipRules) -> bool:
        """Whether what comes at this time belongs to it no more."""
        ended = not self.running and time_s - self.ended_s > rules.post_s
        return ended or time_s - self.began_s > rules.most_s or time_s < self.began_s

    def hear(self, event: Record, kind: str, time_s: float) -> None:
        """Note a step of an event."""
        self.events[event["id"]] = event
        if kind == "end":
            self.running.discard(event["id"])
            self.ended_s = time_s
        else:
            self.running.add(event["id"])

    def listen(self, answer: Record) -> None:
        """Note what the model said while an event runs."""
        if not self.running or answer.get("label") is None or answer["stale"] or not answer["valid"]:
            return
        self.said[answer["label"]] += 1
        seen = [m for m in (self.margin, answer["margin"]) if m is not None]
        self.margin = min(seen, default=None)

    def part_s(self, fps: float) -> tuple[float, float]:
        """Seconds of the clip from the beginning of its first event to the end of its last."""
        last_s = math.inf if self.running else self.ended_s
        inside = [k for k, time_s in enumerate(self.times_s) if self.began_s <= time_s <= last_s]
        first, last = (inside[0], inside[-1]) if inside else (0, len(self.times_s) - 1)
        return first / fps, (last + 1) / fps

    def drop(self, error: Exception) -> None:
        """Leave nothing of it: it could not be written."""
        if self.writer is not None:
            self.writer.release()
        self.dropped = True
        with contextlib.suppress(Exception):
            self.file.__exit__(type(error), error, None)


class Clips:
    """Keeps clips of one camera's events; encodes in its own thread, and never lets a frame wait."""

    pixels = True

    def __init__(self, folder: Path, rules: ClipRules, setup: Setup) -> None:
        self._folder, self._rules, self._fps, self._say = folder, rules, setup.fps, setup.say
        self._about = {"camera": setup.camera, "model": setup.model, "redacted": setup.hides}
        self._time_s = 0.0
        self._last: Record = {}
        self._now: _Recording | None = None
        self._ring: deque[tuple[float, bytes]] = deque()
        self._ring_bytes = 0
        self._taken = self._sent = self._lost = 0
        self._lock = threading.Lock()
        self._queue: queue.Queue[tuple[float, _Recording | None, np.ndarray | None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name=f"clips {folder}", daemon=True)
        self._thread.start()

    def clip_of(self, record: Record) -> str | None:
        """The name of the clip that an event is in; None for an end whose clip is complete already."""
        kind, event = record["type"], record["after"]
        if self._now and self._now.over(self._time_s, self._rules):
            self._finish()
        if self._now is None and kind == "new":
            self._now = _Recording(event["id"], self._time_s)
        if self._now is None:
            return None
        self._now.hear(event, kind, self._time_s)
        if not self._now.said:
            self._now.listen(self._last)
        return f"{self._now.name}.mp4"

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Take an answer with its frame (H, W, 3) BGR; it is lost, and counted, if WAITING are waiting."""
        if record["type"] != "answer":
            return
        self._time_s = record["time_s"]
        if self._now and self._now.over(self._time_s, self._rules):
            self._finish()
        if self._now:
            self._now.listen(record)
        self._last = record
        if frame is None:
            return
        with self._lock:
            self._taken += 1
        if self._queue.qsize() >= WAITING:
            self._count(lost=1)
            return
        self._queue.put((self._time_s, self._now, frame.copy()))

    def counts(self) -> dict[str, int]:
        """taken = sent + queued + lost, in frames; one that no event asked for is sent as well."""
        with self._lock:
            queued = self._taken - self._sent - self._lost
            return {"taken": self._taken, "sent": self._sent, "queued": queued, "lost": self._lost}

    def close(self) -> None:
        """Complete the clip that is being written."""
        if self._now:
            self._finish()
        self._queue.put(None)
        self._thread.join(CLOSE_S)

    def _finish(self) -> None:
        self._queue.put((math.inf, self._now, None))
        self._now = None

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            time_s, recording, frame = work
            try:
                if frame is not None:
                    self._take(time_s, recording, frame)
                elif recording is not None:
                    self._complete(recording)
            except Exception as e:  # the next event may find room again
                self._say(f"a clip in {self._folder} is lost: {type(e).__name__}: {e}")
                if recording is not None:
                    recording.drop(e)
                self._count(lost=int(frame is not None))

    def _take(self, time_s: float, recording: _Recording | None, frame: np.ndarray) -> None:
        if recording is None:
            self._remember(time_s, frame)
        elif not recording.dropped:
            self._pour(recording)
            self._write(recording, frame, time_s)
        self._count(sent=1)

    def _pour(self, recording: _Recording) -> None:
        """What was remembered comes first."""
        cv2 = need("cv2", extra="cpu")
        while self._ring:
            time_s, jpeg = self._ring.popleft()
            self._ring_bytes -= len(jpeg)
            picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            self._write(recording, picture, time_s)

    def _remember(self, time_s: float, frame: np.ndarray) -> None:
        """Keep a picture for pre_s, as far as there is room; a clock that ran back begins anew."""
        cv2 = need("cv2", extra="cpu")
        jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        self._ring.append((time_s, jpeg))
        self._ring_bytes += len(jpeg)
        while self._ring and (
            self._ring_bytes > RING_BYTES or not 0 <= time_s - self._ring[0][0] <= self._rules.pre_s
        ):
            self._ring_bytes -= len(self._ring.popleft()[1])

    def _write(self, recording: _Recording, frame: np.ndarray, time_s: float) -> None:
        cv2 = need("cv2", extra="cpu")
        picture = even(frame)
        if recording.writer is None:
            tmp = recording.file.enter_context(whole_file(self._folder / f"{recording.name}.mp4"))
            recording.size = (picture.shape[1], picture.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            recording.writer = cv2.VideoWriter(str(tmp), code, float(self._fps), recording.size)
            if not recording.writer.isOpened():
                raise OSError("OpenCV has no MPEG-4 encoder here, or the folder cannot be written")
        recording.writer.write(letterbox(picture, recording.size))
        recording.times_s.append(time_s)

    def _complete(self, recording: _Recording) -> None:
        """Give the file its name, write what is in it beside it, and make room for the next."""
        if not recording.dropped:
            self._pour(recording)
        if recording.writer is None or recording.dropped:
            return
        recording.writer.release()
        recording.file.close()
        from_s, to_s = recording.part_s(self._fps)
        about = {
            "events": list(recording.events.values()),
            **self._about,
            "fps": self._fps,
            "frames": len(recording.times_s),
            "from_s": round(from_s, 3),
            "to_s": round(to_s, 3),
            "said": dict(recording.said),
            "margin": recording.margin,
        }
        with whole_file(self._folder / f"{recording.name}.json") as tmp:
            tmp.write_text(json.dumps(about, indent=1) + "\n")
        make_room(self._folder, int(self._rules.quota_mb * 1e6), but=recording.name)

    def _count(self, *, sent: int = 0, lost: int = 0) -> None:
        with self._lock:
            self._sent += sent
            self._lost += lost


def make_room(folder: Path, quota_bytes: int, but: str) -> None:
    """Remove the oldest clips of a folder until the others have no more than their quota. but: stays."""
    clips = sorted(folder.glob("*.mp4"), key=lambda clip: (clip.stat().st_mtime_ns, clip.name))
    sizes = {clip: clip.stat().st_size for clip in clips}
    total = sum(sizes.values())
    for clip in clips:
        if total <= quota_bytes:
            return
        if clip.stem != but:
            clip.with_name(f"{clip.stem}.json").unlink(missing_ok=True)
            clip.unlink(missing_ok=True)
            total -= sizes[clip]


def open_clips(url: str, setup: Setup) -> Clips:
    """``clips:DIR`` with options behind it. Raises UsageError for another one or a folder that cannot be."""
    path, _, query = url.partition(":")[2].partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    known = list(ClipRules.__dataclass_fields__)
    for name in given:
        if name not in known:
            raise UsageError(f"'{url}': {unknown('option', name, known)}")
    if not path:
        raise UsageError(f"'{url}' names no folder. Write clips:DIR")
    need("cv2", extra="cpu")
    try:
        rules = ClipRules(**{name: float(value) for name, value in given.items()})
        Path(path).mkdir(parents=True, exist_ok=True)
    except ValueError:
        raise UsageError(f"'{url}': {', '.join(known)} are numbers") from None
    except OSError as e:
        raise UsageError(f"{path} cannot be made ({e.strerror}). Check the path") from None
    return Clips(Path(path), rules, setup)
