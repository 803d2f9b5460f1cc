"""Run a variant over a video file: one answer per model frame, optionally drawn into a copy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from edgepv.runtimes.said import RECORDS, picture_of, record, said
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
    camera: str = "cam1",
    emit: Callable[[Event], None] = lambda event: None,
) -> Event:
    """Answer every frame that is due at the model's rate; returns the summary.

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
        _writer(video, variant.spec, fps) as draw,
    ):
        latest: Answer | None = None
        while True:
            ok, frame = capture.read()
            if not ok:
                break
            for _ in range(due(read, fps, variant.spec.fps)):
                latest = session.step(frame)
                missed += deadline_ms is not None and latest.pre_ms + latest.infer_ms > deadline_ms
                emit(event(latest, variant, len(answers), read, float(read / fps), camera))
                answers.append(replace(latest, outputs={}))  # pictures of a whole film are too much to keep
            if latest:
                draw(frame, latest)
            read += 1
        refuse_broken(source, read, promised)
    return summary(variant, answers, read, threads, deadline_ms, missed) | {"camera": camera}


def due(index: int, source: Fraction, wanted: Fraction) -> int:
    """How many answers frame ``index`` owes: those k whose newest frame at time k / wanted it is."""

    def count(i: int) -> int:
        return -(-i * wanted // source)

    return int(count(index + 1) - count(index))


def event(answer: Answer, variant: Variant, number: int, frame: int, time_s: float, camera: str) -> Event:
    """One answer as plain data, as a camera's: it came in time, since a file waits. time_s: of the frame."""
    took_ms = answer.pre_ms + answer.infer_ms
    return record(
        answer,
        variant.spec,
        camera=camera,
        number=number,
        frame=frame,
        time_s=time_s,
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
            said_now = {**said(answer, spec), "valid": answer.valid, "stale": False}
            picture = painter.draw(shown, said_now)
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
