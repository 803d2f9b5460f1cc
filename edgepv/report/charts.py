"""Where the marks of a report's charts go: plain geometry in SVG units, drawn by the templates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgepv.metrics.pareto import pareto
from edgepv.metrics.stats import counted, figure, metric_name, unit_of, worded
from edgepv.report.compare import machine, main_latency
from edgepv.types import Accuracy, DeviceFacts, Latency, Measurement, Report

WIDTH = 560  # px of the picture
LEFT, RIGHT, TOP, HEIGHT = 52, 18, 16, 300  # px of its margins, and of one panel
CHAR = 6.3  # px, about the width of one letter of the labels
ENGINES = ("torch", "onnxruntime", "openvino", "litert", "tensorrt")
COLOURS = 8  # in the page's palette; more engines share them


@dataclass(frozen=True)
class Tick:
    """A grid line at ``at`` SVG units with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """One variant: its mark, interval bar, and where its label found room (None: nowhere)."""

    name: str
    x: float
    y: float
    y_low: float
    y_high: float
    colour: int
    front: bool
    tip: str
    label: tuple[float, float, str] | None


@dataclass(frozen=True)
class Key:
    """A legend entry."""

    name: str
    colour: int
    x: float
    y: float


@dataclass(frozen=True)
class Scatter:
    """Accuracy over latency on one machine. left_out: rows that lack one of the two figures.

    metric: what the models are judged by, in words.
    """

    title: str
    threads: int
    bottom: float
    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    fronts: tuple[str, ...]
    keys: tuple[Key, ...]
    left_out: tuple[str, ...]
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    metric: str = "top-1"


@dataclass(frozen=True)
class Bar:
    """The percentiles of one variant on one thread count; longest: of those that are known."""

    y: float
    p50: float
    p95: float | None
    p99: float | None
    longest: float
    text: str
    tip: str
    colour: int


@dataclass(frozen=True)
class Bars:
    """Latency percentiles on one machine, from zero. names: heading of each variant's bars."""

    title: str
    bottom: float
    height: float
    ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]
    names: tuple[Tick, ...]
    keys: tuple[Key, ...]
    width: int = WIDTH
    left: int = 12
    thick: int = 12


@dataclass
class _Panel:
    title: str
    rows: list[Measurement] = field(default_factory=list)


def panels(report: Report) -> list[_Panel]:
    """Rows by machine: charts never mix two."""
    by_machine: dict[DeviceFacts | None, _Panel] = {}
    for row in report.rows:
        device = machine(row.device)
        title = f"{device.cpu}, {device.cores} cores" if device else "machine not measured"
        by_machine.setdefault(device, _Panel(title)).rows.append(row)
    return list(by_machine.values())


def colours(report: Report) -> dict[str, int]:
    """A colour index per engine; the known engines keep theirs in every report."""
    others = sorted({row.engine for row in report.rows} - set(ENGINES))
    return {name: i % COLOURS for i, name in enumerate((*ENGINES, *others))}


def scatters(report: Report) -> list[Scatter]:
    """One scatter per machine that has both figures for at least one row."""
    palette = colours(report)
    return [scatter for panel in panels(report) if (scatter := _scatter(panel, palette))]


def _scatter(panel: _Panel, palette: dict[str, int]) -> Scatter | None:
    timed = [latency for row in panel.rows if (latency := main_latency(row))]
    threads = min((latency.threads for latency in timed), default=0)
    pairs = [(row, latency) for row in panel.rows if (latency := _drawable(row, threads))]
    if not pairs:
        return None
    drawn = {row.variant for row, _ in pairs}
    keys, top = keys_of([row.engine for row, _ in pairs], palette)
    bottom = top + HEIGHT
    low, high = _log_range([latency.p50_ms for _, latency in pairs])
    x_ticks = tuple(Tick(_log(v, low, high), f"{v:.4g}") for v in log_ticks(low, high))
    accuracies = [row.accuracy for row, _ in pairs if row.accuracy]
    heights = [_heights(accuracy) for accuracy in accuracies]
    floor, ceiling, step = _percent_range(min(h[1] for h in heights), max(h[2] for h in heights))
    y_ticks = tuple(
        Tick(_linear(v, floor, ceiling, bottom, top), f"{v:g}") for v in steps(floor, ceiling, step)
    )
    points, fronts = _points(pairs, (low, high), (floor, ceiling), (bottom, top), palette)
    left_out = tuple(row.variant for row in panel.rows if row.variant not in drawn)
    return Scatter(
        panel.title,
        threads,
        bottom,
        bottom + 42,
        x_ticks,
        y_ticks,
        points,
        fronts,
        keys,
        left_out,
        top=top,
        metric=metric_name(accuracies[0].metric),
    )


