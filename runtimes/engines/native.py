"""The model's step as C, generated from its ONNX file and compiled for this processor; it keeps its states.

With a compiler and the package onnx on this machine, the C is made and compiled here, once, into the cache.
Without, the bundle's object for this kind of processor is loaded, if a signature vouches for it.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

from edgepv.base.engines import ENGINES
from edgepv.base.optional import present
from edgepv.base.vet import vet_code
from edgepv.errors import AbsentError, EngineError, TargetUnavailableError, UsageError, unknown
from edgepv.firmware.compiled import check_native, compiled_here
from edgepv.firmware.compiler import VARIABLE, compiler, processor_here
from edgepv.firmware.library import Library, Session, Status, StatusError
from edgepv.runtimes.engine import CancelledError, Read, check_inputs, expected_inputs
from edgepv.stream import Tensors
from edgepv.types import Variant

_loaded: dict[str, str] = {}
"""SHA-256 of the objects in memory, and where each lies."""


class Called:
    """A session in C, and what goes into it and comes out by name."""

    def __init__(self, variant: Variant, library: Library) -> None:
        self._name, self._answers = variant.name, variant.spec.answers
        self._input = variant.spec.input.name
        self._expected = expected_inputs(variant)
        self.session: Session = library.begin()

    def _checked(self, name: str, tensors: Tensors) -> np.ndarray:
        """One of the tensors as C walks it. Raises UsageError if it is of another kind."""
        given = {key: value for key, value in tensors.items() if key == name}
        check_inputs(given, {name: self._expected[name]})
        return np.ascontiguousarray(given[name])

    def _step(self, frame: np.ndarray) -> None:
        """Raises CancelledError, and EngineError for what is not finite."""
        try:
            self.session.step(frame)
        except StatusError as e:
            if e.status == Status.CANCELLED:
                raise CancelledError from e
            raise EngineError(f"{self._name}: {e}. Run edgepv verify") from e

    def _told(self) -> Tensors:
        """The answers to the last step, the caller's to keep."""
        values = [self.session.output(i) for i in range(len(self._answers))]
        return {one.name: value.reshape(one.shape).copy() for one, value in zip(self._answers, values)}


class StepInfer(Called):
    """``infer`` of a compiled model that steps: see ``edgepv.stream.KeepsStates``."""

    def __init__(self, variant: Variant, library: Library) -> None:
        super().__init__(variant, library)
        self._states = [state.name for state in variant.stream.states] if variant.stream else []
        self._taken = 0

    def __call__(self, inputs: Tensors) -> Tensors:
        """Step once with the frames among the inputs; the answers by name.

        Raises UsageError for frames of another kind, CancelledError, and EngineError for what is not finite.
        Then the frames of the chunk but the last one lie in C already: the next call begins with them.
        """
        for frame in self._checked(self._input, inputs)[self._taken :]:
            self._step(frame)
            self._taken += 1
        self._taken = 0
        return self._told()

    def write(self, name: str, value: np.ndarray) -> None:
        """Set a state before the next step. Raises UsageError for a state or a shape the model has not."""
        if name not in self._states:
            raise UsageError(unknown("state", name, self._states))
        self.session.write(self._states.index(name), self._checked(name, {name: value}))

    def reset(self) -> None:
        """Forget every frame."""
        self._taken = 0
        self.session.reset()


class WindowInfer(Called):
    """``infer`` of a compiled window: the host keeps the frames, and hands over all of them."""

    def __call__(self, inputs: Tensors) -> Tensors:
        """The answers to a clip (1, C, T, H, W), by name. Raises like ``StepInfer``."""
        clip = self._checked(self._input, inputs)
        frames = np.ascontiguousarray(clip[0].transpose(1, 0, 2, 3))
        self.session.write(0, frames[:-1])
        self._step(frames[-1])
        return self._told()


class NativeEngine:
    """One session of a compiled model, in the caller's thread whatever ``threads`` says."""

    def __init__(self, variant: Variant, library: Library) -> None:
        _check_same(variant, library)
        self.infer = StepInfer(variant, library) if variant.stream else WindowInfer(variant, library)

    def cancel(self) -> None:
        """End the step that runs, at its next layer."""
        self.infer.session.cancel()

    def close(self) -> None:
        """End the session; its memory goes with this object."""
        self.infer.session.end()


def _check_same(variant: Variant, library: Library) -> None:
    """Raise EngineError if the object is of another model than the variant says."""
    info, (height, width) = library.info, variant.spec.input.shape[-2:]
    theirs = (info.width, info.height, info.outputs, (info.digest or b"").decode("ascii", "replace"))
    if theirs != (width, height, len(variant.spec.answers), variant.sha256):
        raise EngineError(
            f"{variant.name}: the compiled object is of another model than {variant.path}. "
            "Export the bundle again"
        )


def open(variant: Variant, read: Read, threads: int) -> NativeEngine:
    """Compile and load a model, or load what the bundle brings.

    Raises TargetUnavailableError if this machine can do neither, UsageError and EngineError like
    ``compiled_here``.
    """
    check_native(variant)
    chosen = compiler()
    if chosen is None:
        why, cure = f"no C compiler is here, or {VARIABLE} is none", "Install gcc or clang"
    elif not present("onnx"):
        why, cure = "the package onnx is not here", "pip install 'edgepv[native]'"
    else:
        onnx = read(variant.path)
        try:
            return NativeEngine(variant, Library(str(compiled_here(variant, onnx, chosen))))
        except OSError as e:
            why, cure = f"{e.filename or 'the cache'}: {e.strerror}", "Name another folder in EDGEPV_CACHE"
    return NativeEngine(variant, Library(_brought(variant, read, why, cure)))


def _brought(variant: Variant, read: Read, why: str, cure: str) -> str:
    """The path of the bundle's object for this processor. why: it is not compiled here; cure: of that."""
    processor = processor_here()
    known = ENGINES.find("native").beside
    if processor is None or processor.suffix not in known:
        raise TargetUnavailableError(
            f"{variant.name} cannot be had: {why}, and no bundle brings it for this processor. {cure}"
        )
    name = variant.path.rpartition(".")[0] + processor.suffix
    try:
        data = read(name)
        vet_code(data, name)
    except (AbsentError, FileNotFoundError) as e:
        raise TargetUnavailableError(
            f"{variant.name} cannot be had: {why}, and a bundle brings objects only of the variant that runs"
            f". {cure}"
        ) from e
    except (UsageError, OSError) as e:
        raise TargetUnavailableError(f"{variant.name} cannot be had: {why}; {e}") from e
    return _in_memory(data)


def _in_memory(data: bytes) -> str:
    """The path of these bytes, held in memory: what was checked is what is loaded.

    It stays for as long as the process: a path that was loaded before is the same object to the loader.
    """
    key = hashlib.sha256(data).hexdigest()
    if key not in _loaded:
        with os.fdopen(os.memfd_create("edgepv-native"), "wb", closefd=False) as file:
            file.write(data)
            _loaded[key] = f"/proc/self/fd/{file.fileno()}"
    return _loaded[key]
