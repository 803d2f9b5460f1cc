"""TSN and TSM on ResNet-50: a net for pictures, run on T frames spread over a clip.

After Wang et al. 2016, "Temporal Segment Networks", and Lin et al. 2019, "TSM: Temporal Shift Module for
Efficient Video Understanding". Clips (1, 3, T, H, W) in, logits (1, num_classes) out: the mean over the
frames. Layers are named as in mmaction2, so its weights load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEPTHS = (3, 4, 6, 3)
SHIFTED = 8
"""One channel in so many comes from the next frame, and one from the last."""


class Shift(nn.Module):
    """A convolution that sees some channels of the frames before and behind. No frame is zero."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(N T, C, H, W) with T ``frames`` to a clip, to (N T, C', H', W')."""
        n, c, h, w = x.shape
        part = c // SHIFTED
        v = x.view(n // frames, frames, c, h, w)
        none = torch.zeros_like(v[:, :1, :part])
        behind = torch.cat([v[:, 1:, :part], none], 1)
        before = torch.cat([none, v[:, :-1, part : 2 * part]], 1)
        return self.net(torch.cat([behind, before, v[:, :, 2 * part :]], 2).view(n, c, h, w))


class Unit(nn.Module):
    """Convolution and batch norm."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, shift: bool = False) -> None:
        super().__init__()
        conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
        self.conv = Shift(conv) if shift else conv
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(N T, C, H, W) with T ``frames`` to a clip, to (N T, C', H', W')."""
        return self.bn(self.conv(x, frames) if isinstance(self.conv, Shift) else self.conv(x))


class Block(nn.Module):
    """ResNet's bottleneck; the shift, if there is one, is inside the branch."""

    def __init__(self, cin: int, mid: int, stride: int, shift: bool) -> None:
        super().__init__()
        self.conv1 = Unit(cin, mid, 1, shift=shift)
        self.conv2 = Unit(mid, mid, 3, stride)
        self.conv3 = Unit(mid, 4 * mid, 1)
        self.downsample = Unit(cin, 4 * mid, 1, stride) if cin != 4 * mid else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(N T, C, H, W) with T ``frames`` to a clip, to (N T, C', H', W')."""
        y = self.relu(self.conv2(self.relu(self.conv1(x, frames)), frames))
        kept = x if self.downsample is None else self.downsample(x, frames)
        return self.relu(self.conv3(y, frames) + kept)


class Backbone(nn.Module):
    """ResNet-50 without its head."""

    layer1: nn.ModuleList
    layer2: nn.ModuleList
    layer3: nn.ModuleList
    layer4: nn.ModuleList

    def __init__(self, shift: bool) -> None:
        super().__init__()
        self.conv1 = Unit(3, 64, 7, 2)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        cin = 64
        for i, depth in enumerate(DEPTHS):
            mid, stride = 64 << i, 1 if i == 0 else 2
            blocks = [Block(cin, mid, stride, shift)]
            cin = 4 * mid
            blocks += [Block(cin, mid, 1, shift) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.ModuleList(blocks))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Frames (N T, 3, H, W), T ``frames`` to a clip, to features (N T, 2048, H / 32, W / 32)."""
        x = self.maxpool(self.relu(self.conv1(x, frames)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x, frames)
        return x


class Head(nn.Module):
    """Dropout and labels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.dropout, self.fc_cls = nn.Dropout(0.5), nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C) to logits (N, classes)."""
        return self.fc_cls(self.dropout(x))


class Segments(nn.Module):
    """The frames of a clip through one net, their answers averaged."""

    def __init__(self, num_classes: int, *, shift: bool) -> None:
        super().__init__()
        self.backbone, self.cls_head = Backbone(shift), Head(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to logits (N, classes)."""
        n, c, t, h, w = x.shape
        y = self.backbone(x.transpose(1, 2).reshape(n * t, c, h, w), t)
        y = y.mean((2, 3)).view(n, t, -1).mean(1)
        return self.cls_head(y)


def tsn_r50(num_classes: int = 400) -> nn.Module:
    """Every frame alone."""
    return Segments(num_classes, shift=False)


def tsm_r50(num_classes: int = 400) -> nn.Module:
    """Channels shifted between neighbours, in both directions."""
    return Segments(num_classes, shift=True)
