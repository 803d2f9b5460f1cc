"""Times in pairs held against known truth: does the interval of a ratio hold it, what does a busy machine do?

``python benchmarks/pairs.py --simulate`` draws turns of two variants that take the same time, under noise of
known law, many times, and writes pairs.json: how often the 95 % interval of the ratio holds 1, and how wide
it is, for ``edgepv.metrics.times.paired_ratio`` and for the intervals that were not taken. And calls on a
core that is another's for a known share of the time. No clock is read. Without an option it writes pairs.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import now, stamp

from edgepv.base.files import read_json, write_json, write_text
from edgepv.metrics.stats import Z95, student
from edgepv.metrics.times import BATCHES, CONTENDED, paired_ratio

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "pairs.json", HERE / "pairs.md"
REPEATS = 1000
TURNS = (10, 67, 221)  # of the fewest calls, of an export's 201, of the 663 that support p99
VARIANTS = 8  # in a turn; the two that are compared are half of a turn apart
OWN = 0.02  # spread of a single time, as a share of it: timer, caches, page faults
SLICE_MS = 4.0  # that another process keeps a core for: the order of a scheduler's slice
CALLS = 200_000  # that tell percentiles under contention

Pair = tuple[np.ndarray, np.ndarray]
Interval = tuple[np.ndarray, np.ndarray]


def drifting(rng: np.random.Generator, shape: tuple[int, int], turns: float) -> np.ndarray:
    """(repeats, steps) noise of variance 1 whose correlation falls to 1/e within ``turns`` steps."""
    keep = math.exp(-1 / turns)
    fresh = rng.standard_normal(shape)
    noise = np.empty(shape)
    noise[:, 0] = fresh[:, 0]
    for i in range(1, shape[1]):
        noise[:, i] = keep * noise[:, i - 1] + math.sqrt(1 - keep * keep) * fresh[:, i]
    return noise


def shared(rng: np.random.Generator, n: int, turns: float) -> Pair:
    """A load of 20 % that both variants meet, each at its place in the turn."""
    noise = 0.2 * drifting(rng, (REPEATS, n * VARIANTS), turns * VARIANTS)
    return noise[:, ::VARIANTS], noise[:, VARIANTS // 2 :: VARIANTS]


def apart(rng: np.random.Generator, n: int, turns: float) -> Pair:
    """5 % that each variant has for itself and keeps for some turns: where its data lie, how cores boost."""
    first, second = (0.05 * drifting(rng, (REPEATS, n), turns) for _ in range(2))
    return first, second


def hit(rng: np.random.Generator, n: int, share: float) -> Pair:
    """A share of the turns, of one variant or the other, is longer by half and more."""
    shape = (REPEATS, n)
    first, second = (np.where(rng.random(shape) < share, rng.exponential(0.7, shape), 0) for _ in range(2))
    return first, second


LAWS: dict[str, Callable[[np.random.Generator, int], Pair]] = {
    "quiet": lambda rng, n: (np.zeros((REPEATS, n)),) * 2,
    "shared load, 20 turns long": lambda rng, n: shared(rng, n, 20),
    "shared load, 3 turns long": lambda rng, n: shared(rng, n, 3),
    "shared load, half a turn long": lambda rng, n: shared(rng, n, 0.5),
    "10 % of the turns hit": lambda rng, n: hit(rng, n, 0.1),
    "30 % of the turns hit": lambda rng, n: hit(rng, n, 0.3),
    "each its own, 2 turns long": lambda rng, n: apart(rng, n, 2),
    "each its own, 5 turns long": lambda rng, n: apart(rng, n, 5),
}


def ours(a: np.ndarray, b: np.ndarray) -> Interval:
    """The interval of the product."""
    found = [paired_ratio(np.exp(x), np.exp(y)) for x, y in zip(a, b)]
    return np.array([math.log(r.low) for r in found if r]), np.array([math.log(r.high) for r in found if r])


def student_of(values: np.ndarray) -> Interval:
    """Student's interval of the mean of each row."""
    n = values.shape[1]
    half = student(n - 1) * values.std(axis=1, ddof=1) / math.sqrt(n)
    return values.mean(axis=1) - half, values.mean(axis=1) + half


def order_statistics(logs: np.ndarray) -> Interval:
    """The median's interval between two of the sorted pairs, which takes pairs as independent."""
    n, ranked = logs.shape[1], np.sort(logs, axis=1)
    skip = max(0, math.floor(n / 2 - Z95 * math.sqrt(n) / 2) - 1)
    return ranked[:, skip], ranked[:, n - 1 - skip]


