"""Small questions and changes to an ONNX graph that the files of this room share."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second input is a weight."""
COPIES = frozenset(
    (
        *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
    )
)
"""Operators which move values but do not compute, so one scale serves both their ends."""


def weighted_nodes(model: ModelProto) -> list[NodeProto]:
    """The convolutions and matrix products of a model, in running order."""
    return [node for node in model.graph.node if node.op_type in WEIGHTED]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or ``default`` where it has none of that name."""
    from onnx import helper

    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensor name -> static shape, of every tensor whose shape the file tells, also through Q/DQ pairs."""
    graph = model.graph
    known = {init.name: tuple(init.dims) for init in graph.initializer}
    for info in [*graph.input, *graph.output, *graph.value_info]:
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            known[info.name] = tuple(d.dim_value for d in kind.shape.dim)
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
    return known


def quantize_nodes(model: ModelProto, *, weights: bool) -> list[NodeProto]:
    """The QuantizeLinear nodes on weights, or those on activations."""
    constants = fixed_tensors(model)
    nodes = (n for n in model.graph.node if n.op_type == "QuantizeLinear")
    return [n for n in nodes if (n.input[0] in constants) is weights]


def residual_adds(model: ModelProto) -> Iterator[NodeProto]:
    """Add nodes that join two activations of one shape."""
    known, constants = shapes(model), fixed_tensors(model)
    for node in model.graph.node:
        if node.op_type == "Add" and not constants.intersection(node.input):
            left, right = (known.get(name) for name in node.input)
            if left == right:
                yield node


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Silence the advice that onnxruntime's quantizer writes to the root logger."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def fixed_tensors(model: ModelProto) -> set[str]:
    """Names of tensors fixed in the file: initializers, and weights behind their Q/DQ pair."""
    fixed = {init.name for init in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in fixed:
            fixed.update(node.output)
    return fixed


def drop_unused_constants(model: ModelProto) -> None:
    """Take out, in place, every initializer that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    for init in [i for i in model.graph.initializer if i.name not in used]:
        model.graph.initializer.remove(init)


def drop_unused_domains(model: ModelProto) -> None:
    """Keep only the operator sets in use: onnxruntime lists its own, which TensorRT cannot read."""
    used = {node.domain for node in model.graph.node} | {"", "ai.onnx"}
    for entry in [o for o in model.opset_import if o.domain not in used]:
        model.opset_import.remove(entry)


def name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own; NVIDIA's parser refuses that of an initializer too."""
    taken = {init.name for init in model.graph.initializer}
    for node in model.graph.node:
        name = node.name or f"{node.op_type}_{node.output[0]}"
        node.name = _free(name, taken)
        taken.add(node.name)


def _free(name: str, taken: Iterable[str]) -> str:
    number, free = 1, name
    while free in taken:
        number, free = number + 1, f"{name}_{number}"
    return free


def one_line(error: Exception) -> str:
    """What a library said, on one line of at most 200 characters; its kind if it said nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
