"""Reconstruction against plain loops, and that a frame comes back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edgepv.zoo.particles.decompose import grid
from edgepv.zoo.particles.describe import WIDEST
from edgepv.zoo.particles.reconstruct import Discriminator, Generator, Splat, hinge


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_a_cell_belongs_to_near_particles_and_shows_their_polynomials() -> None:
    net = Splat(5, 2, height=4, width=6)
    position, scale, feature = torch.rand(1, 3, 2), 0.1 + torch.rand(1, 3), torch.randn(1, 3, 5)
    got, cells = net(position, scale, feature)[0].detach().double().numpy(), grid(4, 6)
    width = float(net.log_width.detach().exp())
    for m in range(24):
        near, painted = [], []
        for k in range(3):
            d = (cells[m] - position[0, k]).double().numpy()
            s = float(scale[0, k])
            near.append(np.exp(-(d @ d) / (2 * (width * s) ** 2)))
            u, v = np.clip(d / s, -WIDEST, WIDEST)
            coefficients = net.coefficients(feature[0, k]).detach().double().numpy().reshape(6, 2)
            painted.append(np.array([1, u, v, u * u, u * v, v * v]) @ coefficients)
        wanted = sum(n * p for n, p in zip(near, painted, strict=True)) / sum(near)
        assert np.allclose(got[:, m // 6, m % 6], wanted, atol=1e-4)


def slow_conv(x: np.ndarray, layer: torch.nn.Conv2d) -> np.ndarray:
    """A 3 x 3 convolution with zeros outside, (C, H, W) -> (D, H, W)."""
    assert layer.bias is not None
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    _, h, w = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    y = np.zeros((len(weight), h, w))
    for i in range(h):
        for j in range(w):
            for d in range(len(weight)):
                y[d, i, j] = (padded[:, i : i + 3, j : j + 3] * weight[d]).sum() + bias[d]
    return y


def test_a_generator_is_convolutions_and_pixels_out_of_channels() -> None:
    net = Generator(5, 3, up=2, hidden=6)
    x = torch.randn(1, 5, 3, 4)
    frame = net(x)[0].detach().numpy()
    assert frame.shape == (3, 6, 8)
    y = np.maximum(slow_conv(x[0].numpy(), net.mix), 0)
    y = y + slow_conv(np.maximum(slow_conv(y, net.block.first), 0), net.block.second)
    y = slow_conv(np.maximum(y, 0), net.paint)
    for c in range(3):
        for i in range(6):
            for j in range(8):
                channel = 4 * c + 2 * (i % 2) + j % 2
                assert frame[c, i, j] == pytest.approx(y[channel, i // 2, j // 2], abs=1e-4)


def test_gradients_are_finite_where_particles_coincide_far_from_the_map() -> None:
    net = Splat(5, 3, height=3, width=4)
    position, scale = (
        torch.full((1, 2, 2), 9.0, requires_grad=True),
        torch.full((1, 2), 0.01, requires_grad=True),
    )
    feature = torch.randn(1, 2, 5, requires_grad=True)
    net(position, scale, feature).square().sum().backward()
    for value in (position, scale, feature):
        assert value.grad is not None and torch.isfinite(value.grad).all()


def test_two_particles_can_be_trained_to_paint_two_halves() -> None:
    net, wanted = Splat(2, 1, height=4, width=4), torch.zeros(1, 1, 4, 4)
    wanted[..., :2] = 1
    position, scale = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]), torch.full((1, 2), 0.3)
    adam = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(150):
        adam.zero_grad()
        loss = (net(position, scale, torch.eye(2)[None]) - wanted).square().mean()
        loss.backward()
        adam.step()
    assert loss.item() < 0.01


def test_a_score_sees_46_pixels() -> None:
    frame = torch.randn(1, 3, 128, 128, requires_grad=True)
    scores = Discriminator(3, width=4).eval()(frame)
    assert scores.shape == (1, 1, 15, 15)
    scores[0, 0, 7, 7].backward()
    assert frame.grad is not None
    seen = frame.grad[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [46, 46]


def test_the_hinge_is_0_only_when_both_sides_are_told_apart() -> None:
    one = torch.ones(2, 1, 3, 3)
    assert hinge(one, -one).item() == 0
    assert hinge(0 * one, 0 * one).item() == 2
    assert hinge(-one, 2 * one).item() == 5


def test_a_discriminator_learns_to_tell_frames_apart() -> None:
    net = Discriminator(1, width=4)
    adam = torch.optim.Adam(net.parameters(), 0.01)
    losses = []
    for _ in range(60):
        real, made = torch.randn(4, 1, 32, 32), 0.1 * torch.randn(4, 1, 32, 32)
        adam.zero_grad()
        losses.append(hinge(net(real), net(made)))
        losses[-1].backward()
        adam.step()
    assert losses[-1].item() < 0.5 * losses[0].item()
