"""A user's labelled clips as training data: their labels, their sides, the windows drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgepv.base.console import Console
from edgepv.base.optional import need
from edgepv.data.clips import SPLITS, Clip, as_manifest, label_finder, manifest_rows, spelling, videos_below
from edgepv.data.frames import clean_frames, preprocess
from edgepv.data.split import apart, hold_out, named
from edgepv.errors import UsageError
from edgepv.types import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 4
"""Fewest training clips of a label."""
SHARE = 0.2
"""Share of the training clips that choose the epoch, by whole groups."""

SPEED = 1.25


@dataclass(frozen=True)
class Shot:
    """One labelled clip: frames (T, H, W, 3) uint8 BGR, at the size and rate of the model, and its group."""

    frames: np.ndarray
    label: int
    group: str


def labels_of(folder: Path, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The labels of a folder of clips, sorted: of its manifest.csv, else the folders that hold videos.

    Raises UsageError if one of ``wanted`` is not there, if there are fewer than two, if one begins or ends
    with a blank, which no manifest.csv could name, and, with nothing ``wanted``, if no folder above a video
    or more than one might be its label.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. --data wants one with a sub-folder of clips per label")
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        present = {row["label"] for row in manifest_rows(manifest)} - {""}
    else:
        present = _labels_of_folders(folder, wanted)
    if not present:
        raise UsageError(
            f"{folder} holds no labelled clip. Put clips into one sub-folder per label, or list them in "
            "manifest.csv with the columns path, label, split, group"
        )
    if missing := sorted(set(wanted) - present):
        raise UsageError(f"{folder} has no label '{missing[0]}'. It has: {', '.join(sorted(present))}")
    labels = tuple(sorted(wanted or present))
    if blank := [label for label in labels if label != label.strip()]:
        raise UsageError(f"{folder}: the label '{blank[0]}' begins or ends with a blank. Rename its folder")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise UsageError(
            f"{folder}: {', '.join(labels)} is one label only. A classifier needs two; add a folder of clips "
            "that show something else"
        )
    return labels


def _labels_of_folders(folder: Path, wanted: Sequence[str]) -> set[str]:
    """The labels that folders name; of two spelt alike but for case the first.

    With labels ``wanted``, those of them that some folder above a video is called like.
    """
    paths = [path.relative_to(folder) for path in videos_below(folder)[0]]
    if wanted:
        known = label_finder(wanted)
        return {label for path in paths for part in path.parts[:-1] if (label := known(part)) is not None}
    labels: dict[str, str] = {}
    for path in paths:
        names = [part for part in path.parts[:-1] if part.lower() not in SPLITS]
        if len(names) > 1 or (not names and len(path.parts) > 1):
            what = " or ".join(f"'{part}'" for part in dict.fromkeys(path.parts[:-1]))
            raise UsageError(
                f"{folder / path}: its label might be {what}. Say which folders are labels: --labels A,B, or "
                "list the clips in manifest.csv"
            )
        labels |= {spelling(name): min(name, labels.get(spelling(name), name)) for name in names}
    return set(labels.values())


def sides(
    clips: Sequence[Clip], labels: Sequence[str], *, seed: int = 0
) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """(training, validation, test) clips; no group stands on two sides.

    Clips of a split evaluation or test are scored once at the end. Validation is the split of that name;
    without one, about ``SHARE`` of the rest, by whole groups. Raises UsageError for a label with too few
    training clips, and for a group in two splits.
    """
    train, validation, test = named([c for c in clips if c.label in labels])
    for label in labels:
        count = sum(c.label == label for c in train)
        if count < LEAST:
            raise UsageError(
                f"label '{label}' has {count} training clips; at least {LEAST} are needed, and some dozens "
                "are better. Add clips, or leave it out with --labels"
            )
    if not validation:
        train, validation = hold_out(train, SHARE, seed=seed)
        apart(training=train, validation=validation, test=test)
    return train, validation, test


def listed(train: Sequence[Clip], test: Sequence[Clip]) -> str:
    """The manifest.csv for ``edgepv export --clips``: it calibrates on training clips and judges test clips.

    Validation clips chose the epoch, so they are not in it.
    """
    return as_manifest([replace(c, split=s) for s, side in (("train", train), ("test", test)) for c in side])


def shots(
    clips: Sequence[Clip],
    spec: ModelSpec,
    console: Console,
    parts_s: Mapping[Path, tuple[float, float]] = {},
) -> list[Shot]:
    """The clips decoded at the model's size and rate, as ``edgepv.data.frames.model_frames`` has them.

    parts_s: from when to when a clip shows what its label is about, in seconds; others are taken whole.
    """
    return [
        Shot(_part(clean_frames(c.path, spec), parts_s.get(c.path), spec), _place(c, spec), c.group)
        for c in console.track(clips, "decoding clips")
    ]


def _place(clip: Clip, spec: ModelSpec) -> int:
    return spec.labels.index(str(clip.label))


def _part(frames: Sequence[np.ndarray], part_s: tuple[float, float] | None, spec: ModelSpec) -> np.ndarray:
    """The frames (T, H, W, 3) of a part, with those before that its first answer looks back on."""
    if part_s is None:
        return np.stack(frames)
    first, last = (round(second * float(spec.fps)) for second in part_s)
    start = min(max(0, first - spec.frames + 1), len(frames) - 1)
    return np.stack(frames[start : max(last, start + 1)])


def tensor(frames: np.ndarray, spec: ModelSpec) -> Tensor:
    """(C, T, H, W) float32 as the model wants it, of frames (T, H, W, 3) uint8 BGR."""
    torch = need("torch", extra="compress")
    planes = np.concatenate([preprocess(frame, spec) for frame in frames])
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(1, 0, 2, 3)))


def window(frames: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` frames of a clip from a random start, at a random speed; the last one repeats if it ends."""
    speed = rng.uniform(1 / SPEED, SPEED)
    start = rng.uniform(0, max(0.0, len(frames) - speed * count))
    return frames[np.minimum((start + speed * np.arange(count)).astype(int), len(frames) - 1)]
