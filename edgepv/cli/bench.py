"""The commands ``bench`` and ``choose``."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import Commands, refuse_deadline, refuse_threads, seed


def add_bench(commands: Commands) -> None:
    """edgepv bench, edgepv choose"""
    text = "measure a bundle here: latency of every variant, or --live, what a camera would get from it"
    c = commands.add_parser("bench", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip")
    c.add_argument(
        "--live",
        action="store_true",
        help="replay labelled clips at camera rate: streaming accuracy, missed deadlines, freshness",
    )
    c.add_argument(
        "--clips", metavar="DIR", help="labelled clips (default: those shipped, if their labels fit)"
    )
    c.add_argument(
        "--deadline-ms", type=float, metavar="MS", help="default: twice the largest variant's p50 here"
    )
    c.add_argument(
        "--rate", type=float, default=1.0, metavar="X", help="times the camera's speed (default: 1)"
    )
    c.add_argument("--limit", type=int, default=12, metavar="N", help="clips per variant (default: 12)")
    c.add_argument("--seed", type=seed, default=0, help="which clips, and in which order (default: 0)")
    c.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the engine (default: 1)")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=bench_command)
    text = "time what a bundle may run on this machine, and remember the fastest for edgepv run"
    c = commands.add_parser("choose", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder")
    c.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the engine (default: 1)")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=choose_command)


def bench_command(a: argparse.Namespace) -> int:
    """edgepv bench"""
    from edgepv.base.console import Console
    from edgepv.bundle.archive import opened
    from edgepv.bundle.manifest import check
    from edgepv.cli import show
    from edgepv.measure import bench
    from edgepv.types import encode

    refuse_threads(a.threads)
    refuse_deadline(a.deadline_ms)
    console = Console(quiet=a.json)
    with opened(Path(a.bundle)) as bundle:
        check(bundle)
        if not a.live:
            rows = bench.latencies(bundle, a.threads)
            print(json.dumps(encode(rows), indent=1)) if a.json else show.latencies(rows)
            return 0
        options = bench.LiveBench(a.clips, a.deadline_ms, a.rate, a.limit, a.seed, a.threads)
        results = bench.live(bundle, options, console)
    if a.json:
        print(json.dumps(encode(results), indent=1))
    else:
        show.replayed(results)
        limit = f"{results[0].limit_ms:.0f}"
        say_next(shlex.join(["edgepv", "run", a.bundle, "--source", "rtsp://...", "--deadline-ms", limit]))
    return 0


def choose_command(a: argparse.Namespace) -> int:
    """edgepv choose"""
    from edgepv.bundle.manifest import check, read
    from edgepv.cli import show
    from edgepv.measure.here import chosen
    from edgepv.types import encode

    refuse_threads(a.threads)
    bundle = read(Path(a.bundle))
    check(bundle)
    choice = chosen(bundle, a.threads, again=True)
    if a.json:
        print(json.dumps(encode(choice), indent=1))
        return 0
    show.latencies({row.variant: row.latency[0] for row in choice.rows})
    tell(choice.why)
    say_next(shlex.join(["edgepv", "run", a.bundle, "--source", "rtsp://..."]))
    return 0
