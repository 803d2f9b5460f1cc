"""LiteRT (TFLite) on the CPU with XNNPACK, through ai-edge-litert or the older tflite-runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepv.base.optional import litert_interpreter
from edgepv.base.quiet import hush_native
from edgepv.base.vet import vet_tflite
from edgepv.errors import EngineError
from edgepv.runtimes.engine import Read, check_inputs, check_names, expected_inputs
from edgepv.runtimes.engines.ort import first_line
from edgepv.stream import Tensors
from edgepv.types import Variant


class LiteRtEngine:
    """An interpreter with its tensors allocated."""

    def __init__(self, variant: Variant, interpreter: Any) -> None:
        self.interpreter = interpreter
        self._expected = expected_inputs(variant)
        self._runner = interpreter.get_signature_runner()
        check_names(variant, self._runner.get_input_details(), self._runner.get_output_details())
        self._inputs, self._outputs = variant.inputs, variant.outputs
        kinds = {name: np.dtype(d["dtype"]) for name, d in self._runner.get_input_details().items()}
        self._whole = {name: kind for name, kind in kinds.items() if kind.kind in "iu"}

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; tensors by our names."""
        check_inputs(inputs, self._expected)
        theirs = {self._inputs[name]: value for name, value in inputs.items()}
        for name, kind in self._whole.items():  # the converter makes 32 bits of whole numbers of 64
            theirs[name] = theirs[name].astype(kind, copy=False)
        result = self._runner(**theirs)
        return {ours: result[theirs] for ours, theirs in self._outputs.items()}

    def close(self) -> None:
        """Free the interpreter."""
        self._runner = self.interpreter = None


def open(variant: Variant, read: Read, threads: int) -> LiteRtEngine:
    """Load a .tflite file. Raises EngineError if LiteRT refuses it, UsageError if it is not safe."""
    interpreter_type = litert_interpreter()
    model = read(variant.path)
    vet_tflite(model, variant.path)
    try:
        with hush_native():
            interpreter = interpreter_type(model_content=model, num_threads=threads)
            interpreter.allocate_tensors()
        return LiteRtEngine(variant, interpreter)
    except (RuntimeError, ValueError) as e:
        raise EngineError(f"LiteRT cannot load {variant.path}: {first_line(e)}") from e
