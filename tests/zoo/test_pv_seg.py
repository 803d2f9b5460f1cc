"""The segmenter steps as it was trained, its memory stays bounded, scenes are what their masks say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from support import assert_static_4_d

from edgepv.base.files import read_json
from edgepv.data.clips import find_clips
from edgepv.data.masked import survey_masks
from edgepv.errors import UsageError
from edgepv.export import to_onnx
from edgepv.metrics.segmentation import mean_iou
from edgepv.types import TensorSpec
from edgepv.zoo import HERE, SCENES, pv_seg
from edgepv.zoo.training import segment
from edgepv.zoo.training.scenes import BACKGROUND, MOVING, SHADOW, Drawn, Scene, render, woven
from edgepv.zoo.training.segment import by_difference, by_mixture, ious, measured, penalty, spec
from edgepv.zoo.training.steps import Schedule

HEIGHT, WIDTH = 32, 48
INPUT = TensorSpec("frame", (1, 3, HEIGHT, WIDTH))
SCORES = TensorSpec("scores", (1, 3, HEIGHT, WIDTH))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def net() -> pv_seg.Segment:
    torch.manual_seed(0)
    return pv_seg.nano(height=HEIGHT, width=WIDTH).eval()


def video(frames: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_steps_answer_what_the_training_form_answers() -> None:
    small, clip = net(), video(8)
    memory, rows = small.init_state()["memory"], []
    for t in range(8):
        scores, memory = small.step(clip[:, :, t], memory)
        rows.append(scores)
    whole = small(clip)
    assert whole.shape == (1, 3, 8, HEIGHT, WIDTH)
    assert (torch.stack(rows, 2) - whole).abs().max() <= 1e-5


@torch.no_grad()
def test_the_memory_is_a_mean_of_what_frames_showed() -> None:
    small, clip = net(), video(60)
    memory = small.init_state()["memory"]
    shown = torch.stack([small.seen(clip[:, :, t])[1] for t in range(60)])
    for t in range(60):
        _, memory = small.step(clip[:, :, t], memory)
    assert (memory <= shown.amax(0).clamp(min=0) + 1e-5).all()
    assert (memory >= shown.amin(0).clamp(max=0) - 1e-5).all()


def test_it_is_small_and_steps_in_four_axes(tmp_path: Path) -> None:
    assert sum(p.numel() for p in pv_seg.nano().parameters()) < 150_000
    to_onnx.lower(net(), replace(spec("small"), input=INPUT, outputs=(SCORES,)), tmp_path / "net.onnx")
    assert_static_4_d(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="multiples of 16; got 36 x 192"):
        pv_seg.nano(height=36)


def test_a_mask_is_where_the_picture_differs_from_what_stands_behind() -> None:
    seen = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene = Scene(48, 64, frames=3, speed=(0.05, 0.08), drift=0.0)
        one = render(rng, [woven(rng) for _ in range(4)], scene, "test")
        assert one.frames.shape == (3, 48, 64, 3) and one.masks.shape == (3, 48, 64)
        apart = np.abs(one.frames[0].astype(int) - one.frames[2]).max(-1)
        still = (one.masks == BACKGROUND).all(0)
        if (one.masks == MOVING).any():
            seen += 1
            assert np.median(apart[~still]) > np.median(apart[still])
    assert seen >= 6


def test_shadows_are_darker_than_what_they_fall_on() -> None:
    found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        grey = [np.full((64, 64, 3), 200, np.uint8)]
        scene = Scene(48, 64, frames=2, things=1, size=(0.4, 0.7), drift=0.0)
        one = render(rng, grey, scene, "train", grey)
        shade, behind = one.masks[0] == SHADOW, one.masks[0] == BACKGROUND
        if shade.sum() > 30:
            found += 1
            assert np.median(one.frames[0][shade]) < 0.9 * np.median(one.frames[0][behind])
    assert found >= 3


def test_a_right_answer_costs_less_and_frames_before_the_warm_up_nothing() -> None:
    masks = torch.zeros(1, 6, 8, 8, dtype=torch.long)
    masks[..., :4], masks[..., 4:6] = MOVING, SHADOW
    right = 8 * torch.nn.functional.one_hot(masks, 3).float().permute(0, 4, 1, 2, 3)
    wrong = right.flip(1)
    assert penalty(right, masks)[0] < 0.1 < 1 < penalty(wrong, masks)[0]
    early = right.clone()
    early[:, :, :3] = wrong[:, :, :3]
    assert penalty(early, masks)[0] == penalty(right, masks)[0]
    assert penalty(right, masks)[1] == {"iou_moving": 1.0, "iou_shadow": 1.0}


def test_methods_without_a_network_find_a_square_that_moves() -> None:
    frames, masks = np.full((20, 32, 48, 3), 120, np.uint8), np.zeros((20, 32, 48), np.uint8)
    for t in range(6, 20):  # the mixture takes what is there at first for background
        x = 2 * (t - 6)
        frames[t, 8:20, x : x + 12], masks[t, 8:20, x : x + 12] = 240, MOVING
    clip = [("room", Drawn(frames, masks))]
    assert measured(by_mixture(16, 0.005), clip)[0].labels["moving"] > 0.6
    difference = measured(by_difference(16), clip)[0]
    assert 0.05 < difference.labels["moving"] < 0.5  # its two edges alone
    table = np.diag([4, 2, 2])
    assert ious(table) == [1.0, 1.0, 1.0] and mean_iou(spec("a"), table) == 1.0


def test_shipped_scenes_judge_by_footage_that_did_not_train() -> None:
    clips = survey_masks(HERE / "scenes").clips
    held_out = [c for c in clips if c.split == "evaluation"]
    assert len(held_out) == 19 and len({c.group for c in held_out}) == 19 and all(c.truth for c in held_out)
    groups = {c.group for c in find_clips(HERE / "clips", ("fight", "no_fight")) if c.split == "calibration"}
    assert not groups & {c.group for c in held_out}
    assert sum(p.stat().st_size for p in Path(HERE / "scenes").rglob("*.*")) < 700_000


@pytest.mark.slow
def test_training_writes_weights_and_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "CLIPS", 2)
    monkeypatch.setattr(segment, "FRAMES", 6)
    monkeypatch.setattr(segment, "THRESHOLDS", segment.THRESHOLDS[:2])
    monkeypatch.setattr(segment, "RATES", segment.RATES[:1])
    tiny = segment.Recipe(Schedule(2, 1e-3), ((1.0, 5, 1),))
    monkeypatch.setattr(segment, "RECIPES", {"pv-seg-nano": tiny})
    arguments = ["pv-seg-nano", "--out", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert segment.main(arguments) == 0
    result = read_json(tmp_path / "cards" / "pv-seg-nano.json")
    assert (
        result["davis"] is None
        and len(result["test"]["clips"]) == 2
        and set(result["test"]["labels"]) == set(SCENES)
    )
    row = read_json(tmp_path / "weights" / "index.json")["pv-seg-nano"]
    assert row["metrics"]["test"]["value"] == pytest.approx(result["test"]["miou"], abs=1e-4)
    assert (tmp_path / "cards" / "pv-seg-nano.png").is_file()
