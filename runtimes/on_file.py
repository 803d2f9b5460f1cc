"""A video file in, a camera's records out: every frame that is due is answered, however long it takes."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.base.tasks import task_of
from edgepv.data.boxes import Detections
from edgepv.data.video import Ticks, VideoFrame, VideoReader, at_rate, open_video
from edgepv.errors import UsageError, unknown
from edgepv.runtimes.deadline import DeadlineRunner, Reply
from edgepv.runtimes.engine import Read
from edgepv.runtimes.events.rules import LiveConfig, Rules
from edgepv.runtimes.faults import Faults
from edgepv.runtimes.ladder import open_ladder
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.output import NO_RULES, FilmClock, Output
from edgepv.runtimes.picture.cover import Cover
from edgepv.runtimes.picture.drawing import Painter, tinted
from edgepv.runtimes.picture.outlines import outlined
from edgepv.runtimes.picture.privacy import PrivacyMask
from edgepv.runtimes.places import check_rules, needs_search
from edgepv.runtimes.record import Record
from edgepv.runtimes.records import answer_fields, picture_of
from edgepv.runtimes.sinks import Shape
from edgepv.types import Deadline, ModelSpec, Variant


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
    config: LiveConfig = NO_RULES,
    cover: Cover | None = None,
    faults: Faults | None = None,
    notes: Sequence[str] = (),
    emit: Callable[[Record], None] = lambda record: None,
) -> Record:
    """Answer every frame that is due at the model's rate; returns the summary.

    A file is a source that does not run away: it goes the way of a camera's frames, through a runner and an
    output, but one frame at a time and by the file's own clock. A frame is due when it is the newest one
    shown at time k / fps; frames between are skipped, and of a slower file a frame is due several times.

    files: what reads the bundle's files, see open_engine. deadline_ms: later answers are counted, none is
    stale. video: the file copied with the answers drawn in. A restorer that looks ahead answers late; there
    its pictures stand at the frames that they show: the first, before its warm-up, are the file's own, and
    for the last ones the last frame is held. cuts: forget the states at a scene cut. config: masks and rules;
    the times of events are seconds since the film's beginning. cover: hides whom ``config.cover`` names in
    the video. faults: what went wrong there. notes: for the summary.
    emit: hears every record: an answer per frame that was due, events, a status where the clock jumps and of
    what is doubtful at the end, the summary. What it raises ends the run.
    Raises UsageError for a file that was cut off or is damaged, a ``video`` that cannot be written, rules
    that this model cannot go by, and a model that cannot be run or whose answer is not finite.
    """
    if video and video.exists() and source.exists() and video.samefile(source):
        raise UsageError(f"--video {video} is the source itself. Name another file")
    _check(config.rules, variant, camera)
    receiver, spec = _Receiver(emit), variant.spec
    output = Output(
        camera,
        spec,
        [receiver],
        config,
        None,
        cover=cover,
        faults=faults,
        clock=FilmClock(),
        deadline_ms=deadline_ms,
        about={"variant": variant.name, "engine": variant.engine, "threads": threads, "notes": notes},
        whole=True,
    )
    ladder = open_ladder([variant], files, threads=threads, cuts=cuts)
    runner = DeadlineRunner(ladder, [1.0], Deadline(math.inf), keep=0)  # no deadline: nobody asks the profile
    with (
        contextlib.closing(runner),
        open_video(source) as film,
        _writer(video, spec, film.fps, output.shown, config.rules.shapes(camera)) as write,
    ):
        draw = _InStep(write, late(variant, film.fps) if video else 0)
        mask = PrivacyMask(config.masks) if config.masks else None
        _Replayed(runner, output, receiver, draw, mask).play(film, spec.fps)
        if film.doubt:
            output.status(*film.doubt)
    output.close()
    receiver.check()
    return output.summary()


def _check(rules: Rules, variant: Variant, camera: str) -> None:
    """Raise UsageError for rules that can say nothing of this file."""
    check_rules(rules, variant)
    if needs_search(rules.of(camera), variant):
        raise UsageError(
            f"where {variant.spec.name} sees a label is searched for beside a running camera. To replay the "
            "file as one, add --live"
        )
    for rule in rules.all:
        if rule.camera not in (None, camera):
            raise rules.wrong(f"rule for '{rule.label}': {unknown('camera', str(rule.camera), [camera])}")


Shown: TypeAlias = Callable[[np.ndarray, Detections | None], np.ndarray]


class _Replayed:
    """A film shown to a runner that works in this thread, and what it replies told and drawn."""

    def __init__(
        self,
        runner: DeadlineRunner,
        output: Output,
        receiver: _Receiver,
        draw: _InStep,
        mask: PrivacyMask | None,
    ) -> None:
        self._runner, self._output, self._receiver, self._draw = runner, output, receiver, draw
        self._mask = mask
        self._restarted = False
        self._latest: Answer | None = None

    def play(self, film: VideoReader, fps: Fraction) -> None:
        """All frames, each as often as the model's clock at ``fps`` owes it an answer; then the late ones."""
        for frame, owed in at_rate(film, fps):
            if self._mask:
                frame = replace(frame, pixels=self._mask(frame.pixels))
            self._output.counts["frames_read"] = frame.index + 1
            if frame.jump_s is not None:
                self._restarted = True
                why = f"by {frame.jump_s:+.1f} s before frame {frame.index}"
                self._output.status("clock_jumped", why)
            for _ in range(owed):
                self._answer(frame)
            self._show(frame)
            last = frame
        for i in range(film.read_count, film.read_count + len(self._draw.waiting)):
            for _ in range(_owed(i, film.fps, fps)):
                self._ask(last)
            self._show(last)

    def _answer(self, frame: VideoFrame) -> None:
        pixels = frame.pixels if self._output.wants_pixels else None
        self._latest = self._output.reply(self._ask(frame), pixels, index=frame.index).answer
        self._receiver.check()

    def _ask(self, frame: VideoFrame) -> Reply:
        """The runner's reply. Raises UsageError if the model cannot answer."""
        reply = self._runner.ask(frame.pixels, time_s=float(frame.time_s), restarted=self._restarted)
        if self._runner.failed:
            raise self._runner.failed
        self._restarted, self._latest = False, reply.answer
        return reply

    def _show(self, frame: VideoFrame) -> None:
        if self._latest:
            self._draw(frame, self._latest)


