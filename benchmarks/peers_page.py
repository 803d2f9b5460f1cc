"""peers.md from peers.json: a table for each model, and the rows where edgepv is not first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from measured_at import machine, told

from edgepv.types import PairedDrop, decode

MAX_DROP = {"points": 1.0, "dB": 0.3}
"""What a row may lose to be compared by its time: the gates that ``edgepv export`` has by default."""
HEAD = (
    "row",
    "lost (95 %)",
    "SQNR dB",
    "saturated",
    "p50 ms",
    "CPU ms",
    "KB",
    "INT8 convolutions",
    "what failed",
)


def page(found: dict[str, Any]) -> str:
    """peers.md."""
    lines = [
        "# edgepv beside other tools",
        "",
        "Made by `python benchmarks/peers.py` from benchmarks/peers.json: every tool from PyPI in an "
        "environment of its own, given the same float model, the same calibration inputs and the same test "
        "clips. default: as its documentation calls it; tuned: as well as its documentation allows "
        "(benchmarks/peers/ has a file for each). Lost: points of top-1 expected from the margins of all "
        "clips, or dB, with the 95 % interval, and whether the gate of an export is kept by all of it (1 "
        "point, 0.3 dB); counted: from clips that changed sides, where margins cannot tell (else that count "
        "is in the JSON). Saturated: share of 8-bit codes at an end of their range, where a file tells. "
        "Times: one thread, every file of a model in a process of its own, called in turns. INT8 "
        "convolutions: what the engine says it runs, not what the file asks for. Bold: the best of a column, "
        "among rows that lost no more than the gate by the figure itself. Where a model's rows are of two "
        "CPUs, the last column says which, and times are ranked among those of edgepv's CPU alone.",
        "",
        *not_first(found),
    ]
    for name in sorted(found, key=lambda name: "why" in found[name]):
        lines += ["", f"## {name}", "", *_model(found[name])]
    return "\n".join(lines) + "\n"


def _model(result: dict[str, Any]) -> Iterator[str]:
    if "why" in result:
        yield f"Not measured: {result['why']}."
        return
    rows = result["rows"]
    used = {timed_on(row) for row in rows.values()}
    runs = {on: facts for on, facts in result.get("timed", {}).items() if on in used}
    yield (
        f"{result['clips']} test clips in {result['groups']} groups, {result['calibration']} calibration "
        "inputs; "
        f"{result['metric']} in float {result['float']:.3f}. "
        + (" ".join(f"Timed on {on}. {told(facts['at'])}" for on, facts in runs.items()) or "Not timed.")
    )
    for on, facts in runs.items():
        if facts["load"]["inconclusive"]:
            yield f"\nThe times on {on} decide nothing: {facts['load']['inconclusive']}."
    yield ""
    several = len({where(row) for row in rows.values()}) > 1
    head = [*HEAD, "CPU"] if several else [*HEAD]
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    best = firsts(result)
    for name in in_order(rows):
        bold = [column for column, first in best.items() if first == name]
        told_of = [name, *cells(rows[name], bold), *([where(rows[name])] if several else [])]
        yield f"| {' | '.join(told_of)} |"


def timed_on(row: dict[str, Any]) -> str | None:
    """The CPU of a row's times."""
    clock = row.get("time") or {}
    on: str | None = clock.get("on")
    return on


def where(row: dict[str, Any]) -> str:
    """The CPU that a row's file answered on, and that of its times where it is another."""
    answered, on = machine(row.get("device")), timed_on(row)
    return answered if on in (None, answered) else f"{answered}; timed on {on}"


def in_order(names: Iterable[str]) -> list[str]:
    """edgepv's rows as they were made, then the others by name: a tool's default beside its tuned one."""
    return sorted(names, key=lambda name: (0, "") if name.startswith("edgepv") else (1, name.lower()))


def cells(row: dict[str, Any], bold: Sequence[str] = ()) -> list[str]:
    """A row's columns after its name. bold: of ``COLUMNS``, those that it is first in."""
    if "failed" in row:
        return ["", "", "", "", "", "", "", row["failed"].replace("|", "/").replace("\n", " ")]
    drop, clock = decode(PairedDrop, row["drop"]), row.get("time")
    codes, how = row["saturation"], ", counted" if drop.why else ""
    told = {"SQNR in INT8": f"{row['sqnr_db']:.1f}", "size": f"{row['bytes'] / 1024:.0f}"}
    told["time"] = f"{clock['p50_ms']:.3f}" if clock else "not measured"
    told |= {column: f"**{told[column]}**" for column in bold}
    return [
        f"{drop.figures('+')[0]} ({drop.interval()}){how}, {drop.verdict}",
        told["SQNR in INT8"],
        "not measured" if codes is None else f"{100 * codes:.2f} %",
        told["time"],
        f"{clock['cpu_ms']:.3f}" if clock else "not measured",
        told["size"],
        "{} of {}".format(*row["int8"]) if row["int8"] else "not measured",
        "",
    ]


