"""Labelled clips replayed as a camera shows them: is the answer that is there right, fresh and in time?"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from edgepv.data.clips import Clip
from edgepv.data.frames import shrunk
from edgepv.data.video import open_video, taken
from edgepv.errors import UsageError
from edgepv.metrics.times import supported_ms
from edgepv.runtimes.deadline import DeadlineRunner, Reply
from edgepv.runtimes.ladder import Ladder
from edgepv.types import Deadline, ModelSpec

LARGEST = 16
"""Pixels of a frame that is replayed as it is, in those of the model's own frame."""


@dataclass(frozen=True)
class Shot:
    """One clip as the model's camera shows it: frames (H, W, 3) uint8 BGR, and the number of its label."""

    frames: tuple[np.ndarray, ...]
    label: int


@dataclass(frozen=True)
class Replayed:
    """What a replay came to.

    frames: that were due. missed: those without a fresh answer at their deadline, dropped ones included, and
    those whose reply was not heard before a newer one came.
    right, instants: of the moments at which a frame came and the clip had been on long enough for an
    answer, how many the latest answer was right at (streaming accuracy; Li, Wang and Ramanan, ECCV 2020).
    age_ms: at those moments, since the frame on which the latest answer rests came (p50, p95, p99);
    None where there was no such moment.
    latency_ms: from a frame to its reply (p50, p95, p99, largest). Of both, p95 and p99 are None where there
    are too few to support them (``metrics.times``). per_clip: (right, instants) of every clip, in order.
    """

    name: str
    limit_ms: float
    period_ms: float
    frames: int
    missed: int
    dropped: int
    right: int
    instants: int
    age_ms: tuple[float, float | None, float | None] | None
    latency_ms: tuple[float, float | None, float | None, float]
    switches_per_minute: float
    seconds: float
    per_clip: tuple[tuple[int, int], ...] = field(repr=False)
    replies: tuple[tuple[float, bool], ...] = field(default=(), repr=False)

    @property
    def miss_rate(self) -> float:
        """Share of frames without a fresh answer in time."""
        return self.missed / self.frames

    @property
    def accuracy(self) -> float:
        """Share of moments at which the latest answer was right."""
        return self.right / self.instants if self.instants else float("nan")


def shots(clips: Sequence[Clip], spec: ModelSpec) -> list[Shot]:
    """The clips at the model's frame rate, decoded. Raises UsageError for one without a label.

    All are held in memory, so frames of more than ``LARGEST`` times the model's pixels come at its size: a
    camera's large frames cost a resize more than is measured.
    """
    decoded = []
    for clip in clips:
        if clip.label not in spec.labels:
            raise UsageError(f"{clip.path} has no label of the model. A live benchmark needs labelled clips")
        with open_video(clip.path) as video:
            frames = tuple(shrunk(f.pixels, spec, LARGEST) for f in taken(video, spec.fps))
        decoded.append(Shot(frames, spec.labels.index(clip.label)))
    return decoded


def drawn(clips: Sequence[Clip], labels: Sequence[str], seed: int, count: int) -> list[Clip]:
    """Up to ``count`` clips in an order drawn by the seed, the labels taking turns."""
    clips = list(clips)
    random.Random(seed).shuffle(clips)
    by_label = {label: [c for c in clips if c.label == label] for label in labels}
    return [q[i] for i in range(len(clips)) for q in by_label.values() if i < len(q)][:count]


class _Watcher:
    """Keeps what was said last, and counts."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._said_s = clock, 0.0
        self.last: Reply | None = None
        self.latency_s: list[float] = []
        self.missed: list[bool] = []
        self.dropped = 0
        self.switched = 0

    def say(self, reply: Reply) -> None:
        self.last, self._said_s = reply, self._clock()
        self.latency_s.append(reply.latency_ms / 1e3)
        self.missed.append(reply.stale)
        self.dropped += reply.why == "dropped"

    def age_s(self, now: float) -> list[float]:
        """Since the frame came on which the latest answer rests; nothing while there is no answer."""
        if self.last is None or self.last.age_ms is None:
            return []
        return [self.last.age_ms / 1e3 + now - self._said_s]

    def status(self, what: str, why: str) -> None:
        self.switched += what == "switched"


def replay(
    name: str,
    ladder: Ladder,
    profiles_ms: Sequence[float],
    played: Sequence[Shot],
    deadline: Deadline,
    *,
    keep: int | None = None,
    rate: Fraction = Fraction(1),
    clock: Callable[[], float] = time.monotonic,
) -> Replayed:
    """Show all clips one after another, each a new scene, at the model's frame rate times ``rate``.

    keep: hold on to one rung; None: the controller chooses. The ladder's engines are closed at the end.
    """
    spec = ladder.lanes[0].variant.spec
    warmup = max(lane.stepper.warmup for lane in ladder.lanes)
    period = float(1 / (spec.fps * rate))
    watcher = _Watcher(clock)
    runner = DeadlineRunner(ladder, profiles_ms, deadline, say=watcher.say, status=watcher.status, keep=keep)
    ages: list[float] = []
    per_clip: list[tuple[int, int]] = []
    with runner:
        begun = due = clock() + period
        for shot in played:
            right: list[bool] = []
            for number, frame in enumerate((*shot.frames, None)):
                time.sleep(max(0.0, due - clock()))
                if number >= warmup:
                    right.append(_right(watcher.last, shot.label))
                    ages += watcher.age_s(clock())
                if frame is not None:
                    runner.offer(frame, restarted=number == 0)
                    due += period
            per_clip.append((sum(right), len(right)))
        runner.finish()
    if runner.failed:
        raise runner.failed
    seconds = clock() - begun
    return Replayed(
        name=name,
        limit_ms=deadline.limit_ms,
        period_ms=1e3 * period,
        frames=len(watcher.missed) + runner.replies_dropped,
        missed=sum(watcher.missed) + runner.replies_dropped,
        dropped=watcher.dropped,
        right=sum(r for r, _ in per_clip),
        instants=sum(n for _, n in per_clip),
        age_ms=supported_ms(ages) if ages else None,
        latency_ms=(*supported_ms(watcher.latency_s), 1e3 * max(watcher.latency_s)),
        switches_per_minute=60 * watcher.switched / seconds,
        seconds=seconds,
        per_clip=tuple(per_clip),
        replies=tuple(zip((1e3 * s for s in watcher.latency_s), watcher.missed)),
    )


def _right(reply: Reply | None, label: int) -> bool:
    answer = reply.answer if reply else None
    return answer is not None and answer.valid and int(np.argmax(answer.scores)) == label
