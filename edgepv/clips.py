"""Video in: decode, resample in time, preprocess, and find labelled clips in a folder."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.console import hush_native
from edgepv.degrade import SIGMA, noisy, rounded, smaller
from edgepv.errors import UsageError, unknown
from edgepv.optional import need
from edgepv.types import ModelSpec

_NTSC = (24, 30, 48, 60, 120)
SPLITS = {
    "train": "train",
    "training": "train",
    "calibration": "calibration",
    "calib": "calibration",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "evaluation": "evaluation",
    "eval": "evaluation",
    "test": "test",
    "testing": "test",
}
"""What people call the parts of a data set, and what they are here."""
SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")


@dataclass(frozen=True)
class Clip:
    """One video file on disk. ``label`` is None where nobody labelled it.

    group: clips of one group share footage, so they never stand on two sides of a split.
    """

    path: Path
    label: str | None
    group: str
    split: str | None = None


@dataclass(frozen=True)
class Video:
    """A decoded video: frames (H, W, 3) uint8 BGR in order, and its frame rate."""

    frames: tuple[np.ndarray, ...]
    fps: Fraction


def read_video(path: Path) -> Video:
    """Decode every frame.

    Raises UsageError if the file is missing, has the wrong suffix, holds no frame, or ends before
    the number of frames its header promises (a truncated upload would otherwise pass as a short clip).
    """
    with open_video(path) as (capture, fps, promised):
        frames = tuple(_frames(capture))
    refuse_broken(path, len(frames), promised)
    return Video(frames, fps)


def refuse_broken(path: Path, read: int, promised: int) -> None:
    """Raise UsageError if ``read`` frames are none, or fewer than the header ``promised`` (0: unknown)."""
    if read == 0:
        raise UsageError(f"{path} holds no video frame that can be decoded. Is it a video, and whole?")
    if promised and read < promised - 2:
        raise UsageError(
            f"{path} is truncated: its header promises {promised} frames, {read} could be decoded. "
            "Copy the file again"
        )


def frame_rate(value: float | Fraction) -> Fraction | None:
    """Frames per second as a fraction: 29.97 is 30000/1001. None for what is no rate (0, NaN, 90000)."""
    if not 0 < float(value) < 1000:
        return None
    rate = Fraction(value)
    for whole in _NTSC:
        exact = Fraction(whole * 1000, 1001)
        if abs(rate - exact) < Fraction(5, 1000):
            return exact
    return rate.limit_denominator(1001)


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Fraction, int]]:
    """An open OpenCV capture, its frame rate, and the frame count its header promises (0: unknown)."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist or is not a file. Check the path of the video")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: not a video suffix. Known: {', '.join(SUFFIXES)}")
    cv2 = need("cv2", extra="cpu")
    with hush_native():
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UsageError(f"{path} cannot be opened as a video. It may be truncated or not a video")
        fps = frame_rate(capture.get(cv2.CAP_PROP_FPS)) or Fraction(10)
        yield capture, fps, max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()


def _frames(capture: Any) -> Iterator[np.ndarray]:
    while True:
        ok, frame = capture.read()
        if not ok:
            return
        yield frame


def resample(count: int, source: Fraction, wanted: Fraction) -> list[int]:
    """Which of ``count`` frames at ``source`` fps to take so that they come at ``wanted`` fps.

    The k-th taken frame is the newest one already seen at time k / wanted, so a live camera takes
    the same frames as a file. A source slower than ``wanted`` repeats frames.
    """
    taken = []
    k = 0
    while (index := int(Fraction(k) * source / wanted)) < count:
        taken.append(index)
        k += 1
    return taken


