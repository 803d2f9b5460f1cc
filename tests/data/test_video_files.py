"""Video files: the time of every frame, which of them a model takes, and what is whole."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import CLIPS

from edgepv import bundle
from edgepv.data.container import picture_ends, structure
from edgepv.data.video import FrameTimes, Ticks, VideoFrame, open_video, read_video, taken
from edgepv.errors import UsageError
from edgepv.runtimes.on_file import run_file
from edgepv.runtimes.sources import open_source

Make = Callable[..., Path]
DARK = "select='lt(t,2)+gte(t,2)*not(mod(n,6))'"  # a phone in the dark: 2 s at 30 fps, then 4 s at 5 fps
NTSC = Fraction(30000, 1001)
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a video by ffmpeg: make("x.mkv", rate=30, seconds=6, "-vf", ...)."""

    def run(
        name: str, *options: str, rate: str = "30", seconds: float = 4, source: str = "", start: str = "0"
    ) -> Path:
        if not shutil.which("ffmpeg"):
            pytest.skip("needs ffmpeg (see tests/system.sh)")
        path = tmp_path / name
        picture = f"testsrc=size=64x48:rate={rate}:duration={seconds}"
        first = ["-ss", start, "-i", source] if source else ["-f", "lavfi", "-i", picture]
        command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", *first, *options, str(path)]
        subprocess.run(command, check=True)
        return path

    return run


def frames(path: Path) -> list[VideoFrame]:
    with open_video(path) as video:
        return list(video)


def times(path: Path) -> list[float]:
    return [float(frame.time_s) for frame in frames(path)]


def placed(fps: float | Fraction, stamps: Sequence[float]) -> list[float]:
    clock = FrameTimes(Fraction(fps))
    return [round(float(clock.place(stamp)[0]), 6) for stamp in stamps]


def test_rounded_stamps_of_a_constant_rate_are_index_over_rate() -> None:
    fps = Fraction(30000, 1001)
    clock = FrameTimes(fps)
    stamps = [round(float(i / fps), 3) for i in range(300)]  # Matroska: whole milliseconds
    assert [clock.place(s)[0] for s in stamps] == [i / fps for i in range(300)]


def test_a_file_without_stamps_has_the_rate_of_its_header() -> None:
    assert placed(25, [0.0] * 4) == [0, 0.04, 0.08, 0.12]


def test_a_variable_rate_keeps_its_stamps() -> None:
    assert placed(13.7, [0, 0.033, 0.067, 0.1, 0.3, 0.5]) == [0, 0.033, 0.067, 0.1, 0.3, 0.5]


def test_a_frame_without_a_stamp_follows_at_the_last_distance() -> None:
    assert placed(30, [0, 0.2, 0.4, 0.0, 0.8]) == [0, 0.2, 0.4, 0.6, 0.8]


def test_a_clock_that_begins_again_goes_on() -> None:
    assert placed(10, [0, 0.2, 0.3, 0.9, 1.0, 0.0, 0.1, 0.2]) == [0, 0.2, 0.3, 0.9, 1.0, 1.1, 1.2, 1.3]
    clock = FrameTimes(Fraction(10))
    jumps = [clock.place(s)[2] for s in (5.0, 5.3, 5.6, 0.1, 0.2, 60.0)]
    assert jumps == [None, None, None, -5.5, None, pytest.approx(59.8)]


def test_stamps_out_of_order_never_go_back() -> None:
    assert placed(10, [0, 0.25, 0.2, 0.35]) == [0, 0.25, 0.25, 0.35]


def always(count: int, source: Fraction, wanted: Fraction) -> list[int]:
    """The frames of a constant rate that are the newest at k / wanted."""
    index = (int(k * source / wanted) for k in itertools.count())
    return list(itertools.takewhile(lambda i: i < count, index))


@pytest.mark.parametrize(
    ("count", "source", "taken"),
    [
        (6, Fraction(10), [0, 1, 2, 3, 4, 5]),
        (6, Fraction(20), [0, 2, 4]),
        (6, Fraction(15), [0, 1, 3, 4]),  # the newest frame seen at 0, 0.1, 0.2, 0.3 s
        (3, Fraction(5), [0, 0, 1, 1, 2, 2]),  # a slow camera repeats its frames
    ],
)
def test_a_tick_is_owed_the_newest_frame_seen(count: int, source: Fraction, taken: list[int]) -> None:
    assert always(count, source, Fraction(10)) == taken


