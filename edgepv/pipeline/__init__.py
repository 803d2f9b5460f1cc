"""From a model to bundles: options, compress, stream, lower, build, evaluate, choose, write.

Each step is cached by what went into it.
"""

from __future__ import annotations

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
