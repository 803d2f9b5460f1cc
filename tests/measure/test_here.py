"""On a CPU that a bundle was not made on, what runs is chosen anew, once, and remembered."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support import Run

import edgepv
from edgepv import zoo
from edgepv.base import cache
from edgepv.base.files import write_json
from edgepv.bundle import manifest, proof
from edgepv.measure import here, latency
from edgepv.types import DeviceFacts, Report, encode

ELSEWHERE = DeviceFacts("another CPU", 4, "x86_64", ("avx2",), "Linux 6.1", "3.11.2")
pytestmark = pytest.mark.slow


@pytest.fixture
def foreign(step_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose times say that they are of another CPU, and whose slowest variant runs."""
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "bundle"
    shutil.copytree(step_bundle, folder)
    opened = manifest.read(folder)
    report = proof.report_of(opened)
    rows = tuple(replace(row, device=ELSEWHERE if row.latency else row.device) for row in report.rows)
    slow = "openvino-fp32"
    write_json(folder / proof.MEASURED, encode(replace(report, rows=rows, runs=(slow,))))
    files = manifest.digests(folder, list(opened.measured.files))
    measured = replace(opened.measured, run=slow, files=files, timed_on=(ELSEWHERE,))
    manifest.write(folder, opened.content, measured)
    return folder


def fastest(monkeypatch: pytest.MonkeyPatch, name: str, calls: list[int]) -> None:
    """Let the clock say that one variant takes half of the others' time; everything else is real."""
    real = latency.on_noise

    def timed(opened: object, **limits: object) -> object:
        calls.append(1)
        found = real(opened, **limits)  # type: ignore[arg-type]
        return {
            one: replace(time, p50_ms=0.5 if one == name else 1.0, ratios=(), inconclusive=None)
            for one, time in found.items()
        }

    monkeypatch.setattr(latency, "on_noise", timed)


def test_what_is_fastest_here_runs_and_is_timed_once(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fastest(monkeypatch, "onnxruntime-fp32", calls)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="onnxruntime-fp32 runs: .* timed on this machine"):
            session = edgepv.open(foreign)
        assert session.variant.name == "onnxruntime-fp32"
        session.close()
    assert len(calls) == 1, "the second start remembers"
    kept = json.loads(next((cache.root() / "choices").iterdir()).read_text())
    assert kept["variant"] == "onnxruntime-fp32"


def test_who_names_a_variant_gets_it_untimed(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fastest(monkeypatch, "onnxruntime-fp32", calls)
    with edgepv.open(foreign, variant="openvino-fp32") as session:
        assert session.variant.name == "openvino-fp32"
    assert calls == []


def test_on_the_cpu_that_it_was_made_on_nothing_is_timed(
    step_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "on_noise", lambda *a, **k: 1 / 0)
    bundle = manifest.read(step_bundle)
    fit = here.fitting(bundle, (bundle.variant(),), fixed=False)
    assert [v.name for v in fit.variants] == [bundle.measured.run] and fit.notes == ()


def test_a_busy_machine_keeps_the_makers_choice_and_is_asked_again(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "busy_reason", lambda load, threads: "others used 1.9 of 2 cores")
    choice = here.chosen(manifest.read(foreign))
    assert choice.variant == "openvino-fp32" and "inconclusive, others used 1.9" in choice.why
    assert not (cache.root() / "choices").exists()


def test_what_broke_a_gate_or_answers_otherwise_is_no_candidate(foreign: Path) -> None:
    bundle = manifest.read(foreign)
    report = proof.report_of(bundle)
    rows = {row.variant: row for row in report.rows}
    every = {v.name for v in here._candidates(bundle, rows)}
    assert {"onnxruntime-fp32", "openvino-fp32"} <= every
    rows["onnxruntime-fp32"] = replace(rows["onnxruntime-fp32"], blocked="broken")
    assert {v.name for v in here._candidates(bundle, rows)} == every - {"onnxruntime-fp32"}


def test_the_command_shows_the_table_and_run_takes_what_it_chose(foreign: Path, run: Run) -> None:
    code, out, err = run("choose", foreign, "--json")
    assert code == 0, err
    choice = json.loads(out)
    assert choice["variant"] in {row["variant"] for row in choice["rows"]}
    code, out, _ = run("choose", foreign)
    assert code == 0 and "onnxruntime-fp32" in out and "p50" in out
    code, _, err = run("run", foreign, "--source", zoo.DEMO_CLIP)
    assert code == 0 and "answers of" in err


@pytest.mark.filterwarnings("ignore:.*timed on this machine")
def test_a_start_reads_the_manifest_and_not_the_report(
    foreign: Path, step_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here and elsewhere: once a choice is remembered, nothing of measured.json is decoded."""
    fastest(monkeypatch, "onnxruntime-fp32", [])
    here.chosen(manifest.read(foreign))
    decoded: list[object] = []
    for module in (here, proof):
        monkeypatch.setattr(module, "report_of", decoded.append)
    for folder in (step_bundle, foreign):
        edgepv.open(folder).close()
    assert decoded == []


def test_a_bundle_of_before_it_was_noted_is_asked_by_its_report(foreign: Path) -> None:
    bundle = manifest.read(foreign)
    assert here._guessed(bundle)
    manifest.write(foreign, bundle.content, replace(bundle.measured, timed_on=None))
    data = json.loads((foreign / "manifest.json").read_text())
    del data["measured"]["timed_on"]
    write_json(foreign / "manifest.json", data)
    assert here._guessed(manifest.read(foreign))


def test_a_report_without_times_leaves_the_choice(foreign: Path) -> None:
    bundle = manifest.read(foreign)
    write_json(foreign / proof.MEASURED, encode(Report("", (), "")))
    files = manifest.digests(foreign, list(bundle.measured.files))
    for timed_on in (None, ()):
        measured = replace(bundle.measured, files=files, timed_on=timed_on)
        manifest.write(foreign, bundle.content, measured)
        assert not here._guessed(manifest.read(foreign))
