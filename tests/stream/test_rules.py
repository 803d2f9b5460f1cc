"""Every operator family in small nets: flat they are the clip model, stepped they are the clip model too.

A row says what a reader can find with a pencil: the clip's frames, and which frames its positions read,
frame 0 being the clip's first; what lies before or behind is padding. Delay and receptive field follow.
Rows of a family that read the same frames are one net with an answer for each, because capturing is slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from nets import Net  # noqa: E402
from torch import Tensor, fx, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgepv.stream import Stepper, StreamModel, convert, flatten  # noqa: E402
from edgepv.stream.capture import Captured, capture  # noqa: E402
from edgepv.stream.verify import against_chunk, against_clip, steps  # noqa: E402
from edgepv.types import ModelSpec, TensorSpec  # noqa: E402

pytestmark = pytest.mark.slow

SIZE = 16
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Answered(nn.Module):
    """Four numbers per body, which depend on each of its values at each position with a weight of its own."""

    def __init__(self, bodies: Sequence[nn.Module], frames: int) -> None:
        super().__init__()
        self.bodies, self.heads = nn.ModuleList(bodies), nn.ModuleList()
        for body in bodies:
            made = body(torch.zeros(1, 3, frames, SIZE, SIZE))
            assert len(made) == 1, "a body keeps the batch in front"
            head = nn.Linear(made.numel(), 4)
            head.weight.data = torch.randn(4, made.numel()) / made.numel() ** 0.5
            self.heads.append(head)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(body(x).flatten(1)) for body, head in zip(self.bodies, self.heads)], 1)


@dataclass(frozen=True)
class Row:
    """One body. reads: oldest (None: all before) and newest frame. every: frames per step to try.
    because: operator that makes it approximate."""

    name: str
    body: Callable[[], nn.Module]
    frames: int = 8
    reads: tuple[int | None, int] = (0, 7)
    every: tuple[int, ...] = (1, 3)
    because: str = ""

    @property
    def delay(self) -> int:
        """Frames that must come after the clip before its answer is known."""
        return max(0, self.reads[1] - (self.frames - 1))

    @property
    def field(self) -> int | None:
        """Frames that one answer rests on."""
        oldest, newest = self.reads
        return None if oldest is None else newest - oldest + 1


def settled(net: nn.Module) -> nn.Module:
    """Eval mode, with batch norms that change what passes through."""
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None:
            m.running_mean.uniform_(-0.5, 0.5)
            m.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            if m.affine:
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.uniform_(m.bias, -0.5, 0.5)
    return net.eval()


def conv(*arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv3d(*arguments, **options)


def net(run: Callable[..., Tensor], *layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Net(run, *(make() for make in layers))


def frames_of(x: Tensor) -> Tensor:
    """(1, C, T, H, W) as (T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def clip_of(x: Tensor) -> Tensor:
    """(T, ...) as (1, T, ...)."""
    return x.unsqueeze(0)


def per_frame(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return net(lambda x, m: clip_of(m(frames_of(x))), layer)


def painted(x: Tensor, channels: int) -> Tensor:
    """``x`` with all but its first channels black."""
    out = torch.zeros_like(x)
    out[:, :channels] = x[:, :channels]
    return out


def shift_assigned(x: Tensor) -> Tensor:
    """TSM as its authors wrote it: one channel from the next frame, one from the last."""
    x = x.transpose(1, 2)
    out = torch.zeros_like(x)
    out[:, :-1, :1] = x[:, 1:, :1]
    out[:, 1:, 1:2] = x[:, :-1, 1:2]
    out[:, :, 2:] = x[:, :, 2:]
    return out


CONVOLUTIONS = (
    Row("conv3d", conv(3, 8, 3, padding=1), reads=(-1, 8)),
    Row("conv3d without padding in time", conv(3, 8, 3, padding=(0, 1, 1))),
    Row("conv3d no bias", conv(3, 8, 3, padding=1, bias=False), reads=(-1, 8)),
    Row("conv3d stride 2", conv(3, 8, 3, 2, 1), every=(1, 2), reads=(-1, 7)),
    Row("conv3d stride 3", conv(3, 8, 3, (3, 2, 2), 0), frames=9, every=(1, 3), reads=(0, 8)),
    Row("conv3d stride 2 on 7 frames", conv(3, 8, 3, 2, 1), frames=7, every=(1, 2), reads=(-1, 7)),
    Row(
        "conv3d stride 2 on 7 frames, the last unseen", conv(3, 8, 2, 2), frames=7, every=(1, 2), reads=(0, 5)
    ),
    Row("conv3d stride 4 on 10 frames", conv(3, 8, 5, 4, 2), frames=10, every=(1, 2, 4), reads=(-2, 10)),
    Row(
        "conv3d stride 2 twice",
        lambda: nn.Sequential(nn.Conv3d(3, 8, 3, 2, 1), nn.Conv3d(8, 8, 3, 2, 1)),
        every=(1, 2, 4, 8),
        reads=(-3, 7),
    ),
    Row("conv3d dilation 2", conv(3, 8, 3, padding=2, dilation=2), reads=(-2, 9)),
    Row("conv3d asymmetric", conv(3, 8, (2, 3, 5), padding=(1, 0, 2)), reads=(-1, 8)),
    Row(
        "conv3d groups",
        lambda: nn.Sequential(nn.Conv3d(3, 8, 1), nn.Conv3d(8, 8, 3, 1, 1, groups=2)),
        reads=(-1, 8),
    ),
    Row("conv3d depthwise", conv(3, 3, 3, padding=1, groups=3), reads=(-1, 8)),
    Row("conv3d depthwise multiplier 2", conv(3, 6, 3, padding=1, groups=3), reads=(-1, 8)),
    Row("conv3d depthwise stride", conv(3, 3, 3, 2, 1, groups=3), every=(1, 2), reads=(-1, 7)),
    Row("conv3d depthwise dilation", conv(3, 3, 3, 1, 2, 2, groups=3), reads=(-2, 9)),
    Row("conv3d same", conv(3, 8, (4, 3, 2), padding="same"), reads=(-1, 9)),
    Row("conv3d valid", conv(3, 8, 3, padding="valid")),
    Row("conv3d (1, 3, 3)", conv(3, 8, (1, 3, 3), padding=(0, 1, 1))),
    Row("conv3d (1, 3, 3) groups", conv(3, 3, (1, 3, 3), padding=(0, 1, 1), groups=3)),
    Row("conv3d (3, 1, 1)", conv(3, 8, (3, 1, 1), padding=(1, 0, 0)), reads=(-1, 8)),
    Row("conv3d (3, 1, 1) depthwise", conv(3, 3, (3, 1, 1), padding=(1, 0, 0), groups=3), reads=(-1, 8)),
    Row("conv3d 1x1x1 stride 2", conv(3, 8, 1, 2), every=(1, 2), reads=(0, 6)),
    Row("conv3d causal", net(lambda x, m: m(F.pad(x, (1, 1, 1, 1, 2, 0))), conv(3, 8, 3)), reads=(-2, 7)),
    Row(
        "conv1d over time",
        net(lambda x, m: m(x.mean((3, 4))), lambda: nn.Conv1d(3, 8, 3, padding=1)),
        reads=(-1, 8),
    ),
    Row(
        "conv1d over time stride",
        net(lambda x, m: m(x.mean((3, 4))), lambda: nn.Conv1d(3, 8, 4, 2, 1)),
        every=(1, 2),
        reads=(-1, 8),
    ),
    Row(
        "conv1d over time depthwise",
        net(lambda x, m: m(x.mean((3, 4))), lambda: nn.Conv1d(3, 3, 3, padding=2, dilation=2, groups=3)),
        reads=(-2, 9),
    ),
    Row(
        "conv1d over time, groups of 2",
        net(
            lambda x, a, m: m(a(x).mean((3, 4))),
            conv(3, 8, 1),
            lambda: nn.Conv1d(8, 8, 3, padding=1, groups=4),
        ),
        reads=(-1, 8),
    ),
    Row(
        "conv1d over time, multiplier",
        net(lambda x, m: m(x.mean((3, 4))), lambda: nn.Conv1d(3, 6, 3, padding=1, groups=3)),
        reads=(-1, 8),
    ),
    Row(
        "conv1d over width",
        net(lambda x, m: clip_of(m(frames_of(x).mean(2))), lambda: nn.Conv1d(3, 8, 3, padding="same")),
    ),
    Row("conv2d over frames", per_frame(lambda: nn.Conv2d(3, 8, 3, 2, 1))),
    Row("conv2d over frames depthwise", per_frame(lambda: nn.Conv2d(3, 6, 3, 2, 2, 2, 3))),
    Row(
        "conv2d over time and width",
        net(lambda x, m: m(x.mean(3)), lambda: nn.Conv2d(3, 8, 3, padding=1)),
        reads=(-1, 8),
    ),
    Row(
        "conv2d over height and time",
        net(lambda x, m: m(x.mean(4).transpose(2, 3)), lambda: nn.Conv2d(3, 8, 3, padding=1)),
        reads=(-1, 8),
    ),
    Row("transposed conv2d", per_frame(lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, 1))),
    Row("transposed conv3d in space", lambda: nn.ConvTranspose3d(3, 4, (1, 2, 2), (1, 2, 2))),
    Row(
        "transposed conv2d groups, normed",
        per_frame(lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 3, 2, 1, groups=3), nn.BatchNorm2d(6))),
    ),
    Row(
        "frames in channels",
        net(lambda x, m: m(x.transpose(1, 2).flatten(1, 2)), lambda: nn.Conv2d(24, 8, 3, padding=1)),
    ),
    Row("channels of frames", net(lambda x, m: m(x.flatten(1, 2)), lambda: nn.Conv2d(24, 8, 3, padding=1))),
)

