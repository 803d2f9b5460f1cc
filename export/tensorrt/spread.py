"""Before a convolution in INT8 every channel is spread over the whole range, by a factor and a shift.

Behind SiLU no factor passes back to the layer before (``equalise``), its values reach much further up than
down, and a range around 0 as TensorRT has it leaves nearly half of its codes to nothing. So what a
convolution reads is multiplied and shifted by channel, and its weights and bias take both back: the answers
differ by float rounding only. It costs a Mul and an Add, which fuse with the SiLU before them. Where a
convolution pads with zeros there is a factor alone. Source: Nagel et al. 2019, "Data-Free Quantization
Through Weight Equalization and Bias Correction", section 4.1, and its absorption of biases, 4.1.3, in
operators of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from edgepv.base.channels import EXACT_DB, MOST, PROOFS, STRENGTH, grouped, groups_of
from edgepv.base.late import np
from edgepv.base.optional import ort_session
from edgepv.errors import ParityError
from edgepv.stream import Tensors

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def spread(model: ModelProto, feeds: Sequence[Tensors], chosen: Collection[str]) -> ModelProto:
    """A copy of ``model`` (static shapes, opset 13 or later), the inputs of ``chosen`` convolutions spread.

    feeds: graph inputs that tell how far every channel reaches. Weights that several nodes read stay, and so
    does what reads a graph input. Raises ParityError if the copy does not answer what ``model`` does.
    """
    from onnx import numpy_helper, shape_inference

    made = type(model)()
    made.CopyFrom(model)
    constants = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    readers = _readers(made, constants, chosen)
    for tensor, (low, high) in _reach(made, feeds, readers).items():
        _write(made, tensor, readers[tensor], constants, low, high)
    del made.graph.value_info[:]
    made = shape_inference.infer_shapes(made, data_prop=True)
    _refuse_unlike(model, made, feeds[:PROOFS])
    return made


def _readers(
    model: ModelProto, constants: dict[str, np.ndarray], chosen: Collection[str]
) -> dict[str, list[str]]:
    """Tensor -> names of the convolutions that read it, all of whose weights are their own."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    inputs = {i.name for i in model.graph.input}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        own = all(name in constants and uses[name] == 1 for name in node.input[1:] if name)
        if node.op_type == "Conv" and node.name in chosen and own and node.input[0] not in inputs:
            found.setdefault(node.input[0], []).append(node.name)
    return found


def _reach(
    model: ModelProto, feeds: Sequence[Tensors], tensors: Collection[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(least, largest) value of every channel of some tensors over the feeds; 0 is always between."""
    import onnx

    probe, asked = type(model)(), sorted(tensors)
    probe.CopyFrom(model)
    ends = {o.name for o in model.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=t) for t in asked if t not in ends)
    session = ort_session(probe.SerializeToString())
    reach: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for feed in feeds:
        for name, value in zip(asked, session.run(asked, feed)):
            rows = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
            low, high = reach.get(name, (np.zeros(len(rows)), np.zeros(len(rows))))
            reach[name] = np.minimum(low, rows.min(1)), np.maximum(high, rows.max(1))
    return reach


def _write(
    model: ModelProto,
    tensor: str,
    names: Collection[str],
    constants: dict[str, np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    """Put the Mul and the Add before the first reader, and take both back in the weights of all."""
    from onnx import helper, numpy_helper

    readers = [n for n in model.graph.node if n.name in names]
    shifted = not any(_pads(node) for node in readers)
    half = (high - low) / 2 if shifted else np.maximum(high, -low)
    if not half.any():
        return
    half = np.maximum(half, half.max() / MOST)  # what hardly moved may move later, and must not clip then
    factor = _factor(half, [np.abs(constants[n.input[1]]) for n in readers], [groups_of(n) for n in readers])
    shift = -factor * (low + high) / 2 if shifted else np.zeros_like(factor)
    place = next(i for i, n in enumerate(model.graph.node) if n.name == readers[0].name)
    shape = (1, -1, *(1,) * (constants[readers[0].input[1]].ndim - 2))
    source = tensor
    for kind, value in (("Mul", factor), *((("Add", shift),) if shifted else ())):
        name = f"{tensor}.spread.{kind}"
        constant = numpy_helper.from_array(value.astype(np.float32).reshape(shape), f"{name}.by")
        model.graph.initializer.append(constant)
        model.graph.node.insert(place, helper.make_node(kind, [source, constant.name], [name], name))
        source, place = name, place + 1
    places = {i.name: i for i in model.graph.initializer}
    for node in [n for n in model.graph.node if n.name in names]:
        weights, groups = constants[node.input[1]], groups_of(node)
        tail = (1,) * (weights.ndim - 2)
        parts = grouped(weights, groups) / factor.reshape(groups, 1, -1, *tail)
        taken = (
            (parts * shift.reshape(groups, 1, -1, *tail)).sum(axis=tuple(range(2, parts.ndim))).reshape(-1)
        )
        changed = parts.reshape(weights.shape).astype(np.float32)
        places[node.input[1]].CopyFrom(numpy_helper.from_array(changed, node.input[1]))
        add_to_bias(model, node, -taken)
        node.input[0] = source


def _factor(half: np.ndarray, weights: Sequence[np.ndarray], groups: Sequence[int]) -> np.ndarray:
    """(channels,) by which they are multiplied; the loudest then reaches 1 (``base.channels.STRENGTH``)."""
    heavy = np.zeros(len(half))
    for one, count in zip(weights, groups):
        parts = grouped(one, count)
        heavy = np.maximum(heavy, parts.max(axis=(1, *range(3, parts.ndim))).reshape(-1))
    heavy = np.maximum(heavy, heavy.max() / MOST) if heavy.any() else np.ones_like(half)
    factor = heavy ** (1 - STRENGTH) / half**STRENGTH
    scaled: np.ndarray = factor / (factor * half).max()
    return scaled


def _pads(node: NodeProto) -> bool:
    """Whether a convolution reads zeros beyond the border."""
    said = {a.name: a for a in node.attribute}
    how = said["auto_pad"].s.decode() if "auto_pad" in said else "NOTSET"
    return how.startswith("SAME") or ("pads" in said and any(said["pads"].ints))


def add_to_bias(model: ModelProto, node: NodeProto, more: np.ndarray) -> None:
    """Add ``more`` (outputs,) to the bias of a convolution, which gets one of its own, in float."""
    from onnx import numpy_helper

    biases = {i.name: i for i in model.graph.initializer if i.name in node.input[2:]}
    value, name = sum(map(numpy_helper.to_array, biases.values())) + more, f"{node.name}.bias"
    node.input[2:] = [name]
    read = {name for other in model.graph.node for name in other.input if other.name != node.name}
    for left in biases.keys() - read:
        model.graph.initializer.remove(biases[left])
    model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))


def _refuse_unlike(before: ModelProto, after: ModelProto, feeds: Sequence[Tensors]) -> None:
    """Raise ParityError unless two models answer alike."""
    from edgepv.metrics.stats import sqnr_db

    names = [o.name for o in before.graph.output]
    sessions = [ort_session(model.SerializeToString()) for model in (before, after)]
    for feed in feeds:
        for name, a, b in zip(names, *(session.run(names, feed) for session in sessions)):
            if sqnr_db(a, b) < EXACT_DB:
                raise ParityError(
                    f"with its channels spread the model answers another '{name}': a bug of ours"
                )
