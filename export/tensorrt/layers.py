"""Is it really INT8? Read what TensorRT made of a file: the layer information of the built engine.

The file is written on the device by ``trtexec --profilingVerbosity=detailed --exportLayerInfo=FILE``,
as the bundle's build.sh does. No real Jetson's file was read yet: the forms below are those of public
text, most of it from desktop GPUs, and the tests write them by hand.

* Without detailed verbosity ``Layers`` is a list of names: 8.4 (NVIDIA/trt-samples-for-hackathon-cn #18),
  10.0.1 (NVIDIA/TensorRT #4048) and 24.06's 10.1 (#4020).
* Detailed, a layer has Name, LayerType, Inputs and Outputs; a tensor has "Format/Datatype", a sentence
  such as "Thirty-two wide channel vectorized row major Int8 format"; a convolution has its weights' type.
  8.2's developer guide, #3737 (early 2024, names joined by "||" too), #4020 (10.1, with Metadata).
* Layers of the graph compiler (LayerType gemm, correlation, kgen; names such as __myl_Conv_myl0_3) give a
  bare "Int8", "Half", "Float", and name their ONNX nodes in Metadata only: "[ONNX Layer: a]", one after
  the other with U+001E or U+001F between. Described for 10 and 11 by public forks of NVIDIA's cookbook.
* 11 lists "I/O Tensors" for Bindings and splits "Format/DataType" (NVIDIA's migration page from 10 to 11).
  No layer of such a file was found in public, so both spellings, "DataType" and "Datatype", are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepv.base.files import read_json
from edgepv.errors import UsageError
from edgepv.export import islands
from edgepv.export.audit import PLANNED, planned_onnx
from edgepv.types import Audit, ConvPlan, Variant

Layer = dict[str, Any]

TYPES = {
    "int8": "int8",
    "fp16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp32": "float",
    "float": "float",
}
TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
TYPE = re.compile(rf"\b({'|'.join(TYPES)})\b", re.IGNORECASE)
TACTIC = re.compile(r"_(i8i32|f16f16|f16f32|tf32f32|f32f32)_")
"""What a kernel multiplies and adds up in, as its name has it: ..._i8i8_i8i32_f32_... is INT8."""
MULTIPLIES = {"i8i32": "int8", "f16f16": "fp16", "f16f32": "fp16", "tf32f32": "float", "f32f32": "float"}
CONVOLVES = re.compile("conv(?!ert)|correlation|gemm|matmul|matrixmultiply")
"""In the kind of a kernel which convolves; small convolutions run as matrix products."""
CONVERTS = frozenset(("reformat", "quantize", "dequantize", "cast"))
MOVES = frozenset(("noop", "constant", "shuffle", "slice", "gather", "concat", "concatenation", "identity"))
CURE = "Build again with the bundle's build.sh: it passes --profilingVerbosity=detailed to trtexec"


def of_bundle(layers: Path, read: Callable[[str], bytes], variants: Sequence[Variant]) -> Audit:
    """Audit of an engine built on a Jetson, from the layers.json that build.sh wrote beside it.

    variants: of the bundle whose files ``read`` gives. Raises UsageError for a file whose name fits none of
    them, and for a model that is no whole ONNX file.
    """
    wanted = next((p for p in ("int8", "fp16", "fp32") if f"-{p}-" in layers.name), None)
    files = [v for v in variants if v.engine == "tensorrt" and (v.precision == "int8") == (wanted == "int8")]
    if wanted is None or not files:
        raise UsageError(
            f"{layers.name} fits no TensorRT file of this bundle. Give build.sh's file under its own name, "
            "like model-int8-trt10.3.layers.json"
        )
    data, name = read(files[0].path), files[0].path
    convolutions, products = (planned_onnx(data, name, kind) for kind in PLANNED)
    return audit(layers, convolutions, products)


def audit(layers: Path, planned: Mapping[str, str], products: Mapping[str, str] | None = None) -> Audit:
    """Planned and executed precision of every convolution and matrix product of one TensorRT engine.

    layers: what trtexec wrote. planned, products: ONNX node -> "int8" or "float", in the file the engine was
    built from. executed: "int8", "fp16", "bf16" or "float"; None where no layer names the node, or where the
    layers that name it do not settle it. Every reformat is a conversion here, also one which only changes
    the layout; its time is unknown. Float islands are sought only where INT8 was planned.
    Raises UsageError if the file has no layer details, or names none of the planned convolutions.
    """
    rows = _layers(layers)
    executed = {node: _executed(node, rows) for node in planned}
    if planned and not any(_named(node, rows) for node in planned):
        raise UsageError(
            f"{layers.name} names none of the {len(planned)} convolutions of the bundle's file, so it says "
            "nothing about them. Give the file that build.sh of this bundle wrote beside the engine"
        )
    source = f"TensorRT's layer information, {layers.name}"
    convolutions = tuple(ConvPlan(node, plan, executed[node]) for node, plan in planned.items())
    multiplied = tuple(ConvPlan(n, plan, _executed(n, rows)) for n, plan in (products or {}).items())
    if "int8" not in planned.values():
        return Audit(source, convolutions, products=multiplied)
    grouping = islands.grouped([_node(row) for row in rows])
    return Audit(source, convolutions, grouping.islands, grouping.conversions, products=multiplied)


def _layers(path: Path) -> list[Layer]:
    """The layers which are told in detail. A name alone among them tells no precision and is left out."""
    data = read_json(path)
    rows = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise UsageError(
            f'{path.name} has no list "Layers", so it is not TensorRT\'s layer information. {CURE}'
        )
    detailed = [row for row in rows if isinstance(row, dict)]
    if not detailed:
        said = f"names its {len(rows)} layers and says nothing else of them" if rows else "has no layer"
        raise UsageError(f"{path.name} {said}: the engine was built without layer details. {CURE}")
    return detailed


def _executed(node: str, rows: Sequence[Layer]) -> str | None:
    """Precision of the kernel that convolves. Other kernels which name the node can only rule INT8 out."""
    naming = _named(node, rows)
    kernels = [row for row in naming if _convolves(row)]
    said = {_precision(row) for row in kernels or naming}
    if len(said) != 1:
        return None
    (only,) = said
    return only if kernels or only != "int8" else None


def _named(node: str, rows: Sequence[Layer]) -> list[Layer]:
    return [row for row in rows if _kind(row) not in CONVERTS and node in set(_nodes(row))]


def _nodes(row: Layer) -> Iterator[str]:
    """ONNX nodes of a layer: from Metadata, and from a fused name, "conv1 + relu1 || conv2 + relu2"."""
    yield from re.findall(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\s\[]|$)", str(row.get("Metadata") or ""))
    yield from re.split(r" \+ | \|\| ", str(row.get("Name") or ""))


def _kind(row: Layer) -> str:
    return str(row.get("LayerType") or "").lower()


def _convolves(row: Layer) -> bool:
    return bool(CONVOLVES.search(f"{_kind(row)} {row.get('ParameterType') or ''}".lower()))


def _precision(row: Layer) -> str | None:
    """The type of its weights and inputs where they agree, else what its kernel's name multiplies in."""
    weights = row.get("Weights")
    said = set(_types(row, "Inputs"))
    if isinstance(weights, dict):
        said |= _type(weights.get("Type"))
    if len(said) == 1:
        return said.pop()
    tactic = TACTIC.search(str(row.get("TacticName") or ""))
    return MULTIPLIES[tactic[1]] if tactic else None


