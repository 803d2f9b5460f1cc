"""Interact: what particles do to each other, and where that moves them.

All pairs are looked at, as dense K x K tables: K is small on a camera, and dense tables need no gather and
no scatter. Physics of this kind does not survive INT8 activations: keep these layers in float.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.zoo.particles.decompose import Norm

SOFT = 0.05
"""Image heights added to a distance before it divides: closer than this, particles are as good as one."""

TINY = 1e-12
"""Added to a squared distance before the root, whose slope at 0 has no end."""


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: (N, K, 2), positions or velocities. Returns (dx, dy), each (N, K, K): entry i, j is x_j - x_i."""
    a, b = x[..., 0], x[..., 1]
    return a.unsqueeze(1) - a.unsqueeze(2), b.unsqueeze(1) - b.unsqueeze(2)


def distance(dx: Tensor, dy: Tensor) -> Tensor:
    """Length of (dx, dy), at least 1e-6; its gradient is 0, not infinite, where both are 0."""
    return torch.sqrt(dx * dx + dy * dy + TINY)


def others(alive: Tensor) -> Tensor:
    """(N, K) -> (N, K, K): 1 where i and j both live and are not the same particle.

    The diagonal comes from numpy, so it is a constant in an exported graph: LiteRT has no torch.eye.
    """
    apart = torch.from_numpy(1 - np.eye(alive.shape[1], dtype=np.float32)).to(alive)
    return alive.unsqueeze(1) * alive.unsqueeze(2) * apart


def integrate(
    position: Tensor, velocity: Tensor, acceleration: Tensor, dt: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One semi-implicit Euler step: (next position, next velocity), each (N, K, 2).

    The new velocity moves the position, which makes the step symplectic: an orbit stays an orbit, where
    explicit Euler spirals out. acceleration: image heights per frame squared. dt: frames.
    Source: Hairer, Lubich, Wanner 2006, "Geometric Numerical Integration", I.1.
    """
    velocity = velocity + acceleration * dt
    return position + velocity * dt, velocity


class Force(nn.Module):
    """Signed force between every two particles, with a soft core and a push at contact.

    Particle i feels, from j at distance r, along d = x_j - x_i,

        f_ij = (a_ij / (r + SOFT) - c * max(0, 1 - r / contact)) * d / (r + SOFT)

    so it is drawn to j where a_ij > 0 and pushed away where a_ij < 0. a_ij = sum over charges of
    sign * q_i * q_j with charges q that a linear layer reads from the features, and a learned sign for each
    charge. c >= 0 is learned, the push ends at ``contact`` (image heights). f_ij = -f_ji always, so forces
    alone keep the total momentum; at r = 0 the force is 0.

    dim: of the features. Source of the softening: Plummer 1911; of charges read from features:
    Battaglia et al. 2016, "Interaction Networks", where the law between two particles is learned as well.
    """

    def __init__(self, dim: int, *, charges: int = 4, contact: float = 0.1) -> None:
        super().__init__()
        self.contact = contact
        self.charge = nn.Linear(dim, charges)
        alternating = torch.tensor([1.0, -1.0]).repeat(charges)[:charges]
        self.sign = nn.Parameter(alternating / charges)
        self.push = nn.Parameter(torch.zeros(()))

    def forward(self, position: Tensor, feature: Tensor, alive: Tensor) -> Tensor:
        """position: (N, K, 2); feature: (N, K, dim); alive: (N, K). Returns the force on each (N, K, 2).

        Divide by the masses for the acceleration; with equal masses it is the acceleration.
        """
        dx, dy = differences(position)
        r = distance(dx, dy)
        charge = self.charge(feature)
        pull = (charge * self.sign) @ charge.transpose(1, 2)
        core = F.softplus(self.push) * torch.relu(1 - r * (1 / self.contact))
        weight = (pull / (r + SOFT) - core) / (r + SOFT) * others(alive)
        return torch.stack([(weight * dx).sum(-1), (weight * dy).sum(-1)], -1)


class Messages(nn.Module):
    """One round of messages along every edge, and the features they leave.

    The edge from j to i carries [h_i, h_j, dx, dy, dvx, dvy, r, 1 / (r + SOFT)] through a linear layer and
    a ReLU; particle i takes the mean over the living others, so the answer keeps its size for any K, and
    adds an update of its own feature and that mean. The layer on h_i and h_j runs once per particle, not
    once per edge, which is the same sum.

    dim: of the features. hidden: of a message.
    Source: Gilmer et al. 2017, "Neural Message Passing"; edges as in Sanchez-Gonzalez et al. 2020,
    "Learning to Simulate Complex Physics with Graph Networks".
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = Norm(dim)
        self.receiver = nn.Linear(dim, hidden)
        self.sender = nn.Linear(dim, hidden, bias=False)
        self.edge = nn.Linear(6, hidden, bias=False)
        self.update = nn.Sequential(nn.Linear(dim + hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, position: Tensor, velocity: Tensor, feature: Tensor, alive: Tensor) -> Tensor:
        """position, velocity: (N, K, 2); feature: (N, K, dim); alive: (N, K).

        Returns (N, K, dim); the feature of an empty place stays as it is.
        """
        known = self.norm(feature)
        along = self.edge(edges(position, velocity))
        sent = torch.relu(self.receiver(known).unsqueeze(2) + self.sender(known).unsqueeze(1) + along)
        linked = others(alive)
        share = linked / linked.sum(-1, keepdim=True).clamp(min=1.0)
        heard = (share.unsqueeze(2) @ sent).squeeze(2)
        return feature + self.update(torch.cat([known, heard], -1)) * alive.unsqueeze(-1)


def edges(position: Tensor, velocity: Tensor) -> Tensor:
    """What an edge knows without features: (N, K, K, 6) of dx, dy, dvx, dvy, r, 1 / (r + SOFT)."""
    dx, dy = differences(position)
    r = distance(dx, dy)
    return torch.stack([dx, dy, *differences(velocity), r, 1 / (r + SOFT)], -1)
