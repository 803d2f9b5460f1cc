"""pv-graph: particles that see, move and act on each other, and what that says about the scene.

A frame becomes tokens (stride 8, of what is seen and of what changed since the frame before); K particles
compete for the tokens, each near the place where it was expected; each is described by its colours, its
edges and learned features; a gated memory and an alpha-beta filter bring particle and prediction together;
the interaction core lets all pairs act on each other and gives the accelerations, which lead to the places
expected in the next frame. Features, speeds and forces of the particles, averaged over ``WINDOW`` frames,
give the class.

The core also works where the particles are given: on simulated physics and on tracked body points. No
weight depends on K. Forces and the integration do not survive INT8 activations: they stay in float.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.zoo.particles.decompose import Norm, Region, lattice
from edgepv.zoo.particles.describe import ColourHistogram, Fused, OrientationHistogram
from edgepv.zoo.particles.interact import (
    SOFT,
    TINY,
    Force,
    Messages,
    differences,
    distance,
    integrate,
    others,
)

WINDOW = 16
"""Frames an answer is averaged over."""

PACE = 0.02
"""A usual speed, image heights per frame: velocities are divided by it before a network sees them."""

FASTEST = 0.1
"""The largest speed along an axis that a particle in a video may have, image heights per frame."""


MOST = 64
"""Particles that can be born without the host's help in a network that was built for fewer."""


class Motion(NamedTuple):
    """What the core says of K particles in each of N worlds.

    acceleration: (N, K, 2), image heights per frame squared. late: (N, K, 2), image heights: a push in the
    middle of a frame moves a particle less far than ``integrate`` says, by this much. feature: (N, K, D).
    touch: (N, K, K), log odds that i and j collide within the next frame; (N, K, 1) from a core without
    interaction, which cannot know.
    """

    acceleration: Tensor
    late: Tensor
    feature: Tensor
    touch: Tensor


