"""The annotated video: what is drawn, one size, no waiting, a full disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from live_support import answer, event, until

from edgepv.runtimes.picture.drawing import STRIP, Painter, caption
from edgepv.runtimes.sinks.video import letterbox

Open = Callable[[str], Any]


def frames(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    out: list[np.ndarray] = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return out
        out.append(frame)


def grey(level: int, height: int = 360, width: int = 480) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def noise(seed: int, height: int = 360, width: int = 480) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def test_every_answer_is_a_frame_and_the_file_appears_when_it_is_closed(tmp_path: Path, sink: Open) -> None:
    out = sink(f"video:{tmp_path}/out.mp4")
    assert out.pixels
    for n in range(5):
        out.put(answer("waving"), grey(40 * n))
        until(lambda: out.counts()["queued"] == 0)
    out.put(event(0))
    assert not (tmp_path / "out.mp4").exists()
    out.close()
    assert out.counts() == {"taken": 5, "sent": 5, "queued": 0, "lost": 0}
    written = frames(tmp_path / "out.mp4")
    assert [f.shape for f in written] == [(360 + STRIP, 480, 3)] * 5
    assert [round(float(f[100:300].mean()) / 40) for f in written] == [0, 1, 2, 3, 4]
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FPS) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_frame_may_be_overwritten_as_soon_as_it_was_put(tmp_path: Path, sink: Open) -> None:
    out = sink(f"video:{tmp_path}/out.mp4")
    frame = grey(200)
    out.put(answer("waving"), frame)
    frame[:] = 0
    out.close()
    assert frames(tmp_path / "out.mp4")[0][100:300].mean() > 190


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path: Path, sink: Open) -> None:
    out = sink(f"video:{tmp_path}/out.mp4")
    for shape in ((360, 480), (720, 1280), (121, 77)):
        out.put(answer("waving"), grey(200, *shape))
    out.close()
    assert [f.shape for f in frames(tmp_path / "out.mp4")] == [(404, 480, 3)] * 3


def test_a_letterbox_keeps_the_shape_of_the_picture() -> None:
    wide = letterbox(grey(200, 100, 400), (200, 200))
    rows = np.flatnonzero(wide.any(axis=(1, 2)))
    assert (rows[0], rows[-1], wide.shape) == (75, 124, (200, 200, 3))
    tall = letterbox(grey(200, 400, 100), (200, 200))
    columns = np.flatnonzero(tall.any(axis=(0, 2)))
    assert (columns[0], columns[-1]) == (75, 124)


def test_the_caption_says_stale_and_warming_up() -> None:
    assert caption(answer("waving", 0.87)) == "waving 87%"
    assert caption(answer("waving", 0.87, stale=True)) == "waving 87%, stale 420 ms"
    assert caption({**answer("waving", 0.87, stale=True), "age_ms": None}) == "waving 87%, stale"
    assert caption(answer("waving", 0.87, valid=False)) == "warming up"
    nothing = {"type": "answer", "label": None, "score": None, "valid": False, "stale": True, "age_ms": None}
    assert caption(nothing) == "warming up"
    assert Painter().draw(grey(0), nothing).shape == (360 + STRIP, 480, 3)


def test_the_bar_is_as_long_as_the_score_and_orange_when_stale() -> None:
    def bar(**how: Any) -> tuple[int, list[int]]:
        row = Painter().draw(grey(0), answer("waving", 0.5, **how))[360 + 35].astype(int)
        lit = np.flatnonzero(row.max(axis=1) > 100)
        return len(lit), row[lit[0]].tolist() if len(lit) else []

    assert bar() == (231, [80, 200, 120])  # half of 480 - 20, both ends drawn
    assert bar(stale=True) == (231, [60, 150, 250])
    assert bar(valid=False) == (0, [])


def test_small_odd_and_grey_frames_are_enlarged_to_even_sides() -> None:
    assert Painter().draw(grey(9, 121, 77), answer("a")).shape == (364 + STRIP, 232, 3)
    assert Painter().draw(np.zeros((480, 641), np.uint8), answer("a")).shape == (480 + STRIP, 642, 3)


def test_a_slow_encoder_costs_frames_and_no_time(
    tmp_path: Path, sink: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Painter.draw

    def slow(painter: Painter, frame: np.ndarray, record: Any) -> np.ndarray:
        time.sleep(0.05)
        return drawn(painter, frame, record)

    monkeypatch.setattr(Painter, "draw", slow)
    out = sink(f"video:{tmp_path}/out.mp4")
    start = time.perf_counter()
    for _ in range(50):
        out.put(answer("waving"), grey(9))
    assert time.perf_counter() - start < 0.5  # 50 frames would take 2.5 s to encode
    out.close()
    counts = out.counts()
    assert counts["lost"] >= 30
    assert counts["sent"] + counts["lost"] == 50
    assert len(frames(tmp_path / "out.mp4")) == counts["sent"]


def test_a_full_disk_ends_the_file_while_it_can_still_be_played(
    small_disk: Callable[[str], Path], sink: Open, news: list[str]
) -> None:
    disk = small_disk("3m")
    out = sink(f"video:{disk}/out.mp4")
    for n in range(200):
        out.put(answer("waving"), noise(n))
        until(lambda: out.counts()["queued"] == 0)
        if news:
            break
    for _ in range(3):
        out.put(answer("waving"), grey(9))
    out.close()
    counts = out.counts()
    assert counts["lost"] == 4
    assert 3 < counts["sent"] == len(frames(disk / "out.mp4"))
    assert news == [
        f"{disk}/out.mp4 ends after {counts['sent']} frames: the disk is full; "
        "frames from here on are not recorded"
    ]


def test_no_frame_means_no_file(tmp_path: Path, sink: Open) -> None:
    sink(f"video:{tmp_path}/out.mp4").close()
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_drawn_ends_the_file_is_told_and_raised_at_the_end(
    tmp_path: Path, sink: Open, news: list[str]
) -> None:
    out = sink(f"video:{tmp_path}/out.mp4")
    out.put(answer("waving"), grey(9))
    until(lambda: out.counts()["sent"] == 1)
    out.put({"type": "answer", "label": "waving"}, grey(9))
    until(lambda: news)
    with pytest.raises(KeyError, match="valid"):
        out.close()
    assert len(frames(tmp_path / "out.mp4")) == 1 and "ends after 1 frames: KeyError" in news[0]
    out._fault = None  # the fixture closes it again
