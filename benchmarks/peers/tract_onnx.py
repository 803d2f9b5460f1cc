"""tract, which runs an ONNX file in float32; it quantizes nothing itself.

default: its float32. tuned: the file that ONNX Runtime's quantize_static makes, as tract can read Q/DQ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve import Case, Infer, Tensors


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Copy the file: tract reads it when it is opened."""
    data = case.quantized() if tuned else case.model.read_bytes()
    (out / "model.onnx").write_bytes(data)
    return {"file": "model.onnx", "engine": "tract", "int8": None if tuned else [0, 0]}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by tract."""
    import tract

    runnable = tract.onnx().load(str(out / made["file"])).into_model().into_runnable()

    def infer(feeds: Tensors) -> Tensors:
        found = runnable.run([feeds[name] for name in case.names["inputs"]])
        return case.by_name([value.to_numpy().copy() for value in found])

    return infer
