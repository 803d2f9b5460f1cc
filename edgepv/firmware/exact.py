"""What an INT8 step means to the last bit: the graph on codes, in numpy, by the rules that its C keeps.

Sums on codes are exact. Everything in float is rounded to float32 after each operation, and sums of floats
have one order, so that the C of every machine gives the same bits, but for exp and its like, which are the C
library's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from edgepv.base.optional import need
from edgepv.firmware.graph import Code, Graph, Node, read
from edgepv.firmware.integers import Ends, answer_names, coded_states, to_integers
from edgepv.firmware.layout import window
from edgepv.firmware.operators.reduction import axes_of
from edgepv.stream import Tensors
from edgepv.types import Variant

Arrays: TypeAlias = dict[str, np.ndarray]
PARTS = 4
"""Sums that a vector by a matrix is split into, as edgepv_dense has it."""


class Exact:
    """A step graph on codes, by names in the file; states, answers: as ``to_integers`` has them."""

    def __init__(self, graph: Graph, states: Sequence[tuple[str, str]], answers: Collection[str]) -> None:
        self.given = graph.outputs
        self.graph, self._kept = to_integers(graph, states, answers)
        self._evaluators: dict[str, Any] = {}

    def codes(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Every value of one step: floats, or uint8 codes. feeds: floats, by names in the file."""
        values: Arrays = dict(self.graph.constants)
        for name in self.graph.inputs:
            code = self.graph.codes.get(name)
            values[name] = feeds[name].astype(np.float32) if code is None else code.of(feeds[name])
        for node in self.graph.nodes:
            rule = RULES.get(node.op)
            made = [rule(self.graph, node, values)] if rule else self._evaluated(node, values)
            for name, value in zip(node.outputs, made, strict=True):
                values[name] = value.reshape(self.graph.shapes[name])
        return values

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Outputs of one step as floats, by names in the file."""
        values, found = self.codes(feeds), {}
        for name in self.given:
            kept = self._kept.get(name, name)
            code = self.graph.codes.get(kept)
            found[name] = values[kept] if code is None else code.means(values[kept])
        return found

    def _evaluated(self, node: Node, values: Arrays) -> Sequence[np.ndarray]:
        """A float operator that rounds each element once, or only moves values: as ONNX's reference."""
        names = [name for name in node.inputs if name]
        if node.output not in self._evaluators:
            onnx = need("onnx", extra="native")
            attributes = {k: v for k, v in node.attributes.items() if v is not None}
            item = onnx.helper.make_node(node.op, node.inputs, node.outputs, **attributes)
            ports = [
                [onnx.helper.make_tensor_value_info(n, 0, None) for n in side]
                for side in (names, node.outputs)
            ]
            alone = onnx.helper.make_model(
                onnx.helper.make_graph([item], "alone", *ports),
                opset_imports=[onnx.helper.make_opsetid("", 18)],
            )
            evaluator = need("onnx.reference", extra="native").ReferenceEvaluator
            self._evaluators[node.output] = evaluator(alone)
        given = {name: values[name] for name in names}
        results: Sequence[np.ndarray] = self._evaluators[node.output].run(None, given)
        return [np.asarray(r, values[names[0]].dtype) for r in results]


