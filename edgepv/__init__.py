"""edgepv: compress a trained video model, convert it, prove it, and run it on a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgepv.runtimes.session import Gap, Session

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(
    bundle: str | Path,
    *,
    variant: str | None = None,
    engine: str | None = None,
    threads: int = 1,
    gap: Gap = "hold",
    cuts: bool = False,
) -> Session:
    """Open a bundle folder for use; needs the engine's extra, never torch.

    variant: which one to run, by default the one the bundle chose. gap, cuts: what lost frames and scene
    cuts do to a streamed model's states, see runtimes.Session. Every file is checked against its
    digest first. Raises UsageError if the bundle is damaged or has no such variant,
    TargetUnavailableError if its engine is not on this machine.
    """
    from pathlib import Path

    from edgepv.bundle import check, read
    from edgepv.runtimes.session import open_session

    found = read(Path(bundle))
    check(found)
    return open_session(found.variant(variant, engine), found.folder, threads=threads, gap=gap, cuts=cuts)