NORMS = (
    Row(
        "batch norm folded", lambda: nn.Sequential(nn.Conv3d(3, 8, 3, 1, 1), nn.BatchNorm3d(8)), reads=(-1, 8)
    ),
    Row(
        "batch norm folded, depthwise",
        lambda: nn.Sequential(nn.Conv3d(3, 6, 3, 1, 1, groups=3, bias=False), nn.BatchNorm3d(6)),
        reads=(-1, 8),
    ),
    Row("batch norm first", lambda: nn.BatchNorm3d(3)),
    Row("batch norm behind relu", lambda: nn.Sequential(nn.Conv3d(3, 8, 1), nn.ReLU(), nn.BatchNorm3d(8))),
    Row(
        "batch norm without weights",
        lambda: nn.Sequential(nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8, affine=False)),
    ),
    Row(
        "batch norm of a shared conv",
        net(
            lambda x, c, a, b: a(c(x)) + b(c(x)),
            conv(3, 8, (3, 1, 1), padding=(1, 0, 0)),
            lambda: nn.BatchNorm3d(8),
            lambda: nn.BatchNorm3d(8),
        ),
        reads=(-1, 8),
    ),
    Row(
        "batch norm and a second reader",
        net(lambda x, c, n: (lambda y: n(y) + y)(c(x)), conv(3, 8, 1), lambda: nn.BatchNorm3d(8)),
    ),
    Row("batch norm 2d", per_frame(lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))),
    Row("batch norm 1d over time", net(lambda x, n: n(x.mean((3, 4))), lambda: nn.BatchNorm1d(3))),
    Row("instance norm", per_frame(lambda: nn.InstanceNorm2d(3, affine=True))),
    Row("instance norm on statistics", per_frame(lambda: nn.InstanceNorm2d(3, track_running_stats=True))),
    Row("group norm", per_frame(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)))),
    Row("layer norm of channels", net(lambda x, n: n(x.movedim(1, -1)), lambda: nn.LayerNorm(3))),
    Row("layer norm of frames", per_frame(lambda: nn.LayerNorm([3, SIZE, SIZE]))),
)

