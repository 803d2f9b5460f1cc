"""What a Jetson bundle says about itself, read back from tiny files."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest

from edgepv.export.tensorrt import plan

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402

FILES = plan.Files("int8-17.onnx", "int8-19.onnx", "float-17.onnx", "float-19.onnx")


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
    ("version", "precision", "source", "flags", "reason"),
    [
        ("8.5", "int8", "int8-17.onnx", ["--int8", "--fp16"], "weakly typed: flags set the types"),
        ("8.6", "int8", "int8-17.onnx", ["--int8", "--fp16"], "weakly typed, and opset 17 still"),
        ("10.3", "int8", "int8-17.onnx", ["--int8", "--fp16"], "the flags exist until 10.x"),
        ("10.12", "int8", "int8-19.onnx", ["--stronglyTyped"], "weak typing is deprecated"),
        ("11", "int8", "int8-19.onnx", ["--stronglyTyped"], "--int8 and --fp16 were removed"),
        ("8.5", "fp16", "float-17.onnx", ["--fp16"], "--int8 on a float file asks for calibration"),
        ("8.6", "fp16", "float-17.onnx", ["--fp16"], "as on 8.5"),
        ("10.3", "fp16", "float-17.onnx", ["--fp16"], "as on 8.6"),
        ("10.12", "fp16", "float-19.onnx", ["--stronglyTyped"], "FP16 is in the file"),
        ("11", "fp16", "float-19.onnx", ["--stronglyTyped"], "FP16 is in the file"),
    ],
)
def test_the_command_of_each_tensorrt(
    version: str, precision: Any, source: str, flags: list[str], reason: str
) -> None:
    words = shlex.split(plan.trtexec_lines(FILES, precision=precision)[version])
    engine = f"--saveEngine=model-{precision}-trt{version}.engine"
    told = ["--profilingVerbosity=detailed", f"--exportLayerInfo=model-{precision}-trt{version}.layers.json"]
    assert words == ["trtexec", f"--onnx={source}", engine, *flags, *told], reason


def test_every_generation_has_a_line_and_no_two_share_an_engine() -> None:
    lines = plan.trtexec_lines(FILES) | {
        f"{k}-fp16": v for k, v in plan.trtexec_lines(FILES, precision="fp16").items()
    }
    assert len(lines) == 10 == 2 * len(plan.BUILDS)
    assert len({shlex.split(line)[2] for line in lines.values()}) == 10


def test_a_file_name_with_a_blank_survives_the_shell() -> None:
    files = plan.Files("my model.onnx", "b", "c", "d")
    assert shlex.split(plan.trtexec_lines(files)["8.5"])[1] == "--onnx=my model.onnx"


def test_the_reader_is_warned_where_times_do_not_compare() -> None:
    (eleven,) = [build for build in plan.BUILDS if build.tensorrt == "11"]
    assert "do not compare with those of trtexec 10" in eleven.note
