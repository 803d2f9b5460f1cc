"""pv-particle: a frame as a handful of particles, what they do next, and the frame made of them again.

The whole particle line in one net. A frame becomes a map at stride 4; particles share its cells out (regions
compete for them, or blocks of a grid are given); each is described by colour, texture, shape and learned
moments, fused into a few numbers; messages between all pairs say where each will be and how it will look; and
a picture is painted of position, scale and feature alone, by the features and by a generator on top. What a
particle is, is ``2 + 2 + 1 + dim`` numbers: position, velocity, scale, feature. No other way leads from the
frame to the picture, so K particles are a picture in ``K * (5 + dim)`` numbers.

No weight depends on K. Velocity and messages serve the prediction only: it says where a region is looked for
in the next frame. Frames are RGB in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.errors import UsageError
from edgepv.zoo.particles.decompose import Grid, Region, lattice
from edgepv.zoo.particles.describe import ColourHistogram, Fused, LocalMoments, ShapeMoments, TextureEnergy
from edgepv.zoo.particles.interact import Messages, integrate
from edgepv.zoo.particles.reconstruct import Generator, Residual, Splat

CELL = 4
"""Height and width, in pixels, of a cell of the map."""

PACE = 0.02
"""A usual speed, image heights per frame: velocities are divided by it before a network sees them."""

FASTEST = 0.1
"""The largest speed along an axis that is believed, image heights per frame."""

ALIKE = 1e6
"""A feature whose squares sum to more than one part of this was seen before: no particle is all zeros."""

KINDS = ("pixel", "patch", "region", "frame")
"""What a particle may be: a cell of the map, a square block of cells, a region that moves, the frame."""


class Crowd(NamedTuple):
    """K particles of each of N frames: 5 + D numbers each, and how fast the last D of them change.

    position, velocity: (N, K, 2), image heights, and per frame. scale: (N, K), image heights. feature, rate:
    (N, K, D), and per frame; what a particle is painted of does not hold the rate.
    """

    position: Tensor
    velocity: Tensor
    scale: Tensor
    feature: Tensor
    rate: Tensor


class Expected(NamedTuple):
    """What is expected of the next frame's particles; fields and shapes as in ``Crowd``."""

    position: Tensor
    velocity: Tensor
    feature: Tensor
    rate: Tensor


class Describe(nn.Module):
    """The feature of particles: how masks look, (N, K, D), by colour, texture, shape and learned moments.

    A linear layer keeps what a picture is made of as it is; beside it a second one, normed, with a ReLU
    behind it. dim: of the feature. channels: of the map. hidden: of the second way. height, width: of the
    map.
    """

    def __init__(self, dim: int, channels: int, hidden: int, *, height: int, width: int) -> None:
        super().__init__()
        self.colour, self.texture = ColourHistogram(4, stride=CELL), TextureEnergy(stride=CELL)
        self.shape, self.moments = ShapeMoments(height, width), LocalMoments(height, width)
        self.narrow = nn.Conv2d(channels, 16, 1)
        sizes = (12, 9, ShapeMoments.SIZE, 6 * 19, dim)
        self.linear = nn.Linear(sum(sizes), dim)
        self.fused = Fused(sizes, hidden)
        self.out = nn.Linear(hidden, dim)

    def forward(
        self, frame: Tensor, tokens: Tensor, masks: Tensor, position: Tensor, scale: Tensor, seen: Tensor
    ) -> Tensor:
        """frame: (N, 3, H, W); tokens: (N, C, h, w); masks: (N, K, M); seen: (N, K, D), by the slots."""
        small = torch.cat([self.narrow(tokens), F.avg_pool2d(frame, CELL)], 1)
        looks = (
            self.colour(frame, masks),
            10 * self.texture(frame, masks),
            self.shape(masks, position),
            self.moments(small, masks, position, scale),
            seen,
        )
        deep = self.out(torch.relu(self.fused(*looks)))
        return self.linear(torch.cat(looks, -1)) + deep