POOLS = (
    Row("max pool", lambda: nn.MaxPool3d(2), every=(1, 2)),
    Row("max pool 3, stride 2, padded", lambda: nn.MaxPool3d(3, 2, 1), every=(1, 2), reads=(-1, 7)),
    Row("max pool 3, stride 1, padded", lambda: nn.MaxPool3d(3, 1, 1), reads=(-1, 8)),
    Row("max pool dilated in time", lambda: nn.MaxPool3d((2, 1, 1), 1, dilation=(2, 1, 1))),
    Row("max pool dilated in height", lambda: nn.MaxPool3d((1, 2, 2), 1, dilation=(1, 3, 1))),
    Row("max pool ceil in space", lambda: nn.MaxPool3d((1, 3, 3), (1, 2, 2), ceil_mode=True)),
    Row("max pool in space", lambda: nn.MaxPool3d((1, 2, 2))),
    Row("max pool 2d", per_frame(lambda: nn.MaxPool2d(3, 2, 1))),
    Row("max pool 2d dilated", per_frame(lambda: nn.MaxPool2d(2, 1, dilation=(1, 3)))),
    Row("max pool 1d over time", net(lambda x, m: m(x.mean((3, 4))), lambda: nn.MaxPool1d(2)), every=(1, 2)),
    Row("average pool", lambda: nn.AvgPool3d(2), every=(1, 2)),
    Row("average pool padded", lambda: nn.AvgPool3d(3, 1, 1), reads=(-1, 8)),
    Row(
        "average pool of space, padding not counted",
        lambda: nn.AvgPool3d((1, 3, 3), 2, (0, 1, 1), count_include_pad=False),
        every=(1, 2),
        reads=(0, 6),
    ),
    Row(
        "average pool 1d over time",
        net(lambda x, m: m(x.mean((3, 4))), lambda: nn.AvgPool1d(3, 1)),
        every=(1, 2),
    ),
    Row("average pool 2d", per_frame(lambda: nn.AvgPool2d(3, 2, 1))),
    Row("adaptive average to one", lambda: nn.AdaptiveAvgPool3d(1)),
    Row("adaptive average of space", lambda: nn.AdaptiveAvgPool3d((None, 3, 1))),
    Row("adaptive average to half", lambda: nn.AdaptiveAvgPool3d((4, 2, 2)), every=(1, 2)),
    Row("adaptive average 2d", per_frame(lambda: nn.AdaptiveAvgPool2d(3))),
    Row(
        "adaptive average 1d over time", net(lambda x, m: m(x.mean((3, 4))), lambda: nn.AdaptiveAvgPool1d(1))
    ),
    Row("adaptive max to one", lambda: nn.AdaptiveMaxPool3d(1)),
    Row("adaptive max to a quarter", lambda: nn.AdaptiveMaxPool3d((2, 2, 1)), every=(1, 4)),
    Row("adaptive max 2d", per_frame(lambda: nn.AdaptiveMaxPool2d((2, 5)))),
)

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid,
    nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Identity, nn.Dropout, nn.Dropout3d,
)  # fmt: skip

POINTWISE = (
    *(Row(kind.__name__, kind) for kind in ACTIVATIONS),
    Row("where, with a number", net(lambda x: torch.where(x > 0, x, 0.5))),
    Row("gelu by tanh", lambda: nn.GELU("tanh")),
    Row("threshold", lambda: nn.Threshold(0.1, -1.0)),
    Row("glu", net(lambda x, c: F.glu(c(x), 1), conv(3, 8, 1))),
    Row("softmax of channels", lambda: nn.Softmax(1)),
    Row("log softmax of width", lambda: nn.LogSoftmax(-1)),
    Row("arithmetic", net(lambda x: (x.abs() + 1).sqrt() * x.exp().clamp(max=2) / 3 - (-x).pow(2))),
    Row("compare and choose", net(lambda x: torch.where(x > 0, x, x * 0.1) + torch.maximum(x, -x))),
    Row("a weight per channel", net(lambda x, c: x * c.weight[:3, :1, 0], conv(3, 8, (3, 1, 1)))),
    Row("to another dtype and back", net(lambda x: x.double().float())),
)

