"""Measure variants on this machine: answers on real clips, latency interleaved, memory, device facts."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.isolated import call
from edgepv.data.frames import hold_last
from edgepv.metrics.stats import percentiles_ms
from edgepv.metrics.tasks import clip_scores
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.stream import Infer, Stepper, Tensors, copied, roll
from edgepv.types import Latency, Variant, decode, encode

CALLS = 201
WARMUP = 6
TURN = 3
MIN_CALLS = 30
BUDGET_S = 12.0


def clip_answers(
    infer: Infer, variant: Variant, clips: Iterable[np.ndarray], starts: Iterable[Tensors] = ()
) -> list[np.ndarray]:
    """Answers after every frame of every clip, streamed frame by frame as a camera would.

    clips: (T, C, H, W) float32 each, preprocessed; short ones are held on their last frame. starts: states
    that a clip begins with, one for each clip; none: all begin as the model says.
    Returns one array per clip: (T, classes) of logits, (T, K, 3) of tracks, (T, 3, H, W) of pictures.
    """
    stepper, name = Stepper(infer, variant.spec, variant.stream), variant.spec.answer.name
    found = []
    for clip, start in itertools.zip_longest(clips, starts):
        frames = hold_last(clip, stepper.warmup)
        found.append(np.concatenate([out[name] for _, out in roll(stepper, frames, start)]))
    return found


def scores(logits: Sequence[np.ndarray], warmup: int) -> np.ndarray:
    """One row of scores per clip, (clips, classes): the mean of the valid frames' logits."""
    return np.stack([clip_scores(rows, warmup) for rows in logits])


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
    return {name: tuple(found) for name, found in rows.items()}


def peak_rss_mib(variant: Variant, folder: Path) -> float | None:
    """Peak resident memory, in MiB, of a fresh process that loads the variant and steps it 20 times.

    None where the system does not tell.
    """
    found: float | None = call("edgepv.measure:rss_of", variant=encode(variant), folder=str(folder))
    return found


def rss_of(variant: dict[str, Any], folder: str) -> float | None:
    """Subprocess side of ``peak_rss_mib``."""
    chosen = decode(Variant, variant)
    engine = open_engine(chosen, Path(folder))
    stepper = Stepper(engine.infer, chosen.spec, chosen.stream)
    frame = np.zeros(chosen.spec.input.shape, np.float32)
    frame = frame[:1] if chosen.stream else frame[:, :, 0]
    for _ in range(20):
        stepper.step(frame)
    return peak_mib()


def peak_mib(status: Path = Path("/proc/self/status")) -> float | None:
    """Peak resident memory of this process since it began to run its program, in MiB; None if not told.

    The ``ru_maxrss`` of getrusage is not it: Linux passes on the peak of the process that started this one.
    """
    lines = status.read_text().splitlines() if status.is_file() else []
    told = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(told[0]) / 1024 if told else None
