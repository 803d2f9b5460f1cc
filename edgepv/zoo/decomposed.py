"""A film taken apart by pv-particle, frame by frame: the particles, and what is painted of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from edgepv.data.frames import pictures, preprocess
from edgepv.metrics.pictures import decibel
from edgepv.model.checkpoint import build
from edgepv.zoo import checkpoint

MODEL = "pv-particle-nano"


@dataclass(frozen=True)
class Step:
    """One frame's particles and what is painted of them.

    particles: (K, 5 + D) of x, y, vx, vy in shares of width and height, size in heights, features. painted:
    (h, w, 3) uint8 BGR. squared_error: mean of it against the frame at that size, of [0, 1].
    """

    particles: np.ndarray
    painted: np.ndarray
    squared_error: float

    def record(self) -> dict[str, object]:
        """The JSON of a line."""
        rows = [[round(float(v), 4) for v in row] for row in self.particles]
        return {"psnr_db": round(decibel(self.squared_error), 2), "particles": rows}


class Decomposition:
    """The trained net, taking frames apart one after the other into particles of one kind.

    Raises UsageError for patches that do not fit the picture.
    """

    def __init__(self, kind: str, count: int) -> None:
        found = checkpoint(MODEL)
        self._net, self._spec, self._kind = build(found), found.spec, kind
        self._net.use(kind, count)
        self._expected = self._net.start(1)
        self.fps = found.spec.fps

    def step(self, pixels: np.ndarray) -> Step:
        """The next frame, (H, W, 3) uint8 BGR."""
        given = preprocess(pixels, self._spec)
        with torch.no_grad():
            frame = torch.from_numpy(given)
            crowd = self._net.decompose(frame, self._net.look(frame), self._expected)
            self._expected = self._net.expect(crowd)
            image = self._net.paint(crowd.position, crowd.scale, crowd.feature)[1].numpy()
        height, width = given.shape[-2:]
        shares = torch.tensor([height / width, 1.0])
        parts = crowd.position * shares, crowd.velocity * shares, crowd.scale.unsqueeze(-1), crowd.feature
        error = float(np.mean(np.square(np.clip(image, 0, 1) - given)))
        return Step(torch.cat(parts, -1)[0].numpy(), pictures(self._spec, image)[0], error)

    def summary(self, frames: int, squared_error: float) -> str:
        """What was done, in one line."""
        count, dim = self._expected.feature.shape[1:]
        height, width = self._spec.input.shape[-2:]
        what = f"{count} particle{'s' * (count != 1)} ({self._kind})"
        return (
            f"{frames} frames, each {count * (5 + dim)} numbers: {what}; painted of them, frames of "
            f"{width} x {height} have {decibel(squared_error):.1f} dB"
        )