JOINS = (
    Row("residual around time", net(lambda x, m: m(x) + x, conv(3, 3, 3, padding=1)), reads=(-1, 8)),
    Row(
        "residual twice",
        net(
            lambda x, a, b: (lambda y: b(y) + y)(a(x) + x), conv(3, 3, 3, padding=1), conv(3, 3, 5, padding=2)
        ),
        reads=(-3, 10),
    ),
    Row(
        "residual around stride",
        net(lambda x, m, d: m(x) + d(x), conv(3, 8, 3, 2, 1), conv(3, 8, 1, 2)),
        every=(1, 2),
        reads=(-1, 7),
    ),
    Row("gate in time", net(lambda x, m: torch.sigmoid(m(x)) * x, conv(3, 3, 3, padding=1)), reads=(-1, 8)),
    Row(
        "cat of two delays",
        net(
            lambda x, a, b: torch.cat([a(x), x, b(x)], 1),
            conv(3, 4, 3, padding=1),
            conv(3, 4, (5, 1, 1), padding=(2, 0, 0)),
        ),
        reads=(-2, 9),
    ),
    Row(
        "cat of parts of the picture",
        net(lambda x, a: torch.cat([a(x)[..., 8:], x[..., :8]], 4), conv(3, 3, 3, padding=1)),
        reads=(-1, 8),
    ),
    Row(
        "pictures assigned in turn",  # the second must not be taken for the first
        net(lambda x: painted(x, 1).abs().mean(1) + 2 * painted(x, 2).abs().mean(1)),
    ),
    Row(
        "stack of two delays",
        net(lambda x, a: torch.stack([a(x), x], 3), conv(3, 3, 3, padding=1)),
        reads=(-1, 8),
    ),
    Row(
        "cat of tokens with a constant",
        net(lambda x: torch.cat([x.permute(0, 2, 3, 4, 1).reshape(-1, 3), torch.ones(2048, 1)], 1)[None]),
    ),
    Row("cat with a constant", net(lambda x: torch.cat([x, torch.ones(1, 1, 8, SIZE, SIZE)], 1))),
    Row("difference of frames", net(lambda x: x[:, :, 1:] - x[:, :, :-1])),
    Row("difference from the last", net(lambda x: torch.cat([x[:, :, 1:], x[:, :, 1:] - x[:, :, :-1]], 1))),
    Row("difference by padding", net(lambda x: x - F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1]), reads=(-1, 7)),
    Row("minus the clip's first frame", net(lambda x: x[:, :, 7] - x[:, :, 0])),
)

MOVES = (
    Row("every second frame", net(lambda x: x[:, :, ::2]), every=(1, 2), reads=(0, 6)),
    Row("every second frame from the second", net(lambda x: x[:, :, 1::2]), every=(1, 2), reads=(1, 7)),
    Row("middle frames", net(lambda x: x[:, :, 2:-2]), reads=(2, 5)),
    Row("last frame", net(lambda x: x[:, :, -1]), reads=(7, 7)),
    Row("first frame", net(lambda x: x[:, :, 0]), reads=(0, 0)),
    Row(
        "two rates",
        net(lambda x, a: torch.cat([x[:, :, ::4].mean(2), a(x).mean(2)], 1), conv(3, 4, 3, padding=1)),
        every=(1, 2),
        reads=(-1, 8),
    ),
    Row("crop", net(lambda x: x[:, 1:, :, 2:-2, 3::2])),
    Row("narrow", net(lambda x: x.narrow(2, 1, 6)), reads=(1, 6)),
    Row(
        "index select",
        net(lambda x: x.index_select(2, torch.tensor([1, 3, 5, 7]))),
        every=(1, 2),
        reads=(1, 7),
    ),
    Row("pad space", net(lambda x: F.pad(x, (1, 2, 3, 0), value=0.5))),
    Row("pad time and space", net(lambda x: F.pad(x, (1, 1, 0, 0, 2, 1), value=0.5)), reads=(-2, 8)),
    Row("pad channels", net(lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 2)))),
    Row("mirror space", per_frame(lambda: nn.ReflectionPad2d(2))),
    Row("shift by assignment", net(shift_assigned), reads=(-1, 8)),
    Row(
        "shift by padding",
        net(lambda x: torch.cat([F.pad(x[:, :1, :-1], (0, 0, 0, 0, 1, 0)), x[:, 1:]], 1)),
        reads=(-1, 7),
    ),
    Row(
        "shift by cat with zeros",
        net(lambda x: torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], 2)),
        reads=(-1, 6),
    ),
    Row(
        "shift ahead by cat with zeros",
        net(lambda x: torch.cat([x[:, :, 2:], x.new_zeros(1, 3, 2, SIZE, SIZE)], 2)),
        reads=(2, 9),
    ),
    Row("shift of two frames", net(shift_assigned), frames=2, reads=(-1, 2)),
    Row(
        "shift, then every second frame",
        net(lambda x: shift_assigned(x)[:, ::2]),
        every=(1, 2),
        reads=(-1, 7),
    ),
    Row("shift twice", net(lambda x: shift_assigned(shift_assigned(x).transpose(1, 2))), reads=(-2, 9)),
    Row("fold time into the batch", net(lambda x: clip_of(frames_of(x).relu()))),
    Row(
        "linear on tokens of all frames",
        net(
            lambda x, m: m(x.permute(0, 2, 3, 4, 1).reshape(-1, 3)).reshape(1, 8, -1, 4),
            lambda: nn.Linear(3, 4),
        ),
    ),
    Row(
        "tokens, time inside",
        net(
            lambda x, m: (
                m(x.permute(0, 3, 4, 2, 1).reshape(256, 8, 3)).reshape(1, 16, 16, 8, 4).permute(0, 4, 3, 1, 2)
            ),
            lambda: nn.Linear(3, 4),
        ),
    ),
    Row(
        "rank six",
        net(lambda x: x.reshape(1, 3, 8, 4, 4, 4, 4).permute(0, 1, 2, 4, 6, 3, 5).reshape(1, 48, 8, 4, 4)),
    ),
    Row(
        "movedim and flatten",
        net(lambda x: x.movedim(2, 1).flatten(2).unflatten(2, (3, 16, 16)).squeeze(0).unsqueeze(0)),
    ),
    Row("expand", net(lambda x: x.mean((3, 4), keepdim=True).expand(-1, -1, -1, 2, 2))),
    Row("repeat channels", net(lambda x: x.repeat(1, 2, 1, 1, 1))),
    Row("flip space", net(lambda x: x.flip(1, 4))),
    Row("roll space", net(lambda x: x.roll((3, -2), (3, 4)))),
    Row(
        "chunk channels",
        net(lambda x, c: (lambda a, b: a * b)(*c(x).chunk(2, 1)), conv(3, 8, 3, padding=1)),
        reads=(-1, 8),
    ),
    Row("split channels", net(lambda x: torch.cat(x.split([1, 2], 1)[::-1], 1))),
    Row("unbind frames", net(lambda x: torch.stack([f.relu() for f in x.unbind(2)], 2))),
    Row("interpolate nearest", per_frame(lambda: nn.Upsample(scale_factor=2))),
    Row("interpolate bilinear", per_frame(lambda: nn.Upsample(size=(20, 11), mode="bilinear"))),
    Row("interpolate bicubic", per_frame(lambda: nn.Upsample(scale_factor=0.5, mode="bicubic"))),
    Row(
        "interpolate corners",
        per_frame(lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    ),
    Row("interpolate volume in space", lambda: nn.Upsample(size=(8, 9, 9), mode="trilinear")),
    Row("interpolate volume nearest", lambda: nn.Upsample(scale_factor=(1, 2, 2))),
    Row("pixel shuffle", per_frame(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2)))),
    Row("pixel unshuffle", per_frame(lambda: nn.PixelUnshuffle(4))),
)

