"""TensorRT on the device, through ONNX Runtime's TensorRT execution provider.

The engine is built from the bundle's Q/DQ file on the device itself: TensorRT engines do not move
between devices. Nothing here is run on a machine without an NVIDIA GPU.
"""

from __future__ import annotations

from edgepv.base.optional import need
from edgepv.errors import TargetUnavailableError
from edgepv.runtimes.engine import Read
from edgepv.runtimes.engines.ort import OrtEngine, session
from edgepv.types import Variant

PROVIDER = "TensorrtExecutionProvider"


def open(variant: Variant, read: Read, threads: int) -> OrtEngine:
    """Build the engine on this device and load it. Raises TargetUnavailableError elsewhere."""
    ort = need("onnxruntime", extra="jetson")
    if PROVIDER not in ort.get_available_providers():
        raise TargetUnavailableError(
            "no TensorRT on this machine: its ONNX Runtime has no TensorRT provider. Run the bundle on "
            "the Jetson, or replay its Q/DQ file here with --engine onnxruntime"
        )
    providers = (PROVIDER, "CPUExecutionProvider")
    return OrtEngine(variant, session(read(variant.path), variant.path, threads, providers))
