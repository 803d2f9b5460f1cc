"""Does the ladder hold its deadline while other programs fight for the CPU? Writes live.json and live.md.

    for size in 112 80 64; do edgepv export pv-c3d --size $size --stream window --clips DATA --out w$size;
    done edgepv ladder w112 w80 w64 --out ladder python benchmarks/live.py ladder --data DATA
    # about half an hour; nothing else may run python benchmarks/live.py ladder --data DATA --part
    overhead,memory,traces   # some parts only

The net runs as a window, as one does that cannot be streamed, so that a frame costs tens of milliseconds.
Loads are stress-ng at EQUAL priority; ``ladder, realtime`` alone asks for SCHED_FIFO. Deadline: 1.5 times
the p50 of the largest rung on the idle machine; the camera gives a frame every 1.25 deadlines. Blocks of
one load hold every way to run once, in an order drawn anew for every seed, on the same clips.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import machine, now, told

from edgepv import bundle
from edgepv.base.files import write_json, write_text
from edgepv.base.machine import device_facts
from edgepv.bundle.manifest import Bundle
from edgepv.data.clips import find_clips
from edgepv.measure import replay
from edgepv.measure.replay import Shot
from edgepv.metrics.stats import percentiles_ms
from edgepv.runtimes.deadline import DeadlineRunner, profile
from edgepv.runtimes.ladder import open_ladder
from edgepv.types import Deadline, encode

HERE = Path(__file__).parent
RESULT = HERE / "live.json"
TRACES = HERE.parent / "tests" / "runtimes" / "deadline" / "traces.json"
LOADS: dict[str, tuple[str, ...]] = {
    "idle": (),
    "cpu x2": ("--cpu", "2"),
    "cpu x4": ("--cpu", "4"),
    "memory": ("--vm", "2", "--vm-bytes", "1g", "--vm-method", "all"),
}
LADDER, REALTIME = "ladder", "ladder, realtime"
TIMES_LARGEST, TIMES_DEADLINE = 1.5, 1.25
DRAWS = 2000


@contextlib.contextmanager
def load(name: str) -> Iterator[None]:
    """stress-ng beside us, at the same priority, warmed up for a second."""
    if not LOADS[name]:
        time.sleep(1)
        yield
        return
    stress = shutil.which("stress-ng")
    if stress is None:
        raise SystemExit("stress-ng is not installed")
    process = subprocess.Popen([stress, "--quiet", *LOADS[name]], stdout=subprocess.DEVNULL)
    try:
        time.sleep(2)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def priority(realtime: bool) -> Iterator[None]:
    """SCHED_FIFO for this thread and those it starts, for as long as the block lasts."""
    if not realtime:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def chosen(found: Bundle, data: Path, seed: int, count: int) -> list[Shot]:
    """Test clips, the labels taking turns, drawn by the seed."""
    spec = found.content.spec
    clips = [c for c in find_clips(data, spec.labels) if c.split == "test"]
    return replay.shots(replay.drawn(clips, spec.labels, seed, count), spec)


def blocks(found: Bundle, data: Path, seeds: int, clips: int, done: list[dict[str, Any]]) -> None:
    """Every load and every way to run, once per seed; appended to ``done`` and saved as they come."""
    variants = found.ladder()
    ladder = open_ladder(variants, found.folder)
    times = profile(ladder, calls=100)
    ladder.close()
    limit_ms = TIMES_LARGEST * times[0]
    rate = Fraction(1000 / float(found.content.spec.fps) / (TIMES_DEADLINE * limit_ms)).limit_denominator(
        1000
    )
    print(
        f"profiles {[round(t, 2) for t in times]} ms, deadline {limit_ms:.1f} ms, rate x{float(rate):.2f}",
        flush=True,
    )
    for seed in range(seeds):
        played = chosen(found, data, seed, clips)
        names = list(LOADS)
        random.Random(seed).shuffle(names)
        for name in names:
            ways = [*(v.name for v in variants), LADDER, REALTIME]
            random.Random(f"{seed}{name}").shuffle(ways)
            with load(name):
                for way in ways:
                    keep = None if way in (LADDER, REALTIME) else [v.name for v in variants].index(way)
                    opened = open_ladder(variants, found.folder)
                    with priority(way == REALTIME):
                        made = replay.replay(
                            way, opened, times, played, Deadline(limit_ms), keep=keep, rate=rate
                        )
                    done.append({"seed": seed, "load": name, "profiles_ms": times, **encode(made)})
                    got = f"missed {made.miss_rate:6.1%} right {made.accuracy:6.1%}"
                    print(f"seed {seed} {name:8} {way:32} {got}", flush=True)


def interval(values: Sequence[float], weights: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of sum(values) / sum(weights), drawing clips."""
    rng = np.random.default_rng(0)
    v, w = np.asarray(values, float), np.asarray(weights, float)
    draws = rng.integers(0, len(v), (DRAWS, len(v)))
    low, high = np.percentile(v[draws].sum(1) / w[draws].sum(1), [2.5, 97.5])
    return float(low), float(high)


