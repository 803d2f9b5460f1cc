"""Sources that wait for their reader: video files, folders of images, raw frames on a pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepv.data.video import read_video
from edgepv.errors import UsageError
from edgepv.runtimes.sources import Frame, Source, open_source


def all_of(source: Source) -> list[Frame]:
    frames = []
    while frame := source.read():
        frames.append(frame)
    source.close()
    return frames


def test_a_video_file_gives_the_frames_that_measuring_gives(a_clip: Path) -> None:
    source = open_source(str(a_clip))
    frames, video = all_of(source), read_video(a_clip)
    assert not source.live and source.fps == video.fps
    assert len(frames) == len(video.frames) > 20
    assert all((f.pixels == v).all() for f, v in zip(frames, video.frames))
    assert [f.time_s for f in frames[:3]] == [0.0, float(1 / video.fps), float(2 / video.fps)]
    assert source.read() is None


def test_29_97_frames_a_second_are_not_29(write_video: Callable[..., Path]) -> None:
    source = open_source(str(write_video("ntsc.mp4", [10] * 31, fps=30000 / 1001)))
    assert source.fps == Fraction(30000, 1001)
    assert all_of(source)[30].time_s == pytest.approx(1.001)


def test_a_truncated_video_is_refused_unread(write_video: Callable[..., Path], tmp_path: Path) -> None:
    whole = write_video("whole.avi", list(range(60)))
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UsageError, match=r"cut\.avi is truncated: its header promises"):
        open_source(str(cut))


def picture(path: Path, grey: int, size: tuple[int, int] = (48, 32)) -> None:
    import cv2

    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), grey, np.uint8))


def test_images_come_in_natural_order_at_10_fps_or_the_rate_asked_for(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        picture(tmp_path / f"frame{number}.png", number * 10)
    (tmp_path / "notes.txt").write_text("not an image")
    frames = all_of(open_source(str(tmp_path)))
    assert [int(f.pixels[0, 0, 0]) for f in frames] == [10, 90, 100]
    assert [f.time_s for f in frames] == [0, 0.1, 0.2]
    slow = open_source(f"{tmp_path}?fps=4")
    assert slow.fps == 4 and [f.time_s for f in all_of(slow)] == [0, 0.25, 0.5]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_damaged_image_is_skipped_told_once_and_its_time_passes(tmp_path: Path, suffix: str) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.{suffix}", 50)
    damaged = tmp_path / f"1.{suffix}"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    told: list[dict[str, Any]] = []
    frames = all_of(open_source(str(tmp_path), on_status=told.append))
    assert [f.time_s for f in frames] == [0, 0.2]
    assert told == [{"type": "status", "what": "image_skipped", "why": f"{damaged} cannot be decoded"}]


def test_what_is_no_plain_file_among_images_is_skipped_by_name(tmp_path: Path) -> None:
    """A pipe would block for ever."""
    for number in (0, 5):
        picture(tmp_path / f"{number}.png", 50)
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").mkdir()
    (tmp_path / "3.png").symlink_to("/dev/zero")
    (tmp_path / "4.png").symlink_to("nowhere")
    told: list[dict[str, Any]] = []
    assert [f.time_s for f in all_of(open_source(str(tmp_path), on_status=told.append))] == [0, 0.5]
    assert [one["why"] for one in told] == [f"{tmp_path}/{n}.png is no plain file" for n in (1, 2, 3, 4)]


def test_images_of_two_sizes_restart_where_the_size_changes(tmp_path: Path) -> None:
    for number, size in enumerate([(48, 32), (64, 32), (64, 32)]):
        picture(tmp_path / f"{number}.png", 50, size)
    frames = all_of(open_source(str(tmp_path)))
    assert [f.why for f in frames] == ["", "size changed from 48x32 to 64x32", ""]
    assert [f.restarted for f in frames] == [False, True, False]


def test_a_folder_with_no_whole_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no image"):
        open_source(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="none of the 2 images"):
        all_of(open_source(str(tmp_path)))


# One picture of 4 x 2 pixels whose left half is pure blue and right half pure red, in every format.
HALVES = np.array([[[255, 0, 0]] * 2 + [[0, 0, 255]] * 2] * 2, np.uint8)
BLUE, RED = (41, 240, 110), (81, 90, 240)  # Y, U, V of BT.601


@pytest.mark.parametrize(
    ("kind", "data", "tolerance"),
    [
        ("bgr24", HALVES.tobytes(), 0),
        ("rgb24", HALVES[:, :, ::-1].tobytes(), 0),
        ("nv12", bytes([41, 41, 81, 81] * 2 + [240, 110, 90, 240]), 4),
        ("yuv420p", bytes([41, 41, 81, 81] * 2 + [240, 90] + [110, 240]), 4),
    ],
)
def test_every_raw_format_gives_blue_left_and_red_right(
    tmp_path: Path, kind: str, data: bytes, tolerance: int
) -> None:
    (tmp_path / "frames").write_bytes(data * 2)
    source = open_source(f"raw:{tmp_path / 'frames'}?size=4x2&fps=29.97&format={kind}")
    frames = all_of(source)
    assert source.fps == Fraction(30000, 1001) and [f.time_s for f in frames] == [0, 1001 / 30000]
    assert np.abs(frames[1].pixels.astype(int) - HALVES).max() <= tolerance


def test_grey_raw_frames_become_three_equal_channels(tmp_path: Path) -> None:
    (tmp_path / "frames").write_bytes(bytes([0, 50, 100, 150, 200, 250]))
    (frame,) = all_of(open_source(f"raw:{tmp_path / 'frames'}?size=3x2&fps=1&format=gray8"))
    assert frame.pixels[:, :, 1].tolist() == [[0, 50, 100], [150, 200, 250]]
    assert (frame.pixels[:, :, 0] == frame.pixels[:, :, 2]).all()


def test_raw_frames_come_through_a_pipe_from_ffmpeg() -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg (see tests/system.sh)")
    program = """
