"""What of a Q/DQ graph is computed on codes of eight bits: a step graph in, one whose values are codes out.

A DequantizeLinear and what only moves values stay codes; a convolution whose input and weights are codes sums
in integers, see ``c/edgepv_codes.h`` for what is rounded. What is left over is float between a
DequantizeLinear and a QuantizeLinear, as ONNX has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from edgepv.firmware.graph import Code, Graph, Node, Quantized, needed_for
from edgepv.firmware.operators.pointwise import clip_limits
from edgepv.firmware.states import RESHAPES
from edgepv.types import Variant

MOVES = frozenset({*RESHAPES, "Transpose", "Concat", "Slice", "Split", "Gather", "Expand", "DepthToSpace"})
"""Operators that leave every value as it is."""
MOST_SUM = 2**30
"""Sums must not come near the end of int32_t, nor of what can be rounded to one."""
HIGHEST = 255
WRITTEN = frozenset({"position", "life"})
"""States of a tracker that the host writes between two steps, as floats."""


@dataclass(frozen=True)
class Ends:
    """What the integer sums of a convolution become. begin: added to each channel's products.

    products: of the codes as they are, not less their zero, which begin makes up for. scale: (channels,)
    float32; shift: added then, in float32, or None. low, high: limits of the code that it is, if it is one.
    """

    weights: np.ndarray
    begin: np.ndarray
    scale: np.ndarray
    shift: np.ndarray | None
    low: int = 0
    high: int = HIGHEST


def to_integers(
    graph: Graph, states: Sequence[tuple[str, str]], answers: Collection[str]
) -> tuple[Graph, dict[str, str]]:
    """(the graph on codes, the names of those states' outputs that are kept as codes).

    states: (input, output) of each that may be; answers: outputs that the host reads as floats. A state is
    kept as codes where it is read as codes, all of one kind, and what comes into it can be made those: then
    its codes are all that a step sees of it.
    """
    unseen = frozenset(output for _, output in states) - set(answers)
    candidates = {name: code for name, _ in states if (code := read_as(graph, name, unseen)) is not None}
    while True:
        unseen = frozenset(output for name, output in states if name in candidates) - set(answers)
        made = _Rewriting(graph, candidates, unseen)
        made.run()
        kept = {out: codes for name, out in states if (codes := made.kept(name, out)) is not None}
        lost = {name for name, output in states if name in candidates and output not in kept}
        if not lost:
            return made.graph(kept, answers), kept
        candidates = {name: code for name, code in candidates.items() if name not in lost}


def coded_states(variant: Variant) -> list[tuple[str, str]]:
    """(input, output) in the file of the states that may be codes: not those that the host writes."""
    states = variant.stream.states if variant.stream else ()
    named = {**variant.inputs, **variant.outputs}
    return [(named[s.name], named[s.output]) for s in states if s.name not in WRITTEN]


def answer_names(variant: Variant) -> frozenset[str]:
    """What the answers are called in the file."""
    return frozenset(variant.outputs[answer.name] for answer in variant.spec.answers)


def read_as(graph: Graph, name: str, unseen: Collection[str] = ()) -> Code | None:
    """The one kind of code that a float value is made into wherever it is read, perhaps after it was moved.

    unseen: outputs of the graph that nobody reads but as codes.
    """
    codes = _readers(graph, name, unseen)
    return codes.pop() if codes is not None and len(codes) == 1 else None


def _readers(graph: Graph, name: str, unseen: Collection[str]) -> set[Code] | None:
    """Every kind of code that a float value is read as; None if something reads it as it is."""
    if name in graph.outputs and name not in unseen:
        return None
    codes: set[Code] = set()
    for node in graph.users.get(name, []):
        if node.op == "QuantizeLinear":
            codes.add(graph.code(node))
            continue
        inner = [_readers(graph, out, unseen) for out in node.outputs] if node.op in MOVES else [None]
        for found in inner:
            if found is None:
                return None
            codes |= found
    return codes


def data_of(node: Node) -> tuple[str, ...]:
    """The inputs of an operator that moves values which are those."""
    return node.inputs if node.op == "Concat" else node.inputs[:1]


@dataclass
class _Rewriting:
    """states: those that are codes; unseen: their outputs. coded: float value -> the codes that mean it.

    same: codes as given -> those that equal them. quantized: (float value, kind of code) -> its codes.
    floats: coded values that are floats too by now. done: outputs of nodes that are part of another.
    """

    given: Graph
    states: Mapping[str, Code]
    unseen: frozenset[str]
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    coded: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    quantized: dict[tuple[str, Code], str] = field(default_factory=dict)
    floats: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Rewrite every node, and bring the outputs that are codes to floats."""
        self.shapes = dict(self.given.shapes)
        for name, code in self.states.items():
            self.codes[name] = code
            self.coded[name] = name
        for node in self.given.nodes:
            if node.output not in self.done and not RULES.get(node.op, _no)(self, node):
                for name in node.inputs:
                    self.need(name)
                self.nodes.append(node)

    def kept(self, name: str, output: str) -> str | None:
        """The codes that come into a state which is kept as such."""
        code = self.states.get(name)
        if code is None or (output in self.coded and self.code_of(output) != code):
            return None
        return self.codes_for(output, code)

    def graph(self, kept: Mapping[str, str], answers: Collection[str]) -> Graph:
        """The new graph. kept: outputs that are codes -> those; answers: outputs that stay floats too."""
        floats = [name for name in self.given.outputs if name in answers or name not in kept]
        for name in floats:
            self.need(name)
        outputs = tuple(dict.fromkeys((*floats, *kept.values())))
        needed = needed_for(self.nodes, outputs)
        return replace(self.given, nodes=needed, shapes=self.shapes, outputs=outputs, codes=self.codes)

    def need(self, name: str) -> None:
        """Make a value that is codes a float one too."""
        if name in self.coded and name not in self.floats:
            self.floats.add(name)
            self.nodes.append(Node("DequantizeLinear", name, (self.coded[name],), (name,), {}))

    def emit(self, node: Node, code: Code | None, shape: tuple[int, ...]) -> None:
        """A new node; code: of its output, or None if that is float."""
        self.nodes.append(node)
        self.shapes[node.output] = shape
        if code is not None:
            self.codes[node.output] = code

    def code_of(self, name: str) -> Code | None:
        """What kind of code a float value is the meaning of."""
        return self.codes[self.coded[name]] if name in self.coded else None

    def codes_for(self, name: str, code: Code, output: str = "") -> str:
        """Codes of a float value, which are made if there are none. output: what they are called then."""
        own = self.code_of(name)
        known = self.coded[name] if own == code else self.quantized.get((name, code))
        if known is not None:
            return known
        output = output or f"{name} codes {len(self.quantized)}"
        if own is not None:
            table = code.of(own.means(np.arange(HIGHEST + 1)))
            node = Node("CodeTable", name, (self.coded[name],), (output,), {"table": table})
        else:
            node = Node("QuantizeLinear", name, (name,), (output,), {})
        self.emit(node, code, self.given.shapes[name])
        self.quantized[name, code] = output
        return output

    def ending(self, name: str) -> tuple[str, Code, int, int] | None:
        """(codes, their kind, low, high) if a value, perhaps behind an activation, is only read as codes."""
        user, low, high = self.given.only_user(name), -np.inf, np.inf
        if user is not None and user.op in ("Relu", "Clip"):
            low, high = (0.0, np.inf) if user.op == "Relu" else clip_limits(self.given, user)
            name = user.output
        code = read_as(self.given, name, self.unseen)
        if code is None:
            return None
        user = self.given.only_user(name)
        codes = user.output if user is not None and user.op == "QuantizeLinear" else f"{name} codes"
        self.done.add(name)
        self.quantized[name, code] = codes
        least, most = (int(code.of(v)) if np.isfinite(v) else None for v in (low, high))
        return codes, code, 0 if least is None else least, HIGHEST if most is None else most


def _no(made: _Rewriting, node: Node) -> bool:
    return False


def _dequantize(made: _Rewriting, node: Node) -> bool:
    codes, code = made.same.get(node.inputs[0], node.inputs[0]), made.given.code(node)
    if made.codes[codes] != code:
        raise node.refusal("it reads codes by another scale than they were made with")
    made.coded[node.output] = codes
    return True


def _quantize(made: _Rewriting, node: Node) -> bool:
    codes = made.codes_for(node.inputs[0], made.given.code(node), node.output)
    if codes != node.output:
        made.same[node.output] = codes
    return True


def _move(made: _Rewriting, node: Node) -> bool:
    """Codes are moved; and so is a float value that is read as nothing else, made codes first."""
    data = data_of(node)
    codes = {made.code_of(name) for name in data}
    code = codes.pop() if len(codes) == 1 else None
    if code is None:
        read = {read_as(made.given, name, made.unseen) for name in node.outputs}
        code = read.pop() if len(read) == 1 else None
    if code is None:
        return False
    inputs = (*(made.codes_for(name, code) for name in data), *node.inputs[len(data) :])
    outputs = tuple(f"{name} codes" for name in node.outputs)
    made.nodes.append(replace(node, inputs=inputs, outputs=outputs))
    for name, moved in zip(node.outputs, outputs):
        made.shapes[moved], made.codes[moved], made.coded[name] = made.given.shapes[name], code, moved
    return True


def _conv(made: _Rewriting, node: Node) -> bool:
    code, weights = made.code_of(node.inputs[0]), made.given.quantized.get(node.inputs[1])
    if code is None or weights is None or not _fits(node, weights):
        return False
    ends = _ends(made.given, node, code, weights)
    if ends is None:
        return False
    inputs = (made.coded[node.inputs[0]], node.inputs[1])
    shape = made.given.shapes[node.output]
    end = made.ending(node.output)
    if end is None:
        conv = replace(node, op="CodeConv", inputs=inputs, attributes={**node.attributes, "ends": ends})
        made.emit(conv, None, shape)
        return True
    codes, out, low, high = end
    step = np.float32(out.scale)
    shift = None if ends.shift is None else ends.shift / step
    ends = replace(ends, scale=ends.scale / step, shift=shift, low=low, high=high)
    attributes = {**node.attributes, "ends": ends}
    made.emit(
        replace(node, op="CodeConv", inputs=inputs, outputs=(codes,), attributes=attributes), out, shape
    )
    return True


def _fits(node: Node, weights: Quantized) -> bool:
    """Whether a convolution is one that there is C for on codes: dense, or of each channel by itself."""
    if weights.values.ndim != 4 or weights.scale.size not in (1, len(weights.values)):
        return False
    group, answers = node.attributes.get("group", 1), len(weights.values)
    depthwise = group == answers and weights.values.shape[1] == 1 and answers >= 8
    return (weights.axis == 0 or weights.scale.size == 1) and (group == 1 or depthwise)


def _ends(graph: Graph, node: Node, code: Code, weights: Quantized) -> Ends | None:
    """What the sums of a convolution mean as floats; None where they might not fit."""
    answers = len(weights.values)
    zeros = np.broadcast_to(weights.zero.astype(np.int64).reshape(-1), answers).reshape(-1, 1, 1, 1)
    whole = weights.values.astype(np.int64) - zeros
    if whole.min() < -128 or whole.max() > 127:
        return None
    scale = np.float32(code.scale) * np.broadcast_to(weights.scale.astype(np.float32).reshape(-1), answers)
    begin, shift = np.zeros(answers, np.int64), None
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = graph.quantized.get(node.inputs[2])
        if (
            bias is not None
            and not bias.zero.any()
            and np.array_equal(np.broadcast_to(bias.scale, answers), scale)
        ):
            begin = bias.values.astype(np.int64)
        else:
            given = graph.constant(node, 2)
            assert given is not None
            shift = given.astype(np.float32)
    begin = begin - code.zero * whole.sum(axis=(1, 2, 3))
    most = np.abs(whole).sum(axis=(1, 2, 3)) * HIGHEST + np.abs(begin)
    if most.max() >= MOST_SUM:
        return None
    return Ends(whole.astype(np.int8), begin.astype(np.int32), scale.astype(np.float32), shift)


def _add(made: _Rewriting, node: Node) -> bool:
    shape = made.given.shapes[node.output]
    if any(made.code_of(n) is None or made.given.shapes[n] != shape for n in node.inputs):
        return False
    return _pair(made, node, "CodeAdd", node.inputs)


def _mul(made: _Rewriting, node: Node) -> bool:
    shape = made.given.shapes[node.output]
    if len(shape) != 4 or shape[0] != 1 or any(made.code_of(n) is None for n in node.inputs):
        return False
    for x, factor in (node.inputs, node.inputs[::-1]):
        if made.given.shapes[x] == shape and made.given.shapes[factor] == (1, shape[1], 1, 1) != shape:
            return _pair(made, node, "CodeScale", (x, factor))
    return False


def _pair(made: _Rewriting, node: Node, op: str, inputs: Sequence[str]) -> bool:
    end = made.ending(node.output)
    if end is None:
        return False
    codes, out, low, high = end
    names = tuple(made.coded[name] for name in inputs)
    shape = made.given.shapes[node.output]
    made.emit(Node(op, node.name, names, (codes,), {"low": low, "high": high}), out, shape)
    return True


def _mean(made: _Rewriting, node: Node) -> bool:
    name, rank = node.inputs[0], len(made.given.shapes[node.inputs[0]])
    axes = made.given.constant(node, 1) if len(node.inputs) > 1 else node.attributes.get("axes")
    whole = axes is not None and rank == 4 and sorted(int(a) % 4 for a in axes) == [2, 3]
    if made.code_of(name) is None or not whole or made.given.shapes[name][0] != 1:
        return False
    made.emit(
        Node("CodeMean", node.name, (made.coded[name],), node.outputs, {}),
        None,
        made.given.shapes[node.output],
    )
    return True


def _most(made: _Rewriting, node: Node) -> bool:
    code = made.code_of(node.inputs[0])
    if code is None or len(node.outputs) > 1:
        return False
    name = f"{node.output} codes"
    made.emit(
        replace(node, inputs=(made.coded[node.inputs[0]],), outputs=(name,)),
        code,
        made.given.shapes[node.output],
    )
    made.coded[node.output] = name
    return True


RULES: Mapping[str, Callable[[_Rewriting, Node], bool]] = MappingProxyType(
    {
        "DequantizeLinear": _dequantize,
        "QuantizeLinear": _quantize,
        "Conv": _conv,
        "Add": _add,
        "Mul": _mul,
        "ReduceMean": _mean,
        "MaxPool": _most,
        **dict.fromkeys(MOVES, _move),
    }
)
"""Operator -> what rewrites it; False where it stays float."""
