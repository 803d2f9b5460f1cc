"""Time engines on this device in turns: whole steps, with the copies to the device and back."""

from __future__ import annotations

import time
from typing import Any, Sequence

import numpy as np

from edgepv.runtimes.trt.engine import TrtEngine

CALLS = 700
"""Of each engine: 662 are the fewest that tell a p99 (edgepv/metrics/times.py)."""
P95_NEEDS, P99_NEEDS = 130, 662  # calls, by the same rule
WARMUP = 50
"""Steps before the first that counts: clocks rise, and CUDA graphs are recorded in the first ones."""


def interleaved(engines: dict[str, TrtEngine], calls: int = CALLS) -> dict[str, dict[str, Any]]:
    """Times of one step of each engine by name: p50_ms, p95_ms, p99_ms (None of too few calls), n, ratio.

    They take turns, each turn from another first one, on the same noise. ratio: the median over the turns of
    an engine's time over that of the first in the table.
    """
    rng = np.random.default_rng(0)
    frames = {
        name: {engine.model.frame[0]: rng.standard_normal(engine.model.frame[1]).astype(np.float32)}
        for name, engine in engines.items()
    }
    for name, engine in engines.items():
        engine.forget()
        for _ in range(WARMUP):
            engine.advance(frames[name])
    names = list(engines)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(calls):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            began = time.perf_counter()
            engines[name].advance(frames[name])
            seconds[name].append(time.perf_counter() - began)
    first = np.asarray(seconds[names[0]])
    return {name: _row(seconds[name], first, engines[name]) for name in names}


def _row(seconds: Sequence[float], first: np.ndarray, engine: TrtEngine) -> dict[str, Any]:
    values = np.asarray(seconds)
    return {
        "p50_ms": _percentile(values, 50, 1),
        "p95_ms": _percentile(values, 95, P95_NEEDS),
        "p99_ms": _percentile(values, 99, P99_NEEDS),
        "n": len(values),
        "warmup": WARMUP,
        "ratio": round(float(np.median(values / first)), 4),
        "cuda_graph": not engine.why_no_graphs,
        "no_graph_because": engine.why_no_graphs or None,
        "copies": "to the device and back, pinned, in the step's own stream",
    }


def _percentile(values: np.ndarray, which: int, needs: int) -> float | None:
    return round(1e3 * float(np.percentile(values, which)), 4) if len(values) >= needs else None