from edgepv.runtimes.sources import open_source
source = open_source("raw:-?size=64x48&fps=30000/1001")
frames = []
while frame := source.read():
    frames.append(frame)
print(len(frames), frames[-1].time_s, frames[0].pixels.shape, frames[-1].pixels.max() > 200)
"""
    picture = "testsrc=size=64x48:rate=30000/1001:duration=1.001"
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-f", "lavfi", "-i", picture]
    writer = subprocess.Popen([*command, "-f", "rawvideo", "-pix_fmt", "bgr24", "-"], stdout=subprocess.PIPE)
    reader = subprocess.run(
        [sys.executable, "-c", program], stdin=writer.stdout, capture_output=True, text=True
    )
    assert writer.stdout and writer.wait() == 0
    writer.stdout.close()
    assert reader.stdout == f"30 {29 * 1001 / 30000} (48, 64, 3) True\n"


def test_a_partial_last_frame_is_reported_and_not_given(tmp_path: Path) -> None:
    (tmp_path / "frames").write_bytes(bytes(24 + 7))
    told: list[dict[str, Any]] = []
    source = open_source(f"raw:{tmp_path / 'frames'}?size=4x2&fps=10", on_status=told.append)
    assert len(all_of(source)) == 1
    why = "the stream ended after 7 of 24 bytes of frame 1"
    assert told == [{"type": "status", "what": "partial_frame", "why": why}]


def test_a_fifo_is_opened_before_its_writer_and_closed_while_it_waits(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    source = open_source(f"raw:{fifo}?size=4x2&fps=10&live=1")
    assert source.live

    def write() -> None:
        with fifo.open("wb") as f:
            f.write(bytes(12))
            f.flush()
            time.sleep(0.2)
            f.write(bytes(12))
            f.flush()
            closing.wait()

    closing = threading.Event()
    writer = threading.Timer(0.1, write)
    writer.start()
    frame = source.read()
    assert frame and frame.pixels.shape == (2, 4, 3) and frame.time_s == frame.arrived_s
    threading.Timer(0.2, source.close).start()
    start = time.monotonic()
    assert source.read() is None and time.monotonic() - start < 1
    closing.set()
    writer.join()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("fps=10", r"option 'size' is missing. Write raw:.*frames\?fps=10&size="),
        ("size=4x2", r"option 'fps' is missing. Write raw:.*frames\?size=4x2&fps="),
        ("size=4&fps=10", "size=4 is no size"),
        ("size=0x2&fps=10", "size=0x2 is no size"),
        ("size=4x2&fps=0", "fps=0 is no frame rate"),
        ("size=4x2&fps=1/0", "fps=1/0 is no frame rate"),
        ("size=4x2&fps=fast", "fps=fast is no frame rate"),
        ("size=4x2&fps=nan", "fps=nan is no frame rate"),
        ("size=4x2&fps=10&format=bgr32", "unknown format 'bgr32'"),
        ("size=3x2&fps=10&format=nv12", "nv12 needs an even width and height"),
        ("size=4x2&fsp=10", "unknown option 'fsp'.*Did you mean 'fps'"),
        ("size=4x2&fps=10&live=yes", "live=yes is neither 0 nor 1"),
    ],
)
def test_a_wrong_raw_option_is_named(tmp_path: Path, options: str, says: str) -> None:
    (tmp_path / "frames").write_bytes(bytes(24))
    with pytest.raises(UsageError, match=says):
        open_source(f"raw:{tmp_path / 'frames'}?{options}")


def test_a_raw_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing does not exist"):
        open_source(f"raw:{tmp_path / 'nothing'}?size=4x2&fps=10")
