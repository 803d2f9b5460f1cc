"""Training of the restorer on pictures drawn by the test: samples, unrolls, losses, what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import cv2
import torch

from edgepv.base.files import read_json, sha256
from edgepv.errors import UsageError
from edgepv.model.builder import find_function
from edgepv.model.checkpoint import build
from edgepv.types import Checkpoint, ModelSpec, decode
from edgepv.zoo.pv_restore import Restore
from edgepv.zoo.training import restore
from edgepv.zoo.training.restore import (
    RECIPES,
    SPLIT,
    STILLS,
    Adversary,
    Footage,
    Recipe,
    Source,
    batch_of,
    builder_of,
    gan_loss,
    main,
    pixel_loss,
    read_source,
    restored,
)
from edgepv.zoo.training.steps import Schedule

pytestmark = pytest.mark.slow

NANO = "pv-restore-nano-denoise"
TINY = Recipe("nano", Schedule(10, lr=1e-3), frames=16, crop=16, bf16=False)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def still(seed: int, side: int = 96) -> np.ndarray:
    """Blocks of 8 x 8 pixels of random grey, (side, side) uint8."""
    blocks = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


def footage(reels: int = 0) -> Footage:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (5, 40, 60, 3), np.uint8) for _ in range(reels)]
    return Footage(clips, [still(i) for i in range(4)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with four stills to learn from and six pictures of a test clip."""
    folder = tmp_path / "natural"
    (folder / STILLS).mkdir(parents=True)
    for i in range(4):
        cv2.imwrite(str(folder / STILLS / f"{i}.png"), still(i))
    pictures = folder / "davis_car-shadow/JPEGImages"
    pictures.mkdir(parents=True)
    for i in range(6):
        cv2.imwrite(str(pictures / f"{i:05}.png"), np.roll(still(9), 2 * i, 1))
    return folder


def test_unrolls_grow_from_8_to_32_frames() -> None:
    recipe = Recipe("nano", Schedule(100, lr=1e-3))
    assert [recipe.unroll(step) for step in (0, 29, 30, 59, 60, 99)] == [8, 8, 16, 16, 32, 32]


def test_a_sample_is_as_long_and_large_as_asked_even_from_a_short_reel() -> None:
    rng = np.random.default_rng(0)
    for reels in (0, 2):
        for _ in range(10):
            sample = footage(reels).sample(12, 32, rng)
            assert sample.shape == (12, 32, 32, 3)
            assert sample.dtype == np.uint8


def test_a_short_reel_is_played_to_and_fro() -> None:
    reel = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    for seed in range(6):
        clip = Footage([reel], [])._crop(9, 8, np.random.default_rng(seed))
        steps = np.abs(np.diff(clip[:, 0, 0, 0].astype(int)))
        assert steps.max() <= 2
        assert set(clip[:, 0, 0, 0].tolist()) <= {0, 1, 2}


def test_batches_hold_noisy_frames_of_the_same_size_or_frames_of_half_the_size() -> None:
    rng = np.random.default_rng(0)
    given, truth = batch_of(footage(), TINY, 1, 0, rng)
    assert given.shape == truth.shape == (2, 3, 8, 16, 16)
    assert abs(float((given - truth).std()) - 25 / 255) < 0.003
    given, truth = batch_of(footage(), TINY, 2, 0, rng)
    assert (given.shape, truth.shape) == ((2, 3, 8, 16, 16), (2, 3, 8, 32, 32))
    assert (torch.nn.functional.avg_pool3d(truth, (1, 2, 2)) - given).abs().max() < 1 / 255


def test_no_test_clip_trains() -> None:
    assert not {s.path for s in SPLIT["train"]} & {s.path for s in SPLIT["test"]}
    assert not any(s.path == STILLS for s in SPLIT["test"])


def test_a_compressed_source_is_read_at_half_size(data: Path) -> None:
    path = "davis_car-shadow/JPEGImages"
    assert read_source(data, Source(path)).shape == (6, 48, 48, 3)
    assert read_source(data, Source(path, halved=False, frames=2)).shape == (2, 96, 96, 3)


