"""nvidia-modelopt's quantization of an ONNX model, run by ONNX Runtime; calibrated without a graphics card.

default: entropy ranges, and what stays float becomes float16. tuned: ranges from minimum to maximum, and what
stays float stays float32. It places INT8 for TensorRT, which its documentation has its files run with: what
ONNX Runtime takes for them on a CPU is not what it is made for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from serve import Case, Infer, onnxruntime_session


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.onnx."""
    from modelopt.onnx.quantization import quantize

    feeds = case.calibration()
    together = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    asked = {"calibration_method": "max", "high_precision_dtype": "fp32"} if tuned else {}
    quantize(
        str(case.model),
        quantize_mode="int8",
        calibration_data=together,
        calibration_eps=["cpu"],
        output_path=str(out / "int8.onnx"),
        **asked,
    )
    return {"file": "int8.onnx", "engine": "onnxruntime"}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by ONNX Runtime."""
    return onnxruntime_session(out / made["file"])
