"""Every number of a measurement that a page prints is found, rounded, in a committed result.

A page names the place in a comment behind the paragraph, ``NUMBER UNIT = EXPRESSION``, with ``;`` between.
The names of an expression are the JSON files of ``benchmarks/``, those of ``edgepv/zoo/cards/`` in ``cards``,
the rows of docs/demo-report.json by their names in ``demo``,
``edgepv`` for constants of the code, and what the comment itself names before (``it = EXPRESSION``). Tables
that a script writes are written again and compared.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import ROOT

from edgepv import report
from edgepv.base.files import read_json
from edgepv.zoo import INDEX

GENERATED = ("models.md", "demo-report.md")
PAGES = [ROOT / "README.md", *sorted(p for p in ROOT.glob("docs/*.md") if p.name not in GENERATED)]

UNITS = {
    "%": r"100 \*",
    "ms": r"_ms\b",
    "us": r"us\b",
    "s": r"seconds|_s\b|_S\b",
    "seconds": r"seconds|_S\b",
    "minutes": r"minutes|seconds|_S / 60",
    "dB": r"psnr|_db\b|_DB\b",
    "px": r"px\b|PX\b",
    "KB": r"bytes",
    "MB": r"bytes",
    "MiB": r"mib",
    "points": r"\.points|drop\.",
    "times": r" / |\.[A-Z_]+$",
    "x": r" / ",
    "clips": r"clips|\.n\b",
    "frames": r"frames|FRAMES|DELAY|\.delay",
    "": r".",
}
"""What an expression must name to be of a unit."""

GIVEN = (
    (r"95 %( interval|[^.]{0,20}interval|, |,? Wilson)", "the level of every interval"),
    (r"started three times", "edgepv.device.slots.MAX_STARTS"),
    (r"\b(cut|one) of \d+ %", "the share of the channels that an option cuts"),
    (r"opened again .{0,40}, 0.5 s to 30 s apart", "how a source is opened again, see Reconnecting"),
    (r"within 1, 2, 4, 8, 16 px", "the distances of TAP-Vid, what delta-avg is defined by"),
)
"""Numbers with a unit that define something: no measurement and no constant of ours."""

WORDS = {"two": "2", "three": "3", "four": "4", "five": "5", "ten": "10"}
NUMBER = rf"[-+−]?\d[\d,]*(?:\.\d+)?|\b(?:{'|'.join(WORDS)})(?= (?:times|seconds|minutes|points|dB)\b)"
SHOWN = re.compile(r"^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
UNIT = r"%|(?:ms|us|s|seconds|minutes|dB|px|[kK]B|Mi?B|points|times|clips)\b"
BEFORE = r"(?<![\w./-])(?<!\w\()(?!x86\b)(?P<x>[x×](?=\d))?"
CLAIM = re.compile(rf"{BEFORE}(?P<number>{NUMBER})(?:[ -]?(?P<unit>{UNIT}))?(?![\w(/])")
LINK = re.compile(r" ?(to|and|or|of|against|,|, and|and not) ?")


@dataclass(frozen=True)
class Claim:
    """A number that a page prints, with its unit; "" for the ends of an interval, whose unit went before."""

    number: str
    unit: str

    def __str__(self) -> str:
        return f"x{self.number}" if self.unit == "x" else f"{self.number} {self.unit}".strip()


def blocks(page: str) -> Iterator[str]:
    """Paragraphs and list items, each with its comments; no code, and no table of a script."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(?<=\n\n)(    .*\n)+", "", text)
    text = re.sub(r"^<!-- table: .*?-->\n\n(\|.*\n)+", "", text, flags=re.MULTILINE)
    for part in re.split(r"\n\s*\n|\n(?=\* |\d\. )", text):
        if part.strip():
            yield part


