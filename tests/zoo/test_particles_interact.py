"""Interactions against plain loops over pairs, and the laws of physics they must keep."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from edgepv.zoo.particles.decompose import lattice
from edgepv.zoo.particles.interact import SOFT, Force, Messages, edges, integrate

DIM = 8

Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def lively(net: nn.Module) -> nn.Module:
    """The module with no parameter at a value of which a mistake would not show."""
    for p in net.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.3)
    return net.eval()


def force() -> tuple[nn.Module, Operator]:
    net = lively(Force(DIM))
    return net, lambda position, velocity, feature, alive: net(position, feature, alive)


def messages() -> tuple[nn.Module, Operator]:
    net = lively(Messages(DIM, 16))
    return net, net


Make = Callable[[], tuple[nn.Module, Operator]]
EVERY = pytest.mark.parametrize("make", [force, messages])


def particles(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, velocities, features of k particles."""
    position = (lattice(k) + 0.03 * torch.randn(k, 2)).unsqueeze(0)
    return position, 0.1 * torch.randn(1, k, 2), torch.randn(1, k, DIM)


def numbers(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().numpy().astype(np.float64) for t in tensors]


def linear(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    assert isinstance(layer, nn.Linear)
    y = layer.weight.detach().numpy().astype(np.float64) @ x
    return y if layer.bias is None else y + layer.bias.detach().numpy()


def norm(net: Messages, x: np.ndarray) -> np.ndarray:
    weight, bias = numbers(net.norm.weight, net.norm.bias)
    x = x - x.mean()
    return np.asarray(x / np.sqrt((x * x).mean() + 1e-5) * weight + bias)


def test_forces_are_summed_over_pairs_as_loops_do() -> None:
    net, _ = force()
    assert isinstance(net, Force)
    position, _, feature = particles(5)
    position[0, 1] = position[0, 0] + 0.02  # inside the contact radius
    alive = torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0]])
    x, h = (a[0] for a in numbers(position, feature))
    sign, push = numbers(net.sign, net.push)
    wanted = np.zeros((5, 2))
    for i in (0, 1, 2, 4):
        for j in (0, 1, 2, 4):
            if i != j:
                d = x[j] - x[i]
                r = math.hypot(*d)
                a = sum(sign * linear(net.charge, h[i]) * linear(net.charge, h[j]))
                core = math.log1p(math.exp(push)) * max(0.0, 1 - r / 0.1)
                wanted[i] += (a / (r + SOFT) - core) * d / (r + SOFT)
    got = net(position, feature, alive)[0].detach().numpy()
    assert np.allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_forces_are_equal_and_opposite() -> None:
    net, _ = force()
    position, _, feature = particles(2)
    first, second = net(position, feature, torch.ones(1, 2))[0]
    assert first.norm() > 0.1
    assert torch.allclose(first, -second, rtol=1e-5)


def test_forces_alone_keep_the_total_momentum() -> None:
    net, _ = force()
    position, velocity, feature = particles(12)
    before = velocity.sum(1)
    moved = velocity
    for _ in range(100):
        position, moved = integrate(position, moved, 0.01 * net(position, feature, torch.ones(1, 12)), 0.1)
    assert (moved - velocity).abs().max() > 0.01
    assert torch.allclose(moved.sum(1), before, atol=1e-4)


@pytest.mark.parametrize(("sign", "towards"), [(1.0, True), (-1.0, False)])
def test_the_learned_sign_attracts_or_repels(sign: float, towards: bool) -> None:
    net = Force(DIM, charges=1)
    net.sign.data.fill_(sign)
    position = torch.tensor([[[0.2, 0.5], [0.8, 0.5]]])
    alike = torch.ones(1, 2, DIM)
    pulled = net(position, alike, torch.ones(1, 2))
    assert (pulled[0, 0, 0].item() > 0) is towards
    assert (pulled[0, 1, 0].item() < 0) is towards
    assert pulled[0, :, 1].abs().max() < 1e-6


def test_contact_pushes_apart_what_does_not_attract() -> None:
    net = Force(DIM)
    net.sign.data.zero_()
    near, apart = (torch.tensor([[[0.5, 0.5], [0.5 + d, 0.5]]]) for d in (0.05, 0.15))
    feature, alive = torch.ones(1, 2, DIM), torch.ones(1, 2)
    assert net(near, feature, alive)[0, 0, 0].item() < -0.1
    assert not net(apart, feature, alive).any()


