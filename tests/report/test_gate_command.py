"""A report held against limits and an older one: what passes, what fails, and what nobody can tell."""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import Run

from edgepv.cli.app import parser
from edgepv.errors import AccuracyGateError, InconclusiveError, LatencyGateError, ParityError, UsageError
from edgepv.report.judge import Check, Limits, judge, junit, worst
from edgepv.report.page import to_json
from edgepv.types import DeviceFacts, Latency, Measurement, PairedDrop, PairedTime, Parity, Ratio, Report

HOST = DeviceFacts("Test CPU", 2, "x86_64", ("avx2",), "Linux 6.1", "3.11.2")
DROP = PairedDrop(0.1, -0.2, 0.4, 146, 1, 1, 1.0, "pass", groups=16)
LATENCY = Latency(2.0, 2.5, 3.0, 700, 20, 1, ratios=(PairedTime("cpu-fp32", Ratio(0.5, 0.49, 0.51)),))
ROW = Measurement(
    "cpu-int8", "cpu", "onnxruntime", "int8", "step", "measured on this host",
    latency=(LATENCY,), drop=DROP, parity=Parity(0.1, 30.0, 0.99, 100, 10.0, "pass"), device=HOST,
)  # fmt: skip


def report(row: Measurement = ROW) -> Report:
    """One row that runs beside an original and a slower one that does not."""
    torch = Measurement("torch-fp32", "host", "torch", "fp32", "window", "the original")
    idle = replace(row, variant="cpu-fp32", drop=replace(DROP, verdict="fail", low=5.0, high=6.0))
    return Report("m for cpu", (torch, idle, row), "torch-fp32", runs=(row.variant,))


def outcomes(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.outcome for check in checks}


def test_only_what_runs_is_judged() -> None:
    checks = judge(report(), Limits(p99_ms=3.0))
    assert outcomes(checks) == {"parity": "pass", "loss": "pass", "p99": "pass"}
    assert worst(checks) is None


@pytest.mark.parametrize(
    ("limits", "what", "outcome", "error"),
    [
        (Limits(max_drop=0.39), "loss", "inconclusive", InconclusiveError),
        (Limits(max_drop=0.4), "loss", "pass", None),
        (Limits(p99_ms=2.99), "p99", "fail", LatencyGateError),
        (Limits(p95_ms=2.5), "p95", "pass", None),
    ],
)
def test_a_limit_decides_by_the_whole_interval(
    limits: Limits, what: str, outcome: str, error: type[Exception] | None
) -> None:
    checks = judge(report(), limits)
    assert outcomes(checks)[what] == outcome
    assert type(worst(checks)) is (error or type(None))


def test_what_loses_more_than_the_limit_fails() -> None:
    checks = judge(report(replace(ROW, drop=replace(DROP, points=2.0, low=1.5, high=2.5))), Limits(1.0))
    error = worst(checks)
    assert isinstance(error, AccuracyGateError)
    assert "loss of cpu-int8: +2.0 points (+1.5 to +2.5), at most 1" in str(error)


def test_a_percentile_that_was_not_measured_is_no_pass() -> None:
    few = replace(ROW, latency=(replace(LATENCY, p99_ms=None, n=201),))
    (check,) = [c for c in judge(report(few), Limits(p99_ms=9.0)) if c.what == "p99"]
    assert (check.outcome, check.told) == ("inconclusive", "201 calls; it takes 662 to know p99")
    busy = replace(ROW, latency=(replace(LATENCY, inconclusive="others used 1.4 cores"),))
    assert outcomes(judge(report(busy), Limits(p99_ms=9.0)))["p99"] == "inconclusive"


def test_one_group_of_clips_and_a_label_without_clips_decide_nothing() -> None:
    for drop in (replace(DROP, groups=1, low=0.1, high=0.1), replace(DROP, verdict="not applied")):
        assert outcomes(judge(report(replace(ROW, drop=drop)), Limits()))["loss"] == "inconclusive"


def test_parity_comes_before_everything() -> None:
    broken = replace(ROW, parity=replace(ROW.parity, verdict="fail"))  # type: ignore[type-var]
    late = judge(report(broken), Limits(p99_ms=1.0))
    assert isinstance(worst(late), ParityError)
    assert outcomes(judge(report(replace(ROW, parity=None)), Limits()))["parity"] == "inconclusive"


def since(new: Measurement, old: Measurement = ROW) -> dict[str, Check]:
    return {c.what: c for c in judge(report(new), Limits(), report(old)) if "since" in c.what}


