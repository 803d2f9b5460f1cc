"""Each rule on a tiny model that breaks it alone, with NVIDIA's parser as the witness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepv.base.optional import present
from edgepv.export.tensorrt.parser import parse_with_nvidia
from edgepv.export.tensorrt.rules import RULES, check

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SHAPE = (1, 4, 8, 8)

Arrays = dict[str, Any]


def _model(
    nodes: list[Any],
    inits: Arrays | None = None,
    *,
    inputs: dict[str, tuple[int, ...]] | None = None,
    outputs: dict[str, tuple[int, ...]] | None = None,
    opset: int = 18,
) -> Any:
    """A model whose nodes run from "x" to "y", both (1, 4, 8, 8) unless said otherwise."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in (inputs or {"x": SHAPE}).items()],
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in (outputs or {"y": SHAPE}).items()],
        [numpy_helper.from_array(v, n) for n, v in (inits or {}).items()],
    )
    for node in graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _pair(name: str, tensor: str, *, axis: int | None = None) -> list[Any]:
    """Q and DQ of ``tensor`` with the constants NAME_scale and NAME_zero."""
    more: Any = {} if axis is None else {"axis": axis}
    return [
        helper.make_node("QuantizeLinear", [tensor, f"{name}_scale", f"{name}_zero"], [f"{name}_q"], **more),
        helper.make_node(
            "DequantizeLinear",
            [f"{name}_q", f"{name}_scale", f"{name}_zero"],
            [f"{name}_dq"],
            **more,
        ),
    ]


def _conv(
    *,
    scale: Any = 0.1,
    zero: Any = 0,
    kind: Any = np.int8,
    weight_axis: int = 0,
    group: int = 1,
    op: str = "Conv",
    opset: int = 18,
) -> Any:
    """A 1x1 convolution in TensorRT's form, with one thing to get wrong at a time."""
    weight = np.ones((4, 4 // group, 1, 1), np.float32)
    scale = np.asarray(scale, np.float32)
    inits: Arrays = {
        "w": weight,
        "x_scale": scale,
        "x_zero": np.full(scale.shape, zero, kind),
        "w_scale": np.full(weight.shape[weight_axis], 0.01, np.float32),
        "w_zero": np.zeros(weight.shape[weight_axis], np.int8),
    }
    axis = 1 if scale.ndim else None
    nodes = [
        *_pair("x", "x", axis=axis),
        *_pair("w", "w", axis=weight_axis),
        helper.make_node(op, ["x_dq", "w_dq"], ["y"], "conv", group=group),
    ]
    return _model(nodes, inits, opset=opset)


def _bias() -> Any:
    model = _conv()
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.ones(4, np.int32), "b"),
            numpy_helper.from_array(np.array(0.1, np.float32), "b_scale"),
        ]
    )
    conv = model.graph.node.pop()
    model.graph.node.append(helper.make_node("DequantizeLinear", ["b", "b_scale"], ["b_dq"], "bias"))
    model.graph.node.append(helper.make_node("Conv", [*conv.input, "b_dq"], ["y"], "conv"))
    return model


def _int8_constant() -> Any:
    """What onnxruntime's quantizer writes by default: the codes themselves, and only a DQ."""
    inits: Arrays = {
        "w": np.ones((4, 4, 1, 1), np.int8),
        "w_scale": np.full(4, 0.01, np.float32),
        "s": np.float32(0.1),
        "z": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["w_dq"], axis=0),
        helper.make_node("Conv", ["dq", "w_dq"], ["y"]),
    ]
    return _model(nodes, inits)


