"""Measure variants on this machine: answers on real clips, latency interleaved, memory, device facts."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base import cache
from edgepv.base.files import turn
from edgepv.base.machine import LoadWatch
from edgepv.data.before import chained
from edgepv.metrics.times import (
    busy_reason,
    calls_needed,
    median_ends,
    paired_ratio,
    spread_ms,
    supported_ms,
)
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.stream import Infer, Stepper, Tensors, copied, roll
from edgepv.types import Latency, MachineLoad, ModelSpec, PairedTime, StreamSpec, Variant

CALLS = 201
"""Timed calls of each variant: they support p95, and give ratios 67 pairs (benchmarks/pairs.md)."""

WARMUP = 6
TURN = 3
MIN_CALLS = 30
LOOK = 20 * TURN
"""Calls between two looks at the machine's load."""

BUDGET_S = 12.0

SURE_CALLS = calls_needed(99)
"""Calls that support p99, for who asks for it."""

SURE_BUDGET_S = 300.0
"""For as many calls of eight variants of 40 ms each, as 25 frames per second have; faster ones end sooner."""


@dataclass
class Clock:
    """Times of one engine's calls in seconds: wall of each call; wall and CPU of a call of each turn."""

    calls: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def turn(self, infer: Infer, feeds: Sequence[Tensors]) -> None:
        """Call once to warm up, then with each of the feeds but the first, timed."""
        infer(feeds[0])
        seconds = []
        cpu = time.process_time()
        for feed in feeds[1:]:
            start = time.perf_counter()
            infer(feed)
            seconds.append(time.perf_counter() - start)
        self.cpu.append((time.process_time() - cpu) / len(seconds))
        self.wall.append(statistics.median(seconds))
        self.calls += seconds


def interleaved(
    engines: Mapping[str, tuple[Engine, Sequence[Tensors]]],
    *,
    threads: int,
    calls: int = CALLS,
    budget_s: float | None = None,
    at_least: int | None = None,
    floats: Collection[str] = (),
) -> dict[str, Latency]:
    """Time of one call of each engine, taking turns: see ``taken_in_turns`` and ``summaries``."""
    clocks, load = taken_in_turns(engines, calls=calls, budget_s=budget_s, at_least=at_least)
    return summaries(clocks, load, threads=threads, floats=floats)


def taken_in_turns(
    engines: Mapping[str, tuple[Engine, Sequence[Tensors]]],
    *,
    calls: int = CALLS,
    budget_s: float | None = None,
    at_least: int | None = None,
    least_s: float = 0.0,
) -> tuple[dict[str, Clock], MachineLoad]:
    """Calls of each engine in turns, so that all meet the same machine load; and that load.

    engines: name -> (engine, real inputs with rolled states, used in turn). A turn is ``TURN`` calls after
    one that is not timed, during which the threads of the engine before may still spin for work and its
    data is still in the caches. On a busy machine, where an eager framework can take a hundred times longer
    on two threads, the turns end after ``budget_s`` seconds (default: ``BUDGET_S``) with fewer than
    ``calls``, though not before ``at_least`` (default: ``MIN_CALLS``). least_s: go on for that long, with
    more calls: of a shorter run the system cannot tell what else the machine did.
    """
    clocks = {name: Clock() for name in engines}
    for i in range(-WARMUP, 0, TURN):
        _turn(engines, {name: Clock() for name in engines}, i)
    watch, begun = LoadWatch(), time.perf_counter()
    budget_s = BUDGET_S if budget_s is None else budget_s
    at_least = MIN_CALLS if at_least is None else at_least
    for i in itertools.count(0, TURN):
        passed = time.perf_counter() - begun
        if (i >= calls and passed >= least_s) or (i >= at_least and passed > budget_s):
            break
        _turn(engines, clocks, i)
        if i % LOOK == 0:
            watch.sample()
    return clocks, watch.load()


def summaries(
    clocks: Mapping[str, Clock], load: MachineLoad, *, threads: int, floats: Collection[str] = ()
) -> dict[str, Latency]:
    """What the times of engines that took turns can tell.

    floats: names of the rows that every row's time is given as a share of.
    """
    busy = busy_reason(load, threads)
    return {
        name: Latency(
            *supported_ms(clock.calls),
            n=len(clock.calls),
            warmup=WARMUP,
            threads=threads,
            interleaved_with=tuple(clocks),
            cpu_ms=1e3 * statistics.median(clock.cpu),
            ratios=_ratios(clocks, name, floats),
            load=load,
            inconclusive=busy,
            p50_ends_ms=median_ends([1e3 * s for s in clock.wall]),
            spread_ms=spread_ms(clock.calls),
        )
        for name, clock in clocks.items()
    }


def _turn(engines: Mapping[str, tuple[Any, Sequence[Tensors]]], clocks: Mapping[str, Clock], i: int) -> None:
    """Every engine once: its calls ``i`` to ``i + TURN``, after the one before."""
    for name, (engine, feeds) in engines.items():
        clocks[name].turn(engine.infer, [feeds[n % len(feeds)] for n in range(i - 1, i + TURN)])


