"""The one door to heavy libraries: import late, and say the cure when one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

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
