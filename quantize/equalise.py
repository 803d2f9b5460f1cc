"""Channels are made equally loud before INT8 rounds them; what the float model answers stays as it is.

An INT8 tensor has one step for all its channels, which the loudest sets. A ReLU, a pooling or a join passes
a positive factor on, so a channel may be written louder and its readers' weights made quieter by as much: no
operator is added, and the answers differ by float rounding only. Source: Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.1; with the loudness that calibration
clips show in place of the first layer's weights, as Xiao et al. 2023, "SmoothQuant", equation 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.channels import EXACT_DB, MOST, PROOFS, STRENGTH, grouped, groups_of
from edgepv.base.files import sha256, whole_file
from edgepv.base.late import np
from edgepv.base.optional import ort_session
from edgepv.base.tasks import task_of
from edgepv.errors import ParityError, UsageError
from edgepv.quantize.int8_onnx import float_nodes, preprocess
from edgepv.quantize.step import Calibration, VariantStep
from edgepv.stream import Tensors, by_file_names
from edgepv.types import Variant

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FEEDS = 32
"""Calibration inputs that tell how loud a channel gets."""
PASSING = (
    *(
        "Identity",
        "Relu",
        "LeakyRelu",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Pad",
        "Resize",
    ),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum"),
)
"""Operators on one tensor that keep its channels apart and pass a positive factor on."""
FIXED = 0
"""The class of the channels whose factor stays 1."""


@dataclass(frozen=True)
class Step(VariantStep):
    """A float ONNX with its channels equalised; ``state_scales`` says what became of its states."""

    name = "equalise"
    tools = ("onnx", "onnxruntime")

    def work(self, given: Variant, out: Path, aid: Calibration) -> Variant:
        """Scale what can be scaled in the file of ``given``; batch norms are folded before.

        Raises ParityError if the result does not compute what ``given`` does.
        """
        import onnx

        with whole_file(out) as tmp:
            preprocess(aid.folder / given.path, tmp)
            kept, model = float_nodes(tmp), onnx.load(tmp)
            channels = Channels(model, _linked_states(given))
            few = by_file_names(given, aid.feeds[:: -(-len(aid.feeds) // FEEDS)])
            factors = _factors(channels, few, kept)
            _scale(channels, factors)
            _refuse_unlike(channels, factors, tmp, few[:PROOFS])
            tmp.write_bytes(model.SerializeToString(deterministic=True))
        states = {s.name: given.inputs[s.name] for s in (given.stream.states if given.stream else ())}
        scales = {name: factors[channels.of(inside)] for name, inside in states.items()}
        return replace(
            given,
            path=out.name,
            sha256=sha256(out),
            state_scales={n: tuple(map(float, s)) for n, s in scales.items() if (s != 1).any()},
        )

    def ensures(self, given: Variant, result: Variant) -> None:
        """The file is still in float, of the same model."""
        if (result.spec, result.stream, result.precision) != (given.spec, given.stream, given.precision):
            raise UsageError("the model is another one: its spec, its states or its precision changed")


def _linked_states(base: Variant) -> list[tuple[str, str]]:
    """(graph input, what it is fed from) of the states that may be in units of their own.

    None of a tracker: its host writes and reads states. None that starts with a value of its own.
    """
    if base.stream is None or task_of(base.spec).follows:
        return []
    ends = {**base.inputs, **base.outputs}
    return [
        (base.inputs[s.name], ends[s.output])
        for s in base.stream.states
        if s.dtype == "float32" and s.init == 0 and len(s.shape) > 1
    ]


class Channels:
    """Which channels of which tensors of an ONNX model must have one factor. Channels are on axis 1."""

    def __init__(self, model: ModelProto, states: Sequence[tuple[str, str]]) -> None:
        """states: (graph input, what it is fed from) of those that may be scaled; shapes must be inferred."""
        from onnx import numpy_helper

        self.model, graph = model, model.graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.shapes = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in (*graph.value_info, *graph.output, *graph.input)
        }
        self._parent = [FIXED]
        self._ids: dict[str, np.ndarray] = {}
        uses = Counter(name for node in graph.node for name in node.input)
        self.convolutions = [n for n in graph.node if n.op_type == "Conv" and self._own_weights(n, uses)]
        inner = {name for pair in states for name in pair}
        self._fix(v.name for v in (*graph.input, *graph.output) if v.name not in inner)
        for pair in states:
            if not self._alike(*pair):
                self._fix(pair)
        scaled = {n.name for n in self.convolutions}
        for node in graph.node:
            if node.name not in scaled and not self._passed(node):
                self._fix([*self._data(node), *node.output])
        self._settle()

    def of(self, tensor: str) -> np.ndarray:
        """(channels,) the class of each of its channels."""
        if tensor not in self._ids:
            shape, first = self.shapes.get(tensor, ()), len(self._parent)
            count = shape[1] if len(shape) > 1 else 0
            self._parent += range(first, first + count)
            self._ids[tensor] = np.arange(first, first + count) if count else np.array([FIXED])
        return np.array([self._root(i) for i in self._ids[tensor].tolist()])

    def count(self) -> int:
        """Numbers of classes are below this."""
        return len(self._parent)

    def _root(self, i: int) -> int:
        while (above := self._parent[i]) != i:
            self._parent[i] = self._parent[above]
            i = above
        return i

    def _tie(self, some: np.ndarray, others: np.ndarray) -> None:
        for a, b in zip(some.tolist(), others.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low  # FIXED is the lowest, so it stays a root

    def _fix(self, tensors: Any) -> None:
        for name in tensors:
            ids = self.of(name)
            self._tie(ids, np.full_like(ids, FIXED))

    def _data(self, node: NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self.constants]

    def _alike(self, *tensors: str) -> bool:
        """Tie tensors channel by channel; False where their channels are not the same."""
        if len({self.shapes.get(t, (t,))[:2] for t in tensors}) != 1 or len(self.shapes[tensors[0]]) < 2:
            return False
        for other in tensors[1:]:
            self._tie(self.of(tensors[0]), self.of(other))
        return True

    def _own_weights(self, node: NodeProto, uses: Mapping[str, int]) -> bool:
        """Whether a convolution's weights are constants that nobody else reads."""
        return all(name in self.constants and uses[name] == 1 for name in node.input[1:] if name)

    def _passed(self, node: NodeProto) -> bool:
        """Whether a node passes factors of channels on; then its tensors are tied."""
        data, out, kind = self._data(node), node.output[0], node.op_type
        if kind == "Concat" and len(data) == len(node.input):
            return self._joined(node)
        if kind in ("Add", "Sub") and len(data) == 2:
            return self._alike(*data, out)
        if kind == "Mul" and len(data) == 2:  # a gate on a picture: the gate keeps its scale
            pictures = [x for x in data if self.shapes.get(x) == self.shapes.get(out)]
            self._fix(x for x in data if x not in pictures)
            return len(pictures) == 1 and self._alike(*pictures, out)
        if kind in ("Mul", "Div") and len(data) == 1 and node.input[0] in data:
            return self._alike(*data, out)
        return kind in PASSING and len(data) == 1 and self._apart(node) and self._alike(*data, out)

    def _apart(self, node: NodeProto) -> bool:
        """Whether an operator of ``PASSING`` leaves axis 1 alone and adds nothing but zeros."""
        axes = {"Slice": 3, "ReduceMean": 1, "ReduceMax": 1, "ReduceSum": 1}.get(node.op_type)
        given = list(node.input)
        if axes is not None:
            named = self.constants.get(given[axes]) if len(given) > axes else None
            rank = len(self.shapes.get(given[0], ()))
            return named is not None and 1 not in {int(axis) % max(rank, 1) for axis in named}
        if node.op_type == "Pad" and len(given) > 2 and given[2]:
            return bool((self.constants.get(given[2], np.ones(1)) == 0).all())
        return True

    def _joined(self, node: NodeProto) -> bool:
        axis = next(a.i for a in node.attribute if a.name == "axis")
        if axis == 1 and all(len(self.shapes.get(name, ())) > 1 for name in (*node.input, *node.output)):
            self._tie(np.concatenate([self.of(name) for name in node.input]), self.of(node.output[0]))
            return True
        return axis > 1 and self._alike(*node.input, node.output[0])

    def _settle(self) -> None:
        """A tensor of which one channel is fixed is fixed as a whole: the others have nothing to equal."""
        before = None
        while before != (before := sum(self._root(i) == FIXED for i in range(len(self._parent)))):
            self._fix(n.input[0] for n in self.convolutions if (self.of(n.input[0]) == FIXED).any())


