"""When, where and with which code a result was measured: code goes on and results stay, so a page says it."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepv.base.machine import device_facts


def now() -> dict[str, Any]:
    """The commit of this checkout, "+" where its code differs from it, the day, the CPU and its flags."""
    commit = _git("describe", "--always", "--exclude=*")
    code = ("*.py", "*.c", "*.h", "*.toml", "*.sh")
    commit += "+" * bool(_git("diff", "--name-only", "HEAD", "--", *(f":(top){name}" for name in code)))
    facts = device_facts()
    day = datetime.date.today().isoformat()
    return {"commit": commit, "date": day, "cpu": facts.cpu, "flags": list(facts.flags)}


def _git(*words: str) -> str:
    asked = ("git", "-C", str(Path(__file__).parent), *words)
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def told(at: Mapping[str, Any] | None) -> str:
    """ "Measured at commit 5826028 (2026-11-21); the code has gone on since." """
    if at is None or at["commit"] is None:
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
    """ "AMD EPYC, avx512_vnni", of a device's facts, or of what ``now`` gave."""
    known = device is not None and device.get("cpu") is not None
    return f"{device['cpu']}, {sums(device['flags'])}" if known else "not noted"


def stamp(at: Mapping[str, Any] | None) -> str:
    """Commit, day and CPU, for a page whose result holds nothing else of its machine."""
    return f"{told(at)} CPU: {machine(at)}."


def stamps(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The stamps of a result that is measured part by part, each said once with its parts."""
    of: dict[str, list[str]] = {}
    for part, at in parts.items():
        of.setdefault(stamp(at), []).append(part)
    return " ".join(f"{', '.join(names)}: {said}" for said, names in of.items())
