"""A layer of low rank becomes two cheaper ones; the split rebuilds from its weights alone, and streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import TINY, Tiny
from torch import Tensor, nn

from edgepv.base.files import sha256
from edgepv.errors import UsageError
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.quantize import finetune, low_rank, prune
from edgepv.quantize.step import Training
from edgepv.stream import convert
from edgepv.stream.verify import verify
from edgepv.types import Checkpoint, ModelSpec, TensorSpec
from edgepv.zoo import checkpoint as zoo_checkpoint

SPEC = ModelSpec("wide", TensorSpec("clip", (1, 3, 4, 16, 16), "NCTHW"), ("a", "b"), frames=4)


class Wide(nn.Module):
    """Two layers worth splitting, one that forward() computes with by itself, a head that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 16, 3, (1, 2, 2), 1)
        self.heavy = nn.Conv3d(16, 32, 3, 1, (1, 2, 2), (1, 2, 2))
        self.point = nn.Conv3d(32, 32, 1)
        self.own = nn.Linear(32, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.point(torch.relu(self.heavy(torch.relu(self.stem(x))))))
        return self.head(nn.functional.linear(x.mean((2, 3, 4)), self.own.weight, self.own.bias))


def wide() -> Wide:
    return Wide()


def of_rank(weight: Tensor, rank: int) -> Tensor:
    """The nearest weight of that rank, scaled so that numbers stay near 1."""
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(weight.shape)


def saved(net: nn.Module, builder: str, folder: Path) -> Checkpoint:
    path = folder / "w.safetensors"
    save_file(net.state_dict(), path)
    return Checkpoint(str(path), sha256(path), f"{__file__}:{builder}", SPEC)


@pytest.fixture
def planted(tmp_path: Path) -> Checkpoint:
    """``Wide`` whose heavy, 1x1 and own layers have rank 2."""
    torch.manual_seed(0)
    net = wide()
    with torch.no_grad():
        for layer in (net.heavy, net.point, net.own):
            layer.weight.copy_(3 * of_rank(layer.weight, 2))
        net.head.weight.copy_(of_rank(net.head.weight, 1))
    return saved(net, "wide", tmp_path)


def answer(checkpoint: Checkpoint, seed: int = 0) -> np.ndarray:
    clip = torch.randn(SPEC.input.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return build(checkpoint)(clip).numpy()


def test_layers_of_rank_2_are_split_there_and_nothing_changes(planted: Checkpoint, tmp_path: Path) -> None:
    made = low_rank.Step(1.0)(planted, tmp_path / "s.safetensors")
    assert made.steps[-1].options["ranks"] == {"heavy": 2, "point": 2}
    assert np.allclose(answer(planted), answer(made), atol=1e-5)
    before, after = made.steps[-1].options["params"]
    heavy, point = 16 * 32 * 27 - 2 * (16 * 27 + 32), 32 * 32 - 2 * (32 + 32)
    assert before - after == heavy + point


def test_the_split_keeps_stride_padding_dilation_and_bias(planted: Checkpoint, tmp_path: Path) -> None:
    first, second = build(low_rank.Step(1.0)(planted, tmp_path / "s.safetensors")).heavy
    assert (first.padding, first.dilation, first.bias) == ((1, 2, 2), (1, 2, 2), None)
    assert second.kernel_size == (1, 1, 1) and torch.equal(second.bias, build(planted).heavy.bias)


def test_a_layer_whose_weight_forward_reads_itself_stays_whole(planted: Checkpoint, tmp_path: Path) -> None:
    made = low_rank.Step(1.0)(planted, tmp_path / "s.safetensors")
    assert isinstance(build(made).own, nn.Linear) and "own" not in made.steps[-1].options["ranks"]


class Recurrent(nn.Module):
    """Frames through a convolution, a GRU and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 16)
        self.gru = nn.GRU(32, 32, batch_first=True)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.wide = nn.Linear(32, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        y = self.gru(self.conv(frames.flatten(0, 1)).reshape(*frames.shape[:2], 32))[0]
        return self.head(self.wide(self.attention(y, y, y)[0]).mean(1))


def recurrent() -> Recurrent:
    return Recurrent()


class Stuck(Wide):
    """Wants what it has not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.get_parameter("temperature")


def stuck() -> Stuck:
    return Stuck()


def test_recurrent_layers_and_attention_stay_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = low_rank.Step(0.5)(saved(recurrent(), "recurrent", tmp_path), tmp_path / "s.safetensors")
    assert set(made.steps[-1].options["ranks"]) == {"conv", "wide"}


def test_a_model_that_does_not_run_is_not_taken_for_one_that_reads_its_weights(tmp_path: Path) -> None:
    source = saved(stuck(), "stuck", tmp_path)
    with pytest.raises(UsageError, match="wide does not run on noise: AttributeError: .*temperature"):
        low_rank.Step(0.5)(source, tmp_path / "s.safetensors")


@pytest.mark.slow
def test_cutting_channels_and_splitting_go_together_in_either_order(tmp_path: Path) -> None:
    source = zoo_checkpoint("pv-conv-nano")
    cut, split = prune.Step(0.5), low_rank.Step(0.5)
    one = split(cut(source, tmp_path / "1.safetensors"), tmp_path / "2.safetensors")
    two = cut(split(source, tmp_path / "3.safetensors"), tmp_path / "4.safetensors")
    for made in (one, two):
        assert [s.name for s in made.steps] in (["prune", "low-rank"], ["low-rank", "prune"])
        ranks = next(s.options["ranks"] for s in made.steps if s.name == "low-rank")
        assert len(ranks) > 3
        assert all(isinstance(build(made).get_submodule(name), nn.Sequential) for name in ranks)
        assert sum(p.numel() for p in build(made).parameters()) == made.steps[-1].options["params"][1]


def test_the_error_falls_as_more_energy_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = saved(wide(), "wide", tmp_path)
    made = [low_rank.Step(e)(source, tmp_path / f"{e}.safetensors") for e in (0.1, 0.3, 0.5, 0.7)]
    ranks = [m.steps[-1].options["ranks"]["heavy"] for m in made]
    assert ranks == sorted(set(ranks))
    wanted = answer(source)
    noise = [sqnr_db(wanted, answer(m)) for m in made]
    assert noise == sorted(set(noise))


def test_rank_for_counts_energy() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 1e-7])  # squares 9, 4, 1 of 14
    wanted = {0.5: 1, 0.65: 2, 0.9: 2, 0.95: 3, 1.0: 3}
    assert {e: low_rank.rank_for(values, e) for e in wanted} == wanted
    assert low_rank.rank_for(torch.zeros(4), 0.9) == 1


