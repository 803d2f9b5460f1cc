"""Every variant of one or more bundles side by side, as HTML, Markdown or JSON.

The HTML is one file: charts are inline SVG, nothing is fetched. What was not measured says so.
"""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepv.base.files import canonical
from edgepv.base.optional import need
from edgepv.errors import UsageError
from edgepv.report import charts, parts, plots, roofline, shipped, tables
from edgepv.report.cells import Cell, Table
from edgepv.types import Accuracy, Report

HEATMAP_LABELS = 25  # a larger confusion matrix has cells too small to read
FOLDED = 24  # rows of a table that is folded away under its chart
PICTURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix to draw: counts, and each row's shares for the shade; or its worst cells."""

    variant: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[float, ...], ...]
    worst: tuple[str, ...] = ()


def to_json(report: Report) -> str:
    """Canonical JSON; ``decode(Report, json.loads(text))`` gives an equal report."""
    return canonical(report)


def to_html(report: Report, *, picture: bytes | None = None) -> str:
    """The whole report as one HTML file without any reference to the network.

    picture: a PNG or JPEG shown at the top. Raises UsageError for other bytes.
    """
    return _render(
        "page.html.j2",
        report=report,
        summary=tables.summary(report),
        cards=shipped.cards(report),
        overview=tables.overview(report),
        tables=_tables(report),
        scatters=charts.scatters(report),
        bars=charts.bars(report),
        plots=plots.every(report),
        worst=plots.worst_told(report),
        folded=FOLDED,
        rooflines=roofline.rooflines(report),
        roofline_told=roofline.told_of(report),
        confusions=_confusions(report),
        picture=picture and _data_uri(picture),
    )


def picture_of_scatter(report: Report) -> str:
    """Accuracy over latency alone, as an SVG file: the machine with the most drawn rows.

    Raises UsageError if no row has both accuracy and latency.
    """
    scatters = charts.scatters(report)
    if not scatters:
        raise UsageError("no variant has both accuracy and latency measured: nothing to draw")
    return _render("scatter.svg.j2", chart=max(scatters, key=lambda one: len(one.points)))


def _render(template: str, **values: Any) -> str:
    jinja2 = need("jinja2", extra="compress")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template(template).render(values)
    return page


def _tables(report: Report) -> dict[str, Table]:
    """The tables under the overview, by key, in reading order; empty ones are left out."""
    every = (
        *parts.tables(report),
        tables.latency_table(report),
        roofline.roofline_table(report),
        tables.stream_table(report),
        tables.accuracy_table(report),
        tables.class_table(report),
        tables.parity_table(report),
        tables.worst_table(report),
        tables.cost_table(report),
        tables.device_table(report),
        tables.steps_table(report),
        parts.reproduce(report),
    )
    return {table.key: table for table in every if table.rows}


def _confusions(report: Report) -> list[Confusion]:
    return [
        _confusion(row.variant, row.accuracy)
        for row in report.rows
        if row.accuracy and row.accuracy.confusion
    ]


def _confusion(variant: str, accuracy: Accuracy) -> Confusion:
    counts = accuracy.confusion
    labels = tuple(score.label for score in accuracy.classes) or tuple(map(str, range(len(counts))))
    if len(counts) <= HEATMAP_LABELS:
        shares = tuple(tuple(n / max(1, sum(row)) for n in row) for row in counts)
        return Confusion(variant, labels, counts, shares)
    wrong = [(n, t, p) for t, row in enumerate(counts) for p, n in enumerate(row) if n and t != p]
    worst = (f"{labels[t]} answered as {labels[p]}: {n} clips" for n, t, p in sorted(wrong)[::-1])
    return Confusion(variant, labels, (), (), tuple(worst)[:20])


def _data_uri(picture: bytes) -> str:
    for magic, kind in PICTURES.items():
        if picture.startswith(magic):
            return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    raise UsageError("the report's picture is neither PNG nor JPEG. Convert it first")


def to_markdown(report: Report) -> str:
    """The same tables as Markdown, for a README or a pull request."""
    parts = [f"# {_plain(report.title)}", _plain(tables.summary(report))]
    first = [shipped.ships(report)] if report.runs else []
    for table in (*first, tables.overview(report)):
        parts += [f"## {table.title}", table.about, _markdown(table)]
    parts += [
        "## Why",
        "\n".join(f"* {_plain(why)}" for why in report.reasons) or "No reasons were recorded.",
    ]
    for table in _tables(report).values():
        parts += [f"## {table.title}", table.about, _markdown(table)]
    parts = [part for part in parts if part]
    return "\n\n".join(parts) + "\n"


def _markdown(table: Table) -> str:
    lines = [table.columns, tuple("---" for _ in table.columns)]
    lines += [tuple(_markdown_cell(cell) for cell in row) for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    notes = [cell.note, ", ".join(cell.more)]
    return _plain(cell.text + "".join(f" ({note})" for note in notes if note))


def _plain(words: str) -> str:
    """Text that Markdown shows as it is: no tags, no new columns, no emphasis, no links."""
    escaped = html.escape(" ".join(words.split()), quote=False)
    return "".join("\\" + c if c in "\\|*_`[]" else c for c in escaped)
