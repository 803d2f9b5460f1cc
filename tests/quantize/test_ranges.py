"""A range clips where that loses less than it gains, and nowhere else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepv.errors import UsageError
from edgepv.quantize.ranges import METHODS, Histogram, Method, Span, check_method, of_model

CLIPPING: tuple[Method, ...] = ("percentile", "mse", "entropy")
COUNT = 2_000_000


def span(arrays: list[np.ndarray], method: Method) -> Span:
    """One range over several arrays."""
    seen = Histogram()
    for array in arrays:
        seen.add(array)
    return seen.span(method)


def laplace() -> np.ndarray:
    """Evenly spaced quantiles of the Laplace distribution of scale 1; the loudest is near 14.5."""
    tail = -np.log((np.arange(COUNT) + 0.5) / COUNT)
    return np.concatenate([tail, -tail]).astype(np.float32)


def error(values: np.ndarray, low: float, high: float) -> float:
    """Mean square of what 256 levels from low to high do to the values, rounded one by one."""
    step = (high - low) / 255
    level = np.clip(np.rint((values - low) / step), 0, 255)
    return float(np.mean((values - (low + level * step)) ** 2))


def test_the_least_squares_range_of_a_laplace_is_where_theory_puts_it() -> None:
    # error(a) = 2 exp(-a) + a * a / (3 * 255 * 255) is least where a * exp(a) = 3 * 255 * 255: a = 9.889
    assert 9.889 * math.exp(9.889) == pytest.approx(3 * 255 * 255, rel=1e-3)
    low, high = span([laplace()], "mse")
    assert high == pytest.approx(9.889, rel=0.02) and low == pytest.approx(-9.889, rel=0.02)


def test_no_other_range_rounds_with_less_error() -> None:
    values = laplace()
    values[values < 0] *= 0.1
    low, high = span([values], "mse")
    best = error(values, low, high)
    for factor in (0.8, 1.25):
        assert best < error(values, low, high * factor)
    assert best < 0.9 * error(values, float(values.min()), float(values.max()))


@pytest.mark.parametrize("method", CLIPPING)
def test_a_uniform_tensor_keeps_its_whole_range(method: Method) -> None:
    values = np.linspace(-1, 2, 300_000, dtype=np.float32)
    low, high = span([values], method)
    assert low == pytest.approx(-1, abs=0.03) and high == pytest.approx(2, abs=0.06)


@pytest.mark.parametrize("method", CLIPPING)
def test_one_loud_value_among_many_is_clipped_on_its_side_only(method: Method) -> None:
    values = np.random.default_rng(0).standard_normal(4_000_000).astype(np.float32)
    values[0] = 40.0
    low, high = span([values], method)
    assert 3 < high < 10 and -6 < low < -3


@pytest.mark.parametrize("method", CLIPPING)
def test_after_a_relu_the_range_starts_at_zero_and_the_zeros_do_not_vote(method: Method) -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(50_000)).astype(np.float32)
    sparse = np.concatenate([values, np.zeros(50_000_000, np.float32)])
    assert span([sparse], method) == span([values], method)
    assert span([values], method)[0] == 0.0 and span([values], method)[1] > 2


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_or_of_no_values_has_the_range_zero(method: Method) -> None:
    assert span([np.zeros((2, 3), np.float32), np.zeros((0, 3), np.float32)], method) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_range_holds_zero_and_nothing_unseen_at_any_scale(method: Method, scale: float) -> None:
    values = (np.array([3.0, 4.0, 5.0] * 1000) * scale).astype(np.float32)
    low, high = span([values], method)
    assert low == 0.0 and 0 < high <= float(values.max())


def test_percentile_clips_one_value_in_ten_thousand() -> None:
    values = np.arange(1, 1_000_001, dtype=np.float32)
    high = span([values], "percentile")[1]
    assert 999_500 < high < 1_000_000 - 100 + 2**8


def test_the_order_of_the_feeds_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal(5000).astype(np.float32) * s for s in (1e-6, 0.3, 50.0, 1e-3, 7.0)]
    for method in CLIPPING:
        assert span(parts, method) == span(parts[::-1], method) == span([np.concatenate(parts)], method)


def test_a_histogram_that_grows_loses_no_value() -> None:
    seen = Histogram()
    for scale in (1e-3, 1.0, 1e3):
        seen.add(np.full(10, scale, np.float32))
    assert seen.span("minmax") == (0.0, 1000.0)
    assert seen._counts.sum() == 30


def test_an_unknown_estimator_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="unknown range estimator 'msee'.*Did you mean 'mse'"):
        check_method("msee")


def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["big"]), helper.make_node("Add", ["big", "one"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "one")],
        value_info=[helper.make_tensor_value_info("big", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "m.onnx")
    fine = {"x": np.array([0.0, 1.0], np.float32)}
    found = of_model(tmp_path / "m.onnx", [fine], "minmax")
    assert found["x"] == (0.0, 1.0) and found["big"][1] == pytest.approx(math.e) and "one" not in found
    with pytest.raises(UsageError, match="tensor 'big': its values are not finite"):
        of_model(tmp_path / "m.onnx", [fine, {"x": np.array([0.0, 1000.0], np.float32)}], "mse")


def test_a_tensor_that_no_node_makes_any_more_has_no_range(tmp_path: Path) -> None:
    """A fusion leaves the shapes of what it fused; outputs may be constants, or inputs that pass."""
    floats = {
        n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [2])
        for n in ("x", "y", "gone", "fixed", "through")
    }
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "fixed"], ["y"])],
        "g",
        [floats["x"], floats["through"]],
        [floats["y"], floats["fixed"], floats["through"]],
        [numpy_helper.from_array(np.full(2, 3, np.float32), "fixed")],
        value_info=[floats["gone"]],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "m.onnx")
    feed = {"x": np.array([-1, 2], np.float32), "through": np.array([0, 5], np.float32)}
    for method in get_args(Method):
        assert of_model(tmp_path / "m.onnx", [feed], method) == {
            "y": (-3.0, 6.0),
            "x": (-1.0, 2.0),
            "through": (0.0, 5.0),
        }
