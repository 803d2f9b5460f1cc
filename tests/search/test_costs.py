"""The latency model counts layers right, finds planted costs, and is silent where it knows too little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgepv.search.costs import features, fit, layers_of
from edgepv.search.widths import pays


def test_operations_and_bytes_of_known_layers() -> None:
    """On 8 x 8: dense 3x3 from 2 to 4 channels, depthwise 3x3, pointwise to 6, linear from 6 to 5."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1, bias=False),
        nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False),
        nn.Conv2d(4, 6, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    found = layers_of(net, torch.zeros(1, 2, 8, 8))
    assert [x.kind for x in found] == ["dense", "depthwise", "pointwise", "linear"]
    macs = [4 * 2 * 9 * 64, 4 * 9 * 16, 4 * 6 * 16, 30]
    assert [x.gflops * 1e9 for x in found] == pytest.approx([2 * m for m in macs])
    assert found[0].mbytes * 1e6 == pytest.approx(4 * (2 * 64 + 4 * 64 + 72))
    assert features(found)[-1] == 4


def test_planted_costs_are_found_again() -> None:
    rng = np.random.default_rng(0)
    nets = rng.uniform(1, 10, (12, 6))
    costs = np.array([2.0, 0.5, 4.0, 0.0, 0.1, 0.01])
    model = fit(nets.tolist(), (nets @ costs).tolist())
    assert model and model.error < 1e-6
    assert model.predict([1, 1, 1, 1, 1, 1]) == pytest.approx(costs.sum(), rel=1e-6)


def test_no_cost_is_negative_though_the_times_are_noisy() -> None:
    rng = np.random.default_rng(1)
    nets = rng.uniform(1, 10, (10, 6))
    model = fit(nets.tolist(), (nets[:, 0] * rng.uniform(0.8, 1.2, 10)).tolist())
    assert model and min(model.coefficients) >= 0 and 0 < model.error < 0.3


def test_a_net_timed_twice_does_not_vouch_for_itself() -> None:
    rng = np.random.default_rng(2)
    nets = rng.uniform(1, 10, (8, 6)).tolist()
    times = rng.uniform(1, 10, 8).tolist()
    once, twice = fit(nets, times), fit(nets * 2, times * 2)
    assert once and twice and twice.error == pytest.approx(once.error)


def test_three_nets_tell_nothing() -> None:
    assert fit([[1, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]] * 3, [1, 2, 3] * 3) is None


@pytest.mark.parametrize(
    ("step", "expected"), [(1, 4), (8, 8), (16, 16), (32, 32)], ids=["smooth", "by 8", "by 16", "by 32"]
)
def test_a_multiple_pays_where_the_curve_has_steps(step: int, expected: int) -> None:
    curve = {w: -(-w // step) * step * 0.01 for w in range(16, 65, 4)}
    assert pays(curve) == expected
