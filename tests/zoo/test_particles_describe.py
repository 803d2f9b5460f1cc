"""Descriptions against plain loops over pixels, and what each of them must tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edgepv.errors import UsageError
from edgepv.zoo.particles.decompose import grid
from edgepv.zoo.particles.describe import (
    WIDEST,
    ColourHistogram,
    Fused,
    LocalMoments,
    OrientationHistogram,
    ShapeMoments,
    TextureEnergy,
    local_terms,
    pool,
)

H, W, STRIDE = 8, 12, 2
CELLS = (H // STRIDE) * (W // STRIDE)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """An image of noise and three masks, the last one empty."""
    masks = torch.rand(1, 3, CELLS)
    masks[:, 2] = 0
    return torch.rand(1, 3, H, W), masks


def weight_at(masks: torch.Tensor, k: int, i: int, j: int) -> float:
    """Weight of the pixel (i, j) in mask k; over all pixels they sum to 1."""
    row = masks[0, k].double()
    share = row[(i // STRIDE) * (W // STRIDE) + j // STRIDE] / row.sum() / STRIDE**2
    return float(share)


def grey_of(image: torch.Tensor) -> np.ndarray:
    r, g, b = image[0].double().numpy()
    return np.asarray(0.299 * r + 0.587 * g + 0.114 * b)


def at(grey: np.ndarray, i: int, j: int) -> float:
    """The grey value there, with the border repeated outside the frame."""
    return float(grey[min(max(i, 0), H - 1), min(max(j, 0), W - 1)])


def close(got: torch.Tensor, wanted: np.ndarray) -> bool:
    return bool(np.allclose(got.detach().numpy(), wanted, atol=2e-5))


def test_a_histogram_counts_as_loops_do() -> None:
    image, masks = scene()
    bins = 4
    wanted = np.zeros((3, 3 * bins))
    for k in range(2):
        for i in range(H):
            for j in range(W):
                for c in range(3):
                    level = min(max(float(image[0, c, i, j]) * bins - 0.5, 0), bins - 1)
                    low = min(int(level), bins - 2)
                    wanted[k, c * bins + low] += weight_at(masks, k, i, j) * (1 - (level - low))
                    wanted[k, c * bins + low + 1] += weight_at(masks, k, i, j) * (level - low)
    assert close(ColourHistogram(bins, stride=STRIDE)(image, masks)[0], wanted)


def test_each_channel_of_a_histogram_sums_to_1_in_any_range() -> None:
    image, masks = scene()
    shares = ColourHistogram(8, stride=STRIDE, low=-2.0, high=2.5)(image * 9 - 4, masks)
    assert torch.allclose(shares[0, :2].reshape(2, 3, 8).sum(-1), torch.ones(2, 3), atol=1e-5)
    assert not shares[0, 2].any()


def test_a_plain_colour_falls_into_its_bin() -> None:
    image = torch.full((1, 3, H, W), 0.375)
    shares = ColourHistogram(4, stride=STRIDE)(image, torch.ones(1, 1, CELLS))
    assert torch.allclose(shares.reshape(3, 4), torch.tensor([0.0, 1, 0, 0]).expand(3, 4), atol=1e-5)


def test_a_histogram_has_a_gradient() -> None:
    image, masks = scene()
    image.requires_grad_()
    ColourHistogram(4, stride=STRIDE)(image, masks)[..., 1].sum().backward()
    assert image.grad is not None and torch.isfinite(image.grad).all() and image.grad.any()


LAWS = {"L": [1, 4, 6, 4, 1], "E": [-1, -2, 0, 2, 1], "S": [-1, 0, 2, 0, -1], "R": [1, -4, 6, -4, 1]}


def slow_energy(grey: np.ndarray, vertical: str, across: str, masks: torch.Tensor, k: int) -> float:
    a, b = np.array(LAWS[vertical], float), np.array(LAWS[across], float)
    a, b = a / np.abs(a).sum(), b / np.abs(b).sum()
    energy = 0.0
    for i in range(H):
        for j in range(W):
            response = 0.0
            for u in range(5):
                for v in range(5):
                    response += a[u] * b[v] * at(grey, i + u - 2, j + v - 2)
            energy += weight_at(masks, k, i, j) * abs(response)
    return energy


def test_texture_energies_are_laws_filters_by_loops() -> None:
    image, masks = scene()
    grey = grey_of(image)
    got = TextureEnergy(stride=STRIDE)(image, masks)
    wanted = np.zeros((3, 9))
    for k in range(2):
        for n, kind in enumerate(TextureEnergy.KINDS):
            p, q = kind[0], kind[1]
            wanted[k, n] = (slow_energy(grey, p, q, masks, k) + slow_energy(grey, q, p, masks, k)) / 2
    assert close(got[0], wanted)


def test_a_plain_frame_has_no_texture_up_to_its_border() -> None:
    energy = TextureEnergy(stride=STRIDE)(torch.full((1, 3, H, W), 0.7), torch.ones(1, 1, CELLS))
    assert energy.abs().max() < 1e-6


def test_orientations_are_voted_for_as_loops_do() -> None:
    image, masks = scene()
    grey, bins = grey_of(image), 6
    sharpness = 2 / (1 - math.cos(2 * math.pi / bins))
    wanted = np.zeros((3, 1 + bins))
    for k in range(2):
        for i in range(H):
            for j in range(W):
                gx = (at(grey, i, j + 1) - at(grey, i, j - 1)) / 2
                gy = (at(grey, i + 1, j) - at(grey, i - 1, j)) / 2
                length = math.hypot(gx, gy)
                sure = length**2 / (length**2 + 1e-6)
                votes = [
                    math.exp(sharpness * sure * math.cos(2 * math.atan2(gy, gx) - 2 * math.pi * b / bins))
                    for b in range(bins)
                ]
                for b in range(bins):
                    wanted[k, 1 + b] += weight_at(masks, k, i, j) * length * votes[b] / sum(votes)
        wanted[k, 0] = wanted[k, 1:].sum()
        wanted[k, 1:] /= wanted[k, 0]
    assert close(OrientationHistogram(bins, stride=STRIDE)(image, masks)[0], wanted)


@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
@pytest.mark.parametrize("side", [1, -1])
def test_a_ramp_votes_for_its_own_direction_whichever_side_is_bright(degrees: int, side: int) -> None:
    angle = math.radians(degrees)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    ramp = 0.5 + side * 0.03 * (math.cos(angle) * x + math.sin(angle) * y)
    inside = torch.zeros(H // STRIDE, W // STRIDE)
    inside[1:-1, 1:-1] = 1  # the repeated border bends the gradient
    net = OrientationHistogram(8, stride=STRIDE)
    strength, *shares = net(ramp.expand(1, 3, H, W), inside.reshape(1, 1, -1))[0, 0].tolist()
    assert strength == pytest.approx(0.03, abs=1e-4)
    assert int(np.argmax(shares)) == degrees // 45 * 2
    assert max(shares) > 0.7


def test_a_plain_frame_has_no_orientation_and_a_finite_gradient() -> None:
    image = torch.full((1, 3, H, W), 0.7, requires_grad=True)
    found = OrientationHistogram(8, stride=STRIDE)(image, torch.ones(1, 1, CELLS))
    assert found.abs().max() < 1e-4
    found.sum().backward()
    assert image.grad is not None and torch.isfinite(image.grad).all()


def test_one_bin_is_refused() -> None:
    with pytest.raises(UsageError, match="bins = 1"):
        OrientationHistogram(1)


def bar(angle: float, *, long: float, short: float, size: int = 48) -> torch.Tensor:
    """A filled ellipse in the middle of a square map, as a mask (1, 1, M)."""
    x, y = (grid(size, size) - 0.5).T
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return ((along / long) ** 2 + (across / short) ** 2 < 1).float().reshape(1, 1, -1)


@pytest.mark.parametrize("degrees", [0, 30, 90, 150])
def test_shape_is_that_of_an_ellipse(degrees: int) -> None:
    angle, long, short = math.radians(degrees), 0.4, 0.2
    share, radius, c2, s2 = ShapeMoments(48, 48)(
        bar(angle, long=long, short=short), torch.full((1, 1, 2), 0.4)
    )[0, 0].tolist()
    stretched = (long**2 - short**2) / (long**2 + short**2)
    assert share == pytest.approx(math.pi * long * short, abs=0.005)
    assert radius == pytest.approx(math.sqrt(long**2 + short**2) / 2, abs=0.005)
    assert c2 == pytest.approx(stretched * math.cos(2 * angle), abs=0.02)
    assert s2 == pytest.approx(stretched * math.sin(2 * angle), abs=0.02)


def test_an_empty_mask_has_a_finite_shape() -> None:
    shape = ShapeMoments(4, 6)(torch.zeros(1, 1, 24), torch.full((1, 1, 2), 0.5))
    assert torch.isfinite(shape).all() and shape[0, 0, 0] == 0


def test_local_terms_are_a_polynomial_about_each_particle() -> None:
    weights, cells = torch.rand(1, 2, 24), grid(4, 6)
    position, scale = torch.tensor([[[0.3, 0.4], [1.2, 0.9]]]), torch.tensor([[0.2, 0.9]])
    got = local_terms(weights, cells, position, scale).reshape(6, 2, 24)
    for k in range(2):
        for m in range(24):
            u, v = ((cells[m] - position[0, k]) / scale[0, k]).clamp(-WIDEST, WIDEST).tolist()
            wanted = np.array([1, u, v, u * u, u * v, v * v]) * float(weights[0, k, m])
            assert np.allclose(got[:, k, m].numpy(), wanted, atol=1e-4)


def test_moments_tell_on_which_side_of_a_particle_something_is() -> None:
    left = torch.zeros(1, 1, 4, 6)
    left[..., :3] = 1
    whole = torch.ones(1, 1, 24), torch.tensor([[[0.75, 0.5]]]), torch.tensor([[0.5]])
    mean, across, down, *_ = LocalMoments(4, 6)(left, *whole)[0, 0].tolist()
    assert mean == pytest.approx(0.5, abs=1e-5) and down == pytest.approx(0, abs=1e-5)
    assert across == pytest.approx(
        -0.375, abs=1e-5
    )  # half the map, on average 0.375 heights to the left, in scales
    other = LocalMoments(4, 6)(1 - left, *whole)[0, 0].tolist()
    assert other[1] == pytest.approx(0.375, abs=1e-5)


def test_pooling_is_a_weighted_mean() -> None:
    masks, dense = torch.rand(1, 2, 24), torch.randn(1, 3, 4, 6)
    wanted = np.zeros((2, 3))
    for k in range(2):
        for d in range(3):
            for m in range(24):
                share = float(masks[0, k, m] / masks[0, k].sum())
                wanted[k, d] += share * float(dense[0, d, m // 6, m % 6])
    assert close(pool(masks, dense)[0], wanted)


def test_fusing_is_a_linear_layer_and_a_norm_on_all_parts() -> None:
    net = Fused((2, 3), 4)
    a, b = torch.randn(1, 6, 2), torch.randn(1, 6, 3)
    mixed = torch.cat([a, b], -1) @ net.mix.weight.T + net.mix.bias
    wanted = torch.nn.functional.layer_norm(mixed, (4,))
    assert torch.allclose(net(a, b), wanted, atol=1e-5)


def test_every_description_follows_the_order_of_the_particles() -> None:
    image, masks = scene()
    turned = masks[:, [2, 0, 1]]
    for kind in (ColourHistogram, TextureEnergy, OrientationHistogram):
        net = kind(stride=STRIDE)
        assert torch.allclose(net(image, turned), net(image, masks)[:, [2, 0, 1]])


def test_gradients_reach_the_masks() -> None:
    image, masks = scene()
    masks.requires_grad_()
    position = torch.full((1, 3, 2), 0.5)
    found = [net(image, masks) for net in (ColourHistogram(4, stride=STRIDE), TextureEnergy(stride=STRIDE))]
    found += [OrientationHistogram(4, stride=STRIDE)(image, masks), ShapeMoments(4, 6)(masks, position)]
    torch.stack([f.square().sum() for f in found]).sum().backward()
    assert masks.grad is not None and torch.isfinite(masks.grad).all() and masks.grad[0, :2].any()
