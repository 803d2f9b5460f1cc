"""``edgepv bench``: what a bundle's variants do on this machine, by the call and as a camera's answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from edgepv import measure, replay
from edgepv.bundle import Bundle, replay_variant
from edgepv.clips import Clip, find_clips, split_clips
from edgepv.console import Console
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.replay import Replayed
from edgepv.runtimes.deadline import Ladder, profile
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.session import Lane
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


def latencies(found: Bundle, threads: int) -> dict[str, Latency]:
    """One call of every variant whose engine is here, interleaved, on noise of the right shape.

    Raises TargetUnavailableError if no engine is here.
    """
    engines = {}
    for variant in found.content.variants:
        runnable = replay_variant(variant) if variant.engine == "tensorrt" else variant
        try:
            engine = open_engine(runnable, found.folder, threads=threads)
        except TargetUnavailableError:
            continue
        engines[variant.name] = (engine, [measure.noise_feeds(engine.infer, variant)])
    if not engines:
        raise TargetUnavailableError(f"{found.folder}: no engine of its variants is on this machine")
    try:
        return measure.interleaved(engines, threads=threads)
    finally:
        for engine, _ in engines.values():
            engine.close()


def live(found: Bundle, options: LiveBench, console: Console) -> list[Replayed]:
    """The ladder, if there is one, and every rung of it alone, on the same clips in the same order."""
    variants = found.ladder()
    played = replay.shots(_chosen_clips(found, options), variants[0].spec)
    times = _profile(variants, found, options.threads)
    limit_ms = options.deadline_ms or TIMES_LARGEST * times[0]
    names = [*([LADDER] if len(variants) > 1 else []), *(v.name for v in variants)]
    results = []
    for name in console.track(names, "replaying"):
        rungs = list(variants) if name == LADDER else [v for v in variants if v.name == name]
        profiles = times if name == LADDER else (times[[v.name for v in variants].index(name)],)
        ladder = open_ladder(rungs, found.folder, options.threads)
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


def open_ladder(variants: Sequence[Variant], folder: Path, threads: int = 1) -> Ladder:
    """The variants opened, the largest first."""
    return Ladder([Lane(open_engine(v, folder, threads=threads), v) for v in variants])


def _profile(variants: Sequence[Variant], found: Bundle, threads: int) -> tuple[float, ...]:
    ladder = open_ladder(variants, found.folder, threads)
    try:
        return profile(ladder)
    finally:
        ladder.close()


def _chosen_clips(found: Bundle, options: LiveBench) -> list[Clip]:
    """Held-out clips, spread over the labels by the seed."""
    import edgepv.zoo

    labels = found.content.spec.labels
    shipped = Path(edgepv.zoo.__file__).parent / "clips"
    if options.clips is None and set(labels) != set(edgepv.zoo.TASKS["fight"]):
        raise UsageError(
            f"{found.folder} knows {', '.join(labels)}; no such clips are shipped. Give --clips DIR"
        )
    if options.limit < 1 or not options.rate > 0:
        raise UsageError("--limit and --rate want numbers above 0")
    clips = find_clips(Path(options.clips) if options.clips else shipped, labels)
    _, held = split_clips([c for c in clips if c.label], calibration=1)
    random.Random(options.seed).shuffle(held)
    by_label = {label: [c for c in held if c.label == label] for label in labels}
    turns = (queue[i] for i in range(len(held)) for queue in by_label.values() if i < len(queue))
    return [clip for clip, _ in zip(turns, range(options.limit))]
