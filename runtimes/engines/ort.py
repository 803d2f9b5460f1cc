"""ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgepv.base.optional import SAFE_BITS, need, ort_options, ort_session
from edgepv.base.vet import vet_onnx
from edgepv.errors import EngineError
from edgepv.runtimes.engine import CancelledError, Read, check_inputs, check_names, expected_inputs
from edgepv.stream import Tensors
from edgepv.types import Variant

BROKEN_OPTIMIZERS = ["WeightBiasQuantization"]
"""Graph rewrites of ONNX Runtime 1.31 that change answers: this one gives a bias the product of two float16
scales, which float16 cannot hold (58 dB became 12 dB on a strongly typed file of a trained net)."""


MAX_HANDLES = 512  # more than the buffers of any net's states have places


class OrtEngine:
    """An ONNX Runtime session with ``threads`` threads inside one operator."""

    def __init__(self, variant: Variant, session: Any) -> None:
        check_names(
            variant, *([t.name for t in ports] for ports in (session.get_inputs(), session.get_outputs()))
        )
        self._session = session
        self._expected = expected_inputs(variant)
        self._inputs, self._outputs = variant.inputs, variant.outputs
        self._wanted = list(variant.outputs.values())
        self._options = need("onnxruntime", extra="cpu").RunOptions()
        self._fresh = variant.spec.input.name  # another array every time, unlike the states'
        self._binding: Any = None
        self._handles: dict[tuple[str, int], Any] = {}
        self._options.add_run_config_entry("gpu_graph_id", "0")  # what unset means; asking for it costs 40 us

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; tensors by our names."""
        check_inputs(inputs, self._expected)
        feeds = {self._inputs[name]: value for name, value in inputs.items()}
        with self._cancellable():
            values = self._session.run(self._wanted, feeds, self._options)
        return dict(zip(self._outputs, values))

    def infer_into(self, inputs: Tensors, into: Tensors) -> Tensors:
        """Like ``infer``; outputs named in ``into`` are written there (contiguous, of the right shape)."""
        check_inputs(inputs, self._expected)
        if self._binding is None:
            self._binding = self._session.io_binding()
        for name, value in inputs.items():
            if name == self._fresh:
                self._binding.bind_cpu_input(self._inputs[name], value)
            else:
                self._binding.bind_ortvalue_input(self._inputs[name], self._handle(name, value))
        for ours, theirs in self._outputs.items():
            if ours in into:
                self._binding.bind_ortvalue_output(theirs, self._handle(ours, into[ours]))
            else:
                self._binding.bind_output(theirs)
        with self._cancellable():
            self._session.run_with_iobinding(self._binding, self._options)
        outputs = dict(zip(self._outputs, self._binding.get_outputs()))
        return {ours: into[ours] if ours in into else value.numpy() for ours, value in outputs.items()}

    def _handle(self, name: str, array: np.ndarray) -> Any:
        """ONNX Runtime's own view of an array; a state's buffers come back again and again."""
        key = (name, array.ctypes.data)
        if key not in self._handles:
            if len(self._handles) >= MAX_HANDLES:
                self._handles.clear()
            self._handles[key] = need("onnxruntime", extra="cpu").OrtValue.ortvalue_from_numpy(array)
        return self._handles[key]

    @contextlib.contextmanager
    def _cancellable(self) -> Iterator[None]:
        """One call that ``cancel`` can end. ONNX Runtime looks at the flag between two nodes."""
        self._options.terminate = False
        try:
            yield
        except (
            Exception
        ) as e:  # onnxruntime says "Exiting due to terminate flag" in a RuntimeError of its own
            if self._options.terminate:
                raise CancelledError from e
            raise

    def cancel(self) -> None:
        """End the call that runs, at its next node."""
        self._options.terminate = True

    def close(self) -> None:
        """Free the session."""
        self._session = self._binding = None
        self._handles.clear()


def open(variant: Variant, read: Read, threads: int) -> OrtEngine:
    """Load an ONNX file. EngineError if ONNX Runtime refuses it, UsageError if it is not safe to open."""
    safe = variant.scheme is not None and variant.scheme.weight_bits <= SAFE_BITS
    providers = ("CPUExecutionProvider",)
    return OrtEngine(
        variant, session(read(variant.path), variant.path, threads, providers, exact_sums=not safe)
    )


def session(
    model: bytes,
    name: str,
    threads: int,
    providers: Sequence[Any],
    *,
    exact_sums: bool = True,
    alone: bool = False,
) -> Any:
    """An InferenceSession that keeps to ``threads`` threads and stays quiet on warnings.

    name: the file's. providers: names, or (name, options). exact_sums: see
    ``edgepv.base.optional.ort_options``. alone: whether it is an error if an operator is left to the CPU, as
    ONNX Runtime else does in silence with those that no provider takes (from its 1.16 on).
    """
    vet_onnx(model, name)
    options = ort_options(threads, exact_sums=exact_sums)
    if alone:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return ort_session(model, options, providers=providers, without=BROKEN_OPTIMIZERS)
    except Exception as e:  # onnxruntime raises a dozen types of its own
        raise EngineError(f"ONNX Runtime cannot load {name}: {first_line(e)}") from e


def build() -> str:
    """Which ONNX Runtime is here: its version, and what it says of its build."""
    ort = need("onnxruntime", extra="cpu")
    return f"onnxruntime {ort.__version__}, {ort.get_build_info().removeprefix('ORT Build Info: ')}"


def first_line(error: BaseException) -> str:
    """The first line of an engine's error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
