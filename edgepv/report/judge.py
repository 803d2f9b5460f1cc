"""A report held against limits and against an older one: what a build in CI passes or fails by."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgepv.errors import (
    AccuracyGateError,
    EdgepvError,
    InconclusiveError,
    LatencyGateError,
    ParityError,
    UsageError,
)
from edgepv.metrics.gate import gate_failure
from edgepv.metrics.stats import figure, side_of
from edgepv.metrics.times import calls_needed
from edgepv.report.compare import machine, main_latency, original
from edgepv.types import Measurement, PairedTime, Ratio, Report

Outcome: TypeAlias = Literal["pass", "fail", "inconclusive"]
SHOWN_AS = {"pass": None, "fail": "failure", "inconclusive": "error"}
"""Outcome -> the element that JUnit has for it: who cannot tell has not passed."""


@dataclass(frozen=True)
class Limits:
    """max_drop: in points, or dB; None for the limit that each row was made with. The others in ms."""

    max_drop: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True)
class Check:
    """One question to one row, answered. told: the answer in words. kind: of the error if it is a "fail"."""

    variant: str
    what: str
    outcome: Outcome
    told: str
    kind: type[EdgepvError]


def judge(report: Report, limits: Limits, older: Report | None = None) -> list[Check]:
    """Every check of the rows that run; of all but the originals where a report does not say which do.

    older: what the rows may not be surely worse than. Raises UsageError if there is nothing to judge.
    """
    rows = running(report)
    if not rows:
        raise UsageError("the report has no row but originals: nothing to judge. Give that of an export")
    checks = [check for row in rows for check in _checks(row, limits)]
    if older is not None:
        before = {_place(row, older): row for row in running(older)}
        checks += [c for row in rows for c in _regressions(row, before.get(_place(row, report)))]
    return checks


def running(report: Report) -> list[Measurement]:
    """The rows that run, or all but the originals."""
    if report.runs:
        return [row for row in report.rows if row.variant in report.runs]
    return [row for row in report.rows if row.variant != original(report, row, [row.variant])]


def _place(row: Measurement, report: Report) -> tuple[str, str]:
    """What is held against its like: what runs of a target, whichever variant; else the same variant."""
    return row.target, "" if report.runs else row.variant


def _checks(row: Measurement, limits: Limits) -> Iterator[Check]:
    failure = gate_failure(row)
    own = row.drop is not None and row.drop.verdict == "fail"
    if failure and not own:
        yield Check(row.variant, "parity", "fail", failure, ParityError)
    else:
        told = "computes what the original computes" if row.parity else "was not compared with the original"
        yield Check(row.variant, "parity", "pass" if row.parity else "inconclusive", told, ParityError)
    yield _lost(row, limits.max_drop)
    for percentile, most in ((50, limits.p50_ms), (95, limits.p95_ms), (99, limits.p99_ms)):
        if most is not None:
            yield _late(row, percentile, most)


def _lost(row: Measurement, limit: float | None) -> Check:
    """The loss against a limit: its whole interval is on one side of it, or nobody can tell."""
    drop = row.drop
    if drop is None:
        return Check(row.variant, "loss", "inconclusive", "not measured", AccuracyGateError)
    most = drop.max_drop if limit is None else limit
    told = f"{drop.figures('+')[0]} {drop.unit} ({drop.interval('+')}), at most {most:g}"
    open_ = drop.verdict == "not applied" or drop.groups == 1
    outcome = "inconclusive" if open_ else side_of(drop.low, drop.high, most)
    return Check(row.variant, "loss", outcome, told, AccuracyGateError)


def _late(row: Measurement, percentile: int, most: float) -> Check:
    """A percentile of the time of one call against a limit in ms."""
    latency, what = main_latency(row), f"p{percentile}"
    if latency is None:
        return Check(row.variant, what, "inconclusive", "not measured", LatencyGateError)
    if latency.inconclusive:
        return Check(row.variant, what, "inconclusive", latency.inconclusive, LatencyGateError)
    value: float | None = getattr(latency, f"p{percentile}_ms")
    if value is None:
        told = f"{latency.n} calls; it takes {calls_needed(percentile)} to know {what}"
        return Check(row.variant, what, "inconclusive", told, LatencyGateError)
    told = f"{figure(value)} ms of {latency.n} calls, at most {most:g}"
    return Check(row.variant, what, "pass" if value <= most else "fail", told, LatencyGateError)


def _regressions(row: Measurement, before: Measurement | None) -> Iterator[Check]:
    if before is None:
        told = "the older report has nothing for this target"
        yield Check(row.variant, "loss since", "inconclusive", told, AccuracyGateError)
        return
    yield _lost_since(row, before)
    yield _slower_since(row, before)


def _lost_since(row: Measurement, before: Measurement) -> Check:
    """Whether more is lost than before: two estimates of the same clips, their errors taken as independent.

    Errors on the same clips go together, so the interval is too wide rather than too narrow.
    """
    new, old = row.drop, before.drop
    if new is None or old is None:
        return Check(row.variant, "loss since", "inconclusive", "not measured in both", AccuracyGateError)
    if (new.n, new.groups, new.unit) != (old.n, old.groups, old.unit) or new.groups == 1:
        told = f"not the same clips ({new.n} now, {old.n} before), or of one group"
        return Check(row.variant, "loss since", "inconclusive", told, AccuracyGateError)
    more = new.points - old.points
    half = math.hypot(new.high - new.low, old.high - old.low) / 2
    told = f"{more:+.2f} {new.unit} ({more - half:+.2f} to {more + half:+.2f}) more than {before.variant}"
    outcome: Outcome = "fail" if more > half else "pass"
    return Check(row.variant, "loss since", outcome, told, AccuracyGateError)


def _slower_since(row: Measurement, before: Measurement) -> Check:
    """Whether it is slower than before, each as a share of the same float row of its own run.

    A machine that is faster or busier today is so for both; machines of another kind are not compared.
    """

    def answered(outcome: Outcome, told: str) -> Check:
        return Check(row.variant, "time since", outcome, told, LatencyGateError)

    new, old = main_latency(row), main_latency(before)
    if new is None or old is None:
        return answered("inconclusive", "not measured in both")
    if machine(row.device) != machine(before.device) or new.threads != old.threads:
        return answered("inconclusive", "not the same kind of machine and threads")
    if new.inconclusive or old.inconclusive:
        return answered("inconclusive", new.inconclusive or old.inconclusive or "")
    pairs = [(n, o) for n in new.ratios for o in old.ratios if _same(n, o)]
    if not pairs:
        return answered("inconclusive", "not timed in turns with the same float variant")
    now, then = pairs[0]
    change = _quotient(now.wall, then.wall)
    told = f"{change} of the time of {before.variant}, both as shares of {now.to.rpartition('/')[2]}"
    return answered("fail" if change.low > 1 else "pass", told)


def _same(new: PairedTime, old: PairedTime) -> bool:
    """Whether two pairs are to the same row, in whatever report."""
    return new.to.rpartition("/")[2] == old.to.rpartition("/")[2]


def _quotient(a: Ratio, b: Ratio) -> Ratio:
    """a / b of independent runs, its interval from those of both on a logarithmic scale."""
    value = math.log(a.value / b.value)
    half = math.hypot(math.log(a.high / a.low), math.log(b.high / b.low)) / 2
    return Ratio(*(math.exp(v) for v in (value, value - half, value + half)))


def worst(checks: list[Check]) -> EdgepvError | None:
    """The error that a run ends with; None if every check passed."""
    for kind in (ParityError, AccuracyGateError, LatencyGateError):
        failed = [c for c in checks if c.outcome == "fail" and c.kind is kind]
        if failed:
            return kind(_sentence(failed, "failed", len(checks)))
    undecided = [c for c in checks if c.outcome == "inconclusive"]
    return InconclusiveError(_sentence(undecided, "cannot be told", len(checks))) if undecided else None


def _sentence(checks: list[Check], how: str, of: int) -> str:
    first = checks[0]
    return f"{len(checks)} of {of} checks {how}, first {first.what} of {first.variant}: {first.told}"


def junit(checks: list[Check], title: str) -> bytes:
    """The checks as JUnit's XML, which every CI system shows: a suite of one case for each check."""
    count = {name: sum(SHOWN_AS[c.outcome] == name for c in checks) for name in ("failure", "error")}
    suite = ET.Element(
        "testsuite",
        name=title,
        tests=str(len(checks)),
        failures=str(count["failure"]),
        errors=str(count["error"]),
    )
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname=check.variant, name=check.what)
        shown = SHOWN_AS[check.outcome]
        if shown:
            ET.SubElement(case, shown, message=check.told, type=check.outcome)
        else:
            ET.SubElement(case, "system-out").text = check.told
    ET.indent(suite)
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))
