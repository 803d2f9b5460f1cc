"""aimet-onnx: a simulation of quantization, calibrated and written as Q/DQ, run by ONNX Runtime.

default: as its documentation calls it. tuned: batch norms folded and layers equalised before, ranges of
activations by its enhanced search.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve import Case, Infer, onnxruntime_session


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.onnx."""
    import onnx
    from aimet_onnx.quantsim import QuantizationSimModel

    model, asked = onnx.load(case.model), {}
    if tuned:
        from aimet_onnx.common.defs import QuantScheme
        from aimet_onnx.cross_layer_equalization import equalize_model

        equalize_model(model)
        asked = {"quant_scheme": QuantScheme.post_training_tf_enhanced}
    simulated = QuantizationSimModel(model, providers=["CPUExecutionProvider"], **asked)
    simulated.compute_encodings(case.calibration())
    onnx.save(simulated.to_onnx_qdq(), out / "int8.onnx")
    return {"file": "int8.onnx", "engine": "onnxruntime"}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by ONNX Runtime."""
    return onnxruntime_session(out / made["file"])
