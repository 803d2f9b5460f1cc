"""Is it really INT8? Ask each engine what it runs, convolution by convolution."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from edgepv.errors import UsageError
from edgepv.export import islands, trt_layers
from edgepv.export.islands import Float
from edgepv.optional import need
from edgepv.types import Audit, ConvPlan, Variant
from edgepv.vet import vet_onnx

CONV_OPS = ("Conv", "ConvTranspose", "FusedConv", "QLinearConv", "NhwcFusedConv", "ConvInteger")


def audit(variant: Variant, folder: Path) -> Audit:
    """Planned and executed precision of every convolution of one artifact.

    planned: what the file asks for. executed: what the loaded engine reports; None where the engine
    cannot be asked on this machine.
    """
    path = folder / variant.path
    readers = {"onnxruntime": _onnxruntime, "openvino": _openvino, "litert": _litert}
    if variant.engine in readers:
        return readers[variant.engine](variant, path)
    planned = _planned_onnx(path.read_bytes(), path.name) if path.suffix == ".onnx" else {}
    rows = tuple(ConvPlan(name, precision, None) for name, precision in planned.items())
    return Audit("planned only: the engine is not on this machine", rows)


def of_layers(layers: Path, read: Callable[[str], bytes], variants: Sequence[Variant]) -> Audit:
    """Audit of an engine built on a Jetson, from the layers.json that build.sh wrote beside it.

    variants: of the bundle whose files ``read`` gives. Raises UsageError for a file whose name fits none of
    them, and for a model that is no whole ONNX file.
    """
    wanted = next((p for p in ("int8", "fp16") if f"-{p}-" in layers.name), None)
    files = [v for v in variants if v.engine == "tensorrt" and (v.precision == "int8") == (wanted == "int8")]
    if wanted is None or not files:
        raise UsageError(
            f"{layers.name} fits no TensorRT file of this bundle. Give build.sh's file under its own name, "
            "like model-int8-trt10.3.layers.json"
        )
    return trt_layers.audit(layers, _planned_onnx(read(files[0].path), files[0].path))


def _planned_onnx(model: bytes, name: str) -> dict[str, str]:
    """Convolution name -> int8 when its data input comes out of a DequantizeLinear."""
    import onnx

    vet_onnx(model, name)
    try:
        nodes = onnx.load_model_from_string(model).graph.node
    except Exception as e:  # protobuf raises a type of its own
        raise UsageError(f"{name} is not a whole ONNX file: {e}. Export the bundle again") from e
    dequantized = {name for n in nodes if n.op_type == "DequantizeLinear" for name in n.output}
    return {
        n.name: "int8" if n.input[0] in dequantized and n.input[1] in dequantized else "float"
        for n in nodes
        if n.op_type in ("Conv", "ConvTranspose")
    }


def _onnxruntime(variant: Variant, path: Path) -> Audit:
    """Reads the graph ONNX Runtime made of the file: QLinearConv is integer, the others are float."""
    timed = variant.precision == "int8"
    with tempfile.TemporaryDirectory() as folder:
        graph, times = islands.optimised(path, Path(folder), timed=timed)
    inside = islands.of_onnxruntime(graph, times) if timed else None
    planned = _planned_onnx(path.read_bytes(), path.name)
    executed = [
        (n.name, "int8" if n.op_type in ("QLinearConv", "ConvInteger") else "float")
        for n in graph.node
        if n.op_type in CONV_OPS
    ]
    return _told("ONNX Runtime's optimised graph", _pair(planned, executed), inside)


def _openvino(variant: Variant, path: Path) -> Audit:
    """Reads OpenVINO's runtime model: each convolution names the precision it runs in."""

    ov = need("openvino", extra="cpu")
    compiled = ov.Core().compile_model(
        str(path),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if variant.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": 1,
            "PERF_COUNT": True,
        },
    )
    inside = islands.of_openvino(compiled) if variant.precision == "int8" else None
    names = {"u8": "int8", "i8": "int8", "f32": "float", "bf16": "bf16", "f16": "fp16"}
    executed = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = {k: str(op.get_rt_info()[k].astype(str)) for k in ("layerType", "runtimePrecision")}
        if "Convolution" in info["layerType"]:
            kind = info["runtimePrecision"].lower()
            executed.append((op.get_friendly_name(), names.get(kind, kind)))
    planned = _planned_onnx(path.read_bytes(), path.name) if path.suffix == ".onnx" else {}
    if not planned:
        wanted = variant.precision if variant.precision == "int8" else "float"
        planned = {name: wanted for name, _ in executed}
    return _told("OpenVINO's runtime precisions", _pair(planned, executed), inside)


def _litert(variant: Variant, path: Path) -> Audit:
    """Reads operators and tensor types of the .tflite; XNNPACK runs an int8 convolution in int8."""

    need("ai_edge_litert", extra="mobile")
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    types = {d["index"]: d["dtype"].__name__ for d in interpreter.get_tensor_details()}
    wanted = "int8" if variant.precision == "int8" else "float"
    rows = []
    for i, op in enumerate(interpreter._get_ops_details()):
        if "CONV" in op["op_name"]:
            kind = types[op["inputs"][2 if op["op_name"] == "TRANSPOSE_CONV" else 0]]
            rows.append(ConvPlan(f"{op['op_name']}_{i}", wanted, "int8" if kind == "int8" else "float"))
    inside = islands.of_litert(interpreter) if variant.precision == "int8" else None
    return _told("LiteRT's operators and tensor types", tuple(rows), inside)


def _told(source: str, convolutions: tuple[ConvPlan, ...], inside: Float | None) -> Audit:
    if inside is None:
        return Audit(source, convolutions)
    return Audit(source, convolutions, inside.islands, inside.conversions, inside.conversions_share)


def _pair(planned: dict[str, str], executed: list[tuple[str, str]]) -> tuple[ConvPlan, ...]:
    """Match executed convolutions to planned ones by name; engines append suffixes to names."""
    left = dict(executed)
    rows = []
    for node, plan in planned.items():
        match = (
            node
            if node in left
            else next(
                (name for name in left if name.startswith((f"{node}_quant", f"{node}/", f"{node}."))), None
            )
        )
        rows.append(ConvPlan(node, plan, left.pop(match) if match else None))
    unknown = [r for r in rows if r.executed is None]
    if len(unknown) == len(left):  # same number, other names: the order of the graph pairs them
        leftover = iter(left.values())
        rows = [ConvPlan(r.node, r.planned, r.executed or next(leftover)) for r in rows]
    return tuple(rows)
