"""The later parts of a report as tables: steps, fairness, spoilt clips, curves, layers, replays, commands."""

from __future__ import annotations

import shlex
from dataclasses import replace

from edgepv.metrics.stats import figure, metric_name, unit_of, worded
from edgepv.report.cells import (
    UNKNOWN,
    Cell,
    Table,
    amount,
    heads,
    number,
    share,
    text,
    typical,
    whole,
)
from edgepv.report.compare import main_latency, metric, name, original, speed
from edgepv.report.plots import CLEAN, ends_of, lost_of, told
from edgepv.report.shipped import float_row
from edgepv.report.tables import accuracy_cell, lost_points
from edgepv.types import Estimate, Latency, Measurement, Metric, Report

FEW = Cell("too few clips", tone="none")


def tables(report: Report) -> tuple[Table, ...]:
    """Every table of the later parts, in reading order; some have no rows."""
    return (
        front(report),
        stages(report),
        slices(report),
        robustness(report),
        curves(report),
        sensitivity(report),
        baselines(report),
        live(report),
    )


def lost_cell(lost: Estimate | None, unit: str) -> Cell:
    """A loss with its interval below, or "too few clips"."""
    if lost is None:
        return FEW
    value, spread = told(lost, "+").split(" ", 1)
    return Cell(value if unit == "points" else f"{value} {unit}", lost.value, note=spread.strip("()"))


def unit(report: Report) -> str:
    """What losses are counted in."""
    return next((row.drop.unit for row in report.rows if row.drop), "points")


def front(report: Report) -> Table:
    """Time and loss of every row that has both, with their intervals."""
    rows = []
    for row in report.rows:
        latency, lost = main_latency(row), lost_of(report, row)
        if latency and lost:
            low, high = ends_of(latency)
            spread = f"{figure(low)} to {figure(high)}" if latency.p50_ends_ms else "no interval"
            base = original(report, row, [row.variant]) == row.variant
            cell = Cell("0", 0.0, note="the original") if base else lost_cell(lost, unit(report))
            rows.append((name(report, row), _time(latency, spread), cell))
    return Table(
        "front",
        "Loss over time",
        "What is paid for speed, with what is known of both.",
        heads(f"variant, p50 ms, {unit(report)} lost"),
        tuple(rows) if len(rows) > 1 else (),
    )


def _time(latency: Latency | None, note: str = "") -> Cell:
    """p50; why it is inconclusive stands in the table of times."""
    cell = typical(latency, note)
    return replace(cell, note=note or "inconclusive") if cell.tone == "inconclusive" else cell


def stages(report: Report) -> Table:
    """For each row that runs: the original, what each kind of step made of it, and what it came to."""
    rows: list[tuple[Cell, ...]] = []
    for runs in report.runs:
        for row, what in _chain(report, runs):
            latency = main_latency(row)
            rows.append(
                (
                    Cell(what, len(rows), note=row.variant),
                    text(row.target),
                    amount(row.bytes),
                    number(row.gflops_per_frame),
                    accuracy_cell(row.accuracy),
                    lost_cell(lost_of(report, row), unit(report)),
                    _time(latency),
                    speed(report, row, latency) if latency else UNKNOWN,
                )
            )
    return Table(
        "stages",
        "Before and after each step",
        "From the original to what runs: each line is the model after one more kind of step, measured by "
        "itself on the same clips. Loss is against the original.",
        heads(f"model, target, file, GFLOPs per frame, {metric(report)}, {unit(report)} lost, p50 ms, speed"),
        tuple(rows),
    )


def _chain(report: Report, runs: str) -> list[tuple[Measurement, str]]:
    """The rows from the original to the one that runs, each with what was done last."""
    last = next(row for row in report.rows if row.variant == runs)
    folder = "".join(runs.rpartition("/")[:2])
    own = [row for row in report.rows if row.target == "host" and row.variant.startswith(folder)]
    before = [(row, _made(report, row)) for row in own if "/" not in row.variant.removeprefix(folder)]
    converted = float_row(report, last) if last.precision != "fp32" else None
    middle = [(converted, f"converted, {converted.engine} in float")] if converted else []
    return [*before, *middle, (last, f"runs: {last.engine}, {last.precision}")]


def _made(report: Report, row: Measurement) -> str:
    return "the original" if original(report, row, [row.variant]) == row.variant else row.status


def slices(report: Report) -> Table:
    """Loss by label, camera, light and motion, of the rows that run."""
    rows = []
    for row in report.rows:
        known = row.accuracy.metric if row.accuracy else None
        for one in row.slices if row.variant in report.runs and known else ():
            values = [worded(v, known) for v in (one.before, one.after)] if known else []
            rows.append(
                (
                    Cell(one.name, one.name, note=one.kind),
                    Cell(row.variant, row.variant),
                    whole(one.n),
                    Cell(values[0], one.before),
                    Cell(values[1], one.after),
                    lost_cell(one.lost, unit(report)),
                )
            )
    return Table(
        "slices",
        "Who loses most",
        "The same clips in parts: by label, by camera (the group that a manifest names), by how light the "
        "picture is and how fast it changes, each a third of the clips. Small print is the paired 95 % "
        "interval.",
        heads(f"part, variant, clips, original, variant's, {unit(report)} lost"),
        tuple(rows),
    )


