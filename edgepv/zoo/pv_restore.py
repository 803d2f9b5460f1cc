"""pv-restore: a recurrent video restorer, for noise (``up`` 1) or twice the size (``up`` 2).

All work is done at half resolution. A frame is looked at as 12 channels, its own pixels in cells of 2 x 2,
and learned features of 6 x 6 pixels. The memory has the same channels: its first 12 are a running picture.
How far frame and memory differ decides, place by place and channel by channel, how much of the memory stays:
much where nothing moves, so noise is averaged away, none where something new is seen. Residual blocks turn
memory and difference into a correction, which is added to the running picture (``up`` 1) or to the frame
enlarged bilinearly (``up`` 2).

The new memory is a weighted mean of the old one and of what the frame shows, so it can never leave the range
of what frames show: a recurrent restorer without such a bound can blow up after hundreds of frames.
Sources: recursive filtering steered by differences, Dubois & Sabri 1984, "Noise Reduction in Image Sequences
Using Motion-Compensated Temporal Filtering"; learned gates, Cho et al. 2014, "Learning Phrase Representations
using RNN Encoder-Decoder"; pixels as channels, Shi et al. 2016, "Real-Time Single Image and Video
Super-Resolution"; the danger of long runs, Chiche et al. 2022, "Stable Long-Term Recurrent Video
Super-Resolution".

Two forms with the same weights and the same answers: ``forward`` on clips, to train; ``step`` on one new
frame and the memory, for a camera. Frames are RGB in [0, 1], not normalised further. Nothing depends on the
size of the frame but the size of the memory, so a network trained on crops runs at any even size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.errors import UsageError
from edgepv.zoo.particles.reconstruct import Residual

CELL = 2
"""Height and width, in pixels of the input, of one place of the memory."""
PIXELS = 3 * CELL * CELL
"""Channels of the memory that are a picture."""
MOST = 0.95
"""Most of the memory that one frame leaves. Of what is 64 frames old 4 % are left, so what a net does after
hundreds of frames is not far from what it met in training. Without this limit frames 291 to 300 came out
1.7 dB worse than when the net was started six frames before. Of 0.9, 0.95, 0.975 and 1 this had the best mean
PSNR on frames of two training clips."""


def as_cells() -> Tensor:
    """Kernel (12, 3, 2, 2) of the convolution that is pixel_unshuffle, which exports with 6-D tensors."""
    return torch.eye(PIXELS).reshape(PIXELS, 3, CELL, CELL)


class Restore(nn.Module):
    """The whole network.

    height, width: of the frames in a stream, both even. up: how many times larger the answer is, 1 or 2.
    channels: of the memory, more than 12. hidden: of all else. blocks: residual blocks. recurrent: False
    gives the same layers with an always empty memory; it sees one frame at a time, to be compared with.
    Raises UsageError for an odd size or another ``up``.
    """

    warmup = 1
    cells: Tensor

    def __init__(
        self, height: int, width: int, *, up: int = 1, channels: int = 16, hidden: int = 16, blocks: int = 2,
        recurrent: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if height % CELL or width % CELL or up not in (1, 2):
            raise UsageError(
                f"pv-restore takes frames of even height and width, and up 1 or 2; got {height} x {width}, "
                f"up {up}. Crop or scale the frames"
            )
        self.height, self.width, self.up, self.recurrent = height, width, up, recurrent
        self.register_buffer("cells", as_cells(), persistent=False)
        self.enter = nn.Conv2d(3, channels - PIXELS, 3 * CELL, CELL, CELL)
        self.compare = nn.Conv2d(2 * channels, hidden, 3, 1, 1)
        self.keep = nn.Conv2d(hidden, channels, 3, 1, 1)
        self.mix = nn.Conv2d(channels + hidden, hidden, 3, 1, 1)
        self.blocks = nn.Sequential(*(Residual(hidden) for _ in range(blocks)))
        self.leave = nn.Conv2d(hidden, PIXELS * up * up, 3, 1, 1)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """First weights: no correction, and a last feature of 1, whose memory tells its own age."""
        self.leave.weight.zero_()
        self.enter.weight[-1] = 0
        self.enter.bias[-1] = 1  # type: ignore[index]

    def look(self, frames: Tensor) -> Tensor:
        """What single frames show, (B, 3, H, W) -> (B, C, H / 2, W / 2): pixels, then features."""
        pixels = F.conv2d(frames, self.cells, stride=CELL)
        return torch.cat([pixels, torch.relu(self.enter(frames))], 1)

    def remember(self, seen: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(memory, what is different) after a frame that showed ``seen``: (N, C, h, w) and (N, D, h, w)."""
        apart = (seen - memory).abs()
        difference = torch.relu(self.compare(torch.cat([seen, apart], 1)))
        kept = MOST * F.hardsigmoid(self.keep(difference))
        return seen + kept * (memory - seen), difference

    def paint(self, frames: Tensor, memory: Tensor, difference: Tensor) -> Tensor:
        """Restored frames (B, 3, H * up, W * up)."""
        x = torch.relu(self.mix(torch.cat([memory, difference], 1)))
        change = self.leave(self.blocks(x))
        if self.up == 1:
            return F.pixel_shuffle(memory[:, :PIXELS] + change, CELL)
        larger = F.interpolate(frames, scale_factor=2.0, mode="bilinear", align_corners=False)
        return larger + F.pixel_shuffle(change, CELL * self.up)

    def forward(self, clip: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) restored frame by frame, (N, 3, T, H * up, W * up); memory starts empty."""
        n, _, t, h, w = clip.shape
        frames = clip.transpose(1, 2).reshape(n * t, 3, h, w).contiguous(memory_format=torch.channels_last)
        seen = self.look(frames).float()  # a mean over time would lose its last bits in bfloat16
        shown = seen.unflatten(0, (n, t))
        if self.recurrent:
            memory, pairs = torch.zeros_like(shown[:, 0]), []
            for i in range(t):
                pairs.append(self.remember(shown[:, i], memory))
                memory = pairs[-1][0]
            memories, differences = (torch.stack(x, 1).flatten(0, 1) for x in zip(*pairs, strict=True))
        else:
            memories, differences = self.remember(seen, torch.zeros_like(seen))
        out = self.paint(frames, memories, differences)
        return out.reshape(n, t, 3, h * self.up, w * self.up).transpose(1, 2)

    def init_state(self) -> dict[str, Tensor]:
        """An empty memory (1, C, H / 2, W / 2); no state at all without recurrence."""
        if not self.recurrent:
            return {}
        shape = (1, self.keep.out_channels, self.height // CELL, self.width // CELL)
        return {"memory": self.leave.weight.new_zeros(shape)}

    def step(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One new frame (1, 3, H, W) and the memory. Returns (image (1, 3, H * up, W * up), new memory)."""
        seen = self.look(frame)
        memory, difference = self.remember(seen, states[0] if self.recurrent else torch.zeros_like(seen))
        image = self.paint(frame, memory, difference)
        return (image, memory) if self.recurrent else (image,)


def nano(*, height: int = 180, width: int = 320, recurrent: bool = True) -> Restore:
    """pv-restore nano, denoising: 23 thousand parameters."""
    return Restore(height, width, channels=16, blocks=2, recurrent=recurrent)


def small(*, height: int = 360, width: int = 640, recurrent: bool = True) -> Restore:
    """pv-restore small, denoising: 0.13 million parameters."""
    return Restore(height, width, channels=32, hidden=32, blocks=4, recurrent=recurrent)


def nano_x2(*, height: int = 180, width: int = 320, recurrent: bool = True) -> Restore:
    """pv-restore nano, twice the height and width: 28 thousand parameters."""
    return Restore(height, width, up=2, channels=16, blocks=2, recurrent=recurrent)


def small_x2(*, height: int = 180, width: int = 320, recurrent: bool = True) -> Restore:
    """pv-restore small, twice the height and width: 0.14 million parameters."""
    return Restore(height, width, up=2, channels=32, hidden=32, blocks=4, recurrent=recurrent)