def _scatter() -> Any:
    inits: Arrays = {"i": np.zeros((1, 1), np.int64), "u": np.ones((1, 4, 8, 8), np.float32)}
    return _model([helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")], inits)


def _pool(*, indices: bool) -> Any:
    outputs = ["y", "where"] if indices else ["y"]
    nodes = [helper.make_node("MaxPool", ["x"], outputs, kernel_shape=[2, 2], strides=[2, 2])]
    model = _model(nodes, outputs={"y": (1, 4, 4, 4)})
    if indices:
        model.graph.output.append(helper.make_tensor_value_info("where", INT64, (1, 4, 4, 4)))
    return model


def _resize(*, antialias: int) -> Any:
    inits: Arrays = {"s": np.array([1, 1, 0.5, 0.5], np.float32)}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=antialias)
    return _model([node], inits, outputs={"y": (1, 4, 4, 4)})


def _col2im() -> Any:
    inits: Arrays = {"size": np.array([8, 8], np.int64), "block": np.array([2, 2], np.int64)}
    node = helper.make_node("Col2Im", ["x", "size", "block"], ["y"], strides=[2, 2])
    return _model([node], inits, inputs={"x": (1, 16, 16)})


def _qlinear() -> Any:
    inits: Arrays = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((4, 4, 1, 1), np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["y"]),
    ]
    return _model(nodes, inits)


def _add(*, other: str) -> Any:
    """A residual Add whose skip is quantized; ``other`` is what makes its other side."""
    inits: Arrays = {"w": np.ones((4, 4, 1, 1), np.float32)}
    inits |= {"x_scale": np.float32(0.1), "x_zero": np.int8(0)}
    nodes = [*_pair("x", "x"), helper.make_node("Conv", ["x_dq", "w"], ["a"], "conv")]
    side = "a"
    if other == "relu":
        nodes.append(helper.make_node("Relu", ["a"], ["r"]))
        side = "r"
    model = _model([*nodes, helper.make_node("Add", ["x_dq", side], ["y"], "add")], inits)
    return onnx.shape_inference.infer_shapes(model)


def _topk(k: int) -> Any:
    model = _model(
        [helper.make_node("TopK", ["x", "k"], ["y", "i"])],
        {"k": np.array([k], np.int64)},
        inputs={"x": (1, 4096)},
        outputs={"y": (1, k)},
    )
    model.graph.output.append(helper.make_tensor_value_info("i", INT64, (1, k)))
    return model


def _conv3d() -> Any:
    shape = (1, 4, 2, 8, 8)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    inits: Arrays = {"w": np.ones((4, 4, 1, 1, 1), np.float32)}
    return _model(nodes, inits, inputs={"x": shape}, outputs={"y": shape})


def _no_zero_point() -> Any:
    """Legal ONNX, and easily overlooked: without a zero point the codes are uint8."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    return _model(nodes, {"s": np.float32(0.1)})


def _default_axis() -> Any:
    """A DQ that leaves its axis away means axis 1."""
    model = _conv()
    for node in model.graph.node:
        if node.output[0] in ("w_q", "w_dq"):
            del node.attribute[:]
    return model


REFUSED: dict[str, tuple[str, Callable[[], Any], str, str]] = {
    "zero point": ("zero-point", lambda: _conv(zero=3), "the zero point is 3", "zero point"),
    "zero scale": ("scale", lambda: _conv(scale=0.0), "a scale is 0.0", "must all be positive"),
    "NaN scale": ("scale", lambda: _conv(scale=np.nan), "a scale is nan", "must all be positive"),
    "int16": ("int16", lambda: _conv(kind=np.int16, opset=21), "int16", "import initializer"),
    "int32 bias": ("int32-bias", _bias, "int32 tensor 'b'", "input has type Int32"),
    "scatter": ("scatter-reduction", _scatter, "reduction 'add'", "reduction is not supported"),
    "pool indices": ("pool-indices", lambda: _pool(indices=True), "second output", "MaxPool nodes"),
    "antialias": ("antialias", lambda: _resize(antialias=1), "antialias", "Antialiasing"),
    "Col2Im": ("col2im", _col2im, "Col2Im", "Col2Im"),
    "QLinearConv": ("qlinear", _qlinear, "QLinearConv", "QLinearConv"),
}
"""What the parser refuses: our rule, the model, a word of our message, a word of the parser's."""

