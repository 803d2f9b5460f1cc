"""The report says what was measured, and nothing else."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from null_bundle import write_null_bundle

from edgepv import bundle
from edgepv.base.files import write_json
from edgepv.cli import show
from edgepv.cli.app import main
from edgepv.errors import UsageError
from edgepv.metrics import pareto
from edgepv.metrics.stats import figure, size
from edgepv.report import charts, shipped, tables
from edgepv.report.cells import NOT_MEASURED
from edgepv.report.compare import speedups
from edgepv.report.page import picture_of_scatter, to_html, to_json, to_markdown
from edgepv.report.results import is_report, join, load
from edgepv.types import (
    Accuracy,
    Audit,
    ClassScore,
    ConvPlan,
    DeviceFacts,
    Flips,
    Latency,
    MachineLoad,
    Measurement,
    PairedDrop,
    PairedTime,
    Parity,
    Ratio,
    Report,
    StepRecord,
    StreamSpec,
    WorstClip,
    decode,
)

HOST = DeviceFacts("Test CPU", 2, "x86_64", ("avx2",), "Linux 6.1", "3.11.2", load=0.5)
BOARD = DeviceFacts("Test board", 4, "aarch64", ("asimd",), "Linux 5.10", "3.11.2")
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8


def timed(p50: float, *others: str, threads: int = 1) -> Latency:
    return Latency(p50, p50 * 2, p50 * 4, 200, 20, threads, others)


def scored(value: float) -> Accuracy:
    return Accuracy(
        value,
        value - 0.1,
        value + 0.05,
        40,
        0.8,
        0.9,
        (ClassScore("calm", 0.75, 0.6, 0.6667, 20), ClassScore("fight", None, 0.0, 0.0, 20)),
        ((12, 8), (4, 16)),
    )


def row(name: str, engine: str, *latency: Latency, value: float | None = None) -> Measurement:
    accuracy = None if value is None else scored(value)
    return Measurement(
        name,
        "cpu",
        engine,
        "fp32",
        "step",
        "measured on this host",
        latency=latency,
        accuracy=accuracy,
        device=HOST,
    )


def example() -> Report:
    """Three rows timed in turns, one from another run, one with nothing measured."""
    run = ("torch-fp32", "ov-fp32", "ov-int8")
    int8 = replace(
        row("ov-int8", "openvino", timed(2.0, *run), timed(1.25, *run, threads=2), value=0.85),
        bytes=2_210_000,
        params=1_234_567,
        gflops_per_frame=0.0912,
        state_bytes=4096,
        rss_mib=180.0,
        precision="int8",
        drop=PairedDrop(2.5, -1.0, 6.0, 40, 2, 1, 3.0, "inconclusive", 1240),
        parity=Parity(
            0.25,
            22.5,
            0.96,
            960,
            15.0,
            "pass",
            saturation=0.013,
            slope=(0.91, 1.02),
            flicker=(0.01, 0.02),
            worst=(WorstClip("fight/a.mp4", 9.5, 0.5), WorstClip("fight/b.mp4", 30.0, 1.0)),
        ),
        audit=Audit(
            "openvino runtime model",
            (
                ConvPlan("stem", "int8", "int8"),
                ConvPlan("head", "int8", "float"),
                ConvPlan("side", "float", "float"),
            ),
        ),
    )
    rows = (
        row("torch-fp32", "torch", timed(10.0, *run), value=0.9),
        row("ov-fp32", "openvino", timed(5.0, *run), value=0.8),
        int8,
        row("ort-fp32", "onnxruntime", timed(4.0), value=0.9),
        Measurement("trt-int8", "jetson", "tensorrt", "int8", "step", "host-checked"),
    )
    step = StepRecord("prune", {"ratio": 0.3}, {"weights": "a" * 64}, {}, {"torch": "2.13.0"})
    return Report("one model", rows, "torch-fp32", (step,), ("cpu: ov-int8 runs: fastest",))


class _Tables(HTMLParser):
    """The text of every cell of every table that has a data-table name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] | None = None
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            key = dict(attrs).get("data-table")
            self._rows = None if key is None else self.found.setdefault(key, [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows is not None:
            self._rows[-1].append("")
            self._open = True
        elif tag in ("small", "div", "summary") and self._open and self._rows:
            self._rows[-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open and self._rows:
            self._rows[-1][-1] += data.strip()


def cells(page: str, table: str, variant: str) -> dict[str, str]:
    """Column -> text of the first row of ``variant`` in one table of the page."""
    parser = _Tables()
    parser.feed(page)
    head, *body = parser.found[table]
    found = next(line for line in body if variant in (line[0].split("|")[0], line[1]))
    return dict(zip(head, found, strict=True))


def test_the_page_shows_the_measured_values() -> None:
    page = to_html(example())
    overview = cells(page, "overview", "ov-int8")
    assert overview["size"] == "2.21 MB"
    assert overview["top-1"] == "85.0 %|75.0 to 90.0, n = 40"
    assert overview["points lost"] == "+2.5|-1.0 to +6.0"
    assert overview["drop gate"] == "inconclusive|at most 3 points; needs 1,240 clips"
    assert (overview["p50 ms"], overview["p95 ms"]) == ("2.00|1 thr, n = 200", "4.00")
    assert overview["speed"] == "×5.00"
    cost = cells(page, "cost", "ov-int8")
    assert (cost["parameters"], cost["state"]) == ("1,234,567", "4.10 kB")
    assert cost["GFLOPs per frame"] == "0.0912"
    parity = cells(page, "parity", "ov-int8")
    assert parity["SQNR"] == "22.5 dB|promised 15.0 dB"
    assert (parity["saturation"], parity["agreement"]) == ("1.3 %", "96.0 %")
    assert (parity["slope"], parity["flicker"]) == ("0.910 to 1.020", "2.0 %|original 1.0 %")
    assert cells(page, "worst", "ov-int8")["clip"] == "fight/a.mp4" and "fight/b.mp4" not in page
    latency = cells(page, "latency", "ov-int8")
    assert latency["peak memory"] == "180 MiB" and "deadline misses" not in latency
    assert cells(page, "devices", "2")["processor"] == "Test CPU"
    assert cells(page, "steps", "prune")["from"] == "weights aaaaaaaaaaaa"
    assert cells(page, "classes", "ov-int8")["F1"] == "66.7 %"
    assert "<li>cpu: ov-int8 runs: fastest</li>" in page


def test_what_a_restorer_lost_and_may_lose_is_in_db() -> None:
    report = example()
    drop = PairedDrop(0.34, 0.32, 0.38, 20, 20, 0, 0.3, "fail", unit="dB")
    page = to_html(replace(report, rows=(replace(report.rows[1], drop=drop),)))
    overview = cells(page, "overview", "ov-fp32")
    assert overview["points lost"] == "+0.34 dB|+0.32 to +0.38"
    assert overview["drop gate"] == "fail|at most 0.3 dB"


def test_int8_convolutions_are_counted_as_executed_and_the_silent_one_is_named() -> None:
    found = cells(to_html(example()), "cost", "ov-int8")
    assert found["INT8 convolutions executed / planned"] == "|1 / 2|1 silently in float|head"


def test_an_engine_that_hides_its_precision_is_not_counted_as_int8_or_as_float() -> None:
    report = example()
    hidden = Audit("none", (ConvPlan("stem", "int8", None),))
    rows = tuple(replace(r, audit=hidden) for r in report.rows)
    found = cells(to_html(replace(report, rows=rows)), "cost", "ov-int8")
    assert found["INT8 convolutions executed / planned"].startswith("not measured / 1")


def test_unknown_is_printed_not_measured_never_zero_or_blank() -> None:
    page = to_html(example())
    for table in ("overview", "latency", "accuracy", "parity", "cost"):
        found = cells(page, table, "trt-int8")
        unknown = [text for text in found.values() if text == NOT_MEASURED]
        known = {"trt-int8", "trt-int8|host-checked", "jetson", "tensorrt|int8, step", NOT_MEASURED}
        assert len(unknown) >= 6, table
        assert set(found.values()) <= known, table


def test_a_label_never_answered_has_no_precision_but_a_recall_of_zero() -> None:
    report = replace(example(), rows=(row("only", "torch", value=0.5),))
    found = cells(to_html(report), "classes", "fight")
    assert (found["precision"], found["recall"]) == (NOT_MEASURED, "0.0 %")


def test_hostile_text_stays_text() -> None:
    report = example()
    evil = "<script>alert(1)</script>"
    score = replace(scored(0.9), classes=(ClassScore(evil, 1.0, 1.0, 1.0, 3),) * 2)
    bad = replace(report.rows[0], variant=evil, accuracy=score, note=evil, engine=evil)
    report = replace(report, title=evil, rows=(bad,), reasons=(evil,), baseline=evil)
    page = to_html(report)
    assert evil not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script") == 1, "only the page's own sorting script"
    assert "<script" not in to_markdown(report)
    assert "<script" not in picture_of_scatter(report)


def test_the_page_is_one_file_that_fetches_nothing() -> None:
    page = to_html(example(), picture=PNG)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert not re.findall(r"@import|url\(", page)
    assert 'src="data:image/png;base64,iVBORw0KGgo' in page
    with pytest.raises(UsageError, match="neither PNG nor JPEG"):
        to_html(example(), picture=b"GIF89a")


def test_json_comes_back_as_an_equal_report() -> None:
    report = example()
    assert decode(Report, json.loads(to_json(report))) == report
    assert to_json(report) == to_json(decode(Report, json.loads(to_json(report))))


def test_markdown_holds_the_same_figures_and_its_tables_are_square() -> None:
    report = example()
    piped = replace(report.rows[2], variant="a|b")
    text = to_markdown(replace(report, rows=(report.rows[0], piped)))
    row = "| a\\|b (measured on this host) | cpu | openvino (int8, step) | 2.21 MB | 85.0 % "
    assert f"{row}(75.0 to 90.0, n = 40) |" in text
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 10
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_the_pareto_front_of_a_hand_example() -> None:
    #          fast, poor   slow, good  beaten by 1  beaten by 0  equal to 0   beaten by 0
    points = [(1.0, 0.70), (4.0, 0.90), (5.0, 0.89), (2.0, 0.70), (1.0, 0.70), (1.0, 0.60)]
    assert pareto.pareto(points) == [0, 4, 1]
    assert pareto.pareto([(1.0, 0.5), (2.0, 0.6), (3.0, 0.7)]) == [0, 1, 2]


def test_the_front_is_drawn_only_among_rows_of_one_run() -> None:
    (chart,) = charts.scatters(example())
    front = {p.name for p in chart.points if p.front}
    assert front == {"ov-int8", "torch-fp32"}, "ov-fp32 is beaten; ort-fp32 was timed alone"
    assert chart.left_out == ()


def test_points_lie_where_their_figures_say() -> None:
    (chart,) = charts.scatters(example())
    at = {p.name: p for p in chart.points}
    assert at["ov-int8"].x < at["ort-fp32"].x < at["ov-fp32"].x < at["torch-fp32"].x
    assert at["torch-fp32"].x - at["ov-fp32"].x == pytest.approx(at["ort-fp32"].x - at["ov-int8"].x), (
        "10 / 5 and 4 / 2 are the same ratio, so the same distance on a log axis"
    )
    assert at["torch-fp32"].y == at["ort-fp32"].y < at["ov-int8"].y < at["ov-fp32"].y
    assert at["ov-int8"].y_high < at["ov-int8"].y < at["ov-int8"].y_low


def test_bars_are_as_long_as_their_milliseconds() -> None:
    (chart,) = charts.bars(example())
    first, *_, last = chart.bars
    assert first.p99 == pytest.approx(4 * first.p50)
    assert first.p50 == pytest.approx(2.5 * last.p50), "10 ms against 4 ms"
    assert [name.text for name in chart.names] == ["torch-fp32", "ov-fp32", "ov-int8", "ort-fp32"]


def test_machines_are_never_drawn_in_one_chart() -> None:
    report = example()
    rows = (*report.rows[:2], replace(report.rows[2], device=BOARD))
    report = replace(report, rows=rows)
    assert [len(chart.points) for chart in charts.scatters(report)] == [2, 1]
    assert [chart.title for chart in charts.bars(report)] == ["Test CPU, 2 cores", "Test board, 4 cores"]


def test_a_ratio_exists_only_where_both_were_timed_in_turns() -> None:
    report = example()
    _, fp32, int8, alone, _ = report.rows
    assert speedups(report, fp32, fp32.latency[0]) == (2.0, 2.0)
    assert speedups(report, int8, int8.latency[0]) == (5.0, 5.0)
    assert speedups(report, int8, int8.latency[1]) == (None, None), "no other row on 2 threads"
    assert speedups(report, alone, alone.latency[0]) == (None, None)
    moved = replace(int8, device=BOARD)
    rows = (*report.rows[:2], moved)
    assert speedups(replace(report, rows=rows), moved, int8.latency[0]) == (None, None)
    assert cells(to_html(report), "overview", "ort-fp32")["speed"] == NOT_MEASURED


BUSY = "machine was busy (load 3.1 on 2 cores, others used 1.4 of them, steal 12 %)"


def in_pairs(inconclusive: str | None = BUSY) -> Report:
    """The example with ov-int8 timed in 201 calls, by pairs at a fifth of the original, under a load."""
    report = example()
    _, _, int8, _, _ = report.rows
    latency = replace(
        int8.latency[0],
        p99_ms=None,
        cpu_ms=1.9,
        ratios=(PairedTime("torch-fp32", Ratio(0.2, 0.16, 0.25)),),
        load=MachineLoad(2, 3.1, 1.4, 0.12, (1800.0, 2400.0)),
        inconclusive=inconclusive,
    )
    rows = (*report.rows[:2], replace(int8, latency=(latency, *int8.latency[1:])), *report.rows[3:])
    return replace(report, rows=rows)


def test_a_speed_by_pairs_has_its_interval() -> None:
    page = to_html(in_pairs(inconclusive=None))
    assert cells(page, "overview", "ov-int8")["speed"] == "×5.00|4.00 to 6.25"
    latency = cells(page, "latency", "ov-int8")
    assert (latency["against original"], latency["CPU ms"]) == ("×5.00|4.00 to 6.25", "1.90")


def test_a_percentile_that_the_calls_do_not_support_is_not_measured_and_has_no_bar() -> None:
    report = in_pairs()
    assert cells(to_html(report), "latency", "ov-int8")["p99 ms"] == f"{NOT_MEASURED}|needs 662 calls"
    (chart,) = charts.bars(report)
    bar = next(bar for bar in chart.bars if bar.tip.startswith("ov-int8 on 1 thread"))
    assert bar.p99 is None and bar.p95 == bar.longest and "p50 / p95 = 2.00 / 4.00 ms" in bar.tip


def test_times_of_a_busy_machine_are_marked_with_what_it_did() -> None:
    page = to_html(in_pairs())
    assert cells(page, "overview", "ov-int8")["p50 ms"] == f"2.00|1 thr, n = 200; inconclusive: {BUSY}"
    found = cells(page, "latency", "ov-int8")["machine"]
    assert found == "load 3.1 on 2 cores|others used 1.4, steal 12.0 %, 1,800 to 2,400 MHz"
    assert "inconclusive" not in cells(page, "overview", "ov-fp32")["p50 ms"]


def test_times_of_a_busy_machine_rank_nothing() -> None:
    page = to_html(in_pairs())
    assert cells(page, "overview", "ov-int8")["speed"] == "inconclusive"
    assert cells(page, "latency", "ov-int8")["against slowest"] == "inconclusive"
    (quiet,), (busy,) = charts.scatters(in_pairs(inconclusive=None)), charts.scatters(in_pairs())
    run = {"torch-fp32", "ov-fp32", "ov-int8"}
    assert [p.name for p in quiet.points if p.front and p.name in run] == ["torch-fp32", "ov-int8"]
    assert not any(p.front for p in busy.points if p.name in run)
    (tip,) = (p.tip for p in busy.points if p.name == "ov-int8")
    assert tip.endswith(f"1 thread; inconclusive: {BUSY}")


def test_pairs_are_renamed_with_the_rows_they_mean() -> None:
    other = replace(in_pairs(), title="another model", rows=(*in_pairs().rows[1:], example().rows[0]))
    joined = join(
        [("a", in_pairs()), ("b", replace(other, rows=tuple(replace(r, note="b") for r in other.rows)))]
    )
    pairs = {row.variant: la.ratios for row in joined.rows for la in row.latency if la.ratios}
    assert [(name, pair.to) for name, (pair,) in pairs.items()] == [
        ("a/ov-int8", "a/torch-fp32"),
        ("b/ov-int8", "b/torch-fp32"),
    ]


def test_one_sided_claims_of_turns_are_not_believed() -> None:
    liar = row("liar", "litert", timed(1.0, "torch-fp32"), value=0.9)
    report = replace(example(), rows=(example().rows[0], liar))
    assert speedups(report, liar, liar.latency[0]) == (None, None)


def test_what_changes_on_footage_is_a_column_where_footage_was_watched() -> None:
    flips = Flips(4.21, 2.9, 5.5, 2560, 11, (4.3, 1.1, 14.3), 10)
    seen = replace(example(), rows=(*example().rows[:-1], replace(example().rows[-1], flips=flips)))
    table, before = tables.accuracy_table(seen), tables.accuracy_table(example())
    assert table.columns == (*before.columns, "changed of 1000")
    assert (table.rows[-1][-1].text, table.rows[-1][-1].note) == (
        "4.2",
        "2.9 to 5.5; counted 4.3 (1.1 to 14.3)",
    )
    assert table.rows[0][-1].text == "not measured" and len(before.rows[0]) == len(before.columns)


def test_a_column_of_the_answers_after_each_frame_says_what_they_lose() -> None:
    rows = example().rows
    drop = next(row.drop for row in rows if row.drop)
    seen = replace(example(), rows=(*rows[:-1], replace(rows[-1], each_frame=drop)))
    table, before = tables.accuracy_table(seen), tables.accuracy_table(example())
    assert table.columns == (*before.columns, "lost each frame")
    assert "Lost each frame: points lost by the answers after each frame" in table.about
    assert "each frame" not in before.about


def test_a_report_without_any_figure_still_reads() -> None:
    bare = Report("bare", (Measurement("a", "cpu", "null", "fp32", "step", "made"),), "torch-fp32")
    page = to_html(bare)
    assert "no variant has both figures" in page and "No reasons were recorded." in page
    with pytest.raises(UsageError, match="nothing to draw"):
        picture_of_scatter(bare)


def test_the_picture_is_well_formed_and_has_one_mark_per_drawn_row() -> None:
    root = ET.fromstring(picture_of_scatter(example()))
    marks = [g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.get("class") == "mark"]
    assert [g.get("data-name") for g in marks] == ["torch-fp32", "ov-fp32", "ov-int8", "ort-fp32"]
    tip = marks[2].findtext("{http://www.w3.org/2000/svg}title")
    assert tip and "top-1 85.0 %" in tip and "p50 2.00 ms, p95 4.00 ms, p99 8.00 ms, 1 thread" in tip


def test_many_labels_become_their_worst_mistakes_instead_of_a_huge_matrix() -> None:
    labels = tuple(ClassScore(f"label{i}", 1.0, 1.0, 1.0, 9) for i in range(30))
    counts = [[9 if t == p else 0 for p in range(30)] for t in range(30)]
    counts[3][7] = 5
    accuracy = Accuracy(0.9, 0.8, 0.95, 270, classes=labels, confusion=tuple(tuple(line) for line in counts))
    report = example()
    page = to_html(replace(report, rows=(replace(report.rows[0], accuracy=accuracy),)))
    assert "label3 answered as label7: 5 clips" in page
    assert "--share" not in page.split("</style>")[1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.00012345, "1.23e-04"),
        (0.0123, "0.0123"),
        (1.239, "1.24"),
        (999.6, "1,000"),
        (12345.0, "12,300"),
        (-1.5, "-1.50"),
        (float("inf"), "infinite"),
        (float("nan"), "not a number"),
    ],
)
def test_figures_have_three_significant_digits(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_sizes_are_in_decimal_units() -> None:
    assert [size(n) for n in (0, 999, 1000, 2_210_000)] == ["0 B", "999 B", "1.00 kB", "2.21 MB"]


def saved(folder: Path, report: Report) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "measured.json", report)
    return folder


def test_load_reads_a_bundle_a_folder_of_bundles_a_json_file_and_a_zip(tmp_path: Path) -> None:
    cpu = saved(tmp_path / "runs" / "deep" / "cpu", example())
    write_json(tmp_path / "plain.json", example())
    with zipfile.ZipFile(tmp_path / "cpu.zip", "w") as archive:
        archive.write(cpu / "measured.json", "measured.json")
    ways = (cpu, tmp_path / "runs", tmp_path / "plain.json", tmp_path / "cpu.zip")
    assert [load([way]) for way in ways] == [example()] * 4
    assert load(list(ways)) == example(), "the same report four times is one report"


def test_load_joins_reports_without_clashes_as_they_are(tmp_path: Path) -> None:
    report = example()
    one = replace(report, rows=report.rows[:3])
    two = replace(
        report, title="other", rows=report.rows[3:], baseline="ort-fp32", reasons=("jetson: check",)
    )
    joined = load([saved(tmp_path / "a", one), saved(tmp_path / "b", two)])
    assert joined.rows == report.rows
    assert (joined.title, joined.baseline) == ("one model, other", "torch-fp32")
    assert joined.reasons == ("a: cpu: ov-int8 runs: fastest", "b: jetson: check")
    assert joined.steps == report.steps


def test_a_model_for_several_targets_is_named_once(tmp_path: Path) -> None:
    made = [replace(example(), title=f"pv for {target}") for target in ("cpu", "mobile")]
    different = [replace(report, frames=i + 2) for i, report in enumerate(made)]
    joined = load([saved(tmp_path / str(i), report) for i, report in enumerate(different)])
    assert joined.title == "pv for cpu, mobile"


def test_the_first_screen_says_what_ships_and_what_it_costs() -> None:
    report = replace(in_pairs(inconclusive=None), runs=("ov-int8",))
    (card,) = shipped.cards(report)
    facts = {fact.what: (fact.value, fact.note) for fact in card.facts}
    assert (card.target, card.variant, card.tone) == ("cpu", "ov-int8", "inconclusive")
    assert card.verdict == "open: these clips cannot tell 3 points"
    assert facts["model file"] == ("2.21 MB", ""), "the float row's size was not measured"
    assert facts["faster than the original"] == ("5.0x", "4.0 to 6.2")
    assert facts["points lost"] == ("+2.5", "-1.0 to +6.0; 40 clips")
    assert facts["time of a frame"] == ("2.00 ms", "p50 of 200 on 1 thread")
    page = to_html(report)
    assert page.index('class="card"') < page.index('id="overview"') < page.index('id="why"')
    assert "| cpu | ov-int8 |" in to_markdown(report)
    assert 'class="card"' not in to_html(example()), "a report that does not say what runs has no cards"


def test_a_smaller_file_is_held_against_the_original_and_told_in_float_too() -> None:
    sizes = {"ov-fp32": 8_840_000, "torch-fp32": 4_420_000}

    def size_told(*known: str) -> shipped.Fact:
        rows = (
            replace(row, bytes=sizes[row.variant] if row.variant in known else row.bytes)
            for row in example().rows
        )
        (card,) = shipped.cards(replace(example(), rows=tuple(rows), runs=("ov-int8",)))
        return card.facts[0]

    both = "2.21 MB; the original 4.42 MB; in float32 8.84 MB"
    assert size_told("ov-fp32", "torch-fp32") == shipped.Fact("2.0x", "smaller than the original", both)
    assert size_told("ov-fp32") == shipped.Fact(
        "4.0x", "smaller than in float32", "2.21 MB; in float32 8.84 MB"
    )
    sizes["torch-fp32"] = 1_105_000
    assert size_told("torch-fp32").value == "2.0x" and "larger" in size_told("torch-fp32").what


def test_a_device_that_is_not_here_has_a_card_without_a_speed() -> None:
    (card,) = shipped.cards(replace(example(), runs=("trt-int8",)))
    assert {fact.value for fact in card.facts} == {NOT_MEASURED}
    assert card.verdict == "loss against the original not measured"


def test_a_report_that_runs_what_it_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs: unknown row 'ov-int'"):
        load([saved(tmp_path / "a", replace(example(), runs=("ov-int",)))])


def test_an_interval_says_over_how_many_groups_it_is_and_one_group_has_none() -> None:
    many, one = (replace(scored(0.8), groups=g) for g in (16, 1))
    assert tables.accuracy_cell(many).note == "70.0 to 85.0, n = 40 in 16 groups"
    assert tables.accuracy_cell(one).note == "no interval, n = 40 in 1 group"
    assert show.accuracy_text(many) == "80.0 % (70.0 to 85.0, n 40 in 16 groups)"
    drop = PairedDrop(0.2, 0.2, 0.2, 6, 6, 0, 0.3, "inconclusive", unit="dB", groups=1)
    assert tables.lost_points(drop).note == "one group of clips: no interval"
    assert show.points(drop) == "+0.20 dB (one group of clips: no interval)"


def test_load_prefixes_clashing_rows_and_keeps_each_folders_original(tmp_path: Path) -> None:
    slow = example()
    fast = replace(slow, rows=tuple(_faster(r) for r in slow.rows))
    saved(tmp_path / "runs" / "monday", slow)
    saved(tmp_path / "runs" / "tuesday", fast)
    joined = load([tmp_path / "runs"])
    names = [r.variant for r in joined.rows]
    assert names[:2] == ["monday/torch-fp32", "monday/ov-fp32"]
    assert names.count("monday/trt-int8") == 1 and "tuesday/trt-int8" not in names, "equal rows"
    assert joined.baseline == "monday/torch-fp32"
    int8 = next(r for r in joined.rows if r.variant == "tuesday/ov-int8")
    assert int8.latency[0].interleaved_with[0] == "tuesday/torch-fp32"
    assert int8.latency[0].p50_ms == 1.0
    assert speedups(joined, int8, int8.latency[0]) == (5.0, 5.0), "5 ms / 1 ms, both of tuesday"


def stepped(report: Report, warmup: int) -> Report:
    stream = StreamSpec((), warmup, exactness="exact")
    return replace(report, stream=stream, frames=16)


def test_bundles_that_step_alike_keep_how_they_step(tmp_path: Path) -> None:
    report = stepped(example(), 16)
    one = replace(report, rows=report.rows[:3])
    two = replace(report, rows=report.rows[3:], baseline="ort-fp32")
    joined = load([saved(tmp_path / "a", one), saved(tmp_path / "b", two)])
    assert (joined.stream, joined.frames) == (report.stream, 16)
    assert "From clip to stream" in to_markdown(joined)


def test_bundles_that_step_differently_say_why_the_section_is_missing(tmp_path: Path) -> None:
    one = stepped(replace(example(), rows=example().rows[:3]), 16)
    two = stepped(replace(example(), rows=example().rows[3:], baseline="ort-fp32"), 8)
    joined = load([saved(tmp_path / "a", one), saved(tmp_path / "b", two)])
    assert joined.stream is None and "From clip to stream" not in to_markdown(joined)
    assert joined.reasons[-1] == "the bundles step differently: how is in the report of each"


def _faster(one: Measurement) -> Measurement:
    return replace(one, latency=tuple(replace(la, p50_ms=la.p50_ms / 2) for la in one.latency))


def test_folders_of_one_name_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    other = replace(example(), rows=tuple(_faster(r) for r in example().rows))
    paths = [saved(tmp_path / "a" / "cpu", example()), saved(tmp_path / "b" / "cpu", other)]
    assert {r.variant.split("/ov")[0] for r in load(paths).rows if "ov-int8" in r.variant} == {
        "a/cpu",
        "b/cpu",
    }


def test_half_written_folders_are_passed_over(tmp_path: Path) -> None:
    saved(tmp_path / "runs" / "cpu", example())
    (tmp_path / "runs" / ".cpu.x1").mkdir()
    (tmp_path / "runs" / ".cpu.x1" / "measured.json").write_text("{")
    assert load([tmp_path / "runs"]) == example()


def test_load_says_what_is_wrong_with_a_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no path to report on"):
        load([])
    with pytest.raises(UsageError, match="nowhere does not exist"):
        load([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match=r"holds no measured\.json"):
        load([tmp_path])
    (tmp_path / "x.json").write_text('{"title": "x", "rows": [], "baselin": "y"}')
    with pytest.raises(UsageError, match="Did you mean 'baseline'"):
        load([tmp_path / "x.json"])
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"broken\.zip is not a whole zip file"):
        load([tmp_path / "broken.zip"])


def reported_bundle(folder: Path) -> Path:
    """A null bundle that holds a report, with its digest in the manifest."""
    found = bundle.read(write_null_bundle(folder))
    write_json(folder / "measured.json", example())
    files = bundle.digests(folder, ["measured.json"])
    bundle.write(folder, found.content, replace(found.measured, files=files))
    return folder


def test_figures_that_are_not_those_of_the_bundle_are_not_shown(tmp_path: Path) -> None:
    folder = reported_bundle(tmp_path / "b")
    assert load([folder]) == example()
    faster = replace(example(), rows=tuple(_faster(r) for r in example().rows))
    write_json(folder / "measured.json", faster)
    bundle.zip_bundle(folder, tmp_path / "b.zip")
    for way in (folder, folder / "measured.json", tmp_path, tmp_path / "b.zip"):
        with pytest.raises(UsageError, match=r"SHA-256 differs .* see: edgepv verify .*b"):
            load([way])


@pytest.mark.parametrize("p99", [math.nan, math.inf, 0.0, -1.0])
def test_a_time_that_cannot_be_is_named_and_not_drawn(p99: float, tmp_path: Path) -> None:
    first, *others = example().rows
    wrong = replace(first, latency=(replace(timed(1.0), p99_ms=p99),))
    folder = saved(tmp_path / "b", replace(example(), rows=(wrong, *others)))
    with pytest.raises(UsageError, match=r"rows\[0\].latency\[0\].p99_ms of torch-fp32 is .* Measure again"):
        load([folder])


def test_a_report_without_rows_or_with_a_baseline_that_is_no_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rows is empty"):
        load([saved(tmp_path / "a", replace(example(), rows=()))])
    with pytest.raises(UsageError, match=r"baseline: unknown row 'torch-fp23'.* Did you mean 'torch-fp32'"):
        load([saved(tmp_path / "b", replace(example(), baseline="torch-fp23"))])


def test_only_an_earlier_report_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page, notes = saved(tmp_path / "b", example()), tmp_path / "r.html", tmp_path / "r.md"
    call = ["report", str(folder), "--html", str(page)]
    assert main(call) == main(call) == 0, "the same command twice"
    notes.write_text("# My notes\n\n3 rows, none judged\n")
    before = page.stat().st_mtime_ns
    assert main(call) == 2 and "r.md exists and is no report of edgepv" in capsys.readouterr().err
    assert notes.read_text().startswith("# My notes") and page.stat().st_mtime_ns == before


def test_a_report_is_known_by_how_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for text in (to_html(example()), to_markdown(example()), to_json(example()), ""):
        path.write_text(text)
        assert is_report(path)
    for text in ("hi\n", "<!doctype html>\n<p>mine", '{"rows": []}', "Mine\n" + to_markdown(example())):
        path.write_text(text)
        assert not is_report(path)
    assert not is_report(tmp_path)
