"""An artifact in a process of its own: how long until its first answer, and how much memory at most."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

from edgepv.base.isolated import call
from edgepv.base.registry import resolve
from edgepv.errors import TargetUnavailableError
from edgepv.measure.artifacts.artifact import Artifact
from edgepv.measure.memory import peak_mib
from edgepv.types import ColdStart

PROCESSES = 3
"""Starts whose median is told: one that was hit by something else does not decide."""
STEPS = 20
"""Steps before the peak memory is read: every buffer has been used by then."""


def cold_start(artifact: Artifact, threads: int) -> tuple[ColdStart | None, float | None]:
    """(how long a fresh process takes to its first answer, its peak resident memory in MiB).

    The files are in the system's cache, as after an update that has just checked them. None where a fresh
    process does not have the engine that this one has. Raises like ``Artifact.open`` otherwise.
    """
    given: dict[str, Any] = {"opener": artifact.opener, "arguments": artifact.arguments, "threads": threads}
    try:
        told = [call(f"{__name__}:started", tool=artifact.name, **given) for _ in range(PROCESSES)]
    except TargetUnavailableError:
        return None, None

    def middle(key: str) -> float | None:
        known = [one[key] for one in told if one[key] is not None]
        return statistics.median(known) if known else None

    peaks = [one["rss_mib"] for one in told if one["rss_mib"] is not None]
    start = ColdStart(middle("open_ms") or 0.0, middle("first_ms") or 0.0, PROCESSES, middle("process_ms"))
    return start, max(peaks, default=None)


def started(opener: str, arguments: dict[str, object], threads: int) -> dict[str, float | None]:
    """Subprocess side of ``cold_start``."""
    begun = time.perf_counter()
    opened = resolve(opener)(threads=threads, **arguments)
    ready = time.perf_counter()
    for _ in range(opened.chunk):
        opened.step()
    answered, process = time.perf_counter(), process_ms()
    for _ in range(STEPS):
        opened.step()
    return {
        "open_ms": 1e3 * (ready - begun),
        "first_ms": 1e3 * (answered - ready),
        "process_ms": process,
        "rss_mib": peak_mib(),
    }


def process_ms(stat: Path = Path("/proc/self/stat")) -> float | None:
    """Milliseconds since the system made this process, counted in its ticks; None where it does not tell.

    Source: proc(5), field 22 of /proc/pid/stat, in ticks since the system started.
    """
    if not stat.is_file():
        return None
    fields = stat.read_text().rpartition(")")[2].split()
    began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    passed_s = time.clock_gettime(time.CLOCK_BOOTTIME) - began_s
    return 1e3 * passed_s if passed_s >= 0 else None
