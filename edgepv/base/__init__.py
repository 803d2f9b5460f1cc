"""What every room stands on and that knows no model: files, cache, console, processes apart, optional
libraries, the machine, the registry of what packages bring, and engines and tasks as data. Nothing here
imports another room but ``types`` and ``errors``.
"""

__all__ = [
    "blame",
    "cache",
    "console",
    "engines",
    "files",
    "isolated",
    "machine",
    "optional",
    "quiet",
    "registry",
    "tasks",
    "vet",
]
