"""The chain before the model, judged with it as one: points gained on held-out clips against milliseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgepv.data.before import CHAIN, bare, chained
from edgepv.data.frames import pictures
from edgepv.data.truth import eval_clip
from edgepv.errors import LatencyGateError, UsageError
from edgepv.metrics.tasks import figures, groups_of, task_drop
from edgepv.metrics.times import supported_ms
from edgepv.model.spec import check_spec
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.evaluate import play_clips
from edgepv.pipeline.line import probed
from edgepv.pipeline.lower import lower
from edgepv.pipeline.source import Clips, Source
from edgepv.pipeline.spoilt import CLEAN, begun, looked_at, spoilt
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Stepper
from edgepv.types import Before, ModelSpec, PairedDrop

CONDITIONS: Mapping[str, str] = {CLEAN: "as they are", "low light": "in low light", "noise": "in noise"}
"""What a chain is judged under -> how that is told; the first alone decides whether ``auto`` keeps it."""
CALLS = 1000
"""Times that a chain is timed: enough for its 99th percentile."""


@dataclass(frozen=True)
class Chained:
    """A model with its chain. notes: what was tried, what came of it. p99_ms: what the chain takes here.

    by_itself: whether ``auto`` put it there.
    """

    source: Source
    notes: tuple[str, ...] = ()
    p99_ms: float = 0.0
    by_itself: bool = False

    def without(self) -> Chained:
        """The same model as it was, where no variant would answer in time with the chain."""
        checkpoint, name = self.source.checkpoint, ",".join(self.source.spec.before)
        spec = bare(self.source.spec)
        plain = replace(self.source, spec=spec, checkpoint=checkpoint and replace(checkpoint, spec=spec))
        return Chained(plain, (*self.notes, f"before {name}: taken off again, it would miss --latency-ms"))


def with_chain(context: RunContext, source: Source, clips: Clips) -> Chained:
    """The model with the chain that ``--before`` asks for, or that its spec has.

    ``auto`` keeps a chain alone whose gain on the held-out clips as they are is surely above 0, the largest.
    Raises UsageError for a chain that this model cannot have, LatencyGateError for one that alone takes more
    than ``--latency-ms``.
    """
    asked = context.options.before
    if asked == "none":
        return _in_time(context, Chained(source, p99_ms=_p99_ms(source.spec, clips)))
    if source.spec.before:
        raise UsageError(
            f"the spec of {source.spec.name} has a chain of its own ({', '.join(source.spec.before)}). Leave "
            "--before out"
        )
    source, said = probed(context, source)
    chains: list[tuple[Before, ...]] = [(name,) for name in CHAIN] if asked == "auto" else [_named(asked)]
    specs = [replace(source.spec, before=chain) for chain in chains]
    for spec in specs:
        check_spec(spec, f"--before {asked}")
    gains = _gains(context, source, specs, clips)
    costs = [_p99_ms(spec, clips) for spec in specs]
    if asked != "auto":
        found = Chained(_given(source, specs[0]), (*said, _told(specs[0], gains[0], costs[0])), costs[0])
        return _in_time(context, found)
    return _kept(context, source, said, list(zip(specs, gains, costs, strict=True)))


def _named(asked: str) -> tuple[Before, ...]:
    """The chain as it was typed."""
    return tuple(name for given in asked.split(",") for name in CHAIN if name == given)


def _given(source: Source, spec: ModelSpec) -> Source:
    checkpoint = source.checkpoint and replace(source.checkpoint, spec=spec)
    return replace(source, spec=spec, checkpoint=checkpoint)


def _in_time(context: RunContext, found: Chained) -> Chained:
    """The same. Raises LatencyGateError if nothing is left of the time for the model."""
    limit_ms = context.options.latency_ms
    if limit_ms is not None and found.p99_ms >= limit_ms:
        raise LatencyGateError(
            f"before {', '.join(found.source.spec.before)}: the chain alone takes {found.p99_ms:.2f} ms of "
            f"{limit_ms:g} ms. Leave it out, or allow more"
        )
    for note in found.notes:
        context.console.say(note)
    return found


Found = tuple[ModelSpec, "Gains | None", float]
Gains = Mapping[str, PairedDrop]
"""Condition -> what is lost with the chain against without; a gain is below 0."""


def _kept(context: RunContext, source: Source, said: tuple[str, ...], found: Sequence[Found]) -> Chained:
    """What ``auto`` makes of the chains it tried."""
    limit_ms = context.options.latency_ms
    sure = [
        one
        for one in found
        if one[1] and one[1][CLEAN].verdict == "pass" and one[1][CLEAN].points < 0
        if limit_ms is None or one[2] < limit_ms
    ]
    best = min(sure, key=lambda one: one[1][CLEAN].points if one[1] else 0.0, default=None)
    notes = list(said)
    for one in found:
        why = (
            "kept"
            if one is best
            else "not kept, " + ("another gains more" if one in sure else "no sure gain")
        )
        notes.append(f"{_told(*one)}: {why}")
    if best is None:
        return _in_time(context, Chained(source, tuple(notes)))
    return _in_time(context, Chained(_given(source, best[0]), tuple(notes), best[2], by_itself=True))


def _told(spec: ModelSpec, gains: Gains | None, p99_ms: float) -> str:
    """What a chain gains and what it costs."""
    cost = f"{p99_ms:.2f} ms a picture here at p99"
    name = f"before {', '.join(spec.before)}"
    if not gains:
        return f"{name}: gain not measured, there are no held-out clips of which the truth is known; {cost}"
    parts = [
        f"{-drop.points:+.1f} {drop.unit} ({-drop.high:+.1f} to {-drop.low:+.1f}) {CONDITIONS[condition]}"
        for condition, drop in gains.items()
    ]
    return f"{name}, {next(iter(gains.values())).n} clips: {', '.join(parts)}; {cost}"


def _gains(
    context: RunContext, source: Source, specs: Sequence[ModelSpec], clips: Clips
) -> list[Gains | None]:
    """Of each chain, its gains on the held-out clips, by the float model; None where no truth is known."""
    shown = tuple(eval_clip(c, source.spec) for c in context.console.track(clips.held_out, "decoding"))
    if not all(clip.truth is not None for clip in shown):
        return [None] * len(specs)
    base, folder = lower(context, source, source.checkpoint)
    engine = open_engine(base, folder)
    warmup = Stepper(engine.infer, base.spec, base.stream).warmup
    shown = tuple(begun(clip, looked_at(warmup)) for clip in shown)

    def asked(spec: ModelSpec, condition: str) -> np.ndarray:
        seen = [spoilt(clip, spec, condition) for clip in shown]
        return figures(base.spec, play_clips(engine.infer, base, seen), seen, warmup)

    try:
        before = {condition: asked(source.spec, condition) for condition in CONDITIONS}
        return [
            {
                condition: task_drop(spec, before[condition], asked(spec, condition), 0.0, groups_of(shown))
                for condition in CONDITIONS
            }
            for spec in context.console.track(specs, "trying what comes before the model")
        ]
    finally:
        engine.close()


def _p99_ms(spec: ModelSpec, clips: Clips) -> float:
    """What the spec's chain takes of a picture here; 0 without one."""
    if not spec.before:
        return 0.0
    clip = eval_clip(clips.held_out[0], bare(spec))
    picture = pictures(spec, clip.frames[:1])[0]
    taken_s = []
    for _ in range(CALLS):
        start = time.perf_counter()
        chained(picture, spec)
        taken_s.append(time.perf_counter() - start)
    return supported_ms(taken_s)[2] or 1e3 * max(taken_s)
