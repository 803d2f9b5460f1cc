"""A clip as a model sees it, with what is true of it: its label, its points, or its clean pictures."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgepv.base.registry import resolve
from edgepv.base.tasks import TASKS
from edgepv.data.annotated import TrueBoxes, true_boxes
from edgepv.data.clips import Clip
from edgepv.data.frames import clean_frames, degraded, preprocess
from edgepv.data.masked import true_masks
from edgepv.data.masks import names_of
from edgepv.data.video import at_rate, open_video, taken
from edgepv.errors import UsageError
from edgepv.stream import Tensors
from edgepv.types import ModelSpec


@dataclass(frozen=True)
class Points:
    """True tracks of a clip. position: (T, K, 2) in image heights of the model's frame. visible: (T, K)."""

    position: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Masks:
    """True masks of a clip's frames, (h, w) uint8 each; None for a frame of which nobody knows."""

    of_frame: tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class EvalClip:
    """A clip as the model sees it, and what is true of it.

    frames: (T, C, h, w) float32. truth: index of its label, ``Points``, ``Masks``, true boxes of every frame,
    or clean pictures (T, H, W, 3) uint8 BGR, or a number; None where nobody knows. start: states that the
    clip begins with, such as the points to follow. group: clips of one group share footage; None where nobody
    knows. doubt: why it may not be whole. size: (height, width) in px of the clip's own pictures, where boxes
    or labels are to be found in them.
    """

    frames: np.ndarray
    truth: int | float | Points | Masks | tuple[TrueBoxes, ...] | np.ndarray | None
    start: Tensors | None = None
    group: str | None = None
    doubt: str | None = None
    size: tuple[int, int] = (0, 0)


def eval_clip(clip: Clip, spec: ModelSpec, more: int = 0) -> EvalClip:
    """Decode a clip and what is known of it, its group too.

    more: frames of a restorer's clip beyond those that are judged. Raises UsageError as the task's ``truth``.
    """
    read = resolve(TASKS.find(spec.task).truth)
    read_clip: EvalClip = read(clip, spec, more)
    return replace(read_clip, group=clip.group)


def plain(clip: Clip, spec: ModelSpec, more: int) -> EvalClip:
    """A clip of which nothing is known."""
    return _decoded(clip, spec, more)[1]


def labelled(clip: Clip, spec: ModelSpec, more: int) -> EvalClip:
    """A clip of a classifier, with the label that its folder says."""
    truth = spec.labels.index(clip.label) if clip.label else None
    return replace(plain(clip, spec, more), truth=truth)


def restored(clip: Clip, spec: ModelSpec, more: int) -> EvalClip:
    """A clip of a restorer, spoilt as ``spec.degrade`` says, with its clean pictures."""
    clean, decoded = _decoded(clip, spec, more)
    return replace(decoded, truth=np.stack(clean) if spec.degrade else None)


def _decoded(clip: Clip, spec: ModelSpec, more: int) -> tuple[list[np.ndarray], EvalClip]:
    """(its clean pictures, (H, W, 3) uint8 BGR, and the clip as the model sees it)."""
    doubts: list[str] = []
    most = TASKS.find(spec.task).most_frames + more
    clean = clean_frames(clip.path, spec, most, doubt=doubts.append)
    frames = np.concatenate([preprocess(f, spec) for f in degraded(clean, spec)])
    return clean, EvalClip(frames, None, doubt=next(iter(doubts), None))


def tracked(clip: Clip, spec: ModelSpec, more: int) -> EvalClip:
    """A clip of a tracker, with its true points where there are any.

    Those of CLIP.mp4 stand in CLIP.npz beside it: ``points`` (N, T, 2) as x, y in px of the video, and
    ``occluded`` (N, T), for each of its frames. Raises UsageError if they do not fit the video.
    """
    seen: list[np.ndarray] = []
    most = TASKS.find(spec.task).most_frames
    taken: list[int] = []
    with open_video(clip.path) as video:
        for frame, count in at_rate(video, spec.fps):
            height, width = frame.pixels.shape[:2]
            if count and len(taken) < most:
                seen += [preprocess(frame.pixels, spec)] * count
                taken += [frame.index] * count
    taken = taken[:most]
    frames = np.concatenate(seen[: len(taken)])
    beside = clip.path.with_suffix(".npz")
    if not beside.is_file():
        return EvalClip(frames, None)
    points, occluded = _read_points(beside, video.read_count)
    known = np.flatnonzero(~occluded[:, 0])[: spec.particles]
    if not known.size:
        raise UsageError(f"{beside}: no point is visible in the first frame, so there is none to follow")
    place = points[known] / [width, height] * [aspect(spec), 1.0]
    truth = Points(place[:, taken].transpose(1, 0, 2), ~occluded[known][:, taken].T)
    return EvalClip(frames, truth, born_at(place[:, 0], spec))


def found(clip: Clip, spec: ModelSpec, more: int) -> EvalClip:
    """A clip or picture of a detector, with the true boxes of every frame where its folder says them.

    Raises UsageError like ``edgepv.data.annotated.true_boxes``.
    """
    places, one = _placed(clip, spec)
    return replace(one, truth=true_boxes(clip, places, spec.labels))


def masked(clip: Clip, spec: ModelSpec, more: int) -> EvalClip:
    """A clip or picture of a segmenter, with the true masks that lie beside it.

    Raises UsageError like ``edgepv.data.masked.true_masks``.
    """
    places, one = _placed(clip, spec)
    if not clip.truth:
        return one
    return replace(one, truth=Masks(true_masks(clip, places, one.size, len(names_of(spec)))))


def _placed(clip: Clip, spec: ModelSpec) -> tuple[list[int], EvalClip]:
    """(which frames of a clip's file the model takes, the clip of them, with the size of its pictures)."""
    most = TASKS.find(spec.task).most_frames
    seen: list[np.ndarray] = []
    places: list[int] = []
    with open_video(clip.path) as video:
        for frame in itertools.islice(taken(video, spec.fps), most):
            size = frame.pixels.shape[:2]
            seen.append(preprocess(frame.pixels, spec))
            places.append(frame.index)
    doubt = video.doubt[1] if video.doubt else None
    return places, EvalClip(np.concatenate(seen), None, doubt=doubt, size=size)


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


def aspect(spec: ModelSpec) -> float:
    """Width of the model's frame by its height: image heights along x."""
    height, width = spec.input.shape[-2:]
    return width / height