def _types(row: Layer, side: str) -> set[str]:
    """Types of the layer's tensors that hold numbers to compute with; shapes and flags have none here."""
    return {kind for tensor in _tensors(row, side) for kind in _tensor_type(tensor)}


def _tensor_type(tensor: Layer) -> set[str]:
    return next((kind for key in TYPE_KEYS if (kind := _type(tensor.get(key)))), set())


def _type(text: Any) -> set[str]:
    match = TYPE.search(str(text or ""))
    return {TYPES[match[1].lower()]} if match else set()


def _tensors(row: Layer, side: str) -> list[Layer]:
    return [tensor for tensor in row.get(side) or () if isinstance(tensor, dict)]


def _node(row: Layer) -> islands.Node:
    inputs, outputs = (
        tuple(str(tensor.get("Name")) for tensor in _tensors(row, side)) for side in ("Inputs", "Outputs")
    )
    return islands.Node(str(row.get("Name")), str(row.get("LayerType")), _runs(row), inputs, outputs, None)


def _runs(row: Layer) -> islands.Runs:
    """A layer whose types are not told, or of integers only, is no float island: that is not known."""
    if _kind(row) in CONVERTS:
        return "convert"
    precision = _precision(row)
    if _kind(row) in MOVES or not (precision or _types(row, "Inputs")):
        return "move"
    return "int8" if precision == "int8" else "float"
