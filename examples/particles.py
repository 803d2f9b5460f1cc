"""A model of your own from the particle operators of ``edgepv.zoo.particles``, stepped frame by frame.

Where particles are, how they look, what they do to each other, and what the next frame should show: the model
says whether a frame is usual by how well it expected it. Leave out what you do not need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgepv.zoo.particles.decompose import Grid, Region, lattice
from edgepv.zoo.particles.describe import (
    ColourHistogram,
    Fused,
    LocalMoments,
    OrientationHistogram,
    ShapeMoments,
    TextureEnergy,
    pool,
)
from edgepv.zoo.particles.interact import Force, Messages, integrate
from edgepv.zoo.particles.reconstruct import Generator, Splat

SIZE, CELL, K, DIM = 32, 4, 5, 16
"""Height and width of the frame, pixels along a cell of the map, particles, and numbers in a feature."""
SIDE = SIZE // CELL


class Expecting(nn.Module):
    """Answers with logits from the surprise and from the mean of the particles' features.

    States: how far each particle is from its place in the lattice, its velocity, its feature, and the frame
    that was expected.
    """

    warmup = 1
    home: Tensor
    alive: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("home", lattice(K).unsqueeze(0), persistent=False)
        self.register_buffer("alive", torch.tensor([[1.0] * (K - 1) + [0.0]]), persistent=False)
        self.patches = nn.Conv2d(3, 12, CELL, CELL)
        self.region = Region(12, DIM, height=SIDE, width=SIDE)
        self.quarters = Grid(SIDE, SIDE, 2, 2)
        hand_made = [ColourHistogram(4, stride=CELL), TextureEnergy(stride=CELL)]
        self.looks = nn.ModuleList([*hand_made, OrientationHistogram(4, stride=CELL)])
        self.shape, self.local = ShapeMoments(SIDE, SIDE), LocalMoments(SIDE, SIDE)
        self.fused = Fused((DIM, 12, 9, 5, ShapeMoments.SIZE, 6 * 12), DIM)
        self.messages, self.force = Messages(DIM, 24), Force(DIM)
        self.splat = Splat(DIM, 8, height=SIDE, width=SIDE)
        self.generate = Generator(8, 3, up=CELL, hidden=8)
        self.head = nn.Linear(DIM + 12 + 1, 2)

    def init_state(self) -> dict[str, Tensor]:
        """Every state before the first frame, by the names of ``step``."""
        at = self.head.weight
        return {
            "offset": at.new_zeros(1, K, 2),
            "velocity": at.new_zeros(1, K, 2),
            "feature": at.new_zeros(1, K, DIM),
            "expected": at.new_zeros(1, 3, SIZE, SIZE),
        }

    def step(
        self, frame: Tensor, offset: Tensor, velocity: Tensor, feature: Tensor, expected: Tensor
    ) -> tuple[Tensor, ...]:
        """frame: (1, 3, 32, 32). Returns logits (1, 2) and the next states, in the order they came."""
        before = self.home + 0.1 * torch.tanh(offset)
        x = self.patches(frame)
        seen, masks = self.region(x, before, feature, self.alive)
        looks = [look(frame, masks) for look in self.looks]
        where = [self.shape(masks, seen.position), self.local(x, masks, seen.position, seen.scale)]
        feature = self.fused(seen.feature, *looks, *where)
        feature = self.messages(seen.position, velocity, feature, self.alive)
        pull = 0.001 * self.force(seen.position, feature, self.alive)
        position, velocity = integrate(seen.position, 0.5 * velocity, pull)
        surprise = (frame - expected).abs().mean((1, 2, 3)).unsqueeze(1)
        brightest = pool(self.quarters.masks, x).amax(1)
        answer = self.head(torch.cat([feature.mean(1), brightest, surprise], 1))
        made = torch.tanh(self.generate(self.splat(position, seen.scale, feature)))
        return answer, position - self.home, velocity, feature, made


def build() -> Expecting:
    """What `edgepv export examples/particles.py:build` calls."""
    return Expecting()