REDUCTIONS = (
    Row("mean over time", net(lambda x: x.mean(2))),
    Row("mean over time, kept", net(lambda x: x.mean(2, keepdim=True))),
    Row("mean over everything", net(lambda x: x.mean().reshape(1, 1))),
    Row(
        "mean over time and space",
        net(lambda x, m: m(x).mean((2, 3, 4)), conv(3, 8, 3, padding=1)),
        reads=(-1, 8),
    ),
    Row("mean over space", net(lambda x: x.mean((-1, -2)))),
    Row("sum over time", net(lambda x: x.sum(2))),
    Row("sum over channels", net(lambda x: x.sum(1, keepdim=True))),
    Row("max over time", net(lambda x: x.amax(2))),
    Row("min over time and space", net(lambda x: x.amin((2, 3), keepdim=True))),
    Row("means of two halves", net(lambda x: torch.cat([p.mean(2, keepdim=True) for p in x.split(4, 2)], 2))),
    Row("mean beside maximum", net(lambda x: torch.cat([x.mean(2, True), x.amax(2, True)], 2))),
    Row("mean over folded frames", net(lambda x: frames_of(x).mean((2, 3)).reshape(1, 8, 3).mean(1))),
    Row(
        "sum of strided frames",
        net(lambda x, m: m(x).sum(2), conv(3, 4, 3, 2, 1)),
        every=(1, 2),
        reads=(-1, 7),
    ),
    Row(
        "squeeze-excite per frame",
        net(
            lambda x, a, b: x * torch.sigmoid(b(F.relu(a(x.mean((3, 4), keepdim=True))))),
            conv(3, 4, 1),
            conv(4, 3, 1),
        ),
    ),
    Row(
        "squeeze-excite over time",
        net(
            lambda x, a, b: x * torch.sigmoid(b(F.relu(a(x.mean((2, 3, 4), keepdim=True))))),
            conv(3, 4, 1),
            conv(4, 3, 1),
        ),
        because="aten.mul",
        reads=(-7, 7),
    ),
)


def heads(x: Tensor, count: int = 2) -> Tensor:
    """(B, N, D) as (B, heads, N, D / heads)."""
    return x.unflatten(2, (count, -1)).transpose(1, 2)


def attend(x: Tensor, qkv: nn.Module, **how: Any) -> Tensor:
    """Self-attention of tokens (B, N, D)."""
    q, k, v = (heads(part) for part in qkv(x).chunk(3, -1))
    return F.scaled_dot_product_attention(q, k, v, **how).transpose(1, 2).flatten(2)


def spelled_out(x: Tensor, qkv: nn.Module) -> Tensor:
    """The same with two products."""
    q, k, v = (heads(part) for part in qkv(x).chunk(3, -1))
    return (torch.softmax(q @ k.transpose(2, 3) / 2, -1) @ v).transpose(1, 2).flatten(2)


