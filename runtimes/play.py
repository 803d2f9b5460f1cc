"""Run a variant over a video file: one answer per model frame, optionally drawn into a copy."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.clips import open_video, refuse_broken
from edgepv.errors import UsageError
from edgepv.files import whole_file
from edgepv.optional import need
from edgepv.runtimes.drawing import Painter
from edgepv.runtimes.engine import Read
from edgepv.runtimes.said import picture_of, said
from edgepv.runtimes.session import Answer, open_session
from edgepv.stats import percentiles_ms
from edgepv.types import ModelSpec, Variant

Event = dict[str, Any]


def play(
    variant: Variant,
    files: Path | Read,
    source: Path,
    *,
    threads: int = 1,
    deadline_ms: float | None = None,
    video: Path | None = None,
    cuts: bool = True,
    emit: Callable[[Event], None] = lambda event: None,
) -> Event:
    """Answer every frame that is due at the model's rate; returns the summary.

    A restorer that looks ahead answers late; in ``video`` its pictures stand at the frames that they show:
    the first, before its warm-up, are the camera's own, and for the last ones the last frame is held.

    A frame is due when it is the newest one at time k / fps; frames between are skipped. ``emit`` gets
    one event per answer. cuts: forget the states at a scene cut.
    Raises UsageError if the file breaks off before the frames it promises.
    """
    if video and video.exists() and source.exists() and video.samefile(source):
        raise UsageError(f"--video {video} is the source itself. Name another file")
    answers: list[Answer] = []
    missed = read = 0
    with (
        open_session(variant, files, threads=threads, cuts=cuts) as session,
        open_video(source) as (capture, fps, promised),
        _writer(video, variant.spec, fps) as write,
    ):
        latest: Answer | None = None
        draw = _InStep(write, late(variant, fps))
        while True:
            ok, frame = capture.read()
            if not ok:
                break
            for _ in range(due(read, fps, variant.spec.fps)):
                latest = session.step(frame)
                answers.append(latest)
                missed += deadline_ms is not None and latest.pre_ms + latest.infer_ms > deadline_ms
                emit(event(latest, variant.spec, read, fps))
            if latest:
                draw(frame, latest)
            read += 1
            last = frame
        refuse_broken(source, read, promised)
        for i in range(read, read + len(draw.waiting) if video else read):
            for _ in range(due(i, fps, variant.spec.fps)):
                latest = session.step(last)
            if latest:
                draw(last, latest)
    return summary(variant, answers, read, threads, deadline_ms, missed)


def late(variant: Variant, fps: Fraction) -> int:
    """Frames of a video between the one that a restorer's picture shows and the one it is answered to."""
    if variant.spec.task != "restoration":
        return 0
    behind = variant.spec.lag + (variant.stream.delay if variant.stream else 0)
    return int(-(-behind * fps // variant.spec.fps))


class _InStep:
    """Draws each answer on the frame that it shows, ``late`` frames after that came."""

    def __init__(self, write: Callable[[np.ndarray, Answer], None], late: int) -> None:
        self._write, self._late = write, late
        self.waiting: deque[np.ndarray] = deque()

    def __call__(self, frame: np.ndarray, answer: Answer) -> None:
        self.waiting.append(frame)
        if len(self.waiting) > self._late:
            self._write(self.waiting.popleft(), answer)


def due(index: int, source: Fraction, wanted: Fraction) -> int:
    """How many answers frame ``index`` owes: those k whose newest frame at time k / wanted it is."""

    def count(i: int) -> int:
        return -(-i * wanted // source)

    return int(count(index + 1) - count(index))


def event(answer: Answer, spec: ModelSpec, frame: int, fps: Fraction) -> Event:
    """One answer as plain data. time_s: of the frame in the source."""
    return {
        "type": "answer",
        "frame": frame,
        "time_s": round(float(frame / fps), 3),
        **said(answer, spec),
        "valid": answer.valid,
        "restarted": answer.restarted,
        "pre_ms": round(answer.pre_ms, 3),
        "infer_ms": round(answer.infer_ms, 3),
    }


def summary(
    variant: Variant, answers: list[Answer], read: int, threads: int, deadline_ms: float | None, missed: int
) -> Event:
    """What a run came to: frames, latency percentiles of preprocessing and engine, a classified clip's label.

    drops: frames that were due and got no answer; a file waits for its reader, so there are none.
    """
    p50, p95, p99 = percentiles_ms([(a.pre_ms + a.infer_ms) / 1e3 for a in answers])
    return {
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
) -> Iterator[Callable[[np.ndarray, Answer], None]]:
    """A function that draws an answer on a frame and appends it to ``out``; nothing without ``out``."""
    if out is None:
        yield lambda frame, answer: None
        return
    if out.suffix.lower() != ".mp4":
        raise UsageError(f"{out}: the annotated video is written as .mp4. Name it so")
    cv2 = need("cv2", extra="cpu")
    with whole_file(out) as tmp:
        open_writer: list[Any] = []
        painter = Painter()

        def draw(frame: np.ndarray, answer: Answer) -> None:
            restored = picture_of(answer, spec)
            shown = frame if restored is None else restored
            if restored is not None and not answer.valid:
                shown = cv2.resize(frame, (restored.shape[1], restored.shape[0]))
            picture = painter.draw(shown, {**event(answer, spec, 0, fps), "stale": False})
            if not open_writer:
                size = (picture.shape[1], picture.shape[0])
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                open_writer.append(cv2.VideoWriter(str(tmp), codec, float(fps), size))
                if not open_writer[0].isOpened():
                    raise UsageError(f"{out} cannot be written: OpenCV has no MPEG-4 encoder here")
            open_writer[0].write(picture)

        try:
            yield draw
        finally:
            for writer in open_writer:
                writer.release()
