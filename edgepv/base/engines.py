"""The engines that run a variant, as data: which functions open and examine one. See ``EngineSpec``."""

from __future__ import annotations

from pathlib import PurePosixPath

from edgepv.base.registry import Registry
from edgepv.types import EngineSpec, Variant

ENGINES = Registry(
    "engine",
    "edgepv.engines",
    EngineSpec,
    {
        "onnxruntime": EngineSpec(
            opener="edgepv.runtimes.engines.ort:open",
            packages=("onnxruntime", "onnxruntime-gpu"),
            audit="edgepv.export.audit:of_onnxruntime",
            tensors="edgepv.export.parity:onnx_tensors",
            replays=(".onnx",),
            build="edgepv.runtimes.engines.ort:build",
            policy="intra-op {threads}, spinning; inter-op 1; sequential",
        ),
        "openvino": EngineSpec(
            opener="edgepv.runtimes.engines.ov:open",
            packages=("openvino",),
            audit="edgepv.export.audit:of_openvino",
            tensors="edgepv.export.parity:onnx_tensors",
            beside=(".bin",),
            build="edgepv.runtimes.engines.ov:build",
            policy="threads {threads}, streams 1",
        ),
        "litert": EngineSpec(
            opener="edgepv.runtimes.engines.litert:open",
            packages=("ai-edge-litert", "tflite-runtime"),
            audit="edgepv.export.audit:of_litert",
            tensors="edgepv.export.parity:litert_tensors",
            own_names=True,
            policy="threads {threads}, XNNPACK",
        ),
        "tensorrt": EngineSpec(
            opener="edgepv.runtimes.engines.trt:open",
            packages=("tensorrt",),
            tensors="edgepv.export.parity:onnx_tensors",
            stand_in="onnxruntime",
            here="edgepv.runtimes.engines.trt:here",
            kept="edgepv.runtimes.engines.trt:kept",
            build="edgepv.runtimes.engines.trt:build",
            policy="one CUDA stream",
        ),
        "onnxruntime-tensorrt": EngineSpec(
            opener="edgepv.runtimes.engines.ort_trt:open",
            packages=("onnxruntime-gpu", "onnxruntime"),
            tensors="edgepv.export.parity:onnx_tensors",
            stand_in="onnxruntime",
            replays=(".onnx",),
            build="edgepv.runtimes.engines.ort:build",
            policy="intra-op {threads}, spinning; inter-op 1; sequential",
        ),
        "native": EngineSpec(
            opener="edgepv.runtimes.engines.native:open",
            version="edgepv.firmware.compiler:version",
            beside=(".x86-64-v3.so", ".arm64.so"),
            replays=(".onnx",),
            policy="the caller's thread alone",
        ),
        "null": EngineSpec(opener="edgepv.runtimes.engines.null:open", policy="waits in the caller's thread"),
    },
)


def files_of(variant: Variant) -> tuple[str, ...]:
    """The paths of a variant's model file and of what may lie beside it."""
    path = PurePosixPath(variant.path)
    return (variant.path, *(str(path.with_suffix(s)) for s in ENGINES.find(variant.engine).beside))
