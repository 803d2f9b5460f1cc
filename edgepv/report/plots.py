"""The charts of a report's later parts: each a function from a report to marks in SVG units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgepv.metrics.pareto import pareto
from edgepv.metrics.stats import figure, metric_name, unit_of, worded
from edgepv.metrics.times import SPREAD
from edgepv.report.charts import (
    CHAR,
    RIGHT,
    WIDTH,
    Key,
    Tick,
    colours,
    keys_of,
    labels_of,
    log_ticks,
    panels,
    round_step,
    steps,
    threaded,
)
from edgepv.report.compare import main_latency, original
from edgepv.types import Curve, Estimate, Latency, LiveRun, Measurement, Report, Robustness, Slice

LEFT, TOP = 58, 18  # px of the margins of a chart with two axes
TALL = 260  # px of such a chart
ROW = 22  # px of a line of a chart that is a list
SQUARE = 250  # px of a side of a ROC or precision-recall chart
MOST_LINES = 24  # of a list: the others are in the table
CLEAN = "none"  # the corruption that is none
REFERENCE = 0  # colour of what the others are held against


@dataclass(frozen=True)
class Line:
    """A line through ``points`` ("x,y x,y")."""

    points: str
    colour: int
    tip: str
    dashed: bool = False


@dataclass(frozen=True)
class Whisker:
    """An interval, flat or upright."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: int


@dataclass(frozen=True)
class Mark:
    """A figure with its words for who points at it. ring: it is on the front. pale: it is surely beaten."""

    x: float
    y: float
    colour: int
    tip: str
    ring: bool = False
    pale: bool = False


@dataclass(frozen=True)
class Words:
    """Text at a place; anchor: start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    soft: bool = False


@dataclass
class Plot:
    """One chart: its marks, its axes and its words."""

    title: str
    caption: str
    height: float
    box: tuple[float, float, float, float]
    x_label: str = ""
    y_label: str = ""
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    lines: list[Line] = field(default_factory=list)
    whiskers: list[Whisker] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    keys: tuple[Key, ...] = ()
    width: float = WIDTH


@dataclass(frozen=True)
class Axis:
    """From a figure to a place: ``low`` is at ``start``, ``high`` at ``end``; logarithmic if ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a figure stands; one outside stands at the nearer end."""
        value = min(max(value, self.low), self.high)
        share = (
            math.log(value / self.low) / math.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return self.start + share * (self.end - self.start)

    def ticks(self) -> tuple[Tick, ...]:
        """Round figures with their places."""
        if self.log:
            values = log_ticks(self.low, self.high)
        else:
            step = round_step((self.high - self.low) / 5)
            values = steps(step * math.ceil(self.low / step - 1e-9), self.high, step)
        return tuple(Tick(self(v), f"{v + 0.0:.4g}") for v in values)


def _around(values: Sequence[float], start: float, end: float) -> Axis:
    """A linear axis with a little room around these figures and 0."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.06 * max(high - low, 1e-6)
    return Axis(low - room, high + room, start, end)


def every(report: Report) -> dict[str, list[Plot]]:
    """The charts of each part, by the key of its table."""
    found = {
        "front": fronts(report),
        "slices": slices(report),
        "robustness": robustness(report),
        "curves": curves(report),
        "sensitivity": sensitivity(report),
        "spread": spreads(report),
        "live": [live(run) for run in report.live],
    }
    return {key: charts for key, charts in found.items() if charts}


# --- loss over time ---------------------------------------------------------------------------------------


def lost_of(report: Report, row: Measurement) -> Estimate | None:
    """What a row lost, in points or dB; an original has lost nothing."""
    if row.drop is not None:
        told = row.drop
        return Estimate(told.points) if told.groups == 1 else Estimate(told.points, told.low, told.high)
    return Estimate(0.0) if original(report, row, [row.variant]) == row.variant else None


def fronts(report: Report) -> list[Plot]:
    """Loss over time with the intervals of both, one chart for the rows that were timed in turns."""
    palette = colours(report)
    runs: dict[Any, list[tuple[Measurement, Latency, Estimate]]] = {}
    for panel in panels(report):
        for row in panel.rows:
            latency, lost = main_latency(row), lost_of(report, row)
            if latency and lost:
                run = frozenset({row.variant, *latency.interleaved_with}), latency.threads
                runs.setdefault((panel.title, *run), []).append((row, latency, lost))
    return [_front(key[0], run, palette) for key, run in runs.items() if len(run) > 1]


