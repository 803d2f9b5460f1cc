"""What float16 does not hold stays in float32, and the device is asked to build nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepv.export import for_jetson, half
from edgepv.export.for_jetson import build_script
from edgepv.export.request import BuildRequest
from edgepv.export.tensorrt import form, plan
from edgepv.export.tensorrt.fp16 import to_fp16
from edgepv.targets import jetson
from edgepv.types import ModelSpec, TensorSpec, Variant

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FEED = {"x": np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)}


def _model(nodes: Sequence[Any], inputs: dict[str, Any], outputs: dict[str, Any], **constants: Any) -> Any:
    def info(name: str, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inits = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in constants.items()]
    first, last = ([info(*item) for item in side.items()] for side in (inputs, outputs))
    graph = helper.make_graph(list(nodes), "g", first, last, inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def loud() -> Any:
    """A convolution by a million, and one by a millionth of it: nothing is left of it but x."""
    kernel = np.ones((1, 1, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "up"], ["high"], "first"),
        helper.make_node("Relu", ["high"], ["middle"], "relu"),
        helper.make_node("Conv", ["middle", "down"], ["back"], "second"),
        helper.make_node("Sigmoid", ["back"], ["y"], "last"),
    ]
    shape = (1, 1, 4, 4)
    model = _model(nodes, {"x": shape}, {"y": shape}, up=1e6 * kernel, down=1e-6 * kernel)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _run(model: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feed)
    return found


def test_what_no_float16_holds_is_found_by_the_clips(loud: Any) -> None:
    assert half.beyond(loud, [FEED]) == {"first": 1e6, "relu": 1e6, "second": 1e6}
    quiet = {"x": 0.01 * FEED["x"]}
    assert half.beyond(loud, [quiet]) == {"first": 1e6}  # its weight
    assert half.noted(to_fp16(loud)) == half.Wide()


def test_those_layers_stay_in_float32_without_a_narrow_pass_between_them(loud: Any) -> None:
    wanted = 1 / (1 + np.exp(-np.maximum(FEED["x"], 0)))
    strong = to_fp16(loud, [FEED])
    assert half.noted(strong) == half.Wide(("first", "relu", "second"), 1e6)
    assert np.allclose(_run(strong, FEED)[0], wanted, atol=2e-3)
    assert not np.allclose(_run(to_fp16(loud), FEED)[0], wanted, atol=0.1)
    order = [n.op_type for n in strong.graph.node]
    assert order[order.index("Conv") :][:3] == ["Conv", "Relu", "Conv"]


def test_int8_weights_of_such_a_layer_keep_their_scale(loud: Any, tmp_path: Path) -> None:
    onnx.save(loud, tmp_path / "float.onnx")
    feeds = [FEED, {"x": FEED["x"][..., ::-1].copy()}]
    form.quantize_for_tensorrt(tmp_path / "float.onnx", tmp_path / "q.onnx", feeds, state_pairs=[])
    strong = to_fp16(onnx.load(tmp_path / "q.onnx"), feeds)
    wanted = 1 / (1 + np.exp(-np.maximum(FEED["x"], 0)))
    assert np.allclose(_run(strong, FEED)[0], wanted, atol=0.01)


@pytest.fixture(scope="module")
def counter() -> Any:
    """A state that grows by x at every step, and is answered."""
    nodes = [
        helper.make_node("Add", ["s", "x"], ["s_next"], "add"),
        helper.make_node("Mul", ["s_next", "one"], ["y"], "mul"),
    ]
    return _model(nodes, {"x": (1, 1), "s": (1, 1)}, {"y": (1, 1), "s_next": (1, 1)}, one=[[1.0]])


def _counted(model: Any, steps: int) -> float:
    """Where it ends, by ONNX's own evaluator: on a CPU, ONNX Runtime computes float16 in float32."""
    from onnx.reference import ReferenceEvaluator

    session, state = ReferenceEvaluator(model), np.full((1, 1), 2000, np.float32)
    found: Any
    for _ in range(steps):
        found = session.run(["s_next"], {"x": np.ones((1, 1), np.float32), "s": state})
        state = found[0]
    return float(state[0, 0])


def test_a_sum_that_grows_for_ever_goes_on_growing(counter: Any) -> None:
    assert half.sums(counter, [("s", "s_next")]) == ("add", "mul")
    assert _counted(to_fp16(counter), 100) == 2048  # and one more is 2048 again
    assert _counted(to_fp16(counter, grown=[("s", "s_next")]), 100) == 2100