@pytest.mark.parametrize("wanted", [Fraction(n) for n in (10, 15, 25, 30)] + [Fraction(24000, 1001)])
@pytest.mark.parametrize("source", [Fraction(5), Fraction(25, 2), Fraction(25), NTSC, Fraction(60)])
def test_of_a_constant_rate_the_frames_are_taken_that_always_were(source: Fraction, wanted: Fraction) -> None:
    ticks = Ticks(wanted)
    owed = (ticks.owed(i / source, (i + 1) / source) for i in range(300))
    assert [i for i, n in enumerate(owed) for _ in range(n)] == always(300, source, wanted)


def test_of_the_shipped_clips_the_frames_are_taken_that_always_were() -> None:
    for path in sorted(CLIPS.rglob("*.mp4"))[::6]:
        video = read_video(path)
        for wanted in (Fraction(10), Fraction(25)):
            with open_video(path) as again:
                got = [frame.index for frame in taken(again, wanted)]
            assert got == always(len(video.frames), video.fps, wanted), path


@pytest.mark.parametrize("name", ["dark.mp4", "dark.mkv", "dark.ts", "dark.flv", "dark.mov"])
def test_a_variable_rate_is_shown_and_taken_at_its_own_time(make: Make, name: str) -> None:
    path = make(name, "-vf", DARK, "-fps_mode", "vfr", *H264, seconds=6)
    found = times(path)
    assert len(found) == 80 and found[-1] == pytest.approx(5.8, abs=2e-3)
    assert found[:3] == pytest.approx([0, 1 / 30, 2 / 30], abs=2e-3)
    with open_video(path) as video:
        assert video.fps == 30  # the header of an .mp4 says 13.7, the mean
        seen = [frame.index for frame in taken(video, Fraction(10))]
    assert seen == [*range(0, 60, 3), *(i for i in range(60, 80) for _ in range(2))]


def test_a_late_start_and_an_edit_list_begin_at_zero(make: Make) -> None:
    whole = make("whole.mp4", "-bf", "2", *H264)
    late = make("late.mkv", "-c", "copy", "-output_ts_offset", "5", source=str(whole))
    assert times(late)[::119] == pytest.approx([0, 119 / 30], abs=2e-3)
    cut = make("cut.mp4", "-t", "2", "-c", "copy", source=str(whole), start="1.25")
    assert structure(cut).shown_s == pytest.approx(2, abs=0.1)
    found = times(cut)
    assert 58 <= len(found) <= 63 and found[-1] == pytest.approx((len(found) - 1) / 30, abs=2e-3)


@pytest.mark.parametrize("name", ["long.mkv", "long.mp4", "long.webm", "long.ts"])
def test_sound_that_outlasts_the_picture_is_no_truncation(make: Make, name: str) -> None:
    sound = ("-f", "lavfi", "-i", "sine=duration=9")
    codec = ("-c:v", "libvpx") if name.endswith("webm") else H264
    with open_video(make(name, *sound, *codec, seconds=6, rate="10")) as video:
        assert len(list(video)) == 60
        said = video.doubt
    if name != "long.mp4":  # its header counts the frames
        assert said and said[1].startswith("the picture lasts 6.0 s, the file ")


@pytest.mark.parametrize(
    "name",
    ["x.ts", "x.mts", "x.m2ts", "X.MPG", "x.wmv", "x.flv", "x.webm", "x.ogv", "x.mxf", "x.gif", "x.3gp"],
)
def test_what_ffmpeg_reads_is_read(make: Make, name: str) -> None:
    codec = {"webm": "libvpx", "gif": "gif", "ogv": "libtheora", "wmv": "wmv2"}.get(name[2:])
    codec = codec or ("mpeg2video" if name[2:] in ("MPG", "mxf") else "libx264")
    options = ("-pix_fmt", "yuv420p") if codec != "gif" else ()
    found = times(make(name, "-c:v", codec, *options, rate="25", seconds=2))
    assert len(found) == 50 and found == pytest.approx([i / 25 for i in range(50)], abs=2e-3)


