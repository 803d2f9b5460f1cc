"""Is it really INT8? Ask each engine what it runs, by convolution and by matrix product."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edgepv.base.engines import ENGINES
from edgepv.base.optional import need
from edgepv.base.registry import resolve
from edgepv.base.vet import vet_onnx
from edgepv.errors import UsageError
from edgepv.export import islands
from edgepv.export.islands import Float
from edgepv.types import Audit, ConvPlan, Variant

CONV_OPS = ("Conv", "ConvTranspose", "FusedConv", "QLinearConv", "NhwcFusedConv", "ConvInteger")
INTEGER_PRODUCTS = (
    "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "DynamicQuantizeMatMul",
)  # fmt: skip
PRODUCT_OPS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", *INTEGER_PRODUCTS)
PLANNED = {"convolutions": ("Conv", "ConvTranspose"), "products": ("MatMul", "Gemm")}


def audit(variant: Variant, folder: Path) -> Audit:
    """Planned and executed precision of every convolution and matrix product of one artifact.

    planned: what the file asks for. executed: what the loaded engine reports; None where the engine
    cannot be asked on this machine.
    """
    path, how = folder / variant.path, ENGINES.find(variant.engine)
    if how.audit:
        audited: Audit = resolve(how.audit)(variant, path)
        return audited
    data = path.read_bytes() if path.suffix == ".onnx" else None
    rows, products = (
        tuple(ConvPlan(n, p, None) for n, p in (planned_onnx(data, path.name, kind) if data else {}).items())
        for kind in PLANNED
    )
    why = "is not on this machine" if how.stand_in else "does not tell"
    return Audit(f"planned only: the engine {why}", rows, products=products)


def planned_onnx(model: bytes, name: str, kind: str = "convolutions") -> dict[str, str]:
    """Name of a node of this kind -> int8 when both of its factors come out of a DequantizeLinear.

    kind: of ``PLANNED``.
    """
    import onnx

    vet_onnx(model, name)
    try:
        nodes = onnx.load_model_from_string(model).graph.node
    except Exception as e:  # protobuf raises a type of its own
        raise UsageError(f"{name} is not a whole ONNX file: {e}. Export the bundle again") from e
    dequantized = {name for n in nodes if n.op_type == "DequantizeLinear" for name in n.output}
    return {
        n.name or n.output[0]: "int8" if dequantized.issuperset(n.input[:2]) else "float"
        for n in nodes
        if n.op_type in PLANNED[kind]
    }


def of_onnxruntime(variant: Variant, path: Path) -> Audit:
    """Reads the graph ONNX Runtime made of the file: QLinearConv is integer, the others are float."""
    timed = variant.precision == "int8"
    with tempfile.TemporaryDirectory() as folder:
        graph, times = islands.optimised(path, Path(folder), timed=timed)
    inside = islands.of_onnxruntime(graph, times) if timed else None
    data = path.read_bytes()
    ops = {
        "convolutions": (CONV_OPS, ("QLinearConv", "ConvInteger")),
        "products": (PRODUCT_OPS, INTEGER_PRODUCTS),
    }
    rows = {}
    for kind, (known, integer) in ops.items():
        executed = [
            (n.name, "int8" if n.op_type in integer else "float") for n in graph.node if n.op_type in known
        ]
        rows[kind] = _pair(planned_onnx(data, path.name, kind), executed)
    return _told("ONNX Runtime's optimised graph", rows, inside)


def of_openvino(variant: Variant, path: Path) -> Audit:
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
    operators: dict[str, list[tuple[str, str]]] = {kind: [] for kind in PLANNED}
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = {k: str(op.get_rt_info()[k].astype(str)) for k in ("layerType", "runtimePrecision")}
        kind = _kind_of(info["layerType"])
        if kind:
            precision = info["runtimePrecision"].lower()
            operators[kind].append((op.get_friendly_name(), names.get(precision, precision)))
    data = path.read_bytes() if path.suffix == ".onnx" else None
    rows = {}
    for kind, executed in operators.items():
        planned = planned_onnx(data, path.name, kind) if data else {}
        if not planned:
            wanted = "int8" if variant.precision == "int8" and kind == "convolutions" else "float"
            planned = {name: wanted for name, _ in executed}
        rows[kind] = _pair(planned, executed)
    return _told("OpenVINO's runtime precisions", rows, inside)


def _kind_of(layer: str) -> str | None:
    """What an engine's kind of layer is counted as."""
    name = layer.upper().replace("_", "")
    if "CONV" in name and "CONVERT" not in name:
        return "convolutions"
    return "products" if "MATMUL" in name or "FULLYCONNECTED" in name else None


def of_litert(variant: Variant, path: Path) -> Audit:
    """Reads operators and tensor types of the .tflite; XNNPACK runs an int8 convolution in int8."""
    need("ai_edge_litert", extra="mobile")
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    types = {d["index"]: d["dtype"].__name__ for d in interpreter.get_tensor_details()}
    wanted = "int8" if variant.precision == "int8" else "float"
    rows: dict[str, tuple[ConvPlan, ...]] = dict.fromkeys(PLANNED, ())
    for i, op in enumerate(interpreter._get_ops_details()):
        kind = _kind_of(op["op_name"])
        if kind:
            stored = types[op["inputs"][2 if op["op_name"] == "TRANSPOSE_CONV" else 0]]
            runs = "int8" if stored == "int8" else "float"
            plan = wanted if kind == "convolutions" else runs
            rows[kind] += (ConvPlan(f"{op['op_name']}_{i}", plan, runs),)
    inside = islands.of_litert(interpreter) if variant.precision == "int8" else None
    return _told("LiteRT's operators and tensor types", rows, inside)


def _told(source: str, rows: dict[str, tuple[ConvPlan, ...]], inside: Float | None) -> Audit:
    audited = Audit(source, rows["convolutions"], products=rows["products"])
    if inside is None:
        return audited
    return replace(
        audited,
        islands=inside.islands,
        conversions=inside.conversions,
        conversions_share=inside.conversions_share,
    )


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
