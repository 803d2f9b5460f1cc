"""Tiny models, each of which breaks one of the rules of TensorRT and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepv.export import half

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


def _int8_constant(*, opset: int = 18) -> Any:
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
    return _model(nodes, inits, opset=opset)


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


def _layer_norm(*, opset: int = 17) -> Any:
    inits: Arrays = {"s": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}
    node = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], "norm")
    return onnx.shape_inference.infer_shapes(_model([node], inits, opset=opset))


def _reciprocal() -> Any:
    return _model([helper.make_node("Reciprocal", ["x"], ["y"], "one_by")], opset=13)


def _grid(dims: int) -> Any:
    space = (8,) * (dims - 2)
    x, grid = (1, 4, *space), (1, *space, dims - 2)
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], "sample", mode="linear")
    return _model([node], inputs={"x": x, "grid": grid}, outputs={"y": x}, opset=20)


def _own_domain() -> Any:
    model = _model([helper.make_node("BiasGelu", ["x", "x"], ["y"], "own", domain="com.microsoft")])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _double() -> Any:
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["wide", "w"], ["p"], "times"),
        helper.make_node("Cast", ["p"], ["y"], to=FLOAT),
    ]
    return _model(nodes, {"w": np.array(0.5, np.float64)})


def _nine_dimensions() -> Any:
    shape = (1, 4, 2, 2, 2, 2, 2, 2, 1)
    nodes = [
        helper.make_node("Reshape", ["x", "deep"], ["d"], "reshape"),
        helper.make_node("Reshape", ["d", "flat"], ["y"], "back"),
    ]
    inits: Arrays = {"deep": np.array(shape, np.int64), "flat": np.array(SHAPE, np.int64)}
    return onnx.shape_inference.infer_shapes(_model(nodes, inits), data_prop=True)


def _pool_1d() -> Any:
    node = helper.make_node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[2], strides=[2])
    return _model([node], inputs={"x": (1, 4, 8)}, outputs={"y": (1, 4, 4)})


def _cubic() -> Any:
    inits: Arrays = {"s": np.array([1, 1, 2, 2], np.float32)}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], "cubic", mode="cubic")
    return _model([node], inits, outputs={"y": (1, 4, 16, 16)})


def _unsorted() -> Any:
    model = _topk(3)
    model.graph.node[0].attribute.append(helper.make_attribute("sorted", 0))
    return model


def _computed_axes() -> Any:
    nodes = [
        helper.make_node("Shape", ["x"], ["dims"]),
        helper.make_node("ReduceMax", ["dims"], ["eight"], keepdims=0),
        helper.make_node("Sub", ["eight", "six"], ["two"]),
        helper.make_node("Reshape", ["two", "one"], ["axes"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["y"], "mean"),
    ]
    inits: Arrays = {"six": np.array(6, np.int64), "one": np.array([1], np.int64)}
    return _model(nodes, inits, outputs={"y": (1, 4, 1, 8)})


def _dynamic() -> Any:
    model = _model([helper.make_node("Relu", ["x"], ["y"])])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return model


def _concat(*, other: float) -> Any:
    inits: Arrays = {
        "x_scale": np.float32(0.1),
        "x_zero": np.int8(0),
        "z_scale": np.float32(other),
        "z_zero": np.int8(0),
    }
    nodes = [
        *_pair("x", "x"),
        *_pair("z", "z"),
        helper.make_node("Concat", ["x_dq", "z_dq"], ["y"], "cat", axis=1),
    ]
    return _model(nodes, inits, inputs={"x": SHAPE, "z": SHAPE}, outputs={"y": (1, 8, 8, 8)})


def _softmax() -> Any:
    inits: Arrays = {"x_scale": np.float32(0.1), "x_zero": np.int8(0)}
    return _model([*_pair("x", "x"), helper.make_node("Softmax", ["x_dq"], ["y"], "softmax")], inits)


def _wide(most: float) -> Any:
    model = _model([helper.make_node("Relu", ["x"], ["y"], "loud")])
    half.note(model, ["loud"], most)
    return model


def _sparse(*, pattern: bool) -> Any:
    """Half of the weights are 0: two in each four inputs, or two whole inputs of eight and others."""
    weight = np.ones((4, 8, 1, 1), np.float32)
    weight[:, [0, 2, 4, 6] if pattern else [0, 1, 2, 3]] = 0
    node = helper.make_node("Conv", ["x", "w"], ["y"], "sparse")
    return _model([node], {"w": weight}, inputs={"x": (1, 8, 8, 8)})


def _relu() -> Any:
    return _model([helper.make_node("Relu", ["x"], ["y"])])


def _floor() -> Any:
    return _model([helper.make_node("Floor", ["x"], ["y"])])


@dataclass(frozen=True)
class Planted:
    """A violation. words: of our message. limits: for ``rules.check``, beside opset 21 and its own defaults.

    refused: a word of the message of NVIDIA's parser, None where it takes the file.
    """

    rule: str
    build: Callable[[], Any]
    words: str
    refused: str | None = None
    limits: dict[str, Any] = field(default_factory=dict)


DLA = {"dla": True}
PLANTED: dict[str, Planted] = {
    "zero point": Planted("zero-point", lambda: _conv(zero=3), "the zero point is 3", "zero point"),
    "zero scale": Planted("scale", lambda: _conv(scale=0.0), "a scale is 0.0", "must all be positive"),
    "NaN scale": Planted("scale", lambda: _conv(scale=np.nan), "a scale is nan", "must all be positive"),
    "int16": Planted("int16", lambda: _conv(kind=np.int16, opset=21), "int16", "import initializer"),
    "int32 bias": Planted("int32-bias", _bias, "int32 tensor 'b'", "input has type Int32"),
    "scatter": Planted("scatter-reduction", _scatter, "reduction 'add'", "reduction is not supported"),
    "pool indices": Planted("pool-indices", lambda: _pool(indices=True), "second output", "MaxPool nodes"),
    "antialias": Planted("antialias", lambda: _resize(antialias=1), "antialias", "Antialiasing"),
    "Col2Im": Planted("col2im", _col2im, "Col2Im", "Col2Im"),
    "QLinearConv": Planted("qlinear", _qlinear, "QLinearConv", "QLinearConv"),
    "uint8": Planted("unsigned-activation", lambda: _conv(kind=np.uint8), "'x' is uint8"),
    "uint8 by default": Planted("unsigned-activation", _no_zero_point, "'x' is uint8"),
    "scales per channel": Planted("channel-activation", lambda: _conv(scale=[0.1] * 4), "'x' has 4 scal"),
    "weight axis": Planted("weight-axis", lambda: _conv(weight_axis=1), "conv run along axis 1"),
    "weight axis by default": Planted("weight-axis", _default_axis, "conv run along axis 1"),
    "ConvTranspose axis": Planted("weight-axis", lambda: _conv(op="ConvTranspose"), "along axis 0"),
    "one-sided Add": Planted("one-sided-add", lambda: _add(other="relu"), "'r' is float"),
    "concat of two scales": Planted("concat-scales", lambda: _concat(other=0.2), "its inputs have 2 scales"),
    "two groups": Planted("groups", lambda: _conv(group=2), "with 2 groups"),
    "TopK": Planted("topk", lambda: _topk(3841), "K = 3841"),
    "TopK unsorted": Planted("topk-unsorted", _unsorted, "sorted = 0"),
    "opset": Planted("opset", _conv, "the file is opset 18", limits={"opset_limit": 17}),
    "int8 constant": Planted(
        "int8-constant", lambda: _int8_constant(opset=17), "'w' are INT8", limits={"opset_limit": 17}
    ),
    "LayerNormalization": Planted("operator", _layer_norm, "came with TensorRT 8.6"),
    "Reciprocal": Planted("operator", _reciprocal, "the device may have 8.2", limits={"tensorrt": (8, 2)}),
    "GridSample": Planted("operator", lambda: _grid(4), "with TensorRT 8.5", limits={"tensorrt": (8, 2)}),
    "own domain": Planted("operator", _own_domain, "com.microsoft.BiasGelu", "Plugin not found"),
    "float64": Planted("float64", _double, "reads 'w', which is float64"),
    "nine dimensions": Planted("rank", _nine_dimensions, "a tensor of 9 dimensions", "9"),
    "pool over one axis": Planted("pool-rank", _pool_1d, "AveragePool over 1 axes"),
    "GridSample in 5-D": Planted("grid-rank", lambda: _grid(5), "GridSample over a 5-D"),
    "cubic": Planted("resize-mode", _cubic, "mode cubic at half_pixel"),
    "computed axes": Planted(
        "computed-axes", _computed_axes, "axes of ReduceMean are computed", "build-time"
    ),
    "dynamic": Planted("dynamic-shape", _dynamic, "shape of input 'x' is not static"),
    "quantized Softmax": Planted("no-int8", _softmax, "Softmax reads 'x_dq'"),
    "loud": Planted("fp16-range", lambda: _wide(1e6), "its values reach 1e+06"),
    "endless sum": Planted("fp16-range", lambda: _wide(0.0), "a sum that grows for ever"),
    "zeros in no pattern": Planted("sparsity", lambda: _sparse(pattern=False), "50% of its weights are 0"),
    "Conv3d": Planted("dla-conv3d", _conv3d, "3-D", limits=DLA),
    "Floor": Planted("dla-operator", _floor, "of 1 operators 1 are Floor (1)", limits=DLA),
    "Q/DQ on a DLA": Planted("dla-qdq", _conv, "the file has Q/DQ pairs", limits=DLA),
}

CLEAN: dict[str, Callable[[], Any]] = {
    "Q/DQ convolution": _conv,
    "depthwise": lambda: _conv(group=4),
    "ConvTranspose": lambda: _conv(op="ConvTranspose", weight_axis=1),
    "skip and convolution": lambda: _add(other="conv"),
    "one output": lambda: _pool(indices=False),
    "plain Resize": lambda: _resize(antialias=0),
    "TopK at the limit": lambda: _topk(3840),
    "concat of one scale": lambda: _concat(other=0.1),
    "2:4": lambda: _sparse(pattern=True),
}


def found(planted: Planted) -> list[Any]:
    """What the rules find in it."""
    from edgepv.export.tensorrt.rules import check

    return check(planted.build(), **{"opset_limit": 21, **planted.limits})
