"""Channels behind SiLU are spread before a convolution, biases give back the mean error; answers stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgepv.base.optional import ort_session
from edgepv.errors import ParityError
from edgepv.export.tensorrt import spread as room
from edgepv.export.tensorrt.bias import correct_biases
from edgepv.export.tensorrt.form import quantize_for_tensorrt
from edgepv.export.tensorrt.spread import spread
from edgepv.metrics.stats import sqnr_db
from edgepv.stream import Tensors

HEAD = '<ir_version: 10, opset_import: ["" : 18]> net '
NET = """(float[1,3,12,12] frame) => (float[1,4,12,12] answer) {
    first = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (frame, w0, b0)
    gate = Sigmoid (first)
    loud = Mul (first, gate)
    second = Conv <kernel_shape = [1, 1]> (loud, w1, b1)
    third = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (loud, w2)
    answer = Add (second, third)
}"""
LOUD = np.array([8.0, 4.0, 1.0, 0.5, 0.25, 2.0], np.float32)


def made(net: str = NET) -> Any:
    """The net with weights; the channels of ``loud`` are unequal, and their readers make up for it."""
    model, draw = parser.parse_model(HEAD + net), np.random.default_rng(0)
    weights = {
        "w0": draw.normal(0, 1, (6, 3, 3, 3)) * LOUD[:, None, None, None],
        "b0": draw.normal(0, 1, 6) * LOUD,
        "w1": draw.normal(0, 1, (4, 6, 1, 1)) / LOUD[None, :, None, None],
        "b1": draw.normal(0, 1, 4),
        "w2": draw.normal(0, 0.3, (4, 6, 3, 3)) / LOUD[None, :, None, None],
    }
    read = {name for node in model.graph.node for name in node.input}
    for name, value in weights.items():
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    for node in model.graph.node:
        node.name = node.output[0]
    return onnx.shape_inference.infer_shapes(model)


def shown(count: int, seed: int = 1) -> list[Tensors]:
    draw = np.random.default_rng(seed)
    return [{"frame": draw.normal(0, 1, (1, 3, 12, 12)).astype(np.float32)} for _ in range(count)]


def asked(model: Any, feed: Tensors, *names: str) -> list[np.ndarray]:
    """Some tensors of a model."""
    probe = type(model)()
    probe.CopyFrom(model)
    known = {o.name for o in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    found: list[np.ndarray] = ort_session(probe.SerializeToString()).run(list(names), feed)
    return found


def test_the_loudest_channel_reaches_from_minus_1_to_1_and_the_answers_stay() -> None:
    net = NET.replace("third = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (loud, w2)", "").replace(
        "Add (second, third)", "Identity (second)"
    )
    model, feeds = made(net), shown(8)
    even = spread(model, feeds, {"second"})
    (node,) = [n for n in even.graph.node if n.name == "second"]
    rows = (
        np.concatenate([asked(even, f, node.input[0])[0] for f in feeds]).transpose(1, 0, 2, 3).reshape(6, -1)
    )
    np.testing.assert_allclose(rows.max(1), -rows.min(1), atol=1e-5)  # as far up as down, each channel
    assert rows.max() == pytest.approx(1, abs=1e-5) and rows.max(1).min() > 1 / 16
    before = np.concatenate([asked(model, f, "loud")[0] for f in feeds]).transpose(1, 0, 2, 3).reshape(6, -1)
    assert before.max(1).min() < before.max() / 8  # they were 32 times apart
    (wanted,), (got,) = asked(model, shown(1, 5)[0], "answer"), asked(even, shown(1, 5)[0], "answer")
    assert sqnr_db(wanted, got) > 100


def test_what_pads_with_zeros_gets_a_factor_alone() -> None:
    model, feeds = made(), shown(4)
    even = spread(model, feeds, {"second", "third"})
    added = [n.op_type for n in even.graph.node if n.name.startswith("loud.spread")]
    assert added == ["Mul"]  # one for both that read it
    (wanted,), (got,) = asked(model, shown(1, 5)[0], "answer"), asked(even, shown(1, 5)[0], "answer")
    assert sqnr_db(wanted, got) > 100


def test_what_is_not_chosen_or_reads_the_frame_stays() -> None:
    model = made()
    assert [n.op_type for n in spread(model, shown(4), {"first"}).graph.node] == [
        n.op_type for n in model.graph.node
    ]


def test_int8_of_spread_channels_is_nearer(tmp_path: Path) -> None:
    path, feeds = tmp_path / "net.onnx", shown(16)
    onnx.save(made(), path)
    reached = []
    for uneven in (False, True):
        out = tmp_path / f"{uneven}.onnx"
        quantize_for_tensorrt(path, out, feeds, state_pairs=(), keep_float=["first"], uneven=uneven)
        both = [(asked(made(), f, "answer")[0], asked(onnx.load(out), f, "answer")[0]) for f in shown(8, 9)]
        reached.append(sqnr_db(*(np.concatenate(side) for side in zip(*both, strict=True))))
    assert reached[1] > reached[0] + 3


def test_a_spread_model_that_answers_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "add_to_bias", lambda *_: None)
    with pytest.raises(ParityError, match="answers another 'answer'"):
        spread(made(), shown(4), {"second"})


PAIRS = """(float[1,1,2,2] x) => (float[1,1,2,2] y) {
    codes = QuantizeLinear (x, scale, zero)
    rounded = DequantizeLinear (codes, scale, zero)
    weight_codes = QuantizeLinear <axis = 0> (w, weight_scale, weight_zero)
    weights = DequantizeLinear <axis = 0> (weight_codes, weight_scale, weight_zero)
    y = Conv <kernel_shape = [1, 1]> (rounded, weights, b)
}"""


def test_a_bias_gives_back_what_rounding_takes_on_average() -> None:
    """0.3 in steps of 0.5 is 0.5, so with a weight of 2 every answer is 0.4 too large."""
    plain = parser.parse_model(
        HEAD + "(float[1,1,2,2] x) => (float[1,1,2,2] y) { y = Conv <kernel_shape = [1, 1]> (x, w, b) }"
    )
    rounded = parser.parse_model(HEAD + PAIRS)
    values = {
        "w": np.full((1, 1, 1, 1), 2, np.float32),
        "b": np.array([1], np.float32),
        "scale": np.float32(0.5),
        "zero": np.int8(0),
        "weight_scale": np.array([0.25], np.float32),
        "weight_zero": np.array([0], np.int8),
    }
    for model in (plain, rounded):
        read = {name for node in model.graph.node for name in node.input}
        for name, value in values.items():
            if name in read:
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    feeds = [{"x": np.full((1, 1, 2, 2), 0.3, np.float32)}]
    assert asked(rounded, feeds[0], "y")[0] == pytest.approx(2.0)
    correct_biases(rounded, plain, feeds)
    assert asked(rounded, feeds[0], "y")[0] == pytest.approx(1.6) == asked(plain, feeds[0], "y")[0]
