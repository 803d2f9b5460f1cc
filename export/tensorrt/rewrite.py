"""What TensorRT does not read, written as it does, with the same values: operators, biases, codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.export.tensorrt.finders import SINCE
from edgepv.export.tensorrt.graph import attribute, drop_unused_constants, shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ONE = "edgepv.one"
"""Name of the constant 1."""
MIDDLE = 128
"""The zero point of uint8 codes that are int8 codes with 0 at 0, shifted."""


def spelled_out(model: ModelProto, tensorrt: tuple[int, ...]) -> ModelProto:
    """A copy of a float32 model without the operators that a TensorRT of this version does not know.

    LayerNormalization before 8.6, Reciprocal before 8.5; others are left for ``rules`` to name. Opset 17 or
    older. Source of the versions: ``finders.SINCE``.
    """
    written = type(model)()
    written.CopyFrom(model)
    for node in [n for n in written.graph.node if n.op_type in _SPELLED and not n.domain]:
        if tensorrt < SINCE[node.op_type]:
            _replace(written, node, _SPELLED[node.op_type](written, node))
    return written


def as_read(model: ModelProto) -> ModelProto:
    """A copy of a file that somebody else quantized in Q/DQ, as TensorRT reads it; values stay what they are.

    Biases as int32 behind a DQ become float; INT8 weights get back the Q before their DQ; uint8 codes with
    the zero point 128 become int8 codes with 0. Nodes have names. What has no such form, like another zero
    point, is left for the rules to name.
    """
    from onnx import numpy_helper, shape_inference

    written = type(model)()
    written.CopyFrom(model)
    values = {i.name: numpy_helper.to_array(i) for i in written.graph.initializer}
    for node in [n for n in written.graph.node if n.op_type == "DequantizeLinear"]:
        codes = values.get(node.input[0])
        if codes is not None and codes.dtype == np.int32:
            _fold_bias(written, node, values)
        elif codes is not None and codes.dtype == np.int8:
            _float_weights(written, node, values)
    _signed(written, values)
    drop_unused_constants(written)
    del written.graph.value_info[:]  # the types of codes have changed
    return shape_inference.infer_shapes(written)


def _of_channels(values: Mapping[str, np.ndarray], node: NodeProto, name: str, rank: int) -> np.ndarray:
    """A scale or zero point of a DQ, shaped to be multiplied with its tensor."""
    value = values[name]
    axis = int(attribute(node, "axis", 1)) % max(rank, 1)
    return value.reshape([-1 if d == axis else 1 for d in range(rank)]) if value.ndim else value


def _fold_bias(model: ModelProto, node: NodeProto, values: Mapping[str, np.ndarray]) -> None:
    """The bias itself instead of its DQ."""
    from onnx import numpy_helper

    codes = values[node.input[0]]
    if node.input[1] in values and not (len(node.input) > 2 and values[node.input[2]].any()):
        bias = codes * _of_channels(values, node, node.input[1], codes.ndim)
        model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)


def _float_weights(model: ModelProto, node: NodeProto, values: Mapping[str, np.ndarray]) -> None:
    """Float weights and a Q before the DQ; it gives the same codes, as weights are whole numbers of steps."""
    from onnx import helper, numpy_helper

    codes = values[node.input[0]]
    zero = values.get(node.input[2]) if len(node.input) > 2 else None
    if node.input[1] not in values or (zero is not None and zero.any()):
        return
    weights = codes * _of_channels(values, node, node.input[1], codes.ndim)
    zeros = np.zeros(values[node.input[1]].shape, np.int8)
    names = [f"{node.name}.{what}" for what in ("weights", "zero", "codes", "quantize")]
    for name, value in zip(names, (weights.astype(np.float32), zeros)):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    inputs = [names[0], node.input[1], names[1]]
    quantize = helper.make_node("QuantizeLinear", inputs, [names[2]], names[3])
    quantize.attribute.extend(a for a in node.attribute if a.name == "axis")
    place = next(i for i, n in enumerate(model.graph.node) if n.name == node.name)
    model.graph.node.insert(place, quantize)
    node = model.graph.node[place + 1]
    node.input[:] = [names[2], node.input[1], names[1]]


def _signed(model: ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """uint8 zero points of 128 become int8 zero points of 0: every code is 128 less, every value the same."""
    from onnx import numpy_helper

    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = {n.input[2] for n in pairs if len(n.input) > 2 and n.input[2] in values}
    on_codes = {
        n.input[2] for n in pairs if len(n.input) > 2 and n.op_type[0] == "D" and n.input[0] in values
    }
    for name in sorted(zeros - on_codes):
        zero = values[name]
        if zero.dtype == np.uint8 and (zero == MIDDLE).all():
            init = next(i for i in model.graph.initializer if i.name == name)
            init.CopyFrom(numpy_helper.from_array(np.zeros(zero.shape, np.int8), name))


def _replace(model: ModelProto, node: NodeProto, spelled: list[NodeProto]) -> None:
    nodes = list(model.graph.node)
    place = next(i for i, n in enumerate(nodes) if n.name == node.name)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *spelled, *nodes[place + 1 :]])


def _constant(model: ModelProto, name: str, value: float) -> str:
    from onnx import numpy_helper

    if name not in {init.name for init in model.graph.initializer}:
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return name


def _reciprocal(model: ModelProto, node: NodeProto) -> list[NodeProto]:
    from onnx import helper

    one = _constant(model, ONE, 1.0)
    return [helper.make_node("Div", [one, node.input[0]], list(node.output), node.name)]


def _layer_norm(model: ModelProto, node: NodeProto) -> list[NodeProto]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over the last axes, as ONNX defines it."""
    from onnx import helper

    x, out = node.input[0], node.output[0]
    axis, rank = int(attribute(node, "axis", -1)), len(shapes(model).get(x, ()))
    if not rank or len([name for name in node.output if name]) > 1:
        return [node]  # for the rule to name
    axes = list(range(axis % rank - rank, 0))
    epsilon = _constant(model, f"{node.name}.epsilon", float(attribute(node, "epsilon", 1e-5)))

    def one(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], f"{node.name}.{output}", **attributes)

    steps = ("mean", "away", "square", "variance", "shifted", "deviation", "even", "scaled")
    mean, away, square, variance, shifted, deviation, even, scaled = (f"{out}.{step}" for step in steps)
    nodes = [
        one("ReduceMean", [x], mean, axes=axes),
        one("Sub", [x, mean], away),
        one("Mul", [away, away], square),
        one("ReduceMean", [square], variance, axes=axes),
        one("Add", [variance, epsilon], shifted),
        one("Sqrt", [shifted], deviation),
        one("Div", [away, deviation], even),
    ]
    if len(node.input) < 3 or not node.input[2]:
        return [*nodes, helper.make_node("Mul", [even, node.input[1]], [out], node.name)]
    nodes.append(one("Mul", [even, node.input[1]], scaled))
    return [*nodes, helper.make_node("Add", [scaled, node.input[2]], [out], node.name)]


_SPELLED = {"LayerNormalization": _layer_norm, "Reciprocal": _reciprocal}
