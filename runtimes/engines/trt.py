"""TensorRT by JetPack's own ``tensorrt``: the engine that ``edgepv build`` made of a bundle's file.

The states stay in the GPU's memory (``runtimes.trt.engine``). An engine is never built here: that takes
minutes, and an engine that nobody proved on its golden answers may answer anything.
"""

from __future__ import annotations

import functools

import numpy as np

from edgepv.base.optional import present
from edgepv.runtimes.engine import Read, check_inputs, expected_inputs
from edgepv.runtimes.trt import cuda, device, kit, store
from edgepv.runtimes.trt.bundle import model_of
from edgepv.runtimes.trt.engine import TrtEngine
from edgepv.stream import Tensors
from edgepv.types import Variant, encode


class TrtInfer:
    """``infer`` of an engine that keeps its states on the device: see ``edgepv.stream.KeepsStates``."""

    def __init__(self, variant: Variant, engine: TrtEngine) -> None:
        self._engine, self._input = engine, variant.spec.input.name
        self._expected = {self._input: expected_inputs(variant)[self._input]}

    def __call__(self, inputs: Tensors) -> Tensors:
        """Step once with the frame among the inputs; the answers by name, the caller's to keep."""
        check_inputs({name: value for name, value in inputs.items() if name == self._input}, self._expected)
        return self._engine.advance(inputs)

    def reset(self) -> None:
        """Forget every frame."""
        self._engine.forget()

    def write(self, name: str, value: np.ndarray) -> None:
        """Set a state before the next step. Raises UsageError for a state or a shape the model has not."""
        self._engine.write(name, value)


class NativeTrtEngine:
    """One engine of TensorRT's. computes: the precision whose tolerance its answers have."""

    def __init__(self, variant: Variant, engine: TrtEngine, computes: str) -> None:
        self.infer, self.computes = TrtInfer(variant, engine), computes
        self._engine = engine

    def close(self) -> None:
        """Free the engine and its states."""
        self._engine.close()


def open(variant: Variant, read: Read, threads: int) -> NativeTrtEngine:
    """Open the engine that was built here of the variant's file.

    Raises TargetUnavailableError without a GPU, without tensorrt, for a file that is for another TensorRT,
    and if it was not built here yet; UsageError for an engine of another device.
    """
    return NativeTrtEngine(variant, *kit.open_model(model_of(encode(variant))))


@functools.cache
def here() -> bool:
    """Whether this machine runs engines itself: it has a GPU and tensorrt, and needs no stand-in."""
    return bool(cuda.device_count()[0]) and present("tensorrt")


def build() -> str:
    """Which TensorRT is here; JetPack's brings no metadata of a Python package."""
    return f"tensorrt {device.tensorrt().__version__}"


def kept(digest: str) -> tuple[str, ...]:
    """The variants of a bundle that ``edgepv build`` found fit on this device, the kept one first."""
    return store.kept(digest, device.find()) if here() else ()
