"""Parity finds a broken artifact and names where it broke."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepv.export import parity
from edgepv.export.parity import compare, compare_clips, first_divergence, saturation, slope
from edgepv.metrics.stats import sqnr_db


def test_sqnr_by_hand() -> None:
    signal = np.array([3.0, 4.0])  # power 25
    assert sqnr_db(signal, signal + np.array([0.5, 0.0])) == pytest.approx(20.0)  # 25 / 0.25
    assert sqnr_db(signal, signal) == 200.0
    assert sqnr_db(signal, np.array([np.nan, 4.0])) == -200.0


@pytest.mark.parametrize(
    ("error", "frames", "verdict"), [(0.0, 100, "pass"), (1.0, 100, "fail"), (0.0, 31, "inconclusive")]
)
def test_the_verdict_needs_enough_frames(error: float, frames: int, verdict: str) -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((frames, 2))
    found = compare(reference, reference + error, min_sqnr_db=20)
    assert found.verdict == verdict and found.frames == frames


def test_agreement_counts_frames_with_the_same_label() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert compare(reference, reference[[0, 1, 0, 0]], min_sqnr_db=0).agreement == 0.75


def _export(module: nn.Module, path: Path) -> None:
    torch.onnx.export(
        module.eval(), (torch.ones(1, 3, 8, 8),), str(path), dynamo=True, opset_version=18,
        external_data=False, verbose=False, input_names=["frame"], output_names=["logits"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("parity") / "a.onnx"
    _export(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
        ),
        path,
    )
    return path


def _feeds(n: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"frame": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(n)]


def test_the_first_diverging_node_is_the_one_that_was_broken(graph: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    second = [n for n in model.graph.node if n.op_type == "Conv"][1]
    weight = next(i for i in model.graph.initializer if i.name == second.input[1])
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, tmp_path / "b.onnx")
    found = first_divergence(graph, tmp_path / "b.onnx", "onnxruntime", _feeds(), min_sqnr_db=40)
    assert found is not None and found.startswith(second.output[0])


def test_equal_graphs_do_not_diverge(graph: Path) -> None:
    assert first_divergence(graph, graph, "onnxruntime", _feeds(), min_sqnr_db=100) is None


def test_saturation_sees_a_range_that_is_too_narrow(graph: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, scale: float) -> None:
            self.rows = iter([{"frame": f["frame"] * np.float32(scale)} for f in _feeds(8)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    for scale, name in ((1.0, "good"), (0.2, "narrow")):
        quantize_static(
            str(graph), str(tmp_path / f"{name}.onnx"), Reader(scale),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    good, narrow = (saturation(tmp_path / f"{n}.onnx", _feeds(8)) for n in ("good", "narrow"))
    assert good is not None and narrow is not None
    assert good < 0.01 and narrow > 0.2
    assert saturation(graph, _feeds()) is None


def _quantizer(path: Path, zero: int) -> None:
    """An ONNX file that rounds its six inputs to int8 codes, 0.1 of its unit each, and back."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [6]) for n in ("x", "y"))
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("zero", TensorProto.INT8, [], [zero]),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "quantizer", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.mark.parametrize(
    ("zero", "values", "codes", "share"),
    [
        pytest.param(0, [-20, -12.8, 0, 5, 12.7, 20], [-128, -128, 0, 50, 127, 127], 4 / 6, id="signed"),
        pytest.param(-128, [-3, 0, 0, 5, 25.5, 30], [-128, -128, -128, -78, 127, 127], 2 / 6, id="relu"),
        pytest.param(-128, [0, 0, 0, 0, 0, 0], [-128] * 6, 0.0, id="a relu at rest"),
    ],
)
def test_the_same_codes_are_the_same_saturation_on_both_engines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    zero: int,
    values: list[float],
    codes: list[int],
    share: float,
) -> None:
    feed = {"x": np.array(values, np.float32)}
    _quantizer(tmp_path / "a.onnx", zero)
    monkeypatch.setattr(parity, "litert_values", lambda *_: [("y", np.array(codes, np.int8), 0.1, zero)])
    assert saturation(tmp_path / "a.onnx", [feed]) == pytest.approx(share)
    assert saturation(tmp_path / "a.tflite", [feed]) == pytest.approx(share)


def test_a_range_that_clips_shows_in_the_slope_of_its_output_alone() -> None:
    reference = np.random.default_rng(0).standard_normal((400, 3))
    got = reference.copy()
    got[:, 1] *= 0.75
    low, high = slope(reference, got) or (0.0, 0.0)
    assert (round(low, 3), round(high, 3)) == (0.75, 1.0)


def test_an_output_that_never_moves_has_no_slope() -> None:
    still = np.ones((10, 2))
    assert slope(still, still + 1) is None
    moving = np.stack([np.ones(10), np.arange(10.0)], 1)
    assert slope(moving, moving) == (1.0, 1.0)


def test_flicker_and_the_worst_clips_are_told_by_name() -> None:
    a, b = [1.0, 0.0], [0.0, 1.0]
    reference = [np.array([a, a, a, a]), np.array([a, a, b, b])]
    got = [np.array([a, b, a, b]), np.array([a, a, b, b])]
    found = compare_clips(reference, got, ["one", "two"], min_sqnr_db=0.0)
    assert found.flicker == (1 / 6, 4 / 6)  # of the six steps from a frame to the next
    assert [(w.clip, w.agreement) for w in found.worst] == [("one", 0.5), ("two", 1.0)]
    assert found.agreement == 0.75 and found.frames == 8


def test_a_channel_in_other_units_does_not_diverge_and_a_broken_one_does() -> None:
    wanted = np.random.default_rng(0).normal(size=(3, 1, 4, 5, 5))
    scaled = wanted * np.array([1, 2, 4, 8]).reshape(1, 1, 4, 1, 1)
    assert sqnr_db(wanted, parity._in_units_of(wanted, scaled)) > 100 > sqnr_db(wanted, scaled)
    scaled[:, :, 2] = np.abs(scaled[:, :, 2])
    assert sqnr_db(wanted, parity._in_units_of(wanted, scaled)) < 10
