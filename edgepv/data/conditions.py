"""How light a clip is and how fast its picture changes: what a compressed model may be unfair to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepv.data.frames import pictures
from edgepv.types import ModelSpec

LOOKS = 16
"""Pairs of neighbouring frames of a clip that are looked at, spread evenly over it."""
LEAST = 8
"""Clips that a part must have to be told of: fewer have no interval worth the name."""


def light_and_motion(frames: np.ndarray, spec: ModelSpec) -> tuple[float, float]:
    """(mean grey level, mean change of a pixel from one frame to the next), both of 255.

    frames: (T, C, h, w) float32 as the model sees them; the change is by frames of the model's rate.
    """
    first = np.unique(np.linspace(0, max(0, len(frames) - 2), LOOKS).astype(int))
    grey = [_grey(frames[i : i + 2], spec) for i in first]
    motion = [float(np.abs(pair[1] - pair[0]).mean()) for pair in grey if len(pair) == 2]
    return float(np.mean([pair.mean() for pair in grey])), float(np.mean(motion)) if motion else 0.0


def _grey(frames: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """(T, h, w) luma of 255 (ITU-R BT.601) of frames as the model sees them."""
    luma: np.ndarray = pictures(spec, frames) @ np.array([0.114, 0.587, 0.299])
    return luma


def parts(values: Sequence[float], names: tuple[str, str, str]) -> list[str] | None:
    """The third of all clips that each value falls into, by its name and its ends; halves of few clips.

    names: of the lowest, the middle and the highest third, such as "dark", "middle", "bright". None of so
    few clips that not even halves have ``LEAST`` each, or where all values are equal.
    """
    count = min(3, len(values) // LEAST)
    if count < 2 or min(values) == max(values):
        return None
    which = np.empty(len(values), int)
    for part, members in enumerate(np.array_split(np.argsort(values, kind="stable"), count)):
        which[members] = part
    called = names if count == 3 else (names[0], names[2])
    ends = [[v for v, w in zip(values, which, strict=True) if w == part] for part in range(count)]
    told = [f"{name}, {min(v):.3g} to {max(v):.3g} of 255" for name, v in zip(called, ends, strict=True)]
    return [told[part] for part in which]
