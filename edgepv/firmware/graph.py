"""A step graph as it is read: ONNX nodes with static shapes, and what is constant in them folded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgepv.base.optional import need
from edgepv.errors import UsageError

DOMAINS = ("", "ai.onnx")
OLDEST_OPSET = 13
"""Softmax meant something else before, and Clip and others had attributes where they have inputs now."""


@dataclass(frozen=True)
class Node:
    """One operator. inputs: names of values, "" for one that is left out. attributes: as ONNX has them."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def output(self) -> str:
        """Its first output."""
        return self.outputs[0]

    def refusal(self, why: str) -> UsageError:
        """That this node cannot be generated, and why."""
        return UsageError(f"{self.op} '{self.name}' cannot be firmware: {why}")


@dataclass(frozen=True)
class Code:
    """What codes of eight bits mean: (code - zero) * scale. Signed ones are kept as unsigned, with 128 added.

    scale: a float32.
    """

    scale: float
    zero: int

    def of(self, values: ArrayLike) -> np.ndarray:
        """Codes of floats, as ONNX's QuantizeLinear: x / scale in float32, halves to even, saturated."""
        whole = np.rint(np.asarray(values, np.float32) / np.float32(self.scale))
        held: np.ndarray = np.clip(np.nan_to_num(whole, nan=-np.inf) + self.zero, 0, 255).astype(np.uint8)
        return held

    def means(self, codes: np.ndarray) -> np.ndarray:
        """Floats of codes, as ONNX's DequantizeLinear has it."""
        return (codes.astype(np.int32) - self.zero).astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True)
class Quantized:
    """A constant as it lies in the file: integers, and scale and zero of all or of each entry of ``axis``."""

    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    def means(self) -> np.ndarray:
        """The floats, as ONNX's DequantizeLinear has them."""
        zero = along(self.zero, self.axis, self.values.ndim).astype(np.int32)
        scale = along(self.scale, self.axis, self.values.ndim).astype(np.float32)
        return (self.values.astype(np.int32) - zero).astype(np.float32) * scale


@dataclass
class Graph:
    """Nodes in an order in which they can run, without those that nothing needs.

    constants: every value that does not depend on the inputs. shapes: of every value. quantized: constants
    that were dequantized, by the name of the float. codes: values that are codes, not floats.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    quantized: dict[str, Quantized] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    producers: dict[str, Node] = field(init=False)
    users: dict[str, list[Node]] = field(init=False)

    def __post_init__(self) -> None:
        self.users = {}
        self.producers = {name: node for node in self.nodes for name in node.outputs}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                self.users.setdefault(name, []).append(node)

    def only_user(self, name: str) -> Node | None:
        """The one node that reads a value nobody else sees; None if there are more readers, or none."""
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def constant(self, node: Node, at: int) -> np.ndarray | None:
        """The constant that is a node's input; None where it has none. Raises UsageError if it is not one."""
        name = node.inputs[at] if at < len(node.inputs) else ""
        if not name:
            return None
        if name not in self.constants:
            raise node.refusal(f"its input '{name}' is computed in the step. Make it a constant")
        return self.constants[name]

    def code(self, node: Node) -> Code:
        """What codes of a QuantizeLinear or DequantizeLinear mean. Raises UsageError for a scale per axis."""
        scale, zero = self.constant(node, 1), self.constant(node, 2)
        if scale is None or scale.size != 1 or (zero is not None and zero.dtype not in (np.uint8, np.int8)):
            raise node.refusal("its codes have a scale for each channel, or not eight bits")
        at = 0 if zero is None else int(zero.reshape(-1)[0])
        signed = zero is not None and zero.dtype == np.int8
        return Code(float(np.float32(scale.reshape(-1)[0])), at + 128 if signed else at)


def read(onnx_bytes: bytes) -> Graph:
    """The graph of an ONNX file. Raises UsageError for shapes that are not static, or types not float32."""
    onnx = need("onnx", extra="native")
    model = onnx.load_model_from_string(onnx_bytes)
    opset = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=0)
    if opset < OLDEST_OPSET:
        raise UsageError(f"the file is of ONNX's opset {opset}. Export it with {OLDEST_OPSET} or later")
    nodes = [_node(onnx, place, item) for place, item in enumerate(model.graph.node)]
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    proto = model.graph
    infos = {v.name: v.type.tensor_type for v in (*proto.value_info, *proto.input, *proto.output)}
    shapes = {name: tuple(d.dim_value for d in kind.shape.dim) for name, kind in infos.items()}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.initializer}
    left, quantized = [], {}
    for item, node in zip(proto.node, nodes, strict=True):
        folded = _folded(onnx, item, node, constants, shapes, model.opset_import)
        if folded and node.op == "DequantizeLinear":
            quantized[node.output] = _quantized(node, constants)
            folded = {node.output: quantized[node.output].means()}
        constants.update(folded)
        if not folded:
            left.append(node)
    shapes |= {name: value.shape for name, value in constants.items()}
    inputs = tuple(v.name for v in proto.input if v.name not in constants)
    outputs = tuple(v.name for v in proto.output)
    _check(onnx, left, infos, inputs)
    return Graph(needed_for(left, outputs), constants, shapes, inputs, outputs, quantized)


