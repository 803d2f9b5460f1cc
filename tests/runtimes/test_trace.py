"""A trace says what each frame went through, in the format that Perfetto opens, and is bounded."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from null_bundle import write_null_bundle

from edgepv.base.console import Console
from edgepv.device import cameras
from edgepv.errors import UsageError
from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.trace import TRACKS, Trace, check_free

ANSWER = Answer(0, "fight", 0.9, (0.9, 0.1), True, 1.0, 2.0)


def written(trace: Trace, path: Path) -> dict[str, Any]:
    trace.write(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def events_of(data: dict[str, Any], kind: str = "X") -> list[dict[str, Any]]:
    return [event for event in data["traceEvents"] if event["ph"] == kind]


def check_format(data: dict[str, Any]) -> None:
    """What the Trace Event Format requires of each kind of event that is used here."""
    named = {(e["pid"], e["tid"]) for e in events_of(data, "M")}
    for event in data["traceEvents"]:
        assert isinstance(event["name"], str) and event["ph"] in ("X", "i", "M")
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert isinstance(event["ts"], int | float) and (event["pid"], event["tid"]) in named
    assert all(tid != pid for pid, tid in named), "Perfetto takes such a thread for the main one"
    assert all(event["dur"] >= 0 for event in events_of(data))
    assert all(event["s"] in ("t", "p", "g") for event in events_of(data, "i"))
    assert all(isinstance(event["args"]["name"], str) for event in events_of(data, "M"))


def check_nested(events: list[dict[str, Any]]) -> None:
    """Complete events of one track lie apart or one within the other, or a viewer draws them wrongly."""
    for key, track in itertools.groupby(sorted(events, key=_place), key=lambda e: (e["pid"], e["tid"])):
        open_ends: list[float] = []
        for event in track:
            while open_ends and open_ends[-1] <= event["ts"] + 0.01:
                open_ends.pop()
            end = event["ts"] + event["dur"]
            assert not open_ends or end <= open_ends[-1] + 0.01, (key, event)
            open_ends.append(end)


def _place(event: dict[str, Any]) -> tuple[int, int, float, float]:
    return event["pid"], event["tid"], event["ts"], -event["dur"]


def test_a_reply_becomes_its_wait_and_its_work(tmp_path: Path) -> None:
    trace = Trace(clock=lambda: 100.0)
    reply = Reply(7, 0.0, ANSWER, False, "", 10.0, 10.0, 4.0, "int8", replied_s=100.020)
    trace.camera("gate").answered(reply)
    data = written(trace, tmp_path / "t.json")
    check_format(data)
    spans = {e["name"]: (e["ts"], e["dur"], e["args"]["frame"]) for e in events_of(data)}
    assert spans == {
        "queue": (10_000, 4_000, 7),  # microseconds: it came 10 ms before the reply and waited 4
        "frame": (14_000, 6_000, 7),
        "pre": (17_000, 1_000, 7),
        "infer": (18_000, 2_000, 7),
    }


def test_a_stale_reply_is_an_instant_that_says_why(tmp_path: Path) -> None:
    trace = Trace(clock=lambda: 0.0)
    trace.camera("a").answered(Reply(1, 0.0, None, True, "overrun", None, 33.0, 2.0, "int8", replied_s=1.0))
    data = written(trace, tmp_path / "t.json")
    check_format(data)
    assert [e["name"] for e in events_of(data, "i")] == ["stale: overrun"] and not events_of(data)


def test_only_the_latest_events_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    trace = Trace(most=3)
    camera = trace.camera("a")
    for number in range(5):
        with camera.span("capture", f"frame {number}"):
            pass
    data = written(trace, tmp_path / "t.json")
    assert [e["name"] for e in events_of(data)] == ["frame 2", "frame 3", "frame 4"]
    assert data["otherData"]["events left out"] == 2


def test_a_trace_is_written_over_another_and_over_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    Trace().write(path)
    check_free(path)
    path.write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="is no trace of edgepv"):
        check_free(path)
    with pytest.raises(UsageError, match="is not a folder"):
        check_free(tmp_path / "none" / "t.json")


@pytest.mark.slow
def test_a_run_of_two_cameras_leaves_a_trace_of_each_frame(tmp_path: Path) -> None:
    bundle = write_null_bundle(tmp_path / "bundle")
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (16, 16))
    for level in range(6):
        video.write(np.full((16, 16, 3), 20 * level, np.uint8))
    video.release()
    options = cameras.LiveOptions(
        bundle=bundle,
        sources={"gate": str(tmp_path / "v.avi"), "yard": str(tmp_path / "v.avi")},
        deadline_ms=2000,
        emit=(f"jsonl:{tmp_path / '{camera}.jsonl'}",),
        spool=tmp_path / "spool",
        trace=tmp_path / "trace.json",
    )
    cameras.run(options, Console(quiet=True), threading.Event())
    data = json.loads((tmp_path / "trace.json").read_text())
    check_format(data)
    check_nested(events_of(data))
    cameras_seen = {e["args"]["name"] for e in events_of(data, "M") if e["name"] == "process_name"}
    assert cameras_seen == {"camera gate", "camera yard"}
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events_of(data, "M")}
    for camera in (1, 2):
        mine = [e for e in events_of(data) if e["pid"] == camera]
        assert {named[e["pid"], e["tid"]] for e in mine} == set(TRACKS)
        answered = sorted(e["args"]["frame"] for e in mine if e["name"] == "infer")
        assert answered and answered == sorted(set(answered))
        assert sum(e["name"] == "rules" for e in mine) >= len(answered)
        assert any(e["name"].startswith("sink") for e in mine)
