"""The one door to heavy libraries: import late, and say the cure when one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from edgepv.errors import TargetUnavailableError


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
