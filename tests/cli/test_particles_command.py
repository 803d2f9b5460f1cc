"""edgepv particles: a video and lines of what a clip is made of, or one line of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import Run

from edgepv.data.video import read_video

pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

pytestmark = pytest.mark.slow
FRAMES = 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright square that goes right by 8 of 160 pixels a frame."""
    path = tmp_path_factory.mktemp("clip") / "square.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (160, 120))
    for t in range(FRAMES):
        frame = np.full((120, 160, 3), 40, np.uint8)
        frame[40:80, 20 + 8 * t : 60 + 8 * t] = 220
        writer.write(frame)
    writer.release()
    return path


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 48),
        (["--count", "5"], 5),
        (["--kind", "patch"], 48),
        (["--kind", "pixel"], 768),
        (["--kind", "frame"], 1),
    ],
)
def test_a_line_for_each_frame_says_where_its_particles_are(
    run: Run, clip: Path, tmp_path: Path, options: list[str], count: int
) -> None:
    code, _, err = run("particles", clip, "--jsonl", tmp_path / "p.jsonl", *options)
    assert code == 0 and f"{FRAMES} frames, each {17 * count} numbers: {count} particle" in err
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(FRAMES))
    table = np.array([row["particles"] for row in rows])
    assert table.shape == (FRAMES, count, 17)
    assert table[..., :2].min() >= 0 and table[..., :2].max() <= 1 and table[..., 4].min() > 0
    assert all(row["psnr_db"] > 5 for row in rows)


def test_the_video_shows_both_pictures_side_by_side(run: Run, clip: Path, tmp_path: Path) -> None:
    code, _, _ = run("particles", clip, "--video", tmp_path / "out.mp4", "--most", "3")
    frames = read_video(tmp_path / "out.mp4").frames
    assert code == 0 and len(frames) == 3
    assert frames[0].shape == (360, 960, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing to write. Give --video out.mp4, --jsonl out.jsonl or both"),
        (["--video", "o.avi"], "--video o.avi: the video is written as .mp4"),
        (["--jsonl", "o", "--kind", "frame", "--count", "2"], "frame leaves no choice. Leave --count out"),
        (["--jsonl", "o", "--count", "0"], "--count 0: give 1 to 1024"),
        (["--jsonl", "o", "--most", "0"], "--most 0: give 1 or more"),
        (["--jsonl", "o", "--kind", "patch", "--count", "7"], "Choose one of 12, 48, 192"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("particles", clip, *options)
    assert code == 2 and says in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_clip_is_not_written_over_itself(run: Run, clip: Path) -> None:
    code, _, err = run("particles", clip, "--jsonl", clip)
    assert code == 2 and "is the clip itself" in err


def test_a_file_that_is_no_video_leaves_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    code, _, err = run("particles", tmp_path / "a.mp4", "--video", tmp_path / "out.mp4")
    assert code == 2 and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
