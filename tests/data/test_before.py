"""What comes before the model is the same for calibration, evaluation, training and the live path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepv.base.console import Console
from edgepv.data.before import CHAIN, bare, chained, clahe, denoise
from edgepv.data.calibration import CalibrationSet, calibration_set, preprocessing, rolled_feeds
from edgepv.data.clips import Clip
from edgepv.data.frames import at_model_size, clean_frames, model_frames, pictures, preprocess
from edgepv.data.truth import EvalClip, eval_clip
from edgepv.data.video import read_video
from edgepv.errors import UsageError
from edgepv.finetune.data import shots, tensor
from edgepv.model.spec import as_toml, check_spec, read_spec
from edgepv.pipeline.evaluate import Evaluation
from edgepv.pipeline.spoilt import CLEAN, spoilt, spoilt_clips
from edgepv.runtimes.engine import Engine
from edgepv.runtimes.lane import Lane
from edgepv.stream import Stepper, Tensors
from edgepv.types import ModelSpec, StreamSpec, TensorSpec, Variant

PLAIN = ModelSpec(
    "m", TensorSpec("frame", (1, 3, 32, 48)), ("a", "b"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
)
SPEC = replace(PLAIN, before=("denoise", "clahe"))
STREAM = StreamSpec((), warmup=1)


def picture(seed: int, height: int = 60, width: int = 90) -> np.ndarray:
    """Dark, with texture and noise."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(10, 60, width)[None, :, None] * np.ones((height, 1, 3))
    return np.clip(ramp + rng.normal(0, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def test_it_is_done_once_in_its_order_at_the_models_size() -> None:
    small = at_model_size(picture(0), SPEC)
    by_hand = clahe(denoise(small))
    np.testing.assert_array_equal(chained(small, SPEC), by_hand)
    assert (by_hand != denoise(clahe(small))).any() and (by_hand != small).any()
    np.testing.assert_array_equal(preprocess(picture(0), SPEC), preprocess(by_hand, PLAIN))
    assert bare(SPEC) == PLAIN and bare(PLAIN) is PLAIN


@pytest.mark.parametrize("name", CHAIN)
def test_each_part_does_what_its_name_says_and_keeps_the_picture(name: str) -> None:
    small = at_model_size(picture(0), PLAIN)
    out = CHAIN[name](small)  # type: ignore[index]
    assert out.shape == small.shape and out.dtype == np.uint8
    flat = [float(np.abs(np.diff(p.astype(float), axis=0)).mean()) for p in (small, out)]
    assert (flat[1] > 1.5 * flat[0]) if name == "clahe" else (flat[1] < 0.7 * flat[0])


class Seen(Engine):
    """An engine that keeps what it is shown."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def infer(self, feeds: Tensors) -> Tensors:
        self.frames.append(feeds["frame"].copy())
        return {"logits": np.zeros((1, 2), np.float32)}

    def close(self) -> None:
        pass


def test_calibration_evaluation_training_and_the_live_path_see_the_same_frames(
    write_video: Callable[..., Path],
) -> None:
    path = write_video("a.mp4", [30, 60, 90, 120, 150, 180], fps=10)
    clip = Clip(path, "a", "g")
    wanted = np.concatenate([preprocess(chained(f, SPEC), PLAIN) for f in clean_frames(path, SPEC)])
    assert (wanted != model_frames(path, PLAIN)).any()
    shown = {
        "evaluation": eval_clip(clip, SPEC).frames,
        "lowering and growth": model_frames(path, SPEC),
        "training": tensor(shots([clip], SPEC, Console(quiet=True))[0].frames, SPEC)
        .numpy()
        .transpose(1, 0, 2, 3),
        "spoilt, but not at all": spoilt(eval_clip(clip, PLAIN), SPEC, CLEAN).frames,
    }
    live, calibrating = Seen(), Seen()
    variant = Variant("v", "onnxruntime", "fp32", "step", "v.onnx", "", SPEC, STREAM, {}, {})
    lane = Lane(live, variant)
    for frame in read_video(path).frames:
        lane.step(frame)
    shown["live"] = np.concatenate(live.frames)
    feeds = rolled_feeds(Stepper(calibrating.infer, SPEC, STREAM), CalibrationSet((path,), ""), SPEC, every=1)
    shown["calibration"] = np.concatenate([f["frame"] for f in feeds])
    for who, frames in shown.items():
        np.testing.assert_array_equal(frames, wanted, err_msg=who)


def test_what_a_camera_does_comes_before_the_chain() -> None:
    clip = EvalClip(preprocess(picture(1, 32, 48), PLAIN), 0)
    squeezed = pictures(PLAIN, spoilt(clip, PLAIN, "JPEG").frames)[0]
    np.testing.assert_array_equal(spoilt(clip, SPEC, "JPEG").frames, preprocess(squeezed, SPEC))


def test_a_spec_carries_it_and_ranges_know_it(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    (tmp_path / "spec.toml").write_text(as_toml(SPEC))
    assert read_spec(tmp_path / "spec.toml") == SPEC and 'before = ["denoise", "clahe"]' in as_toml(SPEC)
    assert preprocessing(PLAIN) == "resize-area/normalise/1"
    assert preprocessing(SPEC) == "resize-area/denoise/clahe/normalise/1"
    clips = [Clip(write_video(f"{k}.mp4", [k, 9]), None, str(k)) for k in range(4)]
    assert calibration_set(clips, SPEC).digest != calibration_set(clips, PLAIN).digest
    (tmp_path / "bad.toml").write_text(as_toml(SPEC).replace('"clahe"', '"clahee"'))
    with pytest.raises(UsageError, match="unknown value 'clahee'.*Did you mean 'clahe'"):
        read_spec(tmp_path / "bad.toml")
    with pytest.raises(UsageError, match="give each once$"):
        check_spec(replace(PLAIN, before=("clahe", "clahe")), "x")


def test_a_restorer_has_none() -> None:
    image = TensorSpec("image", (1, 3, 32, 48))
    spec = replace(PLAIN, labels=(), task="restoration", metric="psnr", outputs=(image,), before=("clahe",))
    with pytest.raises(UsageError, match="none to a restorer"):
        check_spec(spec, "x")


def test_clips_that_are_spoilt_for_the_report_are_decoded_without_the_chain(
    write_video: Callable[..., Path],
) -> None:
    held_out = [Clip(write_video("a.mp4", list(range(30, 230, 8)), fps=10), "a", "g")]
    shown = (eval_clip(held_out[0], SPEC),)
    evaluation = Evaluation(SPEC, shown, ("a",), known=True, warmup=1, original=(), model=(), feeds=(),
                            max_drop=1.0, original_warmup=1)  # fmt: skip
    base = Variant("v", "onnxruntime", "fp32", "step", "v.onnx", "", SPEC, STREAM, {}, {})
    found = spoilt_clips(evaluation, held_out, base, Path(), 1)
    assert found is not None
    first = len(found.clips[0].frames)
    np.testing.assert_array_equal(found.clips[0].frames, model_frames(held_out[0].path, PLAIN)[:first])
    np.testing.assert_array_equal(found._versions[CLEAN][0].frames, shown[0].frames[:first])