def claims(block: str) -> list[Claim]:
    """The numbers of a measurement in a block: those with a unit, those that share it, and intervals."""
    text = re.sub(r"<!--.*?-->", "", block, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", lambda m: "`" * len(m[0]), text)
    text = re.sub(r"\s+", " ", text)
    given = [m.span() for pattern, _ in GIVEN for m in re.finditer(pattern, text)]
    found = [m for m in CLAIM.finditer(text) if not any(a <= m.start() < b for a, b in given)]
    units = ["x" if m["x"] else m["unit"] for m in found]
    for i in reversed(range(len(found) - 1)):
        if units[i] is None and LINK.fullmatch(text[found[i].end() : found[i + 1].start()]):
            units[i] = units[i + 1]
    for i in range(len(found) - 1):
        between = text[found[i].end() : found[i + 1].start()]
        ends = found[i]["number"], found[i + 1]["number"]
        signed = any(e[0] in "+-−" for e in ends) or all("." in e for e in ends)
        if units[i] is None and between == " to " and signed:
            units[i] = units[i + 1] = ""
    return [
        Claim(WORDS.get(m["number"], m["number"]).replace("−", "-"), unit)
        for m, unit in zip(found, units)
        if unit is not None
    ]


def markers(block: str) -> dict[str, str]:
    """NUMBER UNIT -> EXPRESSION, of the comments of a block."""
    found: dict[str, str] = {}
    names: dict[str, str] = {}
    for comment in re.findall(r"<!--(.*?)-->", block, re.DOTALL):
        for pair in re.sub(r"\s+", " ", comment).strip(" ;").split("; "):
            left, equals, right = pair.strip().partition(" = ")
            for name, meaning in names.items():
                right = re.sub(rf"(?<![\w.]){name}\b", f"({meaning})", right)
            (names if left.isidentifier() else found)[left] = right if equals else ""
    return found


class Node(dict):
    """A JSON object whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Code:
    """A module, imported when it is named."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        try:
            return Code(importlib.import_module(f"{self.name}.{name}").__name__)
        except ModuleNotFoundError:
            return getattr(importlib.import_module(self.name), name)


def node(value: Any) -> Any:
    """JSON with attributes."""
    if isinstance(value, dict):
        return Node({k: node(v) for k, v in value.items()})
    return [node(v) for v in value] if isinstance(value, list) else value


@functools.cache
def results() -> dict[str, Any]:
    """The names an expression may use."""
    files = {p.stem: node(read_json(p)) for p in ROOT.glob("benchmarks/*.json")}
    cards = Node({p.stem: node(read_json(p)) for p in ROOT.glob("edgepv/zoo/cards/*.json")})
    demo = {r["variant"]: node(r) for r in read_json(ROOT / "docs" / "demo-report.json")["rows"]}
    helpers = {f.__name__: f for f in (min, max, sum, len, abs)}
    return {"__builtins__": helpers, "cards": cards, "demo": demo, "edgepv": Code("edgepv")} | files


def wrong(claim: Claim, expression: str) -> str | None:
    """Why a number is not what its marker leads to; None if it is."""
    if not re.search(UNITS[claim.unit], expression):
        return f"'{expression}' is no figure in {claim.unit}"
    value = float(eval(expression, dict(results())))
    printed = claim.number.replace(",", "").lstrip("+")
    digits = len(printed.partition(".")[2])
    return None if f"{value:.{digits}f}" == printed else f"'{expression}' is {value:.{digits}f}"


def faults(page: str) -> list[str]:
    """What is wrong with the numbers of a page: no marker, a wrong one, or one without a number.

    What a command printed on the page, in a ``text`` block, may be said again without a marker.
    """
    found, said = [], " ".join(SHOWN.findall(page))
    for block in blocks(page):
        marked, seen = markers(block), " ".join(re.sub(r"<!--.*?-->", "", block, flags=re.DOTALL).split())
        printed = {str(c): c for c in claims(block)}
        for text in {**marked, **printed}:
            claim = printed.get(text) or Claim(text.partition(" ")[0], "")
            if text not in marked and re.search(rf"(?<![\d.,]){re.escape(claim.number)}(?![\d,]|\.\d)", said):
                continue
            fault = wrong(claim, marked[text]) if text in marked else "no marker"
            if text not in printed and claim.number not in seen:
                fault = "a marker without its number"
            if fault:
                found.append(f"{text}: {fault}, in: {block[:60]!r}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_number_of_a_measurement_is_that_of_a_committed_result(page: Path) -> None:
    found = faults(page.read_text())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("It takes 3.5 ms.\n", "no marker"),
        ("It is 7.8 times faster.\n", "no marker"),
        ("It is x7.8 faster.\n", "no marker"),
        ("It missed 0.4 to 1.1 % of them. <!-- 0.4 % = 100 * 0.004 -->\n", "1.1 %: no marker"),
        ("* a\n* It loses three points (-2.6 to 2.6).\n", "3 points: no marker"),
        ("| pv-x | 26.8 dB |\n", "no marker"),
        ("It takes 3.5 ms. <!-- 3.5 ms = live.overhead['bare, p50 ms'] -->\n", "no figure in ms"),
        ("It takes 12.4 ms. <!-- 12.4 ms = live.rows[0].reply_p50_ms -->\n", "is 12.3"),
        ("It is fast. <!-- 3.5 ms = live.rows[0].reply_p50_ms -->\n", "without its number"),
    ],
)  # fmt: skip
def test_a_number_that_no_result_holds_is_found(text: str, fault: str) -> None:
    (found, *_) = faults(text)
    assert fault in found


@pytest.mark.parametrize(
    "text",
    [
        "Frames of 96 x 96 at 10 fps, TensorRT 8.5 to 11, `--percentile 50 %`, with a 95 % interval.\n",
        "```text\nit took 3.5 ms\n```\n",
        "It takes 12.3 ms.\n<!-- it = live.rows[0]; 12.3 ms = it.reply_p50_ms -->\n",
    ],
)
def test_what_is_no_measurement_or_is_marked_passes(text: str) -> None:
    assert faults(text) == []


@functools.cache
def script(name: str) -> ModuleType:
    """A module of benchmarks/, under a name that shadows nothing."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


WRITTEN: dict[str, tuple[str, Callable[[ModuleType], Callable[[Any], str]]]] = {
    "docs/models.md": ("models", lambda module: module.page),
    "benchmarks/compress.md": ("compress", lambda module: module.table),
    "benchmarks/live.md": ("live", lambda module: module.markdown),
    "benchmarks/stream.md": ("stream", lambda module: module.table),
    "benchmarks/detection.md": ("detection", lambda module: module.page),
    "benchmarks/sums.md": ("sums", lambda module: module.page),
    "benchmarks/gate.md": ("gate", lambda module: module.page),
    "benchmarks/pairs.md": ("pairs", lambda module: module.page),
    "benchmarks/fold.md": ("fold", lambda module: module.page),
    "benchmarks/recipes.md": ("recipes", lambda module: module.page),
    "benchmarks/jetson_rules.md": ("jetson_rules", lambda module: module.page),
    "benchmarks/stream_tune.md": ("stream_tune", lambda module: module.page),
    "benchmarks/roofline.md": ("roofline", lambda module: module.page),
    "benchmarks/peers.md": ("peers", lambda module: module.page),
    "benchmarks/RESULTS.md": ("results", lambda module: lambda took: module.page()),
}


def test_every_page_of_benchmarks_is_written_by_a_script() -> None:
    """One that is not belongs to ``PAGES``, where its numbers are looked up."""
    assert {f"benchmarks/{p.name}" for p in ROOT.glob("benchmarks/*.md")} <= set(WRITTEN)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in WRITTEN if (ROOT / page).exists()])
def test_a_page_that_a_script_writes_is_that_of_its_committed_result(page: str) -> None:
    name, writer = WRITTEN[page]
    result = ROOT / "benchmarks" / f"{name}.json"
    text = writer(script(name))(read_json(result) if result.exists() else {})
    assert (ROOT / page).read_text() == text


TABLES = [
    (page, *found)
    for page in PAGES
    for found in re.findall(
        r"^<!-- table: benchmarks/(\w+)\.py -->\n\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE
    )
]


@pytest.mark.parametrize(("page", "name", "shown"), TABLES, ids=[f"{p.name}-{n}" for p, n, _ in TABLES])
def test_a_table_that_a_script_writes_is_that_of_its_committed_result(
    page: Path, name: str, shown: str
) -> None:
    assert shown == script(name).table(read_json(ROOT / "benchmarks" / f"{name}.json"))


def test_the_demo_report_the_readme_shows_is_what_this_code_makes_of_its_figures() -> None:
    """``make demo-report`` measures again and writes all four files."""
    place = ROOT / "docs" / "demo-report"
    found = report.load(place.with_suffix(".json")).report
    made = {
        ".md": report.to_markdown(found),
        ".html": report.to_html(found),
        ".svg": report.picture_of_scatter(found),
    }
    stale = [kind for kind, text in made.items() if place.with_suffix(kind).read_text() != text]
    assert not stale, "the report's code or figures have changed: make demo-report"


def test_the_demo_report_is_that_of_the_shipped_weights() -> None:
    found = report.load(ROOT / "docs" / "demo-report.json").report
    assert found.steps[0].inputs["weights"] == read_json(INDEX)["pv-c3d-valid-fight"]["sha256"]
