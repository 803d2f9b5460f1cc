"""``edgepv bench``: what a bundle's variants do on this machine, by the call and as a camera's answers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from edgepv.base.console import Console
from edgepv.bundle.manifest import Bundle
from edgepv.data.clips import Clip, survey, unheld_told, unlabelled_told
from edgepv.data.split import split_clips
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.measure import latency, replay
from edgepv.measure.replay import Replayed
from edgepv.runtimes.deadline import profile
from edgepv.runtimes.engine import on_this_device, open_engine
from edgepv.runtimes.ladder import open_ladder
from edgepv.types import Deadline, Latency, Variant

LADDER = "ladder"
TIMES_LARGEST = 2.0


@dataclass(frozen=True)
class LiveBench:
    """Options of a live benchmark. rate: times the camera's speed. limit: clips per variant."""

    clips: str | None = None
    deadline_ms: float | None = None
    rate: float = 1.0
    limit: int = 12
    seed: int = 0
    threads: int = 1


def latencies(bundle: Bundle, threads: int) -> dict[str, Latency]:
    """One call of every variant whose engine is here, interleaved, on noise of the right shape.

    As many calls as p99 needs, if that takes no longer than ``latency.SURE_BUDGET_S``.

    Raises TargetUnavailableError if no engine is here.
    """
    opened = {}
    for variant in bundle.content.variants:
        with contextlib.suppress(TargetUnavailableError):
            engine = open_engine(on_this_device(variant), bundle.checked, threads=threads)
            opened[variant.name] = (engine, variant)
    if not opened:
        raise TargetUnavailableError(f"{bundle.folder}: no engine of its variants is on this machine")
    calls, budget_s = latency.SURE_CALLS, latency.SURE_BUDGET_S
    return latency.on_noise(opened, threads=threads, calls=calls, budget_s=budget_s)


def live(bundle: Bundle, options: LiveBench, console: Console) -> list[Replayed]:
    """The ladder, if there is one, and every rung of it alone, on the same clips in the same order."""
    variants = bundle.ladder()
    played = replay.shots(_chosen_clips(bundle, options, console), variants[0].spec)
    times = _profile(variants, bundle, options.threads)
    limit_ms = options.deadline_ms or TIMES_LARGEST * times[0]
    names = [*([LADDER] if len(variants) > 1 else []), *(v.name for v in variants)]
    results = []
    for name in console.track(names, "replaying"):
        rungs = list(variants) if name == LADDER else [v for v in variants if v.name == name]
        profiles = times if name == LADDER else (times[[v.name for v in variants].index(name)],)
        ladder = open_ladder(rungs, bundle.checked, threads=options.threads)
        results.append(
            replay.replay(
                name,
                ladder,
                profiles,
                played,
                Deadline(limit_ms),
                rate=Fraction(options.rate).limit_denominator(1000),
            )
        )
    return results


def _profile(variants: Sequence[Variant], bundle: Bundle, threads: int) -> tuple[float, ...]:
    ladder = open_ladder(variants, bundle.checked, threads=threads)
    try:
        return profile(ladder)
    finally:
        ladder.close()


def _chosen_clips(bundle: Bundle, options: LiveBench, console: Console) -> list[Clip]:
    """Held-out clips, spread over the labels by the seed."""
    import edgepv.zoo

    labels = bundle.content.spec.labels
    if not labels:
        raise UsageError(
            f"{bundle.folder} is for {bundle.content.spec.task}; bench --live counts right labels"
        )
    shipped = Path(edgepv.zoo.__file__).parent / "clips"
    if options.clips is None and set(labels) != set(edgepv.zoo.TASKS["fight"]):
        raise UsageError(
            f"{bundle.folder} knows {', '.join(labels)}; no such clips are shipped. Give --clips DIR"
        )
    if options.limit < 1 or not 0 < options.rate < math.inf:
        raise UsageError("--limit and --rate want numbers above 0")
    there = survey(Path(options.clips) if options.clips else shipped, labels)
    if there.left_out:
        console.say(f"left out of {options.clips}: {there.left_out}")
    if bare := unlabelled_told(there.clips):
        console.say(f"{bare}: they are left out")
    _, held_out = split_clips([c for c in there.clips if c.label], calibration=1)
    chosen = replay.drawn(held_out, labels, options.seed, options.limit)
    if told := unheld_told(chosen, labels, "replayed"):
        console.say(f"{told}: what is right says nothing of them")
    return chosen
