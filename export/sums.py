"""Does a file compute the same integer sums on every CPU?

An x86 without VNNI multiplies unsigned activations by signed weights and adds the products two by two in 16
bits, which saturate above 32,767 (the instruction vpmaddubsw; onnxruntime issues 6004 and 14642). ONNX
Runtime can be told to add exactly (``base.optional.ort_options``), OpenVINO cannot, so what it runs must
have weights that never come that far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgepv.base.late import np
from edgepv.base.optional import need

WEIGHTS_AT = {
    "DequantizeLinear": 0,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
}
"""Where an ONNX operator takes eight-bit weights from."""


def saturating(path: Path) -> str | None:
    """The first tensor of signed eight-bit weights whose sums may saturate in 16 bits, by name; None if none.

    path: an ONNX file or OpenVINO's .xml. Which two products an engine adds is its own affair, so the two
    largest weights of one sign in the whole tensor count, next to activations of 255: what is named may be
    right on such a CPU too, what is not named is. Depthwise convolutions are not named: both engines add
    those in 32 bits (tests/export/test_sums.py).
    """
    find = _openvino_weights if path.suffix == ".xml" else _onnx_weights
    return next((name for name, weights in find(path) if _reaches(weights)), None)


def _reaches(weights: np.ndarray) -> bool:
    """Whether two products with 255 can leave 16 bits together."""
    flat = np.sort(weights.ravel().astype(np.int64))
    return 255 * max(int(flat[-2:].sum()), -int(flat[:2].sum())) > np.iinfo(np.int16).max


def _onnx_weights(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    onnx = need("onnx", extra="compress")
    graph = onnx.load(path).graph
    constants: dict[str, Any] = {i.name: i for i in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        place = WEIGHTS_AT.get(node.op_type)
        weight = constants.get(node.input[place]) if place is not None else None
        if weight is None or weight.data_type != onnx.TensorProto.INT8 or len(weight.dims) < 2:
            continue
        uses = readers.get(node.output[0], []) if node.op_type == "DequantizeLinear" else [node]
        if not (uses and all(_depthwise(use, weight.dims) for use in uses)):
            yield node.input[place], onnx.numpy_helper.to_array(weight)


def _depthwise(node: Any, dims: Sequence[int]) -> bool:
    """Whether an ONNX node convolves each channel by itself with weights of these dimensions."""
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    return "Conv" in node.op_type and group > 1 and (dims[0], dims[1]) == (group, 1)


def _openvino_weights(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    ov = need("openvino", extra="compress")
    for op in ov.Core().read_model(str(path)).get_ordered_ops():
        is_weight = op.get_type_name() == "Constant" and op.get_element_type() == ov.Type.i8
        shape = tuple(op.get_output_shape(0)) if is_weight else ()
        grouped = shape[1:3] == (1, 1) and "GroupConvolution" in _users(op)
        if len(shape) > 1 and not grouped:
            yield op.get_friendly_name(), op.data


def _users(op: Any) -> set[str]:
    """Types of the operators that a constant reaches through its dequantization."""
    users = [target.get_node() for out in op.outputs() for target in out.get_target_inputs()]
    passing = ("Convert", "Multiply", "Subtract", "Reshape")
    return {t for u in users for t in (_users(u) if u.get_type_name() in passing else {u.get_type_name()})}
