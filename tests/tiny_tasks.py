"""A tracker and a restorer as a user would bring them; so small that they know nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgepv.zoo.particles.decompose import grid, lattice

SIDE = 32


class TinyTracker(nn.Module):
    """Each particle goes where the picture is bright around it. States: position, life."""

    warmup = 1
    cells: Tensor
    home: Tensor

    def __init__(self, particles: int = 4) -> None:
        super().__init__()
        self.particles = particles
        self.bright = nn.Conv2d(3, 1, 3, 2, 1)
        nn.init.constant_(self.bright.weight, 0.5)
        self.register_buffer("cells", grid(SIDE // 2, SIDE // 2), persistent=False)
        self.register_buffer("home", lattice(particles).unsqueeze(0), persistent=False)

    def init_state(self) -> dict[str, Tensor]:
        return {
            "position": torch.zeros(1, self.particles, 2),
            "life": torch.zeros(1, self.particles, 1),
        }

    def step(self, frame: Tensor, position: Tensor, life: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fresh = torch.relu(1 - life.abs())
        alive = torch.relu(torch.sign(life + 0.5))
        at = fresh * self.home + (1 - fresh) * position
        apart = at.unsqueeze(2) - self.cells
        near = -40 * (apart * apart).sum(-1) + self.bright(frame).flatten(2)
        found = torch.softmax(near, -1) @ self.cells
        at = at + alive * 0.5 * (found - at)
        return torch.cat([at, alive], -1), at + 0, 2 * alive - 1


class TinyRestorer(nn.Module):
    """The mean of the frame and the one before, enlarged, and a convolution over it."""

    warmup = 1

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.mix = nn.Conv2d(6, 12, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(2)
        with torch.no_grad():
            self.mix.weight.mul_(0.1)

    def init_state(self) -> dict[str, Tensor]:
        return {"before": torch.zeros(1, 3, self.height, self.width)}

    def step(self, frame: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([frame, before], 1)
        large = nn.functional.interpolate(frame, scale_factor=2.0, mode="nearest")
        return large + self.shuffle(self.mix(both)), frame * 1.0


class Neighbours(nn.Module):
    """The middle one of five frames, a little of its neighbours in two stages, frames stacked in channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(10, 3, 3, 1, 1), nn.Conv2d(10, 3, 3, 1, 1)
        with torch.no_grad():
            for layer in (self.one, self.two):
                layer.weight.mul_(0.05)
                layer.bias.zero_()  # type: ignore[union-attr]

    def forward(self, clip: Tensor) -> Tensor:
        x = clip.transpose(1, 2).flatten(1, 2)
        frames = [x[:, 3 * i : 3 * i + 3] for i in range(5)]
        noise = torch.full((1, 1, *x.shape[2:]), 0.1)
        first = [frames[i] + self.one(torch.cat((*frames[i - 1 : i + 2], noise), 1)) for i in (1, 2, 3)]
        return first[1] + self.two(torch.cat((*first, noise), 1))


def neighbours() -> Neighbours:
    return Neighbours()


def tracker(particles: int = 4) -> TinyTracker:
    return TinyTracker(particles)


def restorer(height: int = 16, width: int = 24) -> TinyRestorer:
    return TinyRestorer(height, width)