def test_messages_are_those_of_loops_over_edges() -> None:
    net, _ = messages()
    assert isinstance(net, Messages)
    position, velocity, feature = particles(4)
    alive = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    x, v, h = (a[0] for a in numbers(position, velocity, feature))
    known = [norm(net, row) for row in h]
    wanted = h.copy()
    for i in (0, 1, 3):
        heard = []
        for j in (0, 1, 3):
            if i != j:
                r = math.hypot(*(x[j] - x[i]))
                edge = np.array([*(x[j] - x[i]), *(v[j] - v[i]), r, 1 / (r + SOFT)])
                total = linear(net.receiver, known[i]) + linear(net.sender, known[j]) + linear(net.edge, edge)
                heard.append(np.maximum(total, 0))
        both = np.concatenate([known[i], np.mean(heard, 0)])
        wanted[i] += linear(net.update[2], np.maximum(linear(net.update[0], both), 0))
    got = net(position, velocity, feature, alive)[0].detach().numpy()
    assert np.allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_an_edge_knows_the_way_and_the_distance() -> None:
    position = torch.tensor([[[0.1, 0.2], [0.4, 0.6]]])
    velocity = torch.tensor([[[0.0, 0.1], [0.3, 0.0]]])
    wanted = [0.3, 0.4, 0.3, -0.1, 0.5, 1 / 0.55]
    assert edges(position, velocity)[0, 0, 1].tolist() == pytest.approx(wanted, abs=1e-5)


@EVERY
def test_one_set_of_weights_serves_any_number_of_particles(make: Make) -> None:
    _, act = make()
    for k in (1, 2, 7, 33):
        answer = act(*particles(k), torch.ones(1, k))
        assert answer.shape[1] == k and torch.isfinite(answer).all()


@EVERY
def test_empty_places_change_nothing_for_the_living(make: Make) -> None:
    _, act = make()
    position, velocity, feature = particles(9)
    alive = torch.tensor([[1.0] * 5 + [0.0] * 4])
    padded = act(position, velocity, feature, alive)
    exact = act(position[:, :5], velocity[:, :5], feature[:, :5], torch.ones(1, 5))
    assert torch.allclose(padded[:, :5], exact, atol=1e-5)
    still = torch.zeros(1, 4, 2) if make is force else feature[:, 5:]
    assert torch.equal(padded[:, 5:], still)


@EVERY
def test_the_order_of_the_particles_does_not_matter(make: Make) -> None:
    _, act = make()
    position, velocity, feature = particles(6)
    turned, alive = torch.randperm(6), torch.ones(1, 6)
    after = act(position[:, turned], velocity[:, turned], feature[:, turned], alive)
    assert torch.allclose(after, act(position, velocity, feature, alive)[:, turned], atol=1e-5)


@EVERY
def test_only_differences_of_positions_matter(make: Make) -> None:
    _, act = make()
    position, velocity, feature = particles(6)
    moved = act(position + 0.25, velocity, feature, torch.ones(1, 6))
    assert torch.allclose(moved, act(position, velocity, feature, torch.ones(1, 6)), atol=1e-4)


@EVERY
@pytest.mark.parametrize("living", [0, 1, 4])
def test_gradients_are_finite_where_particles_coincide(make: Make, living: int) -> None:
    net, act = make()
    _, velocity, feature = particles(4)
    position = torch.full((1, 4, 2), 0.5, requires_grad=True)
    feature.requires_grad_()
    alive = torch.tensor([[1.0] * living + [0.0] * (4 - living)])
    answer = act(position, velocity, feature, alive)
    assert torch.isfinite(answer).all()
    answer.square().sum().backward()
    for value in (position, feature, *net.parameters()):
        assert value.grad is None or torch.isfinite(value.grad).all()
    assert position.grad is not None and feature.grad is not None


def test_coinciding_particles_exert_no_force() -> None:
    net, _ = force()
    _, _, feature = particles(3)
    assert not net(torch.full((1, 3, 2), 0.5), feature, torch.ones(1, 3)).any()


def test_a_step_uses_the_new_velocity() -> None:
    one = torch.ones(1, 1, 2)
    position, velocity = integrate(0 * one, 2 * one, 3 * one, dt=0.5)
    assert velocity[0, 0].tolist() == [3.5, 3.5]
    assert position[0, 0].tolist() == [1.75, 1.75]


@pytest.mark.slow
def test_an_oscillator_keeps_its_energy_for_a_thousand_turns() -> None:
    position, velocity = torch.tensor([[[1.0, 0.0]]]).double(), torch.tensor([[[0.0, 1.0]]]).double()
    energy = []
    for _ in range(62_832):
        position, velocity = integrate(position, velocity, -position, 0.1)
        energy.append(float((position.square() + velocity.square()).sum() / 2))
    assert min(energy) > 0.9 and max(energy) < 1.1  # explicit Euler gains 1 % in every step
