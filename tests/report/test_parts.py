"""The later parts of a report: drawn and told from the same figures, joined, and read from Python."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from every_part import CURVE, SLICES, every_part
from support import Run

from edgepv import report as reports
from edgepv.base.optional import present
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.measure.replay import Replayed
from edgepv.report import parts, plots
from edgepv.report.explorer import write_overlay
from edgepv.report.page import to_html, to_markdown
from edgepv.report.replays import STRETCHES, live_run, read_live
from edgepv.report.results import join
from edgepv.types import Accuracy, Latency, Measurement, PairedDrop, Report, decode, encode

DEMO = Path(__file__).parents[2] / "docs" / "demo-report.json"
RUN = ("torch-fp32", "fast", "worse", "slow")
MOST_PAGE = 1_000_000  # bytes of a page of some twenty rows


def row(name: str, engine: str, p50: float, lost: tuple[float, float, float] | None) -> Measurement:
    latency = Latency(p50, None, None, 99, 6, 1, RUN, p50_ends_ms=(0.95 * p50, 1.05 * p50))
    drop = PairedDrop(*lost, 40, 2, 1, 3.0, "pass") if lost else None
    accuracy = Accuracy(0.8, 0.7, 0.9, 40)
    precision = "fp32" if engine == "torch" else "int8"
    return Measurement(
        name, "cpu", engine, precision, "step", "here", 1000, latency=(latency,), accuracy=accuracy, drop=drop
    )


def timed() -> Report:
    """Fast loses a little; worse is slower and loses more, slow too but that is within its interval."""
    rows = (
        row("torch-fp32", "torch", 10.0, None),
        row("fast", "openvino", 2.0, (0.5, 0.2, 0.8)),
        row("worse", "onnxruntime", 3.0, (2.5, 2.0, 3.0)),
        row("slow", "onnxruntime", 4.0, (0.7, 0.1, 1.3)),
    )
    return Report("one model", rows, "torch-fp32", runs=("fast",))


def test_the_front_is_ringed_and_what_is_surely_beaten_is_pale() -> None:
    (plot,) = plots.fronts(timed())
    marks = {mark.tip.split(":")[0]: mark for mark in plot.marks}
    assert [name for name, mark in marks.items() if mark.ring] == ["torch-fp32", "fast"]
    assert [name for name, mark in marks.items() if mark.pale] == ["worse"]
    assert marks["fast"].tip == "fast: +0.50 (+0.20 to +0.80) points lost, p50 2.00 ms (1.90 to 2.10)"
    assert marks["fast"].y > marks["worse"].y, "less lost is lower"


def test_times_of_a_busy_machine_have_no_front() -> None:
    busy = tuple(
        replace(r, latency=(replace(r.latency[0], inconclusive="machine was busy"),)) for r in timed().rows
    )
    (plot,) = plots.fronts(replace(timed(), rows=busy))
    assert not any(mark.ring or mark.pale for mark in plot.marks)


def test_every_mark_lies_within_its_chart() -> None:
    for charts in plots.every(every_part(timed())).values():
        for chart in charts:
            left, top, right, bottom = chart.box
            for mark in chart.marks:
                assert left <= mark.x <= right and top <= mark.y <= bottom, (chart.title, mark)
            assert all(0 <= word.x <= chart.width and word.y <= chart.height for word in chart.words)


def test_tables_say_the_figures_and_too_few() -> None:
    report = every_part(timed())
    found = {table.key: table for table in parts.tables(report)}
    lost = {r[0].text: (r[-1].text, r[-1].note) for r in found["slices"].rows}
    assert lost == {
        "fight": ("+25.00", "+3.00 to +47.00"),
        "dark, 12 to 61.5 of 255": ("+0.00", "-4.25 to +4.25"),
        "18 cameras": ("too few clips", ""),
    }
    assert [r[0].text for r in found["robustness"].rows] == ["as they are", "low light"]
    assert found["robustness"].rows[1][-1].note == "+4.50 to +45.50"
    assert [c.text for c in found["curves"].rows[0][3:]] == [
        "0.812",
        "0.794",
        "0.46",
        "75.0 %",
        "33.3 %",
        "69.2 %",
    ]
    assert [c.text for c in found["live"].rows[0]] == [
        "ladder",
        "20.0",
        "100",
        "24",
        "12.5 %",
        "75.0 %",
        "30.2",
    ]
    assert [r[0].note for r in found["stages"].rows] == ["torch-fp32", "fast"] or len(
        found["stages"].rows
    ) == 1


def test_the_way_to_what_runs_begins_with_the_original_and_ends_with_it() -> None:
    report = timed()
    original = replace(report.rows[0], target="host")
    steps = parts.stages(replace(report, rows=(original, *report.rows[1:])))
    assert [(r[0].text, r[0].note) for r in steps.rows] == [
        ("the original", "torch-fp32"),
        ("runs: openvino, int8", "fast"),
    ]
    assert [r[5].text for r in steps.rows] == ["+0.00", "+0.50"]


def test_a_report_without_the_parts_is_drawn_without_them() -> None:
    page = to_html(timed())
    assert 'id="slices"' not in page and 'id="robustness"' not in page and 'id="live"' not in page
    full = to_html(every_part(timed()))
    for part in (
        "front",
        "stages",
        "slices",
        "robustness",
        "curves",
        "sensitivity",
        "spread",
        "live",
        "baselines",
    ):
        assert f'id="{part}"' in full, part
    assert "edgepv sensitivity pv-c3d-valid" in full and "4f" * 32 in full
    assert "+25.00 (+3.00 to +47.00)" in to_markdown(every_part(timed()))


def test_every_table_of_the_markdown_is_on_the_page() -> None:
    """Those of the demo, whose model was made to step; what ships is the page's cards."""
    shown = every_part(decode(Report, json.loads(DEMO.read_text(encoding="utf-8"))))
    titles = re.findall(r"^## (.+)$", to_markdown(shown), re.MULTILINE)
    page = to_html(shown)
    assert len(titles) > 15 and "From clip to stream" in titles
    assert [title for title in titles if f"<h2>{title}</h2>" not in page] == ["What ships"]


