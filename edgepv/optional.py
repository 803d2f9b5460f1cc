"""The one door to heavy libraries: import late, and say the cure when one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from edgepv.errors import TargetUnavailableError

SAFE_BITS = 7
"""Weights of -64 to 64: two products of such a weight and an uint8 are below 2 ** 15 together."""


def need(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` now; ``extra`` is the pip extra of edgepv that brings it.

    Raises TargetUnavailableError with the exact pip line if it is not installed. A module that is
    there but broken raises its own error: the guess "not installed" would hide it.
    """
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


def ort_options(threads: int = 1, *, exact_sums: bool = True) -> Any:
    """Session options for ONNX Runtime: so many threads inside one operator, errors only on the terminal.

    exact_sums: integer sums that mean the same on every CPU. Without it an x86 without VNNI adds pairs of
    unsigned by signed products in 16 bits, where they saturate (ONNX Runtime's issues 6004 and 14642); only
    files whose weights have ``SAFE_BITS`` bits may do without, and are faster there.
    """
    options = need("onnxruntime", extra="cpu").SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if exact_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


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
