"""Residual nets of 50 and 101 layers for video: C2D, Slow, I3D, R(2+1)D and SlowFast.

After Feichtenhofer et al. 2019, "SlowFast Networks for Video Recognition", and Tran et al. 2018. Clips (1, 3,
T, H, W) in, logits (1, num_classes) out; a softmax is not part of it. Layers are named as in pytorchvideo, so
its weights load. The last pooling goes over all of the clip, as pytorchvideo's does at the size that it was
trained at.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
ALPHA = 4
"""Frames of SlowFast's fast path for one of its slow path."""


class Split(nn.Module):
    """3x1x1, norm, ReLU, 1x3x3 in place of one 3x3x3."""

    def __init__(self, width: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv_t = nn.Conv3d(width, width, (3, 1, 1), (stride[0], 1, 1), (1, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(width)
        self.relu = nn.ReLU()
        self.conv_xy = nn.Conv3d(width, width, (1, 3, 3), (1, *stride[1:]), (0, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H', W')."""
        return self.conv_xy(self.relu(self.norm(self.conv_t(x))))


class Branch(nn.Module):
    """t x 1 x 1, then space, then 1x1x1."""

    def __init__(
        self, cin: int, mid: int, cout: int, t: int, stride: tuple[int, int, int], split: bool
    ) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(cin, mid, (t, 1, 1), 1, (t // 2, 0, 0), bias=False)
        self.norm_a = nn.BatchNorm3d(mid)
        self.conv_b = (
            Split(mid, stride) if split else nn.Conv3d(mid, mid, (1, 3, 3), stride, (0, 1, 1), bias=False)
        )
        self.norm_b = nn.BatchNorm3d(mid)
        self.conv_c, self.norm_c = nn.Conv3d(mid, cout, 1, bias=False), nn.BatchNorm3d(cout)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T', H', W')."""
        x = self.relu(self.norm_a(self.conv_a(x)))
        return self.norm_c(self.conv_c(self.relu(self.norm_b(self.conv_b(x)))))


class Block(nn.Module):
    """A branch beside what it adds to."""

    def __init__(
        self,
        cin: int,
        mid: int,
        cout: int,
        t: int,
        stride: tuple[int, int, int] = (1, 1, 1),
        split: bool = False,
    ) -> None:
        super().__init__()
        self.branch1_conv: nn.Module = nn.Identity()
        self.branch1_norm: nn.Module = nn.Identity()
        if cin != cout or max(stride) > 1:
            self.branch1_conv = nn.Conv3d(cin, cout, 1, stride, bias=False)
            self.branch1_norm = nn.BatchNorm3d(cout)
        self.branch2 = Branch(cin, mid, cout, t, stride, split)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T', H', W')."""
        return self.relu(self.branch1_norm(self.branch1_conv(x)) + self.branch2(x))


class Stage(nn.Module):
    """Blocks of one resolution. times: frames of their first convolutions, repeated."""

    def __init__(
        self, cin: int, mid: int, depth: int, times: tuple[int, ...], stride: tuple[int, int, int],
        split: bool = False, cout: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        cout = cout or 4 * mid
        blocks = [Block(cin, mid, cout, times[0], stride, split)]
        blocks += [Block(cout, mid, cout, times[i % len(times)], split=split) for i in range(1, depth)]
        self.res_blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T', H', W')."""
        return self.res_blocks(x)


class Stem(nn.Module):
    """t x 7 x 7, norm, ReLU, and a maximum of 3x3 unless ``pool`` is off."""

    def __init__(self, width: int, t: int, pool: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, width, (t, 7, 7), (1, 2, 2), (t // 2, 3, 3), bias=False)
        self.norm, self.relu = nn.BatchNorm3d(width), nn.ReLU()
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to features (N, C, T, H / 4, W / 4), H / 2 and W / 2 without ``pool``."""
        return self.pool(self.relu(self.norm(self.conv(x))))


class Head(nn.Module):
    """The mean over the clip, dropout, labels."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.dropout, self.proj = nn.Dropout(0.5), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, T, H, W), or their means (N, C), to logits (N, classes)."""
        return self.proj(self.dropout(x if x.ndim == 2 else x.mean((2, 3, 4))))


class Net(nn.Module):
    """Parts in a row."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to logits (N, classes)."""
        for block in self.blocks:
            x = block(x)
        return x


def _stages(times: tuple[tuple[int, ...], ...]) -> list[nn.Module]:
    """Four stages of a ResNet-50; space is halved in the last three."""
    widths = (64, 256, 512, 1024)
    return [
        Stage(widths[i], 64 << i, DEPTHS[50][i], times[i], (1, 1, 1) if i == 0 else (1, 2, 2))
        for i in range(4)
    ]


def slow_r50(num_classes: int = 400) -> nn.Module:
    """SlowFast's slow path alone."""
    return Net(Stem(64, 1), *_stages(((1,), (1,), (3,), (3,))), Head(2048, num_classes))


def c2d_r50(num_classes: int = 400) -> nn.Module:
    """Space only; time is halved once and averaged."""
    first, *rest = _stages(((1,), (1,), (1,), (1,)))
    return Net(Stem(64, 1), first, nn.MaxPool3d((2, 1, 1), (2, 1, 1)), *rest, Head(2048, num_classes))


def i3d_r50(num_classes: int = 400) -> nn.Module:
    """Time in every block of the first stage, in every other one behind it; halved once."""
    first, *rest = _stages(((3,), (3, 1), (3, 1), (1, 3)))
    return Net(Stem(64, 5), first, nn.MaxPool3d((2, 1, 1), (2, 1, 1)), *rest, Head(2048, num_classes))


def r2plus1d_r50(num_classes: int = 400) -> nn.Module:
    """Split 3x3x3 in every block; time is halved in the last two stages."""
    stages = [
        Stage(w, 64 << i, DEPTHS[50][i], (1,), (2 if i > 1 else 1, 2, 2), split=True)
        for i, w in enumerate((64, 256, 512, 1024))
    ]
    return Net(Stem(64, 1, pool=False), *stages, Head(2048, num_classes))


class Fusion(nn.Module):
    """What the fast path saw, put beside the slow one."""

    def __init__(self, width: int, t: int) -> None:
        super().__init__()
        self.conv_fast_to_slow = nn.Conv3d(
            width, 2 * width, (t, 1, 1), (ALPHA, 1, 1), (t // 2, 0, 0), bias=False
        )
        self.norm, self.relu = nn.BatchNorm3d(2 * width), nn.ReLU()

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Slow (N, C, T, H, W) and fast (N, c, k T, H, W) features to (N, C + 2 c, T, H, W)."""
        return torch.cat([slow, self.relu(self.norm(self.conv_fast_to_slow(fast)))], 1)


class Pair(nn.Module):
    """A part of each path, and the fusion behind them."""

    def __init__(self, slow: nn.Module, fast: nn.Module, fusion: Fusion | None = None) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList([slow, fast])
        self.multipathway_fusion = fusion

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """Both paths' features, (N, C, T, H, W) each with its own C and T, one part further."""
        slow, fast = self.multipathway_blocks[0](slow), self.multipathway_blocks[1](fast)
        return (slow if self.multipathway_fusion is None else self.multipathway_fusion(slow, fast)), fast


class SlowFast(nn.Module):
    """Two paths over one clip: all frames in few channels, and every fourth or so in many.

    t: frames of the convolutions that lead from one to the other.
    """

    def __init__(self, depth: int, t: int, num_classes: int) -> None:
        super().__init__()
        pairs: list[nn.Module] = [Pair(Stem(64, 1), Stem(8, 5), Fusion(8, t))]
        for i, n in enumerate(DEPTHS[depth]):
            step = (1, 1, 1) if i == 0 else (1, 2, 2)
            cin, mid = 64 if i == 0 else 128 << i, 64 << i
            slow = Stage(cin + cin // 4, mid, n, (1,) if i < 2 else (3,), step)
            fast = Stage(cin // 8, mid // 8, n, (3,), step)
            pairs.append(Pair(slow, fast, Fusion(mid // 2, t) if i < 3 else None))
        self.blocks = nn.ModuleList([*pairs, nn.Identity(), Head(2304, num_classes)])

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) to logits (N, classes)."""
        frames, few = x.shape[2], x.shape[2] // ALPHA
        kept = [i * (frames - 1) // max(few - 1, 1) for i in range(few)]  # evenly, from the first to the last
        slow, fast = torch.cat([x[:, :, k : k + 1] for k in kept], 2), x
        for pair in self.blocks[:5]:
            slow, fast = pair(slow, fast)
        return self.blocks[6](torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1))


def slowfast_r50(num_classes: int = 400) -> nn.Module:
    """50 layers in each path."""
    return SlowFast(50, 7, num_classes)


def slowfast_r101(num_classes: int = 400) -> nn.Module:
    """101 layers in each path."""
    return SlowFast(101, 5, num_classes)
