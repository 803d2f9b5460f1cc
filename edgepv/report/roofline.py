"""How near each timed row comes to what one core of its machine can do: a table, and a chart of the roof."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgepv.metrics.roofline import KINDS, Roofline, bandwidth_gbs, of_row, peak_gops, told
from edgepv.metrics.stats import figure
from edgepv.report.cells import Cell, Table, heads, number, percent
from edgepv.report.charts import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Key, Tick, colours, log_ticks, panels
from edgepv.report.compare import name
from edgepv.types import Measurement, Peaks, Report

ABOUT = (
    "What a row reaches of the operations a second that one core allows: by its arithmetic, or by the bytes "
    "it cannot do without (weights and states read, new states written). compute, memory: at least half of "
    "the time is the one or the other; overhead: less than half is. A multiply and an add are two operations."
)
LABELS = {"fp32": "float32", "int8": "INT8"}


@dataclass(frozen=True)
class Mark:
    """One row: where it stands, and where the roof is above it."""

    name: str
    x: float
    y: float
    roof: float
    colour: int
    tip: str


@dataclass(frozen=True)
class Chart:
    """Operations a second over operations a byte, both on a log scale, of one machine.

    roofs: (label, points of a line, place of the label) of each precision.
    """

    title: str
    about: str
    bottom: float
    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    roofs: tuple[tuple[str, str, tuple[float, float]], ...]
    keys: tuple[Key, ...]
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: float = TOP


def rows_under_roof(report: Report, rows: Sequence[Measurement]) -> list[tuple[Measurement, Roofline]]:
    """The rows whose roof and time are known. Only a step computes several frames in one call."""
    chunk = report.stream.chunk if report.stream else 1
    found = ((row, of_row(row, chunk if row.form == "step" else 1)) for row in rows)
    return [(row, one) for row, one in found if one]


def roofline_table(report: Report) -> Table:
    """Reached, allowed and share of each row, and what holds it back; none where no peak was measured."""
    rows = tuple(
        (
            name(report, row),
            number(one.gops),
            replace(number(one.roof_gops), hint=row.peaks.source if row.peaks else ""),
            Cell(percent(one.share), one.share, tone="inconclusive" if _busy(row) else ""),
            Cell(one.limit, one.limit),
            number(one.intensity),
        )
        for row, one in rows_under_roof(report, report.rows)
    )
    columns = "variant, GOP/s reached, GOP/s one core allows, share, held back by, operations a byte"
    return Table("roofline", "Roofline: what holds it back", ABOUT, heads(columns), rows)


def told_of(report: Report) -> str | None:
    """The one line: of the row that runs, or of the fastest; None where nothing is known."""
    known = rows_under_roof(report, report.rows)
    runs = [pair for pair in known if pair[0].variant in report.runs] or sorted(
        known, key=lambda pair: pair[0].latency[0].p50_ms
    )
    if not runs:
        return None
    row, one = runs[0]
    return told(row.variant, one) + ("; inconclusive: the machine was busy" if _busy(row) else "")


def _busy(row: Measurement) -> bool:
    """Whether its times are no ground for anything."""
    return any(clock.inconclusive for clock in row.latency if clock.threads == 1)


def rooflines(report: Report) -> list[Chart]:
    """A chart for each machine whose peaks are known."""
    palette = colours(report)
    found = []
    for panel in panels(report):
        known = rows_under_roof(report, panel.rows)
        if known:
            found.append(_chart(panel.title, known, palette))
    return found


def _chart(title: str, known: list[tuple[Measurement, Roofline]], palette: dict[str, int]) -> Chart:
    peaks = known[0][0].peaks
    assert peaks
    bandwidth = bandwidth_gbs(peaks, max(one.bytes for _, one in known))
    precisions = [p for p in KINDS if any(row.precision == p for row, _ in known)]
    tops = {p: peak for p in precisions if (peak := peak_gops(peaks, p))}
    ridge = max(tops.values()) / bandwidth
    xs = _range([*(one.intensity for _, one in known), ridge])
    ys = _range([*(v for _, one in known for v in (one.gops, one.roof_gops)), *tops.values()])
    bottom = TOP + HEIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        return _place(x, xs, LEFT, WIDTH - RIGHT), _place(y, ys, bottom, TOP + 22)

    marks = tuple(
        Mark(
            row.variant,
            *at(one.intensity, one.gops),
            at(one.intensity, one.roof_gops)[1],
            palette[row.engine],
            f"{told(row.variant, one)}; {figure(one.gops)} of {figure(one.roof_gops)} GOP/s",
        )
        for row, one in known
    )
    roofs = []
    for precision, peak in tops.items():
        start = max(xs[0], ys[0] / bandwidth)
        corners = [(start, min(peak, bandwidth * start)), (max(start, peak / bandwidth), peak), (xs[1], peak)]
        line = [at(*corner) for corner in corners]
        label = (line[-1][0], line[-1][1] - 5)
        roofs.append((LABELS[precision], " ".join(f"{x:.1f},{y:.1f}" for x, y in line), label))
    names = list(dict.fromkeys(row.engine for row, _ in known))
    keys = tuple(Key(engine, palette[engine], LEFT + 8 + 110 * i, TOP) for i, engine in enumerate(names))
    return Chart(
        title,
        _about(peaks, bandwidth),
        bottom,
        bottom + 42,
        tuple(Tick(at(v, ys[0])[0], f"{v:g}") for v in log_ticks(*xs)),
        tuple(Tick(at(xs[0], v)[1], f"{v:g}") for v in log_ticks(*ys)),
        marks,
        tuple(roofs),
        keys,
    )


def _about(peaks: Peaks, bandwidth: float) -> str:
    whole = f"{figure(peaks.int8_gops)} GOP/s in INT8" if peaks.int8_gops else "INT8 not measured"
    return (
        f"One core: {figure(peaks.fp32_gops)} GOP/s in float32, {whole}, {figure(bandwidth)} GB/s from the "
        f"memory that holds the largest of them ({peaks.source}). Lines go from a row to its own roof."
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 2, max(values) * 2


def _place(value: float, ends: tuple[float, float], start: float, end: float) -> float:
    return start + (end - start) * math.log(value / ends[0]) / math.log(ends[1] / ends[0])