class Forecast(nn.Module):
    """What comes of particles in one frame: messages between all pairs, then how motion and change go on.

    Before training nothing changes: every particle stays where it is and as it is. dim: of the features.
    hidden: of messages. interact: False gives the same layers with every particle alone in a world of its
    own.
    """

    def __init__(self, dim: int, hidden: int, *, interact: bool = True) -> None:
        super().__init__()
        self.interact = interact
        self.messages = Messages(2 * dim, hidden)
        self.mix = nn.Linear(4 * dim + 2, hidden)
        self.change = nn.Linear(hidden, dim + 2)
        self.drag = nn.Parameter(torch.ones(dim + 2))
        self.change.weight.data.zero_()
        self.change.bias.data.zero_()

    def forward(self, crowd: Crowd) -> Expected:
        """The particles as they are expected one frame later."""
        pace = crowd.velocity * (1 / PACE)
        known = torch.cat([crowd.feature, crowd.rate], -1)
        heard = self.heard(crowd.position, pace, known)
        moving = torch.cat([pace, crowd.rate], -1)
        pull = self.change(torch.relu(self.mix(torch.cat([known, heard, pace], -1)))) - self.drag * moving
        position, velocity = integrate(crowd.position, crowd.velocity, PACE * pull[..., :2])
        feature, rate = integrate(crowd.feature, crowd.rate, pull[..., 2:])
        return Expected(position, velocity, feature, rate)

    def heard(self, position: Tensor, pace: Tensor, known: Tensor) -> Tensor:
        """What particles know (N, K, 2 D) after the messages, of the same shape."""
        n, k, _ = known.shape
        if not self.interact:
            position, pace, known = (x.reshape(n * k, 1, -1) for x in (position, pace, known))
        told: Tensor = self.messages(position, pace, known, torch.ones_like(position[..., 0]))
        return told.reshape(n, k, -1)