class _Receiver:
    """Gives records to a function, at once; what that raises first is kept for ``check``."""

    pixels = False

    def __init__(self, emit: Callable[[Record], None]) -> None:
        self._emit = emit
        self._raised: Exception | None = None

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Give one record."""
        if self._raised is None:
            try:
                self._emit(record)
            except Exception as e:
                self._raised = e

    def check(self) -> None:
        """Raise what the function raised."""
        if self._raised:
            raise self._raised

    def counts(self) -> dict[str, int]:
        """None waits or is lost: the run ends with the first that cannot be given."""
        return {"taken": 0, "sent": 0, "queued": 0, "lost": 0}

    def close(self) -> None:
        """Nothing waits."""


def late(variant: Variant, fps: Fraction) -> int:
    """Frames of a video between the one that a restorer's picture shows and the one it is answered to."""
    if not task_of(variant.spec).shows:
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


@contextlib.contextmanager
def _writer(
    out: Path | None,
    spec: ModelSpec,
    fps: Fraction,
    may_leave: Shown,
    shapes: Sequence[Shape],
) -> Iterator[Callable[[VideoFrame, Answer], None]]:
    """A function that draws an answer on a frame and appends it to ``out``; nothing without ``out``.

    may_leave: makes of a picture, and what was found in it, the one that may be seen. shapes: are outlined.
    """
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
            shown = may_leave(shown, answer.detections)
            shown = outlined(shown if answer.mask is None else tinted(shown, answer.mask), shapes)
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
