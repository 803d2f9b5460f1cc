"""A clip model as a user brings it: a builder function, nothing to subclass."""

from __future__ import annotations

from torch import Tensor, nn


class MotionNet(nn.Module):
    """Three 3-D convolutions over eight frames of 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(3, 16, 3, (1, 2, 2), 1),
            nn.BatchNorm3d(16),
            nn.ReLU(),
            nn.Conv3d(16, 32, 3, 2, 1),
            nn.BatchNorm3d(32),
            nn.ReLU(),
            nn.Conv3d(32, 32, 3, 2, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (1, 3, 8, 64, 64). Returns logits (1, 2)."""
        return self.head(self.body(x).mean((2, 3, 4)))


def build() -> MotionNet:
    """What `edgepv export examples/model.py:build` calls."""
    return MotionNet()
