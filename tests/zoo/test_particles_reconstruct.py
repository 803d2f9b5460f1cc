"""Reconstruction against plain loops, and that a frame comes back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edgepv.zoo.particles.reconstruct import Discriminator, Double, FromFeatures, Generator, hinge, splat


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_each_cell_gets_the_mean_of_its_owners() -> None:
    masks, feature = torch.rand(2, 3, 20), torch.randn(2, 3, 5)
    masks[:, :, 7] = 0
    got = splat(masks, feature, 4, 5)
    assert got.shape == (2, 5, 4, 5)
    wanted = np.zeros((2, 5, 4, 5))
    for n in range(2):
        for m in range(20):
            owned = float(masks[n, :, m].sum())
            for d in range(5):
                for k in range(3):
                    if owned:
                        wanted[n, d, m // 5, m % 5] += float(masks[n, k, m] * feature[n, k, d]) / owned
    assert np.allclose(got.numpy(), wanted, atol=1e-4)
    assert not got[:, :, 1, 2].any()


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


def test_a_frame_from_features_is_two_convolutions_and_pixels_out_of_channels() -> None:
    net = FromFeatures(5, 3, up=2, height=3, width=4, hidden=6)
    masks, feature = torch.rand(1, 2, 12), torch.randn(1, 2, 5)
    frame = net(masks, feature)[0].detach().numpy()
    assert frame.shape == (3, 6, 8)
    x = splat(masks, feature, 3, 4)[0].numpy()
    x = slow_conv(np.maximum(slow_conv(x, net.mix), 0), net.paint)
    for c in range(3):
        for i in range(6):
            for j in range(8):
                channel = 4 * c + 2 * (i % 2) + j % 2
                assert frame[c, i, j] == pytest.approx(x[channel, i // 2, j // 2], abs=1e-5)


def test_a_doubling_repeats_pixels_and_convolves() -> None:
    net = Double(2, 3)
    x = torch.randn(1, 2, 3, 4)
    wide = np.maximum(slow_conv(x[0].numpy().repeat(2, 1).repeat(2, 2), net.widen), 0)
    wanted = wide + np.maximum(slow_conv(wide, net.refine), 0)
    assert np.allclose(net(x)[0].detach().numpy(), wanted, atol=1e-5)


def test_a_generator_doubles_once_per_width() -> None:
    net = Generator(5, 3, widths=(8, 6, 4), height=3, width=4)
    masks, feature = torch.rand(2, 2, 12), torch.randn(2, 2, 5)
    assert net(masks, feature).shape == (2, 3, 24, 32)
    by_hand = net.paint(net.grow[2](net.grow[1](net.grow[0](splat(masks, feature, 3, 4)))))
    assert torch.equal(net(masks, feature), by_hand)


def test_gradients_reach_features_and_masks_of_empty_cells() -> None:
    masks, feature = torch.zeros(1, 2, 12, requires_grad=True), torch.randn(1, 2, 5, requires_grad=True)
    for net in (FromFeatures(5, 3, up=2, height=3, width=4), Generator(5, 3, widths=(4,), height=3, width=4)):
        net(masks, feature).square().sum().backward()
    assert masks.grad is not None and torch.isfinite(masks.grad).all()
    assert feature.grad is not None and torch.isfinite(feature.grad).all()


def test_two_particles_can_be_trained_to_paint_two_halves() -> None:
    net = FromFeatures(4, 1, up=2, height=4, width=4, hidden=8)
    left = torch.zeros(1, 1, 4, 4)
    left[..., :2] = 1
    masks = torch.cat([left, 1 - left], 1).flatten(2)
    feature = torch.eye(4)[None, :2]
    wanted = left.repeat_interleave(2, 2).repeat_interleave(2, 3)
    adam = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(150):
        adam.zero_grad()
        loss = (net(masks, feature) - wanted).square().mean()
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