def summarised(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per load and way: misses and streaming accuracy with intervals over clips, times."""
    rows = []
    ways = list(dict.fromkeys(r["name"] for r in runs))
    for name in LOADS:
        mine = {way: [r for r in runs if r["load"] == name and r["name"] == way] for way in ways}
        fixed = [w for w in ways if w not in (LADDER, REALTIME) and mine[w]]
        if not fixed:
            continue
        best = max(fixed, key=lambda w: sum(r["right"] for r in mine[w]))
        for way in ways:
            if mine[way]:
                rows.append(
                    {"load": name, "runs": way, **_row(mine[way], mine[best])} | {"best": way == best}
                )
    return rows


def _row(mine: list[dict[str, Any]], best: list[dict[str, Any]]) -> dict[str, Any]:
    clips = [c for r in mine for c in r["per_clip"]]
    right, instants = [c[0] for c in clips], [c[1] for c in clips]
    replies = [x for r in mine for x in r["replies"]]
    per_clip = len(replies) // len(clips)
    missed = [sum(m for _, m in replies[i * per_clip : (i + 1) * per_clip]) for i in range(len(clips))]
    p50, p95, p99 = percentiles_ms([ms / 1e3 for ms, _ in replies])
    ours = {(r["seed"], i): c for r in mine for i, c in enumerate(r["per_clip"])}
    theirs = {(r["seed"], i): c for r in best for i, c in enumerate(r["per_clip"])}
    differences = [ours[k][0] - theirs[k][0] for k in ours]
    return {
        "frames": len(replies),
        "miss_rate": sum(missed) / len(replies),
        "miss_interval": interval(missed, [per_clip] * len(missed)),
        "accuracy": sum(right) / sum(instants),
        "accuracy_interval": interval(right, instants),
        "instants": sum(instants),
        "clips": len(clips),
        "against_best_fixed_points": 100 * sum(differences) / sum(instants),
        "against_best_fixed_interval": [100 * x for x in interval(differences, instants)],
        "reply_p50_ms": p50,
        "reply_p95_ms": p95,
        "reply_p99_ms": p99,
        "reply_max_ms": max(ms for ms, _ in replies),
        "age_p50_ms": statistics.median(r["age_ms"][0] for r in mine),
        "age_p95_ms": max(r["age_ms"][1] for r in mine),
        "dropped": sum(r["dropped"] for r in mine),
        "switches_per_minute": statistics.mean(r["switches_per_minute"] for r in mine),
    }


def overhead(found: Bundle, calls: int = 1000) -> dict[str, Any]:
    """The runner beside the bare step of the same opened variant, taking turns; smallest rung."""
    variant = found.ladder()[-1]
    ladder = open_ladder([variant], found.folder)
    frame = np.random.default_rng(0).integers(0, 255, (128, 192, 3)).astype(np.uint8)
    times: dict[str, list[float]] = {"bare": [], "runner": [], "handed to its thread": []}
    inline = DeadlineRunner(ladder, [1.0], Deadline(1e4))
    threaded = DeadlineRunner(ladder, [1.0], Deadline(1e4)).start()

    def through_the_runner() -> None:
        inline.offer(frame)
        inline.cycle()

    calls_of = {
        "bare": lambda: ladder.lanes[0].step(frame),
        "runner": through_the_runner,
        "handed to its thread": lambda: threaded.ask(frame),
    }
    for i in range(calls + 50):
        for name, call in calls_of.items():
            began = time.perf_counter()
            call()
            if i >= 50:
                times[name].append(1e3 * (time.perf_counter() - began))
    threaded.close()
    medians = {name: statistics.median(t) for name, t in times.items()}
    return {
        "variant": variant.name,
        "calls": calls,
        **{f"{name}, p50 ms": value for name, value in medians.items()},
        "runner adds us": 1e3 * (medians["runner"] - medians["bare"]),
        "runner adds share": medians["runner"] / medians["bare"] - 1,
        "thread adds us": 1e3 * (medians["handed to its thread"] - medians["bare"]),
    }


def memory(found: Bundle, frames: int = 100_000) -> dict[str, Any]:
    """Resident memory after a tenth of the frames and after all, in the threaded runner."""
    ladder = open_ladder(found.ladder(), found.folder)
    smallest = len(ladder.lanes) - 1
    frame = np.random.default_rng(0).integers(0, 255, (128, 192, 3)).astype(np.uint8)
    seen: dict[str, float] = {}
    with DeadlineRunner(ladder, [1.0] * (smallest + 1), Deadline(1e3), keep=smallest) as runner:
        for number in range(1, frames + 1):
            runner.ask(frame)
            if number in (frames // 10, frames):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                seen[str(number)] = pages * resource.getpagesize() / 2**20
    first, last = seen.values()
    return {"frames": frames, "rss_mib": seen, "growth": last / first - 1}


def traces(found: Bundle, ticks: int = 300) -> list[dict[str, Any]]:
    """What each rung takes, tick by tick, under load: the tests replay it in simulated time."""
    variants = found.ladder()
    frame = np.random.default_rng(0).integers(0, 255, (128, 192, 3)).astype(np.uint8)
    ladder = open_ladder(variants, found.folder)
    times = profile(ladder, calls=100)
    limit_ms = TIMES_LARGEST * times[0]
    period_s = TIMES_DEADLINE * limit_ms / 1e3
    made = []
    for name in ("cpu x2", "cpu x4"):
        took: dict[str, list[float]] = {v.name: [] for v in variants}
        with load(name):
            for _ in range(ticks):
                began = time.monotonic()
                for lane in ladder.lanes:
                    start = time.perf_counter()
                    lane.step(frame)
                    took[lane.variant.name].append(round(1e3 * (time.perf_counter() - start), 2))
                time.sleep(max(0.0, period_s - (time.monotonic() - began)))
        made.append({
            "name": name, "limit_ms": round(limit_ms, 2), "period_ms": round(1e3 * period_s, 2),
            "profiles_ms": [round(t, 2) for t in times], "rungs": took,
        })  # fmt: skip
    ladder.close()
    return made


def markdown(result: dict[str, Any]) -> str:
    """live.md: the table, and what it says."""
    lines = ["# Live: deadlines under load", "", told(result["measured_at"]), "", result["about"], ""]
    lines += [
        "| load | runs | missed (95 %) | right (95 %) | against best fixed, points | "
        "reply p50 / p99 / max ms | age p50 / p95 ms | switches/min |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        lines.append(
            f"| {r['load']} | {r['runs']}{' (best fixed)' if r['best'] else ''} | {r['miss_rate']:.2%} "
            f"({r['miss_interval'][0]:.2%} to {r['miss_interval'][1]:.2%}) | {r['accuracy']:.1%} "
            f"({r['accuracy_interval'][0]:.1%} to {r['accuracy_interval'][1]:.1%}) | "
            f"{r['against_best_fixed_points']:+.1f} ({r['against_best_fixed_interval'][0]:+.1f} to "
            f"{r['against_best_fixed_interval'][1]:+.1f}) | "
            f"{r['reply_p50_ms']:.1f} / {r['reply_p99_ms']:.1f} / {r['reply_max_ms']:.1f} | "
            f"{r['age_p50_ms']:.0f} / {r['age_p95_ms']:.0f} | "
            f"{r['switches_per_minute']:.1f} |"
        )
    for part in ("overhead", "memory"):
        if part in result:
            lines += ["", f"## {part.capitalize()}", ""]
            lines += [
                f"* {k}: {v if not isinstance(v, float) else f'{v:.4g}'}" for k, v in result[part].items()
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--part", default="blocks,overhead,memory,traces")
    a = parser.parse_args()
    found = bundle.read(a.bundle)
    bundle.check(found)
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    parts = a.part.split(",")
    if "overhead" in parts:
        result["overhead"] = overhead(found)
    if "traces" in parts:
        write_text(TRACES, json.dumps(traces(found), separators=(",", ":")) + "\n")
    if "blocks" in parts:
        runs: list[dict[str, Any]] = []
        blocks(found, a.data, a.seeds, a.clips, runs)
        result["rows"] = summarised(runs)
        result["device"] = encode(device_facts())
        first = runs[0]
        profiles = ", ".join(
            f"{v.name} {ms:.1f} ms" for v, ms in zip(found.ladder(), first["profiles_ms"], strict=True)
        )
        result["about"] = (
            f"Idle profiles: {profiles}; deadline {first['limit_ms']:.1f} ms, a frame every "
            f"{first['period_ms']:.1f} ms, {a.seeds} seeds of {a.clips} test clips, one engine thread, "
            f"{result['device']['cores']} cores ({machine(result['device'])}), stress-ng at equal "
            "priority. Intervals: bootstrap over clips. Right: share of moments after a clip's warm-up at "
            "which the latest answer was right."
        )
    if "memory" in parts:
        result["memory"] = memory(found)
    result["measured_at"] = now()
    write_json(RESULT, result)
    write_text(RESULT.with_suffix(".md"), markdown(result))


if __name__ == "__main__":
    main()
