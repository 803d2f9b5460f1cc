"""The one door to heavy libraries: keep them quiet, import late, and say the cure when one is missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from edgepv.errors import TargetUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

SAFE_BITS = 7
"""Weights of -64 to 64: two products of such a weight and an uint8 are below 2 ** 15 together."""

SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime since 1.29; it also writes a device id below ~/.cache
    "MLFLOW_DISABLE_TELEMETRY": "true",  # mlflow since 3.2
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, which comes with litert-torch
}


def send_nothing() -> None:
    """Turn off what libraries report to their vendors; done before any of them is imported.

    What the user chose stays: a variable that is set, or OpenVINO's consent file. OpenVINO and NNCF
    read no variable for this, but do without openvino_telemetry where it cannot be imported.
    """
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    if not _openvino_may_report():
        # None is Python's own mark of a module that must not be imported
        sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))


def _openvino_may_report() -> bool:
    """Whether the user said yes: ``opt_in_out --opt_in`` writes a 1."""
    consent = os.path.expanduser("~/intel/openvino_telemetry")  # noqa: PTH111  pathlib would slow --help
    try:
        with open(consent, encoding="utf-8") as file:  # noqa: PTH123
            return file.read().strip() == "1"
    except (OSError, ValueError):  # no such file, no home, no text
        return False


_IMPORTING = threading.RLock()  # cv2 imports itself twice: a thread that comes between would see half of it


def need(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` now; ``extra`` is the pip extra of edgepv that brings it.

    Raises TargetUnavailableError with the exact pip line if it is not installed. A module that is
    there but broken raises its own error: the guess "not installed" would hide it.
    """
    with _IMPORTING:
        if not present(module):
            raise TargetUnavailableError(
                f"{module} is not installed; it is needed here. Run: pip install 'edgepv[{extra}]'"
            )
        return importlib.import_module(module)


def present(module: str) -> bool:
    """Whether ``module`` could be imported, without importing it (only its parents)."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Have torch compute attention by its own layers: its fused path has no graph and skips padding."""
    mha = need("torch", extra="compress").backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


def ort_options(
    threads: int = 1, *, exact_sums: bool = True, rewrites: Literal["all", "basic", "none"] = "all"
) -> Any:
    """Session options for ONNX Runtime: so many threads inside one operator, nothing on the terminal.

    rewrites: which of its own it makes in a graph; the basic ones keep to ONNX's operators.
    exact_sums: integer sums that mean the same on every CPU. Without it an x86 without VNNI adds pairs of
    unsigned by signed products in 16 bits, where they saturate (ONNX Runtime's issues 6004 and 14642); only
    files whose weights have ``SAFE_BITS`` bits may do without, and are faster there.
    """
    ort = need("onnxruntime", extra="cpu")
    options = ort.SessionOptions()
    options.graph_optimization_level = {
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }[rewrites]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and said in one line
    if exact_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def ort_session(
    model: Path | bytes,
    options: Any = None,
    *,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    without: Sequence[str] = (),
) -> Any:
    """The ONNX Runtime session of a file or of what it holds: the one place that makes any.

    options: from ``ort_options``, by default its defaults. providers: names, or (name, options). without:
    graph rewrites that are left out, by ONNX Runtime's names. Raises what ONNX Runtime does, a dozen types of
    its own.
    """
    session = need("onnxruntime", extra="cpu").InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options or ort_options(),
        providers=list(providers),
        disabled_optimizers=list(without),
        enable_fallback=0,  # else it says so on stdout and goes on with other providers, in a run too
    )
    session._model_bytes = None  # kept for a change of providers, which none makes: memory of a whole model
    return session


def litert_interpreter() -> Any:
    """The Interpreter class of ai-edge-litert, or of tflite-runtime where only that is installed.

    tflite-runtime 2.14 imports with numpy 2 and then dies when an Interpreter is built, so numpy's
    version decides before it is tried. Raises TargetUnavailableError with the pip line.
    """
    if present("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    import numpy as np

    if present("tflite_runtime") and int(np.__version__.split(".")[0]) < 2:
        from tflite_runtime.interpreter import Interpreter as OldInterpreter

        return OldInterpreter
    raise TargetUnavailableError(
        "no LiteRT interpreter on this machine (ai-edge-litert, or tflite-runtime with numpy below 2). "
        "Run: pip install 'edgepv[mobile]'"
    )


def litert_feeds(runner: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a LiteRT signature in its own types: the converter makes 32 bits of whole numbers of 64."""
    kinds = {name: detail["dtype"] for name, detail in runner.get_input_details().items()}
    return {name: value.astype(kinds.get(name, value.dtype), copy=False) for name, value in feeds.items()}
