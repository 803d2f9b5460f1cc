"""From a model to bundles: options, compress, stream, lower, build, evaluate, choose, write.

Each step is cached by what went into it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepv.pipeline.dry_run import plan
    from edgepv.pipeline.layers import sensitivity, sparsity
    from edgepv.pipeline.options import Options
    from edgepv.pipeline.pack import ExportedBundle
    from edgepv.pipeline.run import ExportResult, NotMade, exit_code, export
    from edgepv.pipeline.source import Clips, Source, gather, load

__all__ = [
    "Clips",
    "ExportResult",
    "ExportedBundle",
    "NotMade",
    "Options",
    "Source",
    "exit_code",
    "export",
    "gather",
    "load",
    "plan",
    "sensitivity",
    "sparsity",
]

_PLACES = {
    "Clips": "source",
    "ExportResult": "run",
    "ExportedBundle": "pack",
    "NotMade": "run",
    "Options": "options",
    "Source": "source",
    "exit_code": "run",
    "export": "run",
    "gather": "source",
    "load": "source",
    "plan": "dry_run",
    "sensitivity": "layers",
    "sparsity": "layers",
}
"""Whose file each name is in: ``edgepv export --help`` wants the options and none of the rest."""


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
