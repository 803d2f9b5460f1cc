"""A small world with exact ground truth: charged discs in a box that push, pull and collide.

All discs have the same mass and radius. Two of them at distance vector d feel

    f = strength * q_i * q_j * d / (|d|^2 + SOFT^2)^(3/2)

so equal charges repel and opposite ones attract; discs that touch, and discs that touch a wall, bounce
without loss. A frame is cut into many small steps, so what is written down per frame is exact to far more
digits than a network learns. Lengths are in image heights, times in frames, numbers are float64.

Source of the step: velocity Verlet (Swope et al. 1982), which is exact in reverse and keeps the energy;
of the softened force: Plummer 1911.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgepv.errors import UsageError

SOFT = 0.1
"""Distance at which the force stops growing, in image heights."""


@dataclass(frozen=True)
class World:
    """The rules of a world.

    count: discs. radius: of a disc, image heights. speed: largest speed at the start, image heights per
    frame. strength: of the force, image heights^3 per frame^2. walls: whether the box [0, 1] x [0, 1] holds
    the discs in; without it the plane has no end. substeps: small steps per frame.
    """

    count: int = 8
    radius: float = 0.04
    speed: float = 0.02
    strength: float = 5e-5
    walls: bool = True
    substeps: int = 16


class Film(NamedTuple):
    """What happened in B worlds over T frames.

    position, velocity: (B, T, K, 2). charge: (B, K), -1, 0 or 1. touched: (B, T, K, K) bool, whether two
    discs collided between frame t - 1 and frame t; all False in frame 0.
    """

    position: np.ndarray
    velocity: np.ndarray
    charge: np.ndarray
    touched: np.ndarray


def film(world: World, rng: np.random.Generator, *, films: int, frames: int) -> Film:
    """``films`` worlds with random starts, over ``frames`` frames."""
    position = _places(world, rng, films)
    speed = world.speed * np.sqrt(rng.random((films, world.count, 1)))
    angle = rng.uniform(0, 2 * np.pi, (films, world.count))
    velocity = speed * np.stack([np.cos(angle), np.sin(angle)], -1)
    charge = rng.integers(-1, 2, (films, world.count)).astype(np.float64)
    return simulate(world, position, velocity, charge, frames=frames)


def simulate(
    world: World, position: np.ndarray, velocity: np.ndarray, charge: np.ndarray, *, frames: int
) -> Film:
    """Run B worlds from a given start. position, velocity: (B, K, 2); charge: (B, K)."""
    touched = np.zeros((*charge.shape, charge.shape[1]), bool)
    rows = [(position, velocity, touched)]
    for _ in range(frames - 1):
        rows.append(advance(world, rows[-1][0], rows[-1][1], charge))
    where, speeds, hits = (np.stack(part, 1) for part in zip(*rows, strict=True))
    return Film(where, speeds, charge, hits)


def advance(
    world: World, position: np.ndarray, velocity: np.ndarray, charge: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One frame later: (position, velocity, touched) of B worlds, shapes as in ``simulate`` and ``Film``."""
    dt = 1 / world.substeps
    position, velocity = position.copy(), velocity.copy()
    touched = np.zeros((*charge.shape, charge.shape[1]), bool)
    pull = acceleration(world, position, charge)
    for _ in range(world.substeps):
        velocity += 0.5 * dt * pull
        position += dt * velocity
        pull = acceleration(world, position, charge)
        velocity += 0.5 * dt * pull
        _collide(world, position, velocity, touched)
        if world.walls:
            _bounce(world, position, velocity)
    return position, velocity, touched


def acceleration(world: World, position: np.ndarray, charge: np.ndarray) -> np.ndarray:
    """Of every disc by all others, (B, K, 2), image heights per frame squared."""
    d = position[:, :, None] - position[:, None]
    weight = (d * d).sum(-1) + SOFT**2
    weight = world.strength * charge[:, :, None] * charge[:, None] / (weight * np.sqrt(weight))
    return (weight[..., None] * d).sum(2)


def energy(world: World, position: np.ndarray, velocity: np.ndarray, charge: np.ndarray) -> np.ndarray:
    """Kinetic and potential energy of each of B worlds together, (B,), for discs of mass 1."""
    d = position[:, :, None] - position[:, None]
    pairs = charge[:, :, None] * charge[:, None] / np.sqrt((d * d).sum(-1) + SOFT**2)
    own = charge * charge / SOFT
    return 0.5 * (velocity**2).sum((1, 2)) + 0.5 * world.strength * (pairs.sum((1, 2)) - own.sum(1))


def _collide(world: World, position: np.ndarray, velocity: np.ndarray, touched: np.ndarray) -> None:
    """Two discs that overlap and approach swap the parts of their velocities along the line between them.

    Pairs take turns, so a disc between two others keeps momentum and energy as well.
    """
    d = position[:, :, None] - position[:, None]
    close = np.triu((d * d).sum(-1) < (2 * world.radius) ** 2, 1)
    for i, j in np.argwhere(close.any(0)):
        at = np.flatnonzero(close[:, i, j])
        line = d[at, i, j] / np.linalg.norm(d[at, i, j], axis=-1, keepdims=True)
        along = ((velocity[at, i] - velocity[at, j]) * line).sum(-1, keepdims=True)
        at, along, line = at[along[:, 0] < 0], along[along[:, 0] < 0], line[along[:, 0] < 0]
        velocity[at, i] -= along * line
        velocity[at, j] += along * line
        touched[at, i, j] = touched[at, j, i] = True


def _bounce(world: World, position: np.ndarray, velocity: np.ndarray) -> None:
    """A disc that touches a wall and moves into it turns back."""
    low, high = position < world.radius, position > 1 - world.radius
    np.abs(velocity, out=velocity, where=low)
    np.negative(np.abs(velocity), out=velocity, where=high)


def _places(world: World, rng: np.random.Generator, films: int) -> np.ndarray:
    """Starting places inside the box where no two discs touch, (films, count, 2).

    Raises UsageError if the discs are too many or too large to be placed at random.
    """
    at = rng.uniform(world.radius, 1 - world.radius, (films, world.count, 2))
    for _ in range(1000):
        d = at[:, :, None] - at[:, None]
        close = np.triu((d * d).sum(-1) < (2 * world.radius) ** 2, 1)
        b, k = np.nonzero(close.any(1))
        if not b.size:
            return at
        at[b, k] = rng.uniform(world.radius, 1 - world.radius, (b.size, 2))
    raise UsageError(
        f"{world.count} discs of radius {world.radius} find no free places in the box. "
        "Take fewer or smaller ones"
    )
