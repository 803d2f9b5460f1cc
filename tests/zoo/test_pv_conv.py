"""The step form answers what the clip form answers, for every width of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

pytest.importorskip("torch")

import torch

from edgepv.zoo import pv_conv
from edgepv.zoo.pv_conv import PvConv

Build = Callable[[int], PvConv]
BUILDERS: list[Build] = [pv_conv.nano, pv_conv.small]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def lively(net: PvConv, seed: int = 0) -> PvConv:
    """The network with norms that are not the identity, so that a skipped one would show."""
    at = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.3, generator=at)
            layer.running_var.uniform_(0.3, 1.5, generator=at)
    return net.eval()


def video(net: PvConv, frames: int, seed: int = 1) -> torch.Tensor:
    at = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, frames, net.size, net.size, generator=at)


@torch.no_grad()
def streamed(
    net: PvConv, x: torch.Tensor, states: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    rows = []
    for t in range(x.shape[2]):
        logits, *states = net.step(x[:, :, t], *states)
        rows.append(logits)
    return torch.cat(rows), states


@pytest.mark.parametrize("build", BUILDERS)
def test_64_steps_from_zero_states_answer_what_the_clip_answers(build: Build) -> None:
    net = lively(build(5))
    x = video(net, 64)
    rows, states = streamed(net, x, list(net.init_state().values()))
    with torch.no_grad():
        whole = net.frame_logits(x)[0]
    assert whole.std() > 1e-3
    assert (rows - whole).abs().max() <= 1e-5
    assert all(state.abs().sum() > 0 for state in states)


@pytest.mark.parametrize("build", BUILDERS)
def test_a_warm_state_forgets_what_is_older_than_the_receptive_field(build: Build) -> None:
    net = lively(build(5))
    at = torch.Generator().manual_seed(3)
    warm = [torch.randn(s.shape, generator=at) for s in net.init_state().values()]
    x = video(net, net.receptive_field)
    from_noise, _ = streamed(net, x, warm)
    from_zero, _ = streamed(net, x, list(net.init_state().values()))
    assert (from_noise[0] - from_zero[0]).abs().max() > 1e-3
    assert (from_noise[-1] - from_zero[-1]).abs().max() <= 1e-5


@pytest.mark.parametrize("build", BUILDERS)
def test_the_clip_form_answers_for_its_last_frame(build: Build) -> None:
    net = lively(build(3))
    x = video(net, 20)
    with torch.no_grad():
        assert (net(x) - net.frame_logits(x)[:, -1]).abs().max() <= 1e-5


@pytest.mark.parametrize(("build", "field"), [(pv_conv.nano, 30), (pv_conv.small, 36)])
def test_the_receptive_field_is_the_window_and_all_histories(build: Build, field: int) -> None:
    # one kernel of 5 (4 back), then 5 or 8 kernels of 3 (2 back each), then 16 pooled frames
    assert build(2).receptive_field == field


@pytest.mark.parametrize("build", BUILDERS)
def test_states_are_named_static_and_at_most_rank_4(build: Build) -> None:
    net = build(2)
    states = net.init_state()
    assert list(states) == [f"b{i}_t" for i in range(len(net.blocks))] + ["pool"]
    assert all(v.ndim <= 4 and not v.any() for v in states.values())
    with torch.no_grad():
        _, *after = net.eval().step(torch.randn(1, 3, net.size, net.size), *states.values())
    assert [v.shape for v in after] == [v.shape for v in states.values()]


@pytest.mark.parametrize(
    ("build", "low", "high"), [(pv_conv.nano, 36e3, 42e3), (pv_conv.small, 0.28e6, 0.32e6)]
)
def test_the_size_is_what_the_summary_says(build: Build, low: float, high: float) -> None:
    assert low <= sum(p.numel() for p in build(2).parameters()) <= high


def test_a_pruned_copy_still_streams_exactly() -> None:
    pruning = pytest.importorskip("torch_pruning")
    net = lively(pv_conv.nano(4))
    small = copy.deepcopy(net)
    pruning.pruner.BasePruner(
        small,
        video(small, 16),
        importance=pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.4,
        ignored_layers=[small.head],
        round_to=4,
    ).step()
    kept = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in net.parameters())
    assert kept < 0.7
    x = video(small, 24)
    rows, _ = streamed(small, x, list(small.init_state().values()))
    with torch.no_grad():
        assert (rows - small.frame_logits(x)[0]).abs().max() <= 1e-5
