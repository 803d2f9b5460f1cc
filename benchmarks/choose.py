"""Whether ``edgepv choose`` picks the fastest variant: its few seconds against a long measurement, by bundle.

``python benchmarks/choose.py [BUNDLE ...]`` chooses ``CHOICES`` times in each bundle, then times all of its
candidates for long, in turns. Without a bundle, models of the zoo are exported for cpu first. choose.json
holds a table for each kind of CPU; the run on one leaves the others' as they are. Run it on a quiet machine:
a choice that was inconclusive is counted apart, and is none of those that were right.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measured_at import now

from edgepv.base.files import read_json, write_json
from edgepv.base.machine import device_facts
from edgepv.bundle import manifest
from edgepv.cli.app import main as edgepv
from edgepv.measure import here, latency
from edgepv.metrics.times import calls_needed
from edgepv.runtimes.engine import open_engine
from edgepv.types import encode

OUT = Path(__file__).with_suffix(".json")
MODELS = (
    "pv-conv-nano",
    "pv-conv-small",
    "pv-conv-nano-handwash",
    "pv-conv-small-interact",
    "pv-c3d",
    "pv-c3d-valid",
    "pv-graph-nano",
    "pv-graph-small",
    "pv-track-nano",
    "pv-restore-nano",
)
CHOICES = 5
"""Choices in each bundle: what is asked is how often one is right."""
NEAR = 1.03
"""Largest share of the fastest one's time that a choice may take and be right."""
LONG_CALLS, LONG_S = 3 * calls_needed(99), 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", type=Path)
    given = parser.parse_args().bundles
    device = device_facts()
    kind = ", ".join((device.cpu, device.arch, *device.flags))
    results = read_json(OUT) if OUT.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        rows = [judged(folder) for folder in given or exported(Path(scratch))]
    counted = [share for row in rows for share in row["shares"] if share is not None]
    results[kind] = {
        "at": now(),
        "device": encode(device),
        "bundles": rows,
        "choices": len(counted),
        "inconclusive": sum(row["shares"].count(None) for row in rows),
        "right": sum(share <= NEAR for share in counted) / len(counted) if counted else None,
    }
    write_json(OUT, results)
    print(f"{kind}: {results[kind]['right']} of {len(counted)} choices within {NEAR - 1:.0%} of the best")


def exported(scratch: Path) -> Iterator[Path]:
    """A cpu bundle of each model."""
    for name in MODELS:
        if edgepv(["export", name, "--target", "cpu", "--out", str(scratch / name)]) == 0:
            yield scratch / name


def judged(folder: Path) -> dict[str, Any]:
    """Each choice's time as a share of the fastest candidate's, by a long measurement; None: inconclusive."""
    bundle = manifest.read(folder)
    made = [here.chosen(bundle, again=True) for _ in range(CHOICES)]
    names = [row.variant for row in made[0].rows]
    opened = {
        name: (open_engine(bundle.variant(name), bundle.checked), bundle.variant(name)) for name in names
    }
    times = latency.on_noise(opened, threads=1, calls=LONG_CALLS, budget_s=LONG_S)
    best = min(names, key=lambda name: times[name].p50_ms)
    busy = [any(row.latency[0].inconclusive for row in choice.rows) for choice in made]
    return {
        "bundle": bundle.content.name,
        "chosen": [choice.variant for choice in made],
        "best": best,
        "shares": _shares([c.variant for c in made], busy, times, best),
        "p50_ms": {name: time.p50_ms for name, time in times.items()},
        "cpu_ms": {name: time.cpu_ms for name, time in times.items()},
        "inconclusive": times[best].inconclusive,
    }


def _shares(chosen: Sequence[str], busy: Sequence[bool], times: Any, best: str) -> list[float | None]:
    sure = times[best].inconclusive is None
    return [
        times[name].p50_ms / times[best].p50_ms if sure and not was_busy else None
        for name, was_busy in zip(chosen, busy)
    ]


if __name__ == "__main__":
    main()
