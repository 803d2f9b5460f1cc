"""NNCF's post-training quantization of an OpenVINO model.

default: as its documentation calls it. tuned: the mixed preset and the slow, accurate bias correction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve import Case, Infer, openvino_model


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.xml."""
    import nncf
    import openvino as ov

    feeds = nncf.Dataset(case.calibration())
    asked = {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False} if tuned else {}
    ov.save_model(nncf.quantize(ov.convert_model(str(case.model)), feeds, **asked), out / "int8.xml")
    return {"file": "int8.xml", "engine": "openvino"}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by OpenVINO."""
    return openvino_model(out / made["file"])
