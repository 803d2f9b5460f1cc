"""Training clips: read the manifest, hold the frames in memory, cut augmented samples out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from edgepv.base.optional import need
from edgepv.data.clips import manifest_rows, split_named
from edgepv.data.split import Sample, samples_by_task
from edgepv.data.video import at_rate, open_video
from edgepv.errors import UsageError, unknown
from edgepv.zoo import TASKS

SIDE = 144
"""Height and width the frames are kept at in memory; crops come out of this square."""

MIRRORED = ("fight", "interact")
"""Tasks whose labels stay true in a mirror, and are told by motion rather than by the place."""


@dataclass(frozen=True)
class Footage:
    """Frames of one sample, (T, SIDE, SIDE, 3) uint8 RGB at the file's rate, made constant if it is not."""

    sample: Sample
    frames: np.ndarray
    fps: Fraction


def read_manifest(folder: Path) -> list[Sample]:
    """Every clip of the known tasks in ``folder``/manifest.csv, in the order of the file.

    Raises UsageError if there is no manifest, for what ``manifest_rows`` refuses (it needs a column task as
    well), and for a label that its task does not have.
    """
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise UsageError(f"{manifest} does not exist. --data wants the folder with manifest.csv")
    samples = []
    for row in manifest_rows(manifest, ("task",)):
        task, label = row["task"], row["label"]
        if task not in TASKS:
            continue
        if label not in TASKS[task]:
            raise UsageError(f"{manifest}: {unknown('label', label, TASKS[task])}")
        split = split_named(row["split"], manifest)
        samples.append(Sample(folder / row["path"], task, TASKS[task].index(label), split, row["group"]))
    return samples


def load(samples: Iterable[Sample], tick: Callable[[], None] = lambda: None) -> list[Footage]:
    """Decode every sample once. ``tick`` is called after each, to move a progress bar."""
    footage = []
    for sample in samples:
        footage.append(_load_one(sample))
        tick()
    return footage


def _load_one(sample: Sample) -> Footage:
    cv2 = need("cv2", extra="cpu")
    square: list[np.ndarray] = []
    with open_video(sample.path) as video:
        for frame, count in at_rate(video, video.fps):
            if count:
                square += [cv2.resize(frame.pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)] * count
    return Footage(sample, np.stack(square)[..., ::-1].copy(), video.fps)


def balanced(footage: Sequence[Footage]) -> list[Footage]:
    """The clips of every task repeated until the tasks are about equally large."""
    count = samples_by_task(f.sample for f in footage)
    return [f for f in footage for _ in range(round(max(count.values()) / count[f.sample.task]))]


def augmented(
    footage: Footage,
    rng: np.random.Generator,
    *,
    frames: int,
    size: int,
    still: np.ndarray | None = None,
    grey: float = 0.1,
    area: tuple[float, float] = (0.6, 1.0),
) -> np.ndarray:
    """One random view of a clip, (frames, size, size, 3) uint8 RGB.

    Random start and speed 0.8 to 1.25, one random crop and one colour change for the whole clip,
    a mirror flip unless the labels know left from right, and sometimes a grey rectangle.
    still: one frame (SIDE, SIDE, 3) of another clip, shone over all frames so that only motion tells
    the label. grey: chance that the colours are taken away. area: share of the frame a crop covers.
    """
    index = _random_times(len(footage.frames), float(footage.fps), frames, rng)
    out = _cropped(footage.frames, index, _random_box(rng, area), size)
    if footage.sample.task in MIRRORED and rng.random() < 0.5:
        out = np.ascontiguousarray(out[:, :, ::-1])
    if still is not None:
        out = _shine_over(out, still, rng)
    out = _random_colour(out, rng, grey)
    return _cut_out(out, rng)


def _cropped(
    video: np.ndarray,
    index: np.ndarray,
    box: tuple[int, int, int, int],
    size: int,
) -> np.ndarray:
    """The frames ``index`` of a video, cut to the box (top, left, height, width) and resized."""
    cv2 = need("cv2", extra="cpu")
    top, left, height, width = box
    out = np.empty((len(index), size, size, 3), np.uint8)
    for k, i in enumerate(index):
        if k and i == index[k - 1]:
            out[k] = out[k - 1]
        else:
            part = video[i, top : top + height, left : left + width]
            cv2.resize(part, (size, size), dst=out[k], interpolation=cv2.INTER_AREA)
    return out


def _shine_over(frames: np.ndarray, still: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend 10 to 50 % of one still picture into every frame."""
    share = rng.uniform(0.1, 0.5)
    layer = _cropped(still[None], np.zeros(1, int), _random_box(rng, (0.6, 1.0)), frames.shape[1])[0]
    return np.rint(frames * (1 - share) + layer * share).astype(np.uint8)


def _random_times(count: int, fps: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of ``frames`` source frames about 0.1 s apart; the last one repeats in a short clip."""
    span = rng.uniform(0.8, 1.25) * fps / 10
    start = rng.uniform(0, max(0.0, count - span * frames))
    return np.minimum((start + span * np.arange(frames)).astype(int), count - 1)


def _random_box(rng: np.random.Generator, shares: tuple[float, float]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop that covers a random share of the frame."""
    area = min(1.0, rng.uniform(*shares))
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    height = min(SIDE, round(SIDE * np.sqrt(area * stretch)))
    width = min(SIDE, round(SIDE * np.sqrt(area / stretch)))
    return (
        int(rng.integers(SIDE - height + 1)),
        int(rng.integers(SIDE - width + 1)),
        int(height),
        int(width),
    )


def _random_colour(frames: np.ndarray, rng: np.random.Generator, grey: float) -> np.ndarray:
    """Brightness, contrast, gamma and white balance by one table per channel; sometimes grey."""
    cv2 = need("cv2", extra="cpu")
    x = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.2, 0.2))
    gain = np.exp(rng.uniform(-0.2, 0.2) + rng.uniform(-0.05, 0.05, 3))
    x = (x - 0.45) * gain + 0.45 + rng.uniform(-0.1, 0.1)
    table = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)[None]
    tall = frames.reshape(-1, frames.shape[2], 3)
    tall = cv2.LUT(tall, np.ascontiguousarray(table))
    if rng.random() < grey:
        tall = cv2.cvtColor(cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return tall.reshape(frames.shape)


def _cut_out(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With chance 0.25 one grey rectangle, up to 40 % of a side, at the same place in all frames."""
    if rng.random() < 0.25:
        size = frames.shape[1]
        h, w = (rng.uniform(0.15, 0.4, 2) * size).astype(int)
        y, x = rng.integers(size - h + 1), rng.integers(size - w + 1)
        frames[:, y : y + h, x : x + w] = 115
    return frames
