"""The simulator keeps what physics keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepv.errors import UsageError
from edgepv.zoo.training.physics import World, advance, energy, film, simulate

OPEN = World(walls=False)


def test_energy_and_momentum_stay_without_walls() -> None:
    world = replace(OPEN, count=10, substeps=64)
    got = film(world, np.random.default_rng(0), films=20, frames=30)
    first, last = (energy(world, got.position[:, t], got.velocity[:, t], got.charge) for t in (0, -1))
    assert got.touched.any()
    assert np.abs(last / first - 1).max() < 0.02
    assert np.abs(got.velocity.sum(2) - got.velocity[:, :1].sum(2)).max() < 1e-12


def test_two_equal_discs_that_meet_head_on_swap_velocities() -> None:
    position = np.array([[[0.40, 0.5], [0.60, 0.5]]])
    velocity = np.array([[[0.03, 0.0], [-0.01, 0.0]]])
    got = simulate(OPEN, position, velocity, np.zeros((1, 2)), frames=8)
    assert np.allclose(got.velocity[0, -1], [[-0.01, 0.0], [0.03, 0.0]])
    # 0.12 apart edge to edge, closing at 0.04 per frame: they touch as the third frame ends
    assert np.flatnonzero(got.touched[0, :, 0, 1]).tolist() == [3]


def test_a_disc_that_is_only_grazed_keeps_the_speed_across() -> None:
    position = np.array([[[0.40, 0.5], [0.47, 0.53]]])
    velocity = np.array([[[0.02, 0.0], [0.0, 0.0]]])
    _, after, touched = advance(OPEN, position, velocity, np.zeros((1, 2)))
    assert touched[0, 0, 1]
    assert after.sum(1)[0] == pytest.approx([0.02, 0.0])
    assert (after**2).sum() == pytest.approx(0.02**2)


def test_reversed_time_leads_back_to_the_start() -> None:
    world = replace(OPEN, radius=0.0)
    got = film(world, np.random.default_rng(1), films=5, frames=20)
    back = simulate(world, got.position[:, -1], -got.velocity[:, -1], got.charge, frames=20)
    assert np.allclose(back.position[:, -1], got.position[:, 0], atol=1e-12)
    assert np.allclose(back.velocity[:, -1], -got.velocity[:, 0], atol=1e-12)


@pytest.mark.parametrize(("charges", "sign"), [((1, 1), 1), ((1, -1), -1), ((1, 0), 0)])
def test_equal_charges_part_and_opposite_ones_meet(charges: tuple[int, int], sign: int) -> None:
    position = np.array([[[0.3, 0.5], [0.7, 0.5]]])
    got = simulate(OPEN, position, np.zeros((1, 2, 2)), np.array([charges], float), frames=4)
    gap = got.position[0, -1, 1, 0] - got.position[0, -1, 0, 0]
    assert np.sign(np.round(gap - 0.4, 12)) == sign


def test_the_box_holds_its_discs() -> None:
    world = World()
    got = film(world, np.random.default_rng(2), films=10, frames=40)
    slack = world.speed * 3 / world.substeps
    assert got.position.min() > world.radius - slack
    assert got.position.max() < 1 - world.radius + slack


def test_no_two_discs_touch_at_the_start() -> None:
    got = film(World(count=12), np.random.default_rng(3), films=50, frames=1)
    d = got.position[:, 0, :, None] - got.position[:, 0, None]
    gap = np.sqrt((d * d).sum(-1)) + np.eye(12)
    assert gap.min() >= 2 * World().radius


def test_too_many_discs_are_refused() -> None:
    with pytest.raises(UsageError, match="find no free places"):
        film(World(count=20, radius=0.3), np.random.default_rng(0), films=1, frames=1)
