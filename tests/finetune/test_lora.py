"""Adapters change nothing before training, only themselves during it, and nothing in the layers after it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgepv.errors import UsageError
from edgepv.finetune import lora
from edgepv.model.surgery import put
from edgepv.zoo.pv_conv import PvConv, nano


class EveryKind(nn.Module):
    """One layer of each kind that takes an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.grouped = nn.Conv2d(16, 32, 3, groups=4)
        self.time = nn.Conv1d(32, 24, 3, padding=1)
        self.volume = nn.Conv3d(3, 8, 3, padding=1)
        self.wide = nn.Linear(32, 40)
        self.head = nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(self.depthwise(torch.relu(self.norm(self.space(x)))))
        z = self.time(y.flatten(2)).mean(2)
        v = self.volume(x[:, :, None]).mean((2, 3, 4))
        return self.head(torch.relu(self.wide(torch.cat([z, v], 1))))


def moved(module: nn.Module) -> nn.Module:
    """Every number that trains, somewhere else."""
    with torch.no_grad():
        for p in lora.trainable(module).values():
            p.add_(0.1 * torch.randn_like(p))
    return module


@pytest.fixture
def net() -> EveryKind:
    torch.manual_seed(0)
    return EveryKind().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_before_training_an_adapted_network_answers_as_it_did(net: EveryKind, x: Tensor) -> None:
    before = net(x)
    lora.inject(net, 2, head="head")
    assert torch.equal(net(x), before)


def test_merging_changes_no_answer_and_gives_the_layers_back(net: EveryKind, x: Tensor) -> None:
    kinds = {name: type(m) for name, m in net.named_modules()}
    names = set(net.state_dict())
    before = net(x)
    moved(lora.inject(net, 2, head="head"))
    whole = lora.merged(net)
    assert torch.allclose(whole(x), net(x), atol=1e-5)
    assert (whole(x) - before).abs().max() > 1e-2
    assert {name: type(m) for name, m in whole.named_modules()} == kinds
    assert set(whole.state_dict()) == names


def test_a_merged_weight_goes_into_the_untouched_network(net: EveryKind, x: Tensor) -> None:
    fresh = copy.deepcopy(net)
    whole = lora.merged(moved(lora.inject(net, 2, head="head")))
    fresh.load_state_dict(whole.state_dict())
    assert torch.equal(fresh(x), whole(x))


def test_only_adapters_norms_and_the_head_train(net: EveryKind, x: Tensor) -> None:
    frozen = {name: p.detach().clone() for name, p in net.named_parameters()}
    lora.inject(net, 2, head="head").train()
    for name in lora.trainable(net):
        assert "parametrizations.weight.0." in name or name.startswith(("norm.", "head.")), name
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):  # the first step moves ``up`` only: ``down`` sees it at zero
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    after = {n.replace("parametrizations.weight.original", "weight"): p for n, p in net.named_parameters()}
    same = {name for name, p in frozen.items() if torch.equal(after[name], p)}
    assert same == {n for n in frozen if not n.startswith(("norm.", "head."))}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lora.trainable(net).values())


@pytest.mark.parametrize(
    ("layer", "rank", "numbers"),
    [
        (nn.Linear(40, 30, bias=False), 4, 4 * (40 + 30)),
        (nn.Conv2d(16, 32, 1, bias=False), 4, 4 * (16 + 32)),
        (nn.Conv2d(16, 32, 3, bias=False), 4, 4 * (16 * 9 + 32)),
        (nn.Conv3d(4, 8, 3, bias=False), 2, 2 * (4 * 27 + 8)),
        (nn.Conv2d(16, 16, 3, groups=16, bias=False), 4, 4 * (9 + 16)),  # 100 numbers instead of 144
        (nn.Conv2d(16, 16, 3, groups=16, bias=False), 8, 16 * 9),  # 200 would be more than its own 144
    ],
)
def test_an_adapter_is_never_larger_than_its_weight(layer: nn.Module, rank: int, numbers: int) -> None:
    lora.inject(layer, rank)
    assert sum(p.numel() for p in lora.trainable(layer).values()) == numbers


def test_a_small_part_of_a_zoo_model_trains() -> None:
    net = nano()
    total = sum(p.numel() for p in net.parameters())
    lora.inject(net, 2, head="head")
    assert sum(p.numel() for p in lora.trainable(net).values()) < 0.4 * total


def test_an_adapted_zoo_model_steps_as_its_clip_form_answers() -> None:
    torch.manual_seed(0)
    net = moved(lora.inject(nano().eval(), 4, head="head"))
    assert isinstance(net, PvConv)
    clip = torch.randn(1, 3, 17, 96, 96)
    states = tuple(net.init_state().values())
    with torch.no_grad():
        for t in range(17):
            logits, *new = net.step(clip[:, :, t], *states)
            states = tuple(new)
        assert torch.allclose(logits, net.frame_logits(clip)[:, -1], atol=1e-4)


def test_a_saved_adapter_makes_the_same_network_of_the_base(
    net: EveryKind, x: Tensor, tmp_path: Path
) -> None:
    base = copy.deepcopy(net)
    put(net, "head", nn.Linear(40, 5))  # the new classes
    net.norm.get_buffer("running_mean").add_(1)
    moved(lora.inject(net, 2, head="head"))
    path = tmp_path / "adapter.safetensors"
    lora.save(net, path, rank=2, head="head")
    assert torch.allclose(lora.load(base, path)(x), net(x), atol=1e-6)
    assert lora.load(EveryKind(), path)(x).shape == (2, 5)


def test_an_adapter_of_another_network_is_refused(net: EveryKind, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    lora.save(lora.inject(net, 2, head="head"), path, rank=2, head="head")
    with pytest.raises(UsageError, match="another network than PvConv"):
        lora.load(nano(), path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UsageError, match="truncated"):
        lora.load(nano(), path)


def test_weights_that_two_layers_share_stay_as_they_are() -> None:
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    net[1].weight = net[0].weight
    lora.inject(net, 2)
    assert not lora.trainable(net)


def test_a_rank_of_none_is_refused(net: EveryKind) -> None:
    with pytest.raises(UsageError, match="at least rank 1"):
        lora.inject(net, 0)
