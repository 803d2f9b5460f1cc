"""Clip nets of the literature, written from their papers: nobody made them to be streamed.

Each builder takes ``width``, a multiplier of the paper's channels (1.0 is the paper's), and returns a
module in eval mode for clips (1, 3, T, H, W) with seeded weights and normalised statistics, so that the
numbers in it are neither dead nor huge. They are untrained: they prove arithmetic and cost, not accuracy.

    edgepv stream benchmarks/clipnets.py:r3d_18 --clip 16x112
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 8
WIDTH = 0.25
"""Channels of the nets unless asked otherwise: a proof then takes minutes on a CPU, not hours."""


@dataclass(frozen=True)
class Net:
    """One net. paper: what it was written from. frames, size: of the clips it is shown."""

    name: str
    build: Callable[..., nn.Module]
    paper: str
    frames: int
    size: int = 112


def settled(net: nn.Module, seed: int = 0) -> nn.Module:
    """Seeded weights that keep the scale of what passes through, and batch norms that do something."""
    g = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=g) * (1.6 / fan_in) ** 0.5
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=g) * 0.1
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            n = module.num_features
            module.weight.data = 0.8 + 0.4 * torch.rand(n, generator=g)
            module.bias.data = torch.randn(n, generator=g) * 0.1
            module.running_mean = torch.randn(n, generator=g) * 0.1
            module.running_var = 0.8 + 0.4 * torch.rand(n, generator=g)
    return net.eval()


def wide(channels: int, width: float) -> int:
    """Channels at a width, a multiple of 8 and at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


class C3D(nn.Module):
    """Tran et al. 2015, "Learning Spatiotemporal Features with 3D Convolutional Networks", figure 3."""

    def __init__(self, width: float, size: int) -> None:
        super().__init__()
        w = [wide(c, width) for c in (64, 128, 256, 256, 512, 512, 512, 512)]
        self.convs = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1) for a, b in zip([3, *w], w))
        side = (size // 16 + 2 - 2) // 2 + 1
        self.fc6 = nn.Linear(w[-1] * side * side, wide(4096, width))
        self.fc7 = nn.Linear(wide(4096, width), wide(4096, width))
        self.fc8 = nn.Linear(wide(4096, width), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        pools = {0: ((1, 2, 2), 0), 1: (2, 0), 3: (2, 0), 5: (2, 0), 7: (2, (0, 1, 1))}
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            if i in pools:
                kernel, pad = pools[i]
                x = F.max_pool3d(x, kernel, kernel, pad)
        x = F.relu(self.fc6(x.flatten(1)))
        return self.fc8(F.relu(self.fc7(x)))


class Unit(nn.Module):
    """Convolution with TensorFlow's "same" padding (the odd one behind), batch norm, ReLU."""

    def __init__(self, cin: int, cout: int, k: int, s: int = 1) -> None:
        super().__init__()
        self.before, self.behind = (k - s) // 2, (k - s + 1) // 2
        self.conv = nn.Conv3d(cin, cout, k, s, bias=False)
        self.bn = nn.BatchNorm3d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(F.pad(x, (self.before, self.behind) * 3))))


class Inception(nn.Module):
    """Four branches side by side: 1; 1-3; 1-3; max pool-1."""

    def __init__(self, cin: int, c: Sequence[int]) -> None:
        super().__init__()
        self.a = Unit(cin, c[0], 1)
        self.b = nn.Sequential(Unit(cin, c[1], 1), Unit(c[1], c[2], 3))
        self.c = nn.Sequential(Unit(cin, c[3], 1), Unit(c[3], c[4], 3))
        self.d = Unit(cin, c[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool3d(F.pad(x, (1, 1) * 3), 3, 1)
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(pooled)], 1)


