"""What every room stands on and that knows no model: files, cache, console, registry, engines as data.

Nothing here imports another room but ``types`` and ``errors``.
"""

__all__ = [
    "blame",
    "cache",
    "channels",
    "console",
    "engines",
    "files",
    "isolated",
    "late",
    "machine",
    "optional",
    "options",
    "quiet",
    "registry",
    "tasks",
    "trt_layers",
    "vet",
]
