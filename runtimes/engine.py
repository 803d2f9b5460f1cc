"""What an engine is, and how one is opened; ``edgepv.base.engines`` has the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from edgepv.base.engines import ENGINES
from edgepv.base.registry import resolve
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


def open_engine(variant: Variant, source: Path | Read, *, threads: int = 1) -> Engine:
    """Load the variant's file into the engine it names. source: the folder it lies in, or what reads it.

    The engine gets the very bytes that ``source`` gave, and none that could make it read outside of them
    (``base.vet``). Raises TargetUnavailableError if the engine is not on this machine, UsageError if the file
    is not readable by it.
    """
    opener = resolve(ENGINES.find(variant.engine).opener)
    read = source if callable(source) else lambda name: (source / name).read_bytes()
    engine: Engine = opener(variant, read, threads)
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


def on_this_host(variant: Variant) -> Variant:
    """The variant as a machine that packs it runs it: on its engine, or on what stands in for that.

    The same file and numbers, not the same speed.
    """
    stand_in = ENGINES.find(variant.engine).stand_in
    return replace(variant, engine=stand_in) if stand_in else variant


def on_this_device(variant: Variant) -> Variant:
    """The variant as a machine that was given a bundle runs it: on its engine if that is here."""
    here = ENGINES.find(variant.engine).here
    return variant if here and resolve(here)() else on_this_host(variant)
