"""Read an ONNX file, whoever wrote it, as the float graph that edgepv works on; and say what was changed.

    the file   one message, whole, of a version that is known here, its weights inside
    the form   opset 13 or newer, weights as initializers, float32, static shapes, a name for every node
    the ends   the video of the spec in float32, states, and the answers of the spec

The form is compared with the file as it was given, on noise. Whatever cannot be brought there is refused in
one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.base.files import digest, sha256, whole_file
from edgepv.base.optional import need, ort_options, ort_session
from edgepv.base.vet import vet_onnx
from edgepv.errors import EngineError, ModelError, UsageError
from edgepv.export.to_onnx import float_variant, refusal
from edgepv.metrics.stats import sqnr_db
from edgepv.types import ModelSpec, QuantScheme, StateSpec, StreamSpec, Variant

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OLDEST_OPSET = 13
"""The first in which Q/DQ has an axis, which INT8 per channel needs."""
MOST_BYTES = (1 << 31) - 1
"""Of one protobuf message."""
SAME_DB, SAME_FP16_DB = 80.0, 30.0
"""Least SQNR between a file and its form here. float16 rounds at every layer, float32 does not."""
NOT_RUN = ("bfloat16", "float64")
"""Kinds of numbers that ONNX Runtime has no convolutions in."""
PROBES = 2  # inputs of noise on which the file and our form of it are compared
OTHER_FILES = (
    (0, b"PK\x03\x04", "is a zip archive. Unpack it, and give the .onnx file inside"),
    (0, b"version https://git-lfs", "is a pointer of Git LFS, not the file itself. Run: git lfs pull"),
    (4, b"TFL3", "is a TFLite file, not ONNX. Give the model it was made of"),
    (4, b"ORTM", "is in ONNX Runtime's own format (.ort). Give the .onnx file it was made of"),
    (0, b"\x89HDF", "is an HDF5 file (Keras), not ONNX. Convert it with tf2onnx"),
    (0, b"\x80\x02", "is a pickle of torch, not ONNX. Export it with torch.onnx.export"),
    (0, b"<", "is a web page or XML, not ONNX. Download the file itself"),
)
"""(place, bytes there, what such a file is): what lies under the name of an ONNX file now and then."""
QUANTIZED = re.compile(
    "(De|Dynamic)?QuantizeLinear|Q(Linear|Gemm|Attention|MoE).*|(Conv|MatMul)Integer.*|MatMulNBits|MatMulBnb4"
)
"""Operators of a file that holds integers in place of floats."""


def read_onnx(path: Path, spec: ModelSpec, out: Path) -> tuple[Variant, tuple[str, ...]]:
    """(a user's ONNX file as a Variant, written to ``out``; what was changed in it, a line each).

    The video is the input that the spec names, else the first; every other input NAME is a state fed from the
    output NAME_next. One answer may have any name, several have those of the spec; further outputs are left
    out. A file that holds integers already has precision "int8". Raises UsageError for anything else.
    """
    onnx = need("onnx", extra="compress")
    given = _whole(path)
    stored = {i.name for i in given.graph.initializer}
    fed = {i.name: _port(i) for i in given.graph.input if i.name not in stored}
    video = _video(path, fed, spec)
    way = _way(path, video, fed[video], spec)
    notes = _fix_axes(path, given, video, way)
    model, kinds, changed = _formed(given, path)
    notes += changed
    inputs = {i.name: _port(i) for i in model.graph.input}
    _check_inputs(path, spec, video, inputs)
    outputs, compared = _outputs(path, given, model, excused=bool(set(kinds) & set(NOT_RUN)))
    if not compared:
        notes.append("not compared with the file as it was given, which ONNX Runtime cannot run")
    states = _states(spec, [name for name in inputs if name != video], inputs, outputs)
    _check_states(path, states, inputs, outputs)
    answers = _answers(path, spec, states, outputs)
    entered, more = _enter(model, spec, video, way)
    left, told = _leave(model, spec, states, answers, outputs)
    model = _without_dead_ends(model)
    _name_nodes(model)
    onnx.checker.check_model(model)
    with whole_file(out) as tmp:
        data = model.SerializeToString(deterministic=True)
        vet_onnx(data, str(path))
        tmp.write_bytes(data)
    stream = None
    if spec.input.layout == "NCHW":
        kept = tuple(StateSpec(s, fresh, inputs[s].static) for s, fresh in states.items())
        stream = StreamSpec(kept, warmup=spec.frames)
    names_in = {spec.input.name: entered, **{s: s for s in states}}
    names_out = {**left, **{fresh: fresh for fresh in states.values()}}
    variant = float_variant(out, spec, stream, names_in, names_out)
    if not is_quantized(model):
        return variant, (*notes, *more, *told)
    scheme = QuantScheme("as it was given", "as they were given", "as they were given", "", 0)
    said = "the file is quantized already: it is run as it is, and not quantized again"
    return replace(variant, precision="int8", scheme=scheme), (said, *notes, *more, *told)


@dataclass(frozen=True)
class Port:
    """An input or output of an ONNX graph. shape: a free axis has its name or "?" in place of a number."""

    dtype: str
    shape: tuple[int | str, ...]

    @property
    def static(self) -> tuple[int, ...]:
        """The shape without its free axes."""
        return tuple(n for n in self.shape if isinstance(n, int))

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


def _port(value: Any) -> Port:
    """From a ValueInfoProto; what is no tensor has the dtype "undefined"."""
    import onnx

    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = tuple(d.dim_value or d.dim_param or "?" for d in tensor.shape.dim)
    return Port({"float": "float32", "double": "float64"}.get(kind, kind), shape)


def digest_of(path: Path) -> str:
    """SHA-256 of an ONNX file; where its weights lie beside it, of its digest and theirs."""
    beside = {place for tensor in _outside(_parsed(path)) for place in _location(tensor)}
    files = [path, *(path.parent / name for name in sorted(beside) if (path.parent / name).is_file())]
    digests = [sha256(file) for file in files]
    return digests[0] if len(digests) == 1 else digest(digests)


def fused(path: Path) -> list[str]:
    """Operators of an ONNX file that are ONNX Runtime's own: its optimiser wrote the file, or part of it."""
    onnx = need("onnx", extra="compress")
    nodes = (node for graph in _graphs(onnx.load(path).graph) for node in graph.node)
    return sorted({n.op_type for n in nodes if n.domain.startswith("com.microsoft")})


def is_quantized(model: ModelProto) -> bool:
    """Whether a model computes with integers, or holds its weights in them."""
    return any(QUANTIZED.fullmatch(node.op_type) for graph in _graphs(model.graph) for node in graph.node)


def _whole(path: Path) -> ModelProto:
    """The model in an ONNX file, its weights in it and its functions inlined.

    Raises UsageError if it is no ONNX file, damaged, or newer than what is here, ModelError if it holds NaN.
    """
    onnx = need("onnx", extra="compress")
    from onnx import inliner

    model = _parsed(path)
    try:
        if list(_outside(model)):
            onnx.external_data_helper.load_external_data_for_model(model, str(path.absolute().parent))
            if model.ByteSize() > MOST_BYTES:
                raise UsageError(f"{path} and its weights are {_gib(model.ByteSize())}; {_TOO_LARGE}")
        vet_onnx(model.SerializeToString(), str(path))
        if model.functions:
            model = inliner.inline_local_functions(model)
        _tensors_only(path, model)
        _name_nodes(model)
        model = _sorted(model)
        if not all(o.type.tensor_type.HasField("shape") for o in model.graph.output):
            model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
    except UsageError:
        raise
    except Exception as e:
        raise UsageError(f"{path} is not a whole ONNX file: {refusal(e)}") from e
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ModelError(f"{path}: weight '{weight.name}' holds NaN. Train again, or export again")
    return model


def _tensors_only(path: Path, model: ModelProto) -> None:
    """Leave out outputs that are maps or sequences, such as a ZipMap's. Raises ModelError if none is left."""
    for values in (model.graph.output, model.graph.value_info):
        kept = [v for v in values if v.type.HasField("tensor_type")]
        del values[:]
        values.extend(kept)
    if not model.graph.output:
        raise ModelError(f"{path} has no output that is a tensor. Export it without ZipMap, with its scores")


def _sorted(model: ModelProto) -> ModelProto:
    """The model with every node behind those that it reads from: converters to float16 leave it otherwise."""
    import onnx_ir
    from onnx_ir.passes.common import TopologicalSortPass

    ordered: ModelProto = onnx_ir.to_proto(TopologicalSortPass()(onnx_ir.from_proto(model)).model)
    return ordered


def _without_dead_ends(model: ModelProto) -> ModelProto:
    """The model without the nodes and weights that no output needs."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    pruned: ModelProto = onnx_ir.to_proto(RemoveUnusedNodesPass()(onnx_ir.from_proto(model)).model)
    return pruned


_TOO_LARGE = "an ONNX message ends at 2 GiB, and so does a bundle's file. Export a smaller model"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _parsed(path: Path) -> ModelProto:
    """The message in a file. Raises UsageError for another kind of file, and for versions unknown here."""
    onnx = need("onnx", extra="compress")
    if path.is_dir():
        raise UsageError(f"{path} is a folder. MODEL wants the .onnx file itself")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} is {_gib(path.stat().st_size)}; {_TOO_LARGE}")
    data = path.read_bytes()
    for place, mark, what in OTHER_FILES:
        if data[place : place + len(mark)] == mark:
            raise UsageError(f"{path} {what}")
    try:
        model: ModelProto = onnx.load_model_from_string(data)
    except Exception as e:
        raise UsageError(
            f"{path} is not a whole ONNX file: {refusal(e)} ({len(data)} bytes). Copy or export it again"
        ) from e
    if not model.graph.node:
        raise UsageError(f"{path} is not a whole ONNX file: it holds no operator. Copy or export it again")
    newest = {
        "IR version": (model.ir_version, onnx.IR_VERSION),
        "opset": (_opset(model), onnx.defs.onnx_opset_version()),
    }
    for what, (has, known) in newest.items():
        if has > known:
            raise UsageError(
                f"{path} has {what} {has}; onnx {onnx.__version__} here reads up to {known}. Export it for "
                f"an older version, like {what} {min(known, 18 if what == 'opset' else 10)}"
            )
    return model


def _opset(model: ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _outside(model: ModelProto) -> Iterator[Any]:
    """Tensors whose values are in another file."""
    import onnx

    for graph in _graphs(model.graph):
        constants = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
        for tensor in (*graph.initializer, *constants):
            if onnx.external_data_helper.uses_external_data(tensor):
                yield tensor


def _location(tensor: Any) -> list[str]:
    return [entry.value for entry in tensor.external_data if entry.key == "location"]


def _formed(given: ModelProto, path: Path) -> tuple[ModelProto, list[str], list[str]]:
    """(the model in the form that edgepv wants, kinds of numbers that became float32, what was changed)."""
    import onnx
    import onnx_ir
    from onnx_ir.passes import common

    notes = []
    model = onnx_ir.from_proto(given)
    for tidy in (
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    ):
        model = tidy(model).model
    converted: ModelProto = onnx_ir.to_proto(model)
    opset = _opset(converted)
    if opset < OLDEST_OPSET:
        try:
            converted = onnx.version_converter.convert_version(converted, OLDEST_OPSET)
        except Exception as e:
            raise ModelError(
                f"{path} is written in opset {opset}, and onnx cannot convert it to {OLDEST_OPSET} "
                f"({refusal(e)}). Export it with opset {OLDEST_OPSET} or newer"
            ) from e
        converted.ir_version = max(converted.ir_version, 8)
        notes.append(f"the file is written in opset {opset}; it was converted to {OLDEST_OPSET}")
    kinds = _widen(converted)
    if kinds:
        converted = _without_idle_casts(converted)
        notes.append(f"{' and '.join(kinds)} inside became float32")
    return converted, kinds, notes


def _without_idle_casts(model: ModelProto) -> ModelProto:
    """The model without casts of float32 to float32, which float16 had needed."""
    import onnx
    import onnx_ir
    from onnx_ir.passes.common import IdentityEliminationPass

    inferred = onnx.shape_inference.infer_shapes(model).graph
    stored = {i.name for i in inferred.initializer if i.data_type == onnx.TensorProto.FLOAT}
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    real = stored | {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    for node in model.graph.node:
        to = next((a.i for a in node.attribute if a.name == "to"), None)
        if node.op_type == "Cast" and to == onnx.TensorProto.FLOAT and node.input[0] in real:
            node.op_type = "Identity"
            del node.attribute[:]
    cleaned: ModelProto = onnx_ir.to_proto(IdentityEliminationPass()(onnx_ir.from_proto(model)).model)
    return cleaned


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all that its nodes hold."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _widen(model: ModelProto) -> list[str]:
    """Make float16, bfloat16 and float64 float32 throughout, in place; the kinds that there were."""
    from onnx import TensorProto, numpy_helper

    wide = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64"}
    seen: dict[int, str] = {}

    def tensor(proto: Any) -> None:
        if proto.data_type in wide:
            seen[proto.data_type] = wide[proto.data_type]
            values = numpy_helper.to_array(proto).astype(np.float32)
            proto.CopyFrom(numpy_helper.from_array(values, proto.name))

    for graph in _graphs(model.graph):
        for proto in graph.initializer:
            tensor(proto)
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            if kind.elem_type in wide:
                seen[kind.elem_type] = wide[kind.elem_type]
                kind.elem_type = TensorProto.FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype", "output_datatype") and attribute.i in wide:
                    attribute.i = TensorProto.FLOAT
                if attribute.HasField("t"):
                    tensor(attribute.t)
    return [name for kind, name in wide.items() if kind in seen]


@dataclass(frozen=True)
class Way:
    """How the video of a spec becomes what a graph takes: its axes in the order ``perm``, then ``shape``."""

    what: str
    perm: tuple[int, ...] | None
    shape: tuple[int, ...]


def _ways(spec: ModelSpec) -> list[Way]:
    """What a graph may want in place of the spec's own shape, that first: as other exporters lay it out."""
    if spec.input.layout == "NCHW":
        n, c, h, w = spec.input.shape
        return [
            Way("NCHW", None, (n, c, h, w)),
            Way("NHWC", (0, 2, 3, 1), (n, h, w, c)),
            Way("NTCHW of one frame", None, (n, 1, c, h, w)),
            Way("NTHWC of one frame", (0, 2, 3, 1), (n, 1, h, w, c)),
            Way("CHW", None, (c, h, w)),
            Way("HWC", (0, 2, 3, 1), (h, w, c)),
        ]
    n, c, t, h, w = spec.input.shape
    frames, last = (0, 2, 1, 3, 4), (0, 2, 3, 4, 1)
    return [
        Way("NCTHW", None, (n, c, t, h, w)),
        Way("NTCHW", frames, (n, t, c, h, w)),
        Way("NTHWC", last, (n, t, h, w, c)),
        Way("TCHW, the frames in place of a batch", frames, (t, c, h, w)),
        Way("THWC, the frames in place of a batch", last, (t, h, w, c)),
        Way("N(TC)HW, the channels of one frame behind those of the other", frames, (n, t * c, h, w)),
        Way("NMCTHW, of one crop", None, (n, 1, c, t, h, w)),
    ]


def _video(path: Path, fed: dict[str, Port], spec: ModelSpec) -> str:
    """The input that is the video: the one that the spec names, else the first that fits, else the first."""
    if not fed:
        raise ModelError(f"{path} has no input; its first is the video, float32 {spec.input.shape}")
    fitting = [name for name, port in fed.items() if any(_fits(port, way) for way in _ways(spec))]
    return spec.input.name if spec.input.name in fed else (*fitting, *fed)[0]


def _fits(port: Port, way: Way) -> bool:
    """Whether an input has the axes of a way, each of its length or free."""
    same = len(way.shape) == len(port.shape)
    return same and all(isinstance(a, str) or a == b for a, b in zip(port.shape, way.shape))


def _way(path: Path, video: str, port: Port, spec: ModelSpec) -> Way:
    """The first way in which a video input fits the spec. Raises UsageError if none does."""
    for way in _ways(spec):
        if _fits(port, way):
            return way
    batch, *rest = port.shape
    if isinstance(batch, int) and batch > 1 and tuple(rest) == spec.input.shape[1:]:
        raise ModelError(
            f"{path}: input '{video}' is {port}, a batch of {batch}; a camera gives one input at a time. "
            "Export it with batch 1, or with a free batch axis"
        )
    raise UsageError(
        f"{path}: input '{video}' is {port}, the spec says {spec.input.shape}. "
        "Export it with this static shape, or correct the spec"
    )


def _fix_axes(path: Path, model: ModelProto, video: str, way: Way) -> list[str]:
    """Set the free axes of the video to what the spec says, wherever they are named; what was set."""
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    graph = model.graph
    value = next(i for i in graph.input if i.name == video)
    dims = value.type.tensor_type.shape.dim
    free = [(d.dim_param or "?", n) for d, n in zip(dims, way.shape) if not d.dim_value]
    for name, n in free:
        if any(other != n for other_name, other in free if other_name == name != "?"):
            raise UsageError(
                f"{path}: the axis '{name}' of input '{video}' would be {n} and something else by the spec. "
                "Export it with static shapes"
            )
        if name != "?":
            make_dim_param_fixed(graph, name, n)
    for d, n in zip(dims, way.shape):
        d.dim_value = n
    if not free:
        return []
    del graph.value_info[:]
    told = ", ".join(f"{name} = {n}" for name, n in free)
    return [f"free axes of input '{video}' were set to the spec's: {told}"]


def _check_inputs(path: Path, spec: ModelSpec, video: str, inputs: dict[str, Port]) -> None:
    """Raise UsageError naming the first input of another kind than a host feeds."""
    for name, port in inputs.items():
        taken = ("float32", "uint8") if name == video else ("float32",)
        if port.dtype not in taken:
            what = "the video" if name == video else "a state"
            raise ModelError(
                f"{path}: input '{name}' is {port}, and {what} is fed as float32. "
                "Export the model with a float32 input, and cast inside it"
            )
    if inputs[video].dtype == "uint8" and (any(spec.mean) or any(v != 1 for v in spec.std)):
        raise UsageError(
            f"{path}: input '{video}' is {inputs[video]}, so the model normalises pixels itself. "
            "Leave mean and std out of the spec"
        )


def _outputs(
    path: Path, given: ModelProto, model: ModelProto, *, excused: bool
) -> tuple[dict[str, Port], bool]:
    """(name -> what each output really is, whether it was compared): the model runs on noise, now and before.

    excused: the file has numbers that ONNX Runtime may have no operators in. Raises UsageError if ONNX
    Runtime cannot run the model, or if the two answer differently.
    """
    wanted = [o.name for o in model.graph.output]
    kinds = {i.name: _port(i).dtype for i in given.graph.input}
    after = _session(path, model)
    try:
        before = _session(path, given)
    except UsageError:
        if not excused:
            raise
        before = None
    ports: dict[str, Port] = {}
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    rng = np.random.default_rng(0)
    for _ in range(PROBES):
        feeds = {i.name: _noise(rng, _port(i)) for i in model.graph.input}
        new = old = _answered(path, after, wanted, feeds)
        if before:
            plain = {name: value.astype(kinds[name]) for name, value in feeds.items()}
            old = _answered(path, before, wanted, plain)
        for name, a, b in zip(wanted, old, new):
            if not isinstance(b, np.ndarray):
                ports[name] = Port("undefined", ())
                continue
            ports[name] = Port(str(b.dtype), b.shape)
            if b.dtype.kind == "f":
                rows.append((np.asarray(a, np.float64).ravel(), b.astype(np.float64).ravel()))
    _compare(path, given, rows)
    return ports, before is not None


def _session(path: Path, model: ModelProto) -> Any:
    """An ONNX Runtime session of a model. Raises ModelError naming the operator that it does not know."""
    quantized = is_quantized(model)  # fused as an engine would: that is where its operators are refused
    options = ort_options(rewrites="all" if quantized else "basic")
    try:
        return ort_session(model.SerializeToString(), options)
    except Exception as e:
        nodes = [node for graph in _graphs(model.graph) for node in graph.node]
        if odd := sorted({f"'{n.op_type}' of domain '{n.domain}'" for n in nodes if not _known(n)}):
            raise ModelError(
                f"{path}: no engine here knows the operator {', '.join(odd)}. Export it with the standard "
                "operators of ONNX"
            ) from e
        cure = ". Quantize it in Q/DQ format, or give the float model" if quantized else ""
        raise ModelError(f"{path}: ONNX Runtime cannot run it: {refusal(e)[:200]}{cure}") from e


def _known(node: NodeProto) -> bool:
    """Whether an operator is one of ONNX's own, or one of ONNX Runtime's."""
    import onnx

    return node.domain.startswith("com.microsoft") or onnx.defs.has(node.op_type, node.domain)


def _noise(rng: np.random.Generator, port: Port) -> np.ndarray:
    """Values for an input of this kind; a free axis is 1."""
    shape = [n if isinstance(n, int) else 1 for n in port.shape]
    if port.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape).astype(np.float32)


