"""Layers that never fire: channels of the float model whose value is the same on every calibration input.

A dead channel is work for nothing. A layer without one living channel hides what comes before it, and eight
bits have nothing to measure there: the range is a single point.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepv.base.late import np
from edgepv.base.optional import ort_session
from edgepv.errors import ModelError
from edgepv.quantize.int8_onnx import CONVOLUTIONS, is_vector, preprocess
from edgepv.stream import Tensors, by_file_names
from edgepv.types import Variant

LAYERS = (*CONVOLUTIONS, "Gemm")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh")


@dataclass(frozen=True)
class DeadChannels:
    """A layer and how many of its channels never changed, after its activation where it has one.

    layer: the name of its node in the file. vector: it holds one value per channel, not a picture (a gate,
    the head): such layers stay in float, and a gate that always stands open does no harm.
    """

    layer: str
    constant: int
    channels: int
    vector: bool

    @property
    def dead(self) -> bool:
        """Whether nothing this layer answers ever changes."""
        return self.constant == self.channels


def dead_channels(base: Variant, folder: Path, feeds: Sequence[Tensors]) -> tuple[DeadChannels, ...]:
    """Layers of a float ONNX with channels that are one and the same number in all feeds, in graph order.

    feeds: graph inputs with rolled states (see calibration.rolled_feeds). The same means equal bits: a
    channel behind a ReLU that never opens is exactly 0, one whose weights are 0 is exactly its bias.
    """
    with tempfile.TemporaryDirectory() as scratch:
        watched = Path(scratch) / "watched.onnx"
        preprocess(folder / base.path, watched)
        ends = _watch(watched)
        seen = _ranges(watched, list(ends.values()), by_file_names(base, feeds))
    rows = (
        DeadChannels(
            name, int((seen[end].least == seen[end].most).sum()), seen[end].least.size, seen[end].vector
        )
        for name, end in ends.items()
        if seen[end].values > 1  # one value alone is neither quiet nor alive
    )
    return tuple(row for row in rows if row.constant)


def refuse_dead_layers(base: Variant, folder: Path, feeds: Sequence[Tensors]) -> tuple[DeadChannels, ...]:
    """``dead_channels``'s rows. Raises ModelError naming the first dead layer that INT8 would quantize."""
    rows = dead_channels(base, folder, feeds)
    dead = [row for row in rows if row.dead and not row.vector]
    if dead:
        raise ModelError(
            f"{base.spec.name}: layer '{dead[0].layer}' gives the same numbers for every calibration input "
            f"({len(dead)} such), so it has no range for INT8. Train again or take it out, or keep the model "
            "in float: --precision fp32"
        )
    return rows


def _watch(path: Path) -> dict[str, str]:
    """Make the answer of every layer an output of the graph; layer -> the name of that output."""
    import onnx

    model = onnx.load(path)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ends = {}
    for node in model.graph.node:
        if node.op_type in LAYERS:
            after = readers.get(node.output[0], [])
            folded = len(after) == 1 and after[0].op_type in ACTIVATIONS
            ends[node.name] = after[0].output[0] if folded else node.output[0]
    present = {o.name for o in model.graph.output}
    known = {v.name: v for v in model.graph.value_info}
    model.graph.output.extend(
        known.get(end) or onnx.ValueInfoProto(name=end)
        for end in dict.fromkeys(ends.values())
        if end not in present
    )
    onnx.save(model, path)
    return ends


@dataclass(frozen=True)
class _Seen:
    """Least and most of every channel over ``values`` values of each."""

    least: np.ndarray
    most: np.ndarray
    values: int
    vector: bool

    def __add__(self, more: _Seen) -> _Seen:
        least, most = np.minimum(self.least, more.least), np.maximum(self.most, more.most)
        return _Seen(least, most, self.values + more.values, self.vector)


def _ranges(path: Path, names: list[str], feeds: Sequence[Tensors]) -> dict[str, _Seen]:
    """What the channels of the named tensors (N, C, ...) held over the feeds."""
    session = ort_session(path)
    seen: dict[str, _Seen] = {}
    for feed in feeds:
        for name, value in zip(names, session.run(names, feed)):
            rows = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
            new = _Seen(rows.min(1), rows.max(1), rows.shape[1], is_vector(value.shape))
            seen[name] = seen[name] + new if name in seen else new
    return seen