def _front(title: str, run: Sequence[tuple[Measurement, Latency, Estimate]], palette: dict[str, int]) -> Plot:
    keys, top = keys_of([row.engine for row, _, _ in run], palette)
    bottom = top + TALL
    x_ends = [ends_of(latency) for _, latency, _ in run]
    x = Axis(min(e[0] for e in x_ends) / 1.2, max(e[1] for e in x_ends) * 1.4, LEFT, WIDTH - RIGHT, log=True)
    y_ends = [_ends(lost) for _, _, lost in run]
    y = _around([v for ends in y_ends for v in ends], bottom, top)
    unit = next((row.drop.unit for row, _, _ in run if row.drop), "points")
    threads = threaded(run[0][1])
    plot = Plot(title, FRONT, bottom + 44, (LEFT, top, WIDTH - RIGHT, bottom), keys=keys)
    plot.x_label, plot.y_label = f"p50 of one call in ms, {threads} (log scale)", f"{unit} lost"
    plot.x_ticks, plot.y_ticks = x.ticks(), y.ticks()
    quiet = not any(latency.inconclusive for _, latency, _ in run)
    best = set(pareto([(latency.p50_ms, -lost.value) for _, latency, lost in run])) if quiet else set()
    for i, (row, latency, lost) in enumerate(run):
        colour, place = palette[row.engine], (x(latency.p50_ms), y(lost.value))
        low, high = map(x, x_ends[i])
        plot.whiskers.append(Whisker(low, place[1], high, place[1], colour))
        plot.whiskers.append(Whisker(place[0], y(y_ends[i][0]), place[0], y(y_ends[i][1]), colour))
        beaten = quiet and any(
            x_ends[k][1] < x_ends[i][0] and y_ends[k][1] < y_ends[i][0] for k in range(len(run)) if k != i
        )
        plot.marks.append(Mark(*place, colour, _front_tip(row, latency, lost, unit), i in best, beaten))
    named = [row.variant if i in best or not quiet else "" for i, (row, _, _) in enumerate(run)]
    spots = labels_of(named, [(mark.x, mark.y) for mark in plot.marks], (bottom, top))
    plot.words = [Words(*spot[:2], name, spot[2]) for name, spot in zip(named, spots) if name and spot]
    return plot


FRONT = (
    "Lower and further left is better. Bars are 95 % intervals: of the loss, paired with the original on "
    "the same clips; of p50, over stretches of the run. Ringed: none of this run is both faster and loses "
    "less, by the estimates; pale: another is surely both, its two intervals lie beyond. What is neither "
    "may be on the front. Times of a busy machine have no front."
)


def ends_of(latency: Latency) -> tuple[float, float]:
    """The interval of p50; p50 itself where it is not known."""
    return latency.p50_ends_ms or (latency.p50_ms, latency.p50_ms)


def _ends(estimate: Estimate) -> tuple[float, float]:
    low, high = estimate.low, estimate.high
    return estimate.value if low is None else low, estimate.value if high is None else high


def _front_tip(row: Measurement, latency: Latency, lost: Estimate, unit: str) -> str:
    low, high = ends_of(latency)
    time = f"p50 {figure(latency.p50_ms)} ms ({figure(low)} to {figure(high)})"
    return f"{row.variant}: {told(lost, '+')} {unit} lost, {time}"


def told(estimate: Estimate, sign: str = "", scale: float = 1.0) -> str:
    """ "+1.2 (-0.4 to +2.8)", or that there is no interval; two decimals."""
    value = f"{scale * estimate.value + 0.0:{sign}.2f}"
    if estimate.low is None or estimate.high is None:
        return f"{value} (no interval)"
    return f"{value} ({scale * estimate.low + 0.0:{sign}.2f} to {scale * estimate.high + 0.0:{sign}.2f})"


# --- lists: a line each, with its interval ----------------------------------------------------------------


def _list_plot(title: str, caption: str, names: Sequence[str], unit: str, axis: Axis) -> Plot:
    """A list with its names on the left, and a grid."""
    bottom = TOP + ROW * len(names)
    plot = Plot(title, caption, bottom + 40, (axis.start, TOP, axis.end, bottom), x_label=unit)
    plot.x_ticks = axis.ticks()
    room = int((axis.start - 14) / CHAR)
    plot.words = [
        Words(axis.start - 10, TOP + ROW * (i + 0.5) + 4, _cut(name, room), "end")
        for i, name in enumerate(names)
    ]
    return plot


