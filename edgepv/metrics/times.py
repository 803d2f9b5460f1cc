"""What call times can tell: percentiles that their number supports, ratios in pairs, a machine too busy."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from edgepv.metrics.stats import percentiles_ms, student
from edgepv.types import MachineLoad, Ratio

CONFIDENCE = 0.99
"""That of MLPerf's early stopping: at most one estimate of a percentile in 100 lies below the true one."""

BATCHES = 6
"""Stretches of a run whose medians make one interval. Of 1, 6 and 10 batches of means and medians, order
statistics and a block bootstrap, six medians held the interval best where noise comes in stretches and where
single calls are hit (benchmarks/pairs.md): fewer and longer batches depend less on one another."""

CONTENDED = 0.05
"""Largest share of the time in which the core of a thread may have been another's. Up to it a call's median,
and ratios, are within as much of themselves; p95 is longer by a fifth and more (benchmarks/pairs.md)."""


@functools.cache
def calls_needed(percentile: float, over: int = 1) -> int:
    """The fewest calls of which ``over`` may exceed a time that is to be the ``percentile``.

    The least n at which so few calls, or fewer, exceed the true percentile with a chance of at most 1 -
    ``CONFIDENCE``: then that time is not below it. With one call over, the rule can be applied at all: 662
    calls for p99, 64 for p90. Source: MLPerf Inference, "Early stopping" (mlcommons/inference,
    loadgen/early_stopping.cc), with its tolerance of 0: the tail of a binomial distribution.
    """
    n, share = over + 1, 1 - percentile / 100
    while _at_most(over, n, share) > 1 - CONFIDENCE:
        n += 1
    return n


def _at_most(over: int, n: int, share: float) -> float:
    """Chance of ``over`` or fewer hits in n independent tries, each a hit with the chance ``share``."""
    ways = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(over + 1))
    each = (way + k * math.log(share) + (n - k) * math.log1p(-share) for k, way in enumerate(ways))
    return math.fsum(map(math.exp, each))


def supported_ms(seconds: Sequence[float]) -> tuple[float, float | None, float | None]:
    """p50, p95 and p99 of call times in ms; None for p95 and p99 of fewer calls than ``calls_needed``."""
    p50, p95, p99 = percentiles_ms(seconds)
    n = len(seconds)
    return p50, p95 if n >= calls_needed(95) else None, p99 if n >= calls_needed(99) else None


def highest(p50_ms: float, p95_ms: float | None, p99_ms: float | None) -> tuple[str, float]:
    """The name of the highest percentile that is known, and its milliseconds."""
    known = (("p99", p99_ms), ("p95", p95_ms), ("p50", p50_ms))
    return next((name, ms) for name, ms in known if ms is not None)


def paired_ratio(times: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> Ratio | None:
    """Median time as a share of another's, of pairs measured in turns, with its 95 % interval.

    times, others: (turns,) in any one unit, in the order of measuring. None of fewer turns than ``BATCHES``,
    or where a time is 0, as a system counts that keeps no CPU time.
    The logarithm of the ratio of each pair; the median of each of ``BATCHES`` stretches of turns; Student's
    interval of their mean. Within a turn the machine's load cancels, and what is left of it in the turns
    after stays within a stretch. Source: Ibragimov and Müller 2010, "t-statistic based correlation and
    heterogeneity robust inference": few groups, whatever is correlated within one. Coverage:
    benchmarks/pairs.md.
    """
    pairs = np.stack([np.asarray(times, float), np.asarray(others, float)])
    if pairs.shape[1] < BATCHES or (pairs <= 0).any():
        return None
    logs = np.log(pairs[0] / pairs[1])
    medians = np.array([np.median(batch) for batch in np.array_split(logs, BATCHES)])
    half = student(BATCHES - 1) * float(medians.std(ddof=1)) / math.sqrt(BATCHES)
    middle = float(medians.mean())
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def median_ends(times: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the median of ``times`` (n,), in their unit, in the order of measuring.

    As in ``paired_ratio``, but of one row alone: what the machine does to all rows of a run is in it, so two
    such intervals tell less of a difference than a ratio. None of fewer times than ``BATCHES``.
    """
    if len(times) < BATCHES or min(times) <= 0:
        return None
    medians = np.array([np.median(batch) for batch in np.array_split(np.log(times), BATCHES)])
    half = student(BATCHES - 1) * float(medians.std(ddof=1)) / math.sqrt(BATCHES)
    middle = float(medians.mean())
    return math.exp(middle - half), math.exp(middle + half)


SPREAD = tuple(range(0, 101, 5))
"""Percentiles of ``Latency.spread_ms``: enough to draw a distribution by."""


def spread_ms(seconds: Sequence[float]) -> tuple[float, ...]:
    """The times, in ms, than which the shares ``SPREAD`` of the calls were no longer; to four digits."""
    return tuple(float(f"{ms:.4g}") for ms in np.percentile(np.asarray(seconds) * 1e3, SPREAD))


def busy_reason(load: MachineLoad, threads: int) -> str | None:
    """Why times of ``threads`` threads under this load are no ground for a choice; None if they may be one.

    The machine was busy if other processes left fewer cores than threads, or a hypervisor gave the cores
    away, in more than ``CONTENDED`` of the time. What the system does not tell speaks against nothing. The
    load average decides nothing: the timed calls, and all that the process did in the minute before, are in
    it.
    """
    wanted = min(threads, load.cores)
    short = max(0.0, (load.others or 0.0) + wanted - load.cores) / wanted
    if short + (load.steal or 0.0) <= CONTENDED:
        return None
    facts = [f"load {load.average:.1f} on {load.cores} cores"]
    facts += [f"others used {load.others:.1f} of them"] if load.others is not None else []
    facts += [f"steal {100 * load.steal:.0f} %"] if load.steal is not None else []
    return f"machine was busy ({', '.join(facts)})"