def blocks(kind: str, count: int, rows: int, cols: int) -> tuple[int, int]:
    """(rows, columns) of the grid that cuts a map of rows x cols cells into ``count`` square blocks.

    Raises UsageError if there is none of that kind.
    """
    if kind == "frame":
        return 1, 1
    if kind == "pixel":
        return rows, cols
    sides = [side for side in range(2, min(rows, cols) + 1) if rows % side == cols % side == 0]
    counts = {rows * cols // (side * side): (rows // side, cols // side) for side in sides}
    if count not in counts:
        known = ", ".join(map(str, sorted(counts)))
        raise UsageError(f"{count} patches do not fill the frame with squares. Choose one of {known}")
    return counts[count]


class PvParticle(nn.Module):
    """The whole network.

    height, width: of the frames, multiples of 4. kind: what a particle is, see ``KINDS``. particles: K, of
    regions and patches. dim: numbers in a feature. tokens: channels of the map. hidden: of all else.
    interact: see ``Forecast``. Raises UsageError for a size or a number of particles that cannot be.
    """

    warmup = 1
    home: Tensor

    def __init__(
        self, *, height: int = 96, width: int = 128, particles: int = 48, kind: str = "region", dim: int = 12,
        tokens: int = 32, hidden: int = 32, interact: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if height % CELL or width % CELL or min(height, width) < 2 * CELL:
            raise UsageError(f"frames of {height} x {width}: height and width must be multiples of {CELL}")
        rows, cols = height // CELL, width // CELL
        self.kind, self.dim = kind, dim
        self.enter = nn.Conv2d(3, tokens // 2, 3, 2, 1)
        self.down = nn.Conv2d(tokens // 2, tokens, 3, 2, 1)
        self.block = Residual(tokens)
        self.region = Region(tokens, dim, height=rows, width=cols, relative=True)
        self.describe = Describe(dim, tokens, hidden, height=rows, width=cols)
        self.forecast = Forecast(dim, hidden, interact=interact)
        self.splat = Splat(dim, 3 + 16, height=rows, width=cols)
        self.generator = Generator(3 + 16, 3, up=CELL, hidden=hidden)
        self.size = rows, cols
        self.use(kind, particles)

    def use(self, kind: str, particles: int) -> None:
        """Decompose into particles of this kind and number from now on. Raises UsageError like ``blocks``."""
        self.kind = kind
        if kind == "region":
            self.grid, home = None, lattice(particles, aspect=self.size[1] / self.size[0]).unsqueeze(0)
        else:
            self.grid = Grid(*self.size, *blocks(kind, particles, *self.size))
            home = self.grid.position
        self.register_buffer("home", home, persistent=False)

    def look(self, frames: Tensor) -> Tensor:
        """The map of single frames, (B, 3, H, W) -> (B, tokens, H / 4, W / 4)."""
        x = torch.relu(self.down(torch.relu(self.enter(frames))))
        return torch.relu(self.block(x))

    def start(self, n: int) -> Expected:
        """What is expected before the first of N videos' frames."""
        home = self.home.expand(n, -1, -1)
        nothing = home.new_zeros(n, home.shape[1], self.dim)
        return Expected(home, torch.zeros_like(home), nothing, nothing)

    def decompose(self, frame: Tensor, tokens: Tensor, expected: Expected) -> Crowd:
        """The particles of frames (N, 3, H, W) with maps (N, C, h, w), where others were expected."""
        known = self.region.token_norm(tokens.flatten(2).transpose(1, 2))
        if self.grid is None:
            alive = torch.ones_like(expected.position[..., 0])
            masks = self.region.share(known, expected.position, expected.feature, alive)
        else:
            masks = self.grid.masks.expand(len(frame), -1, -1)
        seen = self.region.read(known, masks, expected.position)
        feature = self.describe(frame, tokens, masks, seen.position, seen.scale, seen.feature)
        begun = (ALIKE * (expected.feature * expected.feature).sum(-1, keepdim=True)).clamp(0.0, 1.0)
        velocity = begun * (expected.velocity + seen.position - expected.position).clamp(-FASTEST, FASTEST)
        rate = begun * (expected.rate + feature - expected.feature)
        return Crowd(seen.position, velocity, seen.scale, feature, rate)

    def expect(self, crowd: Crowd) -> Expected:
        """The particles one frame later; those of a grid are where they are."""
        if self.grid is None:
            expected: Expected = self.forecast(crowd)
            return expected
        still = torch.zeros_like(crowd.velocity)
        return Expected(crowd.position, still, crowd.feature, torch.zeros_like(crowd.rate))

    def paint(self, position: Tensor, scale: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 3, H, W) of particles: by their features alone, and with what the generator adds."""
        shown = self.splat(position, scale, feature)
        plain = F.interpolate(shown[:, :3], scale_factor=float(CELL), mode="bilinear", align_corners=False)
        return plain, plain + self.generator(shown)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (N, 3, T, H, W) frame by frame: pictures as ``paint`` gives them, each (N, 3, T, H, W)."""
        n, _, t, _, _ = clip.shape
        crowds = self.follow(clip)
        position, _, scale, feature, _ = (torch.stack(x, 1).flatten(0, 1) for x in zip(*crowds, strict=True))
        pictures = (p.unflatten(0, (n, t)).transpose(1, 2) for p in self.paint(position, scale, feature))
        plain, image = pictures
        return plain, image

    def follow(self, clip: Tensor) -> list[Crowd]:
        """The particles of every frame of clips (N, 3, T, H, W), in order."""
        n, _, t, _, _ = clip.shape
        frames = clip.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        tokens = self.look(frames).unflatten(0, (n, t))
        expected, crowds = self.start(n), []
        for i in range(t):
            crowds.append(self.decompose(clip[:, :, i].contiguous(), tokens[:, i], expected))
            expected = self.expect(crowds[-1])
        return crowds

    def init_state(self) -> dict[str, Tensor]:
        """What is expected, as zeros: position from ``home`` on and the rest. Grids have no state."""
        if self.grid is not None:
            return {}
        position, velocity, feature, rate = self.start(1)
        states = {"offset": position, "velocity": velocity, "feature": feature, "rate": rate}
        return {name: torch.zeros_like(value) for name, value in states.items()}

    def step(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One new frame (1, 3, H, W) and the states. Returns (image (1, 3, H, W), particles, *new states).

        particles: (1, K, 7) of x, y, vx, vy, ax, ay, visibility; positions in image heights.
        """
        expected = self.start(1)
        if states:
            offset, velocity, feature, rate = states
            expected = Expected(self.home + offset, velocity, feature, rate)
        crowd = self.decompose(frame, self.look(frame), expected)
        after = self.expect(crowd)
        _, image = self.paint(crowd.position, crowd.scale, crowd.feature)
        pull = after.velocity - crowd.velocity
        table = torch.cat([crowd.position, crowd.velocity, pull, torch.ones_like(pull[..., :1])], -1)
        if not states:
            return image, table
        return image, table, after.position - self.home, after.velocity, after.feature, after.rate


def nano(*, particles: int = 48, kind: str = "region", interact: bool = True) -> PvParticle:
    """pv-particle nano: trained on frames of 96 x 128."""
    return PvParticle(particles=particles, kind=kind, interact=interact)
