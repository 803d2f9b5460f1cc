"""Small step graphs, put together node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant


@dataclass
class Net:
    """A step graph as it is put together. shape: of the frame."""

    shape: tuple[int, ...]
    seed: int = 0
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    states: list[StateSpec] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.shapes["frame"] = self.shape

    def constant(self, *shape: int) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = self.rng.uniform(-1, 1, shape).astype(np.float32)
        return name

    def whole(self, *values: int) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(values, np.int64)
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node; returns the name of its first output, whose shape is then known."""
        names = [f"v{len(self.nodes)}{'abc'[i]}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        model = onnx.shape_inference.infer_shapes(self.model(), data_prop=True)
        for value in model.graph.value_info:
            self.shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        return names[0]

    def held(self, values: np.ndarray) -> str:
        """A constant of these values, in their own type."""
        name = f"c{len(self.constants)}"
        self.constants[name] = values
        return name

    def coded(self, x: str, scale: float, zero: int, kind: Any = np.uint8) -> str:
        """A value through codes of eight bits: what they mean."""
        step = self.held(np.array(scale, np.float32)), self.held(np.array(zero, kind))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *step), *step)

    def coded_conv(
        self,
        x: str,
        scale: float,
        answers_: int,
        kernel: Sequence[int] = (3, 3),
        group: int = 1,
        *,
        float_bias: bool = False,
        **window: Any,
    ) -> str:
        """A convolution of what is coded with that scale, with a scale for each channel's weights."""
        w = self.rng.integers(-127, 128, (answers_, self.shapes[x][1] // group, *kernel)).astype(np.int8)
        steps = self.rng.uniform(0.5, 1.5, answers_).astype(np.float32) * np.float32(
            0.3 / 127 / np.sqrt(w[0].size)
        )
        weights = self.add(
            "DequantizeLinear", self.held(w), self.held(steps), self.held(np.zeros(answers_, np.int8)), axis=0
        )
        bias = self.constant(answers_)
        if not float_bias:
            whole = self.held(self.rng.integers(-3000, 3000, answers_).astype(np.int32))
            step = self.held(np.float32(scale) * steps)
            bias = self.add("DequantizeLinear", whole, step, self.held(np.zeros(answers_, np.int32)), axis=0)
        return self.add("Conv", x, weights, bias, group=group, **window)

    def state(self, shape: tuple[int, ...], **kind: Any) -> str:
        """A graph input that is a state; ``keep`` says what comes into it."""
        name = f"s{len(self.states)}"
        self.states.append(StateSpec(name, "", shape, **kind))
        self.shapes[name] = shape
        return name

    def keep(self, state: str, value: str) -> None:
        at = int(state[1:])
        self.states[at] = replace(self.states[at], output=value)

    def model(self, outputs: Sequence[str] = ()) -> Any:
        def info(name: str, shape: Sequence[int] | None) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        inputs = [info("frame", self.shape), *(info(s.name, s.shape) for s in self.states)]
        given_out = [info(name, self.shapes.get(name)) for name in outputs]
        held = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "net", inputs, given_out, held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    def finish(self, *answer_names: str, chunk: int = 1) -> tuple[Variant, bytes]:
        """(variant, file). Answers have their names in the graph."""
        kept = [s.output for s in self.states if s.output != "frame"]
        data = self.model(list(dict.fromkeys((*answer_names, *kept)))).SerializeToString()
        outputs = tuple(TensorSpec(name, self.shapes[name], "NC") for name in answer_names)
        spec = ModelSpec(
            "small net", TensorSpec("frame", (1, *self.shape[1:])), task="tracking", outputs=outputs
        )
        stream = StreamSpec(tuple(self.states), warmup=1, chunk=chunk)
        names = {name: name for name in ("frame", *(s.name for s in self.states))}
        told = {name: name for name in dict.fromkeys((*answer_names, *kept))}
        return Variant("v", "onnxruntime", "fp32", "step", "m.onnx", "", spec, stream, names, told), data

    def conv(
        self, x: str, answers_: int, kernel: Sequence[int] = (3, 3), group: int = 1, **window: Any
    ) -> str:
        channels = self.shapes[x][1]
        w = self.constant(answers_, channels // group, *kernel)
        return self.add("Conv", x, w, self.constant(answers_), group=group, **window)