def check_frame(frame: np.ndarray) -> None:
    """Raise UsageError unless ``frame`` is (H, W, 3) uint8 with at least one pixel."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise UsageError(
            f"a frame must be (H, W, 3) uint8 BGR, got {frame.shape} {frame.dtype}. Convert it first"
        )


def preprocess(frame: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """One camera frame as the model wants it.

    frame: (H, W, 3) uint8 BGR. Returns (1, C, h, w) float32: the whole frame resized with area
    interpolation (aspect is not kept), colour order or grey (OpenCV's BGR2GRAY) and (x / 255 - mean) / std
    from the spec.
    """
    frame = at_model_size(frame, spec)
    if spec.colour == "rgb":
        frame = frame[:, :, ::-1]
    elif spec.colour == "grey":
        frame = in_grey(frame)[:, :, :1]
    scale = np.float32(1 / 255) / np.asarray(spec.std, np.float32)
    shift = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray((frame * scale - shift).transpose(2, 0, 1)[None], np.float32)


def at_model_size(frame: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """A camera frame (H, W, 3) uint8 resized to what the model takes, (h, w, 3) uint8."""
    cv2 = need("cv2", extra="cpu")
    height, width = spec.input.shape[-2:]
    check_frame(frame)
    if frame.shape[:2] == (height, width):
        return frame
    resized: np.ndarray = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return resized


def in_grey(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 BGR without its colour: three equal channels."""
    cv2 = need("cv2", extra="cpu")
    grey: np.ndarray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return np.repeat(grey[:, :, None], 3, 2)


def pictures(spec: ModelSpec, rows: np.ndarray) -> np.ndarray:
    """A restorer's answers (T, C, H, W) as pictures (T, H, W, 3), uint8 BGR; grey ones in three channels."""
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (spec.mean, spec.std))
    plain = np.rint(np.clip(rows * std + mean, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    if spec.colour == "grey":
        return np.repeat(plain, 3, -1)
    return plain[..., ::-1] if spec.colour == "rgb" else plain


def model_frames(path: Path, spec: ModelSpec) -> np.ndarray:
    """A clip as the model sees it: (T, C, h, w) float32, at its frame rate, degraded for a restorer."""
    frames = degraded(clean_frames(path, spec), spec)
    return np.concatenate([preprocess(frame, spec) for frame in frames])


def clean_frames(path: Path, spec: ModelSpec) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 BGR at the model's rate; for a restorer of the size of its answer, and as
    colourless as that, where it is known what it undoes."""
    video = read_video(path)
    frames = [video.frames[i] for i in resample(len(video.frames), video.fps, spec.fps)]
    if spec.degrade is None:
        return frames
    cv2 = need("cv2", extra="cpu")
    height, width = spec.answer.shape[-2:]
    frames = [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames]
    return [in_grey(f) for f in frames] if spec.colour == "grey" else frames


def degraded(frames: list[np.ndarray], spec: ModelSpec) -> list[np.ndarray]:
    """Clean frames as a camera with the spec's fault would deliver them, uint8; the same at every call."""
    if spec.degrade in ("half", "downscale"):
        factor = spec.answer.shape[-1] // spec.input.shape[-1]
        return [smaller(frame, factor) for frame in frames]
    if spec.degrade == "noise-25":
        rng = np.random.default_rng(0)
        return [np.rint(255 * rounded(noisy(f, SIGMA, rng))).astype(np.uint8) for f in frames]
    return frames


def find_clips(folder: Path, labels: tuple[str, ...]) -> list[Clip]:
    """Every clip of a folder, sorted by path.

    With a ``manifest.csv`` (columns path, label, split, group) its rows whose label is in
    ``labels``, or all rows without labels. Otherwise the video files below the folder: the label is the name
    of the parent folder when that is one of ``labels``, the split is the first of ``SPLITS`` on the path, the
    group is the file itself.
    Raises UsageError if the folder is missing or holds no clip.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. --clips wants a folder of video clips")
    manifest = folder / "manifest.csv"
    clips = _from_manifest(manifest, labels) if manifest.is_file() else _from_tree(folder, labels)
    if not clips:
        raise UsageError(
            f"{folder} holds no clip for the labels {', '.join(labels)}. Put clips into one "
            "sub-folder per label, or list them in manifest.csv"
            if labels
            else f"{folder} holds no clip. It wants video files: {', '.join(SUFFIXES)}"
        )
    for clip in clips:
        if not clip.path.is_file() and (clip.path.exists() or clip.path.is_symlink()):
            raise UsageError(f"{clip.path} is no plain file, or a link to nothing. Remove it from the clips")
        if _surrogates(str(clip.path)):
            raise UsageError(f"{os.fsencode(clip.path)!r}: the name is not UTF-8. Rename it")
    return sorted(clips, key=lambda c: str(c.path))


def _surrogates(text: str) -> bool:
    """Whether a file's name had bytes that are not UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)


COLUMNS = ("path", "label", "split", "group")


def manifest_rows(manifest: Path) -> list[dict[str, str]]:
    """The rows of a manifest.csv, ``COLUMNS`` without blanks around them; a group left out is the path.

    Raises UsageError for a file that is no UTF-8 CSV, a missing column, a row without a path, and a path that
    stands there twice: it could train and test at once.
    """
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"{manifest} is not UTF-8 ({e.reason}). Save it as CSV in UTF-8") from None
    table = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    named = [(name or "").strip() for name in table.fieldnames or ()]
    if missing := [c for c in COLUMNS if c not in named]:
        raise UsageError(
            f"{manifest}: column '{missing[0]}' is missing. It needs {', '.join(COLUMNS)}, with commas "
            f"between; found: {', '.join(named) or 'nothing'}"
        )
    table.fieldnames = named
    rows = [{c: (row[c] or "").strip() for c in COLUMNS} for row in table]
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        path = os.path.normpath(row["path"])
        if not row["path"] or path in seen:
            what = f"'{row['path']}' stands there twice" if row["path"] else "no path"
            raise UsageError(f"{manifest}, row {number}: {what}. Give every clip one row")
        seen.add(path)
    return [row | {"group": row["group"] or row["path"]} for row in rows]


def _from_manifest(manifest: Path, labels: tuple[str, ...]) -> list[Clip]:
    folder = manifest.parent
    return [
        Clip(folder / row["path"], row["label"] or None, row["group"], _split(row["split"], manifest))
        for row in manifest_rows(manifest)
        if row["label"] in labels or not labels
    ]


def as_manifest(clips: Sequence[Clip]) -> str:
    """The manifest.csv that ``find_clips`` reads as these clips; its paths are absolute, for any folder."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows((c.path.absolute(), c.label, c.split, c.group) for c in clips)
    return text.getvalue()


def _split(name: str, manifest: Path) -> str | None:
    """The split a manifest names, None for none. Raises UsageError for a name nobody knows."""
    if name and name.lower() not in SPLITS:
        raise UsageError(f"{manifest}: {unknown('split', name, sorted(SPLITS))}")
    return SPLITS[name.lower()] if name else None


def _from_tree(folder: Path, labels: tuple[str, ...]) -> list[Clip]:
    clips = []
    for path in folder.rglob("*"):
        if path.suffix.lower() not in SUFFIXES or path.is_dir():
            continue
        parts = path.relative_to(folder).parts[:-1]
        split = next((SPLITS[p.lower()] for p in parts if p.lower() in SPLITS), None)
        label = path.parent.name if path.parent.name in labels else None
        clips.append(Clip(path, label, str(path.relative_to(folder)), split))
    return clips


def split_clips(clips: list[Clip], *, calibration: int) -> tuple[list[Clip], list[Clip]]:
    """(calibration clips, evaluation clips), disjoint by group, the same on every machine.

    Splits the folder names are kept: calibration clips come out of calibration/train, evaluation clips out
    of evaluation/validation/test. Where only the latter are named, clips without a split calibrate. Without
    named splits a quarter of the groups, chosen by the hash of their name, calibrates. At most
    ``calibration`` clips calibrate, spread over labels and groups.
    Raises UsageError if a side would be empty, or a group stands on both sides.
    """
    if any(c.split for c in clips):
        held = [c for c in clips if c.split in ("evaluation", "validation", "test")]
        named = [c for c in clips if c.split in ("calibration", "train")]
        train = named or [c for c in clips if c.split is None]
    else:
        train = [c for c in clips if _bucket(c.group) == 0]
        held = [c for c in clips if _bucket(c.group) != 0]
    shared = {c.group for c in train} & {c.group for c in held}
    if shared:
        raise UsageError(
            f"group '{min(shared)}' is in both the calibration and the evaluation clips; "
            "accuracy would be flattered. Put each group on one side"
        )
    if not train or not held:
        side = "calibration" if not train else "evaluation"
        raise UsageError(
            f"no clip is left for {side} among {len(clips)}. Give more clips, or name the splits: "
            "sub-folders calibration/ and evaluation/"
        )
    return _spread(train, calibration), held


def halves(clips: list[Clip]) -> tuple[list[Clip], list[Clip], tuple[str, ...]]:
    """(one half, the other half, labels that stand on both only by tearing a group), equal on every machine.

    Whole groups go, the largest first, to the side that has fewer clips of their labels. A label that is then
    on one side only was filmed in one piece: its clips are divided all the same, and it is named.
    """
    groups: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=_order):
        groups.setdefault(clip.group, []).append(clip)
    counts: tuple[dict[str | None, int], dict[str | None, int]] = ({}, {})
    side_of: dict[Path, int] = {}
    for name in sorted(groups, key=lambda g: (-len(groups[g]), hashlib.sha256(g.encode()).digest())):
        cost = [sum(side.get(c.label, 0) for c in groups[name]) for side in counts]
        least = min((cost[i], sum(counts[i].values()), i) for i in (0, 1))[-1]
        for clip in groups[name]:
            side_of[clip.path] = least
            counts[least][clip.label] = counts[least].get(clip.label, 0) + 1
    torn = []
    for label in sorted({c.label for c in clips}, key=str):
        mine = sorted((c for c in clips if c.label == label), key=_order)
        if len(mine) > 1 and len({side_of[c.path] for c in mine}) == 1:
            torn.append(str(label))
            side_of |= {c.path: 1 - side_of[c.path] for c in mine[1::2]}
    ordered = sorted(clips, key=lambda c: str(c.path))
    first, second = ([c for c in ordered if side_of[c.path] == i] for i in (0, 1))
    return first, second, tuple(torn)


def _order(clip: Clip) -> bytes:
    """A shuffle that is the same everywhere."""
    return hashlib.sha256(clip.path.name.encode()).digest()


def _bucket(group: str) -> int:
    return hashlib.sha256(group.encode()).digest()[0] % 4


def _spread(clips: list[Clip], limit: int) -> list[Clip]:
    """Up to ``limit`` clips, taking turns between labels, and within a label between groups."""
    queues: dict[str | None, list[Clip]] = {}
    for label in sorted({c.label for c in clips}, key=str):
        mine = [c for c in clips if c.label == label]
        seen: dict[str, int] = {}
        turn: list[tuple[int, int, Clip]] = []
        for clip in sorted(mine, key=lambda c: hashlib.sha256(c.path.name.encode()).digest()):
            seen[clip.group] = seen.get(clip.group, 0) + 1
            turn.append((seen[clip.group], len(turn), clip))
        queues[label] = [clip for _, _, clip in sorted(turn, key=lambda t: t[:2])]
    chosen: list[Clip] = []
    while len(chosen) < limit and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < limit:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=lambda c: str(c.path))


def hold_last(frames: np.ndarray, count: int) -> np.ndarray:
    """A clip (T, ...) with its last frame repeated until it has ``count`` frames; longer: unchanged."""
    missing = count - len(frames)
    return frames if missing <= 0 else np.concatenate([frames, frames[-1:].repeat(missing, 0)])


def clip_scores(logits: np.ndarray, warmup: int) -> np.ndarray:
    """One answer for a whole clip from the answers a streamed model gave after each frame.

    logits: (T, classes), one row per frame in order. Returns (classes,): the mean of the valid rows,
    those from frame ``warmup`` on, because earlier answers saw fewer frames than the model needs.
    Raises UsageError if there is no valid row; feed a short clip through ``hold_last`` first.
    """
    if len(logits) < warmup:
        raise UsageError(
            f"a clip of {len(logits)} frames is shorter than the {warmup} the model needs before its "
            "first answer. Use longer clips, or repeat the last frame"
        )
    return logits[warmup - 1 :].mean(axis=0)
