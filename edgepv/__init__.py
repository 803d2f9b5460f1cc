"""edgepv: compress a trained video model, convert it, prove it, and run it on a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepv.optional import send_nothing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Literal

    from edgepv.runtimes.deadline import DeadlineRunner, Reply
    from edgepv.runtimes.session import Gap, Session

__version__ = "0.1.0"
__all__ = ["__version__", "open", "runner"]

send_nothing()  # every process of edgepv passes here before it imports an engine or a converter


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


def runner(
    bundle: str | Path,
    *,
    deadline_ms: float,
    on_miss: Literal["stale", "drop", "raise"] = "stale",
    say: Callable[[Reply], None] | None = None,
    variant: str | None = None,
    threads: int = 1,
    gap: Gap = "hold",
    cuts: bool = False,
) -> DeadlineRunner:
    """Open a bundle so that every frame is answered ``deadline_ms`` after it came, at the latest.

    A ladder bundle (edgepv ladder) is run on the largest variant that is in time; its variants are timed
    first, which takes a few seconds at most. say: gets every reply; without it, use ``ask``. The rest is as
    in ``open`` and in runtimes.deadline.DeadlineRunner. Start it with ``with`` or ``start()``.
    """
    from pathlib import Path

    from edgepv.bundle import check, read
    from edgepv.runtimes.deadline import DeadlineRunner, open_ladder, profile
    from edgepv.types import Deadline

    found = read(Path(bundle))
    check(found)
    variants = (found.variant(variant),) if variant else found.ladder()
    ladder = open_ladder(variants, found.folder, threads=threads, gap=gap, cuts=cuts)
    limit = Deadline(deadline_ms, on_miss)
    return DeadlineRunner(ladder, profile(ladder), limit, say=say or (lambda reply: None))