def tokens_in_space(x: Tensor) -> Tensor:
    """(T, N, 8) tokens of 4 x 4 places."""
    x = F.avg_pool2d(frames_of(x), 4).flatten(2).transpose(1, 2)
    return torch.cat([x, x * 0.5, x[..., :2] ** 2], 2)


def tokens_in_time(x: Tensor) -> Tensor:
    """(N, T, 8) tokens of 4 x 4 places."""
    return tokens_in_space(x).transpose(0, 1)


def band(frames: int, back: int, ahead: int = 0) -> Tensor:
    age = torch.arange(frames)[:, None] - torch.arange(frames)[None]
    return (age <= back) & (age >= -ahead)


def places_first(x: Tensor) -> Tensor:
    """(N, T, D) as (1, T, N, D)."""
    return clip_of(x.transpose(0, 1))


QKV = lambda: nn.Linear(8, 24)  # noqa: E731
MHA = lambda: nn.MultiheadAttention(8, 2, batch_first=True)  # noqa: E731

PRODUCTS = (
    Row("linear of channels", net(lambda x, m: m(x.movedim(1, -1)), lambda: nn.Linear(3, 4))),
    Row("linear of a frame", net(lambda x, m: m(x.transpose(1, 2).flatten(2)), lambda: nn.Linear(768, 4))),
    Row(
        "linear over flattened time", net(lambda x, m: m(x.mean((3, 4)).flatten(1)), lambda: nn.Linear(24, 4))
    ),
    Row("linear over time alone", net(lambda x, m: m(x.mean((3, 4))), lambda: nn.Linear(8, 4))),
    Row(
        "matmul with a weight",
        net(lambda x, m: frames_of(x).mean((2, 3))[None] @ m.weight, lambda: nn.Linear(4, 3)),
    ),
    Row(
        "matmul of a frame with itself",
        net(lambda x: frames_of(x).flatten(2) @ frames_of(x).flatten(2).transpose(1, 2)[None]),
    ),
    Row(
        "bmm",
        net(lambda x: clip_of(torch.bmm(frames_of(x).flatten(2), frames_of(x).flatten(2).transpose(1, 2)))),
    ),
    Row("attention in space", net(lambda x, m: clip_of(attend(tokens_in_space(x), m)), QKV)),
    Row(
        "attention in space, spelled out", net(lambda x, m: clip_of(spelled_out(tokens_in_space(x), m)), QKV)
    ),
    Row("multihead attention in space", net(lambda x, m: clip_of(m(*[tokens_in_space(x)] * 3)[0]), MHA)),
    Row(
        "multihead attention in space, no weights",
        net(lambda x, m: clip_of(m(*[tokens_in_space(x)] * 3, need_weights=False)[0]), MHA),
    ),
    Row(
        "causal attention",
        net(lambda x, m: places_first(attend(tokens_in_time(x), m, is_causal=True)), QKV),
        reads=(-7, 7),
    ),
    Row(
        "causal attention by a mask",
        net(lambda x, m: places_first(attend(tokens_in_time(x), m, attn_mask=band(8, 8))), QKV),
        reads=(-7, 7),
    ),
    Row(
        "banded attention",
        net(lambda x, m: places_first(attend(tokens_in_time(x), m, attn_mask=band(8, 2))), QKV),
        reads=(-2, 7),
    ),
    Row(
        "banded attention, float mask",
        net(
            lambda x, m: places_first(
                attend(tokens_in_time(x), m, attn_mask=torch.zeros(8, 8).masked_fill(~band(8, 2), -math.inf))
            ),
            QKV,
        ),
        reads=(-2, 7),
    ),
    Row(
        "attention two back, one ahead",
        net(lambda x, m: places_first(attend(tokens_in_time(x), m, attn_mask=band(8, 2, 1))), QKV),
        reads=(-2, 8),
    ),
    Row(
        "multihead attention over time",
        net(
            lambda x, m: places_first(
                m(*[tokens_in_time(x)] * 3, attn_mask=~band(8, 2), need_weights=False)[0]
            ),
            MHA,
        ),
        reads=(-2, 7),
    ),
    Row(
        "attention two ahead",
        net(lambda x, m: places_first(attend(tokens_in_time(x), m, attn_mask=band(8, 0, 2))), QKV),
        reads=(0, 9),
    ),
    Row(
        "divided attention",
        net(
            lambda x, a, b: (lambda y: clip_of(y + attend(y, b)))(
                attend(tokens_in_time(x), a, attn_mask=band(8, 2)).transpose(0, 1)
            ),
            QKV,
            QKV,
        ),
        reads=(-2, 7),
    ),
)


def pooled(x: Tensor) -> Tensor:
    """(1, T, 3), what a CNN made of every frame."""
    return x.mean((3, 4)).transpose(1, 2)


def gru_loop(x: Tensor, cnn: nn.Module, cell: nn.Module) -> Tensor:
    h = torch.zeros(1, 5)
    for t in range(x.shape[2]):
        h = cell(cnn(x[:, :, t]).mean((2, 3)), h)
    return h


def lstm_loop(x: Tensor, cell: nn.Module) -> Tensor:
    h, c = torch.zeros(1, 5), torch.zeros(1, 5)
    seen = []
    for frame in x.mean((3, 4)).unbind(2):
        h, c = cell(frame, (h, c))
        seen.append(h)
    return torch.stack(seen, 1)


