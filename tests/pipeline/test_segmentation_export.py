"""A user's segmenter is exported as any model: judged by mIoU, in INT8, over time, from torch and ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from own_models import as_onnx, for_mobile_in_int8, rows
from safetensors.torch import save_file
from segmenters import SIDE, TOML, build, drawn, files, film, pictures
from support import Run

import edgepv
from edgepv.data.frames import preprocess
from edgepv.model.spec import as_toml
from edgepv.types import TensorSpec
from edgepv.zoo.pv_seg import Segment
from edgepv.zoo.training.scenes import Scene, render, woven
from edgepv.zoo.training.segment import spec as zoo_spec

pytestmark = pytest.mark.slow


def check_labels(folder: Path) -> None:
    """A bundle says red, green and floor where they are."""
    picture, mask = drawn(np.random.default_rng(9))
    with edgepv.open(folder) as session:
        for _ in range(4):
            said = session.step(picture).mask
    assert said is not None
    np.testing.assert_array_equal(said.on_picture((32, 64)), mask)


def test_a_torch_segmenter_for_cpu_in_int8(run: Run, tmp_path: Path) -> None:
    builder, weights, spec = files(tmp_path)
    clips, out = pictures(tmp_path / "p"), tmp_path / "b"
    code, said, err = run("export", builder, "--weights", weights, "--spec", spec, "--clips", clips,
                          "--variant", "onnxruntime-int8", "--max-drop", 40, "--out", out)  # fmt: skip
    assert code == 0, err + said
    row = rows(out)["onnxruntime-int8"]
    assert row.accuracy and row.accuracy.value == 1.0 and row.accuracy.metric == "miou"
    assert [c.label for c in row.accuracy.classes] == ["floor", "red", "green"]
    assert row.drop and row.drop.verdict == "pass" and row.drop.unit == "points"
    assert row.drop.points == 0 and row.drop.high > 1  # so few clips do not prove it of the next
    assert row.parity and row.parity.agreement == 1.0
    assert row.audit and row.audit.int8 > 0
    check_labels(out)
    assert "mIoU" in (out / "report.md").read_text()


def test_an_onnx_segmenter_for_mobile_in_int8(run: Run, tmp_path: Path) -> None:
    _, _, spec = files(tmp_path)
    file, clips = as_onnx(build(), SIDE, tmp_path / "net.onnx"), pictures(tmp_path / "p")
    check_labels(for_mobile_in_int8(run, file, spec, clips, tmp_path / "b"))


def test_a_clip_model_becomes_a_stream(run: Run, tmp_path: Path) -> None:
    toml = TOML.replace("fps = 10", "fps = 10\nframes = 3")
    toml = toml.replace("[1, 3, 32, 32]", '[1, 3, 3, 32, 32]\nlayout = "NCTHW"')
    builder, weights, spec = files(tmp_path, "lingering", toml)
    rng, clips, out = np.random.default_rng(0), tmp_path / "p", tmp_path / "b"
    for number in range(8):
        picture, mask = drawn(rng)
        film(clips / "images" / f"{number}.avi", [picture] * 6)
        (clips / "masks" / f"{number}").mkdir(parents=True)
        cv2.imwrite(str(clips / "masks" / f"{number}" / "00004.png"), mask)
    code, said, err = run("export", builder, "--weights", weights, "--spec", spec, "--clips", clips,
                          "--precision", "fp32", "--variant", "onnxruntime-fp32", "--out", out)  # fmt: skip
    assert code == 0, err + said
    with edgepv.open(out) as session:
        stream = session.variant.stream
    assert stream is not None and stream.exactness == "exact" and stream.delay == 0
    row = rows(out)["onnxruntime-fp32"]
    assert row.accuracy and row.accuracy.value == 1.0 and row.drop and row.drop.points == 0.0
    check_labels(out)


def test_masks_of_frames_that_nobody_looks_at_judge_nothing(run: Run, tmp_path: Path) -> None:
    """An mIoU of 0 % that loses 0 points is no figure."""
    builder, weights, spec = files(tmp_path)
    rng, clips, out = np.random.default_rng(0), tmp_path / "p", tmp_path / "b"
    for number in range(6):
        picture, mask = drawn(rng)
        film(clips / "images" / f"{number}.avi", [picture] * 34)
        (clips / "masks" / f"{number}").mkdir(parents=True)
        cv2.imwrite(str(clips / "masks" / f"{number}" / "00033.png"), mask)
    code, said, err = run("export", builder, "--weights", weights, "--spec", spec, "--clips", clips,
                          "--precision", "fp32", "--variant", "onnxruntime-fp32", "--out", out)  # fmt: skip
    assert code == 0, err + said
    row = rows(out)["onnxruntime-fp32"]
    assert row.accuracy is None and row.drop is None
    assert "accuracy is not judged: no mask of the first 32 frames" in said


SMALL = (32, 48)


def small() -> Segment:
    """pv-seg as it begins, with states of its own."""
    torch.manual_seed(0)
    return Segment(3, height=SMALL[0], width=SMALL[1])


def test_an_untrained_recurrent_net_answers_as_torch_does(run: Run, tmp_path: Path) -> None:
    frame, scores = (TensorSpec(name, (1, 3, *SMALL)) for name in ("frame", "scores"))
    spec = replace(zoo_spec("untrained"), input=frame, outputs=(scores,))
    net, clips, out = small().eval(), tmp_path / "p", tmp_path / "b"
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "spec.toml").write_text(as_toml(spec))
    for number in range(6):
        rng = np.random.default_rng(number)
        scene = render(rng, [woven(rng)], Scene(*SMALL, frames=8), "train")
        film(clips / "images" / f"{number}.avi", [np.ascontiguousarray(f[..., ::-1]) for f in scene.frames])
        (clips / "masks" / f"{number}").mkdir(parents=True)
        for k in (4, 7):
            cv2.imwrite(str(clips / "masks" / f"{number}" / f"{k:05}.png"), scene.masks[k])
    code, said, err = run("export", f"{__file__}:small", "--weights", tmp_path / "w.safetensors", "--spec",
                          tmp_path / "spec.toml", "--clips", clips, "--variant", "onnxruntime-fp32",
                          "--precision", "fp32", "--out", out)  # fmt: skip
    assert code == 0, err + said
    frames, memory = scene.frames, net.init_state()["memory"]
    with edgepv.open(out) as session, torch.no_grad():
        for number, frame in enumerate(frames):
            picture = np.ascontiguousarray(frame[..., ::-1])
            answer = session.step(picture)
            told, memory = net.step(torch.from_numpy(preprocess(picture, spec)), memory)
            assert answer.mask is not None and answer.valid == (number >= 3)
            best = told[0].numpy()
            sure = np.abs(np.diff(np.sort(best, 0)[-2:], axis=0))[0] > 1e-4
            assert (answer.mask.labels == best.argmax(0))[sure].all() and sure.mean() > 0.9