def block_bootstrap(logs: np.ndarray) -> Interval:
    """Percentiles of the median over blocks drawn anew (Kuensch 1989), of length 2 n^(1/3)."""
    rng, n = np.random.default_rng(1), logs.shape[1]
    length = max(2, round(2 * n ** (1 / 3)))
    drawn = []
    for _ in range(300):
        starts = rng.integers(0, n - length + 1, -(-n // length))
        places = (starts[:, None] + np.arange(length)).ravel()[:n]
        drawn.append(np.median(logs[:, places], axis=1))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    return low, high


def ten_means(logs: np.ndarray) -> Interval:
    """Batch means (Schmeiser 1982): Student's interval of the means of ten stretches."""
    return student_of(np.stack([part.mean(axis=1) for part in np.array_split(logs, 10, axis=1)], axis=1))


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], Interval]] = {
    f"{BATCHES} medians": ours,
    "10 means": lambda a, b: ten_means(a - b),
    "all pairs, Student": lambda a, b: student_of(a - b),
    "order statistics": lambda a, b: order_statistics(a - b),
    "block bootstrap": lambda a, b: block_bootstrap(a - b),
}


def intervals() -> list[dict[str, Any]]:
    """Coverage and median width of every method, law and number of turns."""
    rows = []
    for n in TURNS:
        for place, (law, draw) in enumerate(LAWS.items()):
            rng = np.random.default_rng([n, place])
            a, b = (one + OWN * rng.standard_normal((REPEATS, n)) for one in draw(rng, n))
            row: dict[str, Any] = {"turns": n, "law": law}
            for name, method in METHODS.items():
                low, high = method(a, b)
                row[name] = {
                    "coverage": float(((low <= 0) & (high >= 0)).mean()),
                    "width": float(np.median(np.exp(high) - np.exp(low))),
                }
            rows.append(row)
    return rows


def contended(rng: np.random.Generator, work_ms: float, share: float) -> np.ndarray:
    """(CALLS,) times in ms of calls on a core that is another's for this share of the time."""
    taken = rng.poisson(work_ms * share / (1 - share) / SLICE_MS, CALLS)
    times: np.ndarray = work_ms + np.where(taken > 0, rng.gamma(np.maximum(taken, 1), SLICE_MS), 0)
    return times


def contention() -> list[dict[str, float]]:
    """How much longer the percentiles are, and what becomes of the ratio of a call half as long."""
    rows = []
    for share in (0.01, 0.02, CONTENDED, 0.1, 0.2, 0.4):
        for work_ms in (1.0, 10.0, 100.0):
            rng = np.random.default_rng(0)
            whole, half = contended(rng, work_ms, share), contended(rng, work_ms / 2, share)
            p50, p95, p99 = np.percentile(whole, [50, 95, 99]) / work_ms
            ratio = float(np.median(half / whole))
            rows.append(
                {"share": share, "work_ms": work_ms, "p50": p50, "p95": p95, "p99": p99, "ratio": ratio}
            )
    return rows


def page(found: dict[str, Any]) -> str:
    """pairs.md, of the committed result."""
    lines = [
        "# Times in pairs",
        "",
        "Made by `python benchmarks/pairs.py` from benchmarks/pairs.json: simulated, no clock was read. "
        f"{stamp(found['measured_at'])}",
        "",
        "## The interval of a ratio",
        "",
        f"{found['repeats']:,} runs of two variants that take the same time, {VARIANTS} variants in a turn, "
        f"single times spread by {100 * OWN:g} %, with the noise of the row besides. How often the 95 % "
        f"interval of the ratio holds 1, and its median width. `edgepv.metrics.times.paired_ratio` is the "
        f"first: Student's interval of the medians of {BATCHES} stretches.",
        "",
        "| turns | noise | " + " | ".join(METHODS) + " |",
        "|---|---|" + "---|" * len(METHODS),
    ]
    for row in found["intervals"]:
        cells = (f"{100 * row[m]['coverage']:.1f} %, {row[m]['width']:.3f}" for m in METHODS)
        lines.append(f"| {row['turns']} | {row['law']} | {' | '.join(cells)} |")
    lines += [
        "",
        "## A core that is another's for a share of the time",
        "",
        f"Another process takes the core for {SLICE_MS:g} ms on average, again and again; {CALLS:,} calls. "
        "How many times as long the percentiles of a call become, and the median ratio of a call that is "
        f"half as long, 0.5 when nothing disturbs. Up to {100 * CONTENDED:g} % the median and the ratio are "
        "within so much of themselves while p95 is longer by a fifth and more; above it times "
        "are no ground for a choice (`edgepv.metrics.times.busy_reason`).",
        "",
        "| share of the time | a call's own ms | p50 | p95 | p99 | ratio |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {100 * r['share']:g} % | {r['work_ms']:g} | {r['p50']:.2f} | {r['p95']:.2f} | {r['p99']:.2f} "
        f"| {r['ratio']:.3f} |"
        for r in found["contention"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulate", action="store_true", help="draw anew and write pairs.json")
    if parser.parse_args().simulate:
        result = {"measured_at": now(), "repeats": REPEATS}
        write_json(OUT, {**result, "intervals": intervals(), "contention": contention()})
    write_text(PAGE, page(read_json(OUT)))


if __name__ == "__main__":
    main()
