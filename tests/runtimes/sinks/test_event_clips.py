"""Clips of events: what was before and after them, whole, within their quota."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_support import until

from edgepv.data.video import read_video
from edgepv.errors import UsageError
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import KeepsClips, Setup, open_sink
from edgepv.runtimes.sinks.clips import ClipRules, Clips, make_room

FPS = 10.0
SETUP_LABELS = ("person",)


def clips(folder: Path, said: list[str] | None = None, **rules: float) -> Clips:
    news = said if said is not None else []
    return Clips(folder, ClipRules(**rules), Setup("cam", folder, SETUP_LABELS, FPS, news.append))


def shade(k: int) -> np.ndarray:
    """A picture that says its number, from 0 to 60, by how bright it is."""
    return np.full((48, 64, 3), 4 * k, np.uint8)


def numbers(clip: Path) -> list[int]:
    return [round(float(frame.mean()) / 4) for frame in read_video(clip).frames]


def written(sink: Clips) -> None:
    """Wait until nothing waits."""
    until(lambda: not sink.counts()["queued"])


def play(sink: Clips, frames: range, events: dict[int, list[tuple[str, str]]]) -> list[str | None]:
    """Ten frames a second; after frame k come its events (kind, id). Returns the names of their clips."""
    named = []
    for k in frames:
        written(sink)
        sink.put({"type": "answer", "time_s": k / FPS}, shade(k))
        for kind, name in events.get(k, []):
            record: Record = {"type": kind, "after": {"id": name, "label": "person"}}
            named.append(sink.clip_of(record))
            sink.put(record)
    return named


def test_a_clip_holds_what_was_before_and_after_its_event_and_says_what_is_in_it(tmp_path: Path) -> None:
    sink = clips(tmp_path, pre_s=1.0, post_s=0.5)
    assert isinstance(sink, KeepsClips)
    assert (
        play(sink, range(60), {30: [("new", "a")], 35: [("update", "a")], 40: [("end", "a")]})
        == ["a.mp4"] * 3
    )
    sink.close()
    assert [abs(a - b) <= 1 for a, b in zip(numbers(tmp_path / "a.mp4"), range(20, 46))] == [True] * 26
    about = json.loads((tmp_path / "a.json").read_text())
    assert about["frames"] == 26 and [e["id"] for e in about["events"]] == ["a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.mp4"]
    assert sink.counts() == {"taken": 60, "sent": 60, "queued": 0, "lost": 0}


def test_a_record_says_what_the_model_said_of_which_part_and_who_it_was(tmp_path: Path) -> None:
    setup = Setup("cam", tmp_path, SETUP_LABELS, FPS, print, model="d1", hides=True)
    sink = Clips(tmp_path, ClipRules(pre_s=1.0, post_s=0.5), setup)
    for k in range(60):
        written(sink)
        label, margin = ("person", 0.6) if k % 4 else ("nobody", 0.2)
        answer = {"label": label, "margin": margin - k / 1000, "valid": k != 31, "stale": k == 33}
        sink.put({"type": "answer", "time_s": k / FPS, **answer}, shade(k))
        if kind := {30: "new", 40: "end"}.get(k):
            sink.clip_of({"type": kind, "after": {"id": "a", "label": "person"}})
    sink.close()
    about = json.loads((tmp_path / "a.json").read_text())
    kept = numbers(tmp_path / "a.mp4")[round(about["from_s"] * FPS) : round(about["to_s"] * FPS)]
    assert [abs(a - b) <= 1 for a, b in zip(kept, range(30, 41), strict=True)] == [True] * 11
    assert about["said"] == {"person": 6, "nobody": 3}  # of 30 to 40, without the two that say nothing
    assert about["margin"] == pytest.approx(0.2 - 0.04)
    assert {"camera": "cam", "model": "d1", "redacted": True}.items() <= about.items()


def test_events_that_overlap_share_a_clip_and_a_later_one_has_its_own(tmp_path: Path) -> None:
    sink = clips(tmp_path, pre_s=0.5, post_s=0.5)
    events = {
        10: [("new", "a")], 12: [("new", "b")], 14: [("end", "a")], 18: [("end", "b")],
        20: [("new", "c"), ("end", "c")], 40: [("new", "d")],
    }  # fmt: skip
    assert play(sink, range(45), events) == [*["a.mp4"] * 6, "d.mp4"]
    sink.close()
    assert [e["id"] for e in json.loads((tmp_path / "a.json").read_text())["events"]] == ["a", "b", "c"]
    assert len(numbers(tmp_path / "a.mp4")) == 21 and len(numbers(tmp_path / "d.mp4")) == 10


def test_an_event_that_does_not_end_fills_one_clip_and_no_disk(tmp_path: Path) -> None:
    sink = clips(tmp_path, pre_s=0.0, post_s=0.5, most_s=1.0)
    assert play(sink, range(40), {10: [("new", "a")], 30: [("update", "a")], 35: [("end", "a")]}) == [
        "a.mp4", None, None
    ]  # fmt: skip
    sink.close()
    assert len(numbers(tmp_path / "a.mp4")) == 11


def test_an_event_with_the_last_frame_still_has_what_was_before(tmp_path: Path) -> None:
    sink = clips(tmp_path, pre_s=1.0)
    play(sink, range(20), {19: [("new", "a")]})
    sink.close()
    assert len(numbers(tmp_path / "a.mp4")) == 11


def test_what_waits_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepv.runtimes.sinks.clips.RING_BYTES", 20_000)
    sink = clips(tmp_path, pre_s=100.0)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for k in range(50):
        written(sink)
        sink.put({"type": "answer", "time_s": k / FPS}, noise)
    written(sink)
    assert 10_000 < sum(len(jpeg) for _, jpeg in sink._ring) == sink._ring_bytes <= 20_000
    sink.close()


def test_a_clip_that_cannot_be_written_leaves_nothing_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    sink = clips(tmp_path, said, pre_s=0.5, post_s=0.2)
    broken = True

    def room(*given: Any) -> np.ndarray:
        if broken:
            raise OSError("no space left")
        return np.asarray(given[0])

    monkeypatch.setattr("edgepv.runtimes.sinks.clips.letterbox", room)
    play(sink, range(20), {10: [("new", "a")], 11: [("end", "a")]})
    written(sink)
    broken = False
    play(sink, range(20, 40), {30: [("new", "b")], 31: [("end", "b")]})
    sink.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.json", "b.mp4"]
    assert len(said) == 1 and "OSError: no space left" in said[0]


def test_the_oldest_clips_go_when_the_quota_is_full(tmp_path: Path) -> None:
    for k, name in enumerate(("new", "old", "older")):
        for suffix in ("mp4", "json"):
            (tmp_path / f"{name}.{suffix}").write_bytes(bytes(400))
        os.utime(tmp_path / f"{name}.mp4", (1000 - k, 1000 - k))
    make_room(tmp_path, 1000, but="new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.json", "new.mp4", "old.json", "old.mp4"]
    make_room(tmp_path, 100, but="new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.json", "new.mp4"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("clips:", "names no folder"),
        ("clips:{tmp}/a?pre=3", "unknown option 'pre'.*pre_s"),
        ("clips:{tmp}/a?pre_s=x", "are numbers"),
        ("clips:{tmp}/a?pre_s=-1", "seconds are 0 or more"),
        ("clips:{tmp}/a?post_s=nan", "seconds are 0 or more"),
        ("clips:/dev/null/a", "cannot be made"),
    ],
)
def test_an_address_that_cannot_be_right_is_refused(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        open_sink(url.format(tmp=tmp_path), camera="c", spool_folder=tmp_path, labels=(), fps=10.0)