class I3D(nn.Module):
    """Carreira & Zisserman 2017, "Quo Vadis, Action Recognition?", figure 3 (nine modules there)."""

    def __init__(self, width: float, modules: int = 9) -> None:
        super().__init__()
        plan = (
            (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64),
            (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
            (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128),
            (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
        )  # fmt: skip
        keep = range(9) if modules == 9 else (0, 2, 7)
        self.stem = Unit(3, wide(64, width), 7, 2)
        self.one = Unit(wide(64, width), wide(64, width), 1)
        self.two = Unit(wide(64, width), wide(192, width), 3)
        self.mixed = nn.ModuleList()
        self.stage = [0 if i < 2 else 1 if i < 7 else 2 for i in keep]
        cin = wide(192, width)
        for i in keep:
            c = [wide(v, width) for v in plan[i]]
            self.mixed.append(Inception(cin, c))
            cin = c[0] + c[2] + c[4] + c[5]
        self.logits = nn.Conv3d(cin, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.pad(self.stem(x), (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))
        x = F.max_pool3d(F.pad(self.two(self.one(x)), (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))
        last = 0
        for stage, module in zip(self.stage, self.mixed):
            if stage == 1 and last == 0:
                x = F.max_pool3d(F.pad(x, (0, 1) * 3), 3, 2)
            if stage == 2 and last == 1:
                x = F.max_pool3d(x, 2, 2)
            x, last = module(x), stage
        x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
        return self.logits(x).squeeze(3).squeeze(3).mean(2)


class Conv2Plus1D(nn.Sequential):
    """A spatial and a temporal convolution with as many weights as one 3x3x3 (Tran et al. 2018, eq. 1)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        mid = (cin * cout * 27) // (cin * 9 + 3 * cout)
        super().__init__(
            nn.Conv3d(cin, mid, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(mid),
            nn.ReLU(),
            nn.Conv3d(mid, cout, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )


def conv3(cin: int, cout: int, stride: int) -> nn.Module:
    return nn.Conv3d(cin, cout, 3, stride, 1, bias=False)


def conv2(cin: int, cout: int, stride: int) -> nn.Module:
    return nn.Conv3d(cin, cout, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)


class Basic(nn.Module):
    """ResNet's basic block in three dimensions."""

    def __init__(self, cin: int, cout: int, stride: int, conv: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(cin, cout, stride), nn.BatchNorm3d(cout)
        self.conv2, self.bn2 = conv(cout, cout, 1), nn.BatchNorm3d(cout)
        step = (1, stride, stride) if conv is conv2 else stride
        skip = nn.Sequential(nn.Conv3d(cin, cout, 1, step, bias=False), nn.BatchNorm3d(cout))
        self.down = skip if stride > 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.down(x))


class VideoResNet(nn.Module):
    """Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions": R3D, MC3 and R(2+1)D, 18 layers."""

    def __init__(
        self, width: float, convs: Sequence[Callable[..., nn.Module]], *, split_stem: bool = False
    ) -> None:
        super().__init__()
        w = [wide(c, width) for c in (64, 64, 128, 256, 512)]
        mid = wide(45, width)
        stem = [nn.Conv3d(3, w[0], (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)]
        if split_stem:
            stem = [
                nn.Conv3d(3, mid, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
                nn.BatchNorm3d(mid),
                nn.ReLU(),
                nn.Conv3d(mid, w[0], (3, 1, 1), 1, (1, 0, 0), bias=False),
            ]
        self.stem = nn.Sequential(*stem, nn.BatchNorm3d(w[0]), nn.ReLU())
        layers = []
        for i, conv in enumerate(convs):
            layers.append(Basic(w[i], w[i + 1], 1 if i == 0 else 2, conv))
            layers.append(Basic(w[i + 1], w[i + 1], 1, conv))
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(w[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layers(self.stem(x))).flatten(1))


class X3DBlock(nn.Module):
    """Expand, 3x3x3 depthwise, squeeze-excite in every other block, swish, project."""

    def __init__(self, cin: int, cout: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        mid = int(2.25 * cout / 8 + 0.5) * 8
        self.a, self.a_bn = nn.Conv3d(cin, mid, 1, bias=False), nn.BatchNorm3d(mid)
        step = (1, stride, stride)
        self.b, self.b_bn = nn.Conv3d(mid, mid, 3, step, 1, groups=mid, bias=False), nn.BatchNorm3d(mid)
        self.c, self.c_bn = nn.Conv3d(mid, cout, 1, bias=False), nn.BatchNorm3d(cout)
        less = max(8, mid // 16)
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool3d(1), nn.Conv3d(mid, less, 1), nn.ReLU(), nn.Conv3d(less, mid, 1), nn.Sigmoid()
        ) if squeeze else None  # fmt: skip
        self.down = (
            nn.Sequential(nn.Conv3d(cin, cout, 1, step, bias=False), nn.BatchNorm3d(cout))
            if stride > 1 or cin != cout
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.b_bn(self.b(F.relu(self.a_bn(self.a(x)))))
        if self.se is not None:
            y = y * self.se(y)
        return F.relu(self.c_bn(self.c(F.silu(y))) + self.down(x))


class X3D(nn.Module):
    """Feichtenhofer 2020, "X3D: Expanding Architectures for Efficient Video Recognition", table 1 (S)."""

    def __init__(self, width: float, depths: Sequence[int]) -> None:
        super().__init__()
        w = [wide(c, width) for c in (24, 24, 48, 96, 192)]
        self.stem_xy = nn.Conv3d(3, w[0], (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.stem_t = nn.Conv3d(w[0], w[0], (5, 1, 1), 1, (2, 0, 0), groups=w[0], bias=False)
        self.stem_bn = nn.BatchNorm3d(w[0])
        blocks: list[nn.Module] = []
        for cin, cout, depth in zip(w, w[1:], depths):
            for i in range(depth):
                blocks.append(X3DBlock(cin if i == 0 else cout, cout, 2 if i == 0 else 1, i % 2 == 0))
        self.blocks = nn.Sequential(*blocks)
        mid = wide(432, width)
        self.conv5, self.bn5 = nn.Conv3d(w[-1], mid, 1, bias=False), nn.BatchNorm3d(mid)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.lin5, self.fc = (
            nn.Conv3d(mid, wide(2048, width), 1, bias=False),
            nn.Linear(wide(2048, width), CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem_t(self.stem_xy(x))))
        x = F.relu(self.bn5(self.conv5(self.blocks(x))))
        return self.fc(F.relu(self.lin5(self.pool(x))).flatten(1))


class SlowFast(nn.Module):
    """Feichtenhofer et al. 2019, "SlowFast Networks": two rates (1 in 4 frames, all), lateral 5x1x1 strided
    convolutions; two residual stages of the paper's four."""

    def __init__(self, width: float) -> None:
        super().__init__()
        slow = [wide(c, width) for c in (64, 128, 256)]
        fast = [max(8, c // 8) for c in slow]
        self.slow_stem = nn.Conv3d(3, slow[0], (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.fast_stem = nn.Conv3d(3, fast[0], (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.slow_bn, self.fast_bn = nn.BatchNorm3d(slow[0]), nn.BatchNorm3d(fast[0])
        self.lateral = nn.ModuleList(
            nn.Conv3d(c, 2 * c, (5, 1, 1), (4, 1, 1), (2, 0, 0), bias=False) for c in fast[:2]
        )
        self.slow = nn.ModuleList(Basic(slow[i] + 2 * fast[i], slow[i + 1], 2, conv2) for i in range(2))
        self.fast = nn.ModuleList(SlowFast.Fast(fast[i], fast[i + 1]) for i in range(2))
        self.fc = nn.Linear(slow[-1] + fast[-1], CLASSES)

    class Fast(nn.Module):
        """A temporal and a spatial convolution, the frames all kept."""

        def __init__(self, cin: int, cout: int) -> None:
            super().__init__()
            self.t = nn.Conv3d(cin, cout, (3, 1, 1), 1, (1, 0, 0), bias=False)
            self.xy = nn.Conv3d(cout, cout, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
            self.t_bn, self.bn = nn.BatchNorm3d(cout), nn.BatchNorm3d(cout)
            self.down = nn.Conv3d(cin, cout, 1, (1, 2, 2), bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.bn(self.xy(F.relu(self.t_bn(self.t(x))))) + self.down(x))

    def forward(self, x: Tensor) -> Tensor:
        slow, fast = (
            F.relu(self.slow_bn(self.slow_stem(x[:, :, ::4]))),
            F.relu(self.fast_bn(self.fast_stem(x))),
        )
        slow, fast = (F.max_pool3d(v, (1, 3, 3), (1, 2, 2), (0, 1, 1)) for v in (slow, fast))
        for lateral, s, f in zip(self.lateral, self.slow, self.fast):
            slow, fast = s(torch.cat([slow, lateral(fast)], 1)), f(fast)
        return self.fc(torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1))


class ShiftedBlock(nn.Module):
    """A 2-D residual block whose branch sees an eighth of its channels from the next or last frame."""

    def __init__(self, cin: int, cout: int, stride: int, frames: int, both_ways: bool) -> None:
        super().__init__()
        self.frames, self.both_ways = frames, both_ways
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.down = nn.Conv2d(cin, cout, 1, stride, bias=False)

    def shift(self, x: Tensor) -> Tensor:
        nt, c, h, w = x.shape
        fold = c // 8
        x = x.view(nt // self.frames, self.frames, c, h, w)
        if self.both_ways:
            out = torch.zeros_like(x)
            out[:, :-1, :fold] = x[:, 1:, :fold]
            out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
            out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        else:
            past = F.pad(x[:, :-1, :fold], (0, 0, 0, 0, 0, 0, 1, 0))
            out = torch.cat([past, x[:, :, fold:]], 2)
        return out.view(nt, c, h, w)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(self.shift(x))))
        return F.relu(self.bn2(self.conv2(y)) + self.down(x))


class TSM(nn.Module):
    """Lin et al. 2019, "TSM: Temporal Shift Module": 2-D ResNet (8 blocks of ResNet-18), logits averaged."""

    def __init__(self, width: float, frames: int, both_ways: bool) -> None:
        super().__init__()
        w = [wide(c, width) for c in (64, 64, 128, 256, 512)]
        self.frames = frames
        self.stem, self.bn = nn.Conv2d(3, w[0], 7, 2, 3, bias=False), nn.BatchNorm2d(w[0])
        blocks = []
        for i in range(4):
            blocks.append(ShiftedBlock(w[i], w[i + 1], 1 if i == 0 else 2, frames, both_ways))
            blocks.append(ShiftedBlock(w[i + 1], w[i + 1], 1, frames, both_ways))
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(w[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        x = x.transpose(1, 2).reshape(b * t, c, h, w)
        x = F.max_pool2d(F.relu(self.bn(self.stem(x))), 3, 2, 1)
        x = self.fc(self.blocks(x).mean((2, 3)))
        return x.view(b, t, -1).mean(1)


class CausalBlock(nn.Module):
    """Expand, k x 3 x 3 depthwise that looks back only, squeeze-excite per frame, project, residual."""

    def __init__(self, cin: int, cout: int, stride: int, k: int) -> None:
        super().__init__()
        mid = 3 * cout
        self.k = k
        self.a, self.a_bn = nn.Conv3d(cin, mid, 1, bias=False), nn.BatchNorm3d(mid)
        self.b = nn.Conv3d(mid, mid, (k, 3, 3), (1, stride, stride), (0, 1, 1), groups=mid, bias=False)
        self.b_bn = nn.BatchNorm3d(mid)
        self.less, self.more = nn.Conv3d(mid, wide(mid / 4, 1), 1), nn.Conv3d(wide(mid / 4, 1), mid, 1)
        self.c, self.c_bn = nn.Conv3d(mid, cout, 1, bias=False), nn.BatchNorm3d(cout)
        self.same = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.a_bn(self.a(x)))
        y = F.hardswish(self.b_bn(self.b(F.pad(y, (0, 0, 0, 0, self.k - 1, 0)))))
        gate = F.hardsigmoid(self.more(F.relu(self.less(y.mean((3, 4), keepdim=True)))))
        y = self.c_bn(self.c(y * gate))
        return y + x if self.same else y


class CausalNet(nn.Module):
    """After Kondratyuk et al. 2021, "MoViNets": causal convolutions, mobile blocks; squeeze per frame."""

    def __init__(self, width: float) -> None:
        super().__init__()
        w = [wide(c, width) for c in (16, 24, 48, 88, 144)]
        self.stem, self.bn = (
            nn.Conv3d(3, w[0], (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
            nn.BatchNorm3d(w[0]),
        )
        blocks = []
        for i, (k, depth) in enumerate(zip((5, 3, 3, 5), (1, 2, 3, 2))):
            for j in range(depth):
                blocks.append(CausalBlock(w[i] if j == 0 else w[i + 1], w[i + 1], 2 if j == 0 else 1, k))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv3d(w[-1], wide(480, width), 1)
        self.fc = nn.Linear(wide(480, width), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.hardswish(self.bn(self.stem(x))))
        x = F.hardswish(self.head(x.mean((3, 4), keepdim=True)))
        return self.fc(x.mean((2, 3, 4)))


class CnnLstm(nn.Module):
    """Donahue et al. 2015, "Long-term Recurrent Convolutional Networks": a CNN per frame, then an LSTM."""

    def __init__(self, width: float) -> None:
        super().__init__()
        w = [3, *(wide(c, width) for c in (32, 64, 128, 256))]
        self.cnn = nn.Sequential(
            *(m for a, b in pairwise(w) for m in (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()))
        )
        self.lstm = nn.LSTM(w[-1], wide(256, width), batch_first=True)
        self.fc = nn.Linear(wide(256, width), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.stack([self.cnn(x[:, :, t]).mean((2, 3)) for t in range(x.shape[2])], 1)
        out, _ = self.lstm(seen)
        return self.fc(out[:, -1])


class DividedBlock(nn.Module):
    """Attention over time at every place, then over places in every frame, then a two-layer network."""

    def __init__(self, dim: int, heads: int, frames: int, look_back: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(2))
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.mask: Tensor | None
        mask = None
        if look_back:
            age = torch.arange(frames)[:, None] - torch.arange(frames)[None]
            mask = (age >= 0) & (age < look_back)
        self.register_buffer("mask", mask, persistent=False)

    def attend(self, x: Tensor, i: int, mask: Tensor | None) -> Tensor:
        """x: (batch, tokens, dim)."""
        b, n, d = x.shape
        q, k, v = self.qkv[i](x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out[i](y.transpose(1, 2).reshape(b, n, d))

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, N, dim)."""
        x = x + self.attend(self.norms[0](x).transpose(0, 1), 0, self.mask).transpose(0, 1)
        x = x + self.attend(self.norms[1](x), 1, None)
        return x + self.down(F.gelu(self.up(self.norms[2](x))))


class TimeSformer(nn.Module):
    """After Bertasius et al. 2021, "Is Space-Time Attention All You Need?", divided attention.

    look_back: frames a frame attends to (itself included), no embedding of absolute time; None: the
    paper's, where every frame of the clip sees every other and has a learned place in time.
    """

    def __init__(self, width: float, frames: int, size: int, depth: int, look_back: int | None) -> None:
        super().__init__()
        dim = wide(768 / 4, width)
        self.patch = nn.Conv2d(3, dim, 16, 16)
        self.place = nn.Parameter(torch.randn(1, (size // 16) ** 2, dim) * 0.02)
        self.moment = None if look_back else nn.Parameter(torch.randn(frames, 1, dim) * 0.02)
        self.blocks = nn.Sequential(*(DividedBlock(dim, 4, frames, look_back) for _ in range(depth)))
        self.norm, self.fc = nn.LayerNorm(dim), nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x[0].transpose(0, 1)).flatten(2).transpose(1, 2) + self.place
        if self.moment is not None:
            x = x + self.moment
        x = self.norm(self.blocks(x)).mean(1)
        return self.fc(x.mean(0, keepdim=True))


def c3d(width: float = WIDTH, size: int = 112) -> nn.Module:
    return settled(C3D(width, size))


def i3d(width: float = WIDTH, modules: int = 9) -> nn.Module:
    return settled(I3D(width, modules))


def r3d_18(width: float = WIDTH) -> nn.Module:
    return settled(VideoResNet(width, [conv3] * 4))


def r2plus1d_18(width: float = WIDTH) -> nn.Module:
    return settled(VideoResNet(width, [Conv2Plus1D] * 4, split_stem=True))


def mc3_18(width: float = WIDTH) -> nn.Module:
    return settled(VideoResNet(width, [conv3, conv2, conv2, conv2]))


def x3d_s(width: float = WIDTH, depths: Sequence[int] = (3, 5, 11, 7)) -> nn.Module:
    return settled(X3D(width, depths))


def slowfast(width: float = WIDTH) -> nn.Module:
    return settled(SlowFast(width))


def tsm(width: float = WIDTH, frames: int = 8) -> nn.Module:
    return settled(TSM(width, frames, both_ways=True))


def tsm_online(width: float = WIDTH, frames: int = 8) -> nn.Module:
    return settled(TSM(width, frames, both_ways=False))


def causal(width: float = WIDTH) -> nn.Module:
    return settled(CausalNet(width))


def cnn_lstm(width: float = WIDTH) -> nn.Module:
    return settled(CnnLstm(width))


def timesformer(width: float = WIDTH, frames: int = 8, size: int = 112, depth: int = 4) -> nn.Module:
    return settled(TimeSformer(width, frames, size, depth, None))


def timesformer_banded(width: float = WIDTH, frames: int = 16, size: int = 112, depth: int = 3) -> nn.Module:
    return settled(TimeSformer(width, frames, size, depth, look_back=4))


NETS = (
    Net("c3d", c3d, "Tran et al. 2015", 16),
    Net("i3d", i3d, "Carreira & Zisserman 2017", 16),
    Net("r3d_18", r3d_18, "Tran et al. 2018", 16),
    Net("r2plus1d_18", r2plus1d_18, "Tran et al. 2018", 16),
    Net("mc3_18", mc3_18, "Tran et al. 2018", 16),
    Net("x3d_s", x3d_s, "Feichtenhofer 2020", 13),
    Net("slowfast", slowfast, "Feichtenhofer et al. 2019", 16),
    Net("tsm", tsm, "Lin et al. 2019", 8),
    Net("tsm_online", tsm_online, "Lin et al. 2019", 8),
    Net("causal", causal, "after Kondratyuk et al. 2021", 16),
    Net("cnn_lstm", cnn_lstm, "Donahue et al. 2015", 16),
    Net("timesformer", timesformer, "after Bertasius et al. 2021", 8),
    Net("timesformer_banded", timesformer_banded, "after Bertasius et al. 2021", 16),
)
