"""What float16 cannot hold: its largest number is 65504, and a sum stops to grow long before that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgepv.base.optional import need, ort_options, ort_session
from edgepv.stream import Tensors

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LARGEST_FP16 = 65504 / 2
"""Values beyond it stay in float32: a camera shows what no calibration clip did."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def beyond(model: ModelProto, feeds: Sequence[Tensors]) -> dict[str, float]:
    """Node -> largest magnitude that it reads or makes, of those that are beyond ``LARGEST_FP16``.

    feeds: graph inputs as they are met on calibration clips. Nodes have names (``trt_form.prepare``).
    """
    known = largest(model, feeds)
    magnitudes = {}
    for node in model.graph.node:
        most = max((known.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if not most <= LARGEST_FP16:
            magnitudes[node.name] = most
    return magnitudes


def largest(model: ModelProto, feeds: Sequence[Tensors]) -> dict[str, float]:
    """Tensor -> largest magnitude over the feeds, of every float32 tensor and weight of an ONNX model."""
    onnx = need("onnx", extra="compress")
    weights = (w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT)
    magnitudes = {w.name: _magnitude(onnx.numpy_helper.to_array(w)) for w in weights}
    probe = type(model)()
    probe.CopyFrom(model)
    present = {o.name for o in probe.graph.output}
    names = [name for node in probe.graph.node for name in node.output if name]
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    session = ort_session(probe.SerializeToString(), ort_options(rewrites="none"))
    for feed in feeds:
        for name, value in (feed | dict(zip(names, session.run(names, feed)))).items():
            if value.dtype == np.float32:
                magnitudes[name] = max(magnitudes.get(name, 0.0), _magnitude(value))
    return magnitudes


def _magnitude(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


def sums(model: ModelProto, states: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Nodes that add to a state from step to step, and those that work with it until a layer with weights.

    states: (graph input, graph output) of those that grow. A float16 of 2048 plus 1 is 2048 again: a count
    stops there, and a sum sooner.
    """
    tensors = {name for pair in states for name in pair}
    nodes = []
    for node in model.graph.node:
        if tensors & set(node.input) and node.op_type not in WEIGHTED:
            tensors |= set(node.output)
            nodes.append(node.name)
    makers = {name: node.name for node in model.graph.node for name in node.output}
    return tuple(dict.fromkeys((*nodes, *(makers[end] for _, end in states if end in makers))))


NOTE = "edgepv.float32"


@dataclass(frozen=True)
class Wide:
    """Nodes of a float16 file that stay in float32. most: largest magnitude met, 0 for what only grows."""

    nodes: tuple[str, ...] = ()
    most: float = 0.0


def note(model: ModelProto, nodes: Sequence[str], most: float) -> None:
    """Write into a file which of its nodes stay in float32, and why; see ``Wide``."""
    if nodes:
        entry = model.metadata_props.add()
        entry.key, entry.value = NOTE, json.dumps([list(dict.fromkeys(nodes)), most])


def noted(model: ModelProto) -> Wide:
    """What ``note`` wrote."""
    for entry in model.metadata_props:
        if entry.key == NOTE:
            nodes, most = json.loads(entry.value)
            return Wide(tuple(nodes), float(most))
    return Wide()


def join_casts(model: ModelProto) -> None:
    """Let values that stay in float32 through without a cast to float16 and back, in place.

    The type converter writes that pair between two nodes which it was told to leave.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        node.input[:] = [_before_pair(makers, name) or name for name in node.input]
    for out in graph.output:
        source = _before_pair(makers, out.name)
        if source in makers:
            graph.node.remove(makers[out.name])
            for node in graph.node:
                for names in (node.input, node.output):
                    names[:] = [out.name if name == source else name for name in names]
    while idle := _idle_casts(model):
        for node in idle:
            graph.node.remove(node)


def _idle_casts(model: ModelProto) -> list[NodeProto]:
    read = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    return [n for n in model.graph.node if n.op_type == "Cast" and n.output[0] not in read]


def _before_pair(makers: Mapping[str, NodeProto], name: str) -> str | None:
    """The float32 tensor that ``name`` is after a cast to float16 and back; None if it is no such thing."""
    wide = makers.get(name)
    narrow = makers.get(wide.input[0]) if wide is not None and wide.op_type == "Cast" else None
    if wide is None or narrow is None or narrow.op_type != "Cast":
        return None
    return narrow.input[0] if (_to(narrow), _to(wide)) == ("FLOAT16", "FLOAT") else None


def _to(cast: NodeProto) -> str:
    kinds = need("onnx", extra="compress").TensorProto.DataType
    return str(next(kinds.Name(a.i) for a in cast.attribute if a.name == "to"))
