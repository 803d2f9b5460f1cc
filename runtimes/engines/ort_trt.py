"""TensorRT through ONNX Runtime's provider: for a device whose Python has no package tensorrt.

It builds its engine when it opens, and keeps it in the cache. States are copied to the host and back at each
step; the engine "tensorrt" keeps them on the device.
"""

from __future__ import annotations

from typing import Any

from edgepv.base import cache
from edgepv.base.optional import need
from edgepv.errors import EngineError, TargetUnavailableError
from edgepv.runtimes.engine import Read
from edgepv.runtimes.engines.ort import OrtEngine, session
from edgepv.types import Variant

PROVIDER = "TensorrtExecutionProvider"


def open(variant: Variant, read: Read, threads: int) -> OrtEngine:
    """Build the engine on this device, or take it from the cache, and load it.

    Raises TargetUnavailableError if ONNX Runtime has no TensorRT here, EngineError if it would have run the
    file, or a part of it, on something else.
    """
    ort = need("onnxruntime", extra="jetson")
    if PROVIDER not in ort.get_available_providers():
        raise TargetUnavailableError(
            "no TensorRT on this machine: its ONNX Runtime has no TensorRT provider. Run the bundle on "
            "the Jetson, or replay its Q/DQ file here with --engine onnxruntime"
        )
    wanted = ((PROVIDER, options(variant)),)
    try:
        opened = session(read(variant.path), variant.path, threads, wanted, alone=True)
    except EngineError as e:
        raise EngineError(f"{e}. Use the engine tensorrt: edgepv build BUNDLE") from e
    refuse_fall_back(opened.get_providers(), variant.path)
    return OrtEngine(variant, opened)


def options(variant: Variant) -> dict[str, Any]:
    """Options of the provider. INT8, FP16 and both caches are off by default there.

    INT8 goes by the file's Q/DQ, and FP16 is asked for only where the file itself is in float16: in a file
    that keeps float32, nobody proved that float16 holds its values.
    """
    folder = str(cache.root() / "onnxruntime-tensorrt" / variant.sha256[:32])
    half = variant.precision == "fp16" or variant.name.endswith("-fp16")
    return {
        "trt_int8_enable": variant.precision == "int8",
        "trt_fp16_enable": half,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache.root() / "onnxruntime-tensorrt"),
    }


def refuse_fall_back(providers: list[str], name: str) -> None:
    """Raise EngineError unless TensorRT is the first provider that opened: others take over in silence."""
    if not providers or providers[0] != PROVIDER:
        raise EngineError(
            f"ONNX Runtime opened {name} without TensorRT (with {', '.join(providers) or 'nothing'}). "
            f"Its TensorRT or "
            "CUDA does not fit it: use the engine tensorrt, or install the onnxruntime-gpu of this JetPack"
        )