def _heights(accuracy: Accuracy) -> tuple[float, float, float]:
    """(value, low, high) as shares of the chart's scale, which ends at 100 % or 100 dB."""
    scale = 100 if unit_of(accuracy.metric) == "dB" else 1
    return accuracy.value / scale, accuracy.low / scale, accuracy.high / scale


def _drawable(row: Measurement, threads: int) -> Latency | None:
    """The latency to draw: accuracy is known and the time is a finite, positive number."""
    for latency in row.latency if row.accuracy else ():
        if latency.threads == threads and 0 < latency.p50_ms < math.inf:
            return latency
    return None


def _points(
    pairs: Sequence[tuple[Measurement, Latency]],
    xs: tuple[float, float],
    ys: tuple[float, float],
    edges: tuple[float, float],
    palette: dict[str, int],
) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    places = []
    for row, latency in pairs:
        assert row.accuracy
        y, y_low, y_high = (_linear(100 * v, *ys, *edges) for v in _heights(row.accuracy))
        places.append((_log(latency.p50_ms, *xs), y, y_low, y_high))
    members, fronts = _fronts(pairs, places)
    labels = labels_of([row.variant for row, _ in pairs], places, edges)
    points = tuple(
        Point(row.variant, *place, palette[row.engine], i in members, _tip(row, latency), labels[i])
        for i, ((row, latency), place) in enumerate(zip(pairs, places, strict=True))
    )
    return points, fronts


def _tip(row: Measurement, latency: Latency) -> str:
    assert row.accuracy
    accuracy = row.accuracy
    value, low, high = (worded(v, accuracy.metric) for v in (accuracy.value, accuracy.low, accuracy.high))
    spread = "no interval" if accuracy.groups == 1 else f"95 % {low} to {high}"
    return (
        f"{row.variant} ({row.engine}, {row.precision}, {row.form}): {metric_name(accuracy.metric)} {value}, "
        f"{spread}, n = {counted(accuracy.n, accuracy.groups)}; "
        f"{', '.join(f'{name} {figure(ms)} ms' for name, ms in _known(latency).items())}, "
        f"{threaded(latency)}" + (f"; inconclusive: {latency.inconclusive}" if latency.inconclusive else "")
    )


def _known(latency: Latency) -> dict[str, float]:
    """The percentiles that the calls support, in ms, the lowest first."""
    percentiles = {"p50": latency.p50_ms, "p95": latency.p95_ms, "p99": latency.p99_ms}
    return {name: ms for name, ms in percentiles.items() if ms is not None}


def threaded(latency: Latency) -> str:
    """The thread count in words."""
    return "1 thread" if latency.threads == 1 else f"{latency.threads} threads"


def _fronts(
    pairs: Sequence[tuple[Measurement, Latency]], places: Sequence[tuple[float, ...]]
) -> tuple[set[int], tuple[str, ...]]:
    """Pareto members and front lines, one per run: rows not timed in turns are not compared.

    Nor are those of a run on a busy machine.
    """
    runs: dict[frozenset[str], list[int]] = {}
    for i, (row, latency) in enumerate(pairs):
        runs.setdefault(frozenset({row.variant, *latency.interleaved_with}), []).append(i)
    members: set[int] = set()
    lines = []
    for run in runs.values():
        points = [(pairs[i][1].p50_ms, a.value) for i in run if (a := pairs[i][0].accuracy) is not None]
        told = len(run) > 1 and not any(pairs[i][1].inconclusive for i in run)
        best = [run[k] for k in pareto(points)] if told else []
        members |= set(best)
        if len(best) > 1:
            lines.append(" ".join(f"{places[i][0]:.1f},{places[i][1]:.1f}" for i in best))
    return members, tuple(lines)