def rnn(kind: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: kind(3, 5, batch_first=True, **options)


CNN = lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())  # noqa: E731

RECURRENT = (
    Row("gru", net(lambda x, m: m(pooled(x))[0], rnn(nn.GRU)), reads=(None, 7)),
    Row("gru, two layers", net(lambda x, m: m(pooled(x))[0], rnn(nn.GRU, num_layers=2)), reads=(None, 7)),
    Row("gru, last", net(lambda x, m: m(pooled(x))[0][:, -1], rnn(nn.GRU)), reads=(None, 7)),
    Row(
        "gru, final state",
        net(lambda x, m: m(pooled(x))[1].transpose(0, 1), rnn(nn.GRU, num_layers=2)),
        reads=(None, 7),
    ),
    Row(
        "gru from zeros given",
        net(lambda x, m: m(pooled(x), torch.zeros(1, 1, 5))[0], rnn(nn.GRU)),
        reads=(None, 7),
    ),
    Row(
        "gru, time first",
        net(lambda x, m: m(pooled(x).transpose(0, 1))[0].transpose(0, 1), lambda: nn.GRU(3, 5)),
        reads=(None, 7),
    ),
    Row(
        "gru at every place",
        net(lambda x, m: places_first(m(tokens_in_time(x))[0]), lambda: nn.GRU(8, 4, batch_first=True)),
        reads=(None, 7),
    ),
    Row("gru without bias", net(lambda x, m: m(pooled(x))[0], rnn(nn.GRU, bias=False)), reads=(None, 7)),
    Row("lstm", net(lambda x, m: m(pooled(x))[0], rnn(nn.LSTM)), reads=(None, 7)),
    Row(
        "lstm, two layers, time first",
        net(lambda x, m: m(pooled(x).transpose(0, 1))[0].transpose(0, 1), lambda: nn.LSTM(3, 5, 2)),
        reads=(None, 7),
    ),
    Row(
        "lstm, final states",
        net(lambda x, m: torch.cat(m(pooled(x))[1], 2).transpose(0, 1), rnn(nn.LSTM)),
        reads=(None, 7),
    ),
    Row("rnn", net(lambda x, m: m(pooled(x))[0], rnn(nn.RNN)), reads=(None, 7)),
    Row(
        "lstm behind a strided conv",
        net(lambda x, c, m: m(pooled(c(x)))[0], conv(3, 3, 3, 2, 1), rnn(nn.LSTM)),
        every=(1, 2),
        reads=(None, 7),
    ),
    Row(
        "gru behind a delay",
        net(lambda x, c, m: m(pooled(c(x)))[0], conv(3, 3, 5, padding=2), rnn(nn.GRU)),
        reads=(None, 9),
    ),
    Row("gru cell over frames", net(gru_loop, CNN, lambda: nn.GRUCell(4, 5)), reads=(None, 7)),
    Row("lstm cell over frames", net(lstm_loop, lambda: nn.LSTMCell(3, 5)), reads=(None, 7)),
    Row(
        "windows in a loop",
        net(
            lambda x, m: torch.cat([m(x[:, :, t : t + 3]) for t in (0, 2, 4)], 2),
            conv(3, 4, 3, padding=(0, 1, 1)),
        ),
        reads=(0, 6),
    ),
    Row(
        "padded windows in a loop",
        net(lambda x, m: torch.cat([m(x[:, :, t : t + 4]) for t in (0, 4)], 1), conv(3, 4, 3, padding=1)),
        reads=(-1, 8),
    ),
    Row(
        "a cnn in a loop behind a delay",
        net(
            lambda x, c, m: (lambda y: torch.stack([m(y[:, :, t]) for t in range(8)], 2))(c(x)),
            conv(3, 3, 3, padding=1),
            CNN,
        ),
        reads=(-1, 8),
    ),
    Row(
        "a cnn in a loop",
        net(lambda x, m: torch.stack([m(x[:, :, t]).mean((2, 3)) for t in range(8)], 1), CNN),
    ),
    Row("a cnn in a loop, joined", net(lambda x, m: torch.cat([m(x[:, :, t]) for t in range(8)], 1), CNN)),
    Row("a cnn in a loop, summed", net(lambda x, m: sum(m(x[:, :, t]) for t in range(8)) / 8, CNN)),
)

