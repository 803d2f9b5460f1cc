"""Pruning removes whole channels, the smaller model rebuilds from its weights, and it still steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_pruning
from prunable import Plain
from support import ROOT, SPEC, TINY, Tiny
from torch import Tensor, nn

from edgepv.errors import UsageError
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.model.weights import save
from edgepv.quantize import finetune, prune
from edgepv.quantize.step import Training
from edgepv.types import Checkpoint, Rewrite
from edgepv.zoo import checkpoint as zoo_checkpoint


@pytest.mark.slow
def test_a_pruned_zoo_model_steps_and_agrees_with_its_clip_form(tmp_path: Path) -> None:
    source = zoo_checkpoint("pv-conv-nano")
    pruned = prune.Step(0.5)(source, tmp_path / "p.safetensors")
    before, after = pruned.steps[-1].options["params"]
    assert after < 0.5 * before
    module = build(pruned)
    frames = torch.randn(1, 3, 20, 96, 96)
    states = tuple(module.init_state().values())
    rows = []
    with torch.no_grad():
        for t in range(20):
            logits, *new = module.step(frames[:, :, t], *states)
            states = tuple(new)
            rows.append(logits)
        whole = module.frame_logits(frames)[0]
    assert torch.allclose(torch.cat(rows), whole, atol=1e-5)


def test_the_original_is_left_as_it_was(tmp_path: Path) -> None:
    source = zoo_checkpoint("pv-conv-nano")
    before = Path(source.weights).read_bytes()
    prune.Step(0.25)(source, tmp_path / "p.safetensors")
    assert Path(source.weights).read_bytes() == before


@pytest.fixture
def clip_checkpoint(tiny_clip: Tiny) -> Checkpoint:
    return from_files(f"{TINY}:clip", tiny_clip.weights, read_spec(tiny_clip.spec), trust_pickle=False)


def test_a_users_conv3d_is_cut_and_rebuilt(clip_checkpoint: Checkpoint, tmp_path: Path) -> None:
    pruned = prune.Step(0.5)(clip_checkpoint, tmp_path / "p.safetensors")
    assert build(pruned).conv.weight.shape[0] == 8


def test_a_ratio_that_removes_nothing_is_named(clip_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="removed nothing"):
        prune.Step(0.01, multiple=16)(clip_checkpoint, tmp_path / "p.safetensors")


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_a_ratio_outside_its_range_is_refused(
    clip_checkpoint: Checkpoint, tmp_path: Path, ratio: float
) -> None:
    with pytest.raises(UsageError, match="share of channels"):
        prune.Step(ratio)(clip_checkpoint, tmp_path / "p.safetensors")


def _clips() -> tuple[list[np.ndarray], list[int]]:
    """Dark clips are label 0, bright ones label 1."""
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((6, 3, 32, 32)).astype(np.float32) + (2 * (i % 2) - 1) for i in range(16)]
    return clips, [i % 2 for i in range(16)]


@pytest.mark.slow
def test_fine_tuning_learns_and_is_repeatable(clip_checkpoint: Checkpoint, tmp_path: Path) -> None:
    clips, truth = _clips()
    step = finetune.Step(epochs=8, learning_rate=0.02)
    training = Training(clips, truth, clip_checkpoint)
    one = step(clip_checkpoint, tmp_path / "1.safetensors", training)
    two = step(clip_checkpoint, tmp_path / "2.safetensors", training)
    assert one.sha256 == two.sha256 != clip_checkpoint.sha256

    def loss(source: Checkpoint) -> float:
        x = torch.from_numpy(np.stack([c[:4] for c in clips]).transpose(0, 2, 1, 3, 4).copy())
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(build(source)(x), torch.tensor(truth)))

    assert loss(one) < 0.7 * loss(clip_checkpoint)


def test_fine_tuning_that_diverges_is_named(clip_checkpoint: Checkpoint, tmp_path: Path) -> None:
    clips, truth = _clips()
    clips = [c * np.float32(np.inf) for c in clips]
    with pytest.raises(UsageError, match="not finite"):
        finetune.Step(epochs=1)(
            clip_checkpoint, tmp_path / "x.safetensors", Training(clips, truth, clip_checkpoint)
        )
    assert not (tmp_path / "x.safetensors").exists()


def test_step_models_without_a_clip_form_are_refused(tiny_step: Tiny, tmp_path: Path) -> None:
    source = from_files(tiny_step.model, tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)
    with pytest.raises(UsageError, match="cannot be pruned.*--prune 0"):
        prune.Step(0.5)(replace(source), tmp_path / "p.safetensors")


class Normed(nn.Module):
    """A norm that shares its statistic between channels; ``shift`` moves a quarter of them in time."""

    def __init__(self, norm: nn.Module, *, shift: bool = False) -> None:
        super().__init__()
        self.a = nn.Conv3d(3, 32, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.norm, self.shift = norm, shift
        self.b = nn.Conv3d(32, 32, (1, 3, 3), 1, (0, 1, 1))
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        last = isinstance(self.norm, nn.LayerNorm)
        x = torch.relu(self.norm(x.movedim(1, -1)).movedim(-1, 1) if last else self.norm(x))
        if self.shift:
            mask = (torch.arange(x.shape[1]) < x.shape[1] // 4).view(1, -1, 1, 1, 1)
            x = torch.where(mask, x.roll(1, 2), x)
        return self.head(torch.relu(self.b(x)).mean((2, 3, 4)))


class Attentive(nn.Module):
    """One transformer layer over patches, its network 64 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(3, 32, (1, 8, 8), (1, 8, 8))
        self.norm, self.attention = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        x = x + self.attention(x, x, x)[0]
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def groups() -> Normed:
    return Normed(nn.GroupNorm(2, 32))


