"""The mean error that rounding leaves in a convolution is taken out of its bias.

What stands behind SiLU lies close together below 0, within a few steps of eight bits, so its rounding errors
do not cancel: they move every channel that is made of it. Source: Nagel et al. 2019, "Data-Free Quantization
Through Weight Equalization and Bias Correction", section 4.2, with the means that calibration inputs show.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepv.base.channels import grouped, groups_of
from edgepv.base.late import np
from edgepv.base.optional import ort_session
from edgepv.export.tensorrt.spread import add_to_bias
from edgepv.stream import Tensors

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Rounded:
    """A tensor and how it is rounded: scale and zero point, of each place of ``axis`` where they are rows."""

    tensor: str
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """``values`` rounded: QuantizeLinear and DequantizeLinear as ONNX defines them."""
        kind = np.iinfo(self.zero.dtype)
        rows = [-1 if d == self.axis else 1 for d in range(values.ndim)]
        scale, zero = (v.reshape(rows) if v.ndim else v for v in (self.scale, self.zero.astype(np.float32)))
        codes = np.clip(np.rint(values / scale) + zero, kind.min, kind.max)
        rounded: np.ndarray = ((codes - zero) * scale).astype(np.float32)
        return rounded


def correct_biases(quantized: ModelProto, plain: ModelProto, feeds: Sequence[Tensors]) -> None:
    """Correct, in place, every convolution of ``quantized`` that reads and weighs rounded values.

    quantized: with Q/DQ pairs, float weights before theirs, and float biases. plain: the float model that it
    was made of, whose tensors are called the same. feeds: its inputs. Zeros beyond the border count like what
    is within.
    """
    from onnx import numpy_helper

    constants = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    found = list(_convolutions(quantized, constants))
    reads = {read.tensor: read for _, read, _ in found}
    means = _means(plain, feeds, reads)
    for node, read, weigh in found:
        weights, groups = constants[weigh.tensor], groups_of(node)
        plain_mean, rounded_mean = (m.reshape(groups, 1, -1) for m in means[read.tensor])
        wanted, got = (
            (_summed(grouped(w, groups)) * mean).sum(-1)
            for w, mean in ((weights, plain_mean), (weigh(weights), rounded_mean))
        )
        add_to_bias(quantized, node, (wanted - got).reshape(-1))


def _summed(weights: np.ndarray) -> np.ndarray:
    """(groups, O, I, ...) over all places of the kernel: (groups, O, I)."""
    summed: np.ndarray = weights.sum(axis=tuple(range(3, weights.ndim)))
    return summed


def _convolutions(
    model: ModelProto, constants: dict[str, np.ndarray]
) -> Iterator[tuple[NodeProto, Rounded, Rounded]]:
    """(convolution, what it reads, its weights) of those that read and weigh rounded values."""
    makers = {out: node for node in model.graph.node for out in node.output}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        read, weigh = (_rounded(makers, constants, name) for name in node.input[:2])
        if read is not None and weigh is not None and weigh.tensor in constants:
            yield node, read, weigh


def _rounded(makers: dict[str, NodeProto], constants: dict[str, np.ndarray], name: str) -> Rounded | None:
    """What ``name`` is the rounded form of; None where it comes out of no pair."""
    dequantize = makers.get(name)
    quantize = makers.get(dequantize.input[0]) if dequantize is not None else None
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    axis = next((int(a.i) for a in quantize.attribute if a.name == "axis"), 1)
    return Rounded(quantize.input[0], constants[quantize.input[1]], constants[quantize.input[2]], axis)


def _means(
    plain: ModelProto, feeds: Sequence[Tensors], reads: dict[str, Rounded]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor -> the mean of each of its channels over the feeds, as it is and rounded."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in reads}
    for name, value in _values(plain, feeds, reads):
        axes = tuple(d for d in range(value.ndim) if d != 1)
        both = (value, reads[name](value))
        rows[name].append(np.stack([one.mean(axes, dtype=np.float64) for one in both]))
    return {name: (both[0], both[1]) for name, both in ((n, np.mean(r, 0)) for n, r in rows.items())}


def _values(
    plain: ModelProto, feeds: Sequence[Tensors], names: Collection[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """(tensor, its value) of every feed."""
    import onnx

    probe, inputs = type(plain)(), {i.name for i in plain.graph.input}
    probe.CopyFrom(plain)
    ends = {o.name for o in plain.graph.output}
    asked = sorted(set(names) - inputs)
    probe.graph.output.extend(onnx.ValueInfoProto(name=t) for t in asked if t not in ends)
    session = ort_session(probe.SerializeToString())
    for feed in feeds:
        yield from zip(asked, session.run(asked, feed))
        yield from ((name, feed[name]) for name in inputs & set(names))
