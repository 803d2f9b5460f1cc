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

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.errors import UsageError, unknown
from edgepv.export import half

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second input is a weight."""

TAIL = 0.25
"""Largest share of a net's multiplications that stays in float behind its last convolution."""

COPIES = frozenset(
    (
        *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
    )
)
"""Operators which move values but do not compute, so one scale serves both their ends."""

STRONG_OPSET = 19
"""The first opset whose Q/DQ scales may be float16; TensorRT 10.12 and later read it."""

IR_VERSION = {17: 8, 18: 8, 19: 9, 20: 9}
"""The oldest file format of each opset, which the parser of that time knows."""

SHARING = ["ConstantSharing"]
"""An onnxruntime pass that gives unlike layers one constant, which then cannot change for one."""

SMALLEST_FP16 = np.float32(2.0**-14)
"""The smallest float16 with all its bits; below it steps of a scale grow beyond 0.1 %."""


def prepare(float_onnx: Path) -> ModelProto:
    """The float model in plain ONNX operators: constants folded, batch norms in their convolutions.

    HardSwish and its like become primitive operators, which older parsers know too. Every node has
    a name and every tensor a shape. Raises UsageError if the file is not a readable model.
    """
    onnx = need("onnx", extra="compress")
    ort = need("onnxruntime", extra="compress")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="edgepv.") as folder:
        options.optimized_model_filepath = str(Path(folder) / "clean.onnx")
        try:
            # the quantizer's own preprocessing step, which only logs when this fails, and goes on
            ort.InferenceSession(
                str(float_onnx), options, ["CPUExecutionProvider"], disabled_optimizers=SHARING
            )
            clean = onnx.load(options.optimized_model_filepath)
            model = onnx.shape_inference.infer_shapes(clean, strict_mode=True, data_prop=True)
        except Exception as e:
            raise UsageError(
                f"{float_onnx} cannot be prepared for TensorRT ({_line(e)}). Export it again"
            ) from e
    _drop_unused_domains(model)
    _name_nodes(model)
    return model


def quantize_for_tensorrt(
    float_onnx: Path,
    out: Path,
    feeds: Sequence[dict[str, np.ndarray]],
    *,
    state_pairs: Sequence[tuple[str, str]],
    keep_float: Sequence[str] = (),
) -> None:
    """Write ``float_onnx`` with explicit INT8 Q/DQ pairs for TensorRT, at its own opset.

    feeds: one per calibration step, graph input name -> float32 array with batch 1. States must be
    rolled ones, collected by running real clips: their ranges decide the scales.
    state_pairs: (graph input, graph output or the video input itself) of each state; both get one scale.
    keep_float: names of nodes to leave in float, as ``weighted_nodes`` lists them.
    Raises UsageError for a wrong feed, an unknown name, or when nothing is left to quantize.
    """
    onnx = need("onnx", extra="compress")
    model = prepare(float_onnx)
    _check_feeds(model, feeds)
    _check_states(model, state_pairs)
    chosen = _chosen(model, keep_float)
    quantized = _quantized(model, feeds, chosen + _paired_adds(model, chosen))
    _drop_unused_domains(quantized)
    _name_nodes(quantized)
    _free_outputs(quantized)
    _free_readers(quantized)
    tie_states(quantized, state_pairs)
    onnx.checker.check_model(quantized, full_check=True)
    with whole_file(out) as tmp:
        onnx.save(quantized, tmp)


def weighted_nodes(model: ModelProto) -> list[NodeProto]:
    """The convolutions and matrix products of a model, in running order."""
    return [node for node in model.graph.node if node.op_type in WEIGHTED]


