"""CPU time of a command until it answers, in turns with Python alone and with an earlier checkout.

``python benchmarks/startup.py --before CHECKOUT`` writes startup.json. CPU time of the process (user and
system), since wall time is also that of its neighbours; the median and quartiles of ``--times`` runs each.
CHECKOUT: a folder with another commit of this repository, as ``git worktree add`` makes it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import now

from edgepv.base.files import write_json
from edgepv.base.machine import device_facts
from edgepv.types import encode

HERE = Path(__file__).resolve().parent
OUT = HERE / "startup.json"
COMMANDS = ("--help", "export --help", "targets")


def cpu_ms(command: Sequence[str], checkout: Path) -> float:
    """User and system time of a process and its children, milliseconds. Raises RuntimeError if it fails."""
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(
        command, cwd=checkout, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return 1e3 * (used.ru_utime + used.ru_stime)


def cases(before: Path | None) -> dict[str, tuple[list[str], Path]]:
    """Name, command line and checkout of what is measured."""
    found = {"python -c pass": ([sys.executable, "-c", "pass"], HERE.parent)}
    for name, checkout in (("now", HERE.parent), ("before", before)):
        if checkout:
            for words in COMMANDS:
                found[f"edgepv {words}, {name}"] = (
                    [sys.executable, "-m", "edgepv", *words.split()],
                    checkout,
                )
    return found


def measured(asked: dict[str, tuple[list[str], Path]], times: int) -> dict[str, Any]:
    """Quartiles of each case; the cases take turns, so that all share the machine's good and bad seconds."""
    rows: dict[str, list[float]] = {name: [] for name in asked}
    for command, checkout in asked.values():
        cpu_ms(command, checkout)  # its .pyc files are there from now on
    for _ in range(times):
        for name, (command, checkout) in asked.items():
            rows[name].append(cpu_ms(command, checkout))
    found = {}
    for name, row in rows.items():
        low, middle, high = np.quantile(row, (0.25, 0.5, 0.75)).round(1).tolist()
        found[name] = {"median_ms": middle, "quartiles_ms": [low, high]}
        print(f"{name:28} {middle:6.1f} ms ({low:.1f} to {high:.1f})")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--times", type=int, default=20)
    args = parser.parse_args(argv)
    before = args.before.resolve() if args.before else None
    result = {"n": args.times, "cpu_ms": measured(cases(before), args.times)}
    if before:
        asked = ("git", "-C", str(before), "rev-parse", "--short", "HEAD")
        result["before"] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    write_json(OUT, result | {"device": encode(device_facts()), "measured_at": now()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
