"""What TensorRT's layer information says of a layer: which ONNX nodes it is of, and what it computes in.

No real Jetson's file was read yet: the forms below are those of public text, most of it from desktop GPUs,
and the tests write them by hand. Python 3.8 reads this file too: a device looks at its engine with it.

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
from typing import Any, Dict, Iterator, Sequence

Layer = Dict[str, Any]
"""One layer as TensorRT tells it."""

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


def executed(node: str, rows: Sequence[Layer]) -> str | None:
    """Precision of the kernel that convolves. Other kernels which name the node can only rule INT8 out."""
    naming = named(node, rows)
    kernels = [row for row in naming if _convolves(row)]
    said = {precision(row) for row in kernels or naming}
    if len(said) != 1:
        return None
    (only,) = said
    return only if kernels or only != "int8" else None


def named(node: str, rows: Sequence[Layer]) -> list[Layer]:
    """The layers that are of an ONNX node, but for those that only convert."""
    return [row for row in rows if kind(row) not in CONVERTS and node in set(nodes_of(row))]


def nodes_of(row: Layer) -> Iterator[str]:
    """ONNX nodes of a layer: from Metadata, and from a fused name, "conv1 + relu1 || conv2 + relu2"."""
    yield from re.findall(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\s\[]|$)", str(row.get("Metadata") or ""))
    yield from re.split(r" \+ | \|\| ", str(row.get("Name") or ""))


def kind(row: Layer) -> str:
    """Its LayerType in lower case."""
    return str(row.get("LayerType") or "").lower()


def _convolves(row: Layer) -> bool:
    return bool(CONVOLVES.search(f"{kind(row)} {row.get('ParameterType') or ''}".lower()))


def precision(row: Layer) -> str | None:
    """The type of its weights and inputs where they agree, else what its kernel's name multiplies in."""
    weights = row.get("Weights")
    said = set(types(row, "Inputs"))
    if isinstance(weights, dict):
        said |= _type(weights.get("Type"))
    if len(said) == 1:
        return said.pop()
    tactic = TACTIC.search(str(row.get("TacticName") or ""))
    return MULTIPLIES[tactic[1]] if tactic else None


def types(row: Layer, side: str) -> set[str]:
    """Types of the layer's tensors that hold numbers to compute with; shapes and flags have none here."""
    return {said for tensor in tensors(row, side) for said in _tensor_type(tensor)}


def _tensor_type(tensor: Layer) -> set[str]:
    return next((said for key in TYPE_KEYS if (said := _type(tensor.get(key)))), set())


def _type(text: Any) -> set[str]:
    match = TYPE.search(str(text or ""))
    return {TYPES[match[1].lower()]} if match else set()


def tensors(row: Layer, side: str) -> list[Layer]:
    """Its "Inputs" or "Outputs", as far as they are told in detail."""
    return [tensor for tensor in row.get(side) or () if isinstance(tensor, dict)]