def float_reason(model: ModelProto, node: NodeProto) -> str | None:
    """Why a convolution or matrix product should stay in float, or None if INT8 suits it."""
    if node.input[1] not in _constants(model):
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
    known, constants = shapes(model), _constants(model)
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
    read, weight, made = (known.get(name) for name in (*node.input[:2], node.output[0]))
    if read is None or weight is None or made is None:
        return 0.0
    if node.op_type == "Conv":
        return float(np.prod(made) * np.prod(weight[1:]))
    if node.op_type == "ConvTranspose":
        return float(np.prod(read) * np.prod(weight[1:]))
    return float(np.prod(made) * read[-2 if attribute(node, "transA", 0) else -1])


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or ``default`` where it has none of that name."""
    from onnx import helper

    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensor name -> static shape, of every tensor whose shape the file tells, also through Q/DQ pairs."""
    graph = model.graph
    found = {init.name: tuple(init.dims) for init in graph.initializer}
    for info in [*graph.input, *graph.output, *graph.value_info]:
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            found[info.name] = tuple(d.dim_value for d in kind.shape.dim)
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def tie_states(model: ModelProto, state_pairs: Sequence[tuple[str, str]]) -> None:
    """Give all Q/DQ pairs that a state passes through one scale, the largest of them, in place.

    A state that is written with one scale and read with another drifts at every step.
    """
    from onnx import numpy_helper

    inits = {init.name: init for init in model.graph.initializer}
    for names in filter(None, _state_scale_names(model, state_pairs)):  # a float state has no scale
        largest = max((numpy_helper.to_array(inits[n]) for n in names), key=float)
        for name in names:
            inits[name].CopyFrom(numpy_helper.from_array(largest, name))


def state_scales(model: ModelProto, state_pairs: Sequence[tuple[str, str]]) -> list[tuple[float, ...]]:
    """The scales of the Q/DQ pairs that each group of joined states passes through.

    One group per tied set of states; a group is empty when its states are never quantized.
    """
    from onnx import numpy_helper

    inits = {init.name: init for init in model.graph.initializer}
    groups = _state_scale_names(model, state_pairs)
    return [tuple(float(numpy_helper.to_array(inits[n])) for n in names) for names in groups]