def robustness(report: Report) -> Table:
    """Float and a variant on spoilt clips."""
    metrics = {row.variant: row.accuracy.metric for row in report.rows if row.accuracy}
    rows = []
    for one in report.robustness:
        known: Metric = metrics.get(one.variant, "top1")
        rows.append(
            (
                Cell("as they are") if one.corruption == CLEAN else Cell(one.corruption, note=one.how),
                Cell(one.variant, one.variant),
                whole(one.n),
                value_cell(one.before, known),
                value_cell(one.after, known),
                lost_cell(one.lost, "dB" if unit_of(known) == "dB" else "points"),
            )
        )
    return Table(
        "robustness",
        "On spoilt clips",
        "Whether a compressed model gives way sooner than its float one when the picture is bad. Loss is of "
        "the variant against the float model on clips that are spoilt alike.",
        heads("clips are, variant, clips, float, variant's, lost against float"),
        tuple(rows),
    )


def value_cell(value: Estimate, known: Metric) -> Cell:
    """A metric with its interval below."""
    ends = [worded(v, known).split()[0] for v in (value.low, value.high) if v is not None]
    return Cell(worded(value.value, known), value.value, note=" to ".join(ends) or "no interval")


def curves(report: Report) -> Table:
    """Areas under the curves, and the operating point."""
    rows = []
    for row in report.rows:
        for one in row.curves:
            at = one.at
            rows.append(
                (
                    Cell(one.label, one.label),
                    name(report, row),
                    Cell(f"{one.positives} of {one.n}", one.positives),
                    number(one.auc),
                    number(one.average_precision),
                    Cell(f"{at.threshold:g}", at.threshold, note=at.source) if at else UNKNOWN,
                    share(at.recall if at else None),
                    share(at.false_alarms if at else None),
                    share(at.precision if at else None),
                )
            )
    return Table(
        "curves",
        "Whatever the threshold",
        "Scores of whole clips, one label against the rest. False alarms are the share of clips without the "
        "label that reach the threshold of the alarm.",
        heads(
            "label, variant, clips of it, ROC-AUC, average precision, alarm from, recall, false alarms, "
            "precision"
        ),
        tuple(rows),
    )


def sensitivity(report: Report) -> Table:
    """Every layer in INT8 alone."""
    rows = tuple(
        (
            Cell(one.layer, one.layer),
            number(one.sqnr_db, "dB"),
            share(one.changed),
            whole(one.n),
            UNKNOWN if one.drop is None else lost_points(one.drop),
        )
        for one in report.sensitivity
    )
    return Table(
        "sensitivity",
        "Which layer pays for INT8",
        "One layer quantized, all others in float: SQNR of the answers, and the share of them that change.",
        heads("layer, SQNR, answers changed, answers, points lost"),
        rows,
    )


def baselines(report: Report) -> Table:
    """What is reached without a network, beside the original."""
    rows = [
        (Cell(one.name, one.name, note=one.told), accuracy_cell(one.accuracy)) for one in report.baselines
    ]
    base = next((row for row in report.rows if row.variant == report.baseline), None)
    if rows and base:
        rows.append((Cell(base.variant, base.variant, note="the original"), accuracy_cell(base.accuracy)))
    known = report.baselines[0].accuracy.metric if report.baselines else None
    return Table(
        "baselines",
        "Without a network",
        "What costs nothing to compute, on the same clips and by the same figure.",
        heads(f"method, {metric_name(known) if known else 'accuracy'}"),
        tuple(rows),
    )


def live(report: Report) -> Table:
    """Replays at camera rate."""
    rows = tuple(
        (
            Cell(one.name, one.name),
            number(one.limit_ms),
            number(one.period_ms),
            whole(one.frames),
            replace(share(one.missed / one.frames), note=f"{one.missed:,} frames"),
            replace(share(one.right), note=f"of {one.instants:,} moments"),
            number(max(longest for *_, longest in one.stretches)),
        )
        for one in report.live
    )
    return Table(
        "live",
        "Misses over time",
        "Clips replayed as a camera shows them. Right: how often the latest answer was right when a frame "
        "came (streaming accuracy).",
        heads("variant, deadline ms, a frame every ms, frames, missed, right, longest ms"),
        rows,
    )


def reproduce(report: Report) -> Table:
    """Where each part comes from: the command, and what it was given."""
    rows = [(Cell("every figure"), Cell(command)) for command in report.commands]
    rows += [(Cell(f"SHA-256 of the {what}"), Cell(value)) for what, value in sorted(report.digests.items())]
    if report.commands and report.sensitivity:
        rows.append((Cell("layers in INT8, by itself"), Cell(_sensitivity_command(report.commands[0]))))
    if report.live:
        rows.append((Cell("misses over time"), Cell("edgepv bench BUNDLE --live --json > live.json")))
    return Table(
        "reproduce",
        "To make it again",
        "With the same model and clips these give the same figures but for times; what each step was given "
        "and made is in the table of steps.",
        heads("what, how"),
        tuple(rows),
    )


def _sensitivity_command(export: str) -> str:
    """That of the model of an export."""
    words = shlex.split(export)
    given = [
        w
        for flag in ("--weights", "--spec", "--clips")
        if flag in words
        for w in (flag, words[words.index(flag) + 1])
    ]
    return shlex.join(["edgepv", "sensitivity", words[2], *given])