def groups_without_gain() -> Normed:
    return Normed(nn.GroupNorm(2, 32, affine=False))


def places() -> Normed:
    return Normed(nn.LayerNorm(32))


def places_without_gain() -> Normed:
    return Normed(nn.LayerNorm(32, elementwise_affine=False))


def shifted_groups() -> Normed:
    return Normed(nn.GroupNorm(2, 32), shift=True)


def shifted_groups_without_gain() -> Normed:
    return Normed(nn.GroupNorm(2, 32, affine=False), shift=True)


def shifted_places() -> Normed:
    return Normed(nn.LayerNorm(32), shift=True)


def attentive() -> Attentive:
    return Attentive()


def made(folder: Path, function: str, layout: str = "NCTHW", change: object = None) -> Checkpoint:
    """A net of prunable.py or this file, weights seeded; ``change`` is called with the module first."""
    import prunable

    torch.manual_seed(0)
    here = function in globals()
    module = (globals()[function] if here else getattr(prunable, function))()
    if callable(change):
        with torch.no_grad():
            change(module)
    save(module, folder / "w.safetensors")
    shape = [1, 3, 4, 32, 32] if layout == "NCTHW" else [1, 3, 32, 32]
    (folder / "s.toml").write_text(SPEC.format(name=function.replace("_", "-"), shape=shape, layout=layout))
    builder = f"{__file__ if here else ROOT / 'tests' / 'prunable.py'}:{function}"
    return from_files(builder, folder / "w.safetensors", read_spec(folder / "s.toml"), trust_pickle=False)


def widths(checkpoint: Checkpoint) -> list[int]:
    module = build(checkpoint)
    return [getattr(module, n).weight.shape[0] for n in ("a", "b", "c")]


def test_a_temporal_shift_by_channel_number_is_refused_though_the_tool_cuts_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shift cannot be pruned.*addresses channels by number"):
        prune.Step(0.5)(made(tmp_path, "shift"), tmp_path / "p.safetensors")
    assert not (tmp_path / "p.safetensors").exists()


def test_a_norm_elsewhere_does_not_hide_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="addresses channels by number"):
        prune.Step(0.5)(made(tmp_path, "shift_then_norm"), tmp_path / "p.safetensors")


@pytest.mark.parametrize("net", ["shifted_groups", "shifted_groups_without_gain", "shifted_places"])
def test_a_norm_over_the_channels_that_were_cut_does_not_hide_it(tmp_path: Path, net: str) -> None:
    with pytest.raises(UsageError, match="addresses channels by number"):
        prune.Step(0.5)(made(tmp_path, net), tmp_path / "p.safetensors")


@pytest.mark.parametrize("net", ["groups", "groups_without_gain", "places", "places_without_gain"])
def test_channels_under_a_norm_that_shares_its_statistic_are_cut(tmp_path: Path, net: str) -> None:
    source = made(tmp_path, net)
    module = build(source).requires_grad_(True)
    prune.Step(0.5)._cut(module, source.spec, (), ())
    assert module.a.weight.shape[0] == module.b.weight.shape[0] == 16


@pytest.mark.parametrize("net", ["groups", "groups_without_gain", "places"])
def test_a_net_with_norms_is_rebuilt_at_its_new_widths(tmp_path: Path, net: str) -> None:
    module = build(prune.Step(0.5)(made(tmp_path, net), tmp_path / "p.safetensors"))
    assert module.a.weight.shape[0] == module.b.weight.shape[0] == 16


@pytest.mark.parametrize(
    ("cut", "right"),
    [
        pytest.param([0, 1, 16, 17], True, id="two of each group"),
        pytest.param([0, 1, 2, 3], False, id="channels 16 and 17 come into the first group"),
    ],
)
def test_a_channel_that_comes_into_another_group_of_a_norm_is_found(
    tmp_path: Path, cut: list[int], right: bool
) -> None:
    source = made(tmp_path, "groups")
    module, original = build(source).requires_grad_(True), build(source)
    graph = torch_pruning.DependencyGraph().build_dependency(module, (prune.clip_example(source.spec),))
    group = graph.get_pruning_group(module.a, torch_pruning.prune_conv_out_channels, cut)
    prune.silence(original, module, group)
    group.prune()
    assert prune._alike(original, module, source.spec, steady=True) is right


