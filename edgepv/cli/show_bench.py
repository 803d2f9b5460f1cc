"""Tables of ``edgepv bench``, for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepv.base.console import tell
from edgepv.cli import show
from edgepv.cli.show import UNKNOWN, table
from edgepv.metrics.stats import size

if TYPE_CHECKING:
    from edgepv.measure.compare import Change
    from edgepv.types import BenchResult, BenchRow


def result(found: BenchResult, *, lone: bool) -> None:
    """Times in turns; what each does alone; what it takes; and of which machine all this is.

    lone: the user gave one artifact; shares are then of its fastest float variant, else of the first.
    """
    several = lone and any(row.latency.ratios for row in found.rows)
    show.latencies(
        {row.name: row.latency for row in found.rows}, base=None if several else found.rows[0].name
    )
    tell()
    _rates(found.rows)
    if any(row.camera for row in found.rows):
        tell()
        _cameras(found.rows)
    tell()
    _sizes(found.rows)
    tell()
    for line in _machine(found):
        tell(line)
    for reason in found.left_out:
        tell(f"left out: {reason}")


def _rates(rows: Sequence[BenchRow]) -> None:
    checked = any(row.loadgen for row in rows)
    header = ["artifact", "engine", "frames/s", "cameras/core", "cold start ms", "p90 ms"]
    header += ["LoadGen p90 ms"] if checked else []
    cells = []
    for row in rows:
        start = row.cold_start
        cameras = f"{row.cameras_per_core:.1f} at {row.rate:g} fps" if row.cameras_per_core else UNKNOWN
        told = UNKNOWN
        if start:
            whole = f"{start.process_ms:.0f}" if start.process_ms is not None else UNKNOWN
            told = f"{whole} (open {start.open_ms:.0f}, first {start.first_ms:.1f})"
        line = [row.name, row.engine, f"{row.fps:.1f}", cameras, told, _number(row.p90_ms, 3)]
        line += [_number(row.loadgen.p90_ms if row.loadgen else None, 3)] if checked else []
        cells.append(line)
    table(header, cells)


def _cameras(rows: Sequence[BenchRow]) -> None:
    header = ("artifact", "camera", "overruns", "dropped", "p50", "p95", "p99", "p99.9", "longest ms")
    cells = []
    for row in rows:
        if c := row.camera:
            times = (c.p50_ms, c.p95_ms, c.p99_ms, c.p999_ms, c.most_ms)
            counts = (f"{c.overruns} of {c.frames}", str(c.dropped))
            cells.append((row.name, f"{c.fps:g} fps", *counts, *(_number(t, 2) for t in times)))
    table(header, cells)


def _sizes(rows: Sequence[BenchRow]) -> None:
    header = ("artifact", "file", "states", "peak MiB", "mallocs/step", "mJ/call")
    table(
        header,
        [
            (
                row.name,
                UNKNOWN if row.bytes is None else size(row.bytes),
                UNKNOWN if row.state_bytes is None else size(row.state_bytes),
                _number(row.rss_mib, 1),
                UNKNOWN if row.mallocs is None else str(row.mallocs),
                _number(row.energy_mj, 2),
            )
            for row in rows
        ],
    )


def _machine(found: BenchResult) -> list[str]:
    """The facts that these figures belong to, a line each."""
    setup, load = found.setup, found.rows[0].latency.load
    device = setup.device
    limits = f"{setup.mhz[0]:.0f} to {setup.mhz[1]:.0f} MHz allowed" if setup.mhz else "clock limits not told"
    flags = ", ".join(device.flags) or "no flags of note"
    lines = [
        f"{device.cpu}, {device.cores} cores, {device.arch} ({flags})",
        f"{device.os}; governor {setup.governor or 'not told'}; {limits}; threads {setup.threads}",
    ]
    if load:
        clocks = f"{load.mhz[0]:.0f} to {load.mhz[1]:.0f} MHz" if load.mhz else "clocks not told"
        others = UNKNOWN if load.others is None else f"{load.others:.2f} cores"
        steal = UNKNOWN if load.steal is None else f"{100 * load.steal:.1f} %"
        warm = f"{found.celsius[0]:.0f} to {found.celsius[1]:.0f} degrees C" if found.celsius else "not told"
        lines.append(
            f"meanwhile: load {load.average:.2f}, others used {others}, steal {steal}, {clocks}, "
            f"temperature {warm}"
        )
    return lines + list(dict.fromkeys(f"{row.build}; {row.policy}" for row in found.rows))


def changes(found: Sequence[Change]) -> None:
    """A line for each artifact that is in both results."""
    header = ("artifact", "is", "time (95 %)", "CPU time (95 %)", "against")
    table(
        header,
        [
            (c.name, c.verdict, str(c.wall), str(c.cpu) if c.cpu else UNKNOWN, c.against or "the clock alone")
            for c in found
        ],
    )


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"
