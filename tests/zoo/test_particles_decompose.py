"""Decomposition against plain loops: centres, scales, and how slots share out a map."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edgepv.errors import UsageError
from edgepv.zoo.particles.decompose import Grid, Norm, Region, grid, lattice, moments

H, W = 4, 6


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def numbers(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [t.detach().numpy().astype(np.float64) for t in tensors]


def test_cells_are_numbered_row_by_row_in_image_heights() -> None:
    cells = grid(2, 4)
    assert cells.shape == (8, 2)
    assert cells[0].tolist() == [0.25, 0.25]
    assert cells[1].tolist() == [0.75, 0.25]
    assert cells[7].tolist() == [1.75, 0.75]


def test_fewer_particles_keep_the_places_of_more() -> None:
    many, few = lattice(40, aspect=1.5), lattice(7, aspect=1.5)
    assert torch.equal(many[:7], few)
    assert many.min() >= 0 and many[:, 0].max() <= 1.5 and many[:, 1].max() <= 1


def test_no_two_of_forty_particles_start_together() -> None:
    apart = torch.cdist(lattice(40), lattice(40)) + torch.eye(40)
    assert apart.min() > 0.5 / math.sqrt(40)


def test_the_norm_is_layer_norm() -> None:
    norm = Norm(5)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    x = torch.randn(2, 3, 5)
    wanted = torch.nn.functional.layer_norm(x, (5,), norm.weight, norm.bias)
    assert torch.allclose(norm(x), wanted, atol=1e-6)


def slow_moments(mask: np.ndarray) -> tuple[list[float], list[float]]:
    """Of squares of side 1 / H, each filled evenly, by summing over 20 x 20 points in each."""
    total = x = y = xx = yy = xy = 0.0
    inside = (np.arange(20) + 0.5) / 20
    for i in range(H):
        for j in range(W):
            for a in inside:
                for b in inside:
                    px, py, w = (j + b) / H, (i + a) / H, mask[i * W + j]
                    total, x, y = total + w, x + w * px, y + w * py
                    xx, yy, xy = xx + w * px * px, yy + w * py * py, xy + w * px * py
    x, y = x / total, y / total
    return [x, y], [xx / total - x * x, yy / total - y * y, xy / total - x * y]


def test_moments_are_those_of_the_area_under_the_mask() -> None:
    masks = torch.rand(1, 2, H * W)
    got = moments(masks, grid(H, W), torch.full((1, 2, 2), 0.3), H)
    for k in range(2):
        centre, spread = slow_moments(masks[0, k].numpy())
        assert np.allclose(got[0][0, k].numpy(), centre, atol=1e-5)
        assert np.allclose(got[1][0, k].numpy(), spread, atol=2e-4)  # the points are 1/80 apart


def test_an_empty_mask_stays_at_its_anchor() -> None:
    anchor = torch.tensor([[[0.3, 0.7]]])
    position, spread = moments(torch.zeros(1, 1, H * W), grid(H, W), anchor, H)
    assert torch.equal(position, anchor)
    assert spread[0, 0].tolist() == pytest.approx([1 / (12 * H * H)] * 2 + [0])


@pytest.mark.parametrize(("rows", "cols"), [(4, 6), (2, 3), (2, 2), (1, 1)])
def test_blocks_share_out_the_map_evenly_and_lie_at_their_centres(rows: int, cols: int) -> None:
    blocks = Grid(H, W, rows, cols)
    assert torch.equal(blocks.masks.sum(1), torch.ones(1, H * W))
    assert set(blocks.masks.sum(2).flatten().tolist()) == {H * W / (rows * cols)}
    centre, _ = moments(blocks.masks, grid(H, W), torch.zeros_like(blocks.position), H)
    assert torch.allclose(blocks.position, centre, atol=1e-5)


def test_a_block_is_its_cells_row_by_row() -> None:
    masks = Grid(H, W, 2, 3).masks[0].reshape(6, H, W)
    assert masks[4].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_blocks_that_do_not_fill_the_map_are_refused() -> None:
    with pytest.raises(UsageError, match="5 x 4 blocks do not fill a map of 24 x 32"):
        Grid(24, 32, 5, 4)


def test_a_relative_reach_shrinks_with_the_number_of_particles() -> None:
    x = torch.randn(1, 3, H, W)
    near, far = (Region(3, 8, height=H, width=W, relative=r) for r in (True, False))
    far.load_state_dict(near.state_dict())
    alone = (x, torch.full((1, 6, 2), 0.4), torch.randn(1, 6, 8), torch.ones(1, 6))
    scaled = math.sqrt(W / H / 6)
    far.log_reach.data += math.log(scaled)  # six places on 1 x 1.5 image heights are half a height apart
    assert scaled == 0.5
    assert torch.allclose(near(*alone)[1], far(*alone)[1], atol=1e-6)


def slow_norm(x: np.ndarray, norm: Norm) -> np.ndarray:
    x = x - x.mean()
    weight, bias = numbers(norm.weight, norm.bias)
    return x / np.sqrt((x * x).mean() + 1e-5) * weight + bias


def slow_region(
    net: Region, x: np.ndarray, position: np.ndarray, feature: np.ndarray, living: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (K, M) and features (K, D) of one frame, cell by cell, among the living slots only."""
    query, key, value, log_reach = numbers(net.query.weight, net.key.weight, net.value.weight, net.log_reach)
    reach = np.exp(log_reach)
    tokens = [slow_norm(x[:, i, j], net.token_norm) for i in range(H) for j in range(W)]
    masks = np.zeros((len(position), H * W))
    for m, token in enumerate(tokens):
        px, py = (m % W + 0.5) / H, (m // W + 0.5) / H
        score = {}
        for k in living:
            asked = query @ slow_norm(feature[k], net.slot_norm)
            d2 = (position[k][0] - px) ** 2 + (position[k][1] - py) ** 2
            score[k] = asked @ (key @ token) / np.sqrt(len(asked)) - d2 / (2 * reach**2)
        for k in living:
            masks[k, m] = np.exp(score[k]) / sum(np.exp(s) for s in score.values())
    seen = np.zeros((len(position), len(value)))
    for k in living:
        seen[k] = sum(masks[k, m] * (value @ token) for m, token in enumerate(tokens)) / masks[k].sum()
    return masks, seen


def region(k: int) -> tuple[Region, torch.Tensor, torch.Tensor, torch.Tensor]:
    net = Region(3, 8, height=H, width=W)
    for p in net.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.3)
    return net, torch.randn(1, 3, H, W), lattice(k, aspect=W / H).unsqueeze(0), torch.randn(1, k, 8)


