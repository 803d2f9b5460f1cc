"""R3D, MC3 and R(2+1)D of 18 layers, after Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions".

Clips (1, 3, T, H, W) in, logits (1, num_classes) out. Layers are named as in torchvision.models.video, so its
weights load.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def conv3d(cin: int, cout: int, stride: int, mid: int) -> nn.Module:
    """3x3x3."""
    return nn.Conv3d(cin, cout, 3, stride, 1, bias=False)


def conv2d(cin: int, cout: int, stride: int, mid: int) -> nn.Module:
    """1x3x3: space only."""
    return nn.Conv3d(cin, cout, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)


def conv2plus1d(cin: int, cout: int, stride: int, mid: int) -> nn.Module:
    """1x3x3 into ``mid`` channels, then 3x1x1."""
    return nn.Sequential(
        nn.Conv3d(cin, mid, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(mid),
        nn.ReLU(),
        nn.Conv3d(mid, cout, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


Conv = Callable[[int, int, int, int], nn.Module]


class Block(nn.Module):
    """ResNet's basic block.

    The channels between the halves of a 2+1-D convolution give it as many weights as one of 3x3x3 has
    (equation 1 of the paper).
    """

    def __init__(self, cin: int, cout: int, stride: int, conv: Conv) -> None:
        super().__init__()
        mid = cin * cout * 27 // (cin * 9 + 3 * cout)
        self.conv1 = nn.Sequential(conv(cin, cout, stride, mid), nn.BatchNorm3d(cout), nn.ReLU())
        self.conv2 = nn.Sequential(conv(cout, cout, 1, mid), nn.BatchNorm3d(cout))
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or cin != cout:
            step = (1, stride, stride) if conv is conv2d else stride
            self.downsample = nn.Sequential(nn.Conv3d(cin, cout, 1, step, bias=False), nn.BatchNorm3d(cout))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T', H', W')."""
        return self.relu(self.conv2(self.conv1(x)) + self.downsample(x))


class VideoResNet(nn.Module):
    """Four stages of two blocks.

    convs: of each stage. Space is halved 4 times, time where a convolution has it.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, stem: nn.Sequential, convs: tuple[Conv, ...], num_classes: int) -> None:
        super().__init__()
        self.stem = stem
        widths = (64, 64, 128, 256, 512)
        for i, conv in enumerate(convs):
            first = Block(widths[i], widths[i + 1], 1 if i == 0 else 2, conv)
            self.add_module(
                f"layer{i + 1}", nn.Sequential(first, Block(widths[i + 1], widths[i + 1], 1, conv))
            )
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to logits (N, classes)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(self.avgpool(x).flatten(1))


def plain_stem() -> nn.Sequential:
    """3x7x7 into 64 channels."""
    conv = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(64), nn.ReLU())


def split_stem() -> nn.Sequential:
    """1x7x7 into 45 channels, then 3x1x1 into 64."""
    return nn.Sequential(
        nn.Conv3d(3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(45),
        nn.ReLU(),
        nn.Conv3d(45, 64, (3, 1, 1), 1, (1, 0, 0), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(),
    )


def r3d_18(num_classes: int = 400) -> nn.Module:
    """3x3x3 throughout."""
    return VideoResNet(plain_stem(), (conv3d,) * 4, num_classes)


def mc3_18(num_classes: int = 400) -> nn.Module:
    """Motion in the first stage, space only behind it."""
    return VideoResNet(plain_stem(), (conv3d, conv2d, conv2d, conv2d), num_classes)


def r2plus1d_18(num_classes: int = 400) -> nn.Module:
    """Space and time in turns."""
    return VideoResNet(split_stem(), (conv2plus1d,) * 4, num_classes)