def _built(tmp_path: Path, version: str, passed: Sequence[str], sound: Sequence[str]) -> list[str]:
    """What build.sh of a bundle for all boards calls trtexec with, by what passed its exam."""
    half = plan.proven_half(sound)
    script = build_script(plan.commands(jetson.device("jetson"), passed, half=half))
    (tmp_path / "build.sh").write_text(script)
    tool = tmp_path / "trtexec"
    tool.write_text('#!/bin/sh\necho "$@" >> "$LOG"\n')
    tool.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log)}
    done = subprocess.run(["sh", str(tmp_path / "build.sh"), version, str(tmp_path)], env=env, check=False)
    assert (done.returncode == 0) is bool(log.read_text())
    return log.read_text().splitlines()


ALL = ("tensorrt-fp32", "tensorrt-fp16", "tensorrt-int8", "tensorrt-int8-fp16")
WEAK = ("tensorrt-fp32", "tensorrt-int8")


@pytest.mark.parametrize("version", ["8.5", "8.6", "10.3"])
def test_float16_is_allowed_where_its_file_passed_the_exam(tmp_path: Path, version: str) -> None:
    int8, fp16 = _built(tmp_path, version, ALL, ALL)
    assert "--int8 --fp16" in int8 and f"model-int8-trt{version}.engine" in int8
    assert " --fp16 " in fp16 and f"model-fp16-trt{version}.engine" in fp16


@pytest.mark.parametrize("version", ["8.5", "8.6", "10.3"])
@pytest.mark.parametrize(
    ("passed", "sound", "reason"),
    [
        (WEAK, WEAK, "the float16 files failed their exam"),
        (ALL, WEAK, "the float16 files keep layers in float32, for which there is no flag"),
    ],
)
def test_what_was_proven_wrong_in_float16_is_built_in_float32(
    tmp_path: Path, version: str, passed: Sequence[str], sound: Sequence[str], reason: str
) -> None:
    int8, fp32 = _built(tmp_path, version, passed, sound)
    assert "--int8" in int8 and "--fp16" not in int8 + fp32, reason
    assert f"model-fp32-trt{version}.engine" in fp32


@pytest.mark.parametrize("version", ["8.5", "8.6", "10.3", "10.12", "11"])
@pytest.mark.parametrize("failed", ALL)
def test_a_file_that_failed_its_exam_is_built_for_no_tensorrt(
    tmp_path: Path, version: str, failed: str
) -> None:
    left = [name for name in ALL if name != failed]
    file = {plan.VARIANT_OF[f]: getattr(plan.files(jetson.device("jetson")), f) for f in plan.VARIANT_OF}
    calls = _built(tmp_path, version, left, left)
    assert calls and not any(file[failed] in call for call in calls)


@pytest.mark.parametrize("version", ["10.12", "11"])
def test_a_strongly_typed_build_falls_back_to_float32(tmp_path: Path, version: str) -> None:
    (only,) = _built(tmp_path, version, ["tensorrt-fp32"], [])
    assert "model-fp32-op17.onnx" in only and f"model-fp32-trt{version}.engine" in only


def test_a_bundle_without_a_file_for_a_tensorrt_says_so(tmp_path: Path) -> None:
    assert _built(tmp_path, "10.12", ["tensorrt-int8"], []) == []
    assert "this bundle has no file for TensorRT 10.12" in (tmp_path / "build.sh").read_text()


@pytest.mark.parametrize(
    ("target", "loudness", "noted", "reason"),
    [
        (
            "jetson",
            1000.0,
            True,
            "8.5 gets its squares spelled out, and they are beyond",
        ),
        ("jetson", 1.0, False, "quiet squares fit"),
        ("jetson-orin-nano@6.2", 1000.0, False, "10.3 has the operator, which keeps its squares to itself"),
    ],
)
def test_squares_that_only_an_older_tensorrt_sees_take_its_float16_away(
    tmp_path: Path, target: str, loudness: float, noted: bool, reason: str
) -> None:
    shape = (1, 1, 4, 4)
    node = helper.make_node("LayerNormalization", ["x", "even", "none"], ["y"], "norm")
    model = _model([node], {"x": shape}, {"y": shape}, even=np.ones(4), none=np.zeros(4))
    onnx.save(model, tmp_path / "model.onnx")
    spec = ModelSpec("m", TensorSpec("x", shape), ("a", "b"))
    base = Variant("v", "onnxruntime", "fp32", "step", "model.onnx", "", spec, None, {"x": "x"}, {"y": "y"})
    unused: Any = None
    feeds = [{"x": loudness * FEED["x"]}]
    request = BuildRequest(
        base, None, tmp_path, None, None, feeds, "", ("fp32",), unused, unused, unused, target=target
    )
    written = for_jetson._form(request, base, "model-fp32-op17.onnx")
    assert bool(half.noted(written).nodes) is noted, reason