def test_raw_h264_without_stamps_and_a_repeated_recording_are_read_to_the_end(
    make: Make, tmp_path: Path
) -> None:
    raw = make("x.h264", *H264, rate="25", seconds=2)
    with open_video(raw) as video:
        assert [float(f.time_s) for f in video] == pytest.approx([i / 25 for i in range(50)])
        assert video.doubt and "25 frames a second are assumed" in video.doubt[1]
    one = make("one.ts", *H264, rate="25", seconds=2)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(one.read_bytes() * 2)
    assert times(twice) == pytest.approx([i / 25 for i in range(100)], abs=0.05)


def test_a_phone_held_upright_gives_upright_frames(make: Make) -> None:
    lying = make("lying.mp4", *H264)
    for how in (("-metadata:s:v:0", "rotate=90"),):
        turned = make("turned.mp4", "-c", "copy", *how, source=str(lying))
        assert frames(turned)[0].pixels.shape == (64, 48, 3)


def test_ten_bits_and_odd_sizes_give_bgr(make: Make) -> None:
    ten = make("ten.mkv", "-vf", "scale=65:49", "-c:v", "ffv1", "-pix_fmt", "yuv444p10le")
    assert frames(ten)[0].pixels.shape == (49, 65, 3) and frames(ten)[0].pixels.dtype == np.uint8