class Contact(nn.Module):
    """What two particles do to each other, learned as a law of their distance and approach.

    A network reads from each pair r, 1 / (r + SOFT), the speed of approach, the relative speed and the
    products of their charges, all of which are the same seen from either side, and answers with a, b, the
    share of the frame that is over when they meet, and the log odds of a collision. The acceleration of i by
    j is (a d / r + b dv) in units of ``PACE`` per frame, so what i feels is the opposite of what j feels and
    total momentum stays.

    dim: of the features. hidden: of the network. charges: read from a feature by a linear layer.
    Source: relative vectors weighted by invariants, Satorras, Hoogeboom, Welling 2021, "E(n) Equivariant
    Graph Neural Networks"; velocities in the same way are ours.
    """

    def __init__(self, dim: int, hidden: int, *, charges: int = 4) -> None:
        super().__init__()
        self.charge = nn.Linear(dim, charges)
        self.widen = nn.Linear(4 + charges, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.law = nn.Linear(hidden, 4)
        self.law.weight.data.mul_(0.1)

    def forward(
        self, position: Tensor, velocity: Tensor, feature: Tensor, alive: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """position, velocity: (N, K, 2); feature: (N, K, dim); alive: (N, K).

        Returns acceleration and lateness (see ``Motion``), (N, K, 2) in units of ``PACE``, and (N, K, K) log
        odds.
        """
        dx, dy = differences(position)
        ux, uy = differences(velocity * (1 / PACE))
        r = distance(dx, dy)
        nx, ny = dx / (r + 1e-3), dy / (r + 1e-3)
        charge = self.charge(feature)
        seen = torch.stack([10 * r, 0.3 / (r + SOFT), nx * ux + ny * uy, distance(ux, uy)], -1)
        known = torch.cat([seen, charge.unsqueeze(1) * charge.unsqueeze(2)], -1)
        said = self.law(torch.relu(self.mix(torch.relu(self.widen(known)))))
        linked = others(alive)
        a, b, over = said[..., 0] * linked, said[..., 1] * linked, torch.sigmoid(said[..., 2])
        x, y = a * nx + b * ux, a * ny + b * uy
        pull = torch.stack([x.sum(-1), y.sum(-1)], -1)
        return pull, torch.stack([(x * over).sum(-1), (y * over).sum(-1)], -1), said[..., 3]


class Core(nn.Module):
    """The interaction core: message rounds, then a force law, a contact law and a drive of its own.

    dim: of the features. hidden: of messages and laws. interact False: every particle is alone in a world
    of its own, with the same weights, to see what interaction is worth.
    """

    def __init__(self, dim: int, hidden: int, *, rounds: int = 1, interact: bool = True) -> None:
        super().__init__()
        self.dim, self.interact = dim, interact
        self.rounds = nn.ModuleList(Messages(dim, hidden) for _ in range(rounds))
        self.norm = Norm(dim)
        self.force = Force(dim)
        self.gain = nn.Parameter(torch.tensor(0.01))
        self.contact = Contact(dim, hidden)
        self.drive = nn.Linear(dim, 4)
        self.drive.weight.data.mul_(0.1)

    def forward(self, position: Tensor, velocity: Tensor, feature: Tensor, alive: Tensor) -> Motion:
        """position, velocity: (N, K, 2); feature: (N, K, dim); alive: (N, K). An empty place stays still."""
        if self.interact:
            return self.together(position, velocity, feature, alive)
        n, k = alive.shape
        p, v, h = (x.reshape(n * k, 1, -1) for x in (position, velocity, feature))
        moved = self.together(p, v, h, alive.reshape(n * k, 1))
        return Motion(*(x.reshape(n, k, -1) for x in moved))

    def together(self, position: Tensor, velocity: Tensor, feature: Tensor, alive: Tensor) -> Motion:
        """As ``forward``, for particles that share a world."""
        for layer in self.rounds:
            feature = layer(position, velocity * (1 / PACE), feature, alive)
        known = self.norm(feature)
        hit, late, touch = self.contact(position, velocity, known, alive)
        drive = self.drive(known)
        pull = self.gain * self.force(position, known, alive) + hit + drive[..., :2]
        pace = PACE * alive.unsqueeze(-1)
        return Motion(pull * pace, (late + drive[..., 2:]) * pace, feature, touch)


class Memory(nn.Module):
    """A minimal gated unit: (N, K, dim) seen now and (N, K, dim) remembered -> (N, K, dim) remembered.

    Source: Zhou et al. 2016, "Minimal Gated Unit for Recurrent Neural Networks".
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, dim)
        self.candidate = nn.Linear(2 * dim, dim)

    def forward(self, seen: Tensor, known: Tensor) -> Tensor:
        """The old memory where the gate is 0, the new one where it is 1."""
        gate = torch.sigmoid(self.gate(torch.cat([seen, known], -1)))
        new = torch.tanh(self.candidate(torch.cat([seen, gate * known], -1)))
        return known + gate * (new - known)


class Tokens(nn.Module):
    """A map at stride 8 of what a frame shows and of how it differs from the one before.

    widths: channels at stride 2, 4 and 8. depths: residual blocks at stride 4 and 8.
    """

    def __init__(self, widths: tuple[int, int, int], depths: tuple[int, int]) -> None:
        super().__init__()
        first, middle, last = widths
        self.stem = Layer(3, first, stride=2)
        self.pair = Layer(2 * first, middle, stride=2)
        self.middle = nn.Sequential(*(Residual(middle) for _ in range(depths[0])))
        self.down = Layer(middle, last, stride=2)
        self.last = nn.Sequential(*(Residual(last) for _ in range(depths[1])))

    def forward(self, seen: Tensor, before: Tensor) -> Tensor:
        """Stem features (B, C, H / 2, W / 2) of a frame and of the one before -> (B, D, H / 8, W / 8)."""
        x = self.middle(self.pair(torch.cat([seen, seen - before], 1)))
        return self.last(self.down(x))

    def clip(self, x: Tensor) -> Tensor:
        """All frames of x (N, 3, T, H, W) at once, zeros before frame 0: (N, T, D, H / 8, W / 8)."""
        n, _, t, h, w = x.shape
        x = x.transpose(1, 2).reshape(n * t, 3, h, w)
        seen = self.stem(x.contiguous(memory_format=torch.channels_last))
        by_time = seen.reshape(n, t, *seen.shape[1:])
        before = torch.cat([torch.zeros_like(by_time[:, :1]), by_time[:, :-1]], 1).flatten(0, 1)
        return self(seen, before).reshape(n, t, -1, h // 8, w // 8)


class Layer(nn.Module):
    """Convolution 3 x 3, batch norm, ReLU."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, cin, H, W) -> (B, cout, H / stride, W / stride)."""
        return torch.relu(self.norm(self.conv(x)))


class Residual(nn.Module):
    """A layer, a convolution with batch norm, and what came in added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = Layer(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        return torch.relu(x + self.norm(self.conv(self.layer(x))))


class Crowd(NamedTuple):
    """The particles between two frames.

    life: (N, K, 1): 0 never used, 2 just placed by the host, 1 alive, -1 dead. position (N, K, 2): where
    they are expected in the next frame. velocity: (N, K, 2). feature: (N, K, D).
    """

    life: Tensor
    position: Tensor
    velocity: Tensor
    feature: Tensor


class Seen(NamedTuple):
    """What one frame told.

    pooled: (N, P), the features an answer is made of. particles: (N, K, 7) of x, y, vx, vy, ax, ay,
    visibility. surprise: (N,), mean square of seen less expected position over the living, image heights^2.
    """

    pooled: Tensor
    particles: Tensor
    surprise: Tensor


class PvGraph(nn.Module):
    """The whole network. size: height and width of the frames, a multiple of 8. particles: K of ``step``.

    dim: of a particle's feature. hidden: of messages. interact: see ``Core``. ``ease`` is the learned share
    of the core's acceleration that moves a particle: what a core learned elsewhere is let in bit by bit.
    """

    warmup = WINDOW
    home: Tensor

    def __init__(
        self,
        classes: int,
        *,
        size: int,
        particles: int,
        widths: tuple[int, int, int],
        depths: tuple[int, int],
        dim: int,
        hidden: int,
        interact: bool = True,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.size, self.particles = size, particles
        self.register_buffer("home", lattice(max(MOST, particles)).unsqueeze(0), persistent=False)
        self.tokens = Tokens(widths, depths)
        self.region = Region(widths[2], dim, height=size // 8, width=size // 8)
        self.colour = ColourHistogram(4, stride=4, low=-2.0, high=2.44)
        self.edges = OrientationHistogram(4, stride=4)
        self.describe = Fused((dim, 12, 5, 2), dim)
        self.birth = nn.Parameter(0.1 * torch.randn(dim))
        self.memory = Memory(dim)
        self.trust = nn.Linear(dim, 3)
        self.core = Core(dim, hidden, interact=interact)
        self.ease = nn.Parameter(torch.tensor(0.1))
        self.hidden = nn.Linear(2 * dim + 4, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)
        self.context = nn.Linear(2 * widths[2], classes)

    def start(self, n: int, particles: int) -> Crowd:
        """K particles never used in each of N scenes."""
        zeros = self.birth.new_zeros(n, particles, 1)
        two = zeros.expand(-1, -1, 2)
        return Crowd(zeros, two, two, zeros.expand(-1, -1, len(self.birth)))

    def follow(self, frame: Tensor, tokens: Tensor, crowd: Crowd) -> tuple[Seen, Crowd]:
        """One frame of each of N scenes: what it tells, and the particles for the next one.

        frame: (N, 3, size / 2, size / 2), the frame at half size. tokens: (N, C, size / 8, size / 8).
        """
        crowd, living = self.born(crowd)
        alive = living.squeeze(-1)
        regions, masks = self.region(tokens, crowd.position, crowd.feature, alive)
        missed = (regions.position - crowd.position) * living
        looks = (self.colour(frame, masks), self.edges(frame, masks), missed * (1 / PACE))
        feature = self.memory(self.describe(regions.feature, *looks), crowd.feature)
        trust = torch.sigmoid(self.trust(feature))
        position = crowd.position + trust[..., :1] * missed
        velocity = (crowd.velocity + trust[..., 1:2] * missed).clamp(-FASTEST, FASTEST)
        moved = self.core(position, velocity, feature, alive)
        pull = (self.ease * moved.acceleration).clamp(-FASTEST, FASTEST)
        expected, speed = integrate(position, velocity, pull)
        visible = trust[..., 2:] * living
        seen = Seen(
            self.pool(tokens, moved.feature, torch.cat([velocity, pull], -1), visible),
            torch.cat([position, velocity, pull, visible], -1),
            (missed * missed).sum((1, 2)) / alive.sum(1).clamp(min=1.0),
        )
        return seen, Crowd(2 * living - 1, expected, speed, torch.tanh(moved.feature) * living)

    def born(self, crowd: Crowd) -> tuple[Crowd, Tensor]:
        """The particles at the start of a step, and 1 for the living, (N, K, 1), read from their life."""
        living = (crowd.life + 1).clamp(0, 1)
        placed = (crowd.life - 1).clamp(0, 1)
        first = (1 - crowd.life.abs()).clamp(0, 1)
        old = 1 - placed - first
        position = first * self.home[:, : crowd.life.shape[1]] + (1 - first) * crowd.position
        feature = (placed + first) * self.birth + old * crowd.feature
        return Crowd(crowd.life, position, old * crowd.velocity * living, feature * living), living

    def pool(self, tokens: Tensor, feature: Tensor, motion: Tensor, visible: Tensor) -> Tensor:
        """Features of a frame, (N, P): of the particles, then of the whole map, each by mean and maximum.

        motion: (N, K, 4) of velocity and acceleration, of which the lengths count.
        """
        share = visible / (visible.sum(1, keepdim=True) + 1e-3)
        speed = distance(motion[..., 0], motion[..., 1])
        force = distance(motion[..., 2], motion[..., 3])
        known = torch.cat([feature, torch.stack([speed, force], -1) * (1 / PACE)], -1)
        largest = (torch.relu(known) * visible).amax(1)
        return torch.cat([(share * known).sum(1), largest, tokens.mean((2, 3)), tokens.amax((2, 3))], -1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits of features averaged over the window: what the map says and what the particles say.

        (..., P) -> (..., classes).
        """
        told, seen = pooled.split([self.hidden.in_features, self.context.in_features], -1)
        return self.context(seen) + self.head(self.dropout(torch.relu(self.hidden(told))))

    def watch(self, x: Tensor, particles: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """All frames of x (N, 3, T, H, W): pooled (N, T, P), particles (N, T, K, 7), surprise (N, T)."""
        n, _, t, h, w = x.shape
        tokens = self.tokens.clip(x)
        half = F.avg_pool2d(x.transpose(1, 2).flatten(0, 1), 2).reshape(n, t, 3, h // 2, w // 2)
        crowd = self.start(n, particles or self.particles)
        rows = []
        for i in range(t):
            seen, crowd = self.follow(half[:, i], tokens[:, i], crowd)
            rows.append(seen)
        pooled, followed, surprise = (torch.stack(part, 1) for part in zip(*rows, strict=True))
        return pooled, followed, surprise

    def windowed(self, pooled: Tensor) -> Tensor:
        """Logits after every frame, (N, T, P) -> (N, T, classes)."""
        seen = F.pad(pooled.transpose(1, 2), (WINDOW - 1, 0))
        return self.classify(F.avg_pool1d(seen, WINDOW, 1).transpose(1, 2))

    def frame_logits(self, x: Tensor, particles: int | None = None) -> Tensor:
        """Logits after every frame of x (N, 3, T, H, W): (N, T, classes); not valid before ``warmup``."""
        return self.windowed(self.watch(x, particles)[0])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) after the last frame of x: (N, 3, T, H, W)."""
        return self.classify(self.watch(x)[0][:, -WINDOW:].sum(1) * (1 / WINDOW))

    def init_state(self) -> dict[str, Tensor]:
        """Zero states in the order ``step`` takes them: the particles, the stem, the pooled features."""
        crowd = self.start(1, self.particles)
        side = self.size // 2
        return {
            **{name: value.clone() for name, value in crowd._asdict().items()},
            "before": self.birth.new_zeros(1, self.tokens.stem.conv.out_channels, side, side),
            "pool": self.birth.new_zeros(1, WINDOW - 1, self.hidden.in_features + self.context.in_features),
        }

    def step(
        self,
        frame: Tensor,
        life: Tensor,
        position: Tensor,
        velocity: Tensor,
        feature: Tensor,
        before: Tensor,
        pool: Tensor,
    ) -> tuple[Tensor, ...]:
        """One new frame (1, 3, H, W) and the states.

        Returns (logits (1, classes), particles (1, K, 7), surprise (1, 1), *new states). Surprise is how far
        the living were from where they were expected, root mean square, in units of ``PACE``.
        """
        stem = self.tokens.stem(frame)
        crowd = Crowd(life, position, velocity, feature)
        seen, crowd = self.follow(F.avg_pool2d(frame, 2), self.tokens(stem, before), crowd)
        recent = torch.cat([pool, seen.pooled.unsqueeze(1)], 1)
        surprise = torch.sqrt(seen.surprise + TINY).reshape(1, 1) * (1 / PACE)
        return self.classify(recent.mean(1)), seen.particles, surprise, *crowd, stem, recent[:, 1:]


def nano(classes: int = 2, *, size: int = 96, particles: int = 16, interact: bool = True) -> PvGraph:
    """pv-graph nano: trained on frames of 96 x 96."""
    return PvGraph(
        classes,
        size=size,
        particles=particles,
        widths=(8, 16, 32),
        depths=(0, 2),
        dim=32,
        hidden=48,
        interact=interact,
    )


def small(classes: int = 2, *, size: int = 128, particles: int = 16, interact: bool = True) -> PvGraph:
    """pv-graph small: trained on frames of 128 x 128."""
    return PvGraph(
        classes,
        size=size,
        particles=particles,
        widths=(16, 32, 64),
        depths=(1, 2),
        dim=64,
        hidden=96,
        interact=interact,
    )


class Bodies(nn.Module):
    """The core on particles whose state is given: discs with a charge. A step is one frame.

    dim, hidden, interact: see ``Core``.
    """

    def __init__(self, dim: int, hidden: int, *, interact: bool = True) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.core = Core(dim, hidden, interact=interact)

    def forward(self, position: Tensor, velocity: Tensor, charge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """position, velocity: (N, K, 2); charge: (N, K).

        Returns position and velocity one frame later, and the log odds of collisions on the way (N, K, K).
        """
        known = torch.cat([4 * position - 2, velocity * (1 / PACE), charge.unsqueeze(-1)], -1)
        moved = self.core(position, velocity, self.embed(known), torch.ones_like(charge))
        there, speed = integrate(position, velocity, moved.acceleration)
        return there - moved.late, speed, moved.touch

    def roll(
        self, position: Tensor, velocity: Tensor, charge: Tensor, frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``frames`` steps, each from its own answer: (N, T, K, 2), (N, T, K, 2), (N, T, K, K)."""
        rows = []
        for _ in range(frames):
            position, velocity, touch = self(position, velocity, charge)
            rows.append((position, velocity, touch))
        where, speeds, touches = (torch.stack(part, 1) for part in zip(*rows, strict=True))
        return where, speeds, touches


class Joints(nn.Module):
    """The core on body points whose tracks are given: what is the person doing?

    In every frame the points act on each other; what that leaves of them is one vector per frame, and two
    convolutions over time and a mean and maximum make the answer of these.

    classes: of actions. points: of the body, each with an identity that is learned. The points are
    particles in a picture: ``SPAN`` of their unit is an image height. dim, hidden, interact: see ``Core``.
    """

    SPAN = 4.0

    def __init__(
        self, classes: int, *, points: int, dim: int, hidden: int, interact: bool = True, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.identity = nn.Parameter(0.5 * torch.randn(points, dim))
        self.embed = nn.Linear(4, dim)
        self.core = Core(dim, hidden, interact=interact)
        self.frame = nn.Linear(points * (dim + 2), 2 * hidden)
        self.time = nn.Sequential(
            nn.Conv1d(2 * hidden, 2 * hidden, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(2 * hidden, 2 * hidden, 5, padding=2),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * hidden, classes)

    def forward(self, points: Tensor) -> Tensor:
        """points: (N, T, K, 2), in units of the body. Returns logits (N, classes)."""
        n, t = points.shape[:2]
        position = points / self.SPAN + 0.5
        velocity = torch.cat([torch.zeros_like(position[:, :1]), position[:, 1:] - position[:, :-1]], 1)
        known = torch.cat([4 * points, velocity * (1 / PACE)], -1)
        feature = torch.relu(self.embed(known) + self.identity).flatten(0, 1)
        position, velocity = position.flatten(0, 1), velocity.flatten(0, 1)
        moved = self.core(position, velocity, feature, torch.ones_like(position[..., 0]))
        told = torch.cat([moved.feature, moved.acceleration * (1 / PACE)], -1).flatten(1)
        frames = torch.relu(self.frame(self.dropout(told))).reshape(n, t, -1)
        over_time = self.time(frames.transpose(1, 2))
        return self.head(self.dropout(torch.cat([over_time.mean(2), over_time.amax(2)], 1)))
