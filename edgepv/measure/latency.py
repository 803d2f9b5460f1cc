"""Measure variants on this machine: answers on real clips, latency interleaved, memory, device facts."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base import cache
from edgepv.metrics.stats import percentiles_ms
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.stream import Infer, Stepper, Tensors, copied, roll
from edgepv.types import Latency, Variant

CALLS = 201
WARMUP = 6
TURN = 3
MIN_CALLS = 30
BUDGET_S = 12.0


def interleaved(
    engines: Mapping[str, tuple[Engine | Any, Sequence[Tensors]]], *, threads: int, calls: int = CALLS
) -> dict[str, Latency]:
    """Time of one call of each engine, taking turns, so that all meet the same machine load.

    engines: name -> (engine, real inputs with rolled states, used in turn). A turn is ``TURN`` calls after
    one that is not timed, during which the threads of the engine before may still spin for work and its
    data is still in the caches. On a busy machine, where an eager framework can take a hundred times longer
    on two threads, the turns end after ``BUDGET_S`` seconds with fewer than ``calls``; ``Latency.n`` says
    how many there were.
    """
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    begun = time.perf_counter()
    for i in range(-WARMUP, calls, TURN):
        if i >= MIN_CALLS and time.perf_counter() - begun > BUDGET_S:
            break
        for name, (engine, feeds) in engines.items():
            for n in range(i - 1, i + TURN):
                feed = feeds[n % len(feeds)]
                start = time.perf_counter()
                engine.infer(feed)
                if i >= 0 and n >= i:
                    seconds[name].append(time.perf_counter() - start)
    names = tuple(engines)
    return {name: Latency(*percentiles_ms(s), len(s), WARMUP, threads, names) for name, s in seconds.items()}


def on_noise(
    opened: Mapping[str, tuple[Engine, Variant]], *, threads: int, calls: int = CALLS
) -> dict[str, Latency]:
    """Time of one call of opened variants on noise, interleaved; closes their engines."""
    try:
        engines = {name: (e, [noise_feeds(e.infer, variant)]) for name, (e, variant) in opened.items()}
        return interleaved(engines, threads=threads, calls=calls)
    finally:
        for engine, _ in opened.values():
            engine.close()


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
    stepper = Stepper(infer, variant.spec, variant.stream)
    _, channels, *_, height, width = variant.spec.input.shape
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
) -> dict[str, tuple[Latency, ...]]:
    """Latency rows per variant, one per thread count.

    original: opens the model that all came from, and the inputs it takes. baseline: the name of its row.
    """
    rows: dict[str, list[Latency]] = {}
    inputs = {baseline: original[1]} if original else {}
    inputs |= {v.name: feeds for v in variants}
    for count in threads:
        openers = {baseline: functools.partial(original[0], count)} if original else {}
        openers |= {v.name: functools.partial(open_engine, v, folder, threads=count) for v in variants}
        engines = open_all(openers)
        try:
            turns = {name: (engine, inputs[name]) for name, engine in engines.items()}
            for name, latency in interleaved(turns, threads=count).items():
                rows.setdefault(name, []).append(latency)
        finally:
            for engine in engines.values():
                engine.close()
    return {name: tuple(by_threads) for name, by_threads in rows.items()}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one worker of a machine measures time at a time."""
    place = cache.root() / "timing.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
