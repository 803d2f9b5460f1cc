"""NNCF's quantization with accuracy control of an OpenVINO model.

What it keeps is how near the answers to the calibration inputs are to the float ones: of scores the share
with the same label, else 1 less the relative error. default: at most 0.01 of it is lost. tuned: 0.005.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from serve import Case, Infer, Tensors, openvino_model


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.xml."""
    import nncf
    import openvino as ov

    first = case.names["outputs"][0]
    model = ov.convert_model(str(case.model))
    exact = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    feeds = case.calibration()
    wanted = [exact(feed)[first].copy() for feed in feeds]

    def near(compiled: Any, items: Iterable[tuple[Tensors, np.ndarray]]) -> tuple[float, None]:
        values = [alike(compiled(feed)[first], answer) for feed, answer in items]
        return float(np.mean(values)), None

    made = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(feeds),
        validation_dataset=nncf.Dataset(list(zip(feeds, wanted))),
        validation_fn=near,
        max_drop=0.005 if tuned else 0.01,
    )
    ov.save_model(made, out / "int8.xml")
    return {"file": "int8.xml", "engine": "openvino"}


def alike(got: np.ndarray, wanted: np.ndarray) -> float:
    """1 for the same label, or for the same picture."""
    if wanted.ndim == 2:
        return float(got.argmax() == wanted.argmax())
    return 1 - float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by OpenVINO."""
    return openvino_model(out / made["file"])
