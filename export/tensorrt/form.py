"""The TensorRT form of an ONNX model: explicit Q/DQ, in an opset and in types a TensorRT reads.

Where the Q/DQ pairs go, after the placement advice in NVIDIA's TensorRT guide:

* on the activation and the weights of every convolution that does real work, never on its output,
  so that bias, activation and the next Q fuse into one INT8 kernel;
* on the skip of a residual Add whose other side comes straight from a convolution: the Add is then
  fused into that convolution. A pair on the convolution's side would tear the two apart. Any other
  residual Add has both sides in Q/DQ, or neither;
* not on the way to a graph output: a state that adds up would lose every step smaller than half an
  INT8 code. A ring buffer computes the same either way, as it is rounded when it is read;
* not on layers which read one vector per frame (squeeze-excite, the head): INT8 saves nothing.

Weights stay float32 behind their own Q/DQ pair: TensorRT 8 refuses INT8 constants ("invalid weights
type of Int8"). The strongly typed file is for 10.12 and later only, and there they are INT8.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgepv.base.files import whole_file
from edgepv.base.optional import need, ort_options, ort_session
from edgepv.errors import EngineError, UsageError, unknown
from edgepv.export.tensorrt.bias import correct_biases
from edgepv.export.tensorrt.graph import (
    COPIES,
    WEIGHTED,
    attribute,
    drop_unused_domains,
    fixed_tensors,
    name_nodes,
    one_line,
    quantize_nodes,
    residual_adds,
    shapes,
    weighted_nodes,
    without_advice,
)
from edgepv.export.tensorrt.spread import spread

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


TAIL = 0.25
"""Largest share of a net's multiplications that stays in float behind its last convolution."""


SHARING = ["ConstantSharing"]
"""An onnxruntime pass that gives unlike layers one constant, which then cannot change for one."""


def prepare(float_onnx: Path) -> ModelProto:
    """The float model in plain ONNX operators: constants folded, batch norms in their convolutions.

    HardSwish and its like become primitive operators, which older parsers know too. Every node has
    a name and every tensor a shape. Raises EngineError if ONNX Runtime cannot prepare it.
    """
    onnx = need("onnx", extra="compress")
    options = ort_options(rewrites="basic")
    with tempfile.TemporaryDirectory(prefix="edgepv.") as folder:
        options.optimized_model_filepath = str(Path(folder) / "clean.onnx")
        try:
            # the quantizer's own preprocessing step, which only logs when this fails, and goes on
            ort_session(float_onnx, options, without=SHARING)
            clean = onnx.load(options.optimized_model_filepath)
            model: ModelProto = onnx.shape_inference.infer_shapes(clean, strict_mode=True, data_prop=True)
        except Exception as e:
            raise EngineError(
                f"{float_onnx} cannot be prepared for TensorRT ({one_line(e)}). Export it again"
            ) from e
    drop_unused_domains(model)
    name_nodes(model)
    return model


def quantize_for_tensorrt(
    float_onnx: Path,
    out: Path,
    feeds: Sequence[dict[str, np.ndarray]],
    *,
    state_pairs: Sequence[tuple[str, str]],
    keep_float: Sequence[str] = (),
    uneven: bool = False,
) -> None:
    """Write ``float_onnx`` with explicit INT8 Q/DQ pairs for TensorRT, at its own opset.

    feeds: one per calibration step, graph input name -> float32 array with batch 1. States must be
    rolled ones, collected by running real clips: their ranges decide the scales.
    state_pairs: (graph input, graph output or the video input itself) of each state; both get one scale.
    keep_float: names of nodes to leave in float, as ``weighted_nodes`` lists them. uneven: whether channels
    are spread before (``spread``) and biases corrected after (``bias``), for nets whose
    channels ``quantize.equalise`` leaves as they are.
    Raises UsageError for a wrong feed, an unknown name, or when nothing is left to quantize.
    """
    onnx = need("onnx", extra="compress")
    model = prepare(float_onnx)
    _check_feeds(model, feeds)
    _check_states(model, state_pairs)
    chosen = _chosen(model, keep_float)
    model = spread(model, feeds, chosen) if uneven else model
    quantized = _quantized(model, feeds, chosen + _paired_adds(model, chosen))
    if uneven:
        correct_biases(quantized, model, feeds)
    drop_unused_domains(quantized)
    name_nodes(quantized)
    _free_outputs(quantized)
    _free_readers(quantized)
    tie_states(quantized, state_pairs)
    onnx.checker.check_model(quantized, full_check=True)
    with whole_file(out) as tmp:
        onnx.save(quantized, tmp)


