"""peers.md from peers.json: a table for each model, and the rows where edgepv is not first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        "clips, or dB, with the 95 % interval. Saturated: share of 8-bit codes at an end of their range, "
        "where a file can be read. Times: one thread, every file of a model in a process of its own, called "
        "in turns. INT8 convolutions: what the engine says it runs, not what the file asks for.",
        "",
        *not_first(found),
    ]
    for name, result in found.items():
        lines += ["", f"## {name}", "", *_model(result)]
    return "\n".join(lines) + "\n"


def _model(result: dict[str, Any]) -> Iterator[str]:
    if "why" in result:
        yield f"Not measured: {result['why']}."
        return
    yield (
        f"{result['clips']} test clips in {result['groups']} groups, {result['calibration']} calibration "
        "inputs; "
        f"{result['metric']} in float {result['float']:.3f}. "
        + (
            f"Timed on {machine(result['device'])}. {told(result['timed_at'])}"
            if "timed_at" in result
            else "Not timed."
        )
    )
    if result.get("load", {}).get("inconclusive"):
        yield f"\nThe times decide nothing: {result['load']['inconclusive']}."
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield "|" + "---|" * len(HEAD)
    for name, row in result["rows"].items():
        yield f"| {name} | {' | '.join(cells(row))} |"


def cells(row: dict[str, Any]) -> list[str]:
    """A row's columns after its name."""
    if "failed" in row:
        return ["", "", "", "", "", "", "", row["failed"].replace("|", "/").replace("\n", " ")]
    drop, clock = decode(PairedDrop, row["drop"]), row.get("time")
    codes = row["saturation"]
    return [
        f"{drop.figures('+')[0]} ({drop.interval()}), {drop.verdict}",
        f"{row['sqnr_db']:.1f}",
        "not measured" if codes is None else f"{100 * codes:.2f} %",
        f"{clock['p50_ms']:.3f}" if clock else "not measured",
        f"{clock['cpu_ms']:.3f}" if clock else "not measured",
        f"{row['bytes'] / 1024:.0f}",
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


def not_first(found: dict[str, Any]) -> list[str]:
    """The list of rows where edgepv is not first."""
    lines = ["## Where edgepv is not first", ""]
    lines.append("Among rows that lost no more than an export may by default (1 point, 0.3 dB; the figure):")
    lines += ["", *(f"* {line}" for line in beaten(found))]
    return lines if len(lines) > 4 else [*lines, "Nowhere."]


def beaten(found: dict[str, Any]) -> Iterator[str]:
    """A line for each model and column whose first row is a peer's."""
    for name, result in found.items():
        rows = {row: kept for row, kept in result["rows"].items() if keeps(kept)}
        for column, (shape, value) in COLUMNS.items():
            ranked = sorted((v, row) for row, kept in rows.items() if (v := value(kept)) is not None)
            mine = next(((v, row) for v, row in ranked if row.startswith("edgepv")), None)
            if not ranked or ranked[0][1].startswith("edgepv"):
                continue
            best, first = ranked[0]
            ours_told = (
                f"{mine[1]} has {shape.format(abs(mine[0]))}" if mine else "no row of edgepv keeps the gate"
            )
            why = reason(rows[first], rows[mine[1]] if mine else None)
            yield f"{name}, {column}: {first} has {shape.format(abs(best))}, {ours_told}. {why}"


def reason(first: dict[str, Any], mine: dict[str, Any] | None) -> str:
    """How the first row differs from edgepv's best, from what both say of themselves."""
    if mine is None:
        return ""
    parts = []
    if first["engine"] != mine["engine"]:
        parts.append(f"it runs in {first['engine']}, ours in {mine['engine']}")
    if first["int8"] and mine["int8"] and first["int8"] != mine["int8"]:
        parts.append("{} of {} convolutions in INT8 against {} of {}".format(*first["int8"], *mine["int8"]))
    parts.append(f"it loses {first['drop']['points']:+.2f} where ours loses {mine['drop']['points']:+.2f}")
    return "; ".join(parts)[:1].upper() + "; ".join(parts)[1:] + "."
