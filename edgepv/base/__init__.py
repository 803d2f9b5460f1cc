"""What every room stands on and that knows no model: files, cache, console, processes, libraries.

Nothing here imports another room but ``types`` and ``errors``.
"""

__all__ = ["blame", "cache", "console", "files", "isolated", "machine", "optional", "quiet", "vet"]
