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
from edgepv.metrics.tasks import change_of, figures, groups_of, task_drop
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

    def without(self, targets: Sequence[str]) -> Chained:
        """The same model as it was, for targets of which no variant would answer in time with the chain."""
        name = ", ".join(self.source.spec.before)
        whose = ", ".join(targets)
        note = f"before {name}: taken off again for {whose}, no variant was surely within --latency-ms"
        return Chained(_given(self.source, bare(self.source.spec)), (*self.notes, note))


@dataclass(frozen=True)
class Tried:
    """A model with a chain, and what came of it.

    gains: condition -> what is lost with the chain against without, so that a gain is below 0; {} where the
    truth is not known. p50_ms, p99_ms: what the chain takes of a picture here.
    """

    spec: ModelSpec
    gains: Mapping[str, PairedDrop]
    p50_ms: float
    p99_ms: float

    def pays(self, limit_ms: float | None) -> bool:
        """Whether its gain on the clips as they are is decided, and it leaves the model some time."""
        drop = self.gains.get(CLEAN)
        sure = drop is not None and drop.verdict == "pass" and drop.points < 0
        return sure and (limit_ms is None or self.p99_ms < limit_ms)

    def told(self) -> str:
        """What it gains and what it takes."""
        takes = f"{self.p50_ms:.2f} ms a picture here, {self.p99_ms:.2f} ms at p99"
        name = f"before {', '.join(self.spec.before)}"
        if not self.gains:
            return f"{name}: gain not measured, no held-out clips whose truth is known; {takes}"
        parts = [f"{_gain(drop)} {CONDITIONS[condition]}" for condition, drop in self.gains.items()]
        return f"{name}, {self.gains[CLEAN].n} clips: {', '.join(parts)}; {takes}"


def _gain(drop: PairedDrop) -> str:
    """ "+1.2 points (-0.3 to +2.7)" of a loss of -1.2."""
    points, low, high = (0.0 - value for value in (drop.points, drop.high, drop.low))
    return f"{points:+.1f} {drop.unit} ({low:+.1f} to {high:+.1f})"


def with_chain(context: RunContext, source: Source, clips: Clips) -> Chained:
    """The model with the chain that ``--before`` asks for, or that its spec has.

    ``auto`` keeps the chain that gains most of those that pay, see ``Tried``. Raises UsageError for one that
    this model cannot have, LatencyGateError for one that alone takes more than ``--latency-ms``.
    """
    asked = context.options.before
    if asked == "none":
        return _in_time(context, Chained(source, p99_ms=_cost(source.spec, clips)[1]))
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
    tried = [Tried(spec, gain, *_cost(spec, clips)) for spec, gain in zip(specs, gains, strict=True)]
    if asked == "auto":
        return _in_time(context, chosen(source, said, tried, context.options.latency_ms))
    only = tried[0]
    return _in_time(context, Chained(_given(source, only.spec), (*said, only.told()), only.p99_ms))


def chosen(source: Source, said: tuple[str, ...], tried: Sequence[Tried], limit_ms: float | None) -> Chained:
    """What ``auto`` makes of the chains it tried: one of them, or none; said: notes of before."""
    paying = [one for one in tried if one.pays(limit_ms)]
    best = min(paying, key=lambda one: one.gains[CLEAN].points, default=None)

    def verdict(one: Tried) -> str:
        if one is best:
            return "kept"
        if one in paying:
            return "not kept, another gains more"
        late = limit_ms is not None and one.p99_ms >= limit_ms
        return "not kept, it leaves no time for the model" if late else "not kept, no sure gain"

    notes = (*said, *(f"{one.told()}: {verdict(one)}" for one in tried))
    if best is None:
        return Chained(source, notes)
    return Chained(_given(source, best.spec), notes, best.p99_ms, by_itself=True)


def _named(asked: str) -> tuple[Before, ...]:
    """The chain as it was typed."""
    return tuple(name for given in asked.split(",") for name in CHAIN if name == given)


def _given(source: Source, spec: ModelSpec) -> Source:
    checkpoint = source.checkpoint and replace(source.checkpoint, spec=spec)
    return replace(source, spec=spec, checkpoint=checkpoint)


def _in_time(context: RunContext, found: Chained) -> Chained:
    """The same, with its notes said. Raises LatencyGateError if nothing is left of the time for the model."""
    limit_ms = context.options.latency_ms
    if limit_ms is not None and found.p99_ms >= limit_ms:
        raise LatencyGateError(
            f"before {', '.join(found.source.spec.before)}: the chain alone takes {found.p99_ms:.2f} ms of "
            f"{limit_ms:g} ms. Leave it out, or allow more"
        )
    for note in found.notes:
        context.console.say(note)
    return found


def _gains(
    context: RunContext, source: Source, specs: Sequence[ModelSpec], clips: Clips
) -> list[dict[str, PairedDrop]]:
    """Of each chain, what is lost by the float model on the held-out clips; {} where no truth is known."""
    shown = tuple(eval_clip(c, source.spec) for c in context.console.track(clips.held_out, "decoding"))
    if not all(clip.truth is not None for clip in shown):
        return [{} for _ in specs]
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
                condition: task_drop(
                    spec,
                    before[condition],
                    asked(spec, condition),
                    0.0,
                    groups_of(shown),
                    change_of(spec, shown),
                )
                for condition in CONDITIONS
            }
            for spec in context.console.track(specs, "trying what comes before the model")
        ]
    finally:
        engine.close()


def _cost(spec: ModelSpec, clips: Clips) -> tuple[float, float]:
    """(p50, p99) in ms of the spec's chain on a picture of the first held-out clip; 0 without a chain."""
    if not spec.before:
        return 0.0, 0.0
    clip = eval_clip(clips.held_out[0], bare(spec))
    picture = pictures(spec, clip.frames[:1])[0]
    taken_s = []
    for _ in range(CALLS):
        start = time.perf_counter()
        chained(picture, spec)
        taken_s.append(time.perf_counter() - start)
    p50, _, p99 = supported_ms(taken_s)
    most = 1e3 * max(taken_s)
    return p50 or most, p99 or most
