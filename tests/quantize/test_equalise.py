"""Channels are made equally loud where operators pass a factor on, and the float answers stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgepv.base.optional import ort_session
from edgepv.errors import ParityError, UsageError
from edgepv.metrics.stats import sqnr_db
from edgepv.quantize import equalise, int8_onnx
from edgepv.quantize.step import Calibration
from edgepv.stream import Tensors, by_file_names
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

HEAD = '<ir_version: 10, opset_import: ["" : 18]> net '
STREAM = """(float[1,3,8,8] frame, float[1,6,8,8] past) => (float[1,4] logits, float[1,6,8,8] past_next) {
    first = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (frame, w0, b0)
    past_next = Relu (first)
    joined = Concat <axis = 1> (past, past_next)
    second = Conv <kernel_shape = [1, 1]> (joined, w1, b1)
    deep = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 6> (second, w2, b2)
    loud = Relu (deep)
    sum = Add (loud, second)
    pooled = ReduceMean <keepdims = 1> (sum, axes)
    gate = Sigmoid (pooled)
    gated = Mul (sum, gate)
    third = Conv <kernel_shape = [1, 1]> (gated, w3, b3)
    last = ReduceMean <keepdims = 0> (third, axes)
    logits = Identity (last)
}"""
SHAPES = {
    "w0": (6, 3, 3, 3),
    "w1": (6, 12, 1, 1),
    "w2": (6, 1, 3, 3),
    "w3": (4, 6, 1, 1),
    "b0": (6,),
    "b1": (6,),
    "b2": (6,),
    "b3": (4,),
}

LOUDNESS = 2.0 ** -np.arange(6)


def made(text: str, folder: Path, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Any:
    """A graph with channels from loud to 1/32 of it, which matter equally: readers make up for it."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(HEAD + text)
    for name, shape in shapes.items():
        value = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        if name in ("w0", "b0"):
            value *= LOUDNESS.reshape(-1, *(1,) * (len(shape) - 1))
        elif name == "w1":
            value /= np.tile(LOUDNESS, 2).reshape(1, -1, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    onnx.save(model, folder / "model.onnx")
    return model


def variant(model: Any, *states: StateSpec, task: str = "classification") -> Variant:
    names = [[v.name for v in side] for side in (model.graph.input, model.graph.output)]
    spec = ModelSpec(
        "net", TensorSpec("frame", (1, 3, 8, 8), "NCHW"), tuple("abcd"), 4, Fraction(10), task=task
    )
    stream = StreamSpec(states, 1, 1) if states else None
    inputs, outputs = ({n: n for n in side} for side in names)
    return Variant("net", "onnxruntime", "fp32", "step", "model.onnx", "", spec, stream, inputs, outputs)


PAST = StateSpec("past", "past_next", (1, 6, 8, 8))


def rolled(path: Path, count: int, seed: int = 1) -> tuple[list[Tensors], np.ndarray]:
    """(what a net with one state was fed, what it answered) over noisy frames."""
    rng, session = np.random.default_rng(seed), ort_session(path)
    past = np.zeros((1, 6, 8, 8), np.float32)
    feeds, rows = [], []
    for _ in range(count):
        feeds.append({"frame": rng.normal(size=(1, 3, 8, 8)).astype(np.float32), "past": past})
        logits, past = session.run(["logits", "past_next"], feeds[-1])
        rows.append(logits[0])
    return feeds, np.array(rows)


def even(base: Variant, folder: Path, feeds: Sequence[Tensors]) -> Variant:
    return equalise.Step()(base, folder / "even.onnx", Calibration(folder, feeds, "digest"))


def test_a_stream_answers_as_before_though_its_states_are_in_other_units(tmp_path: Path) -> None:
    base = variant(made(STREAM, tmp_path), PAST)
    feeds, wanted = rolled(tmp_path / "model.onnx", 40)
    result = even(base, tmp_path, feeds[1:])
    theirs, got = rolled(tmp_path / "even.onnx", 40)
    assert sqnr_db(wanted, got) > 110
    factors = np.array(result.state_scales["past"])
    assert factors.shape == (6,) and factors.max() > 2 * factors.min()
    brought = by_file_names(result, feeds)[-1]["past"]
    np.testing.assert_allclose(brought, theirs[-1]["past"], rtol=1e-4, atol=1e-6)


ROWS = """(float[1,3,8,8] frame, float[1,6,1,64] past, float[1,3,6] pool)
    => (float[1,4] logits, float[1,6,1,64] past_next, float[1,3,6] pool_next) {
    first = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (frame, w0, b0)
    positive = Relu (first)
    flat = Reshape (positive, line)
    seen = Concat <axis = 2> (past, flat)
    mixed = Conv <kernel_shape = [2, 1], group = 6> (seen, wt, bt)
    second = Relu (mixed)
    picture = Reshape (second, square)
    deep = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (picture, w2, b2)
    loud = Relu (deep)
    sum = Add (loud, picture)
    mean = ReduceMean <keepdims = 0> (sum, axes)
    row = Unsqueeze (mean, one)
    rows = Concat <axis = 1> (pool, row)
    pooled = ReduceMean <keepdims = 0> (rows, one)
    logits = MatMul (pooled, head)
    past_next = Slice (seen, one, two, two, one)
    pool_next = Slice (rows, one, four, one, one)
}"""


def test_a_feature_that_is_kept_as_a_row_keeps_its_units(tmp_path: Path) -> None:
    weights = {"w0": (6, 3, 3, 3), "wt": (6, 1, 2, 1), "w2": (6, 6, 3, 3), "head": (6, 4)}
    model = made(ROWS, tmp_path, weights | dict.fromkeys(("b0", "bt", "b2"), (6,)))
    whole = {"one": [1], "two": [2], "four": [4], "line": [1, 6, 1, 64], "square": [1, 6, 8, 8]}
    for name, value in whole.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    onnx.save(model, tmp_path / "model.onnx")
    shapes = {"frame": (1, 3, 8, 8), "past": (1, 6, 1, 64), "pool": (1, 3, 6)}
    states = [StateSpec(name, f"{name}_next", shapes[name]) for name in ("past", "pool")]
    rng, base = np.random.default_rng(0), variant(model, *states)
    feeds = [{n: np.abs(rng.normal(size=s)).astype(np.float32) for n, s in shapes.items()} for _ in range(6)]
    result = even(base, tmp_path, feeds)
    assert list(result.state_scales) == ["past"]
    before, after = (ort_session(tmp_path / file) for file in ("model.onnx", "even.onnx"))
    for feed, theirs in zip(feeds, by_file_names(result, feeds)):
        wanted, got = before.run(["logits", "pool_next"], feed), after.run(["logits", "pool_next"], theirs)
        for a, b in zip(wanted, got):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_channels_that_were_unequal_are_as_loud_as_each_other(tmp_path: Path) -> None:
    base = variant(made(STREAM, tmp_path), PAST)
    feeds, _ = rolled(tmp_path / "model.onnx", 33)
    even(base, tmp_path, feeds[1:])
    spread = []
    for file in ("model.onnx", "even.onnx"):
        past = np.abs(np.concatenate([f["past"] for f in rolled(tmp_path / file, 33)[0]])).max((0, 2, 3))
        spread.append(past.max() / past.min())
    assert spread[0] > 4 and spread[1] < spread[0] / 2


def test_int8_of_unequal_channels_gets_better(tmp_path: Path) -> None:
    base = variant(made(STREAM, tmp_path), PAST)
    feeds, wanted = rolled(tmp_path / "model.onnx", 80)
    aid = Calibration(tmp_path, feeds[1:40], "digest")
    reached = []
    for given in (base, even(base, tmp_path, aid.feeds)):
        int8_onnx.Step()(given, tmp_path / "int8.onnx", aid)
        reached.append(sqnr_db(wanted[40:], rolled(tmp_path / "int8.onnx", 80)[1][40:]))
    assert reached[1] > reached[0] + 2


@pytest.mark.parametrize(
    "between",
    [
        "Sigmoid (first)",
        "Transpose <perm = [0, 1, 3, 2]> (first)",
        "HardSwish (first)",
        "Softmax <axis = 1> (first)",
    ],
)
def test_what_passes_no_factor_on_keeps_its_weights(tmp_path: Path, between: str) -> None:
    text = f"""(float[1,3,8,8] frame) => (float[1,4,8,8] logits) {{
        first = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (frame, w0, b0)
        mid = {between}
        logits = Conv <kernel_shape = [1, 1]> (mid, w, b3)
    }}"""
    shapes = {"w0": (6, 3, 3, 3), "b0": (6,), "w": (4, 6, 1, 1), "b3": (4,), "b": (1, 6, 1, 1)}
    base = variant(made(text, tmp_path, shapes))
    feeds = [{"frame": np.random.default_rng(i).normal(size=(1, 3, 8, 8)).astype("f")} for i in range(4)]
    even(base, tmp_path, feeds)
    kept = {i.name: numpy_helper.to_array(i) for i in onnx.load(tmp_path / "even.onnx").graph.initializer}
    for initial in onnx.load(tmp_path / "model.onnx").graph.initializer:
        if initial.name in ("w0", "w"):
            np.testing.assert_array_equal(kept[initial.name], numpy_helper.to_array(initial))


@pytest.mark.parametrize(
    "base",
    [
        lambda model: variant(model, PAST, task="tracking"),
        lambda model: variant(model, StateSpec("past", "past_next", (1, 6, 8, 8), init=1.0)),
    ],
)
def test_a_state_that_the_host_sets_keeps_its_units(tmp_path: Path, base: Any) -> None:
    given = base(made(STREAM, tmp_path))
    feeds, wanted = rolled(tmp_path / "model.onnx", 20)
    assert even(given, tmp_path, feeds[1:]).state_scales == {}
    theirs, got = rolled(tmp_path / "even.onnx", 20)
    assert sqnr_db(wanted, got) > 110
    np.testing.assert_allclose(theirs[-1]["past"], feeds[-1]["past"], rtol=1e-4, atol=1e-6)


def test_weights_that_two_layers_share_stay(tmp_path: Path) -> None:
    text = STREAM.replace("(gated, w3, b3)", "(gated, w1s, b1)").replace("(joined, w1, b1)", "(cut, w1s, b1)")
    text = text.replace("second =", "cut = Relu (past_next)\n    second =").replace(
        "[1,4] logits", "[1,6] logits"
    )
    shapes = SHAPES | {"w1s": (6, 6, 1, 1)}
    base = variant(made(text, tmp_path, shapes), PAST)
    feeds, wanted = rolled(tmp_path / "model.onnx", 20)
    even(base, tmp_path, feeds[1:])
    assert sqnr_db(wanted, rolled(tmp_path / "even.onnx", 20)[1]) > 110


def test_the_same_file_comes_out_twice(tmp_path: Path) -> None:
    base = variant(made(STREAM, tmp_path), PAST)
    feeds, _ = rolled(tmp_path / "model.onnx", 12)
    assert even(base, tmp_path, feeds[1:]) == even(base, tmp_path, feeds[1:])


def test_another_precision_is_refused(tmp_path: Path) -> None:
    base = variant(made(STREAM, tmp_path), PAST)
    with pytest.raises(UsageError, match="another one"):
        equalise.Step().ensures(base, Variant(**{**vars(base), "precision": "int8"}))


def test_a_file_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    channels = equalise.Channels(made(STREAM, tmp_path), [("past", "past_next")])
    feeds, _ = rolled(tmp_path / "model.onnx", 3)
    factors = np.ones(channels.count(), np.float32)
    equalise._scale(channels, factors)
    equalise._refuse_unlike(channels, factors, tmp_path / "model.onnx", feeds)
    equalise._scale(channels, np.linspace(1, 1.1, channels.count()).astype(np.float32))
    with pytest.raises(ParityError, match="answers another"):
        equalise._refuse_unlike(channels, factors, tmp_path / "model.onnx", feeds)