class ExactEngine:
    """One step of an ONNX file as its C computes it, like an engine that runs it.

    Raises UsageError for what C cannot be generated of.
    """

    def __init__(self, variant: Variant, onnx_bytes: bytes) -> None:
        self._inputs, self._outputs = variant.inputs, variant.outputs
        self.step = Exact(read(onnx_bytes), coded_states(variant), answer_names(variant))

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; inputs and outputs by the names of the spec, as floats."""
        outputs = self.step({self._inputs[name]: value for name, value in inputs.items()})
        return {name: outputs[inside] for name, inside in self._outputs.items()}

    def close(self) -> None:
        """Nothing is held."""


def _windows(x: np.ndarray, kernel: tuple[int, ...], node: Node, fill: float) -> np.ndarray:
    """(N, C, H, W) as (N, C, H', W', down, across): what each answer of a convolution reads."""
    strides, dilations, pads = window(node)
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, (2, 3))
    return windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def _code_conv(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    ends: Ends = node.attributes["ends"]
    code, made = graph.codes[node.inputs[0]], graph.codes.get(node.output)
    windows = _windows(values[node.inputs[0]], ends.weights.shape[2:], node, code.zero).astype(np.float64)
    form = "nchwij,ocij->nohw" if node.attributes.get("group", 1) == 1 else "nchwij,cij->nchw"
    weights = ends.weights.astype(np.float64)
    weights = weights if "o" in form else weights[:, 0]
    sums = np.einsum(form, windows, weights, optimize=True).astype(np.int64)  # exact: far below 2 ** 53
    by_channel = (1, -1, 1, 1)
    real = (sums + ends.begin.reshape(by_channel)).astype(np.float32) * ends.scale.reshape(by_channel)
    if ends.shift is not None:
        real = real + ends.shift.reshape(by_channel)
    return real if made is None else _held(np.rint(real), made, ends.low, ends.high)


def _held(whole: np.ndarray, code: Code, low: int, high: int) -> np.ndarray:
    held: np.ndarray = np.clip(whole + code.zero, low, high).astype(np.uint8)
    return held


def _code_add(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    one, other = (graph.codes[name].means(values[name]) for name in node.inputs)
    return _coded(graph, node, one + other)


def _code_scale(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    one, other = (graph.codes[name].means(values[name]) for name in node.inputs)
    return _coded(graph, node, one * other)


def _coded(graph: Graph, node: Node, real: np.ndarray) -> np.ndarray:
    code = graph.codes[node.output]
    return _held(
        np.rint(real / np.float32(code.scale)), code, node.attributes["low"], node.attributes["high"]
    )


def _code_mean(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    code, x = graph.codes[node.inputs[0]], values[node.inputs[0]]
    count = x.shape[2] * x.shape[3]
    sums = x.astype(np.int64).sum(axis=(2, 3)) - count * code.zero
    means: np.ndarray = sums.astype(np.float32) * np.float32(code.scale / count)
    return means


def _table(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    table: np.ndarray = node.attributes["table"]
    return table[values[node.inputs[0]]]


def _quantize(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    return graph.codes[node.output].of(values[node.inputs[0]])


def _dequantize(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    return graph.codes[node.inputs[0]].means(values[node.inputs[0]])


def _conv(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    """A float convolution: one product after another; of one pixel, as edgepv_dense has it."""
    x, w = values[node.inputs[0]], values[node.inputs[1]]
    bias = values[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(len(w), np.float32)
    group = node.attributes.get("group", 1)
    if x.shape[2:] == w.shape[2:] == (1, 1) and group == len(x) == 1:
        return _dense(x.reshape(-1), w.reshape(len(w), -1), bias)
    windows = _windows(x, w.shape[2:], node, 0.0)
    total = np.broadcast_to(bias.reshape(1, -1, 1, 1), (len(x), len(w), *windows.shape[2:4])).copy()
    members = np.arange(len(w)) // (len(w) // group) * w.shape[1]
    inner = [(i, j, k) for i in range(w.shape[2]) for j in range(w.shape[3]) for k in range(w.shape[1])]
    if group > 1 and not group == len(w) == x.shape[1]:
        inner = [(i, j, k) for k in range(w.shape[1]) for i in range(w.shape[2]) for j in range(w.shape[3])]
    for i, j, k in inner:
        total += windows[..., i, j][:, members + k].astype(np.float32) * w[:, k, i, j].reshape(1, -1, 1, 1)
    return total


def _dense(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A vector by a matrix (answers, channels), as edgepv_dense sums it."""
    sums = [bias.astype(np.float32), *(np.zeros(len(w), np.float32) for _ in range(PARTS - 1))]
    whole = len(x) // PARTS * PARTS
    for i in range(len(x)):
        part = i % PARTS if i < whole else 0
        sums[part] = sums[part] + x[i] * w[:, i]
    return (sums[0] + sums[1]) + (sums[2] + sums[3])


def _matrix(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    """A matrix product, one product after another; of one row, as edgepv_dense has it."""
    a, b = (values[name] for name in node.inputs[:2])
    if node.attributes.get("transB", 0):
        b = b.T
    b = b * np.float32(node.attributes.get("alpha", 1.0)) if node.op == "Gemm" else b
    bias: np.ndarray = np.zeros(b.shape[-1], np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = bias + values[node.inputs[2]].reshape(-1) * np.float32(node.attributes.get("beta", 1.0))
    if b.ndim == 2 and a.size == len(b):
        return _dense(a.reshape(-1), b.T, bias)
    total = np.broadcast_to(bias, graph.shapes[node.output]).astype(np.float32)
    for k in range(a.shape[-1]):
        total = total + a[..., k, None] * b[..., k, None, :]
    return total


def _mean(graph: Graph, node: Node, values: Arrays) -> np.ndarray:
    x, axes = values[node.inputs[0]].astype(np.float64), axes_of(graph, node)
    means: np.ndarray = (x.sum(axis=axes) / np.prod([x.shape[a] for a in axes])).astype(np.float32)
    return means


RULES: Mapping[str, Callable[[Graph, Node, Arrays], np.ndarray]] = MappingProxyType(
    {
        "CodeConv": _code_conv,
        "CodeAdd": _code_add,
        "CodeScale": _code_scale,
        "CodeMean": _code_mean,
        "CodeTable": _table,
        "QuantizeLinear": _quantize,
        "DequantizeLinear": _dequantize,
        "Conv": _conv,
        "MatMul": _matrix,
        "Gemm": _matrix,
        "ReduceMean": _mean,
    }
)
"""Operators whose rounding or order is ours; the others are computed as ONNX's reference has them."""
