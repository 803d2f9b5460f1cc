"""What a Jetson bundle says about itself: the precision of each layer, the scales, how to build.

All of it is read from the ONNX files. Nothing here ran on a Jetson: a plan is what was asked for,
and only a build on the device shows what TensorRT made of it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepv.export.tensorrt.form import float_reason
from edgepv.export.tensorrt.graph import quantize_nodes, weighted_nodes
from edgepv.targets.jetson import STRONG_SINCE, Device, number

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


Flags = dict[str, tuple[str, ...]]
"""Precision, "int8" or "fp16" -> the flags that ask trtexec for it."""


@dataclass(frozen=True)
class Build:
    """One TensorRT generation and how its trtexec is called.

    jetpack: the releases that bring it. opset_limit: newest ONNX opset it reads. flags: by precision. note:
    what a reader must know.
    """

    tensorrt: str
    jetpack: str
    opset_limit: int
    strongly_typed: bool
    flags: Flags
    note: str


_SPACE = "--workspace=1024"  # MiB
_WEAK: Flags = {"int8": ("--int8", "--fp16"), "fp16": ("--fp16",)}
_STRONG: Flags = {"int8": ("--stronglyTyped",), "fp16": ("--stronglyTyped",)}
WEAK_OPSET = 17
"""Of the files for weakly typed builds, where the device reads it: the newest that TensorRT 8 does."""
STRONG_OPSET = 19
"""Of the files for strongly typed builds: the first with float16 scales."""
LAYERS_SINCE = (8, 4)
"""The first TensorRT whose trtexec writes layer information with the flags used here."""
_DEFAULTS = "trtexec 11 uses CUDA graphs and skips transfers unless told otherwise: "

BUILDS = (
    Build(
        "8.0",
        "4.6",
        13,
        False,
        {"int8": ("--int8", "--fp16", _SPACE), "fp16": ("--fp16", _SPACE)},
        "trtexec gives the builder 16 MiB to work in unless told otherwise, and no layer information",
    ),
    Build("8.5", "5.1", 17, False, _WEAK, "--fp16 lets the layers outside Q/DQ run in FP16"),
    Build("8.6", "6.0", 17, False, _WEAK, "--fp16 lets the layers outside Q/DQ run in FP16"),
    Build("10.3", "6.1, 6.2", 20, False, _WEAK, "the last here whose flags set types"),
    Build("10.12", "7.0 to 7.2", 22, True, _STRONG, "types come from the file, 10.12 to 10.x"),
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
"""JetPack 4.6 has TensorRT 8.0.1, from 4.6.1 on 8.2.1; 5.1 has 8.5.2, 6.0 has 8.6.2, 6.1 and 6.2 have 10.3;
Thor: 7.0 has 10.13.3, 7.2 has 10.16.2; 7.2.2 allows 11.4.1. Flags after NVIDIA's migration pages for trtexec
8 to 10 to 11."""


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


def files(device: Device) -> Files:
    """The names of the files of a bundle for a device; the opset of the weakly typed is in theirs."""
    weak = min(WEAK_OPSET, device.opset)
    return Files(
        weak_int8=f"model-int8-op{weak}.onnx",
        strong_int8=f"model-int8-fp16-op{STRONG_OPSET}.onnx",
        weak_float=f"model-fp32-op{weak}.onnx",
        strong_float=f"model-fp16-op{STRONG_OPSET}.onnx",
    )


VARIANT_OF = {
    "weak_float": "tensorrt-fp32",
    "strong_float": "tensorrt-fp16",
    "weak_int8": "tensorrt-int8",
    "strong_int8": "tensorrt-int8-fp16",
}
"""File of ``Files`` -> the variant it is."""


def weak_opset(file: str) -> int | None:
    """The opset of a file for weakly typed builds; None for the others."""
    found = re.search(r"-op(\d+)\.onnx$", file)
    opset = int(found[1]) if found else STRONG_OPSET
    return None if opset == STRONG_OPSET else opset


def limits(device: Device, file: str) -> dict[str, Any]:
    """What ``rules.check`` must know of those who build a file: the oldest TensorRT, and the boards."""
    weak = weak_opset(file)
    versions = [v for v in device.tensorrt if (number(v) < STRONG_SINCE) == (weak is not None)]
    return {
        "opset_limit": weak or STRONG_OPSET,
        "tensorrt": number((versions or device.tensorrt)[0]),
        "dla": device.dla,
        "sparse": device.sparse,
    }


def builds(device: Device) -> tuple[Build, ...]:
    """The generations that a device may have, oldest first."""
    met = {max(i for i, b in enumerate(BUILDS) if number(b.tensorrt) <= number(v)) for v in device.tensorrt}
    return tuple(BUILDS[i] for i in sorted(met))


def proven_half(sound: Collection[str]) -> frozenset[str]:
    """Precisions of weakly typed builds that may use float16, by the variants that passed with all of it."""
    proof = {"int8": "tensorrt-int8-fp16", "fp16": "tensorrt-fp16"}
    return frozenset(precision for precision, name in proof.items() if name in sound)


def commands(device: Device, passed: Collection[str], *, half: Collection[str]) -> dict[str, tuple[str, ...]]:
    """TensorRT generation -> the trtexec commands of the engines that a device may build: INT8 and float.

    passed: names of the variants that passed their exam; no other file is built. half: see ``proven_half``.
    A strongly typed build whose float16 file did not pass builds the float32 one.
    """
    named = files(device)
    by_generation = {}
    for build in builds(device):
        calls = []
        for precision in ("int8", "fp16"):
            file = named.pick(strong=build.strongly_typed, precision=precision)
            free = precision in half
            if build.strongly_typed and precision == "fp16" and VARIANT_OF["strong_float"] not in passed:
                file, free = named.weak_float, False
            kind = "int8" if precision == "int8" else "fp16" if free or file == named.strong_float else "fp32"
            if VARIANT_OF[_field(named, file)] in passed:
                calls.append(_command(build, file, precision, kind, half=free))
        by_generation[build.tensorrt] = tuple(calls)
    return by_generation


def _field(named: Files, file: str) -> str:
    return next(field for field in VARIANT_OF if getattr(named, field) == file)


def _command(build: Build, file: str, precision: str, kind: str, *, half: bool) -> str:
    """One call of trtexec.

    Shapes are static, so no --shapes. The version is in the name of the engine, since an engine runs only on
    the TensorRT and the GPU that built it. Build both precisions on the device and keep the faster: INT8 is
    not always it. What each layer became is written as JSON beside the engine (``layers`` reads it).
    half: whether a weakly typed build may use float16; without --fp16 it keeps float32.
    """
    flags = [flag for flag in build.flags[precision] if half or flag != "--fp16"]
    stem = f"model-{kind}-trt{build.tensorrt}"
    told = ["--profilingVerbosity=detailed", f"--exportLayerInfo={stem}.layers.json"]
    if number(build.tensorrt) < LAYERS_SINCE:
        told = []
    return shlex.join(["trtexec", f"--onnx={file}", f"--saveEngine={stem}.engine", *flags, *told])


def precision_plan(model: ModelProto, *, fp16_flag: bool = True) -> list[dict[str, str]]:
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


def int8_convolutions(model: ModelProto) -> list[str]:
    """Names of the convolutions that are planned in INT8."""
    return [
        row["node"]
        for row in precision_plan(model)
        if row["precision"] == "int8" and row["op"] in ("Conv", "ConvTranspose")
    ]


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