def _factors(channels: Channels, feeds: Sequence[Tensors], kept: Collection[str]) -> np.ndarray:
    """(classes,) float32 factor of every class. kept: convolutions that stay in float, which set none."""
    rounded = [n for n in channels.convolutions if n.name not in kept]
    seen = _loudest(channels.model, feeds, {n.input[0] for n in rounded})
    loud, heavy = (np.zeros(channels.count()) for _ in range(2))
    for tensor, peaks in seen.items():
        np.maximum.at(loud, channels.of(tensor), np.maximum(peaks, peaks.max() / MOST))
    for node in rounded:
        weights = np.abs(channels.constants[node.input[1]])
        if weights.shape[1] > 1:  # a depthwise kernel has a step for each channel anyway
            rows = grouped(weights, groups_of(node)).max(axis=(1, *range(3, weights.ndim + 1))).reshape(-1)
            np.maximum.at(heavy, channels.of(node.input[0]), rows)
    factors = np.ones(channels.count(), np.float32)
    spread = (loud > 0) & (np.arange(channels.count()) != FIXED)
    both = spread & (heavy > 0)
    factors[spread] = 1 / loud[spread]
    factors[both] = heavy[both] ** (1 - STRENGTH) / loud[both] ** STRENGTH
    return factors


def _loudest(model: ModelProto, feeds: Sequence[Tensors], tensors: Collection[str]) -> dict[str, np.ndarray]:
    """Largest magnitude of every channel of some tensors over the feeds."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    ends = {v.name for v in (*model.graph.input, *model.graph.output)}
    inner = sorted(tensors)
    probe.graph.output.extend(onnx.ValueInfoProto(name=t) for t in inner if t not in ends)
    asked = [t for t in inner if t not in {v.name for v in model.graph.input}]
    session = ort_session(probe.SerializeToString())
    seen: dict[str, np.ndarray] = {}
    for feed in feeds:
        values = dict(zip(asked, session.run(asked, feed))) | feed
        for name in inner:
            value = np.abs(values[name])
            peaks = value.max(axis=tuple(i for i in range(value.ndim) if i != 1))
            seen[name] = np.maximum(seen.get(name, peaks), peaks)
    return seen


def _scale(channels: Channels, factors: np.ndarray) -> None:
    """Multiply what every convolution writes and divide what it reads by the factors, in place."""
    from onnx import numpy_helper

    places = {i.name: i for i in channels.model.graph.initializer}
    for node in channels.convolutions:
        written, read = (factors[channels.of(end)] for end in (node.output[0], node.input[0]))
        weights, groups = channels.constants[node.input[1]], groups_of(node)
        tail = (1,) * (weights.ndim - 2)
        by_reader = grouped(weights, groups) / read.reshape(groups, 1, -1, *tail)
        changed = [by_reader.reshape(weights.shape) * written.reshape(-1, 1, *tail)]
        changed += [channels.constants[name] * written for name in node.input[2:] if name]
        for name, value in zip(filter(None, node.input[1:]), changed, strict=True):
            places[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def _refuse_unlike(channels: Channels, factors: np.ndarray, before: Path, feeds: Sequence[Tensors]) -> None:
    """Raise ParityError unless the scaled model answers what the file ``before`` does."""
    from edgepv.metrics.stats import sqnr_db

    inputs = {v.name: _spread(channels, factors, v.name) for v in channels.model.graph.input}
    outputs = {v.name: _spread(channels, factors, v.name) for v in channels.model.graph.output}
    sessions = ort_session(before), ort_session(channels.model.SerializeToString())
    for feed in feeds:
        wanted = sessions[0].run(list(outputs), feed)
        got = sessions[1].run(
            list(outputs), {n: v * inputs[n] if n in inputs else v for n, v in feed.items()}
        )
        for (name, factor), a, b in zip(outputs.items(), wanted, got):
            if sqnr_db(a, b / factor) < EXACT_DB:
                raise ParityError(
                    f"with its channels equalised the model answers another '{name}': a bug of ours"
                )


def _spread(channels: Channels, factors: np.ndarray, tensor: str) -> np.ndarray | np.float32:
    """The factors of a tensor's channels, to multiply it by; 1 where they are fixed."""
    own = factors[channels.of(tensor)]
    rank = len(channels.shapes.get(tensor, ()))
    return own.reshape(1, -1, *(1,) * (rank - 2)) if (own != 1).any() else np.float32(1)
