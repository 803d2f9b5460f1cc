"""Pruning removes whole channels, the smaller model rebuilds from its weights, and it still steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import TINY, Tiny

from edgepv.checkpoint import build, from_files, read_spec
from edgepv.errors import UsageError
from edgepv.quantize import finetune, prune
from edgepv.types import Checkpoint
from edgepv.zoo import checkpoint as zoo_checkpoint


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
        prune.Step(0.01, round_to=16)(clip_checkpoint, tmp_path / "p.safetensors")


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


def test_fine_tuning_learns_and_is_repeatable(clip_checkpoint: Checkpoint, tmp_path: Path) -> None:
    clips, truth = _clips()
    step = finetune.Step(epochs=8, learning_rate=0.02)
    one = step(clip_checkpoint, clip_checkpoint, clips, truth, tmp_path / "1.safetensors")
    two = step(clip_checkpoint, clip_checkpoint, clips, truth, tmp_path / "2.safetensors")
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
        finetune.Step(epochs=1)(clip_checkpoint, clip_checkpoint, clips, truth, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_step_models_without_a_clip_form_are_refused(tiny_step: Tiny, tmp_path: Path) -> None:
    source = from_files(tiny_step.model, tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)
    with pytest.raises(UsageError, match="cannot be pruned.*--prune 0"):
        prune.Step(0.5)(replace(source), tmp_path / "p.safetensors")
