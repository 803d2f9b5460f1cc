"""Whether ``edgepv choose`` picks the fastest variant: its few seconds against a long measurement, by bundle.

    python benchmarks/choose.py make      # exports models of the zoo for cpu; may run on a busy machine
    python benchmarks/choose.py time      # ten minutes at most, on a quiet machine; BUNDLE ...: these only

``make`` leaves bundles that are there, of it or of models.py, as they are. ``time`` chooses ``CHOICES`` times
in each bundle, then times all of its candidates for long, in turns. choose.json holds a table for each kind
of CPU; the run on one leaves the others' as they are. A choice that was inconclusive is counted apart, and is
none of those that were right.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measured_at import now

from edgepv.base import cache
from edgepv.base.files import read_json, write_json
from edgepv.base.machine import device_facts
from edgepv.bundle import manifest
from edgepv.cli.app import main as edgepv
from edgepv.measure import here, latency
from edgepv.metrics.stats import wilson
from edgepv.metrics.times import calls_needed
from edgepv.runtimes.engine import open_engine
from edgepv.types import encode

OUT = Path(__file__).with_suffix(".json")
MODELS = (
    "pv-conv-nano-fight",
    "pv-conv-small-fight",
    "pv-conv-nano-handwash",
    "pv-conv-small-handwash",
    "pv-c3d-handwash",
    "pv-c3d-valid-fight",
    "pv-graph-nano-fight",
    "pv-graph-small-fight",
    "pv-track-nano",
    "pv-restore-nano-denoise",
)
CHOICES = 3
"""Choices in each bundle: what is asked is how often one is right."""
NEAR = 1.03
"""Largest share of the fastest one's time that a choice may take and be right."""
LONG_CALLS, LONG_S = 3 * calls_needed(99), 36.0
"""Calls of each candidate, and seconds after which a bundle's turns end: twelve times those of a choice."""
WHOLE_S = 600.0
"""Seconds after which no other bundle is begun."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("make", "time"))
    parser.add_argument("bundles", nargs="*", type=Path)
    args = parser.parse_args(argv)
    places = {name: cache.root() / "models" / name / "cpu" for name in MODELS}
    if args.stage == "make":
        return max(made(name, place) for name, place in places.items())
    timed(args.bundles or [place for place in places.values() if place.is_dir()])
    return 0


def made(name: str, folder: Path) -> int:
    """Export a model for cpu, unless its bundle is there; the exit code."""
    if folder.is_dir():
        return 0
    return edgepv(["export", name, "--target", "cpu", "--out", str(folder)])


def timed(folders: Sequence[Path]) -> None:
    """Choose in each bundle and hold it against a long measurement; into choose.json."""
    device, begun = device_facts(), time.monotonic()
    kind = ", ".join((device.cpu, device.arch, *device.flags))
    results = read_json(OUT) if OUT.is_file() else {}
    rows: list[dict[str, Any]] = []
    for folder in folders:
        if time.monotonic() - begun > WHOLE_S:
            break
        rows.append(judged(folder))
        results[kind] = {"at": now(), "device": encode(device), **summed(rows), "bundles": rows}
        write_json(OUT, results)
        print(f"{rows[-1]['bundle']}: chose {', '.join(rows[-1]['chosen'])}; best {rows[-1]['best']}")
    left = len(folders) - len(rows)
    print(f"{kind}: {summed(rows)}" + (f"; {left} bundles left, the time is over" if left else ""))


def summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The share of choices that were right, and of bundles in which all were, with its 95 % interval.

    Choices that tell nothing, and bundles without another, are counted apart.
    """
    told = [[share <= NEAR for share in row["shares"] if share is not None] for row in rows]
    choices = [right for one in told for right in one]
    bundles = [all(one) for one in told if one]
    return {
        "choices": len(choices),
        "inconclusive": sum(row["shares"].count(None) for row in rows),
        "right": sum(choices) / len(choices) if choices else None,
        "right_bundles": [sum(bundles), len(bundles)],
        "interval": wilson(sum(bundles), len(bundles)) if bundles else None,
    }


def judged(folder: Path) -> dict[str, Any]:
    """Each choice's time as a share of the fastest candidate's, by a long measurement; None: inconclusive."""
    bundle = manifest.read(folder)
    choices = [here.chosen(bundle, again=True) for _ in range(CHOICES)]
    names = [row.variant for row in choices[0].rows]
    opened = {
        name: (open_engine(bundle.variant(name), bundle.checked), bundle.variant(name)) for name in names
    }
    with latency.alone():
        times = latency.on_noise(opened, threads=1, calls=LONG_CALLS, budget_s=LONG_S)
    best = min(names, key=lambda name: times[name].p50_ms)
    busy = [any(row.latency[0].inconclusive for row in choice.rows) for choice in choices]
    return {
        "bundle": bundle.content.name,
        "chosen": [choice.variant for choice in choices],
        "best": best,
        "shares": shares([c.variant for c in choices], busy, times, best),
        "n": {name: times[name].n for name in names},
        "p50_ms": {name: times[name].p50_ms for name in names},
        "cpu_ms": {name: times[name].cpu_ms for name in names},
        "inconclusive": times[best].inconclusive,
    }


def shares(chosen: Sequence[str], busy: Sequence[bool], times: Any, best: str) -> list[float | None]:
    """What each choice takes of the best one's time; None where either was measured on a busy machine."""
    sure = times[best].inconclusive is None
    return [
        times[name].p50_ms / times[best].p50_ms if sure and not was_busy else None
        for name, was_busy in zip(chosen, busy)
    ]


if __name__ == "__main__":
    sys.exit(main())
