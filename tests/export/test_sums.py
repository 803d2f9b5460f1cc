"""An integer sum is the same on every CPU, or the file is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepv.export.for_cpu import build
from edgepv.export.request import BuildRequest
from edgepv.export.sums import saturating
from edgepv.metrics.stats import sqnr_db
from edgepv.quantize import int8_onnx, int8_openvino
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.types import ModelSpec, TensorSpec, Variant

BRIGHT = [{"frame": np.full((1, 8, 16, 16), value, np.float32)} for value in (0.25, 0.5, 1.0, 0.75)]


@pytest.fixture(scope="module")
def one_sign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, Path]:
    """A convolution whose weights are all as large as the largest: with eight bits every pair saturates."""
    return one_convolution(tmp_path_factory.mktemp("sums"), group=1)


def one_convolution(folder: Path, *, group: int) -> tuple[Variant, Path]:
    weights = np.full((8, 8 // group, 3, 3), 1.0, np.float32)
    weights[4:] = -1.0
    head = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["frame", "w"], ["a"], "conv", pads=[1] * 4, group=group),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
        helper.make_node("Flatten", ["b"], ["c"], "flat"),
        helper.make_node("Gemm", ["c", "h"], ["logits"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(head, "h")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, folder / "m.onnx")
    spec = ModelSpec("sums", TensorSpec("frame", (1, 8, 16, 16)), ("a", "b"))
    names = {"frame": "frame"}, {"logits": "logits"}
    return Variant("onnx-fp32", "onnxruntime", "fp32", "window", "m.onnx", "", spec, None, *names), folder


def logits(variant: Variant, folder: Path) -> np.ndarray:
    engine = open_engine(variant, folder)
    try:
        return np.concatenate([engine.infer(feed)["logits"] for feed in BRIGHT])
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("step", "name"), [(int8_onnx.Step(weight_bits=7), "m.onnx"), (int8_openvino.Step(), "m.xml")]
)
def test_the_loudest_weights_and_pixels_stay_within_sixteen_bits(
    step: int8_onnx.Step | int8_openvino.Step, name: str, one_sign: tuple[Variant, Path], tmp_path: Path
) -> None:
    base, folder = one_sign
    made = step(base, tmp_path / name, Calibration(folder, BRIGHT, "digest"))
    assert made.scheme and made.scheme.weight_bits == 7 and saturating(tmp_path / name) is None
    assert sqnr_db(logits(base, folder), logits(made, tmp_path)) > 35


@pytest.mark.parametrize("step", [int8_onnx.Step(weight_bits=8), int8_openvino.Step()])
def test_depthwise_sums_are_whole_with_eight_bits(
    step: int8_onnx.Step | int8_openvino.Step, tmp_path: Path
) -> None:
    base, folder = one_convolution(tmp_path, group=8)
    name = "q.xml" if isinstance(step, int8_openvino.Step) else "q.onnx"
    made = replace(step(base, tmp_path / name, Calibration(folder, BRIGHT, "digest")), engine="openvino")
    assert saturating(tmp_path / name) is None
    assert sqnr_db(logits(base, folder), logits(made, tmp_path)) > 35


@pytest.fixture
def eight_bits(one_sign: tuple[Variant, Path], tmp_path: Path) -> tuple[Variant, Path]:
    """The same model as other tools quantize it by default."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    base, folder = one_sign
    quantize_static(
        str(folder / base.path),
        str(tmp_path / "other.onnx"),
        int8_onnx.Reader(BRIGHT),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=["head"],
    )
    return replace(base, path="other.onnx"), tmp_path


def test_a_file_of_eight_bits_is_named_and_onnx_runtime_adds_it_exactly(
    one_sign: tuple[Variant, Path], eight_bits: tuple[Variant, Path]
) -> None:
    made, folder = eight_bits
    assert saturating(folder / made.path) == "w_quantized"
    assert sqnr_db(logits(*one_sign), logits(made, folder)) > 35


def test_openvino_is_not_offered_a_file_that_it_computes_otherwise_elsewhere(
    eight_bits: tuple[Variant, Path],
) -> None:
    made, folder = eight_bits

    def unused(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be quantized")

    job = BuildRequest(made, None, folder, None, None, (), "", ("fp32",), unused, unused, print)
    packed = build(job)
    assert [v.name for v in packed.variants] == ["onnxruntime-fp32"]
    assert "'w_quantized' make OpenVINO's sums saturate" in str(job.failed["openvino-fp32"])
