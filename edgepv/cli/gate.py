"""edgepv gate: a report against limits and against an older report, for a build in CI."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgepv.base.console import tell
from edgepv.cli.arguments import Commands, timeout
from edgepv.errors import UsageError

PERCENTILES = (50, 95, 99)


def add_gate(commands: Commands) -> None:
    """Add ``edgepv gate`` to the commands."""
    text = "pass or fail a build by a report: loss, latency, and what got worse since an older one"
    c = commands.add_parser("gate", help=text, description=text)
    c.add_argument("runs", nargs="+", metavar="RUN", help="bundle, folder of bundles, or report .json")
    c.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="points (dB of restorers) that what runs may lose (default: what each was exported with)",
    )
    for percentile in PERCENTILES:
        c.add_argument(
            f"--p{percentile}-ms", type=float, metavar="MS", help=f"most ms of p{percentile} of one call"
        )
    c.add_argument(
        "--baseline",
        metavar="RUN",
        help="an older report: fail what surely loses more, or surely takes longer, than what ran in it",
    )
    c.add_argument("--junit", metavar="FILE", help="write the checks as JUnit XML too")
    timeout(c, "reading the reports")
    c.set_defaults(run=gate_command)


def gate_command(a: argparse.Namespace) -> int:
    """edgepv gate"""
    from edgepv import report
    from edgepv.base.files import whole_file
    from edgepv.base.isolated import within
    from edgepv.report import judge

    _check(a)
    with within(a.timeout, "the gate"):
        results = report.load(*a.runs).report
        older = report.load(a.baseline).report if a.baseline else None
    checks = judge.judge(results, judge.Limits(a.max_drop, a.p50_ms, a.p95_ms, a.p99_ms), older)
    for check in checks:
        tell(f"{check.outcome}  {check.variant}  {check.what}: {check.told}")
    if a.junit:
        with whole_file(Path(a.junit)) as file:
            file.write_bytes(judge.junit(checks, results.title))
        tell(f"JUnit: {a.junit}", file=sys.stderr)
    error = judge.worst(checks)
    if error:
        raise error
    return 0


def _check(a: argparse.Namespace) -> None:
    """Raise UsageError for limits that are none and for a --junit that would replace something else."""
    times = {f"--p{percentile}-ms": getattr(a, f"p{percentile}_ms") for percentile in PERCENTILES}
    for option, most in times.items():
        if most is not None and not 0 < most < float("inf"):
            raise UsageError(f"{option} {most:g}: give a time above 0")
    if a.max_drop is not None and not 0 <= a.max_drop < float("inf"):
        raise UsageError(f"--max-drop {a.max_drop:g}: give points, 0 or more")
    junit = Path(a.junit) if a.junit else None
    if junit and junit.is_file() and b"<testsuite" not in junit.read_bytes()[:200]:
        raise UsageError(f"{junit} exists and is no JUnit XML. Name another file with --junit")
