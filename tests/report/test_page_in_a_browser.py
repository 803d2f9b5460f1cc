"""The page as a browser shows it: whole at any width, without an error, with the figures of the JSON."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from every_part import every_part

from edgepv.report.page import to_html
from edgepv.types import Report, decode

DEMO = Path(__file__).parents[2] / "docs" / "demo-report.json"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """
<script>
addEventListener("load", () => {
  const wide = document.scrollingElement.scrollWidth, view = innerWidth;
  const small = [...document.querySelectorAll("td, th, p, dd, dt, li, small, h1, h2, h3")]
    .filter(e => e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 11).length;
  const cut = [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.getAttribute("aria-label") || e.closest("section").id);
  parent.postMessage(JSON.stringify({wide, view, small, cut}), "*");
});
</script>
"""
"""What the page measures of itself: its width and the window's, words below 11 px, what must be scrolled."""
FRAME = """<!doctype html><iframe width="{width}" height="900" style="border: 0" src="{page}"></iframe>
<script>onmessage = said => {{ document.title = said.data; }};</script>"""
"""A window in a window: the browser's own is never narrower than 500 px."""
PAPER = 718  # px: 19 cm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: the report's page is looked at in one"),
]


def browse(page: Path, *options: str) -> tuple[str, str]:
    """(the page after its scripts ran, what the browser logged)."""
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        profile,
        "--enable-logging=stderr",
    ]
    done = subprocess.run(
        [*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, done.stderr


def looked_at(page: Path, width: int) -> dict[str, Any]:
    """What the page measures of itself in a window of that width, in px."""
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(width=width, page=page.name), encoding="utf-8")
    dom, _ = browse(frame, "--window-size=1600,1200", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title
    found: dict[str, Any] = json.loads(title[1])
    return found


def shown() -> Report:
    """The demo's report with something in every part."""
    return every_part(decode(Report, json.loads(DEMO.read_text(encoding="utf-8"))))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    whole = to_html(shown()).replace("</body>", f"{MEASURE}</body>")
    path = tmp_path / "report.html"
    path.write_text(whole, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_fits_a_phone_and_a_desk(page: Path, width: int) -> None:
    seen = looked_at(page, width)
    assert seen["view"] == width
    assert seen["wide"] <= width, "something is cut off or scrolls the whole page"
    assert seen["small"] == 0
    assert width < 1400 or not seen["cut"], "a column stands outside of its table's place"


def test_no_column_is_cut_off_on_paper(page: Path) -> None:
    """The rules of print at the width of A4 between margins of a centimetre."""
    page.write_text(page.read_text(encoding="utf-8").replace("@media print", "@media all"), encoding="utf-8")
    seen = looked_at(page, PAPER)
    assert seen["view"] == PAPER and not seen["cut"]


def test_the_page_shows_the_figures_of_the_json_without_an_error(page: Path) -> None:
    dom, log = browse(page, "--dump-dom")
    assert not re.search(r"CONSOLE.*(rror|ncaught)", log), log
    rows = json.loads(DEMO.read_text(encoding="utf-8"))["rows"]
    for row in rows:
        assert f">{row['variant']}<" in dom
    for latency in (one for row in rows for one in row["latency"]):
        assert f'data-sort="{latency["p50_ms"]}"' in dom
    report = shown()
    told = [one.lost.value for row in report.rows for one in row.slices if one.lost]
    told += [one.lost.value for one in report.robustness] + [one.sqnr_db for one in report.sensitivity]
    told += [one.auc for row in report.rows for one in row.curves]
    for value in told:
        assert f'data-sort="{value}"' in dom
    assert dom.count("<svg") == len(re.findall("</svg>", dom)) > 8
    assert not re.search(r'="[^"]*NaN', dom), "a mark stands nowhere"


def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    browse(page, f"--print-to-pdf={tmp_path / 'report.pdf'}")
    printed = (tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 36
