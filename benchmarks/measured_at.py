"""When and with which code a result was measured: a page says so, since code goes on and results stay."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WRITTEN = (":!benchmarks/*.json", ":!benchmarks/*.md", ":!docs")


def now() -> dict[str, str]:
    """The commit of this checkout, "+" where files differ from it, and the day, for a result file.

    Results and pages may differ: they are what a run writes.
    """
    git = ("git", "-C", str(Path(__file__).parent.parent))
    asked = (*git, "describe", "--always", "--exclude=*")
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    differs = subprocess.run((*git, "diff", "--quiet", "HEAD", "--", ".", *WRITTEN), capture_output=True)
    return {"commit": commit + "+" * differs.returncode, "date": datetime.date.today().isoformat()}


def told(at: Mapping[str, str] | None) -> str:
    """ "Measured at commit 5826028 (2026-11-21); the code has gone on since." """
    if at is None:
        return "The commit it was measured at was not noted."
    return (
        f"Measured at commit {at['commit']} ({at['date']}). Code that was changed later is not what these "
        "figures describe: see CHANGELOG.md."
    )


def sums(flags: Sequence[str]) -> str:
    """What of a CPU's flags tells how it adds up INT8: those of VNNI, AMX or dot products, else the rest."""
    telling = [f for f in flags if any(word in f for word in ("vnni", "amx", "dot", "i8mm"))]
    return ", ".join(telling or flags) or "none of interest"


def machine(device: Mapping[str, Any] | None) -> str:
    """ "AMD EPYC, avx512_vnni", of a device's facts."""
    return "not noted" if device is None else f"{device['cpu']}, {sums(device['flags'])}"