def test_the_page_and_the_json_of_twenty_rows_stay_small() -> None:
    many = tuple(replace(timed().rows[i % 4], variant=f"v{i}") for i in range(20))
    report = every_part(replace(timed(), rows=(*timed().rows, *many)))
    assert len(to_html(report)) < MOST_PAGE and len(json.dumps(encode(report))) < MOST_PAGE


def test_joined_reports_keep_what_they_agree_on_and_rename_the_rest() -> None:
    one = every_part(timed())
    other = replace(one, title="another", digests={"model": "00" * 32}, sensitivity=())
    both = join([("a", one), ("b", replace(other, rows=tuple(replace(r, bytes=1) for r in other.rows)))])
    assert both.sensitivity == one.sensitivity and both.commands == one.commands
    assert both.digests["model of b"] == "00" * 32 and both.digests["held-out clips"] == "a1" * 32
    assert {r.variant for r in both.robustness} == {"a/fast", "b/fast"}
    assert decode(Report, json.loads(json.dumps(encode(both)))) == both


def replayed(count: int) -> Replayed:
    replies = tuple((float(i), i % 4 == 0) for i in range(count))
    return Replayed(
        "int8", 20.0, 100.0, count, count // 4, 0, 8, 10, None, (1.0, None, None, 9.0), 0.0, 1.0, (), replies
    )


def test_a_replay_is_cut_into_stretches_that_hold_every_frame(tmp_path: Path) -> None:
    run = live_run(replayed(100))
    assert len(run.stretches) == STRETCHES and sum(frames for frames, *_ in run.stretches) == 100
    assert sum(missed for _, missed, *_ in run.stretches) == 25 and run.stretches[-1][3] == 99.0
    assert live_run(replayed(0)).stretches == () and run.right == 0.8
    path = tmp_path / "live.json"
    path.write_text(json.dumps([encode(replayed(8))]))
    assert read_live(path)[0].stretches[0] == (1, 1, 0.0, 0.0)
    path.write_text("{}")
    with pytest.raises(UsageError, match="holds no live benchmark"):
        read_live(path)