def test_a_recording_that_begins_between_key_frames_is_read(make: Make, tmp_path: Path) -> None:
    whole = make("gop.ts", *H264, "-g", "60", seconds=10).read_bytes()
    middle = tmp_path / "middle.ts"
    middle.write_bytes(whole[188 * (len(whole) // 188 // 3) :])
    found = times(middle)
    assert len(found) > 150 and found == pytest.approx([i / 30 for i in range(len(found))], abs=2e-3)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.webm", "x.mov"])
def test_a_file_that_was_cut_off_is_refused_before_it_is_read(make: Make, tmp_path: Path, name: str) -> None:
    codec = ("-c:v", "libvpx") if name.endswith("webm") else ("-c:v", "mpeg4")
    front = ("-movflags", "+faststart") if name[-3:] in ("mp4", "mov") else ()
    whole = make("whole" + name[1:], *codec, *front)
    cut = tmp_path / name
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with pytest.raises(UsageError, match="is truncated: its header promises"), open_video(cut):
        pass


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_overwritten_bytes_are_damage(make: Make, tmp_path: Path, share: float) -> None:
    whole = bytearray(make("whole.mp4", *H264, "-movflags", "+faststart", seconds=8).read_bytes())
    begin = int(share * len(whole))
    end = len(whole) if share > 0.5 else begin + len(whole) // 8
    whole[begin:end] = np.random.default_rng(0).bytes(end - begin)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(whole)
    with pytest.raises(UsageError, match="is damaged: .* Copy the file again"):
        frames(path)


def test_a_header_with_a_wrong_rate_is_measured(make: Make) -> None:
    with open_video(make("fast.mp4", *H264, rate="1000", seconds=0.2)) as video:
        assert video.fps == 1000 and float(list(video)[-1].time_s) == pytest.approx(0.199)


def test_a_gap_of_minutes_is_a_jump_and_owes_no_ticks(make: Make) -> None:
    path = make(
        "gap.mp4", "-vf", "setpts='PTS+gte(N,30)*300/TB'", "-fps_mode", "passthrough", *H264, rate="10"
    )
    with open_video(path) as video:
        seen = list(taken(video, Fraction(10)))
    assert [f.index for f in seen] == list(range(40))
    assert [f.index for f in seen if f.jump_s] == [30] and seen[30].time_s == pytest.approx(303)


def test_one_frame_is_a_video(write_video: Make) -> None:
    with open_video(write_video("one.mp4", [90])) as video:
        assert [f.index for f in taken(video, Fraction(10))] == [0]


def test_a_file_of_which_no_frame_can_be_decoded_names_its_codec(make: Make) -> None:
    path = make("x.mp4", *H264, "-movflags", "+faststart", seconds=1)
    head, _, pictures = path.read_bytes().partition(b"mdat")
    path.write_bytes(head + b"mdat" + bytes(len(pictures)))
    with pytest.raises(UsageError, match=r"decoded here \(codec \w+\)\..*Then convert it: ffmpeg"):
        frames(path)


def test_a_run_keeps_the_time_of_a_variable_rate(make: Make, step_bundle: Path, tmp_path: Path) -> None:
    path, out = make("dark.mkv", "-vf", DARK, "-fps_mode", "vfr", *H264, seconds=6), tmp_path / "out.mp4"
    told: list[dict[str, Any]] = []
    found = run_file(bundle.read(step_bundle).variant(), step_bundle, path, video=out, emit=told.append)
    assert (found["frames_read"], found["frames_answered"]) == (80, 60)
    *answers, summary = told
    assert [answers[i]["time_s"] for i in (10, 20, -1)] == [1.0, 2.0, 5.8] and summary == found
    drawn = read_video(out)
    assert len(drawn.frames) / drawn.fps == pytest.approx(6, abs=0.25)


def test_a_run_over_a_jump_of_the_clock_begins_anew(make: Make, step_bundle: Path, tmp_path: Path) -> None:
    one = make("one.ts", *H264, rate="10", seconds=2).read_bytes()
    twice, out = tmp_path / "twice.ts", tmp_path / "out.mp4"
    twice.write_bytes(one * 2)
    told: list[dict[str, Any]] = []
    run_file(bundle.read(step_bundle).variant(), step_bundle, twice, video=out, emit=told.append)
    place = next(i for i, record in enumerate(told) if record["type"] == "status")
    assert told[place]["what"] == "clock_jumped" and told[place + 1]["restarted"]
    assert {record["version"] for record in told} == {1}
    assert told[-2]["time_s"] == pytest.approx(3.9, abs=0.11) and len(read_video(out).frames) in range(39, 42)


def test_a_file_is_read_as_a_source_with_the_same_times(make: Make) -> None:
    path = make("dark.mp4", "-vf", DARK, "-fps_mode", "vfr", *H264, "-f", "mp4", seconds=6)
    told: list[dict[str, Any]] = []
    source = open_source(str(path), on_status=told.append)
    assert [f.time_s for f in iter(source.read, None) if f] == times(path) and not told


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi"])
def test_bytes_of_any_kind_have_a_structure(write_video: Make, tmp_path: Path, name: str) -> None:
    whole = write_video(name, [10, 20]).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole[: rng.integers(1, len(whole))])
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(256)
        (tmp_path / name).write_bytes(data)
        assert structure(tmp_path / name).missing >= 0


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_picture_that_was_cut_off_is_refused_and_not_painted_grey(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    data = cv2.imencode(kind, noise)[1].tobytes()
    path = tmp_path / f"a{kind}"
    path.write_bytes(data + b"\xff\xda what a phone writes behind")
    with open_video(path) as video:
        assert video.read() is not None
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match="is truncated"), open_video(path):
        pass


def test_the_end_of_a_thumbnail_is_not_that_of_its_picture() -> None:
    small, large = (cv2.imencode(".jpg", np.full((n, n, 3), 90, np.uint8))[1].tobytes() for n in (16, 64))
    exif = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    whole = large[:2] + exif + large[2:]
    assert picture_ends(whole) and not picture_ends(whole[:-2])


VARIABLE = ("-vf", DARK, "-fps_mode", "vfr", *H264)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant.mp4", H264),
        ("variable.mp4", VARIABLE),
        ("variable.mkv", VARIABLE),
        ("constant.avi", ("-c:v", "mpeg4")),
    ],
)
def test_an_index_says_how_long_the_picture_is_at_most(
    make: Make, name: str, options: tuple[str, ...]
) -> None:
    with open_video(make(name, *options, seconds=6)) as video:
        most_s = video.most_s
        last = list(video)[-1]
        end_s = last.time_s + video.step_s
    assert most_s is not None and end_s - Fraction(1, 100) <= most_s <= end_s + Fraction(5, 2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stream.ts", H264),
        ("raw.h264", H264),
        ("fragments.mp4", (*H264, "-movflags", "frag_keyframe+empty_moov")),
        ("live.mkv", (*H264, "-live", "1")),
    ],
)
def test_without_an_index_nobody_knows_how_long_the_picture_is(
    make: Make, name: str, options: tuple[str, ...]
) -> None:
    with open_video(make(name, *options)) as video:
        assert video.most_s is None
