"""What a Jetson bundle says about itself: the precision of each layer, the scales, how to build.

All of it is read from the ONNX files. Nothing here ran on a Jetson: a plan is what was asked for,
and only a build on the device shows what TensorRT made of it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgepv.export.tensorrt.form import float_reason
from edgepv.export.tensorrt.graph import quantize_nodes, weighted_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


Flags = dict[str, tuple[str, ...]]
"""Precision, "int8" or "fp16" -> the flags that ask trtexec for it."""


@dataclass(frozen=True)
class Build:
    """One TensorRT generation and how its trtexec is called.

    jetpack: the releases that bring it, None where none does. opset_limit: newest ONNX opset it
    reads, None where that was not found. flags: by precision. note: what a reader must know.
    """

    tensorrt: str
    jetpack: str | None
    opset_limit: int | None
    strongly_typed: bool
    flags: Flags
    note: str


_WEAK: Flags = {"int8": ("--int8", "--fp16"), "fp16": ("--fp16",)}
_STRONG: Flags = {"int8": ("--stronglyTyped",), "fp16": ("--stronglyTyped",)}
_DEFAULTS = "trtexec 11 uses CUDA graphs and skips transfers unless told otherwise: "

BUILDS = (
    Build("8.5", "5.1", 17, False, _WEAK, "--fp16 lets the layers outside Q/DQ run in FP16"),
    Build("8.6", "6.0", 17, False, _WEAK, "--fp16 lets the layers outside Q/DQ run in FP16"),
    Build("10.3", "6.1, 6.2", None, False, _WEAK, "the last here whose flags set types"),
    Build("10.12", "7.0 to 7.2", None, True, _STRONG, "types come from the file, 10.12 to 10.x"),
    Build(
        "11",
        "7.2.2",
        25,
        True,
        _STRONG,
        "types always come from the file: --int8 and --fp16 are gone, --stronglyTyped says what is "
        f"so anyway. {_DEFAULTS}its times do not compare with those of trtexec 10",
    ),
)
"""JetPack 5.1 has TensorRT 8.5.2, 6.0 has 8.6.2, 6.1 and 6.2 have 10.3; Thor: 7.0 has 10.13.3, 7.2
has 10.16.2; 7.2.2 allows 11.4.1. Flags after NVIDIA's migration pages for trtexec 8 to 10 to 11."""


@dataclass(frozen=True)
class Files:
    """Names of the ONNX files in a bundle, by how they are built.

    weak: opset 17, float32 scales. strong: opset 19, float16. Each with Q/DQ and, as the fallback
    to compare with, without.
    """

    weak_int8: str
    strong_int8: str
    weak_float: str
    strong_float: str

    def pick(self, *, strong: bool, precision: str) -> str:
        """The file for a build of that typing and precision ("int8" or "fp16")."""
        int8, floating = (
            (self.strong_int8, self.strong_float) if strong else (self.weak_int8, self.weak_float)
        )
        return int8 if precision == "int8" else floating


def trtexec_lines(
    files: Files,
    *,
    precision: Literal["int8", "fp16"] = "int8",
    engine: str = "model",
    half: bool = True,
) -> dict[str, str]:
    """TensorRT generation -> the command that builds an engine on the device.

    half: False where float16 was proven wrong: weakly typed builds then keep float32, as --fp16 frees them to
    use float16 in any layer.

    Shapes are static, so no --shapes. engine: stem of the engine file; the version is added, since
    an engine runs only on the TensorRT and the GPU that built it. Build both precisions on the
    device and keep the faster: INT8 is not always it. What each layer became is written as JSON
    beside the engine (``trt_layers`` reads it): trtexec has both flags since 8.4.
    """
    lines = {}
    for build in BUILDS:
        source = files.pick(strong=build.strongly_typed, precision=precision)
        flags = build.flags[precision]
        kind: str = precision
        if not half and not build.strongly_typed:
            flags = tuple(flag for flag in flags if flag != "--fp16")
            kind = "fp32" if precision == "fp16" else precision
        stem = f"{engine}-{kind}-trt{build.tensorrt}"
        words = [
            "trtexec",
            f"--onnx={source}",
            f"--saveEngine={stem}.engine",
            *flags,
            "--profilingVerbosity=detailed",
            f"--exportLayerInfo={stem}.layers.json",
        ]
        lines[build.tensorrt] = shlex.join(words)
    return lines


def precision_plan(model: ModelProto, *, fp16_flag: bool = True) -> list[dict[str, Any]]:
    """Per convolution and matrix product: ``node``, ``op``, ``precision`` as planned, and ``why``.

    fp16_flag: whether a float32 file will be built with --fp16, which lets its float layers run
    in FP16; a float16 file needs no flag.
    """
    floating = "fp16" if fp16_flag or _has_fp16(model) else "fp32"
    quantized = bool(quantize_nodes(model, weights=False))
    dequantized = {name for n in model.graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    plan = []
    for node in weighted_nodes(model):
        int8 = dequantized.issuperset(node.input[:2])
        why = "its input and its weights are in Q/DQ" if int8 else _why(model, node, quantized)
        plan.append(
            {
                "node": node.name,
                "op": node.op_type,
                "precision": "int8" if int8 else floating,
                "why": why,
            }
        )
    return plan


def calibration_table(model: ModelProto) -> dict[str, float]:
    """Activation tensor -> its scale, in the tensor's unit per integer step, by tensor name."""
    from onnx import numpy_helper

    inits = {init.name: init for init in model.graph.initializer}
    return {
        node.input[0]: float(numpy_helper.to_array(inits[node.input[1]]))
        for node in sorted(quantize_nodes(model, weights=False), key=lambda n: n.input[0])
    }


def _why(model: ModelProto, node: NodeProto, quantized: bool) -> str:
    if not quantized:
        return "the file has no Q/DQ"
    return float_reason(model, node) or "kept in float by request"


def _has_fp16(model: ModelProto) -> bool:
    from onnx import TensorProto

    return any(init.data_type == TensorProto.FLOAT16 for init in model.graph.initializer)
