"""pv-seg: a recurrent segmenter of video: what moves before a fixed camera, and its shadow.

A frame is looked at by a convolution and a block at a quarter of its size. A memory of the same channels is a
running mean of what stood there; a gate decides, place by place and channel by channel, how much of it one
frame replaces: little where something passes, much where the light has changed. Frame, memory and how far
they differ go through an encoder and a decoder with skips, whose scores stand at half the frame's size and
are spread to all of it.

The memory is a weighted mean of what frames showed, so it can never leave the range of that, however long
the camera runs: see ``pv_restore``, which has the same gate. Sources: a running mixture of what each place
showed, Stauffer & Grimson 1999, "Adaptive background mixture models for real-time tracking"; encoder and
decoder with skips, Ronneberger et al. 2015, "U-Net"; inverted residuals, Sandler et al. 2018, "MobileNetV2".

Two forms with the same weights and the same answers: ``forward`` on clips, to train; ``step`` on one new
frame and the memory, for a camera. Nothing but the size of the memory depends on the size of the frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.errors import UsageError

CELL = 16
"""Height and width must be multiples of it: four times halved, and doubled again."""
MOST = 0.97
"""Most of the memory that one frame leaves: what stood 150 frames ago is 1 % of it, so light may change."""


class Inverted(nn.Module):
    """Expand 1x1, 3x3 depthwise, project 1x1, added to the input where shapes allow. (B, C, H, W)."""

    def __init__(self, cin: int, cout: int, stride: int = 1, expand: int = 3) -> None:
        super().__init__()
        mid = cin * expand
        self.residual = stride == 1 and cin == cout
        self.expand = nn.Conv2d(cin, mid, 1, bias=False)
        self.expand_bn = nn.BatchNorm2d(mid)
        self.space = nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False)
        self.space_bn = nn.BatchNorm2d(mid)
        self.project = nn.Conv2d(mid, cout, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, cin, H, W) -> (B, cout, H / stride, W / stride)."""
        y = torch.relu(self.expand_bn(self.expand(x)))
        y = torch.relu(self.space_bn(self.space(y)))
        y = self.project_bn(self.project(y))
        return x + y if self.residual else y


class Segment(nn.Module):
    """The whole network.

    classes: labels, the first of which is the background. height, width: of the frames in a stream,
    multiples of 16. channels: of the memory. Raises UsageError for another size.
    """

    warmup = 4
    """Frames before an answer counts: from one nobody can tell what moves."""

    def __init__(self, classes: int, *, height: int, width: int, channels: int = 20) -> None:
        super().__init__()
        if height % CELL or width % CELL:
            raise UsageError(
                f"pv-seg takes frames whose sides are multiples of {CELL}; got {height} x {width}. Scale them"
            )
        self.height, self.width = height, width
        self.enter = nn.Conv2d(3, 12, 3, 2, 1, bias=False)
        self.enter_bn = nn.BatchNorm2d(12)
        self.look = Inverted(12, channels, stride=2)
        self.compare = nn.Conv2d(2 * channels, 24, 3, 1, 1)
        self.keep = nn.Conv2d(24, channels, 1)
        self.mix = nn.Conv2d(channels + 24, 24, 1)
        self.down8 = nn.Sequential(Inverted(24, 40, stride=2), Inverted(40, 40))
        self.down16 = nn.Sequential(Inverted(40, 56, stride=2), Inverted(56, 56), Inverted(56, 56))
        self.up8 = nn.Conv2d(56, 40, 1)
        self.at8 = Inverted(40, 40)
        self.up4 = nn.Conv2d(40, 24, 1)
        self.at4 = Inverted(24, 24)
        self.up2 = nn.Conv2d(24, 12, 1)
        self.at2 = nn.Conv2d(12, 12, 3, 1, 1)
        self.leave = nn.Conv2d(12, 4 * classes, 1)

    def seen(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """What single frames show: (B, 12, H / 2, W / 2) and (B, C, H / 4, W / 4); the last channel is 1.

        That channel of the memory tells how old it is, since it begins at 0.
        """
        fine = torch.relu(self.enter_bn(self.enter(frames)))
        coarse = self.look(fine)
        return fine, torch.cat([coarse[:, :-1], torch.ones_like(coarse[:, -1:])], 1)

    def remember(self, shown: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(memory, what is different) after a frame that showed ``shown``: (N, C, h, w) and (N, 24, h, w)."""
        different = torch.relu(self.compare(torch.cat([shown, (shown - memory).abs()], 1)))
        kept = MOST * F.hardsigmoid(self.keep(different))
        return shown + kept * (memory - shown), different

    def tell(self, fine: Tensor, shown: Tensor, different: Tensor) -> Tensor:
        """Scores (B, classes, H, W)."""
        x4 = torch.relu(self.mix(torch.cat([shown, different], 1)))
        x8 = self.down8(x4)
        x16 = self.down16(x8)
        y = self.at8(x8 + _twice(self.up8(x16)))
        y = self.at4(x4 + _twice(self.up4(y)))
        y = torch.relu(self.at2(fine + _twice(self.up2(y))))
        return F.pixel_shuffle(self.leave(y), 2)

    def forward(self, clip: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) as scores (N, classes, T, H, W), frame by frame; the memory starts empty."""
        n, _, t, h, w = clip.shape
        frames = clip.transpose(1, 2).reshape(n * t, 3, h, w)
        fine, coarse = self.seen(frames.contiguous(memory_format=torch.channels_last))
        shown = coarse.unflatten(0, (n, t))
        memory, differences = torch.zeros_like(shown[:, 0]), []
        for i in range(t):
            memory, different = self.remember(shown[:, i], memory)
            differences.append(different)
        scores = self.tell(fine, coarse, torch.stack(differences, 1).flatten(0, 1))
        return scores.unflatten(0, (n, t)).transpose(1, 2)

    def init_state(self) -> dict[str, Tensor]:
        """An empty memory (1, C, H / 4, W / 4)."""
        shape = (1, self.keep.out_channels, self.height // 4, self.width // 4)
        return {"memory": self.keep.weight.new_zeros(shape)}

    def step(self, frame: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One new frame (1, 3, H, W) and the memory. Returns (scores (1, classes, H, W), new memory)."""
        fine, shown = self.seen(frame)
        memory, different = self.remember(shown, memory)
        return self.tell(fine, shown, different), memory


def _twice(x: Tensor) -> Tensor:
    """Twice the height and width, each place as four."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def nano(num_classes: int = 3, *, height: int = 128, width: int = 192) -> Segment:
    """pv-seg nano: 0.11 million parameters."""
    return Segment(num_classes, height=height, width=width)
