"""JSON lines into files, pipes that close or stall, and a disk that fills up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_support import answer, event, until

from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.runtimes.sinks import SINKS, open_sink, redacted
from edgepv.runtimes.sinks.jsonl import WAITING, JsonLines

Open = Callable[[str], Any]

SCRIPT = """
import sys
from pathlib import Path
from edgepv.runtimes.sinks import open_sink
sink = open_sink("jsonl:-", camera="c", spool_folder=Path(), labels=[], fps=10)
n = 0
while not sink.ended and n < 1_000_000:
    sink.put({"type": "answer", "n": n})
    n += 1
sink.close()
counts = sink.counts()
assert counts["taken"] == n == counts["sent"] + counts["lost"] and sink.ended
print("not seen")
"""


def lines(path: Path) -> list[Any]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_gets_one_line_per_record_after_what_was_there(tmp_path: Path, sink: Open) -> None:
    path = tmp_path / "new folder" / "events.jsonl"
    for n in range(2):
        out = sink(f"jsonl:{path}")
        out.put(event(n, label="übermütig"))
        out.put(answer("waving"))
        out.close()
        assert out.counts() == {"taken": 2, "sent": 2, "queued": 0, "lost": 0}
    assert lines(path) == [
        event(0, label="übermütig"),
        answer("waving"),
        event(1, label="übermütig"),
        answer("waving"),
    ]


def test_a_record_is_written_as_it_was_when_it_was_put(tmp_path: Path, sink: Open) -> None:
    out = sink(f"jsonl:{tmp_path}/a.jsonl")
    record = answer("waving")
    out.put(record)
    record["label"] = "changed"
    out.close()
    assert lines(tmp_path / "a.jsonl") == [answer("waving")]


def test_half_a_character_in_a_name_is_written_as_json_says_it(tmp_path: Path, sink: Open) -> None:
    out = sink(f"jsonl:{tmp_path}/events.jsonl")
    out.put({"type": "status", "what": "\ud800 Tür \x9b31m"})
    out.close()
    said = '{"type": "status", "what": "\\ud800 Tür \\u009b31m"}\n'
    assert (tmp_path / "events.jsonl").read_text(encoding="utf-8") == said


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline()) == {"type": "answer", "n": 0}
        process.stdout.close()
        error = process.stderr.read()
        process.wait(20)
    assert "AssertionError" not in error
    assert "jsonl" not in error  # only Python's own word on print("not seen") may be there


def test_a_reader_that_stalls_costs_records_and_no_time(news: list[str]) -> None:
    reader, writer = os.pipe()
    out = JsonLines(writer, "a pipe", news.append)
    slowest = 0.0
    for _ in range(2 * WAITING):
        start = time.perf_counter()
        out.put({"type": "answer", "padding": "x" * 1000})
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 0.25
    counts = out.counts()
    assert counts["lost"] >= WAITING - 100  # a pipe holds 64 KiB
    assert counts["taken"] == 2 * WAITING == counts["sent"] + counts["queued"] + counts["lost"]
    os.close(reader)
    out.close()
    assert out.counts()["queued"] == 0
    assert news == []


def test_a_full_disk_loses_whole_lines_says_so_once_and_goes_on_when_there_is_room(
    small_disk: Callable[[str], Path], sink: Open, news: list[str]
) -> None:
    disk = small_disk("64k")
    (disk / "ballast").write_bytes(bytes(50_000))
    out = sink(f"jsonl:{disk}/events.jsonl")
    for n in range(100):
        out.put({**event(n), "padding": "x" * 700})
    until(lambda: out.counts()["queued"] == 0)
    lost = out.counts()["lost"]
    assert 70 < lost < 100
    assert len(lines(disk / "events.jsonl")) == 100 - lost
    (disk / "ballast").unlink()
    out.put(event(100))
    out.close()
    assert lines(disk / "events.jsonl")[-1] == event(100)
    assert out.counts() == {"taken": 101, "sent": 101 - lost, "queued": 0, "lost": lost}
    assert news == [
        f"{disk}/events.jsonl cannot be written (No space left on device): records are lost until it can"
    ]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("jsonl:", "names no file"),
        ("jsonl:/proc/no/such", "cannot be opened"),
        ("jsnl:-", "Did you mean 'jsonl'"),
        ("events.jsonl", "unknown kind of receiver 'events.jsonl'"),
        ("video:out.avi", "written as .mp4"),
        ("video:/proc/no/out.mp4", "cannot be written"),
    ],
)
def test_a_wrong_name_is_one_clear_line(sink: Open, url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        sink(url)


def test_a_missing_library_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.partition(".")[0] == "paho"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("edgepv.base.optional.present", lambda module: False)
    with pytest.raises(TargetUnavailableError, match=r"pip install 'edgepv\[live\]'"):
        open_sink("mqtt://host/cam1", camera="c", spool_folder=tmp_path, labels=[], fps=10)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_table_of_sinks_imports_no_sink() -> None:
    code = (
        "import sys, edgepv.runtimes.sinks; print([m for m in sys.modules if 'paho' in m or 'sinks.' in m])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
    assert SINKS.names() == ["clips", "http", "https", "jsonl", "mqtt", "mqtts", "video"]


def test_what_may_be_secret_is_taken_out_of_a_url() -> None:
    assert redacted("mqtt://u:p/a@b@host:1/cam?x=y@z") == "mqtt://***@z"
    assert redacted("mqtt://u:p/a@b@host:1/cam?x=y") == "mqtt://***@host:1/cam?***"
    assert redacted("jsonl:-") == "jsonl:-"
