"""Boxes that a detector found in a picture, as they travel from the model to records, tracks and masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, the surest first.

    boxes: (N, 4) float32, x1, y1, x2, y2 as shares of the camera picture's width and height, whatever the
    model's own input was padded or stretched to. scores: (N,) float32 in [0, 1]. labels: (N,) int64, places
    in the spec's labels. ids: (N,) int64, the track that each belongs to; -1 for none, and before anything
    follows them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        """Nothing is followed yet where no ids are given."""
        if len(self.ids) != len(self.boxes):
            object.__setattr__(self, "ids", np.full(len(self.boxes), -1, np.int64))

    def __len__(self) -> int:
        return len(self.boxes)