FAMILIES = {
    "convolution": CONVOLUTIONS, "norm": NORMS, "pool": POOLS, "pointwise": POINTWISE, "join": JOINS,
    "move": MOVES, "reduction": REDUCTIONS, "product": PRODUCTS, "recurrent": RECURRENT,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Rows that can share a net."""

    name: str
    rows: tuple[Row, ...]

    @property
    def like(self) -> Row:
        return self.rows[0]

    def spec(self) -> ModelSpec:
        frames = self.like.frames
        clip = TensorSpec("clip", (1, 3, frames, SIZE, SIZE), "NCTHW")
        return ModelSpec("net", clip, tuple(map(str, range(4 * len(self.rows)))), frames=frames)


def cases() -> Iterator[Case]:
    for family, rows in FAMILIES.items():
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault((row.frames, row.reads, row.every, row.because), []).append(row)
        for same in groups.values():
            more = f" and {len(same) - 1} more" if len(same) > 1 else ""
            yield Case(f"{family}: {same[0].name}{more}", tuple(same))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module", params=tuple(cases()), ids=lambda case: case.name)
def captured(request: pytest.FixtureRequest) -> tuple[Case, nn.Module, Captured]:
    """A case, its net, and what was captured of it."""
    case = request.param
    torch.manual_seed(0)
    net = Answered([settled(row.body()) for row in case.rows], case.like.frames).eval()
    return case, net, capture(net, torch.randn(case.spec().input.shape))


@pytest.fixture
def built(
    captured: tuple[Case, nn.Module, Captured], monkeypatch: pytest.MonkeyPatch
) -> tuple[Case, nn.Module]:
    """A case and its net, which is captured once however often it is converted."""
    monkeypatch.setattr("edgepv.stream.rewrite.capture", lambda *_: captured[2])
    return captured[:2]


def worst(case: Case, got: Tensor, wanted: Tensor) -> dict[str, float]:
    """Difference per row, of those that differ."""
    error = (got - wanted).abs().reshape(-1, 4).amax(1)
    return {row.name: float(e) for row, e in zip(case.rows, error) if e > CLOSE}


def step_graph(model: StreamModel) -> list[fx.Node]:
    """The operators of the step, and the constants they read."""
    graph = model.recorded().graph
    graph.eliminate_dead_code()
    return [n for n in graph.nodes if n.users and isinstance(n.meta.get("val"), Tensor)]


def test_flat_it_is_the_clip_model(built: tuple[Case, nn.Module]) -> None:
    case, net = built
    flat = flatten(net, case.spec())
    with torch.no_grad():
        clip = torch.from_numpy(noise(*case.spec().input.shape))
        wanted = net(clip)
        assert worst(case, flat(clip), wanted) == {}
    assert float(wanted.reshape(-1, 4).abs().amax(1).min()) > 0.01, "an answer that is almost nothing"


def test_stepped_it_is_the_clip_model(built: tuple[Case, nn.Module]) -> None:
    case, net = built
    row, frames = case.like, case.like.frames
    for every in row.every:
        model = convert(net, case.spec(), every=every)
        stream = model.stream
        assert (stream.delay, stream.receptive_field) == (row.delay, row.field)
        assert stream.warmup == (row.field or frames + row.delay)
        assert stream.exactness == ("approximate" if row.because else "delayed" if row.delay else "exact")
        assert [b.split(" ")[0] for b in stream.because] == [row.because] * bool(row.because)
        operators = step_graph(model)
        assert [str(n.target) for n in operators if n.meta["val"].ndim > 4] == []
        assert [str(n.target) for n in operators if "3d" in str(n.target)] == []
        error = against_clip(net, model, [noise(3, frames, SIZE, SIZE)])
        assert error > 10 * CLOSE if row.because else error <= CLOSE
        assert against_chunk(model, steps(model), noise(3 * frames, 3, SIZE, SIZE, seed=9)) <= CLOSE


def greys(model: StreamModel, values: Sequence[float]) -> list[float]:
    """First answers of a stream to plain frames of these values."""
    stepper = Stepper(steps(model), model.spec, model.stream)
    return [float(stepper.step(np.full((1, 3, SIZE, SIZE), v, np.float32))["logits"][0, 0]) for v in values]


MEAN = Net(lambda x: x.mean((2, 3, 4)))
THREE = ModelSpec("mean", TensorSpec("clip", (1, 3, 3, SIZE, SIZE), "NCTHW"), ("r", "g", "b"), frames=3)


@pytest.mark.parametrize(
    ("pool", "every", "wanted"),
    [
        ("window", 1, [1 / 3, 1, 2, 3]),
        ("running", 1, [1, 1.5, 2, 2.5]),
        ("running", 2, [0, 1.5, 1.5, 2.5]),
        ("ema", 1, [1, 1.5, 2.25, 3.125]),  # a new frame weighs 2 / (3 + 1)
    ],
)
def test_a_mean_over_the_clip_becomes_what_was_asked_for(pool: str, every: int, wanted: list[float]) -> None:
    model = convert(MEAN.eval(), THREE, every=every, pool=pool)
    assert greys(model, [1, 2, 3, 4]) == pytest.approx(wanted)
    assert model.stream.exactness == ("exact" if pool == "window" else "approximate")
    assert against_chunk(model, steps(model), noise(12, 3, SIZE, SIZE)) <= CLOSE


def test_only_means_become_running_means() -> None:
    model = convert(Net(lambda x: x.sum((2, 3, 4)) + x.amin((2, 3, 4))).eval(), THREE, pool="ema")
    assert model.stream.exactness == "exact" and model.stream.receptive_field == 3


@pytest.mark.parametrize(("shape", "every"), [((3, 3), 1), ((3, 3), 2), ((1, 3, 3), 1)])
def test_a_net_may_answer_for_each_frame(shape: tuple[int, ...], every: int) -> None:
    """(T, classes) or (1, T, classes) become one answer per step, two frames late."""
    each = Net(lambda x, m: m(x).mean((3, 4))[0].t().reshape(shape), nn.Conv3d(3, 3, 5, padding=2)).eval()
    model = convert(each, THREE, every=every)
    assert (model.stream.delay, model.stream.receptive_field, model.stream.chunk) == (2, 5, every)
    assert against_clip(each, model, [noise(3, 3, SIZE, SIZE)]) <= CLOSE
    assert against_chunk(model, steps(model), noise(12, 3, SIZE, SIZE)) <= CLOSE