def test_what_attention_reads_stays_whole_while_the_rest_is_cut(tmp_path: Path) -> None:
    module = build(prune.Step(0.5)(made(tmp_path, "attentive"), tmp_path / "p.safetensors"))
    assert (module.attention.embed_dim, module.patch.weight.shape[0]) == (32, 32)
    assert (module.up.weight.shape[0], module.down.weight.shape[1]) == (32, 32)


def test_a_layer_that_keeps_its_old_width_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be pruned: .* does not rebuild.*normalized_shape=\[32\]"):
        prune.Step(0.5)(made(tmp_path, "places_without_gain"), tmp_path / "p.safetensors")


def test_a_saturated_answer_does_not_hide_it(tmp_path: Path) -> None:
    def sure(module: torch.nn.Module) -> None:
        module.get_parameter("head.bias").copy_(torch.tensor([12.0, -12.0]))

    with pytest.raises(UsageError, match="addresses channels by number"):
        prune.Step(0.5)(made(tmp_path, "sure_shift", change=sure), tmp_path / "p.safetensors")


def test_a_state_of_fixed_width_is_refused_though_the_step_still_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fixed-state cannot be pruned.*state keeps its old size"):
        prune.Step(0.5)(made(tmp_path, "fixed_state", "NCHW"), tmp_path / "p.safetensors")


def test_a_recurrent_net_is_refused_by_the_name_of_its_layer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'memory' is a recurrent layer \(GRU\)"):
        prune.Step(0.5)(made(tmp_path, "recurrent"), tmp_path / "p.safetensors")


def test_a_model_that_is_streamed_already_is_refused(tmp_path: Path) -> None:
    source = made(tmp_path, "plain")
    step = replace(source, rewrite=Rewrite("stream", source.spec.input))
    with pytest.raises(UsageError, match="Prune first, then stream"):
        prune.Step(0.5)(step, tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    ("ratio", "multiple", "expected"),
    [(0.2, 8, [24, 24, 40]), (0.3, 16, [16, 16, 32]), (0.25, 4, [24, 24, 36])],
)
def test_widths_are_the_nearest_multiples(
    tmp_path: Path, ratio: float, multiple: int, expected: list[int]
) -> None:
    """Of 32, 32 and 48 channels."""
    found = prune.Step(ratio, multiple=multiple)(made(tmp_path, "plain"), tmp_path / "p.safetensors")
    assert widths(found) == expected


def test_each_stage_has_its_own_share(tmp_path: Path) -> None:
    source = made(tmp_path, "plain")
    assert prune.stages(build(source), source.spec) == {"a": 0, "b": 0, "c": 1, "head": 1}
    found = prune.Step((0.0, 0.5), multiple=8)(source, tmp_path / "p.safetensors")
    assert widths(found) == [32, 32, 24]


def test_too_many_shares_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 shares, plain has 2 stages"):
        prune.Step((0.1, 0.2, 0.3))(made(tmp_path, "plain"), tmp_path / "p.safetensors")


def test_a_global_ranking_cuts_where_the_weights_are_small(tmp_path: Path) -> None:
    def weak_end(module: Plain) -> None:
        module.c.weight.mul_(0.01)
        module.head.weight.mul_(0.01)

    source = made(tmp_path, "plain", change=weak_end)
    even = prune.Step(0.25, multiple=4)(source, tmp_path / "e.safetensors")
    ranked = prune.Step(0.25, multiple=4, scope="global")(source, tmp_path / "r.safetensors")
    assert widths(even) == [24, 24, 36]
    assert widths(ranked)[2] < 36 and widths(ranked)[0] > 24


def test_taylor_keeps_a_small_channel_that_the_loss_needs(tmp_path: Path) -> None:
    """Channel 7 of the last convolution alone moves the answer; it has the smallest weights of all."""

    def one_that_counts(module: Plain) -> None:
        module.head.weight.zero_()
        module.head.weight[:, 7] = torch.tensor([3.0, -3.0])
        module.c.weight[7] *= 0.05
        module.head.weight[:, torch.arange(48) != 7] = 1.0  # the same for both labels: no gradient

    clips, truth = _clips()
    source = made(tmp_path, "plain", change=one_that_counts)
    step = prune.Step((0.0, 0.5), importance="taylor")
    found = step(source, tmp_path / "t.safetensors", Training(clips, truth))
    kept = build(found).head.weight
    assert any(torch.equal(kept[:, i], torch.tensor([3.0, -3.0])) for i in range(kept.shape[1]))


def test_taylor_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--importance taylor needs labelled training clips"):
        prune.Step(0.5, importance="taylor")(made(tmp_path, "plain"), tmp_path / "p.safetensors")


@pytest.mark.slow
def test_group_sparsity_trains_a_copy_and_is_repeatable(tmp_path: Path) -> None:
    clips, truth = _clips()
    source = made(tmp_path, "plain")
    before = Path(source.weights).read_bytes()
    step = prune.Step(0.5, importance="group")
    one, two = (step(source, tmp_path / f"{n}.safetensors", Training(clips, truth)) for n in ("a", "b"))
    assert one.sha256 == two.sha256 and Path(source.weights).read_bytes() == before
    assert one.sha256 != prune.Step(0.5)(source, tmp_path / "m.safetensors").sha256