def test_what_is_surely_worse_than_before_fails() -> None:
    assert {c.outcome for c in since(ROW).values()} == {"pass"}
    noisy = replace(ROW, drop=replace(DROP, points=0.4, low=0.1, high=0.7))
    assert since(noisy)["loss since"].outcome == "pass", "0.3 more, and the two intervals hold 0.42"
    worse = replace(ROW, drop=replace(DROP, points=0.6, low=0.3, high=0.9))
    assert since(worse)["loss since"].outcome == "fail"
    assert since(worse)["loss since"].told == "+0.50 points (+0.08 to +0.92) more than cpu-int8"
    slower = (PairedTime("cpu/cpu-fp32", Ratio(0.55, 0.54, 0.56)),)
    late = since(replace(ROW, latency=(replace(LATENCY, p50_ms=1.0, ratios=slower),)))["time since"]
    assert late.outcome == "fail", "a faster machine today is so for both"
    assert late.told == "1.10 (1.07 to 1.13) of the time of cpu-int8, both as shares of cpu-fp32"


def test_unlike_setups_are_not_compared() -> None:
    board = replace(ROW, device=replace(HOST, cpu="another"))
    assert since(board)["time since"].outcome == "inconclusive"
    fewer = replace(ROW, drop=replace(DROP, n=24))
    assert "not the same clips (24 now, 146 before)" in since(fewer)["loss since"].told
    gone = judge(report(), Limits(), report(replace(ROW, target="mobile")))
    assert outcomes(gone)["loss since"] == "inconclusive"


def test_another_variant_that_runs_now_is_held_against_what_ran() -> None:
    other = replace(ROW, variant="cpu-bf16", drop=replace(DROP, points=3.0, low=2.9, high=3.1))
    assert since(other)["loss since"].outcome == "fail"


def test_a_report_of_originals_alone_is_refused() -> None:
    torch = Measurement("torch-fp32", "host", "torch", "fp32", "window", "the original")
    with pytest.raises(UsageError, match="no row but originals"):
        judge(Report("m", (torch,), "torch-fp32"), Limits())


def test_junit_counts_who_cannot_tell_as_an_error() -> None:
    suite = ET.fromstring(junit(judge(report(), Limits(max_drop=0.3, p99_ms=1.0)), "m for cpu"))
    assert suite.attrib == {"name": "m for cpu", "tests": "3", "failures": "1", "errors": "1"}
    cases = {case.attrib["name"]: case[0].tag for case in suite}
    assert cases == {"parity": "system-out", "loss": "error", "p99": "failure"}


def written(path: Path, change: Callable[[Report], Report] = lambda r: r) -> Path:
    path.write_text(to_json(change(report())))
    return path


def test_the_command_says_every_check_and_ends_with_the_gates_code(run: Run, tmp_path: Path) -> None:
    new, xml = written(tmp_path / "new.json"), tmp_path / "gate.xml"
    old = written(tmp_path / "old.json")
    code, out, _ = run("gate", new, "--baseline", old, "--p99-ms", "33", "--junit", xml)
    assert code == 0 and out.count("pass  cpu-int8") == 5
    assert ET.parse(xml).getroot().attrib["failures"] == "0"
    code, out, err = run("gate", new, "--p99-ms", "1", "--junit", xml)
    assert code == 4 and "fail  cpu-int8  p99: 3.00 ms of 700 calls, at most 1" in out
    assert err.strip().splitlines()[-1].startswith("edgepv: 1 of 3 checks failed, first p99 of cpu-int8")
    assert run("gate", new, "--max-drop", "0.3")[0] == 6


def test_the_commands_of_the_example_job_are_commands() -> None:
    text = (Path(__file__).parents[2] / "examples" / "ci.yml").read_text(encoding="utf-8")
    lines = re.findall(r"- run: edgepv (.*)", text)
    parsed = [parser().parse_args(shlex.split(line)) for line in lines]
    assert [one.run.__name__ for one in parsed] == ["export_command", "report_command", "gate_command"]


def test_the_command_refuses_what_is_no_limit_and_keeps_the_users_files(run: Run, tmp_path: Path) -> None:
    new = written(tmp_path / "new.json")
    assert run("gate", new, "--p99-ms", "0")[0] == 2
    assert run("gate", new, "--max-drop", "nan")[0] == 2
    thesis = tmp_path / "thesis.xml"
    thesis.write_text("years of work")
    assert run("gate", new, "--junit", thesis)[0] == 2
    assert thesis.read_text() == "years of work"
    assert json.loads(new.read_text())["runs"] == ["cpu-int8"]
