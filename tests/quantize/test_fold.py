"""Folding keeps the answers while channels that others can stand for go, and leaves what it cannot judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT, TINY, Tiny
from torch import Tensor, nn

from edgepv.errors import ModelError, UsageError
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.model.weights import save
from edgepv.quantize import fold
from edgepv.quantize.step import Training, asked
from edgepv.types import Checkpoint, ModelSpec, Rewrite, TensorSpec

HERE = f"{ROOT}/tests/quantize/test_fold.py"
SPEC = ModelSpec(
    name="twins",
    input=TensorSpec("clip", (1, 3, 6, 32, 32), "NCTHW"),
    labels=("a", "b"),
    frames=6,
    fps=10,  # type: ignore[arg-type]
)
KEPT = 8


class Twins(nn.Module):
    """A residual clip net in which all but ``KEPT`` channels of the trunk are copies of others, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv3d(3, 32, 3, (1, 2, 2), 1)
        self.norm = nn.BatchNorm3d(32)
        self.b = nn.Conv3d(32, 32, 3, 1, 1)
        self.c = nn.Conv3d(32, 24, 3, (1, 2, 2), 1)
        self.head = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = torch.relu(self.b(x)) + x
        return self.head(torch.relu(self.c(x)).mean((2, 3, 4)))


class Grouped(Twins):
    """The same, but what reads the trunk is grouped: each output reads half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv3d(32, 32, 3, 1, 1, groups=2)
        self.c = nn.Conv3d(32, 24, 3, (1, 2, 2), 1, groups=2)


class Normed(Twins):
    """The same with a norm that shares its statistics between channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 32)  # type: ignore[assignment]


def twins() -> Twins:
    return Twins()


def grouped() -> Grouped:
    return Grouped()


def normed() -> Normed:
    return Normed()


def _planted(module: Twins) -> Twins:
    """``module`` with copies: channel i of a and of b is a positive multiple of channel i modulo KEPT."""
    module.eval()
    scale = torch.linspace(0.5, 2.0, 32)
    scale[:KEPT] = 1.0
    first = torch.arange(32) % KEPT
    with torch.no_grad():
        for layer in (module.a, module.b):
            layer.weight.copy_(layer.weight[first] * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
            assert layer.bias is not None
            layer.bias.copy_(layer.bias[first] * scale)
    return module


def _checkpoint(kind: str, tmp_path: Path, *, planted: bool = True) -> Checkpoint:
    torch.manual_seed(0)
    module = {"twins": twins, "grouped": grouped, "normed": normed}[kind]()
    save(_planted(module) if planted else module, tmp_path / f"{kind}.safetensors")
    return from_files(f"{HERE}:{kind}", tmp_path / f"{kind}.safetensors", SPEC, trust_pickle=False)


def _footage(count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((9, 3, 32, 32)).astype(np.float32) for _ in range(count)]


def _sqnr(one: Checkpoint, other: Checkpoint) -> float:
    clips = torch.from_numpy(np.stack([c[:6].transpose(1, 0, 2, 3) for c in _footage(4)])) * 0.7 + 0.1
    with torch.no_grad():
        return sqnr_db(build(one)(clips).numpy(), build(other)(clips).numpy())


def test_copies_are_folded_into_what_they_copy(tmp_path: Path) -> None:
    source = _checkpoint("twins", tmp_path)
    made = fold.Step(60.0)(source, tmp_path / "f.safetensors", Training(footage=_footage()))
    assert build(made).a.weight.shape[0] == KEPT and build(made).c.weight.shape[1] == KEPT
    assert _sqnr(source, made) > 60
    record = made.steps[-1]
    before, after = record.options["params"]
    assert record.name == "fold" and after < before / 2
    assert record.options["widths"] == {"b": [32, KEPT]} or record.options["widths"] == {"a": [32, KEPT]}


def test_a_net_without_copies_keeps_its_channels(tmp_path: Path) -> None:
    source = _checkpoint("twins", tmp_path, planted=False)
    with pytest.raises(UsageError, match="no channel of twins can be stood for"):
        fold.Step(90.0)(source, tmp_path / "f.safetensors", Training(footage=_footage()))


def test_what_is_promised_holds_on_the_video_that_judged(tmp_path: Path) -> None:
    source = _checkpoint("twins", tmp_path, planted=False)
    made = fold.Step(15.0)(source, tmp_path / "f.safetensors", Training(footage=_footage()))
    assert made.steps[-1].options["sqnr_db"] >= 15
    assert _sqnr(source, made) > 10


@pytest.mark.parametrize("kind", ["grouped", "normed"])
def test_channels_that_do_not_stand_by_themselves_are_left(kind: str, tmp_path: Path) -> None:
    source = _checkpoint(kind, tmp_path)
    with pytest.raises(UsageError, match="no channel"):
        fold.Step(30.0)(source, tmp_path / "f.safetensors", Training(footage=_footage()))


def test_features_seen_at_few_places_are_left(tmp_path: Path) -> None:
    """The head sees one vector a clip: four clips tell nothing of 24 channels."""
    source = _checkpoint("twins", tmp_path)
    made = fold.Step(10.0)(source, tmp_path / "f.safetensors", Training(footage=_footage()))
    assert build(made).head.weight.shape[1] == 24


def test_pivoted_finds_the_rank() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100, 3)) @ rng.standard_normal((3, 7))
    order, left = fold.pivoted(rows.T @ rows)
    assert sorted(order) == list(range(7))
    assert left[2] < 1e-12 < left[1]
    fit = fold.combinations(rows.T @ rows, order[:3])
    assert np.allclose(rows[:, order[:3]] @ fit.T, rows, atol=1e-3)


def test_too_little_video_and_a_step_are_refused(tmp_path: Path) -> None:
    source, out = _checkpoint("twins", tmp_path), tmp_path / "f.safetensors"
    with pytest.raises(UsageError, match="at least 4 clips"):
        fold.Step(30.0)(source, out, Training(footage=_footage(3)))
    laid_out = replace(source, rewrite=Rewrite("stream", SPEC.input))
    with pytest.raises(UsageError, match="Fold first"):
        fold.Step(30.0)(laid_out, out, Training(footage=_footage()))
    assert not out.exists()


def test_a_model_that_cannot_be_traced_is_its_authors(tmp_path: Path) -> None:
    from edgepv.zoo import checkpoint

    frames = [np.zeros((20, 3, 96, 96), np.float32)] * 4
    with pytest.raises(ModelError, match="--fold 0"):
        fold.Step(30.0)(checkpoint("pv-graph-nano"), tmp_path / "f.safetensors", Training(footage=frames))


def test_a_model_that_only_steps_is_told_what_turns_folding_off(tiny_step: Tiny, tmp_path: Path) -> None:
    steps = from_files(f"{TINY}:stepper", tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)
    frames = [np.zeros((6, 3, 32, 32), np.float32)] * 4
    with pytest.raises(ModelError, match=r"cannot be folded: it has a step and no forward.*Use --fold 0"):
        fold.Step(30.0)(steps, tmp_path / "f.safetensors", Training(footage=frames))


def test_it_is_due_where_there_is_video_and_nothing_cuts() -> None:
    def names(given: dict[str, object], **how: bool) -> list[str]:
        return [step.name for step in asked(given, **how)]

    assert names({}, watching=True) == ["fold"]
    assert names({}) == names({"fold": 0.0}, watching=True) == []
    assert "fold" not in names({"prune": [0.5]}, watching=True, tuning=True)
    assert names({"fold": 30.0, "prune": [0.5]}, tuning=True) == ["prune", "fold", "finetune"]
