"""S3D: Inception with split convolutions.

Source: Xie et al. 2018, "Rethinking Spatiotemporal Feature Learning". Clips (1, 3, T, H, W) in, T at least
16, logits (1, num_classes) out. Layers are named as in torchvision.models.video, so its weights load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIXED = (
    (192, 64, 96, 128, 16, 32, 32),
    (256, 128, 128, 192, 32, 96, 64),
    (480, 192, 96, 208, 16, 48, 64),
    (512, 160, 112, 224, 24, 64, 64),
    (512, 128, 128, 256, 24, 64, 64),
    (512, 112, 144, 288, 32, 64, 64),
    (528, 256, 160, 320, 32, 128, 128),
    (832, 256, 160, 320, 32, 128, 128),
    (832, 384, 192, 384, 48, 128, 128),
)
"""Of each Inception module: input channels, then those of 1; 1-3; 1-3; pool-1 (GoogLeNet's table)."""


Size = int | tuple[int, int, int]


def unit(cin: int, cout: int, kernel: Size, stride: Size = 1, padding: Size = 0) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv3d(cin, cout, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(cout, eps=0.001), nn.ReLU())


def split(cin: int, cout: int, k: int, stride: int = 1) -> nn.Sequential:
    """1 x k x k, then k x 1 x 1."""
    p = k // 2
    return nn.Sequential(
        unit(cin, cout, (1, k, k), (1, stride, stride), (0, p, p)),
        unit(cout, cout, (k, 1, 1), (stride, 1, 1), (p, 0, 0)),
    )


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, cin: int, a: int, b1: int, b2: int, c1: int, c2: int, d: int) -> None:
        super().__init__()
        self.branch0 = unit(cin, a, 1)
        self.branch1 = nn.Sequential(unit(cin, b1, 1), split(b1, b2, 3))
        self.branch2 = nn.Sequential(unit(cin, c1, 1), split(c1, c2, 3))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), unit(cin, d, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H, W)."""
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class S3D(nn.Module):
    """Nine Inception modules in three groups; time is divided by 8, space by 32."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        mixed = [Mixed(*widths) for widths in MIXED]
        self.features = nn.Sequential(
            split(3, 64, 7, 2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            unit(64, 64, 1),
            split(64, 192, 3),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *mixed[:2],
            nn.MaxPool3d(3, 2, 1),
            *mixed[2:7],
            nn.MaxPool3d(2, 2),
            *mixed[7:],
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Conv3d(1024, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to logits (N, classes)."""
        x = self.features(x)
        x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
        return self.classifier(x).mean((2, 3, 4))


def s3d(num_classes: int = 400) -> nn.Module:
    """The paper's net."""
    return S3D(num_classes)
