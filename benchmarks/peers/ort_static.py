"""ONNX Runtime's own quantize_static, after its quant_pre_process.

default: as its documentation calls it. tuned: unsigned activations and a scale for each channel of weights,
which its documentation advises for CPUs. Both are told to keep few activations at a time, which changes no
range: by default it keeps those of all inputs, 18 GB for pv-conv-small.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from serve import Case, Infer, onnxruntime_session


class Feeds:
    """Calibration inputs as its reader wants them."""

    def __init__(self, case: Case) -> None:
        self.left = iter(case.calibration())

    def get_next(self) -> Any:
        """The next, or None."""
        return next(self.left, None)


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.onnx."""
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(case.model), str(out / "prepared.onnx"))
    count = len(case.calibration())
    few = next(n for n in (8, 7, 6) if count % n)  # where nothing is left for the last turn it fails
    kinds: dict[str, Any] = {"extra_options": {"CalibMaxIntermediateOutputs": few}}
    if tuned:
        kinds |= {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(out / "prepared.onnx", out / "int8.onnx", Feeds(case), **kinds)
    (out / "prepared.onnx").unlink()
    if not tuned:
        shutil.copyfile(out / "int8.onnx", case.folder / "quantized.onnx")
    return {"file": "int8.onnx", "engine": "onnxruntime"}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by ONNX Runtime."""
    return onnxruntime_session(out / made["file"])