def test_an_overlay_names_nodes_and_goes_from_red_to_green(tmp_path: Path) -> None:
    files = write_overlay(every_part(timed()), tmp_path / "overlay")
    assert [f.name for f in files] == ["sensitivity_sqnr_db.json", "sensitivity_changed.json"]
    sqnr, changed = (json.loads(f.read_text()) for f in files)
    assert sqnr["results"] == {"node_conv3d_1": {"value": 18.5}, "node_conv3d_0": {"value": 41.25}}
    assert [g["stop"] for g in sqnr["gradient"]] == [0, 0.5, 1] == [g["stop"] for g in changed["gradient"]]
    assert sqnr["gradient"][0]["bgColor"] == changed["gradient"][2]["bgColor"], "the worst is red in both"
    assert all(re.fullmatch("#[0-9a-f]{6}", g["bgColor"]) for g in sqnr["gradient"])
    whole = every_part(timed())
    alike = replace(whole, sensitivity=tuple(replace(s, changed=0.0) for s in whole.sensitivity))
    flat = json.loads(write_overlay(alike, tmp_path / "alike")[1].read_text())["results"]
    assert {r["bgColor"] for r in flat.values()} == {"#1a9850"}, "a gradient between equal ends draws nothing"
    with pytest.raises(UsageError, match="no sensitivity of layers"):
        write_overlay(timed(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    path = tmp_path / "measured.json"
    path.write_text(reports.to_json(every_part(timed())))
    return path


def test_a_frame_has_a_row_a_variant_and_units_in_its_columns(measured: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: pip install 'edgepv[pandas]'")
    frame = reports.load(measured).frame()
    assert frame["variant"].tolist() == list(RUN) and frame["runs"].tolist() == [False, True, False, False]
    assert frame["p50_ms"].tolist() == [10.0, 2.0, 3.0, 4.0]
    assert frame["top1_share"][0] == 0.8 and frame["file_bytes"][1] == 1000
    assert math.isnan(frame["lost_points"][0]) and frame["lost_points"][1] == 0.5
    assert math.isnan(frame["p99_ms"][0]), "not measured is no zero"


@pytest.mark.skipif(present("pandas"), reason="pandas is installed: its lack cannot be seen")
def test_without_pandas_one_line_says_the_cure(measured: Path) -> None:
    with pytest.raises(TargetUnavailableError, match=r"pandas is not installed.*edgepv\[pandas\]"):
        reports.load(measured).frame()


@pytest.mark.slow
def test_mlflow_gets_a_run_a_variant(
    measured: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'edgepv[mlflow]'")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    code, _, err = run("report", measured, "--html", tmp_path / "r.html", "--mlflow", uri)
    if code:  # as MLflow 3.17 does: files have to be asked for
        assert code == 2 and "took no run" in err and len(err.splitlines()) == 1
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    code, _, err = run("report", measured, "--html", tmp_path / "r.html", "--mlflow", uri)
    assert code == 0, err
    client = mlflow.MlflowClient(tracking_uri=uri)
    logged = client.search_runs([client.get_experiment_by_name("edgepv").experiment_id])
    by_name = {r.info.run_name: r for r in logged}
    assert set(by_name) == set(RUN) and all(r.info.status == "FINISHED" for r in logged)
    fast = by_name["fast"]
    assert (fast.data.metrics["p50_ms"], fast.data.metrics["lost_points"]) == (2.0, 0.5)
    assert "lost_points" not in by_name["torch-fp32"].data.metrics and fast.data.params["runs"] == "True"
    assert fast.data.tags["sha256 model"] == "4f" * 32
    assert {f.path for f in client.list_artifacts(fast.info.run_id)} == {"report.json", "report.html"}


def test_the_command_adds_replays_and_writes_the_overlay(measured: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "live.json").write_text(json.dumps([encode(replayed(8))]))
    options = ("--live", tmp_path / "live.json", "--model-explorer", tmp_path / "overlay")
    code, _, err = run("report", measured, "--html", tmp_path / "r.html", *options)
    assert code == 0, err
    written = decode(Report, json.loads((tmp_path / "r.json").read_text()))
    assert [one.name for one in written.live] == ["ladder", "int8"]
    assert len(list((tmp_path / "overlay").iterdir())) == 2
    assert written.rows[1].curves == (CURVE,) and written.rows[1].slices == SLICES


@pytest.mark.slow
def test_an_export_fills_the_parts_and_its_layers_are_nodes_of_its_graph(
    step_bundle: Path, tmp_path: Path
) -> None:
    import onnx

    report = reports.load(step_bundle).report
    ran = next(r for r in report.rows if r.variant == report.runs[0])
    assert report.commands[0].startswith("edgepv export ") and len(report.digests["model"]) == 64
    assert ran.slices and ran.curves and ran.latency[0].spread_ms and report.baselines
    assert [one.corruption for one in report.robustness][:1] == ["none"] and len(report.robustness) == 5
    nodes = {
        node.name for file in (step_bundle / "models").glob("*.onnx") for node in onnx.load(file).graph.node
    }
    for path in write_overlay(report, tmp_path):
        assert set(json.loads(path.read_text())["results"]) <= nodes
