"""Run a variant over a video file: one answer per model frame, optionally drawn into a copy."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.data.video import Ticks, VideoFrame, at_rate, open_video
from edgepv.errors import UsageError
from edgepv.metrics.stats import percentiles_ms
from edgepv.runtimes.engine import Read
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.picture.drawing import Painter
from edgepv.runtimes.records import RECORDS, answer_fields, picture_of, record
from edgepv.runtimes.session import open_session
from edgepv.types import ModelSpec, Variant

Event = dict[str, Any]


def run_file(
    variant: Variant,
    files: Path | Read,
    source: Path,
    *,
    threads: int = 1,
    deadline_ms: float | None = None,
    video: Path | None = None,
    cuts: bool = True,
    camera: str = "cam1",
    emit: Callable[[Event], None] = lambda event: None,
) -> Event:
    """Answer every frame that is due at the model's rate; returns the summary.

    A restorer that looks ahead answers late; in ``video`` its pictures stand at the frames that they show:
    the first, before its warm-up, are the camera's own, and for the last ones the last frame is held.

    A frame is due when it is the newest one shown at time k / fps; frames between are skipped. ``emit`` gets
    one event per answer, and a status where the clock jumps and of what is doubtful at the end. cuts: forget
    the states at a scene cut.
    Raises UsageError for a file that was cut off or is damaged.
    """
    if video and video.exists() and source.exists() and video.samefile(source):
        raise UsageError(f"--video {video} is the source itself. Name another file")
    answers: list[Answer] = []
    missed = 0
    with (
        open_session(variant, files, threads=threads, cuts=cuts) as session,
        open_video(source) as film,
        _writer(video, variant.spec, film.fps) as write,
    ):
        latest: Answer | None = None
        draw = _InStep(write, late(variant, film.fps))
        for frame, owed in at_rate(film, variant.spec.fps):
            if frame.jump_s is not None:
                session.reset()
                emit(_status(camera, "clock_jumped", f"by {frame.jump_s:+.1f} s before frame {frame.index}"))
            for _ in range(owed):
                latest = session.step(frame.pixels)
                missed += deadline_ms is not None and latest.pre_ms + latest.infer_ms > deadline_ms
                emit(event(latest, variant, len(answers), frame, camera))
                answers.append(replace(latest, outputs={}))  # pictures of a whole film are too much to keep
            if latest:
                draw(frame, latest)
            last = frame
        for i in range(film.read_count, film.read_count + len(draw.waiting) if video else 0):
            for _ in range(_owed(i, film.fps, variant.spec.fps)):
                latest = session.step(last.pixels)
            if latest:
                draw(last, latest)
        if film.doubt:
            emit(_status(camera, *film.doubt))
    return summary(variant, answers, film.read_count, threads, deadline_ms, missed) | {"camera": camera}


def _status(camera: str, what: str, why: str) -> Event:
    return {"type": "status", "version": RECORDS, "camera": camera, "what": what, "why": why}


def late(variant: Variant, fps: Fraction) -> int:
    """Frames of a video between the one that a restorer's picture shows and the one it is answered to."""
    if variant.spec.task != "restoration":
        return 0
    behind = variant.spec.lag + (variant.stream.delay if variant.stream else 0)
    return int(-(-behind * fps // variant.spec.fps))


class _InStep:
    """Draws each answer on the frame that it shows, ``late`` frames after that came."""

    def __init__(self, write: Callable[[VideoFrame, Answer], None], late: int) -> None:
        self._write, self._late = write, late
        self.waiting: deque[VideoFrame] = deque()

    def __call__(self, frame: VideoFrame, answer: Answer) -> None:
        self.waiting.append(frame)
        if len(self.waiting) > self._late:
            self._write(self.waiting.popleft(), answer)


def _owed(index: int, source: Fraction, wanted: Fraction) -> int:
    """How many answers frame ``index`` owes: those k whose newest frame at time k / wanted it is."""
    return int(-(-(index + 1) * wanted // source) + (-index * wanted // source))


def event(answer: Answer, variant: Variant, number: int, frame: VideoFrame, camera: str) -> Event:
    """One answer as plain data, as a camera's: it came in time, since a file waits."""
    took_ms = answer.pre_ms + answer.infer_ms
    return record(
        answer,
        variant.spec,
        camera=camera,
        number=number,
        frame=frame.index,
        time_s=round(float(frame.time_s), 3),
        latency_ms=took_ms,
        age_ms=took_ms,
        variant=variant.name,
    )


def summary(
    variant: Variant, answers: list[Answer], read: int, threads: int, deadline_ms: float | None, missed: int
) -> Event:
    """What a run came to: frames, latency percentiles of preprocessing and engine, a classified clip's label.

    drops: frames that were due and got no answer; a file waits for its reader, so there are none.
    """
    p50, p95, p99 = percentiles_ms([(a.pre_ms + a.infer_ms) / 1e3 for a in answers])
    return {
        "type": "summary",
        "version": RECORDS,
        "variant": variant.name,
        "engine": variant.engine,
        "threads": threads,
        "frames_read": read,
        "frames_answered": len(answers),
        "drops": 0,
        "p50_ms": round(p50, 3),
        "p95_ms": round(p95, 3),
        "p99_ms": round(p99, 3),
        "deadline_ms": deadline_ms,
        "missed": missed if deadline_ms is not None else None,
        **(_verdict(variant, answers) if variant.spec.labels else {}),
        "lost": 0,
    }


def _verdict(variant: Variant, answers: list[Answer]) -> Event:
    """The label of the whole clip: the mean of what was said after the warm-up."""
    valid = [a.scores for a in answers if a.valid]
    if not valid:
        return {"label": None, "score": None}
    mean = np.mean(valid, axis=0)
    return {"label": variant.spec.labels[int(mean.argmax())], "score": round(float(mean.max()), 4)}


@contextlib.contextmanager
def _writer(
    out: Path | None, spec: ModelSpec, fps: Fraction
) -> Iterator[Callable[[VideoFrame, Answer], None]]:
    """A function that draws an answer on a frame and appends it to ``out``; nothing without ``out``."""
    if out is None:
        yield lambda frame, answer: None
        return
    if out.suffix.lower() != ".mp4":
        raise UsageError(f"{out}: the annotated video is written as .mp4. Name it so")
    with whole_file(out) as tmp:
        copy, painter = _Copy(tmp, out, fps), Painter()

        def draw(frame: VideoFrame, answer: Answer) -> None:
            restored = picture_of(answer, spec)
            shown = frame.pixels if restored is None else restored
            if restored is not None and not answer.valid:
                size = (restored.shape[1], restored.shape[0])
                shown = need("cv2", extra="cpu").resize(frame.pixels, size)
            said_now = {**answer_fields(answer, spec), "valid": answer.valid, "stale": False}
            copy.put(painter.draw(shown, said_now), frame)

        try:
            yield draw
        finally:
            copy.close()


class _Copy:
    """An MPEG-4 file of a constant rate: of a variable one, each picture stands as long as it was shown."""

    def __init__(self, path: Path, name: Path, fps: Fraction) -> None:
        self._path, self._name, self._fps = path, name, fps
        self._ticks = Ticks(fps)
        self._writer: Any = None
        self._last: np.ndarray | None = None
        self._written = 0

    def put(self, picture: np.ndarray, frame: VideoFrame) -> None:
        """The picture shown from a frame on; before a jump of the clock the last one stands for one frame."""
        if frame.jump_s is not None:
            self._ticks.restart(frame.seen_s - (self._written + 1) / self._fps)
        for _ in range(self._ticks.before(frame.seen_s) - self._written):
            self._write()
        self._last = picture

    def close(self) -> None:
        """The last picture, once, and the end of the file."""
        if self._last is not None:
            self._write()
            self._writer.release()

    def _write(self) -> None:
        picture = self._last
        if picture is None:
            return
        cv2 = need("cv2", extra="cpu")
        if self._writer is None:
            size = (picture.shape[1], picture.shape[0])
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), codec, float(self._fps), size)
            if not self._writer.isOpened():
                self._last = None
                raise UsageError(f"{self._name} cannot be written: OpenCV has no MPEG-4 encoder here")
        self._writer.write(picture)
        self._written += 1
