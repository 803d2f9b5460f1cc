"""ONNX files of others through the command line: what ships, what it is called, and what is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import CLIP, FRAME, SIDE, answers, described, net, written
from support import Run, drifts

import edgepv
from edgepv import bundle
from edgepv.data.frames import preprocess
from edgepv.data.video import read_video
from edgepv.types import Report, decode


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drifts(tmp_path_factory.mktemp("drifts"), ("left", "right"))


def report(folder: Path) -> Report:
    return decode(Report, json.loads((folder / "measured.json").read_text()))


def played(folder: Path, variant: str, clip: Path) -> np.ndarray:
    """The last answer of a bundle's variant on a clip."""
    with edgepv.open(folder, variant=variant) as session:
        found = [session.step(frame) for frame in read_video(clip).frames]
    name = session.variant.spec.answer.name
    return found[-1].outputs[name]


def last_window(clip: Path) -> np.ndarray:
    frames = [frame[:, :, ::-1].transpose(2, 0, 1) / np.float32(255) for frame in read_video(clip).frames]
    return np.stack(frames[-CLIP[2] :], 1)[None].astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["constants", "inputs"])
def test_int8_of_an_old_file_is_really_int8(run: Run, clips: Path, tmp_path: Path, kind: str) -> None:
    file, spec = written(tmp_path, net(opset=11, held=kind)), described(tmp_path)
    code, _, err = run("export", file, "--spec", spec, "--clips", clips, "--out", tmp_path / "b")
    assert code == 0, err
    rows = {row.variant: row for row in report(tmp_path / "b").rows}
    for name in ("onnxruntime-int8", "openvino-int8"):
        audit = rows[name].audit
        assert audit and (audit.int8, len(audit.convolutions)) == (2, 2)
    assert "opset 11; it was converted to 13" in " ".join(report(tmp_path / "b").reasons)
    clip = next(iter(sorted(clips.rglob("test/left/*.mp4"))))
    plain = answers(net(), last_window(clip))[0]
    assert np.allclose(played(tmp_path / "b", "onnxruntime-fp32", clip), plain, atol=1e-4)
    assert np.allclose(played(tmp_path / "b", "onnxruntime-int8", clip), plain, atol=0.2)


