"""pv-c3d: a plain residual Conv3D clip net, the classic an engineer brings (C3D, I3D and R3D are its kin).

It knows nothing of streaming: one clip of 16 frames in, logits out. Every block looks one frame to
either side, zeros stand beyond the ends of the clip, and the features are averaged over all of it.
``edgepv.stream`` turns it into a per-frame model.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

WINDOW = 16


class Block(nn.Module):
    """3x3x3 convolution, 1x3x3 convolution, residual; (N, C, T, H, W) -> (N, C', T, H/s, W/s).

    ends: zeros beyond either end of the clip; with none, T becomes T - 2.
    """

    def __init__(self, cin: int, cout: int, *, stride: int, ends: int = 1) -> None:
        super().__init__()
        step = (1, stride, stride)
        self.ends = ends
        self.conv1 = nn.Conv3d(cin, cout, 3, step, (ends, 1, 1), bias=False)
        self.bn1 = nn.BatchNorm3d(cout)
        self.conv2 = nn.Conv3d(cout, cout, (1, 3, 3), 1, (0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(cout)
        self.skip = nn.Conv3d(cin, cout, 1, step, bias=False)
        self.skip_bn = nn.BatchNorm3d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """One residual step."""
        y = torch.relu(self.bn1(self.conv1(x)))
        x = x if self.ends else x[:, :, 1:-1]
        return torch.relu(self.bn2(self.conv2(y)) + self.skip_bn(self.skip(x)))


class PvC3d(nn.Module):
    """Stem 3x5x5, max pool in space, four blocks, global mean, one linear layer; ends: see ``Block``."""

    warmup = WINDOW

    def __init__(self, classes: int, *, widths: tuple[int, ...], dropout: float = 0.3, ends: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, widths[0], (3, 5, 5), (1, 2, 2), (ends, 2, 2), bias=False)
        self.stem_bn = nn.BatchNorm3d(widths[0])
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        pairs = pairwise(widths)
        blocks = (Block(a, b, stride=1 if i == 0 else 2, ends=ends) for i, (a, b) in enumerate(pairs))
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of clips (N, 3, T, H, W)."""
        x = self.blocks(self.pool(torch.relu(self.stem_bn(self.stem(x)))))
        return cast(Tensor, self.head(self.dropout(x.mean((2, 3, 4)))))

    def frame_logits(self, x: Tensor) -> Tensor:
        """Logits after every frame, (N, T, classes), each from a window of 16 frames of its own.

        The first 15 rows are zeros: no whole window ends there.
        """
        rows = [torch.zeros_like(self(x[:, :, :WINDOW]))] * (WINDOW - 1)
        rows += [self(x[:, :, t : t + WINDOW]) for t in range(x.shape[2] - WINDOW + 1)]
        return torch.stack(rows, 1)


def small(classes: int = 12) -> PvC3d:
    """pv-c3d small: clips of 16 frames of 112 x 112."""
    return PvC3d(classes, widths=(24, 48, 96, 192, 320))


def valid(classes: int = 2) -> PvC3d:
    """pv-c3d valid: the same without padding in time: a stream answers what the clip model answers."""
    return PvC3d(classes, widths=(24, 48, 96, 192, 320), ends=0)