def test_a_split_net_streams_and_agrees_with_its_clip_form(planted: Checkpoint, tmp_path: Path) -> None:
    made = low_rank.Step(1.0)(planted, tmp_path / "s.safetensors")
    net = build(made)
    clips = list(np.random.default_rng(0).standard_normal((2, *SPEC.input.shape[1:])).astype(np.float32))
    assert verify(net, convert(net, SPEC), clips) < 1e-5


def test_a_split_net_is_fine_tuned_as_two_layers(planted: Checkpoint, tmp_path: Path) -> None:
    made = low_rank.Step(1.0)(planted, tmp_path / "s.safetensors")
    clips = list(np.random.default_rng(0).standard_normal((4, 6, 3, 16, 16)).astype(np.float32))
    tuned = finetune.Step(epochs=1)(made, tmp_path / "t.safetensors", Training(clips, [0, 1, 0, 1], planted))
    assert [len(layer.weight) for layer in build(tuned).heavy] == [2, 32]
    assert not np.array_equal(answer(tuned), answer(made))


def test_a_model_that_steps_keeps_layers_its_code_asks_about(tmp_path: Path) -> None:
    made = low_rank.Step(0.5)(zoo_checkpoint("pv-conv-nano"), tmp_path / "s.safetensors")
    ranks = made.steps[-1].options["ranks"]
    assert ranks and not {"stem", "hidden"} & set(ranks)
    module = build(made)
    frames = torch.randn(1, 3, 18, 96, 96)
    states, rows = list(module.init_state().values()), []
    with torch.no_grad():
        for t in range(18):
            logits, *states = module.step(frames[:, :, t], *states)
            rows.append(logits)
        assert torch.allclose(torch.cat(rows), module.frame_logits(frames)[0], atol=1e-5)


def test_a_step_model_without_a_clip_form_is_split_too(tiny_step: Tiny, tmp_path: Path) -> None:
    source = from_files(tiny_step.model, tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)
    made = low_rank.Step(0.3)(source, tmp_path / "s.safetensors")
    assert "mix" not in made.steps[-1].options["ranks"]  # grouped
    assert "last" in made.steps[-1].options["ranks"]


@pytest.mark.parametrize("energy", [0.0, -1.0, 1.5, float("nan")])
def test_an_energy_outside_its_range_is_refused(planted: Checkpoint, tmp_path: Path, energy: float) -> None:
    with pytest.raises(UsageError, match="share of energy to keep"):
        low_rank.Step(energy)(planted, tmp_path / "s.safetensors")


def test_a_model_that_gains_nothing_is_named(tiny_clip: Tiny, tmp_path: Path) -> None:
    source = from_files(f"{TINY}:clip", tiny_clip.weights, read_spec(tiny_clip.spec), trust_pickle=False)
    with pytest.raises(UsageError, match="no heavy layer gets 20% cheaper"):
        low_rank.Step(1.0)(source, tmp_path / "s.safetensors")
    assert not (tmp_path / "s.safetensors").exists()


def test_weights_that_are_half_a_split_are_refused(planted: Checkpoint, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = low_rank.Step(1.0)(planted, tmp_path / "s.safetensors")
    half = {k: v for k, v in load_file(made.weights).items() if k != "heavy.1.weight"}
    save_file(half, tmp_path / "half.safetensors")
    path = tmp_path / "half.safetensors"
    with pytest.raises(UsageError, match="does not fit .*heavy"):
        build(replace(made, weights=str(path), sha256=sha256(path)))


def test_weights_of_another_pair_of_layers_are_no_split(tiny_clip: Tiny, tmp_path: Path) -> None:
    """A convolution and its batch norm in a row, where the builder made a bare convolution."""
    from safetensors.torch import load_file

    weights = load_file(tiny_clip.weights)
    weights["conv.0.weight"] = weights.pop("conv.weight")
    weights["conv.0.bias"] = weights.pop("conv.bias")
    weights["conv.1.weight"] = torch.ones(16)
    save_file(weights, tmp_path / "w.safetensors")
    spec = read_spec(tiny_clip.spec)
    with pytest.raises(UsageError, match=r"does not fit .*'conv.weight', 'conv.bias'"):
        from_files(f"{TINY}:clip", tmp_path / "w.safetensors", spec, trust_pickle=False)
