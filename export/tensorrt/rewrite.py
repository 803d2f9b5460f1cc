"""Operators that an older TensorRT's parser does not know, spelled out in ones that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.export.tensorrt.finders import SINCE
from edgepv.export.tensorrt.graph import attribute, shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ONE = "edgepv.one"
"""Name of the constant 1."""


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
