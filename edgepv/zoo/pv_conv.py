"""pv-conv: a small causal video classifier with an exact per-frame step.

Two forms of one network, with the same weights and the same answers:

* clip form, ``forward`` and ``frame_logits``: (N, 3, T, H, W), used to train and to prune;
* step form, ``init_state`` and ``step``: one new frame and explicit states, used on a camera.

Both are exact because everything that looks at time looks back a fixed number of frames: temporal
depthwise convolutions see k - 1 frames back, the pooled features are averaged over ``WINDOW`` frames,
squeeze-and-excite works per frame. Shapes are static and at most rank 4 in the step form. Channel
counts are read from the layers, so a pruned copy works without a change here.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 16


class Squeeze(nn.Module):
    """Squeeze-and-excite of one frame: (B, C, H, W) scaled by a gate (B, C, 1, 1) in [0, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, max(8, channels // 8), 1)
        self.up = nn.Conv2d(self.down.out_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate every channel of ``x`` by what the whole frame shows."""
        gate = torch.relu(self.down(x.mean((2, 3), keepdim=True)))
        return x * F.hardsigmoid(self.up(gate))


@torch.no_grad()
def _start_from_now(kernel: Tensor) -> None:
    """First values of a temporal kernel (C, 1, k, 1): pass the newest frame on, plus a little noise.

    Every third channel starts as the difference to the frame before, so motion is there to be used.
    """
    kernel.mul_(0.2)
    kernel[:, 0, -1] += 1
    kernel[::3, 0, -2] -= 1


class Block(nn.Module):
    """Expand 1x1, space 3x3 depthwise, time k x 1 depthwise (causal), squeeze, project, residual.

    size: height and width of the frames after the spatial convolution, known at build time.
    """

    def __init__(self, cin: int, cout: int, *, stride: int, k: int, expand: int, size: int) -> None:
        super().__init__()
        mid = cin * expand
        self.size = size
        self.residual = stride == 1 and cin == cout
        self.expand = nn.Conv2d(cin, mid, 1, bias=False)
        self.expand_bn = nn.BatchNorm2d(mid)
        self.space = nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False)
        self.space_bn = nn.BatchNorm2d(mid)
        self.time = nn.Conv2d(mid, mid, (k, 1), groups=mid, bias=False)
        _start_from_now(self.time.weight)
        self.time_bn = nn.BatchNorm2d(mid)
        self.squeeze = Squeeze(mid)
        self.project = nn.Conv2d(mid, cout, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(cout)

    @property
    def history(self) -> int:
        """Past frames the temporal convolution looks back on: k - 1."""
        return self.time.kernel_size[0] - 1

    def before(self, x: Tensor) -> Tensor:
        """The spatial half, (B, C, H, W) -> (B, M, h, w), frame by frame."""
        x = torch.relu(self.expand_bn(self.expand(x)))
        return torch.relu(self.space_bn(self.space(x)))

    def over_time(self, x: Tensor) -> Tensor:
        """The temporal half, (N, M, T + k - 1, h * w) -> (N, M, T, h * w).

        Norm and ReLU stand right behind the convolution, before any reshape, so engines fold them.
        """
        return torch.relu(self.time_bn(self.time(x)))

    def after(self, x: Tensor, skip: Tensor) -> Tensor:
        """What follows the temporal convolution, (B, M, h, w) -> (B, C', h, w), frame by frame."""
        x = self.project_bn(self.project(self.squeeze(x)))
        return x + skip if self.residual else x

    def clip(self, x: Tensor, frames: int) -> Tensor:
        """All frames at once. x: (N * T, C, H, W) with ``frames`` = T; zeros stand before frame 0."""
        y = self.before(x)
        b, c, h, w = y.shape
        y = y.reshape(b // frames, frames, c, h * w).transpose(1, 2)
        y = self.over_time(F.pad(y, (0, 0, self.history, 0)))
        y = y.transpose(1, 2).reshape(b, c, h, w)
        return self.after(y, x)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One new frame. x: (1, C, H, W); state: (1, M, k - 1, h * w), oldest frame first."""
        y = self.before(x)
        seen = torch.cat([state, y.reshape(1, -1, 1, self.size * self.size)], dim=2)
        y = self.over_time(seen).reshape(1, -1, self.size, self.size)
        return self.after(y, x), seen[:, :, 1:]


class PvConv(nn.Module):
    """The whole network. size: the height and width of the input frames, a multiple of 32."""

    warmup = WINDOW

    def __init__(
        self,
        classes: int,
        *,
        size: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        expand: int = 3,
        hidden: int = 64,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.size = size
        self.stem = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(_blocks(size // 2, widths, depths, expand))
        self.hidden = nn.Linear(widths[-1], hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    @property
    def stack(self) -> list[Block]:
        """The blocks in order."""
        return cast(list[Block], list(self.blocks))

    @property
    def receptive_field(self) -> int:
        """Frames that can influence one answer."""
        return WINDOW + sum(block.history for block in self.stack)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features of every frame. x: (N, 3, T, H, W). Returns (N, T, C)."""
        n, _, t, h, w = x.shape
        x = x.transpose(1, 2).reshape(n * t, -1, h, w)
        x = torch.relu(self.stem_bn(self.stem(x.contiguous(memory_format=torch.channels_last))))
        for block in self.stack:
            x = block.clip(x, t)
        return x.mean((2, 3)).reshape(n, t, -1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits of features averaged over the window, (..., C) -> (..., classes)."""
        return self.head(self.dropout(torch.relu(self.hidden(pooled))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) after the last frame of x: (N, 3, T, H, W)."""
        return self.classify(self.features(x)[:, -WINDOW:].sum(1) * (1 / WINDOW))

    def frame_logits(self, x: Tensor) -> Tensor:
        """Logits after every frame, (N, T, classes); those before ``warmup`` frames are not valid."""
        seen = F.pad(self.features(x).transpose(1, 2), (WINDOW - 1, 0))
        return self.classify(F.avg_pool1d(seen, WINDOW, 1).transpose(1, 2))

    def init_state(self) -> dict[str, Tensor]:
        """Zero states in the order ``step`` takes them: one per block, then the pooled features."""
        at = self.stem.weight
        states = {
            f"b{i}_t": at.new_zeros(1, b.time.in_channels, b.history, b.size * b.size)
            for i, b in enumerate(self.stack)
        }
        return states | {"pool": at.new_zeros(1, WINDOW - 1, self.hidden.in_features)}

    def step(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One new frame (1, 3, H, W) and the states. Returns (logits (1, classes), *new states)."""
        x = torch.relu(self.stem_bn(self.stem(frame)))
        fresh = []
        for block, state in zip(self.stack, states[:-1], strict=True):
            x, new = block.step(x, state)
            fresh.append(new)
        seen = torch.cat([states[-1], x.mean((2, 3)).unsqueeze(1)], dim=1)
        return self.classify(seen.mean(1)), *fresh, seen[:, 1:]


def _blocks(size: int, widths: tuple[int, ...], depths: tuple[int, ...], expand: int) -> list[Block]:
    """The stages in order; each opens with a stride of 2. ``size`` is what the stem leaves."""
    blocks = []
    cin = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        k = 5 if stage == 0 else 3
        size = (size + 1) // 2
        for i in range(depth):
            stride = 2 if i == 0 else 1
            blocks.append(Block(cin, width, stride=stride, k=k, expand=expand, size=size))
            cin = width
    return blocks


def nano(classes: int = 2, *, size: int = 96) -> PvConv:
    """pv-conv nano: trained on frames of 96 x 96."""
    return PvConv(classes, size=size, widths=(12, 20, 32, 56), depths=(1, 2, 2, 1), hidden=48)


def small(classes: int = 2, *, size: int = 128) -> PvConv:
    """pv-conv small: trained on frames of 128 x 128."""
    return PvConv(classes, size=size, widths=(16, 32, 64, 104), depths=(1, 2, 4, 2), hidden=96)
