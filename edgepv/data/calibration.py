"""Calibration data: which clips, and the tensors a model sees while it really runs on them."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepv.base.files import digest, sha256
from edgepv.base.late import np
from edgepv.data.clips import Clip
from edgepv.data.frames import clean_frames, degraded, preprocess
from edgepv.errors import UsageError
from edgepv.stream import Stepper, Tensors, copied, roll
from edgepv.types import ModelSpec

ROLLING = "to and fro/1"
MIN_CLIPS = 4
GLANCE, GAZE = 96, 512
"""Steps after which a state is seen to grow: a look at all, a longer one at those."""
GROWTH = 1.5
"""How much larger such a state is at the end than in the middle; a sum is twice as large."""


@dataclass(frozen=True)
class CalibrationSet:
    """Clips that set the INT8 ranges; never a clip that is evaluated.

    digest: over the clips' bytes and labels and the preprocessing, so equal sets are equal on every machine.
    labels: one for each clip, None where nobody labelled it; empty: no clip is labelled.
    """

    clips: tuple[Path, ...]
    digest: str
    labels: tuple[str | None, ...] = ()

    @property
    def count(self) -> int:
        """Number of clips."""
        return len(self.clips)

    @property
    def last(self) -> tuple[Path, ...]:
        """The last quarter of the clips of every label, one at least: see ``rolled_feeds``."""
        labels = self.labels or (None,) * self.count
        totals, turn = Counter(labels), _counters()
        return tuple(
            clip
            for clip, label in zip(self.clips, labels, strict=True)
            if next(turn[label]) >= min(totals[label] - 1, totals[label] - totals[label] // 4)
        )


def calibration_set(clips: Sequence[Clip], spec: ModelSpec) -> CalibrationSet:
    """Freeze the calibration clips. Raises UsageError below ``MIN_CLIPS`` clips, or if all have one label."""
    if len(clips) < MIN_CLIPS:
        raise UsageError(
            f"{len(clips)} calibration clips; INT8 ranges need at least {MIN_CLIPS}. Give more --clips, "
            "or ask for --precision fp32"
        )
    labels = {c.label for c in clips}
    if len(labels) == 1 and None not in labels and len(spec.labels) > 1:
        raise UsageError(
            f"all {len(clips)} calibration clips show '{labels.pop()}'; ranges set on one label are wrong "
            "for the others. Give clips of every label"
        )
    data = digest([preprocessing(spec), ROLLING, spec, [(sha256(c.path), c.label) for c in clips]])
    return CalibrationSet(tuple(c.path for c in clips), data, labels=tuple(c.label for c in clips))


def preprocessing(spec: ModelSpec) -> str:
    """What is done to a camera's picture, step by step, and the version of that."""
    return "/".join(("resize-area", *spec.before, "normalise", "1"))


def in_turns(clips: Sequence[Clip]) -> list[int]:
    """Places of the clips in an order whose beginning, wherever it ends, is spread over labels and groups.

    Labels take turns, and within a label its groups do; else clips stay in the order they came in.
    """
    by_group = _turns(range(len(clips)), lambda i: clips[i].group)
    return _turns(by_group, lambda i: clips[i].label)


def _turns(places: Iterable[int], kind: Callable[[int], str | None]) -> list[int]:
    """The first of every kind, then the second of every kind, and so on."""
    turn = _counters()
    return sorted(places, key=lambda i: next(turn[kind(i)]))


def rolled_feeds(
    stepper: Stepper, chosen: CalibrationSet, spec: ModelSpec, *, every: int = 2, limit: int = 200
) -> list[Tensors]:
    """Graph inputs met while stepping through the clips, states included, one in ``every``.

    States are what the model itself produced, never zeros: INT8 ranges set on zero states drift
    (18 % error after 100 steps, measured on a streamed net). A clip that is too short to fill them is
    played to and fro until they are full. Their order is how far into the clips of its label each was met,
    so the last quarter of the feeds is the last quarter of every label: whole clips, where a label has
    enough. Pictures, clips of one frame, differ from each other. Raises UsageError if the clips never move
    the model: then no range would mean anything.
    """
    shown = [np.stack(degraded(clean_frames(path, spec), spec)) for path in chosen.clips]
    pictures = all(len(frames) == 1 for frames in shown)
    if not any((frames != (shown[0] if pictures else frames[0])).any() for frames in shown):
        raise UsageError("every calibration clip shows a still picture. Give clips that move")
    kept = [_kept(stepper, len(frames), every) for frames in shown]
    number, stride = itertools.count(), max(1, -(-sum(map(len, kept)) // limit))
    met: list[tuple[str | None, Tensors]] = []
    for frames, places, label in zip(shown, kept, chosen.labels or itertools.repeat(None)):
        order = filling(len(frames), stepper.warmup)
        rolled = roll(stepper, (preprocess(frames[i], spec)[0] for i in order))
        for place, (feeds, _) in enumerate(rolled):
            if place in places and next(number) % stride == 0 and feeds is not None:
                met.append((label, copied(feeds)))
    return _labels_abreast(met)


def _kept(stepper: Stepper, count: int, every: int) -> frozenset[int]:
    """Steps through a clip of ``count`` frames that feeds are kept of, one in ``every``, with warm states."""
    start, chunk = stepper.warmup // 2, stepper.chunk
    full = range(len(filling(count, stepper.warmup)))
    return frozenset(
        i for i in full if i >= start and (i + 1) % chunk == 0 and (i - start) // chunk % every == 0
    )


def grown(stepper: Stepper, clip: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the named states that grow for ever on a clip (T, C, H, W): a sum, a count of all frames.

    The clip is played to and fro. A mean that settles slowly grows at a glance, and no more when it is
    looked at longer.
    """
    for steps in (GLANCE, GAZE):
        names = _growing(stepper, to_and_fro(clip, steps * stepper.chunk), names)
    return tuple(names)


def _growing(stepper: Stepper, frames: np.ndarray, names: Sequence[str]) -> list[str]:
    """Those of the named states that are much larger at the end of a video than in its middle."""
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for feeds, _ in roll(stepper, frames) if names else ():
        for name, value in feeds.items() if feeds is not None else ():
            if name in peaks:
                peaks[name].append(float(np.abs(value).max()))
    return [name for name, seen in peaks.items() if seen[-1] > GROWTH * max(seen[: len(seen) // 2])]


def to_and_fro(clip: np.ndarray, count: int) -> np.ndarray:
    """``count`` frames of a clip (T, ...), played forwards and backwards in turns."""
    frames = len(clip)
    there_and_back = np.r_[0:frames, frames - 2 : 0 : -1] if frames > 2 else np.arange(frames)
    played: np.ndarray = clip[np.resize(there_and_back, count)]
    return played


def _counters() -> dict[str | None, Iterator[int]]:
    """For each kind, 0, 1, 2 and so on."""
    return defaultdict(itertools.count)


def _labels_abreast(met: Sequence[tuple[str | None, Tensors]]) -> list[Tensors]:
    """Feeds with their labels, ordered by the share of their own label's feeds that came before them."""
    totals, turn = Counter(label for label, _ in met), _counters()
    shares = [(next(turn[label]) + 0.5) / totals[label] for label, _ in met]
    return [met[i][1] for i in sorted(range(len(met)), key=shares.__getitem__)]


def filling(count: int, warmup: int) -> np.ndarray:
    """Which of ``count`` frames of a clip to play so that it goes on past a warm-up by its own length.

    All of them, to and fro if they are too few. Returns their numbers, in playing order.
    """
    if count >= 2 * warmup:
        return np.arange(count)
    return to_and_fro(np.arange(count), warmup + count)
