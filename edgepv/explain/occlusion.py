"""Parts of a clip covered, and the answer asked again."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgepv.errors import UsageError
from edgepv.runtimes.player import Player

PARTICLES = "particles"


class Cover:
    """Paints cells of a grid over, in all frames of a clip (T, C, h, w), as if nothing stood there."""

    def __init__(self, frames: np.ndarray, grid: int) -> None:
        height, width = frames.shape[-2:]
        if not 2 <= grid <= min(height, width):
            raise UsageError(f"--grid {grid}: give 2 to {min(height, width)} cells along a side of the frame")
        self.frames, self.grid = frames, grid
        self._rows = np.linspace(0, height, grid + 1).round().astype(int)
        self._columns = np.linspace(0, width, grid + 1).round().astype(int)
        self._colours = [self._around(cell) for cell in range(grid * grid)]

    def _box(self, cell: int, margin: int = 0) -> tuple[slice, slice]:
        """Rows and columns of a cell, with ``margin`` cells more to each side."""
        y, x = divmod(cell, self.grid)
        top, left = max(0, y - margin), max(0, x - margin)
        bottom, right = min(self.grid, y + margin + 1), min(self.grid, x + margin + 1)
        return (
            slice(self._rows[top], self._rows[bottom]),
            slice(self._columns[left], self._columns[right]),
        )

    def _around(self, cell: int) -> np.ndarray:
        """(T, C, 1, 1) mean colour of the eight cells around a cell, in each frame."""
        outer, inner = self._box(cell, 1), self._box(cell)
        whole, mine = self.frames[(..., *outer)], self.frames[(..., *inner)]
        pixels = whole[0, 0].size - mine[0, 0].size
        total = whole.sum((2, 3), dtype=np.float64) - mine.sum((2, 3), dtype=np.float64)
        colour: np.ndarray = (total / pixels)[:, :, None, None].astype(np.float32)
        return colour

    def __call__(self, cells: Iterable[int]) -> np.ndarray:
        """The clip without these cells, counted row by row from the top left."""
        frames = self.frames.copy()
        for cell in cells:
            frames[(..., *self._box(cell))] = self._colours[cell]
        return frames


def followed(player: Player, frames: np.ndarray) -> np.ndarray | None:
    """(T, K, 2) where the particles were, in shares of width and height; None if the model does not say."""
    if not player.particles or PARTICLES not in [a.name for a in player.variant.spec.answers]:
        return None
    height, width = frames.shape[-2:]
    places = np.stack([out[PARTICLES][0, :, :2].copy() for out in player.steps(frames)])
    shares: np.ndarray = places * (height / width, 1)
    return shares