def _ratios(clocks: Mapping[str, Clock], name: str, floats: Collection[str]) -> tuple[PairedTime, ...]:
    """The times of one row as a share of those of the rows named in ``floats``, itself left out."""
    mine = clocks[name]
    pairs = ((to, clocks[to]) for to in floats if to != name)
    found = ((to, paired_ratio(mine.wall, c.wall), paired_ratio(mine.cpu, c.cpu)) for to, c in pairs)
    return tuple(PairedTime(to, wall, cpu) for to, wall, cpu in found if wall)


def on_noise(
    opened: Mapping[str, tuple[Engine, Variant]],
    *,
    threads: int,
    calls: int = CALLS,
    budget_s: float | None = None,
    at_least: int | None = None,
    chain: bool = False,
) -> dict[str, Latency]:
    """Time of one call of opened variants on noise, interleaved; closes their engines.

    chain: with what comes before the model, where the spec has something.
    """
    try:
        engines = {
            name: (_Chained(e, v) if chain and v.spec.before else e, [noise_feeds(e.infer, v)])
            for name, (e, v) in opened.items()
        }
        floats = [name for name, (_, variant) in opened.items() if variant.precision == "fp32"]
        return interleaved(
            engines, threads=threads, calls=calls, budget_s=budget_s, at_least=at_least, floats=floats
        )
    finally:
        for engine, _ in opened.values():
            engine.close()


class _Chained:
    """An engine as a camera calls it: the spec's chain is done to each new picture of a call first.

    The pictures are noise: what a chain takes hardly depends on what they show.
    """

    def __init__(self, engine: Engine, variant: Variant) -> None:
        self._engine, self._spec = engine, variant.spec
        height, width = variant.spec.input.shape[-2:]
        shape = (variant.stream.chunk if variant.stream else 1, height, width, 3)
        self._pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.close = engine.close

    def infer(self, inputs: Tensors) -> Tensors:
        """The chain on what is new in this call, then the engine."""
        for picture in self._pictures:
            chained(picture, self._spec)
        return self._engine.infer(inputs)


def open_all(openers: Mapping[str, Callable[[], Engine]]) -> dict[str, Engine]:
    """Open every engine. If one cannot be opened, those before it are closed and its error is raised."""
    engines = {}
    with contextlib.ExitStack() as stack:
        for name, opener in openers.items():
            engines[name] = opener()
            stack.callback(engines[name].close)
        stack.pop_all()
    return engines


def noise_feeds(infer: Infer, variant: Variant) -> Tensors:
    """Inputs of one call, with states as they are after a warm-up on noise."""
    return rolled_noise(infer, variant.spec, variant.stream)


def rolled_noise(infer: Infer, spec: ModelSpec, stream: StreamSpec | None) -> Tensors:
    """Like ``noise_feeds``, for what is no variant."""
    stepper = Stepper(infer, spec, stream)
    _, channels, *_, height, width = spec.input.shape
    shape = (stepper.warmup + 2 * stepper.chunk, channels, height, width)
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return [copied(feeds) for feeds, _ in roll(stepper, noise) if feeds is not None][-1]


def latencies(
    variants: Sequence[Variant],
    folder: Path,
    feeds: Sequence[Tensors],
    *,
    original: tuple[Callable[[int], Engine], Sequence[Tensors]] | None,
    threads: Sequence[int] = (1, 2),
    baseline: str = "torch-fp32",
    p99: bool = False,
) -> dict[str, tuple[Latency, ...]]:
    """Latency rows per variant, one per thread count.

    original: opens the model that all came from, and the inputs it takes. baseline: the name of its row.
    p99: take as many calls as p99 needs on the first thread count, which is the one that decides.
    """
    rows: dict[str, list[Latency]] = {}
    inputs = {baseline: original[1]} if original else {}
    inputs |= {v.name: feeds for v in variants}
    floats = [*([baseline] if original else []), *(v.name for v in variants if v.precision == "fp32")]
    for place, count in enumerate(threads):
        calls, budget_s = (SURE_CALLS, SURE_BUDGET_S) if p99 and place == 0 else (CALLS, BUDGET_S)
        openers = {baseline: functools.partial(original[0], count)} if original else {}
        openers |= {v.name: functools.partial(open_engine, v, folder, threads=count) for v in variants}
        engines = open_all(openers)
        try:
            turns = {name: (engine, inputs[name]) for name, engine in engines.items()}
            times = interleaved(turns, threads=count, calls=calls, budget_s=budget_s, floats=floats)
            for name, latency in times.items():
                rows.setdefault(name, []).append(latency)
        finally:
            for engine in engines.values():
                engine.close()
    return {name: tuple(by_threads) for name, by_threads in rows.items()}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one worker of a machine measures time at a time."""
    with turn(cache.root() / "timing.lock"):
        yield
