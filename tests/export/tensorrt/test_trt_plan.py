"""What a Jetson bundle says about itself, read back from tiny files."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest

from edgepv.export.tensorrt import plan
from edgepv.targets import jetson

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402

ALL = tuple(plan.VARIANT_OF.values())


def _model(*, quantized: bool = True, kind: Any = np.float32) -> Any:
    """Three 1x1 convolutions: "int8" in Q/DQ, "kept" over a picture, "vector" on its mean."""
    inits: dict[str, Any] = {name: np.ones((4, 4, 1, 1), kind) for name in ("w", "v", "u")}
    inits |= {"s": np.array(0.5, kind), "t": np.full(4, 0.01, kind)}
    inits |= {"z": np.array(0, np.int8), "zz": np.zeros(4, np.int8)}
    pairs = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "xq"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xd"], "xd"),
        helper.make_node("QuantizeLinear", ["w", "t", "zz"], ["wq"], "wq", axis=0),
        helper.make_node("DequantizeLinear", ["wq", "t", "zz"], ["wd"], "wd", axis=0),
    ]
    nodes = [
        helper.make_node("Conv", ["xd", "wd"] if quantized else ["x", "w"], ["a"], "int8"),
        helper.make_node("Conv", ["a", "v"], ["b"], "kept"),
        helper.make_node("GlobalAveragePool", ["b"], ["m"], "mean"),
        helper.make_node("Conv", ["m", "u"], ["y"], "vector"),
    ]
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        (pairs if quantized else []) + nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, (1, 4, 8, 8))],
        [helper.make_tensor_value_info("y", elem, (1, 4, 1, 1))],
        [numpy_helper.from_array(v, n) for n, v in inits.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_the_plan_says_what_each_layer_will_be_and_why() -> None:
    rows = {row["node"]: (row["precision"], row["why"]) for row in plan.precision_plan(_model())}
    assert rows == {
        "int8": ("int8", "its input and its weights are in Q/DQ"),
        "kept": ("fp16", "kept in float by request"),
        "vector": (
            "fp16",
            "it reads one vector per frame; INT8 saves nothing and costs a pass of its own",
        ),
    }


@pytest.mark.parametrize(
    ("kind", "fp16_flag", "precision", "reason"),
    [
        (np.float32, True, "fp16", "--fp16 frees the builder to use it"),
        (np.float32, False, "fp32", "without the flag a float32 file stays float32"),
        (np.float16, False, "fp16", "a strongly typed file needs no flag"),
    ],
)
def test_float_layers_run_in_what_the_file_and_the_flags_allow(
    kind: Any, fp16_flag: bool, precision: str, reason: str
) -> None:
    rows = plan.precision_plan(_model(kind=kind), fp16_flag=fp16_flag)
    assert [row["precision"] for row in rows] == ["int8", precision, precision], reason


def test_a_float_file_has_no_int8_in_its_plan() -> None:
    rows = plan.precision_plan(_model(quantized=False))
    assert {(row["precision"], row["why"]) for row in rows} == {("fp16", "the file has no Q/DQ")}


def test_the_calibration_table_lists_activations_and_no_weights() -> None:
    assert plan.calibration_table(_model()) == {"x": 0.5}
    assert plan.calibration_table(_model(quantized=False)) == {}


@pytest.mark.parametrize(
    ("target", "version", "source", "flags", "reason"),
    [
        ("jetson-nano", "8.0", "model-fp32-op13.onnx", ["--fp16", "--workspace=1024"], "no INT8 there"),
        ("jetson", "8.5", "model-int8-op17.onnx", ["--int8", "--fp16"], "weakly typed: flags set the types"),
        ("jetson", "8.6", "model-int8-op17.onnx", ["--int8", "--fp16"], "weakly typed, and opset 17 still"),
        ("jetson", "10.3", "model-int8-op17.onnx", ["--int8", "--fp16"], "the flags exist until 10.x"),
        ("jetson", "10.12", "model-int8-fp16-op19.onnx", ["--stronglyTyped"], "weak typing is deprecated"),
        ("jetson", "11", "model-int8-fp16-op19.onnx", ["--stronglyTyped"], "--int8 and --fp16 are gone"),
        ("jetson", "8.5", "model-fp32-op17.onnx", ["--fp16"], "--int8 on a float file asks for calibration"),
        ("jetson", "8.6", "model-fp32-op17.onnx", ["--fp16"], "as on 8.5"),
        ("jetson", "10.3", "model-fp32-op17.onnx", ["--fp16"], "as on 8.6"),
        ("jetson", "10.12", "model-fp16-op19.onnx", ["--stronglyTyped"], "FP16 is in the file"),
        ("jetson", "11", "model-fp16-op19.onnx", ["--stronglyTyped"], "FP16 is in the file"),
    ],
)
def test_the_command_of_each_tensorrt(
    target: str, version: str, source: str, flags: list[str], reason: str
) -> None:
    device = jetson.device(target)
    made = [n for n in ALL if "int8" in device.precisions or "int8" not in n]
    calls = plan.commands(device, made, half=("int8", "fp16"))[version]
    (words,) = [w for w in map(shlex.split, calls) if w[1] == f"--onnx={source}"]
    kind = "int8" if "int8" in source else "fp16"
    engine = f"--saveEngine=model-{kind}-trt{version}.engine"
    told = ["--profilingVerbosity=detailed", f"--exportLayerInfo=model-{kind}-trt{version}.layers.json"]
    assert words == ["trtexec", f"--onnx={source}", engine, *flags, *(told if version != "8.0" else [])], (
        reason
    )


def test_every_generation_has_two_lines_and_no_two_share_an_engine() -> None:
    lines = plan.commands(jetson.device("jetson"), ALL, half=("int8", "fp16"))
    assert list(lines) == ["8.5", "8.6", "10.3", "10.12", "11"]
    engines = [shlex.split(call)[2] for calls in lines.values() for call in calls]
    assert len(engines) == len(set(engines)) == 10


@pytest.mark.parametrize(
    ("target", "generations", "files"),
    [
        ("jetson-orin-nano@6.2", ["10.3"], {"model-int8-op17.onnx", "model-fp32-op17.onnx"}),
        ("jetson-thor@7.2.2", ["10.12", "11"], {"model-int8-fp16-op19.onnx", "model-fp16-op19.onnx"}),
        ("jetson-xavier@4.6", ["8.0"], {"model-int8-op13.onnx", "model-fp32-op13.onnx"}),
    ],
)
def test_a_board_is_told_of_its_own_builds_alone(
    target: str, generations: list[str], files: set[str]
) -> None:
    lines = plan.commands(jetson.device(target), ALL, half=("int8", "fp16"))
    assert list(lines) == generations
    used = {shlex.split(call)[1].removeprefix("--onnx=") for calls in lines.values() for call in calls}
    assert used == files


@pytest.mark.parametrize(
    ("target", "file", "opset", "tensorrt"),
    [
        ("jetson", "model-int8-op17.onnx", 17, (8, 5, 2)),
        ("jetson", "model-fp16-op19.onnx", 19, (10, 13, 3)),
        ("jetson-orin-nano@6.2", "model-int8-op17.onnx", 17, (10, 3, 0)),
        ("jetson-nano", "model-fp32-op13.onnx", 13, (8, 0, 1)),
    ],
)
def test_a_file_is_checked_for_the_oldest_that_builds_it(
    target: str, file: str, opset: int, tensorrt: tuple[int, ...]
) -> None:
    limits = plan.limits(jetson.device(target), file)
    assert (limits["opset_limit"], limits["tensorrt"]) == (opset, tensorrt)


def test_the_reader_is_warned_where_times_do_not_compare() -> None:
    (eleven,) = [build for build in plan.BUILDS if build.tensorrt == "11"]
    assert "do not compare with those of trtexec 10" in eleven.note