def test_frames_are_restored_one_by_one_as_the_training_form_does() -> None:
    net = Restore(8, 8).eval()
    torch.nn.init.normal_(net.leave.weight, 0, 0.1)
    frames = np.random.default_rng(0).random((5, 16, 20, 3), np.float32)
    with torch.no_grad():
        whole = net(restore.to_input([frames]))[0].permute(1, 2, 3, 0).numpy()
    assert np.abs(restored(net, frames) - whole).max() < 1e-5
    assert (net.height, net.width) == (8, 8)


def gradients(net: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    net.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def pair_loss(weight: float) -> tuple[Adversary, torch.Tensor]:
    """A fresh adversary, always the same, and its loss at step 0."""
    torch.manual_seed(0)
    pair = Adversary(Restore(48, 48))
    recipe = Recipe("nano", Schedule(10, lr=1e-3), frames=8, crop=48, bf16=False, gan=weight)
    return pair, gan_loss(footage(), recipe)(pair, 0, np.random.default_rng(0))[0]


def test_the_critic_learns_nothing_from_the_judgement() -> None:
    ignored, loss = pair_loss(0.0)
    one = gradients(ignored.critic, loss)
    heeded, loss = pair_loss(10.0)
    other = gradients(heeded.critic, loss)
    assert one.abs().max() > 0
    assert torch.allclose(one, other, atol=1e-7)


def test_the_restorer_learns_from_the_judgement_and_not_from_the_hinge() -> None:
    torch.manual_seed(0)
    net = Restore(48, 48)
    recipe = Recipe("nano", Schedule(10, lr=1e-3), frames=8, crop=48, bf16=False)
    alone = gradients(net, pixel_loss(footage(), recipe)(net, 0, np.random.default_rng(0))[0])
    ignored, loss = pair_loss(0.0)
    assert torch.allclose(alone, gradients(ignored.net, loss), atol=1e-6)
    heeded, loss = pair_loss(10.0)
    assert (gradients(heeded.net, loss) - alone).abs().max() > 1e-4


def test_three_steps_leave_weights_that_load_and_a_measured_result(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, NANO, replace(RECIPES[NANO], frames=16, crop=48))
    out = tmp_path / "out"
    options = ["--data", str(data), "--out", str(out), "--cache", str(tmp_path / "cache"), "--steps", "3"]
    assert main([NANO, *options]) == 0
    assert "step 3" in capsys.readouterr().out
    row = read_json(out / "weights/index.json")[NANO]
    spec = decode(ModelSpec, row["spec"])
    assert (spec.task, spec.degrade, spec.answer.name) == ("restoration", "noise-25", "image")
    weights = out / row["weights"]
    assert row["sha256"] == sha256(weights)
    net = build(Checkpoint(str(weights), row["sha256"], row["builder"], spec))
    assert isinstance(net, Restore)
    card = read_json(out / "cards" / f"{NANO}.json")
    (clip,) = card["test"]["clips"]
    assert clip["frames"] == 6
    assert 19 < clip["psnr_given"] < 22
    assert main([NANO, *options, "--gan", "0.1"]) == 0
    assert (out / f"weights/{NANO}-gan.safetensors").is_file()
    assert main([NANO, *options[:-2], "--more", "2"]) == 0
    after = read_json(out / "cards" / f"{NANO}.json")
    assert after["went_on_from"] == card
    assert after["log"][-1]["step"] == 2
    assert sha256(weights) != row["sha256"]


def test_a_gan_without_weights_to_go_on_from_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "HERE", tmp_path)
    options = ["--data", str(data), "--out", str(tmp_path), "--cache", str(tmp_path), "--steps", "1"]
    assert main([NANO, *options, "--gan", "1"]) == UsageError.exit_code
    assert "Train it first" in capsys.readouterr().err


def test_every_recipe_has_a_builder_of_its_factor() -> None:
    for name, recipe in RECIPES.items():
        net = find_function(builder_of(recipe))()
        assert net.up == (2 if name.endswith("x2") else 1)
        assert (recipe.crop * net.up) % 2 == 0
