"""The roofline in the report: one line, one table, one chart, and the same numbers in the JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from edgepv.report.page import to_html, to_json, to_markdown
from edgepv.report.roofline import roofline_table, rooflines, told_of
from edgepv.types import DeviceFacts, Latency, Measurement, Peaks, Report, decode

HOST = DeviceFacts("Test CPU", 2, "x86_64", ("avx2",), "Linux 6.1", "3.11.2")
PEAKS = Peaks(100.0, 400.0, ((1 << 20, 50.0), (1 << 27, 10.0)), "kernels in C by gcc")


def row(name: str, p50: float, precision: str = "fp32", **more: object) -> Measurement:
    given = {
        "bytes": 500_000,
        "gflops_per_frame": 0.5,
        "latency": (Latency(p50, None, None, 30, 6, 1),),
        "device": HOST,
    }
    given |= {"peaks": PEAKS, **more}
    return Measurement(name, "cpu", "openvino", precision, "window", "tested", **given)  # type: ignore[arg-type]


REPORT = Report("a model", (row("a", 6.25), row("b", 12.5, "int8"), row("c", 3.0, "bf16")), "a", runs=("b",))


def test_the_line_is_of_what_runs() -> None:
    assert told_of(REPORT) == "b reaches 10 % of what one core allows: held back by overhead"


def test_times_of_a_busy_machine_hold_nothing_back_for_sure() -> None:
    clock = Latency(12.5, None, None, 30, 6, 1, inconclusive="machine was busy")
    told = told_of(replace(REPORT, rows=(row("b", 12.5, "int8", latency=(clock,)),)))
    assert told and told.endswith("held back by overhead; inconclusive: the machine was busy")


def test_the_table_has_every_row_whose_peak_is_known() -> None:
    table = roofline_table(REPORT)
    assert [line[0].text for line in table.rows] == ["a", "b"]
    assert [cell.text for cell in table.rows[0][1:5]] == ["80.0", "100", "80.0 %", "compute"]


def test_the_page_draws_each_row_below_its_roof_and_says_the_line() -> None:
    page = to_html(REPORT)
    assert "b reaches 10 % of what one core allows: held back by overhead." in page
    section = page[page.index('<section id="roofline">') :]
    marks = re.findall(r'<g class="mark" data-name="(\w)">', section[: section.index("</svg>")])
    assert marks == ["a", "b"]
    (chart,) = rooflines(REPORT)
    assert all(chart.top <= mark.roof <= mark.y <= chart.bottom for mark in chart.marks)
    for _, line, _ in chart.roofs:
        places = [tuple(map(float, place.split(","))) for place in line.split()]
        assert all(chart.left <= x <= chart.right and chart.top <= y <= chart.bottom for x, y in places)
    assert "| 80.0 | 100 | 80.0 % | compute |" in to_markdown(REPORT)


def test_the_json_carries_the_peaks() -> None:
    again = decode(Report, json.loads(to_json(REPORT)))
    assert again == REPORT
    assert told_of(again) == told_of(REPORT)


def test_a_report_made_before_peaks_were_measured_has_no_such_part() -> None:
    old = Report("a model", (row("a", 6.25, peaks=None),), "a")
    assert told_of(old) is None
    assert 'id="roofline"' not in to_html(old)
    assert "Roofline" not in to_markdown(old)
