"""The board's engine: ONNX behind a mark of its own, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from edgepv.errors import UsageError
from edgepv.runtimes.engine import Read, check_inputs, expected_inputs
from edgepv.stream import Tensors
from edgepv.types import Audit, ConvPlan, Variant

MARK = b"BOARD"


class BoardEngine:
    """One loaded file."""

    def __init__(self, variant: Variant, model: bytes) -> None:
        self._variant = variant
        self._session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; tensors by our names."""
        check_inputs(inputs, expected_inputs(self._variant))
        names = self._variant.outputs
        feeds = {self._variant.inputs[name]: value for name, value in inputs.items()}
        return dict(zip(names, self._session.run(list(names.values()), feeds)))

    def close(self) -> None:
        """Nothing to free."""


def open(variant: Variant, read: Read, threads: int) -> BoardEngine:
    """Load a .board file, if the note beside it is there. Raises UsageError for any other file."""
    data, note = read(variant.path), read(variant.path.removesuffix(".board") + ".note")
    if not data.startswith(MARK) or not note:
        raise UsageError(f"{variant.path} is no file of the board")
    return BoardEngine(variant, data[len(MARK) :])


def audit(variant: Variant, path: Path) -> Audit:
    """What the board says of itself."""
    return Audit("the board's own word", (ConvPlan("all of it", "float", "float"),))