def _node(onnx: Any, place: int, item: Any) -> Node:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in item.attribute}
    name = item.name or f"{item.op_type.lower()}_{place}"
    node = Node(item.op_type, name, tuple(item.input), tuple(item.output), attributes)
    if item.domain not in DOMAINS:
        raise node.refusal(f"it is of the domain '{item.domain}', and only ONNX's own operators are known")
    return node


def _folded(
    onnx: Any, item: Any, node: Node, constants: dict[str, np.ndarray], shapes: dict[str, Any], opset: Any
) -> dict[str, np.ndarray]:
    """Outputs of a node that depends on constants alone; empty for any other."""
    if node.op == "Constant":
        return {node.output: _constant(onnx, node)}
    if node.op == "Shape" and all(shapes.get(node.inputs[0], (0,))):
        whole = np.array(shapes[node.inputs[0]], np.int64)
        return {node.output: whole[node.attributes.get("start", 0) : node.attributes.get("end")]}
    read_names = [name for name in node.inputs if name]
    if not all(name in constants for name in read_names):
        return {}
    if node.op == "DequantizeLinear":
        return {node.output: np.zeros(0)}
    if node.op == "QuantizeLinear":
        return {node.output: _quantize(node, constants)}
    inputs = [onnx.helper.make_tensor_value_info(n, 0, None) for n in read_names]
    outputs = [onnx.helper.make_tensor_value_info(n, 0, None) for n in node.outputs]
    alone = onnx.helper.make_model(
        onnx.helper.make_graph([item], "constant", inputs, outputs), opset_imports=opset
    )
    evaluator = need("onnx.reference", extra="native").ReferenceEvaluator(alone)
    results = evaluator.run(None, {name: constants[name] for name in read_names})
    return {name: np.asarray(value) for name, value in zip(node.outputs, results)}


def _quantized(node: Node, constants: dict[str, np.ndarray]) -> Quantized:
    """What a DequantizeLinear of constants reads."""
    values, scale = (constants[name] for name in node.inputs[:2])
    zero = constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1, values.dtype)
    return Quantized(values, scale, zero, node.attributes.get("axis", 1) % max(1, values.ndim))


def _quantize(node: Node, constants: dict[str, np.ndarray]) -> np.ndarray:
    """Codes of a constant, as ONNX's QuantizeLinear has them."""
    values = constants[node.inputs[0]].astype(np.float32)
    axis = node.attributes.get("axis", 1) % max(1, values.ndim)
    scale = along(constants[node.inputs[1]], axis, values.ndim).astype(np.float32)
    zero = constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1, np.uint8)
    limits = np.iinfo(zero.dtype)
    whole = np.rint(values / scale) + along(zero, axis, values.ndim)
    held: np.ndarray = np.clip(whole, limits.min, limits.max).astype(zero.dtype)
    return held


def along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """One value for all, or for each entry of an axis, as it is broadcast over a tensor of that rank."""
    return (
        vector.reshape([-1 if a == axis else 1 for a in range(rank)])
        if vector.size > 1
        else vector.reshape(())
    )


def _constant(onnx: Any, node: Node) -> np.ndarray:
    value = next(iter(node.attributes.values()))
    if hasattr(value, "data_type"):
        array: np.ndarray = onnx.numpy_helper.to_array(value)
        return array
    return np.asarray(value, np.float32 if isinstance(value, float) else None)


def _check(onnx: Any, nodes: list[Node], infos: dict[str, Any], inputs: tuple[str, ...]) -> None:
    """Raise UsageError for what is no static float32 tensor, nor codes of eight bits of one."""
    codes = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
    for name in inputs:
        if infos[name].elem_type != onnx.TensorProto.FLOAT:
            raise UsageError(
                f"input '{name}' is not float32, and firmware takes nothing else. Export in fp32"
            )
    for node in nodes:
        for name in node.outputs:
            kind = infos.get(name)
            if name and (kind is None or not all(d.dim_value for d in kind.shape.dim)):
                raise node.refusal(f"the shape of '{name}' is not static. Export with fixed sizes")
            coded = node.op == "QuantizeLinear" and kind is not None and kind.elem_type in codes
            if kind is not None and kind.elem_type != onnx.TensorProto.FLOAT and not coded:
                raise node.refusal(f"'{name}' is not float32")


def needed_for(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """The nodes that an output depends on, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
