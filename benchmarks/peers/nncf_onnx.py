"""NNCF's post-training quantization of an ONNX model, run by ONNX Runtime.

default: as its documentation calls it. tuned: the mixed preset and the slow, accurate bias correction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve import Case, Infer, onnxruntime_session


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.onnx."""
    import nncf
    import onnx

    feeds = nncf.Dataset(case.calibration())
    asked = {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False} if tuned else {}
    onnx.save(nncf.quantize(onnx.load(case.model), feeds, **asked), out / "int8.onnx")
    return {"file": "int8.onnx", "engine": "onnxruntime"}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by ONNX Runtime."""
    return onnxruntime_session(out / made["file"])
