"""Operators that go element by element: one loop for a chain of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgepv.firmware.graph import Graph, Node
from edgepv.firmware.loops import nest
from edgepv.firmware.numbers import literal
from edgepv.firmware.views import View

if TYPE_CHECKING:
    from edgepv.firmware.lowering import Lowering

OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        "Add": "({0} + {1})",
        "Sub": "({0} - {1})",
        "Mul": "({0} * {1})",
        "Div": "({0} / {1})",
        "Min": "edgepv_min({0}, {1})",
        "Max": "edgepv_max({0}, {1})",
        "Relu": "edgepv_max({0}, 0.0f)",
        "Abs": "fabsf({0})",
        "Neg": "(-{0})",
        "Sqrt": "sqrtf({0})",
        "Exp": "expf({0})",
        "Log": "logf({0})",
        "Tanh": "tanhf({0})",
        "Erf": "erff({0})",
        "Sigmoid": "(1.0f / (1.0f + expf(-{0})))",
        "Softplus": "log1pf(expf({0}))",
        "Reciprocal": "(1.0f / {0})",
        "Floor": "floorf({0})",
        "Ceil": "ceilf({0})",
        "Pow": "powf({0}, {1})",
        "HardSwish": "",
        "Clip": "",
        "HardSigmoid": "",
        "LeakyRelu": "",
        "PRelu": "({0} < 0.0f ? {0} * {1} : {0})",
    }
)
"""The C of each; what depends on attributes is made by ``expression``."""


def clip_limits(graph: Graph, node: Node) -> tuple[float, float]:
    """(lowest, highest) of a Clip; infinities where there is no limit."""
    limits = [graph.constant(node, at) for at in (1, 2)]
    low, high = (None if v is None else float(v.reshape(-1)[0]) for v in limits)
    return -np.inf if low is None else low, np.inf if high is None else high


def hard_sigmoid(node: Node) -> tuple[float, float]:
    """(slope, value at 0) of a HardSigmoid."""
    return float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))


def act_of(graph: Graph, node: Node) -> str | None:
    """The C of an activation that a kernel applies to its sums; None for what none does."""
    if node.op == "Relu":
        return "{EDGEPV_RELU, 0.0f, 0.0f, 0.0f, 0.0f}"
    if node.op == "Clip" and all(name in graph.constants for name in node.inputs[1:] if name):
        low, high = (literal(v) for v in clip_limits(graph, node))
        return f"{{EDGEPV_CLIP, 0.0f, 0.0f, {low}, {high}}}"
    if node.op == "HardSigmoid":
        slope, middle = (literal(v) for v in hard_sigmoid(node))
        return f"{{EDGEPV_HARD, {slope}, {middle}, 0.0f, 1.0f}}"
    return None


def expression(graph: Graph, node: Node, operands: list[str]) -> str:
    """The C of one element of a node's answer, from that of its operands'."""
    if node.op == "Clip":
        low, high = clip_limits(graph, node)
        inner = operands[0] if low == -np.inf else f"edgepv_max({operands[0]}, {literal(low)})"
        return inner if high == np.inf else f"edgepv_min({inner}, {literal(high)})"
    if node.op == "HardSigmoid":
        slope, middle = (literal(v) for v in hard_sigmoid(node))
        return f"edgepv_min(edgepv_max({_apart(graph, operands[0], slope)} + {middle}, 0.0f), 1.0f)"
    if node.op == "LeakyRelu":
        slope = literal(float(node.attributes.get("alpha", 0.01)))
        return f"({operands[0]} < 0.0f ? {operands[0]} * {slope} : {operands[0]})"
    if node.op == "HardSwish":  # as ONNX spells it out, so that nothing is rounded otherwise
        inner = f"edgepv_min(edgepv_max({_apart(graph, operands[0], '0x1.555556p-3f')} + 0.5f, 0.0f), 1.0f)"
        return f"({operands[0]} * {inner})"
    if node.op == "Mul" and graph.codes:
        return _apart(graph, *operands)
    if node.op in ("Min", "Max") and len(operands) != 2:
        raise node.refusal(f"it has {len(operands)} operands, and only two are known")
    return OPERATORS[node.op].format(*operands)


def _apart(graph: Graph, a: str, b: str) -> str:
    """A product; in a model on codes one that is rounded before it goes into a sum."""
    return f"edgepv_product({a}, {b})" if graph.codes else f"{a} * {b}"


def lower(low: Lowering, node: Node) -> None:
    """A node with the chain of those that are computed inside it, as one loop."""
    graph, shape = low.graph, low.graph.shapes[node.output]
    views: list[View] = []
    statements: list[tuple[Node, list[str]]] = []
    names: dict[str, str] = {}

    def operand(name: str) -> str:
        inner = graph.producers.get(name)
        if inner is not None and name in low.fusions.inside and name not in names:
            names[name] = compute(inner)
        elif name not in names:
            names[name] = f"x{len(views)}[{{{len(views) + 1}}}]"
            views.append(low.view(name).broadcast(shape))
        return names[name]

    def compute(inner: Node) -> str:
        count = 1 if inner.op == "Clip" else len(inner.inputs)
        operands = [operand(name) for name in inner.inputs[:count]]
        statements.append((inner, operands))
        return f"t{len(statements) - 1}"

    compute(node)
    y = low.result(node.output)

    def inner_lines(at: list[str]) -> list[str]:
        lines = []
        for place, (inner, operands) in enumerate(statements):
            value = expression(graph, inner, [text.format(*at) for text in operands])
            lines.append(f"const float t{place} = {value};")
        return [*lines, f"y0[{at[0]}] = t{len(statements) - 1};"]

    lines = nest(shape, (y.strides, *(view.strides for view in views)), inner_lines)
    low.layer("pointwise", node.name, tuple(views), (y,), ("{", *lines, "}"))
