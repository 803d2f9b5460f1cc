"""A value as a table's cell: its unit, its sign, and "not measured" where there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgepv.metrics.stats import figure, size
from edgepv.metrics.times import calls_needed
from edgepv.types import Latency, MachineLoad

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, what to sort it by, a verdict's tone, a small second line, folded lines."""

    text: str
    sort: float | str | None = None
    tone: str = ""
    note: str = ""
    hint: str = ""
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table. The first column names the row; ``about`` says how to read it."""

    key: str
    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


UNKNOWN = Cell(NOT_MEASURED, tone="none")


def percent(share: float) -> str:
    """A fraction of 1 in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def heads(names: str) -> tuple[str, ...]:
    """Column heads from one comma-separated line."""
    return tuple(names.split(", "))


def number(value: float | None, unit: str = "", note: str = "") -> Cell:
    """A figure with its unit, or "not measured"."""
    return UNKNOWN if value is None else Cell(f"{figure(value)} {unit}".strip(), value, note=note)


def typical(latency: Latency | None, note: str = "") -> Cell:
    """The p50 of one call; marked where the machine was too busy for it to mean something."""
    if latency is None:
        return UNKNOWN
    cell = number(latency.p50_ms, note=note)
    if latency.inconclusive is None:
        return cell
    told = "; ".join(filter(None, [note, f"inconclusive: {latency.inconclusive}"]))
    return replace(cell, tone="inconclusive", note=told)


def tail(latency: Latency | None, percentile: Literal[95, 99]) -> Cell:
    """p95 or p99 of one call, or "not measured" and how many calls it takes."""
    if latency is None:
        return UNKNOWN
    value = latency.p95_ms if percentile == 95 else latency.p99_ms
    if value is None:
        return replace(UNKNOWN, note=f"needs {calls_needed(percentile)} calls")
    return number(value)


def machine_load(load: MachineLoad | None) -> Cell:
    """What the machine did besides the timed calls, and how fast its cores were clocked."""
    if load is None:
        return UNKNOWN
    facts = [f"load {load.average:.1f} on {load.cores} cores"]
    facts += [f"others used {load.others:.1f}"] if load.others is not None else []
    facts += [f"steal {percent(load.steal)}"] if load.steal is not None else []
    facts += [f"{load.mhz[0]:,.0f} to {load.mhz[1]:,.0f} MHz"] if load.mhz else []
    return Cell(facts[0], load.average, note=", ".join(facts[1:]))


def whole(value: int | None) -> Cell:
    """A count, every digit of it, or "not measured"."""
    return UNKNOWN if value is None else Cell(f"{value:,}", value)


def share(value: float | None) -> Cell:
    """A fraction of 1 shown in percent, or "not measured"."""
    return UNKNOWN if value is None else Cell(percent(value), value)


def amount(value: int | None) -> Cell:
    """Bytes, with the exact count on hover, or "not measured"."""
    return UNKNOWN if value is None else Cell(size(value), value, hint=f"{value:,} bytes")


def text(value: str | None) -> Cell:
    """Words, or "not measured"."""
    return UNKNOWN if value is None else Cell(value, value)


def ratio(value: float | None) -> Cell:
    """How many times faster, or "not measured" (also when the two never ran in turns)."""
    return UNKNOWN if value is None else Cell(f"×{value:.2f}", value)


def verdict(value: str | None) -> Cell:
    """pass, fail or inconclusive, in its tone, or "not measured"."""
    return UNKNOWN if value is None else Cell(value, value, tone=value)