def float_reason(model: ModelProto, node: NodeProto) -> str | None:
    """Why a convolution or matrix product should stay in float, or None if INT8 suits it."""
    if node.input[1] not in fixed_tensors(model):
        return "both operands are activations; it has no weights to quantize"
    group = int(attribute(node, "group", 1))
    if group > 1 and group % 4:
        return f"its {group} groups are not a multiple of 4; TensorRT has no INT8 kernel for that"
    shape = shapes(model).get(node.output[0])
    if shape is None:
        return "the shape of its output is unknown"
    positions = shape[2:] if node.op_type in ("Conv", "ConvTranspose") else shape[:-1]
    if int(np.prod(positions)) == 1:
        return "it reads one vector per frame; INT8 saves nothing and costs a pass of its own"
    if node.name in _light_tail(model):
        return "it turns features into an answer or a state behind the last convolution, with little work"
    return None


def _light_tail(model: ModelProto) -> set[str]:
    """Matrix products that no convolution needs any more, where they are less than ``TAIL`` of the work.

    Only what has weights counts: products of two activations are never INT8. Such a soft-argmax, force or
    memory is worth nothing in INT8 and costs much: pv-track-small lost 20 points of delta-avg. In a net of
    tokens the products are the work, and stay.
    """
    known, constants = shapes(model), fixed_tensors(model)
    needed: set[str] = set()
    tail: dict[str, float] = {}
    total = 0.0
    for node in reversed(model.graph.node):
        weighted = node.op_type in WEIGHTED and node.input[1] in constants
        work = _multiplications(node, known) if weighted else 0.0
        total += work
        if node.op_type in ("Conv", "ConvTranspose") or needed.intersection(node.output):
            needed |= set(node.input)
        elif work:
            tail[node.name] = work
    return set(tail) if sum(tail.values()) < TAIL * total else set()


def _multiplications(node: NodeProto, known: Mapping[str, tuple[int, ...]]) -> float:
    """Of a convolution or matrix product; 0 where its shapes are not known."""
    read, weight, output = (known.get(name) for name in (*node.input[:2], node.output[0]))
    if read is None or weight is None or output is None:
        return 0.0
    if node.op_type == "Conv":
        return float(np.prod(output) * np.prod(weight[1:]))
    if node.op_type == "ConvTranspose":
        return float(np.prod(read) * np.prod(weight[1:]))
    return float(np.prod(output) * read[-2 if attribute(node, "transA", 0) else -1])


def tie_states(model: ModelProto, state_pairs: Sequence[tuple[str, str]]) -> None:
    """Give all Q/DQ pairs that a state passes through one scale, the largest of them, in place.

    A state that is written with one scale and read with another drifts at every step.
    """
    from onnx import numpy_helper

    inits = {init.name: init for init in model.graph.initializer}
    for names in filter(None, state_scale_names(model, state_pairs)):  # a float state has no scale
        largest = max((numpy_helper.to_array(inits[n]) for n in names), key=float)
        for name in names:
            inits[name].CopyFrom(numpy_helper.from_array(largest, name))


def _chosen(model: ModelProto, keep_float: Sequence[str]) -> list[str]:
    names = [node.name for node in weighted_nodes(model)]
    for name in keep_float:
        if name not in names:
            raise UsageError(f"--keep-float: {unknown('node', name, names)}")
    chosen = [
        node.name
        for node in weighted_nodes(model)
        if node.name not in keep_float and float_reason(model, node) is None
    ]
    if not chosen:
        raise UsageError(
            f"none of the {len(names)} convolutions and matrix products is left for INT8. "
            "Keep fewer in float, or pack the float file only"
        )
    return chosen


def _paired_adds(model: ModelProto, chosen: Sequence[str]) -> list[str]:
    """Residual Adds of which one side would be quantized and the other would not, and should."""
    graph = model.graph
    makers = {out: node for node in graph.node for out in node.output}
    quantized = {n.input[0] for n in graph.node if n.name in chosen}
    return [
        node.name
        for node in residual_adds(model)
        if len(quantized.intersection(node.input)) == 1
        and not any(
            (maker := makers.get(name)) is not None and maker.op_type in WEIGHTED
            for name in node.input
            if name not in quantized
        )
    ]


