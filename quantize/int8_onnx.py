"""INT8 for CPUs: ONNX Q/DQ with uint8 activations and int8 per-channel weights (u8s8).

ONNX Runtime and OpenVINO both run such a file in integers. On an x86 without VNNI both add two products in
16 bits, where eight-bit weights saturate. ONNX Runtime can be told not to (``base.optional.ort_options``),
for OpenVINO the weights have seven bits, so that either means the same on every CPU; benchmarks/sums.md has
what each costs. Signed activations are several times slower in ONNX Runtime on x86; TensorRT wants the signed
form, which the jetson target writes itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgepv.base.files import sha256, whole_file
from edgepv.base.late import np
from edgepv.base.optional import SAFE_BITS, need
from edgepv.errors import UsageError
from edgepv.model.boxes import uneven_layers
from edgepv.quantize.ranges import RANGES, Method, check_method, linked, of_model
from edgepv.quantize.step import Calibration, VariantStep
from edgepv.stream import Tensors, by_file_names
from edgepv.types import QuantScheme, Variant

CONVOLUTIONS = ("Conv", "ConvTranspose")
LAYERS = (*CONVOLUTIONS, "MatMul", "Gemm")
ARITHMETIC = ("Add", "Sub", "Mul", "Div")
PASSING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
"""onnxruntime gives their output the scale of their input, whatever was asked for."""


@dataclass(frozen=True)
class Step(VariantStep):
    """Static post-training quantization with onnxruntime.quantization.

    keep_float: nodes left in float. weight_bits: how many of the eight bits the weights use.
    """

    name = "int8-onnx"
    tools = ("onnx", "onnxruntime")

    keep_float: tuple[str, ...] = ()
    ranges: Method = field(default="minmax", metadata=RANGES)
    weight_bits: Literal[7, 8] = 8

    def requires(self, given: Variant, aid: Calibration) -> None:
        """Raise UsageError if a state was zero in every feed: such ranges drift, so they are refused."""
        check_method(self.ranges)
        refuse_zero_states(given, aid.feeds)

    def work(self, given: Variant, out: Path, aid: Calibration) -> Variant:
        """Quantize the file of ``given``."""
        with tempfile.TemporaryDirectory() as scratch, whole_file(out) as tmp:
            clean = Path(scratch) / "clean.onnx"
            preprocess(aid.folder / given.path, clean)
            chosen = (*self.keep_float, *(node.name for node in blends(clean, given)))
            chosen += uneven(clean) if given.spec.boxes is not None else ()
            kept = tuple(dict.fromkeys((*chosen, *float_nodes(clean, chosen))))
            theirs = by_file_names(given, aid.feeds)
            table = _table(clean, theirs, self.ranges, Path(scratch) / "ranges.json")
            overrides = state_overrides(clean, given, aid.feeds, self.ranges)
            _quantize(clean, tmp, theirs, kept, overrides, table, self.weight_bits)
        scheme = QuantScheme(
            tool="onnxruntime",
            activations="uint8 per-tensor",
            weights="int8 per-channel",
            calibration_digest=aid.digest,
            calibration_feeds=len(aid.feeds),
            kept_float=kept,
            weight_bits=self.weight_bits,
        )
        return replace(
            given, name="onnx-int8", precision="int8", path=out.name, sha256=sha256(out), scheme=scheme
        )


def refuse_zero_states(base: Variant, feeds: Sequence[Tensors]) -> None:
    """Raise UsageError unless every state is non-zero somewhere in the feeds."""
    for state in base.stream.states if base.stream else ():
        if not any(feed[state.name].any() for feed in feeds):
            raise UsageError(
                f"state '{state.name}' is zero in every calibration input; INT8 ranges would drift. "
                "Calibrate on states rolled over real clips"
            )


def preprocess(source: Path, out: Path) -> None:
    """Fold batch norm and constants, infer shapes: what every static quantizer wants first."""
    need("onnxruntime", extra="compress")
    from onnxruntime.quantization import quant_pre_process

    quant_pre_process(str(source), str(out), skip_symbolic_shape=True)


def state_overrides(
    model_path: Path, base: Variant, feeds: Sequence[Tensors], method: Method = "minmax"
) -> dict[str, list[dict[str, Any]]]:
    """One range for a state's input, the tensor it is fed from, and what it is concatenated with.

    With equal scales on both sides a value that stays in the state is requantized to itself, so an
    error cannot grow from frame to frame. The range holds all that it is for: what a gated cell joins to its
    state may be louder than the state. The tensor before a reshape has no scale of its own, so it has this
    one. method: how the ranges are set, see ``ranges.py``.
    """
    import onnx

    nodes = onnx.load(model_path).graph.node
    links = [
        (base.inputs[s.name], {**base.inputs, **base.outputs}[s.output])
        for s in (base.stream.states if base.stream else ())
        if s.dtype == "float32"
    ]
    inputs = {state for state, _ in links}
    for node in nodes:
        if node.op_type == "Concat" and inputs & set(node.input):
            links += [(name, node.output[0]) for name in node.input]
        elif node.op_type in PASSING:
            links.append((node.input[0], node.output[0]))
    groups = linked(links, inputs)
    names = set().union(*groups)
    known = of_model(model_path, by_file_names(base, feeds), method, names) if names else {}
    overrides: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        low, high = (pick(known[n][end] for n in group if n in known) for end, pick in ((0, min), (1, max)))
        entry = {"rmin": np.float32(low), "rmax": np.float32(high)}
        overrides |= {name: [dict(entry)] for name in group}
    return overrides


def float_nodes(model_path: Path, chosen: Collection[str] = ()) -> tuple[str, ...]:
    """Nodes where eight bits cost accuracy and save nothing: they stay float.

    Those that hold one value per channel (squeeze-and-excite gates, the head: on a trained net INT8
    gates alone took the logits from 15 to 5 dB), and whatever no INT8 convolution needs any more: forces and
    integration behind the last one, and what only those read that are ``chosen`` to stay float.
    """
    import onnx

    graph = onnx.load(model_path).graph
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*graph.value_info, *graph.output)
    }
    small = {n.name for n in graph.node if n.op_type in CONVOLUTIONS and n.name not in chosen}
    convolved = {name for n in graph.node if n.name in small for name in n.output}
    needed: set[str] = set()
    for node in reversed(graph.node):
        in_float = node.op_type in CONVOLUTIONS and node.name in chosen
        if node.name in small or (needed & set(node.output) and not in_float):
            needed |= set(node.input)
    kept = []
    for node in graph.node:
        folded = node.op_type in ("Relu", "Clip") and node.input[0] in convolved
        used = node.name in small or folded or needed & set(node.output)
        if not used or all(is_vector(shapes.get(name)) for name in node.output):
            kept.append(node.name)
    return tuple(kept)


def uneven(model_path: Path) -> tuple[str, ...]:
    """What onnxruntime leaves in float in a detector: ``uneven_layers``, and all that is no layer.

    SiLU in eight bits took 4 dB more from YOLOX-nano.
    """
    import onnx

    others = (n.name for n in onnx.load(model_path).graph.node if n.op_type not in LAYERS)
    return (*uneven_layers(model_path), *others)


def blends(model_path: Path, base: Variant) -> list[Any]:
    """Nodes that mix a state with what is new by arithmetic, and those next to them: they stay float.

    What is rounded there is rounded again at every frame, and a mean that moves by less than half a step of
    eight bits does not move at all: pv-restore-nano lost 0.6 dB, and 0.05 dB with these in float. A state
    that is only stored and joined, as in a stream made of a clip model, has none.
    """
    import onnx

    graph = onnx.load(model_path).graph
    nodes = [n for n in graph.node if n.op_type not in LAYERS]
    core: list[Any] = []
    for state in base.stream.states if base.stream else ():
        end = base.outputs.get(state.output)
        after, before = _reached(nodes, base.inputs[state.name]), _reached(nodes, end, back=True)
        between = [n for n in nodes if n.name in after & before]
        core += between if any(n.op_type in ARITHMETIC for n in between) else []
    touched = {name for n in core for name in (*n.input, *n.output)} - {c.name for c in graph.initializer}
    return [n for n in nodes if touched & {*n.input, *n.output}]


def _reached(nodes: Sequence[Any], tensor: str | None, *, back: bool = False) -> set[str]:
    """Names of the nodes (in the graph's order) that depend on a tensor; ``back``: that it depends on."""
    tensors, reached = {tensor}, set()
    for node in reversed(nodes) if back else nodes:
        given, ends = (node.output, node.input) if back else (node.input, node.output)
        if tensors & set(given):
            tensors |= set(ends)
            reached.add(node.name)
    return reached


def is_vector(shape: Sequence[int] | None) -> bool:
    """Whether a tensor has one value per channel, or no picture axes at all; False when unknown."""
    return shape is not None and (len(shape) < 4 or all(n == 1 for n in shape[2:]))


class Reader:
    """Hands the feeds to onnxruntime's calibrator, by the names inside the file."""

    def __init__(self, feeds: Sequence[Tensors]) -> None:
        self._feeds: Iterator[Tensors] = iter(feeds)

    def get_next(self) -> Tensors | None:
        """The next feed; None at the end."""
        return next(self._feeds, None)


def _table(clean: Path, feeds: Sequence[Tensors], method: Method, out: Path) -> Path | None:
    """The ranges in a file that onnxruntime reads; None for "minmax", which its own calibrator does well.

    Its others do not: they hold every activation of every feed, and what it calls entropy has one candidate.
    """
    if method == "minmax":
        return None
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData, save_tensors_data

    spans = of_model(clean, feeds, method)
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in spans.items()}
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), out)
    return out


def _quantize(
    clean: Path,
    out: Path,
    feeds: Sequence[Tensors],
    kept: Sequence[str],
    overrides: dict[str, Any],
    table: Path | None,
    weight_bits: int,
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        str(clean),
        str(out),
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=weight_bits <= SAFE_BITS,
        nodes_to_exclude=list(kept),
        extra_options={"TensorQuantOverrides": overrides},
        calibration_cache_path=table,
    )
