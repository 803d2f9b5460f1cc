"""The first screen of a report: for each target what ships, how much smaller and faster, and what it lost."""

from __future__ import annotations

from dataclasses import dataclass

from edgepv.metrics.stats import counted, figure, size
from edgepv.report.cells import NOT_MEASURED, Cell, Table, heads
from edgepv.report.compare import main_latency, original
from edgepv.types import Latency, Measurement, PairedDrop, Report


@dataclass(frozen=True)
class Fact:
    """One figure of a card: the value, what it is, and the small print under it."""

    value: str
    what: str
    note: str = ""


@dataclass(frozen=True)
class Card:
    """What runs on one target. verdict: of its drop gate, which ``tone`` colours."""

    target: str
    variant: str
    verdict: str
    tone: str
    facts: tuple[Fact, ...]


def cards(report: Report) -> list[Card]:
    """A card for each row that runs; none for a report that does not say which do."""
    rows = {row.variant: row for row in report.rows}
    return [_card(report, rows[name]) for name in report.runs]


def ships(report: Report) -> Table:
    """The same as a table."""
    rows = [
        (
            Cell(card.target, card.target),
            Cell(card.variant, card.variant),
            *(Cell(f"{fact.value} {fact.what}", note=fact.note) for fact in card.facts),
            Cell(card.verdict, card.verdict, tone=card.tone),
        )
        for card in cards(report)
    ]
    columns = heads("target, runs, size, speed, loss, time, drop gate")
    return Table("ships", "What ships", "", columns, tuple(rows))


def _card(report: Report, row: Measurement) -> Card:
    latency = main_latency(row)
    verdict = row.drop.verdict if row.drop else "not applied"
    tone = "inconclusive" if verdict == "not applied" else verdict
    facts = (_smaller(report, row), _faster(report, row, latency), _lost(row), _time(latency))
    return Card(row.target, row.variant, _told(row.drop), tone, facts)


def _told(drop: PairedDrop | None) -> str:
    """The verdict of the drop gate in words."""
    if drop is None:
        return "loss against the original not measured"
    unit = "point" if (drop.max_drop, drop.unit) == (1, "points") else drop.unit
    limit = f"{drop.max_drop:g} {unit}"
    return {
        "pass": f"decided: loses at most {limit}",
        "fail": f"decided: loses more than {limit}",
        "inconclusive": f"open: these clips cannot tell {limit}",
        "not applied": "not judged: a label has no held-out clips",
    }[drop.verdict]


def float_row(report: Report, row: Measurement) -> Measurement | None:
    """The row in float32 that a row is held against: its engine's own, else another of its target."""
    folder = "".join(row.variant.rpartition("/")[:2])
    beside = [
        other
        for other in report.rows
        if other.target == row.target
        and other.precision == "fp32"
        and "".join(other.variant.rpartition("/")[:2]) == folder
        and other is not row
    ]
    return next((other for other in beside if other.engine == row.engine), next(iter(beside), None))


def _smaller(report: Report, row: Measurement) -> Fact:
    """How much smaller the file is than the original's, or where that is not known than in float32."""
    if not row.bytes:
        return Fact(NOT_MEASURED, "model file")
    rows = {one.variant: one for one in report.rows}
    base = rows.get(original(report, row, rows) or "")
    beside = float_row(report, row) if row.precision != "fp32" else None
    sizes = [size(row.bytes)]
    if base and base.bytes:
        sizes.append(f"the original {size(base.bytes)}")
    if beside and beside.bytes:
        sizes.append(f"in float32 {size(beside.bytes)}")
    note = "; ".join(sizes)
    if base and base.bytes:
        times = base.bytes / row.bytes
        more = f"{times:.1f}x" if times >= 1 else f"{1 / times:.1f}x"
        return Fact(more, f"{'smaller' if times >= 1 else 'larger'} than the original", note)
    if beside and beside.bytes:
        return Fact(f"{beside.bytes / row.bytes:.1f}x", "smaller than in float32", note)
    return Fact(size(row.bytes), "model file")


def _faster(report: Report, row: Measurement, latency: Latency | None) -> Fact:
    """How much faster one answer is than the original's, by pairs of turns."""
    if latency is None:
        return Fact(NOT_MEASURED, "speed", "known only on the device")
    if latency.inconclusive:
        return Fact("inconclusive", "speed", latency.inconclusive)
    base = original(report, row, [pair.to for pair in latency.ratios])
    pair = latency.against(base) if base else None
    notes = [
        f"{1 / other.wall.value:.1f}x against {other.to.rpartition('/')[2]}"
        for other in latency.ratios
        if other is not pair and other.to != row.variant
    ]
    if pair is None:
        return Fact(NOT_MEASURED, "faster than the original", "; ".join(notes))
    spread = f"{1 / pair.wall.high:.1f} to {1 / pair.wall.low:.1f}"
    return Fact(f"{1 / pair.wall.value:.1f}x", "faster than the original", "; ".join((spread, *notes)))


def _lost(row: Measurement) -> Fact:
    """Points, or dB, lost against the original, with the paired interval."""
    drop = row.drop
    if drop is None:
        return Fact(NOT_MEASURED, "lost against the original")
    how = "expected to be lost" if drop.counted is not None else "lost"
    note = f"{drop.interval('+')}; {counted(drop.n, drop.groups, 'clips')}"
    return Fact(drop.figures("+")[0], f"{drop.unit} {how}", note)


def _time(latency: Latency | None) -> Fact:
    """The p50 of one call."""
    if latency is None:
        return Fact(NOT_MEASURED, "time of a frame", "known only on the device")
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    return Fact(f"{figure(latency.p50_ms)} ms", "time of a frame", f"p50 of {latency.n:,} on {threads}")