def to_opset(model: ModelProto, opset: int) -> ModelProto:
    """A copy of the model at ``opset``, really written at it and accepted by the ONNX checker.

    Raises UsageError if an operator of the model has no form at that opset.
    """
    onnx = need("onnx", extra="compress")
    source = type(model)()
    source.CopyFrom(model)
    _drop_unused_domains(source)
    try:
        if opset_of(source) > 17 >= opset:
            source = _lowered_to_17(onnx.version_converter.convert_version(source, 18))
        converted = onnx.version_converter.convert_version(source, opset)
        _name_nodes(converted)
        converted.ir_version = IR_VERSION.get(opset, converted.ir_version)
        onnx.checker.check_model(converted, full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as e:
        raise UsageError(
            f"the model has no form at opset {opset} ({_line(e)}). Export it without that operator"
        ) from e
    if opset_of(converted) != opset:
        raise UsageError(f"asked for opset {opset}, the converter wrote {opset_of(converted)}")
    return converted


def opset_of(model: ModelProto) -> int:
    """The version of the standard ONNX operators a model is written in."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def to_fp16(
    model: ModelProto,
    feeds: Sequence[dict[str, np.ndarray]] = (),
    grown: Sequence[tuple[str, str]] = (),
) -> ModelProto:
    """The model for a strongly typed build: opset 19, float16 inside, float32 inputs and outputs.

    INT8 weights become constants, quantized with the float16 scale the file carries. The types are
    changed by onnxruntime's converter, which keeps Q/DQ in the type of their tensor. What float16 does not
    hold stays in float32: values met with ``feeds``, and what adds to the states of ``grown``; see ``half``.
    Raises UsageError if an activation scale is too small for float16.
    """
    from onnx import checker

    convert = need("onnxruntime.transformers.float16", extra="compress").convert_float_to_float16
    strong = to_opset(model, STRONG_OPSET)
    _check_fp16_scales(strong)
    beyond = half.beyond(strong, feeds) if feeds else {}
    wide = [*beyond, *half.sums(strong, grown)]
    wide += _weights_of(strong, wide)
    _fold_weights(strong, wide)
    with _quiet(), warnings.catch_warnings():  # numbers that it clips are those of nodes it leaves
        warnings.simplefilter("ignore")
        strong = convert(strong, keep_io_types=True, node_block_list=wide)
    half.join_casts(strong)
    half.note(strong, wide, max(beyond.values(), default=0.0))
    strong.ir_version = IR_VERSION[STRONG_OPSET]
    _sort_nodes(strong)
    _name_nodes(strong)
    checker.check_model(strong, full_check=True)
    return strong


def quantize_nodes(model: ModelProto, *, weights: bool) -> list[NodeProto]:
    """The QuantizeLinear nodes on weights, or those on activations."""
    constants = _constants(model)
    nodes = (n for n in model.graph.node if n.op_type == "QuantizeLinear")
    return [n for n in nodes if (n.input[0] in constants) is weights]


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


def residual_adds(model: ModelProto) -> Iterator[NodeProto]:
    """Add nodes that join two activations of one shape."""
    known, constants = shapes(model), _constants(model)
    for node in model.graph.node:
        if node.op_type == "Add" and not constants.intersection(node.input):
            left, right = (known.get(name) for name in node.input)
            if left == right:
                yield node


def _quantized(model: ModelProto, feeds: Sequence[dict[str, np.ndarray]], nodes: Sequence[str]) -> ModelProto:
    """ONNX Runtime's static quantizer in TensorRT's form, limited to the named nodes."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    kinds = [*WEIGHTED, "Add"]
    with tempfile.TemporaryDirectory(prefix="edgepv.") as folder, _quiet():
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice that onnxruntime's quantizer writes to the root logger."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


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


def _state_scale_names(model: ModelProto, state_pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Per group of joined states, the scale constants of the Q nodes their values pass through."""
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while (parent := group.get(name, name)) != name:
            name = parent
        return name

    for left, right in [*_copied(model), *state_pairs]:
        group[root(left)] = root(right)
    found: dict[str, set[str]] = {root(name): set() for name, _ in state_pairs}
    for node in quantize_nodes(model, weights=False):
        if root(node.input[0]) in found:
            found[root(node.input[0])].add(node.input[1])
    return [sorted(names) for names in found.values()]


def _copied(model: ModelProto) -> Iterator[tuple[str, str]]:
    """Pairs of tensors that hold the same values, rearranged or quantized."""
    constants = _constants(model)
    for node in model.graph.node:
        if node.op_type in COPIES:
            data = node.input if node.op_type == "Concat" else node.input[:1]
            for name in [*data, *node.output[1:]]:
                if name not in constants:
                    yield name, node.output[0]


def _lowered_to_17(model: ModelProto) -> ModelProto:
    """The opset-18 model at 17, in place. The onnx package's own converter cannot do this step:
    it stops at Split and leaves ReduceMean an attribute that the checker and onnxruntime refuse.
    """
    from onnx import defs

    known = shapes(model)
    for node in model.graph.node:
        if node.domain or not defs.has(node.op_type, 17, ""):
            continue
        old = defs.get_schema(node.op_type, 17, "").attributes
        if node.op_type == "Split" and len(node.input) < 2:
            _write_split_sizes(model, node, known)
        elif "axes" in old and len(node.input) > 1:
            _write_axes(model, node)
        _drop_newer_attributes(node, old)
    _drop_unused_constants(model)
    next(o for o in model.opset_import if o.domain in ("", "ai.onnx")).version = 17
    return model


def _write_split_sizes(model: ModelProto, node: NodeProto, known: dict[str, tuple[int, ...]]) -> None:
    """Opset 18 may give the number of parts, 17 wants their sizes; the last may be smaller."""
    from onnx import numpy_helper

    if node.input[0] not in known:
        raise ValueError(f"the shape of '{node.input[0]}' is unknown")
    size, parts = known[node.input[0]][attribute(node, "axis", 0)], len(node.output)
    step = -(-size // parts)
    sizes = np.array([step] * (parts - 1) + [size - step * (parts - 1)], np.int64)
    name = f"{node.output[0]}_sizes"
    model.graph.initializer.append(numpy_helper.from_array(sizes, name))
    node.input.append(name)
    for item in [a for a in node.attribute if a.name == "num_outputs"]:
        node.attribute.remove(item)


def _write_axes(model: ModelProto, node: NodeProto) -> None:
    """Opset 18 gives the axes of a reduction as an input, 17 as an attribute."""
    from onnx import helper, numpy_helper

    axes = next((i for i in model.graph.initializer if i.name == node.input[1]), None)
    if axes is None:
        raise ValueError(f"{node.name}: its axes are computed, not written in the file")
    values = numpy_helper.to_array(axes).tolist()
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", values))


def _drop_newer_attributes(node: NodeProto, old: Mapping[str, Any]) -> None:
    """Remove the attributes opset 17 does not know that say nothing but the default of opset 18.

    One that says something is left there, for the checker to refuse.
    """
    from onnx import defs, helper

    says = helper.get_attribute_value
    newer = defs.get_schema(node.op_type, 18, "").attributes
    for item in [a for a in node.attribute if a.name in newer and a.name not in old]:
        default = newer[item.name].default_value
        if default.type and says(item) == says(default):
            node.attribute.remove(item)


def _check_fp16_scales(model: ModelProto) -> None:
    from onnx import numpy_helper

    inits = {init.name: init for init in model.graph.initializer}
    for node in quantize_nodes(model, weights=False):
        scale = float(numpy_helper.to_array(inits[node.input[1]]))
        if scale < SMALLEST_FP16:
            raise UsageError(
                f"'{node.input[0]}' never exceeded {127 * scale:.2g} in calibration, too little "
                "for a float16 scale. Add clips that use it, or keep its layer in float"
            )


def _weights_of(model: ModelProto, nodes: Sequence[str]) -> list[str]:
    """The DQ nodes behind the weights of the named convolutions and matrix products."""
    makers = {out: node for node in model.graph.node for out in node.output}
    found = (makers.get(n.input[1]) for n in weighted_nodes(model) if n.name in nodes)
    return [n.name for n in found if n is not None and n.op_type == "DequantizeLinear"]


def _fold_weights(model: ModelProto, wide: Sequence[str] = ()) -> None:
    """Replace each float weight and its Q by an INT8 constant, with a scale exact in float16.

    wide: DQ nodes whose scales stay in float32.
    """
    from onnx import numpy_helper

    kept = {node.input[0] for node in model.graph.node if node.name in wide}
    inits = {init.name: init for init in model.graph.initializer}
    for node in quantize_nodes(model, weights=True):
        weight, scale_name, _ = node.input
        scale = numpy_helper.to_array(inits[scale_name])
        scale = scale if node.output[0] in kept else fp16_scale(scale)
        values = numpy_helper.to_array(inits[weight])
        codes = _codes(values, scale, axis=int(attribute(node, "axis", 1)))
        inits[scale_name].CopyFrom(numpy_helper.from_array(scale, scale_name))
        model.graph.initializer.append(numpy_helper.from_array(codes, node.output[0]))
        model.graph.node.remove(node)
    _drop_unused_constants(model)


def fp16_scale(scale: np.ndarray) -> np.ndarray:
    """The next float16 at or above each scale, as float32, and at least the smallest normal one.

    Rounded up, so that the largest weight still lands within 127.
    """
    half = np.maximum(scale, SMALLEST_FP16).astype(np.float16)
    low = half.astype(np.float32) < scale
    half[low] = np.nextafter(half[low], np.float16(np.inf))
    return half.astype(np.float32)


def _codes(values: np.ndarray, scale: np.ndarray, *, axis: int) -> np.ndarray:
    """QuantizeLinear with zero point 0, as ONNX defines it: round half to even, then saturate."""
    if scale.ndim:
        scale = scale.reshape([-1 if d == axis else 1 for d in range(values.ndim)])
    return np.clip(np.rint(values / scale), -128, 127).astype(np.int8)


def _constants(model: ModelProto) -> set[str]:
    """Names of tensors fixed in the file: initializers, and weights behind their Q/DQ pair."""
    fixed = {init.name for init in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in fixed:
            fixed.update(node.output)
    return fixed


def _drop_unused_constants(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    for init in [i for i in model.graph.initializer if i.name not in used]:
        model.graph.initializer.remove(init)


def _drop_unused_domains(model: ModelProto) -> None:
    """Keep only the operator sets in use: onnxruntime lists its own, which TensorRT cannot read."""
    used = {node.domain for node in model.graph.node} | {"", "ai.onnx"}
    for entry in [o for o in model.opset_import if o.domain not in used]:
        model.opset_import.remove(entry)


def _name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own; NVIDIA's parser refuses that of an initializer too."""
    taken = {init.name for init in model.graph.initializer}
    for node in model.graph.node:
        name = node.name or f"{node.op_type}_{node.output[0]}"
        node.name = _free(name, taken)
        taken.add(node.name)


def _sort_nodes(model: ModelProto) -> None:
    """Put every node behind the makers of its inputs; the type converter appends its casts last."""
    pending = {out for node in model.graph.node for out in node.output}
    waiting, done = list(model.graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if pending.intersection(node.input):
                later.append(node)
            else:
                pending.difference_update(node.output)
                done.append(node)
        if len(later) == len(waiting):
            raise UsageError(f"the graph has a loop at '{later[0].name}'. Export the model again")
        waiting = later
    del model.graph.node[:]
    model.graph.node.extend(done)


def _free(name: str, taken: Iterable[str]) -> str:
    number, free = 1, name
    while free in taken:
        number, free = number + 1, f"{name}_{number}"
    return free


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