def quantized(folder: Path, clips: Path, **options: Any) -> Path:
    """The net in Q/DQ, as onnxruntime writes it."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": last_window(path)} for path in sorted(clips.rglob("train/*/*.mp4"))]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    source = written(folder, net(), "float.onnx")
    q.quantize_static(source, folder / "q.onnx", Reader(), per_channel=True, **options)
    return folder / "q.onnx"


@pytest.mark.slow
def test_a_quantized_file_is_run_as_it_is_and_called_int8(run: Run, clips: Path, tmp_path: Path) -> None:
    file, spec = quantized(tmp_path, clips, reduce_range=True), described(tmp_path)
    arguments = ["export", file, "--spec", spec, "--clips", clips, "--out", tmp_path / "b"]
    code, out, err = run(*arguments, "--target", "cpu,jetson", "--json")
    assert code == 10, err
    made, missing = json.loads(out)
    assert missing["target"] == "jetson" and "quantized already" in missing["why"]
    rows = {row["variant"]: row for row in made["measured"]["rows"]}
    assert set(rows) == {"onnxruntime-original", "onnxruntime-int8", "openvino-int8"}
    assert {row["precision"] for row in rows.values()} == {"int8"}
    assert f"{file}: the file is quantized already" in " ".join(made["measured"]["reasons"])
    clip = next(iter(sorted(clips.rglob("test/left/*.mp4"))))
    assert np.allclose(
        played(tmp_path / "b" / "cpu", "onnxruntime-int8", clip),
        answers(onnx.load(file), last_window(clip))[0],
        atol=1e-4,
    )
    code, _, err = run(*arguments[:-1], tmp_path / "c", "--precision", "fp32")
    assert code == 2 and "is quantized already, so there is no fp32 of it. Give the float model" in err
    code, _, err = run("sensitivity", file, "--spec", spec, "--clips", clips)
    assert code == 2 and "is quantized already. Give the float model" in err


def test_weights_of_eight_bits_alone_ship_too(run: Run, clips: Path, tmp_path: Path) -> None:
    """Dynamic quantization: the convolutions compute in float, and nobody says otherwise."""
    from onnxruntime import quantization as q

    source, file = written(tmp_path, net(), "float.onnx"), tmp_path / "q.onnx"
    q.quantize_dynamic(source, file, op_types_to_quantize=["MatMul", "Gemm"])
    spec = described(tmp_path)
    code, _, err = run("export", file, "--spec", spec, "--clips", clips, "--out", tmp_path / "b")
    assert code == 0, err
    assert "onnxruntime-int8" in {v.name for v in bundle.read(tmp_path / "b").content.variants}


@pytest.mark.parametrize("more", [{"AddQDQPairToWeight": True, "QuantizeBias": False}, {}])
def test_jetson_takes_a_quantized_file_that_is_as_tensorrt_reads_it_or_can_be_written_so(
    run: Run, clips: Path, tmp_path: Path, more: dict[str, bool]
) -> None:
    from onnxruntime.quantization import QuantType

    symmetric = {"ActivationSymmetric": True, **more}
    file = quantized(tmp_path, clips, activation_type=QuantType.QInt8, extra_options=symmetric)
    spec = described(tmp_path)
    arguments = ["export", file, "--spec", spec, "--clips", clips, "--target", "jetson"]
    code, _, err = run(*arguments, "--out", tmp_path / "b")
    assert code == 0, err
    names = {v.name for v in bundle.read(tmp_path / "b").content.variants}
    assert names == {"tensorrt-int8", "tensorrt-int8-fp16"}


@pytest.mark.slow
def test_a_file_that_onnx_runtime_has_optimised_is_not_called_int8(
    run: Run, clips: Path, tmp_path: Path
) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    ort.InferenceSession(written(tmp_path, net()), options, providers=["CPUExecutionProvider"])
    spec = described(tmp_path)
    arguments = ["export", tmp_path / "fused.onnx", "--spec", spec, "--clips", clips, "--out", tmp_path / "b"]
    code, out, err = run(*arguments)
    assert code == 0, err
    assert {v.precision for v in bundle.read(tmp_path / "b").content.variants} <= {"fp32", "bf16"}
    assert "was optimised by ONNX Runtime and holds operators of its own (FusedConv)" in out
    code, _, err = run(*arguments, "--force", "--precision", "int8")
    assert code == 2 and "Give the file as it was exported" in err


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classifier", "infrared clip"])
def test_one_channel_is_grey_from_the_clip_to_the_answer(
    run: Run, clips: Path, tmp_path: Path, task: str
) -> None:
    shape = (1, 1, *FRAME[2:]) if task == "classifier" else (1, 1, *CLIP[2:])
    file = written(tmp_path, net(shape, channels=1))
    spec = described(tmp_path, shape, "mean = [0.4]\nstd = [0.2]\n")
    code, _, err = run("export", file, "--spec", spec, "--clips", clips, "--out", tmp_path / "b")
    assert code == 0, err
    assert bundle.read(tmp_path / "b").content.spec.colour == "grey"
    clip = next(iter(sorted(clips.rglob("test/left/*.mp4"))))
    greys = [cv2.cvtColor(f, cv2.COLOR_BGR2GRAY) / np.float32(255) for f in read_video(clip).frames]
    frames = (np.stack(greys[-4:])[None, None] - np.float32(0.4)) / np.float32(0.2)
    video = frames.astype(np.float32) if task != "classifier" else frames[:, :, -1].astype(np.float32)
    plain = answers(net(shape, channels=1), video)[0]
    assert np.allclose(played(tmp_path / "b", "onnxruntime-fp32", clip), plain, atol=1e-4)
    drawn = tmp_path / "drawn.mp4"
    code, _, err = run("run", tmp_path / "b", "--source", clip, "--video", drawn)
    assert code == 0 and drawn.is_file(), err
    assert run("verify", tmp_path / "b")[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[1, 1,", "[1, 2,", "the input needs 3 colour channels, or 1 of grey or infrared"),
        ("fps = 10", "fps = 10\nmean = [0.1, 0.1, 0.1]", "3 means and 1 stds; an input of 1 channels"),
        ("fps = 10", 'fps = 10\ncolour = "rgb"', "colour is rgb, the input has 1 channels. One"),
    ],
)
def test_a_spec_whose_channels_do_not_fit_is_named(
    run: Run, tmp_path: Path, old: str, new: str, says: str
) -> None:
    shape = (1, 1, SIDE, SIDE)
    file, spec = written(tmp_path, net(shape, channels=1)), described(tmp_path, shape)
    spec.write_text(spec.read_text().replace(old, new))
    code, _, err = run("export", file, "--spec", spec, "--out", tmp_path / "b")
    assert code == 2 and says in err


def enlarger(factor: int, channels: int = 3) -> Any:
    """Bright ideas of a super-resolution net: a convolution, shuffled into ``factor`` times the size."""
    rng = np.random.default_rng(0)
    width = channels * factor**2
    weight = np.zeros((width, channels, 3, 3), np.float32)
    for i in range(width):
        weight[i, i % channels, 1, 1] = 1
    weight += (0.01 * rng.standard_normal(weight.shape)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=factor),
    ]
    small, large = (helper.make_tensor_value_info(n, 1, ("N", channels, f"h{n}", f"w{n}")) for n in "xy")
    graph = helper.make_graph(nodes, "g", [small], [large], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def restorer(folder: Path, factor: int, degrade: str, channels: int = 3) -> list[object]:
    file = written(folder, enlarger(factor, channels))
    shape, image = [1, channels, 24, 16], [1, channels, 24 * factor, 16 * factor]
    (folder / "spec.toml").write_text(
        f'name = "sr"\ntask = "restoration"\nfps = 10\n{degrade}\n'
        f'input = {{ name = "small", shape = {shape}, layout = "NCHW" }}\n'
        f'outputs = [{{ name = "image", shape = {image}, layout = "NCHW" }}]\n'
    )
    return ["export", file, "--spec", folder / "spec.toml", "--precision", "fp32", "--out", folder / "b"]


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "channels"), [(2, 3), (3, 3), (4, 1)])
def test_an_enlarger_of_any_factor_is_judged_by_its_pictures(
    run: Run, clips: Path, tmp_path: Path, factor: int, channels: int
) -> None:
    code, _, err = run(*restorer(tmp_path, factor, 'degrade = "downscale"', channels), "--clips", clips)
    assert code == 0, err
    rows = {row.variant: row for row in report(tmp_path / "b").rows}
    accuracy = rows["onnxruntime-fp32"].accuracy
    assert accuracy and accuracy.metric == "psnr" and accuracy.value > 15
    clip, out = next(iter(sorted(clips.rglob("test/left/*.mp4")))), tmp_path / "large.mp4"
    code, _, err = run("run", tmp_path / "b", "--source", clip, "--video", out)
    assert code == 0, err
    assert read_video(out).frames[0].shape[0] % (24 * factor) == 0


@pytest.mark.slow
def test_a_restorer_whose_fault_nobody_names_is_compared_with_the_original_alone(
    run: Run, clips: Path, tmp_path: Path
) -> None:
    arguments = restorer(tmp_path, 3, "")
    code, out, err = run(*arguments, "--clips", clips)
    assert code == 0, err
    rows = {row.variant: row for row in report(tmp_path / "b").rows}
    row = rows["onnxruntime-fp32"]
    assert row.accuracy is None and row.drop is None and row.parity and row.parity.psnr_db == 100
    assert "not measured" in out
    code, _, err = run(*arguments, "--clips", clips, "--force", "--max-drop", "1")
    assert code == 6, "a gate cannot be decided where nobody knows what is true"


@pytest.mark.parametrize(
    ("factor", "degrade", "says"),
    [
        (3, "half", "wants an image of twice the size of the input; it is 72 x 48 of 24 x 16"),
        (2, "noise-25", "wants an image of the size of the input"),
        (1, "downscale", "wants an image of a whole multiple of the size of the input"),
    ],
)
def test_a_fault_that_the_shapes_deny_is_named(
    run: Run, tmp_path: Path, factor: int, degrade: str, says: str
) -> None:
    code, _, err = run(*restorer(tmp_path, factor, f'degrade = "{degrade}"'))
    assert code == 2 and says in err and "or leave degrade out" in err


SUFFIXES: Sequence[tuple[str, str]] = (
    ("net.tflite", "Give the model that it was made of"),
    ("net.engine", "Give the model that it was made of"),
    ("net.plan", "Give the model that it was made of"),
    ("net.trt", "Give the model that it was made of"),
    ("net.xml", "Give the model that it was made of"),
    ("net.mlmodel", "Give the model that it was made of"),
    ("net.pt", "Give the builder that makes the module, and these as its weights: file.py:builder --weights"),
    ("net.PTH", "file.py:builder --weights net.PTH --trust-pickle"),
    ("net.ckpt", "--weights net.ckpt --trust-pickle"),
    ("net.safetensors", "file.py:builder --weights net.safetensors"),
    ("net.torchscript", "A compiled module cannot be taken apart"),
    ("net.pb", "python -m tf2onnx.convert --graphdef net.pb"),
    ("net.h5", "tf2onnx.convert.from_keras"),
    ("net.keras", "model.export('model.onnx', format='onnx')"),
    ("net.onnx.zip", "Unpack it, and give the .onnx file inside"),
    ("net.py", "net.py:build"),
)


@pytest.mark.parametrize(("name", "cure"), SUFFIXES)
def test_a_file_of_another_kind_is_told_what_is_taken(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, cure: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"x")
    code, _, err = run("export", name, "--spec", "spec.toml")
    assert code == 2 and len(err.splitlines()) == 1
    assert f"{name} is not a model as edgepv takes it: a built-in name, file.py:builder" in err
    assert cure in err


def test_names_that_are_no_model_are_not_called_built_in(run: Run, tmp_path: Path) -> None:
    code, _, err = run("export", tmp_path, "--spec", "spec.toml")
    assert code == 2 and f"{tmp_path} is not a model as edgepv takes it" in err
    code, _, err = run("export", "yolov8n", "--spec", "spec.toml")
    assert code == 2 and "unknown model 'yolov8n'" in err
    code, _, err = run("stream", "net.pt", "--clip", "4x32")
    assert code == 2 and "net.pt is not a model as edgepv takes it" in err


def test_other_onnx_mistakes_are_one_line(run: Run, tmp_path: Path) -> None:
    spec = described(tmp_path)
    (tmp_path / "d.onnx").mkdir()
    code, _, err = run("export", tmp_path / "d.onnx", "--spec", spec)
    assert code == 2 and "d.onnx is a folder. MODEL wants the .onnx file itself" in err
    file = written(tmp_path, net(), "m.ONNX")
    code, _, err = run("export", file, "--spec", spec, "--weights", "w.pt")
    assert code == 2 and "m.ONNX holds its weights itself. Leave --weights out" in err


def test_grey_frames_are_what_opencv_calls_grey() -> None:
    from edgepv.types import ModelSpec, TensorSpec

    spec = ModelSpec(
        "g", TensorSpec("x", (1, 1, 2, 2)), ("a", "b"), colour="grey", mean=(0.0,), std=(1 / 255,)
    )
    frame = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    assert preprocess(frame, spec).round().tolist() == [[[[29, 29], [29, 29]]]]
