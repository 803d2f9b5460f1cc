"""How good a model's answers are, whatever its task: what is true of a clip, one figure for each clip, and
what two models' figures on the same clips can tell.

A classifier is judged by top-1. A tracker by delta-avg: the share of visible points within 1, 2, 4, 8 and
16 px of the truth on a frame of 256 x 256, averaged over the five (Doersch et al. 2022, "TAP-Vid"). A
restorer by the PSNR of its pictures, in dB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.clips import (
    Clip,
    clean_frames,
    clip_scores,
    degraded,
    pictures,
    preprocess,
)
from edgepv.degrade import psnr
from edgepv.errors import UsageError
from edgepv.stats import accuracy, mean_accuracy, mean_drop, paired_drop
from edgepv.stream import Tensors
from edgepv.types import Accuracy, ModelSpec, PairedDrop
from edgepv.video import at_rate, open_video

SIDE = 256
WITHIN_PX = (1, 2, 4, 8, 16)
MOST_FRAMES = {"classification": 1 << 30, "tracking": 200, "restoration": 16}
"""Frames of a clip that are judged: pictures are large, and a score needs only so many."""

INT8_FLOOR_DB = {"classification": 15.0, "tracking": 17.0, "restoration": 30.0}
"""SQNR below which an INT8 file is broken, whatever a few clips say. In benchmarks/models.json classifiers
below it change one top-1 in eight, trackers lose 9 to 55 points (above it, 0.4 at most). A restorer's file at
30 dB is 36 dB of PSNR or more from the original's pictures, so it adds less error than restoring leaves."""


@dataclass(frozen=True)
class Points:
    """True tracks of a clip. position: (T, K, 2) in image heights of the model's frame. visible: (T, K)."""

    position: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Shown:
    """A clip as the model sees it, and what is true of it.

    frames: (T, C, h, w) float32. truth: index of its label, ``Points``, or clean pictures (T, H, W, 3) uint8
    BGR; None where nobody knows. start: states that the clip begins with, such as the points to follow.
    group: clips of one group share footage; None where nobody knows. doubt: why it may not be whole.
    """

    frames: np.ndarray
    truth: int | Points | np.ndarray | None
    start: Tensors | None = None
    group: str | None = None
    doubt: str | None = None


def shown(clip: Clip, spec: ModelSpec) -> Shown:
    """Decode a clip and what is known of it, its group too.

    The true points of CLIP.mp4 stand in CLIP.npz beside it: ``points`` (N, T, 2) as x, y in px of the video,
    and ``occluded`` (N, T), for each of its frames. Raises UsageError if they do not fit the video.
    """
    return replace(_decoded(clip, spec), group=clip.group)


def _decoded(clip: Clip, spec: ModelSpec) -> Shown:
    if spec.task == "tracking":
        return _tracked(clip, spec)
    doubts: list[str] = []
    clean = clean_frames(clip.path, spec, MOST_FRAMES[spec.task], doubt=doubts.append)
    frames = np.concatenate([preprocess(f, spec) for f in degraded(clean, spec)])
    if spec.task == "restoration":
        return Shown(frames, np.stack(clean), doubt=next(iter(doubts), None))
    truth = spec.labels.index(clip.label) if clip.label else None
    return Shown(frames, truth, doubt=next(iter(doubts), None))


def _tracked(clip: Clip, spec: ModelSpec) -> Shown:
    seen: list[np.ndarray] = []
    taken: list[int] = []
    with open_video(clip.path) as video:
        for frame, count in at_rate(video, spec.fps):
            height, width = frame.pixels.shape[:2]
            if count and len(taken) < MOST_FRAMES["tracking"]:
                seen += [preprocess(frame.pixels, spec)] * count
                taken += [frame.index] * count
    taken = taken[: MOST_FRAMES["tracking"]]
    frames = np.concatenate(seen[: len(taken)])
    beside = clip.path.with_suffix(".npz")
    if not beside.is_file():
        return Shown(frames, None)
    points, occluded = _read_points(beside, video.read_count)
    known = np.flatnonzero(~occluded[:, 0])[: spec.particles]
    if not known.size:
        raise UsageError(f"{beside}: no point is visible in the first frame, so there is none to follow")
    place = points[known] / [width, height] * [_aspect(spec), 1.0]
    truth = Points(place[:, taken].transpose(1, 0, 2), ~occluded[known][:, taken].T)
    return Shown(frames, truth, born_at(place[:, 0], spec))


