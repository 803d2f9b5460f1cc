"""The suite itself: what make check leaves out make test runs, work is done once, skips are told shortly."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import LONGEST
from support import ROOT, made_once, skip_lines


def test_every_test_is_either_a_unit_test_or_slow() -> None:
    """make check takes all without the mark, make test takes all; there is no third kind."""
    lines = (ROOT / "Makefile").read_text().splitlines()
    asked = [line for line in lines if line.startswith("\t$(BIN)/pytest")]
    assert len(asked) == 1 and '$(if $(filter unit,$@),-m "not slow"' in asked[0]
    assert [line for line in lines if line.startswith("unit whole:")]


def test_make_check_and_make_test_differ_in_the_tests_alone(pytestconfig: pytest.Config) -> None:
    text = (ROOT / "Makefile").read_text()
    assert "-j 2 lint types unit" in text and "-j 2 lint types whole" in text
    assert any(line.startswith("slow:") for line in pytestconfig.getini("markers"))
    assert "--strict-markers" in pytestconfig.getini("addopts")  # a misspelt mark would be a third kind


def test_the_longest_files_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []


class Folder:
    """Stands for a factory of pytest: it only says where the run has its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def getbasetemp(self) -> Path:
        return self.path


def test_what_workers_share_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        folder.mkdir()
        made.append(folder)

    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    for worker in ("gw0", "gw1"):
        (tmp_path / worker).mkdir()
        factory = Folder(tmp_path / worker)
        assert made_once(factory, "bundle", make) == tmp_path / "bundle"  # type: ignore[arg-type]
    assert made == [tmp_path / "bundle"]


def test_what_failed_half_way_is_not_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise OSError("disk full")

    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    for _ in range(2):
        with pytest.raises(OSError):
            made_once(Folder(tmp_path), "bundle", fail)  # type: ignore[arg-type]


def test_skips_are_told_by_reason_the_most_first() -> None:
    def skipped(why: str) -> pytest.TestReport:
        place = ("tests/x.py", 1, f"Skipped: {why}")
        return pytest.TestReport("x", ("x", 1, "x"), {}, "skipped", place, "setup")

    told = skip_lines([skipped("no camera"), skipped("no broker"), skipped("no broker")])
    assert told == ["skipped 2: no broker", "skipped 1: no camera"]
