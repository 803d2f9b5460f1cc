"""I3D and SlowOnly on ResNet-50: a net for pictures whose convolutions were inflated in time.

After Carreira & Zisserman 2017, "Quo Vadis, Action Recognition?", and Feichtenhofer et al. 2019, "SlowFast
Networks for Video Recognition". Clips (1, 3, T, H, W) in, logits (1, num_classes) out. Layers are named as in
mmaction2, so its weights load.
"""

from __future__ import annotations

from torch import Tensor, nn

DEPTHS = (3, 4, 6, 3)
Kernel = tuple[int, int, int]


class Unit(nn.Module):
    """Convolution and batch norm."""

    def __init__(self, cin: int, cout: int, kernel: Kernel, stride: Kernel = (1, 1, 1)) -> None:
        super().__init__()
        t, h, w = kernel
        self.conv = nn.Conv3d(cin, cout, kernel, stride, (t // 2, h // 2, w // 2), bias=False)
        self.bn = nn.BatchNorm3d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T', H', W')."""
        return self.bn(self.conv(x))


class Block(nn.Module):
    """ResNet's bottleneck; its first convolution sees ``t`` frames."""

    def __init__(self, cin: int, mid: int, stride: int, t: int) -> None:
        super().__init__()
        step = (1, stride, stride)
        self.conv1 = Unit(cin, mid, (t, 1, 1))
        self.conv2 = Unit(mid, mid, (1, 3, 3), step)
        self.conv3 = Unit(mid, 4 * mid, (1, 1, 1))
        self.downsample: nn.Module = nn.Identity()
        if cin != 4 * mid:
            self.downsample = Unit(cin, 4 * mid, (1, 1, 1), step)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H', W')."""
        y = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.relu(self.conv3(y) + self.downsample(x))


class Backbone(nn.Module):
    """stem: frames and time stride of the first convolution. times: frames of each stage's blocks, in turns.

    skip: time stride of the first pooling. halve: whether a pooling halves time behind the first stage.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self, stem: tuple[int, int], times: tuple[tuple[int, ...], ...], *, skip: int, halve: bool
    ) -> None:
        super().__init__()
        self.conv1 = Unit(3, 64, (stem[0], 7, 7), (stem[1], 2, 2))
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool3d((1, 3, 3), (skip, 2, 2), (0, 1, 1))
        self.pool2 = nn.MaxPool3d((2, 1, 1), (2, 1, 1)) if halve else nn.Identity()
        cin = 64
        for i, depth in enumerate(DEPTHS):
            mid, blocks = 64 << i, []
            for j in range(depth):
                blocks.append(Block(cin, mid, 2 if i and not j else 1, times[i][j % len(times[i])]))
                cin = 4 * mid
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to features (N, 2048, T', H / 32, W / 32)."""
        x = self.layer1(self.maxpool(self.relu(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.pool2(x))))


class Head(nn.Module):
    """The mean over the clip, dropout, labels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.dropout, self.fc_cls = nn.Dropout(0.5), nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, T, H, W) to logits (N, classes)."""
        return self.fc_cls(self.dropout(x.mean((2, 3, 4))))


class Inflated(nn.Module):
    """Backbone and head."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.cls_head = backbone, Head(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to logits (N, classes)."""
        return self.cls_head(self.backbone(x))


def i3d_r50(num_classes: int = 400) -> nn.Module:
    """Three frames in every other block or so; time is divided by 8."""
    return Inflated(Backbone((5, 2), ((3,), (3, 1), (3, 1), (1, 3)), skip=2, halve=True), num_classes)


def slowonly_r50(num_classes: int = 400) -> nn.Module:
    """Three frames in the last two stages; time is kept."""
    return Inflated(Backbone((1, 1), ((1,), (1,), (3,), (3,)), skip=1, halve=False), num_classes)