def _read_points(path: Path, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(points (N, T, 2), occluded (N, T)) of a file. Raises UsageError if they do not fit ``frames``."""
    try:
        with np.load(path, allow_pickle=False) as data:
            points, occluded = np.asarray(data["points"], float), np.asarray(data["occluded"], bool)
    except (OSError, ValueError, KeyError) as e:
        wanted = "'points' (N, T, 2) and 'occluded' (N, T)"
        raise UsageError(f"{path} holds no points: {e}. It needs {wanted}") from e
    if points.shape != (*occluded.shape, 2) or points.shape[1] != frames:
        raise UsageError(
            f"{path}: points {points.shape} and occluded {occluded.shape} do not fit a video of {frames} "
            "frames. Give a place for every frame"
        )
    return points, occluded


def born_at(places: np.ndarray, spec: ModelSpec) -> Tensors:
    """States of a tracker whose only particles are born at ``places`` (n, 2), in image heights."""
    count = spec.particles or 0
    position = np.zeros((1, count, 2), np.float32)
    life = np.full((1, count, 1), -1, np.float32)
    position[0, : len(places)], life[0, : len(places)] = places, 2
    return {"position": position, "life": life}


def _aspect(spec: ModelSpec) -> float:
    height, width = spec.input.shape[-2:]
    return width / height


def figures(
    spec: ModelSpec, answers: Sequence[np.ndarray], clips: Sequence[Shown], warmup: int
) -> np.ndarray:
    """One figure for each clip: 1 or 0 for right or wrong, delta-avg as a fraction, or PSNR in dB."""
    call: Any = {"classification": _right, "tracking": _delta_avg, "restoration": _psnr_db}[spec.task]
    return np.array([call(spec, rows, clip.truth, warmup) for rows, clip in zip(answers, clips, strict=True)])


def _right(spec: ModelSpec, rows: np.ndarray, truth: int, warmup: int) -> float:
    return float(clip_scores(rows, warmup).argmax() == truth)


def _delta_avg(spec: ModelSpec, rows: np.ndarray, truth: Points, warmup: int) -> float:
    """TAP-Vid's: over all points and frames after the first, where the points were given."""
    frames, count = truth.position.shape[:2]
    apart = distance_px(spec, rows[:frames, :count], truth.position)
    seen = truth.visible[1:]
    return float(np.mean([(apart[1:][seen] < px).mean() for px in WITHIN_PX]))


def distance_px(spec: ModelSpec, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far apart two sets of places (..., K, 2 or more) are, in px of a frame of 256 x 256: (..., K)."""
    apart = (one[..., :2] - other[..., :2]) * [SIDE / _aspect(spec), SIDE]
    return np.sqrt((apart**2).sum(-1))


def _psnr_db(spec: ModelSpec, rows: np.ndarray, truth: np.ndarray, warmup: int) -> float:
    return psnr_db(truth, pictures(spec, rows[: len(truth)]))


def psnr_db(truth: np.ndarray, got: np.ndarray) -> float:
    """PSNR of pictures in dB; at most 100, which 16 bits would have, where JSON has no infinity."""
    return min(100.0, psnr(truth, got))


def not_applied(drop: PairedDrop) -> PairedDrop:
    """A loss measured without clips of some label: one that is sure stays, else nothing was shown."""
    return drop if drop.verdict == "fail" else replace(drop, verdict="not applied", clips_needed=None)


def groups_of(clips: Sequence[Shown]) -> list[str] | None:
    """The group of every clip; None if that of one is not known."""
    known = [c.group for c in clips if c.group is not None]
    return known if len(known) == len(clips) else None


def rate(spec: ModelSpec, answers: Sequence[np.ndarray], clips: Sequence[Shown], warmup: int) -> Accuracy:
    """The model's metric over the clips, with its interval, taken over their groups."""
    groups = groups_of(clips)
    if spec.task == "classification":
        table = np.stack([clip_scores(rows, warmup) for rows in answers])
        return accuracy([int(c.truth) for c in clips], table, spec.labels, groups)  # type: ignore[arg-type]
    return mean_accuracy(figures(spec, answers, clips, warmup), spec.metric, groups)


def lost(
    spec: ModelSpec,
    before: np.ndarray,
    after: np.ndarray,
    max_drop: float,
    groups: Sequence[str] | None = None,
) -> PairedDrop:
    """What ``after`` loses against ``before``, both from ``figures`` on the same clips of these groups."""
    if spec.task == "classification":
        right = [(side > 0.5).tolist() for side in (before, after)]
        return paired_drop(right[0], right[1], max_drop=max_drop, groups=groups)
    scale, unit = (100.0, "points") if spec.task == "tracking" else (1.0, "dB")
    return mean_drop(scale * before, scale * after, max_drop=max_drop, unit=unit, groups=groups)  # type: ignore[arg-type]
