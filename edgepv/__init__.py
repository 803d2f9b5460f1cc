"""edgepv: compress and convert a trained video model, compare it with the original, run it on a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepv.base.optional import send_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Literal

    from edgepv.bundle.manifest import Bundle
    from edgepv.runtimes.deadline import DeadlineRunner, Reply
    from edgepv.runtimes.ladder import Ladder
    from edgepv.runtimes.lane import Gap
    from edgepv.runtimes.session import Session
    from edgepv.types import Variant

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
    cuts do to a streamed model's states, see runtimes.ladder.Ladder. Every file is checked against its
    digest first. On a CPU that the bundle was not made on, golden answers are replayed once, and what passed
    its gates is timed for a few seconds, once: the fastest runs (see ``edgepv.measure.here``). A
    RuntimeWarning says it if another variant takes the place of the bundle's own.
    Raises UsageError if the bundle is damaged or has no such variant, TargetUnavailableError if its engine
    is not on this machine or answers otherwise here.
    """
    from edgepv.runtimes.session import Session

    opened = _read(bundle)
    wanted = (opened.variant(variant, engine),)
    fixed = bool(variant or engine)
    return Session(_ladder(opened, wanted, fixed=fixed, threads=threads, gap=gap, cuts=cuts))


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
    first, which takes a few seconds at most; those that answer otherwise on this CPU than where they were
    proven are left out, with a RuntimeWarning. say: hears the replies in a thread of its own; while it takes
    its time, newer ones replace those that wait, counted in ``replies_dropped``. Without it, use ``ask``.
    What it raises is counted in ``faults`` and costs no answer; the end of the ``with`` block raises
    ReceiverError. The rest is as in ``open`` and in runtimes.deadline.DeadlineRunner. Start it with ``with``
    or ``start()``. Raises UsageError for a deadline that is no time, and what ``open`` raises.
    """
    from edgepv.runtimes.deadline import DeadlineRunner, profile
    from edgepv.types import Deadline

    opened = _read(bundle)
    wanted = (opened.variant(variant),) if variant else opened.ladder()
    ladder = _ladder(opened, wanted, fixed=bool(variant), threads=threads, gap=gap, cuts=cuts)
    limit = Deadline(deadline_ms, on_miss)
    return DeadlineRunner(ladder, profile(ladder), limit, say=say)


def _read(bundle: str | Path) -> Bundle:
    """The bundle in a folder, every file of it checked against its digest."""
    from pathlib import Path

    from edgepv.bundle.manifest import check, read

    opened = read(Path(bundle))
    check(opened)
    return opened


def _ladder(
    bundle: Bundle, wanted: Sequence[Variant], *, fixed: bool, threads: int, gap: Gap, cuts: bool
) -> Ladder:
    """The wanted variants opened, or those that answer here as where they were proven, with a warning."""
    import warnings

    from edgepv.measure.here import fitting
    from edgepv.runtimes.ladder import open_ladder

    fit = fitting(bundle, wanted, fixed=fixed, threads=threads)
    for note in fit.notes:
        warnings.warn(note, RuntimeWarning, stacklevel=3)
    return open_ladder(fit.variants, bundle.checked, threads=threads, gap=gap, cuts=cuts)
