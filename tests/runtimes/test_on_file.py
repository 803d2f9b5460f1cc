"""A file goes the way of a camera: through the same runner and output, but it waits for every answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from null_bundle import write_null_bundle

from edgepv import bundle
from edgepv.errors import UsageError
from edgepv.runtimes.engines.null import NullEngine
from edgepv.runtimes.on_file import run_file
from edgepv.runtimes.record import Record
from edgepv.stream import Tensors


def run(folder: Path, source: Path, **options: Any) -> tuple[list[Record], Record]:
    """(records, summary)"""
    told: list[Record] = []
    found = run_file(bundle.read(folder).variant(), folder, source, emit=told.append, **options)
    assert told[-1] == found
    return told[:-1], found


def test_every_frame_that_is_due_is_answered_in_order_and_none_is_stale(tmp_path: Path, a_clip: Path) -> None:
    answers, summary = run(write_null_bundle(tmp_path / "b"), a_clip)
    assert [a["number"] for a in answers] == list(range(len(answers)))
    assert [a["frame"] for a in answers] == sorted({a["frame"] for a in answers})
    assert not any(a["stale"] or a["why"] for a in answers) and {a["type"] for a in answers} == {"answer"}
    assert all(a["age_ms"] == a["latency_ms"] >= a["pre_ms"] for a in answers)
    assert (summary["frames_answered"], summary["drops"], summary["missed"]) == (len(answers), 0, None)
    assert (summary["label"], summary["score"]) == ("fight", 0.7311)  # of logits 1 and 0
    assert {"ms", "faults", "lost", "notes", "fresh", "replies"} <= set(summary)  # a camera's keys


def test_answers_later_than_the_deadline_are_counted_and_still_told_fresh(
    tmp_path: Path, a_clip: Path
) -> None:
    slow = write_null_bundle(tmp_path / "b", delays_ms="[30.0]")
    answers, summary = run(slow, a_clip, deadline_ms=10)
    assert summary["missed"] == summary["fresh"] == len(answers) > 10
    assert (summary["deadline_ms"], summary["drops"]) == (10, 0)
    assert run(slow, a_clip, deadline_ms=60_000)[1]["missed"] == 0


def test_a_reader_that_fails_ends_the_run_with_its_own_error(tmp_path: Path, a_clip: Path) -> None:
    folder = write_null_bundle(tmp_path / "b")
    told: list[Record] = []

    def emit(record: Record) -> None:
        told.append(record)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run_file(bundle.read(folder).variant(), folder, a_clip, emit=emit)
    assert len(told) == 1


def test_an_answer_that_is_no_number_ends_the_run_and_is_not_told(
    tmp_path: Path, a_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(engine: NullEngine, inputs: Tensors) -> Tensors:
        return {"logits": np.array([[np.nan, 0.0]], np.float32)}

    monkeypatch.setattr(NullEngine, "infer", broken)
    folder = write_null_bundle(tmp_path / "b")
    told: list[Record] = []
    with pytest.raises(UsageError, match="null answered 'logits' with values that are not finite"):
        run_file(bundle.read(folder).variant(), folder, a_clip, emit=told.append)
    assert told == []
