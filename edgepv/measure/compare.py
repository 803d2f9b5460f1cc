"""Two results of ``edgepv bench``, an older and a newer one: what is faster, what slower, what open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgepv.base.files import read_json
from edgepv.errors import InconclusiveError, UsageError
from edgepv.metrics.stats import student
from edgepv.metrics.times import BATCHES
from edgepv.types import BenchResult, BenchRow, Ratio, decode, encode

SCHEMA = 1
"""Of a result; goes up when an older edgepv could not read what a newer one writes."""
MOMENT = ("load",)
"""Facts of a device that are of the moment, and no part of its setup."""
Verdict = Literal["faster", "slower", "undecided"]


@dataclass(frozen=True)
class Change:
    """One artifact's time in the newer result as a share of that in the older one, with its 95 % interval.

    against: the artifact, the same file in both results, whose time each run's was divided by turn by turn;
    None where there is none, and the clock of the two runs has to do. cpu: of CPU time, likewise.
    """

    name: str
    verdict: Verdict
    wall: Ratio
    cpu: Ratio | None
    against: str | None


def read_result(path: str) -> BenchResult:
    """What ``edgepv bench --json`` printed. Raises UsageError if it is not that."""
    from pathlib import Path

    return parsed_result(read_json(Path(path)), path)


def parsed_result(data: object, where: str) -> BenchResult:
    """A result from its JSON. Raises UsageError if it is none, or of another schema."""
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{where} has schema {schema}; this edgepv reads {SCHEMA}. Give what edgepv bench --json wrote"
        )
    return decode(BenchResult, data, where=where)


def compared(old: BenchResult, new: BenchResult) -> list[Change]:
    """Every artifact that is in both results, by its name.

    Raises UsageError if the setups differ, naming each fact, or no artifact is in both; InconclusiveError if
    a machine was too busy to tell.
    """
    pairs = [(row, late) for row in old.rows if (late := new.row(row.name))]
    if not pairs:
        names = [", ".join(r.name for r in result.rows) for result in (old, new)]
        raise UsageError(f"no artifact is in both results: {names[0]} against {names[1]}")
    if facts := unlike(old, new):
        raise UsageError(
            f"times of unlike setups are not compared: {'; '.join(facts)}. Measure both on one setup, best "
            "in one run: edgepv bench OLD NEW"
        )
    for which, result in (("older", old), ("newer", new)):
        if result.inconclusive:
            raise InconclusiveError(
                f"the {which} result is inconclusive: {result.inconclusive}. Measure again on an idle machine"
            )
    return [_change(early, late, _reference(early, old, new)) for early, late in pairs]


def unlike(old: BenchResult, new: BenchResult) -> list[str]:
    """The facts in which two setups differ, "cpu: A / B", and those of the engines of rows in both."""
    told = []
    for one, other in _facts(old, new):
        told += [f"{key}: {one[key]} / {other[key]}" for key in one if one[key] != other[key]]
    return told


def _facts(old: BenchResult, new: BenchResult) -> list[tuple[dict[str, object], dict[str, object]]]:
    setups = [encode(result.setup) for result in (old, new)]
    devices = [{k: v for k, v in s.pop("device").items() if k not in MOMENT} for s in setups]
    for setup in setups:
        setup.pop("edgepv")  # what an update of edgepv did is often the question
    pairs = [(devices[0], devices[1]), (setups[0], setups[1])]
    for row in old.rows:
        if late := new.row(row.name):
            keys = ("engine", "build", "policy")
            pairs.append(
                (
                    {f"{key} of {row.name}": getattr(row, key) for key in keys},
                    {f"{key} of {row.name}": getattr(late, key) for key in keys},
                )
            )
    return pairs


def _reference(row: BenchRow, old: BenchResult, new: BenchResult) -> tuple[BenchRow, BenchRow] | None:
    """A row of both results that is the same file, and not the one that is asked about."""
    for one in old.rows:
        late = new.row(one.name)
        if one.name != row.name and late and late.sha256 == one.sha256:
            return one, late
    return None


def _change(old: BenchRow, new: BenchRow, reference: tuple[BenchRow, BenchRow] | None) -> Change:
    was, now = reference or (None, None)
    wall = shift(
        _logs(old.turns_ms, was.turns_ms if was else None), _logs(new.turns_ms, now.turns_ms if now else None)
    )
    cpu = shift(
        _logs(old.turns_cpu_ms, was.turns_cpu_ms if was else None),
        _logs(new.turns_cpu_ms, now.turns_cpu_ms if now else None),
    )
    if wall is None:
        raise InconclusiveError(f"{old.name}: fewer than {BATCHES} turns were timed. Measure it again")
    verdict: Verdict = "faster" if wall.high < 1 else "slower" if wall.low > 1 else "undecided"
    return Change(old.name, verdict, wall, cpu, was.name if was else None)


def _logs(times: Sequence[float], reference: Sequence[float] | None) -> np.ndarray | None:
    """Logarithms of the time of each turn, as a share of the reference's in the same turn.

    None of a clock that stood still.
    """
    own = np.asarray(times, float)
    base = np.asarray(reference, float) if reference is not None else np.ones(len(own))
    if len(base) != len(own) or (own <= 0).any() or (base <= 0).any():
        return None
    logs: np.ndarray = np.log(own / base)
    return logs


def shift(old: np.ndarray | None, new: np.ndarray | None) -> Ratio | None:
    """How many times as long the newer times are, from logarithms of each turn, with the 95 % interval.

    The medians of ``BATCHES`` stretches of each run, as ``metrics.times.paired_ratio`` takes them; Welch's
    interval of the difference of their means. None of fewer turns. What differs from one start of a program
    to the next, such as where its memory lies, is not in it. Source: Welch 1947, "The generalization of
    Student's problem when several different population variances are involved".
    """
    if old is None or new is None or min(len(old), len(new)) < BATCHES:
        return None
    medians = [np.array([np.median(b) for b in np.array_split(one, BATCHES)]) for one in (old, new)]
    parts = [float(m.var(ddof=1)) / BATCHES for m in medians]
    middle = float(medians[1].mean() - medians[0].mean())
    spread = sum(parts)
    freedom = (BATCHES - 1) * spread**2 / sum(p**2 for p in parts) if spread else float(BATCHES - 1)
    half = student(freedom) * math.sqrt(spread)
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half))
