"""X3D, after Feichtenhofer 2020, "X3D: Expanding Architectures for Efficient Video Recognition".

Clips (1, 3, T, H, W) in, logits (1, num_classes) out; a softmax is not part of it. Layers are named as in
pytorchvideo (where the two halves of the stem bear each other's names), so its weights load. The last pooling
goes over all of the clip, as pytorchvideo's does at the size that it was trained at.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (24, 24, 48, 96, 192)
"""Of the stem and the four stages."""
EXPANSION, SQUEEZE = 2.25, 0.0625


def eights(width: float) -> int:
    """The nearest multiple of 8, not below 8 nor below 90 % of ``width``."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


class Stem(nn.Module):
    """1x3x3, then 5x1x1 depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_t = nn.Conv3d(3, 24, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.conv_xy = nn.Conv3d(24, 24, (5, 1, 1), 1, (2, 0, 0), groups=24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to (N, C, T, H / 2, W / 2)."""
        return self.conv_xy(self.conv_t(x))


class SqueezeExcite(nn.Module):
    """Channels scaled by what the whole clip shows (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        less = eights(width * SQUEEZE)
        self.block = nn.Sequential(
            nn.Conv3d(width, less, 1), nn.ReLU(), nn.Conv3d(less, width, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to the same shape."""
        return x * self.block(x.mean((2, 3, 4), keepdim=True))


class Branch(nn.Module):
    """Expand, 3x3x3 depthwise, squeeze in every other block, swish, project."""

    def __init__(self, cin: int, cout: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        mid = int(EXPANSION * cout)
        self.conv_a, self.norm_a = nn.Conv3d(cin, mid, 1, bias=False), nn.BatchNorm3d(mid)
        self.conv_b = nn.Conv3d(mid, mid, 3, (1, stride, stride), 1, groups=mid, bias=False)
        self.norm_b = nn.Sequential(nn.BatchNorm3d(mid), SqueezeExcite(mid) if squeeze else nn.Identity())
        self.conv_c, self.norm_c = nn.Conv3d(mid, cout, 1, bias=False), nn.BatchNorm3d(cout)
        self.relu, self.swish = nn.ReLU(), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H', W')."""
        x = self.relu(self.norm_a(self.conv_a(x)))
        x = self.swish(self.norm_b(self.conv_b(x)))
        return self.norm_c(self.conv_c(x))


class Block(nn.Module):
    """A branch beside what it adds to. A shortcut that changes only the size has no norm."""

    def __init__(self, cin: int, cout: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.branch1_conv: nn.Module = nn.Identity()
        self.branch1_norm: nn.Module = nn.Identity()
        if stride > 1 or cin != cout:
            self.branch1_conv = nn.Conv3d(cin, cout, 1, (1, stride, stride), bias=False)
        if cin != cout:
            self.branch1_norm = nn.BatchNorm3d(cout)
        self.branch2 = Branch(cin, cout, stride, squeeze)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H', W')."""
        return self.relu(self.branch1_norm(self.branch1_conv(x)) + self.branch2(x))


class Start(nn.Module):
    """Stem, batch norm, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = Stem(), nn.BatchNorm3d(24), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to (N, C, T, H / 2, W / 2)."""
        return self.relu(self.norm(self.conv(x)))


class Stage(nn.Module):
    """Blocks of one resolution."""

    def __init__(self, cin: int, cout: int, depth: int) -> None:
        super().__init__()
        self.res_blocks = nn.Sequential(
            *(Block(cout if i else cin, cout, 1 if i else 2, squeeze=i % 2 == 0) for i in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H / 2, W / 2)."""
        return self.res_blocks(x)


class Pool(nn.Module):
    """432 channels, the mean over the clip, 2048 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.pre_conv, self.pre_norm = nn.Conv3d(192, 432, 1, bias=False), nn.BatchNorm3d(432)
        self.post_conv = nn.Conv3d(432, 2048, 1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, T, H, W) to (N, 2048)."""
        x = self.relu(self.pre_norm(self.pre_conv(x)))
        return self.relu(self.post_conv(x.mean((2, 3, 4), keepdim=True))).flatten(1)


class Head(nn.Module):
    """Pooling, dropout, labels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.pool, self.dropout, self.proj = Pool(), nn.Dropout(0.5), nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, T, H, W) to logits (N, classes)."""
        return self.proj(self.dropout(self.pool(x)))


class X3D(nn.Module):
    """depths: blocks of the four stages. Space is halved five times, time never."""

    def __init__(self, depths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        stages = [Stage(cin, cout, depth) for cin, cout, depth in zip(WIDTHS, WIDTHS[1:], depths)]
        self.blocks = nn.ModuleList([Start(), *stages, Head(num_classes)])

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to logits (N, classes)."""
        for block in self.blocks:
            x = block(x)
        return x


def x3d(num_classes: int = 400) -> nn.Module:
    """XS, S and M: one net for clips of different lengths and sizes."""
    return X3D((3, 5, 11, 7), num_classes)


def x3d_l(num_classes: int = 400) -> nn.Module:
    """L: about twice as deep."""
    return X3D((5, 10, 25, 15), num_classes)