def labels_of(
    names: Sequence[str], places: Sequence[tuple[float, ...]], edges: tuple[float, float]
) -> list[tuple[float, float, str] | None]:
    """A free spot for each name beside its mark, or None where all spots are taken."""
    taken = [(p[0] - 7, p[1] - 7, p[0] + 7, p[1] + 7) for p in places]
    spots: list[tuple[float, float, str] | None] = []
    for name, (x, y, *_) in zip(names, places, strict=True):
        spot = None
        for dx, dy, anchor in _spots():
            box = _box(x + dx, y + dy, anchor, len(name) * CHAR)
            if _inside(box, edges) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                spot = (x + dx, y + dy, anchor)
                break
        spots.append(spot)
    return spots


def _spots() -> Iterable[tuple[float, float, str]]:
    for rise in (4, -8, 17, -20, 30, -33, 43):
        yield 12, rise, "start"
        yield -12, rise, "end"


def _box(x: float, y: float, anchor: str, width: float) -> tuple[float, float, float, float]:
    left = x if anchor == "start" else x - width
    return left, y - 10, left + width, y + 3


def _inside(box: tuple[float, float, float, float], edges: tuple[float, float]) -> bool:
    bottom, top = edges
    return box[0] > LEFT and box[2] < WIDTH - 2 and box[1] > top and box[3] < bottom


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def keys_of(engines: Iterable[str], palette: dict[str, int]) -> tuple[tuple[Key, ...], int]:
    """Legend entries in rows from the left, and the height they take."""
    x, y, keys = float(LEFT), 14, []
    for name in sorted(set(engines), key=lambda name: palette[name]):
        wide = 34 + len(name) * CHAR
        if x > LEFT and x + wide > WIDTH:
            x, y = float(LEFT), y + 20
        keys.append(Key(name, palette[name], x + 6, y))
        x += wide
    return tuple(keys), y + TOP


def _log_range(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.3, max(values) * 1.6


def _log(value: float, low: float, high: float) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * math.log(value / low) / math.log(high / low)


def log_ticks(low: float, high: float) -> list[float]:
    """Round values inside (low, high): 1, 2, 5 of each decade, or the decades of a wide range."""
    steps = (1, 2, 5) if high / low < 500 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
    return ticks if len(ticks) > 1 else [low * 1.3, high / 1.6]


def _percent_range(low: float, high: float) -> tuple[float, float, float]:
    """Axis ends and step in percent, on round values, inside 0 to 100."""
    spread = max(100 * (high - low), 1.0)
    step = round_step(spread / 5)
    floor = max(0.0, math.floor(100 * low / step) * step)
    ceiling = min(100.0, math.ceil(100 * high / step) * step)
    return (floor, ceiling, step) if ceiling > floor else (floor - step, floor + step, step)


def round_step(rough: float) -> float:
    """The 1, 2 or 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)


def steps(low: float, high: float, step: float) -> list[float]:
    """From ``low`` on, ``step`` apart, up to ``high``."""
    return [low + i * step for i in range(int((high - low) / step + 1e-6) + 1)]


def _linear(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / (high - low) * (end - start)


def bars(report: Report) -> list[Bars]:
    """One chart of latency percentiles per machine that timed at least one row."""
    palette = colours(report)
    return [_bars(panel, palette) for panel in panels(report) if any(row.latency for row in panel.rows)]


def _bars(panel: _Panel, palette: dict[str, int]) -> Bars:
    rows = [row for row in panel.rows if row.latency]
    keys, y = keys_of([row.engine for row in rows], palette)
    longest = max(1e-9, *(ms for row in rows for latency in row.latency for ms in _known(latency).values()))
    step = round_step(longest / 4)
    end = 12 + (WIDTH - 12) * 0.66
    names, drawn = [], []
    top = y
    for row in rows:
        names.append(Tick(top + 12, row.variant))
        top += 17
        for latency in sorted(row.latency, key=lambda latency: latency.threads):
            known = _known(latency)
            wide = {name: _linear(ms, 0, longest, 0, end - 12) for name, ms in known.items()}
            values = " / ".join(map(figure, known.values()))
            words = f"{latency.threads} thr: {values}"
            tip = f"{row.variant} on {threaded(latency)}: {' / '.join(known)} = {values} ms"
            ends = (wide["p50"], wide.get("p95"), wide.get("p99"), max(wide.values()))
            drawn.append(Bar(top, *ends, words, tip, palette[row.engine]))
            top += 16
        top += 7
    ticks = tuple(Tick(_linear(v, 0, longest, 12, end), f"{v:.4g}") for v in steps(0, longest, step))
    return Bars(panel.title, top, top + 38, ticks, tuple(drawn), tuple(names), keys)
