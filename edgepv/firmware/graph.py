"""A step graph as it is read: ONNX nodes with static shapes, and what is constant in them folded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

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


@dataclass
class Graph:
    """Nodes in an order in which they can run, without those that nothing needs.

    constants: every value that does not depend on the inputs. shapes: of every value.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    producers: dict[str, Node] = field(default_factory=dict)
    users: dict[str, list[Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
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
    left = []
    for item, node in zip(proto.node, nodes, strict=True):
        folded = _folded(onnx, item, node, constants, shapes, model.opset_import)
        constants.update(folded)
        if not folded:
            left.append(node)
    shapes |= {name: value.shape for name, value in constants.items()}
    inputs = tuple(v.name for v in proto.input if v.name not in constants)
    outputs = tuple(v.name for v in proto.output)
    _check(onnx, left, infos, inputs)
    return Graph(_needed(left, outputs), constants, shapes, inputs, outputs)


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
    inputs = [onnx.helper.make_tensor_value_info(n, 0, None) for n in read_names]
    outputs = [onnx.helper.make_tensor_value_info(n, 0, None) for n in node.outputs]
    alone = onnx.helper.make_model(
        onnx.helper.make_graph([item], "constant", inputs, outputs), opset_imports=opset
    )
    evaluator = need("onnx.reference", extra="native").ReferenceEvaluator(alone)
    results = evaluator.run(None, {name: constants[name] for name in read_names})
    return {name: np.asarray(value) for name, value in zip(node.outputs, results)}


def _constant(onnx: Any, node: Node) -> np.ndarray:
    value = next(iter(node.attributes.values()))
    if hasattr(value, "data_type"):
        array: np.ndarray = onnx.numpy_helper.to_array(value)
        return array
    return np.asarray(value, np.float32 if isinstance(value, float) else None)


def _check(onnx: Any, nodes: list[Node], infos: dict[str, Any], inputs: tuple[str, ...]) -> None:
    """Raise UsageError for what is no static float32 tensor."""
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
            if kind is not None and kind.elem_type != onnx.TensorProto.FLOAT:
                raise node.refusal(f"'{name}' is not float32")


def _needed(nodes: list[Node], outputs: tuple[str, ...]) -> list[Node]:
    """The nodes that an output depends on, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