def keeps(row: dict[str, Any]) -> bool:
    """Whether a row lost no more than a default export may lose, by the figure itself."""
    return "drop" in row and row["drop"]["points"] <= MAX_DROP[row["drop"]["unit"]]


COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "time": ("{:.3f} ms", lambda row: row["time"]["p50_ms"] if row.get("time") else None),
    "size": ("{:.0f} bytes", lambda row: row["bytes"]),
    "SQNR in INT8": ("{:.1f} dB", lambda row: -row["sqnr_db"] if row["int8"] and row["int8"][0] else None),
}
"""What rows that keep the gate are ranked by, the least first."""


def ranked(result: dict[str, Any], column: str) -> list[tuple[float, str]]:
    """(value, row) of those that keep the gate, the best first; edgepv's before others of the same value."""
    value, rows = COLUMNS[column][1], side_by_side(result) if column == "time" else result["rows"]
    known = ((value(row), name) for name, row in rows.items() if keeps(row))
    found = ((figure, name) for figure, name in known if figure is not None)
    return sorted(found, key=lambda pair: (pair[0], not pair[1].startswith("edgepv"), pair[1]))


def side_by_side(result: dict[str, Any]) -> dict[str, Any]:
    """Rows that were timed where most of edgepv's were: times of two CPUs are no comparison of two tools."""
    timed = {name: row for name, row in result["rows"].items() if row.get("time")}
    ours = [timed_on(row) for name, row in timed.items() if name.startswith("edgepv")]
    here = max(ours, key=ours.count, default=None)
    return {name: row for name, row in timed.items() if timed_on(row) == here}


def firsts(result: dict[str, Any]) -> dict[str, str]:
    """The best row of each column in which rows can be compared."""
    return {column: order[0][1] for column in COLUMNS if (order := ranked(result, column))}


def not_first(found: dict[str, Any]) -> list[str]:
    """Where edgepv is not first, where it is, and what was not compared."""
    lines = ["## Where edgepv is not first", ""]
    lines.append("Among rows that lost no more than an export may by default (1 point, 0.3 dB; the figure):")
    lines += ["", *([f"* {line}" for line in beaten(found)] or ["Nowhere."])]
    won = []
    for name, result in found.items():
        columns = [column for column, row in firsts(result).items() if row.startswith("edgepv")]
        won += [f"{name} ({', '.join(columns)})"] if columns else []
    lines += ["", f"It is first in: {'; '.join(won) or 'nothing'}."]
    left = {
        name: (count, len(result["rows"]))
        for name, result in found.items()
        if (count := not_compared(result))
    }
    rows = "; ".join(f"{name} ({count} of {every} rows)" for name, (count, every) in left.items())
    return [*lines, "", f"Not timed, or on another CPU, so not compared by time: {rows}."] if left else lines


def not_compared(result: dict[str, Any]) -> int:
    """Rows that answered and whose times stand beside none of edgepv's."""
    return sum("failed" not in row for row in result["rows"].values()) - len(side_by_side(result))


def beaten(found: dict[str, Any]) -> Iterator[str]:
    """A line for each model and column whose first row is a peer's."""
    for name, result in found.items():
        for column, first in firsts(result).items():
            if first.startswith("edgepv"):
                continue
            shape, rows, order = COLUMNS[column][0], result["rows"], ranked(result, column)
            ours = ((v, rows[row]["engine"] != rows[first]["engine"], row) for v, row in order)
            mine = min((one for one in ours if one[2].startswith("edgepv")), default=None)
            best = shape.format(abs(order[0][0]))
            if mine is None:
                yield f"{name}, {column}: {first} has {best}, no row of edgepv keeps the gate."
                continue
            why, value = reason(rows[first], rows[mine[2]]), shape.format(abs(mine[0]))
            yield f"{name}, {column}: {first} has {best}, {mine[2]} has {value}. {why}"


def reason(first: dict[str, Any], mine: dict[str, Any]) -> str:
    """How the first row differs from edgepv's best, from what both say of themselves."""
    parts = []
    if first["engine"] != mine["engine"]:
        parts.append(f"it runs in {first['engine']}, ours in {mine['engine']}")
    if first["int8"] and mine["int8"] and first["int8"] != mine["int8"]:
        parts.append("{} of {} convolutions in INT8 against {} of {}".format(*first["int8"], *mine["int8"]))
    parts.append(f"it loses {first['drop']['points']:+.2f} where ours loses {mine['drop']['points']:+.2f}")
    return "; ".join(parts)[:1].upper() + "; ".join(parts)[1:] + "."
