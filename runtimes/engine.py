"""What an engine is, and the table of engines: adding one is one file and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from edgepv.errors import UsageError, unknown
from edgepv.stream import Tensors
from edgepv.types import Variant

Read: TypeAlias = Callable[[str], bytes]
"""Path of a file in a bundle -> its bytes, read once: ``Bundle.checked``, which compares their digest."""


class CancelledError(Exception):
    """An engine's call was ended from another thread; the states are as before the call."""


class Engine(Protocol):
    """One loaded model. ``infer`` takes and returns tensors by the variant's own names.

    An engine that can be stopped in the middle of a call has ``cancel()`` too: called from another thread it
    makes the call raise CancelledError soon; between calls it does nothing.
    """

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once. Raises UsageError if an input is missing or has the wrong dtype or shape."""

    def close(self) -> None:
        """Free the engine's memory."""


ENGINES = {
    "onnxruntime": "edgepv.runtimes.engines.ort",
    "openvino": "edgepv.runtimes.engines.ov",
    "litert": "edgepv.runtimes.engines.litert",
    "tensorrt": "edgepv.runtimes.engines.trt",
    "null": "edgepv.runtimes.engines.null",
}


def open_engine(variant: Variant, source: Path | Read, *, threads: int = 1) -> Engine:
    """Load the variant's file into the engine it names. source: the folder it lies in, or what reads it.

    The engine gets the very bytes that ``source`` gave, and none that could make it read outside of them
    (``base.vet``). Raises TargetUnavailableError if the engine is not on this machine, UsageError if the file
    is not readable by it.
    """
    if variant.engine not in ENGINES:
        raise UsageError(unknown("engine", variant.engine, ENGINES))
    module = importlib.import_module(ENGINES[variant.engine])
    read = source if callable(source) else lambda name: (source / name).read_bytes()
    engine: Engine = module.open(variant, read, threads)
    return engine


def check_names(variant: Variant, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Raise UsageError unless a file has the inputs and the outputs that its variant says."""
    theirs = {"input": set(inputs), "output": set(outputs)}
    for kind, ours in (("input", variant.inputs), ("output", variant.outputs)):
        wrong = [name for name in ours.values() if name not in theirs[kind]]
        if wrong:
            raise UsageError(
                f"{variant.path}: {unknown(kind, wrong[0], theirs[kind])} Export the bundle again"
            )
    if unfed := sorted(theirs["input"] - set(variant.inputs.values())):
        raise UsageError(f"{variant.path}: nothing feeds its input '{unfed[0]}'. Export the bundle again")


def check_inputs(inputs: Tensors, expected: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Compare names, dtypes and shapes before the engine sees them; engines report these badly."""
    if missing := sorted(set(expected) - set(inputs)):
        raise UsageError(f"input '{missing[0]}' is missing. The model wants {', '.join(expected)}")
    if extra := sorted(set(inputs) - set(expected)):
        raise UsageError(unknown("input", extra[0], expected))
    for name, (shape, dtype) in expected.items():
        got = inputs[name]
        if got.shape != shape or got.dtype != np.dtype(dtype):
            raise UsageError(f"input '{name}': expected {dtype} {shape}, got {got.dtype} {got.shape}")


def expected_inputs(variant: Variant) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every input of a variant, by our names."""
    model_input = variant.spec.input
    wanted: dict[str, tuple[tuple[int, ...], str]] = {
        model_input.name: (model_input.shape, model_input.dtype)
    }
    for state in variant.stream.states if variant.stream else ():
        wanted[state.name] = (state.shape, state.dtype)
    return wanted


def replay_variant(variant: Variant) -> Variant:
    """A TensorRT variant as ONNX Runtime runs it: the same file and numbers, not the same speed."""
    from dataclasses import replace

    return replace(variant, engine="onnxruntime")


def on_this_host(variant: Variant) -> Variant:
    """The variant as a machine without TensorRT can run it."""
    return replay_variant(variant) if variant.engine == "tensorrt" else variant