def _answered(path: Path, session: Any, wanted: list[str], feeds: dict[str, np.ndarray]) -> list[Any]:
    try:
        return list(session.run(wanted, feeds))
    except Exception as e:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
        raise ModelError(f"{path} does not run on {shapes}: {refusal(e)}") from e


def _compare(path: Path, given: ModelProto, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Raise EngineError if a model does not answer as its file, (before, after) on the same noise."""
    from onnx import TensorProto

    narrow = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    half = any(w.data_type in narrow for g in _graphs(given.graph) for w in g.initializer)
    least = SAME_FP16_DB if half else SAME_DB
    for before, after in rows:
        if not np.isfinite(before).all():
            continue  # judged on real clips, as any original
        ratio = sqnr_db(before, after) if before.shape == after.shape else 0.0
        if ratio < least:
            raise EngineError(
                f"{path}: converted for edgepv it answers otherwise ({ratio:.0f} dB of {least:.0f}). Export "
                f"it again, with opset {OLDEST_OPSET} to 18 and in float32"
            )


def _states(
    spec: ModelSpec, names: Sequence[str], inputs: dict[str, Port], outputs: dict[str, Port]
) -> dict[str, str]:
    """State input -> the output that it is fed from: NAME_next, of one state alone the only one that fits."""
    sources = {name: f"{name}_next" for name in names}
    answers = {a.name for a in spec.answers}
    if len(names) == 1 and sources[names[0]] not in outputs and spec.input.layout == "NCHW":
        same = [o for o, port in outputs.items() if port == inputs[names[0]] and o not in answers]
        fitting = [o for o in outputs if o not in same and _alike(outputs[o], spec.answer.shape)]
        if len(same) == len(fitting) == 1:
            return {names[0]: same[0]}
    return sources


def _check_states(
    path: Path, states: dict[str, str], inputs: dict[str, Port], outputs: dict[str, Port]
) -> None:
    """Raise ModelError for an input that is neither the video nor a state that a host can carry."""
    for name, output in states.items():
        port, fresh = inputs[name], outputs.get(output)
        if fresh is None:
            raise ModelError(
                f"{path}: input '{name}' {port} is neither the video nor a state: there is no output "
                f"'{output}' to feed it from. Make it a constant of the model, or give it that output"
            )
        if fresh != port or port.static != port.shape or len(port.shape) > 4:
            raise ModelError(
                f"{path}: state input '{name}' is {port}, its output '{output}' is {fresh}. "
                "Make both float32 of one static shape with at most 4 axes"
            )


def _answers(path: Path, spec: ModelSpec, states: dict[str, str], outputs: dict[str, Port]) -> dict[str, str]:
    """Name in the spec -> output of the graph. Raises UsageError where that is not certain."""
    free = [o for o in outputs if o not in states.values()]
    wanted = {a.name: a.shape for a in spec.answers}
    fitting = [o for o in free if all(_alike(outputs[o], s) for s in wanted.values())]
    chosen = {name: name for name in wanted if name in free}
    if not chosen and len(wanted) == 1:
        if len(fitting) > 1:
            raise UsageError(
                f"{path}: the outputs {', '.join(fitting)} all have the shape of the answer. Name the one "
                f"that counts '{next(iter(wanted))}', or export the model with that one alone"
            )
        one = fitting or (free if len(free) == 1 else [])
        chosen = dict(zip(wanted, one))
    wrong = next((n for n, o in chosen.items() if not _alike(outputs[o], wanted[n])), None)
    if wrong is None and len(chosen) == len(wanted):
        return chosen
    listed = ", ".join(f"{o} {outputs[o]}" for o in free) or "none"
    told = ", ".join(f"{a.name} {a.shape}" for a in spec.answers)
    raise UsageError(
        f"{path}: the spec wants the answers {told} in floating point; the file has the outputs {listed}. "
        "Correct labels or outputs in the spec, or export the model without what is behind its head"
    )


def _alike(port: Port, shape: Sequence[int]) -> bool:
    """Whether an output is an answer of this shape, but for axes of length 1."""
    numbers = [n for n in port.shape if n != 1]
    return port.dtype in ("float32", "float64", "float16") and numbers == [n for n in shape if n != 1]


def _enter(model: ModelProto, spec: ModelSpec, video: str, way: Way) -> tuple[str, list[str]]:
    """(name of the input, what was changed): put in front of a graph what makes its input of the video."""
    from onnx import TensorProto, helper, numpy_helper

    graph, notes, nodes = model.graph, [], []
    value = next(i for i in graph.input if i.name == video)
    pixels = value.type.tensor_type.elem_type == TensorProto.UINT8
    if not pixels and way.shape == spec.input.shape:
        return video, []
    entered = "edgepv_video"
    at = entered

    def then(op: str, *constants: np.ndarray, **attributes: Any) -> None:
        nonlocal at
        operands = [f"edgepv_{op}_{i}" for i in range(len(constants))]
        graph.initializer.extend(numpy_helper.from_array(c, n) for c, n in zip(constants, operands))
        output = f"edgepv_{op}"
        nodes.append(helper.make_node(op, [at, *operands], [output], **attributes))
        at = output

    if pixels:
        then("Mul", np.array(255, np.float32))
        then("Round")
        notes.append(f"input '{video}' takes pixels from 0 to 255, which the model normalises itself")
    if way.perm:
        then("Transpose", perm=way.perm)
    if prod(way.shape) != 0 and len(way.shape) != len(spec.input.shape):
        then("Reshape", np.array(way.shape, np.int64))
    if way.shape != spec.input.shape:
        notes.append(f"input '{video}' is laid out as {way.what}; edgepv's order is turned into it")
    readers = [n for g in _graphs(graph) for n in g.node if video in n.input]
    floats = all(n.op_type == "Cast" and n.attribute[0].i == TensorProto.FLOAT for n in readers)
    if pixels and not floats:
        then("Cast", to=TensorProto.UINT8)
    nodes[-1].output[0] = video
    rest = [i for i in graph.input if i.name != video]
    first = helper.make_tensor_value_info(entered, TensorProto.FLOAT, spec.input.shape)
    del graph.input[:]
    graph.input.extend([first, *rest])
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *old])
    del graph.value_info[:]
    return entered, notes


def _leave(
    model: ModelProto,
    spec: ModelSpec,
    states: dict[str, str],
    answers: dict[str, str],
    outputs: dict[str, Port],
) -> tuple[dict[str, str], list[str]]:
    """(name in the spec -> output, what was changed): keep the answers and states, each in its shape."""
    from onnx import TensorProto, helper, numpy_helper

    graph, left, notes = model.graph, {}, []
    kept = [(fresh, outputs[fresh].static) for fresh in states.values()]
    for answer in spec.answers:
        theirs = answers[answer.name]
        left[answer.name] = theirs
        if outputs[theirs].shape != answer.shape:
            left[answer.name] = f"edgepv_{theirs}"
            shape = numpy_helper.from_array(np.array(answer.shape, np.int64), f"edgepv_{theirs}_shape")
            graph.initializer.append(shape)
            graph.node.append(helper.make_node("Reshape", [theirs, shape.name], [left[answer.name]]))
            notes.append(f"output '{theirs}' {outputs[theirs]} is taken as {answer.name} {answer.shape}")
    kept = [*((left[a.name], a.shape) for a in spec.answers), *kept]
    spare = [o.name for o in graph.output if o.name not in (*answers.values(), *(n for n, _ in kept))]
    if spare:
        notes.append(f"outputs that the spec does not name are left out: {', '.join(spare)}")
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in kept)
    return left, notes


def _name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own: layers are chosen and left out by name."""
    taken: set[str] = set()
    for i, node in enumerate(n for graph in _graphs(model.graph) for n in graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{i}_of_edgepv"
        taken.add(node.name)