def _cut(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _names_end(names: Sequence[str]) -> float:
    """Where the names of a list end: as wide as the longest, at most half of the chart."""
    return min(WIDTH / 2, 20 + CHAR * max(map(len, names)))


def slices(report: Report) -> list[Plot]:
    """Loss on parts of the clips, of every row that runs."""
    rows = [row for row in report.rows if row.variant in report.runs and any(s.lost for s in row.slices)]
    return [_slices(row, [s for s in row.slices if s.lost][:MOST_LINES], report) for row in rows]


def _slices(row: Measurement, parts: Sequence[Slice], report: Report) -> Plot:
    names = ["all clips", *(f"{one.kind}: {one.name.split(',')[0]}, n = {one.n}" for one in parts)]
    whole = lost_of(report, row)
    estimates = [whole or Estimate(0.0), *(one.lost or Estimate(0.0) for one in parts)]
    axis = _around(_most_of(estimates), _names_end(names), WIDTH - RIGHT)
    unit = row.drop.unit if row.drop else "points"
    plot = _list_plot(row.variant, SLICES, names, f"{unit} lost (right of 0 is worse)", axis)
    for i, estimate in enumerate(estimates):
        at = TOP + ROW * (i + 0.5)
        colour = colours(report)[row.engine] if i else REFERENCE
        _interval(plot, axis, estimate, at, colour, f"{names[i]}: {told(estimate, '+')} {unit} lost")
    return plot


def _most_of(estimates: Sequence[Estimate]) -> list[float]:
    """What an axis has to hold: every figure, and the intervals but for the few that are far wider."""
    values = [abs(e.value) for e in estimates]
    ends = sorted(max(map(abs, _ends(e))) for e in estimates)
    reach = max(*values, 2 * ends[len(ends) // 2], 1e-6)
    return [v for e in estimates for v in (e.value, *(max(-reach, min(reach, end)) for end in _ends(e)))]


SLICES = (
    "Each line is the same paired comparison on these clips alone, the part that loses most first. Of twenty "
    "95 % intervals one misses by chance, and the first line is the likeliest to be it: a part is worse off "
    "where its interval lies beyond that of all clips. A bar that reaches the edge goes on."
)


def _interval(plot: Plot, axis: Axis, estimate: Estimate, at: float, colour: int, tip: str) -> None:
    low, high = _ends(estimate)
    plot.whiskers.append(Whisker(axis(low), at, axis(high), at, colour))
    plot.marks.append(Mark(axis(estimate.value), at, colour, tip))


def robustness(report: Report) -> list[Plot]:
    """The metric of the float model and of a variant under each corruption."""
    by_variant: dict[str, list[Robustness]] = {}
    for one in report.robustness:
        by_variant.setdefault(one.variant, []).append(one)
    return [_robustness(name, rows, report) for name, rows in by_variant.items()]


def _robustness(variant: str, rows: Sequence[Robustness], report: Report) -> Plot:
    row = next((r for r in report.rows if r.variant == variant), None)
    metric = row.accuracy.metric if row and row.accuracy else "top1"
    scale = 1.0 if unit_of(metric) == "dB" else 100.0
    names = ["as they are" if one.corruption == CLEAN else one.corruption for one in rows]
    ends = [scale * v for one in rows for e in (one.before, one.after) for v in _ends(e)]
    room = 0.05 * max(max(ends) - min(ends), 1.0)
    axis = Axis(min(ends) - room, max(ends) + room, _names_end(names) + 20, WIDTH - RIGHT)
    unit = "dB" if scale == 1 else "%"
    label = f"{metric_name(metric)} in {unit}, n = {rows[0].n}"
    plot = _list_plot(variant, ROBUSTNESS, names, label, axis)
    colour = colours(report)[row.engine] if row else 1
    plot.keys = (Key("float", REFERENCE, axis.start, 10), Key(variant, colour or 1, axis.start + 60, 10))
    for i, one in enumerate(rows):
        for estimate, who, tone, shift in (
            (one.before, one.reference, REFERENCE, -4),
            (one.after, variant, colour or 1, 4),
        ):
            at = TOP + ROW * (i + 0.5) + shift
            value = Estimate(*(None if v is None else scale * v for v in vars(estimate).values()))  # type: ignore[arg-type]
            _interval(plot, axis, value, at, tone, f"{names[i]}, {who}: {told(value)} {unit}")
    return plot


ROBUSTNESS = (
    "The same clips, as they are and spoilt at the size the model takes; the beginning of each. Bars are 95 "
    "% intervals of each figure alone; what the variant loses against float, clip by clip, is in the table."
)


def sensitivity(report: Report) -> list[Plot]:
    """SQNR of the answers with one layer in INT8 each, the worst first."""
    rows = report.sensitivity[:MOST_LINES]
    if not rows:
        return []
    names = [one.layer for one in rows]
    axis = _around([one.sqnr_db for one in rows], _names_end(names), WIDTH - RIGHT)
    axis = replace(axis, low=min(0.0, *(one.sqnr_db for one in rows)))
    plot = _list_plot("one layer in INT8 at a time", SENSITIVITY, names, "SQNR of the answers in dB", axis)
    for i, one in enumerate(rows):
        at = TOP + ROW * (i + 0.5)
        plot.lines.append(Line(f"{axis(0):.1f},{at:.1f} {axis(one.sqnr_db):.1f},{at:.1f}", 1, ""))
        changed = "" if one.changed is None else f", {100 * one.changed:.1f} % of {one.n} answers change"
        plot.marks.append(Mark(axis(one.sqnr_db), at, 1, f"{one.layer}: {one.sqnr_db:.1f} dB{changed}"))
    return [plot]


SENSITIVITY = (
    "All other layers stay in float: a short line is a layer that pays for INT8, "
    "and the first to keep in float."
)

# --- curves of a classifier -------------------------------------------------------------------------------


def curves(report: Report) -> list[Plot]:
    """ROC and precision over recall of the original and of each row that runs, side by side."""
    base = next((row for row in report.rows if row.variant == report.baseline), None)
    rows = [row for row in report.rows if row.variant in report.runs and row.curves]
    return [_curves(row, base.curves if base else ()) for row in rows]


def _curves(row: Measurement, before: Sequence[Curve]) -> Plot:
    gap, top = 64, TOP + 18 * math.ceil(len(row.curves) / 2)
    lefts, bottom = (LEFT - 14, LEFT - 14 + SQUARE + gap), top + SQUARE
    right = lefts[1] + SQUARE
    plot = Plot(row.variant, CURVES, bottom + 44, (lefts[0], top, right, bottom), width=right + 12)
    for left, words in zip(lefts, (("false alarms", "recall"), ("recall", "precision")), strict=True):
        _square(plot, left, top, *words)
    pairs = [(one, False) for one in row.curves] + [(one, True) for one in before]
    place = {one.label: i for i, one in enumerate(row.curves)}
    for one, dashed in pairs:
        colour, whose = 1 + place.get(one.label, 0) % 7, "original" if dashed else row.variant
        tip = f"{one.label}, {whose}: AUC {one.auc:.3f}, average precision {one.average_precision:.3f}"
        for left, points in zip(lefts, _paths(one), strict=True):
            path = " ".join(f"{left + SQUARE * x:.1f},{bottom - SQUARE * y:.1f}" for x, y in points)
            plot.lines.append(Line(path, colour, tip, dashed))
        if one.at and not dashed:
            _point(plot, one, lefts, bottom, colour)
    plot.keys = tuple(
        Key(f"{c.label}, AUC {c.auc:.3f}", 1 + i % 7, lefts[i % 2] + 4, 12 + 18 * (i // 2))
        for i, c in enumerate(row.curves)
    )
    return plot


CURVES = (
    "Left the ROC curve, right precision over recall, one label against the rest, scores of whole clips; "
    "dashed: the original. The mark is the threshold of the alarm, where the model's card says one."
)


def _square(plot: Plot, left: float, top: float, x_label: str, y_label: str) -> None:
    """The grid and the words of one of the two charts."""
    bottom = top + SQUARE
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = left + SQUARE * share, bottom - SQUARE * share
        plot.lines.append(Line(f"{x:.1f},{top:.1f} {x:.1f},{bottom:.1f}", -1, ""))
        plot.lines.append(Line(f"{left:.1f},{y:.1f} {left + SQUARE:.1f},{y:.1f}", -1, ""))
        plot.words.append(Words(x, bottom + 15, f"{share:g}", "middle", soft=True))
        plot.words.append(Words(left - 6, y + 4, f"{share:g}", "end", soft=True))
    plot.words.append(Words(left + SQUARE / 2, bottom + 32, f"{x_label} →", "middle", soft=True))
    plot.words.append(Words(left, top - 5, f"↑ {y_label}", soft=True))


def _paths(one: Curve) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(ROC from 0, 0; precision over recall) as (x, y) in 0 to 1."""
    roc = [(0.0, 0.0), *((others, recall) for _, others, recall, _ in one.points)]
    return roc, [(recall, precision) for _, _, recall, precision in one.points]


def _point(plot: Plot, one: Curve, lefts: Sequence[float], bottom: float, colour: int) -> None:
    assert one.at
    at = one.at
    tip = f"{one.label} from {at.threshold:g} on ({at.source}): recall {100 * at.recall:.1f} %, "
    tip += f"false alarms {100 * at.false_alarms:.1f} %"
    places = [(at.false_alarms, at.recall)]
    places += [(at.recall, at.precision)] if at.precision is not None else []
    for left, (x, y) in zip(lefts, places):
        plot.marks.append(Mark(left + SQUARE * x, bottom - SQUARE * y, colour, tip, ring=True))


# --- times ------------------------------------------------------------------------------------------------


def spreads(report: Report) -> list[Plot]:
    """The share of calls over their time, one chart for each machine."""
    palette, found = colours(report), []
    for panel in panels(report):
        timed = [(row, main_latency(row)) for row in panel.rows]
        known = [(row, latency) for row, latency in timed if latency and latency.spread_ms]
        if known:
            found.append(_spread(panel.title, known, palette))
    return found


def _spread(title: str, rows: Sequence[tuple[Measurement, Latency]], palette: dict[str, int]) -> Plot:
    keys, top = keys_of([row.engine for row, _ in rows], palette)
    bottom = top + TALL
    low, high = min(one.spread_ms[0] for _, one in rows), max(one.spread_ms[-1] for _, one in rows)
    x = Axis(max(low, 1e-6) / 1.1, high * 1.1, LEFT, WIDTH - RIGHT, log=True)
    y = Axis(0, 100, bottom, top)
    plot = Plot(title, SPREADS, bottom + 44, (LEFT, top, WIDTH - RIGHT, bottom), keys=keys)
    plot.x_label, plot.y_label = f"ms per call, {threaded(rows[0][1])} (log scale)", "% of calls no longer"
    plot.x_ticks, plot.y_ticks = x.ticks(), y.ticks()
    for row, one in rows:
        path = " ".join(
            f"{x(ms):.1f},{y(share):.1f}" for ms, share in zip(one.spread_ms, SPREAD, strict=True)
        )
        plot.lines.append(Line(path, palette[row.engine], f"{row.variant}: {one.n} calls"))
        plot.marks.append(
            Mark(x(one.p50_ms), y(50), palette[row.engine], f"{row.variant}: p50 {figure(one.p50_ms)} ms")
        )
    return plot


SPREADS = (
    "The steeper, the steadier; a line that leans to the right at its upper end is a tail. Through each "
    "twentieth of the calls; the marks are p50."
)


def live(run: LiveRun) -> Plot:
    """The share of frames that were missed, stretch by stretch of a replay."""
    bottom = TOP + TALL / 2
    count = len(run.stretches)
    seconds = run.frames * run.period_ms / 1e3
    x, y = Axis(0, max(seconds, 1e-9), LEFT, WIDTH - RIGHT), Axis(0, 100, bottom, TOP)
    title = f"{run.name}, deadline {run.limit_ms:.3g} ms, a frame every {run.period_ms:.3g} ms"
    plot = Plot(title, LIVE, bottom + 44, (LEFT, TOP, WIDTH - RIGHT, bottom))
    plot.x_label, plot.y_label = "seconds of the replay", "% missed"
    plot.x_ticks, plot.y_ticks = x.ticks(), y.ticks()
    before, points = 0, []
    for i, (frames, missed, p50_ms, longest_ms) in enumerate(run.stretches):
        place = x(seconds * (before + frames / 2) / run.frames), y(100 * missed / frames)
        before += frames
        points.append(f"{place[0]:.1f},{place[1]:.1f}")
        times = f"p50 {p50_ms:.3g} ms, longest {longest_ms:.3g} ms"
        tip = f"stretch {i + 1} of {count}: {missed} of {frames} missed, {times}"
        plot.marks.append(Mark(*place, 1, tip, pale=missed == 0))
    plot.lines.append(Line(" ".join(points), 1, ""))
    return plot


LIVE = "Missed: no fresh answer at the deadline. Each mark is one of equal stretches of the replay."


def worst_told(report: Report) -> dict[str, str]:
    """Clip -> how far off the variant is that gets it least right."""
    least: dict[str, tuple[float, str]] = {}
    for row in report.rows:
        for one in row.parity.worst if row.parity else ():
            share = 1.0 if one.agreement is None else one.agreement
            words = f"{row.variant}: {worded(share, 'top1')} of frames agree, {one.sqnr_db:.1f} dB"
            least[one.clip] = min(least.get(one.clip, (2.0, "")), (share, words))
    return {clip: words for clip, (_, words) in least.items()}