def test_slots_share_out_the_cells_as_loops_do() -> None:
    net, x, position, feature = region(4)
    alive = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    particles, masks = net(x, position, feature, alive)
    frame, places, asking = (a[0] for a in numbers(x, position, feature))
    wanted, seen = slow_region(net, frame, places, asking, living=[0, 2, 3])
    assert np.allclose(masks[0].detach().numpy(), wanted, atol=1e-5)
    assert np.allclose(particles.feature[0].detach().numpy(), seen, atol=1e-5)
    for k in (0, 2, 3):
        centre, spread = slow_moments(wanted[k])
        assert np.allclose(particles.position[0, k].detach().numpy(), centre, atol=1e-4)
        assert particles.scale[0, k].item() == pytest.approx(math.sqrt(spread[0] + spread[1]), abs=1e-3)


def test_an_empty_place_keeps_its_position_and_owns_nothing() -> None:
    net, x, position, feature = region(3)
    particles, masks = net(x, position, feature, torch.tensor([[1.0, 1.0, 0.0]]))
    assert torch.equal(particles.position[0, 2], position[0, 2])
    assert not masks[0, 2].any() and not particles.feature[0, 2].any()
    assert torch.allclose(masks.sum(1), torch.ones(1, H * W))


def test_when_nobody_lives_nobody_owns_a_cell() -> None:
    net, x, position, feature = region(3)
    particles, masks = net(x, position, feature, torch.zeros(1, 3))
    assert not masks.any() and torch.equal(particles.position, position)
    assert all(torch.isfinite(t).all() for t in particles)


def test_a_slot_takes_the_cells_near_its_place_when_features_are_alike() -> None:
    net, x, _, feature = region(2)
    position = torch.tensor([[[0.25, 0.5], [1.25, 0.5]]])
    alike = feature[:, :1].expand(1, 2, 8)
    _, masks = net(x, position, alike, torch.ones(1, 2))
    left = masks[0, 0].reshape(H, W)
    assert (left[:, :3] > 0.5).all() and (left[:, 3:] < 0.5).all()


def test_empty_places_change_nothing_for_the_living() -> None:
    net, x, position, feature = region(6)
    alive = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    padded, _ = net(x, position, feature, alive)
    exact, _ = net(x, position[:, :3], feature[:, :3], torch.ones(1, 3))
    for a, b in zip(padded, exact, strict=True):
        assert torch.allclose(a[:, :3], b, atol=1e-6)


def test_gradients_are_finite_when_all_slots_coincide() -> None:
    net, x, position, feature = region(3)
    position = position[:, :1].expand(1, 3, 2).clone().requires_grad_()
    feature = feature[:, :1].expand(1, 3, 8).clone().requires_grad_()
    particles, _ = net(x, position, feature, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.stack([t.square().sum() for t in particles]).sum().backward()
    for value in (position, feature, *net.parameters()):
        assert value.grad is not None and torch.isfinite(value.grad).all()