def _quantized(model: ModelProto, feeds: Sequence[dict[str, np.ndarray]], nodes: Sequence[str]) -> ModelProto:
    """ONNX Runtime's static quantizer in TensorRT's form, limited to the named nodes."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # a library without types
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    kinds = [*WEIGHTED, "Add"]
    with tempfile.TemporaryDirectory(prefix="edgepv.") as folder, without_advice():
        source, written = Path(folder) / "float.onnx", Path(folder) / "qdq.onnx"
        onnx.save(model, source)
        quantize(
            str(source),
            str(written),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=kinds,
            nodes_to_quantize=list(nodes),
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "AddQDQPairToWeight": True,
                "DedicatedQDQPair": False,
                "OpTypesToExcludeOutputQuantization": kinds,
            },
        )
        return onnx.load(written)


def _free_outputs(model: ModelProto) -> None:
    """Let the outputs of the graph leave unrounded, in place.

    The quantizer rounds a tensor for all who read it, also where it leaves as a state or an answer.
    """
    makers = {out: node for node in model.graph.node for out in node.output}
    waiting = [out.name for out in model.graph.output]
    for name in waiting:
        source = _before_pair(makers, name)
        if source is not None and source in makers:
            _swap(model, name, source)
    makers = {out: node for node in model.graph.node for out in node.output}
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.op_type not in COPIES:
            continue
        for index in range(len(node.input) if node.op_type == "Concat" else 1):
            node.input[index] = _before_pair(makers, node.input[index]) or node.input[index]
            waiting.append(node.input[index])


def _free_readers(model: ModelProto) -> None:
    """Let who computes in float read a graph input as it is, in place.

    The quantizer rounds a tensor for all who read it, also for the picture to which a restorer adds what it
    has found: with its frame rounded pv-restore-nano-x2 lost 1.3 dB. An input is in float anyway, so this
    costs no pass; behind a convolution it would undo a fusion.
    """
    makers = {out: node for node in model.graph.node for out in node.output}
    inputs = {i.name for i in model.graph.input}
    integers = {n.name for n in model.graph.node if n.op_type == "Add" or _reads_codes(makers, n)}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.name in integers:
            continue
        for index, name in enumerate(node.input):
            source = _before_pair(makers, name)
            if source in inputs:
                node.input[index] = source


def _reads_codes(makers: Mapping[str, NodeProto], node: NodeProto) -> bool:
    """Whether a convolution or matrix product has weights in INT8."""
    return node.op_type in WEIGHTED and _before_pair(makers, node.input[1]) is not None


def _before_pair(makers: Mapping[str, NodeProto], tensor: str) -> str | None:
    """The float tensor that ``tensor`` is the rounded form of, or None if it comes out of no DQ."""
    dequantize = makers.get(tensor)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    quantize = makers.get(dequantize.input[0])
    return None if quantize is None else quantize.input[0]


def _swap(model: ModelProto, rounded: str, source: str) -> None:
    """Give the float tensor the name of its rounded form, and that one a name of its own."""
    names = {source: rounded, rounded: f"{rounded}_rounded"}
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    for info in model.graph.value_info:
        info.name = names.get(info.name, info.name)


def _check_feeds(model: ModelProto, feeds: Sequence[dict[str, np.ndarray]]) -> None:
    if not feeds:
        raise UsageError("INT8 ranges need calibration clips and there are none. Add --clips")
    wanted = {i.name: shapes(model).get(i.name) for i in model.graph.input}
    for number, feed in enumerate(feeds):
        got = {name: value.shape for name, value in feed.items()}
        if got != wanted:
            raise UsageError(
                f"calibration step {number} feeds {got}, the model takes {wanted}. "
                "Collect the feeds with this model"
            )
        broken = [name for name, value in feed.items() if not np.isfinite(value).all()]
        if broken:
            raise UsageError(
                f"calibration step {number}: '{broken[0]}' holds a NaN or an infinity. "
                "Check the clip it came from"
            )


def _check_states(model: ModelProto, state_pairs: Sequence[tuple[str, str]]) -> None:
    inputs = [i.name for i in model.graph.input]
    outputs = [o.name for o in model.graph.output]
    for name, output in state_pairs:
        if name not in inputs:
            raise UsageError(unknown("state input", name, inputs))
        if output not in (*outputs, *inputs):
            raise UsageError(unknown("state output", output, outputs))


def state_scale_names(model: ModelProto, state_pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Per group of joined states, the scale constants of the Q nodes their values pass through."""
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while (parent := group.get(name, name)) != name:
            name = parent
        return name

    for left, right in [*_copied(model), *state_pairs]:
        group[root(left)] = root(right)
    scales: dict[str, set[str]] = {root(name): set() for name, _ in state_pairs}
    for node in quantize_nodes(model, weights=False):
        if root(node.input[0]) in scales:
            scales[root(node.input[0])].add(node.input[1])
    return [sorted(names) for names in scales.values()]


def _copied(model: ModelProto) -> Iterator[tuple[str, str]]:
    """Pairs of tensors that hold the same values, rearranged or quantized."""
    constants = fixed_tensors(model)
    for node in model.graph.node:
        if node.op_type in COPIES:
            data = node.input if node.op_type == "Concat" else node.input[:1]
            for name in [*data, *node.output[1:]]:
                if name not in constants:
                    yield name, node.output[0]