ACCEPTED: dict[str, tuple[str, Callable[[], Any], str]] = {
    "uint8": ("unsigned-activation", lambda: _conv(kind=np.uint8), "'x' is uint8"),
    "uint8 by default": ("unsigned-activation", _no_zero_point, "'x' is uint8"),
    "scales per channel": ("channel-activation", lambda: _conv(scale=[0.1] * 4), "'x' has 4 scal"),
    "weight axis": ("weight-axis", lambda: _conv(weight_axis=1), "conv run along axis 1"),
    "weight axis by default": ("weight-axis", _default_axis, "conv run along axis 1"),
    "ConvTranspose axis": ("weight-axis", lambda: _conv(op="ConvTranspose"), "along axis 0"),
    "one-sided Add": ("one-sided-add", lambda: _add(other="relu"), "'r' is float"),
    "two groups": ("groups", lambda: _conv(group=2), "with 2 groups"),
    "TopK": ("topk", lambda: _topk(3841), "K = 3841"),
    "Conv3d": ("dla-conv3d", _conv3d, "3-D"),
}
"""What the parser accepts though it is wrong, slow, or fails later: only our rules see it."""

ALL = {name: row[:3] for name, row in REFUSED.items()} | ACCEPTED

CLEAN: dict[str, Callable[[], Any]] = {
    "Q/DQ convolution": _conv,
    "depthwise": lambda: _conv(group=4),
    "ConvTranspose": lambda: _conv(op="ConvTranspose", weight_axis=1),
    "skip and convolution": lambda: _add(other="conv"),
    "one output": lambda: _pool(indices=False),
    "plain Resize": lambda: _resize(antialias=0),
    "TopK at the limit": lambda: _topk(3840),
}


@pytest.mark.parametrize("name", ALL)
def test_the_rule_finds_the_one_thing_that_is_wrong(name: str) -> None:
    rule, build, words = ALL[name]
    found = check(build(), opset_limit=21)
    assert {f.rule for f in found} == {rule}
    assert words in found[0].message


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_model_has_no_findings(name: str) -> None:
    assert check(CLEAN[name](), opset_limit=18) == []


@pytest.mark.parametrize(
    ("limit", "rules", "reason"),
    [
        (18, set(), "the device reads the file's opset"),
        (17, {"opset"}, "JetPack 5.1 and 6.0 stop at opset 17"),
    ],
)
def test_the_opset_is_held_against_the_device(limit: int, rules: set[str], reason: str) -> None:
    assert {f.rule for f in check(_conv(), opset_limit=limit)} == rules, reason


@pytest.mark.parametrize("name", ALL)
def test_the_models_are_legal_onnx_but_for_what_the_rule_says(name: str) -> None:
    onnx.checker.check_model(ALL[name][1](), full_check=True)


def test_int8_constants_are_wrong_for_tensorrt_8_only() -> None:
    model = _int8_constant()
    assert check(model, opset_limit=19) == []
    assert {f.rule for f in check(model, opset_limit=17)} == {"opset", "int8-constant"}


def test_a_finding_names_the_node_and_says_what_to_do() -> None:
    (found,) = check(_conv(group=2), opset_limit=18)
    assert (found.node, found.severity) == ("conv", "warning")
    assert found.message.startswith("an INT8 convolution with 2 groups. INT8 kernels work on 4")


def test_every_rule_of_the_table_is_broken_by_a_model_here() -> None:
    broken = {rule for rule, _, _ in ALL.values()} | {"opset", "int8-constant"}
    assert broken == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)


NEEDS_PARSER = pytest.mark.skipif(not present("tensorrt_rtx"), reason="needs edgepv[trt-check]")


@NEEDS_PARSER
@pytest.mark.parametrize("name", REFUSED)
def test_nvidias_parser_refuses_it_for_the_same_reason(name: str, tmp_path: Path) -> None:
    _, build, _, word = REFUSED[name]
    path = tmp_path / "m.onnx"
    onnx.save(build(), path)
    verdict = parse_with_nvidia(path)
    assert (verdict.ran, verdict.accepted) == (True, False)
    assert word in verdict.errors[0]


@NEEDS_PARSER
@pytest.mark.parametrize("name", ACCEPTED)
def test_only_our_rules_see_it_for_nvidias_parser_accepts_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(ACCEPTED[name][1](), path)
    assert parse_with_nvidia(path).accepted


@NEEDS_PARSER
@pytest.mark.parametrize("name", CLEAN)
def test_nvidias_parser_accepts_a_clean_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(CLEAN[name](), path)
    assert parse_with_nvidia(path).accepted
