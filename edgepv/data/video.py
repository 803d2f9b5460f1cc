"""Video files, frame by frame: decoded, each at the time it is shown, and which of them a model takes.

OpenCV decodes, and says when each frame is shown (CAP_PROP_POS_MSEC). On files with variable rates, late
starts, edit lists, wrapped and repeated clocks and B-frames its stamps are those of the file wherever it has
any (tests/data/test_video_files.py); PyAV would bring a second FFmpeg to every device. What PyAV
says and OpenCV
does not, that a frame could not be decoded, is told by frames that come after such a one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.base.quiet import hush_native
from edgepv.data.container import Structure, picture_ends, structure
from edgepv.errors import UsageError

SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".3gp", ".3g2", ".asf", ".dav", ".divx", ".dv", ".f4v",
    ".flv", ".gif", ".m2ts", ".m2v", ".mjpeg", ".mjpg", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
    ".qt", ".ts", ".vob", ".wmv", ".xvid", ".y4m", ".264", ".265", ".h264", ".h265", ".hevc",
)  # fmt: skip
"""What is taken for a video; FFmpeg tells the formats apart by their bytes."""
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""What is taken for a picture, which is a video of one frame."""
_NTSC = (24, 30, 48, 60, 120)
UNSAID_FPS = Fraction(10)
STEADY_S = Fraction(2, 1000)
"""A stamp this near to index / rate is that of a constant rate: containers round to 1/600 s or 1 ms."""
ROUNDED_S = Fraction(1, 1000)
"""How much later than it was a frame of a variable rate may be stamped."""
DISORDER_S = Fraction(1, 2)
"""Stamps that go back by less are out of order; by more, the clock began again."""
JUMP_S = Fraction(10)
SPARE_S = Fraction(2)
"""How much longer a picture may last than its header says: B-frames come out later than they are decoded, and
the time of the last frame is not in every sum."""
PEEKED = 10
"""Frames whose stamps a header's rate is held against."""
TRIES = 64
"""Frames in a row that may fail to decode: at the start of a recording until a key frame, later at damage."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a file.

    pixels: (H, W, 3) uint8 BGR, turned upright if the file says how. time_s: when it is shown, from the first
    frame on; it never goes back. seen_s: from when on it counts as seen, a little before time_s where stamps
    are rounded. jump_s: of the clock before this frame; None where it goes on.
    """

    index: int
    pixels: np.ndarray
    time_s: Fraction
    seen_s: Fraction
    jump_s: float | None = None


@dataclass(frozen=True)
class Video:
    """A decoded video: frames (H, W, 3) uint8 BGR in order, and its nominal frame rate."""

    frames: tuple[np.ndarray, ...]
    fps: Fraction


def read_video(path: Path) -> Video:
    """Decode every frame of a short video; all are held in memory. Raises UsageError like ``open_video``."""
    with open_video(path) as video:
        return Video(tuple(frame.pixels for frame in video), video.fps)


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[VideoReader]:
    """A video to be read frame by frame.

    Raises UsageError if the file is missing, has the suffix of no video, cannot be opened, or was cut off;
    and at its end if no frame could be decoded or some in the middle could not (see ``VideoReader``). A
    picture is a video of one frame, and a folder of numbered pictures one of all of them.
    """
    reader = FilmReader(path) if path.is_dir() else _reader(path)
    try:
        yield reader
    finally:
        reader.close()


def _reader(path: Path) -> VideoReader:
    """What reads a file."""
    return StillReader(path) if path.suffix.lower() in PICTURES else VideoReader(path)


class VideoReader:
    """Frames of a file in order, with their times.

    fps: the rate as the header says it, or, where the first stamps say otherwise, as they do. At the end
    ``read`` raises UsageError if there was no frame, if later frames came after some that could not be
    decoded, or if the picture ends before the length that the header gives for the picture itself. doubt:
    afterwards, (word, sentence) of what nobody can tell: whether a picture that ends before the file does
    lacks anything, and the rate of one without time stamps.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._cv2 = path, need("cv2", extra="cpu")
        self._structure = _refuse_cut(path)
        self._capture = _opened(self._cv2, path)
        said = self._capture.get(self._cv2.CAP_PROP_FPS)
        self.fps = _rate(self._cv2, path, frame_rate(said))
        counted = self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)
        self._count = max(0, int(counted))
        self._promised_s = self._count / Fraction(said) if said > 0 else Fraction(0)
        self._times = FrameTimes(self.fps)
        self.read_count = 0
        self._ended = False
        self.doubt: tuple[str, str] | None = None

    def __iter__(self) -> Iterator[VideoFrame]:
        return iter(self.read, None)

    def read(self) -> VideoFrame | None:
        """The next frame; None at the end."""
        while not self._ended:
            if not self._grab():
                self._ended = True
                self._judge_end()
                break
            stamp_s = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000
            ok, pixels = self._capture.retrieve()
            if not ok:
                raise self._damaged()
            time_s, seen_s, jump_s = self._times.place(stamp_s)
            self.read_count += 1
            return VideoFrame(self.read_count - 1, pixels, time_s, seen_s, jump_s)
        return None

    @property
    def most_s(self) -> Fraction | None:
        """How long the picture lasts at most, by a header that was written at the end; None without one."""
        header = self._structure
        lasts_s = self._promised_s if header.media_s is None else header.media_s
        return lasts_s + SPARE_S if header.indexed and lasts_s else None

    @property
    def step_s(self) -> Fraction:
        """Between the last two frames that no jump parts."""
        return self._times.step_s

    def close(self) -> None:
        """Let the file go."""
        self._ended = True
        self._capture.release()

    def _grab(self) -> bool:
        if self._capture.grab():
            return True
        for _ in range(TRIES):
            if self._capture.grab():
                if self.read_count:
                    raise self._damaged()
                return True
        return False

    def _damaged(self) -> UsageError:
        return UsageError(
            f"{self._path} is damaged: what follows {float(self._times.last_s):.1f} s cannot be decoded, and "
            "later frames can. Copy the file again"
        )

    def _codec(self) -> str:
        """ " here (codec av01)", of a capture that knows its codec: not every OpenCV has every decoder."""
        code = int(self._capture.get(self._cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
        return f" here (codec {code.decode()})" if code.isalnum() else ""

    def _judge_end(self) -> None:
        if not self.read_count:
            raise UsageError(
                f"{self._path} holds no video frame that can be decoded{self._codec()}. Is it a video, and "
                "whole? Then convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4"
            )
        end_s, header = self._times.last_s + self.step_s, self._structure
        lost = self.read_count < self._count - 2
        short_s: Fraction = max(3 / self.fps, Fraction(3, 10))
        promised_s = self._promised_s if header.shown_s is None else header.shown_s
        if header.counted and lost and end_s < promised_s - short_s:
            raise UsageError(
                f"{self._path} is damaged: its header promises {self._count} frames, the last of the "
                f"{self.read_count} that could be decoded is at {float(self._times.last_s):.1f} s. Copy the "
                "file again"
            )
        if lost and end_s < promised_s - max(Fraction(1), 2 * short_s):
            self.doubt = (
                "short_picture",
                f"the picture lasts {float(end_s):.1f} s, the file {float(promised_s):.1f} s: the rest "
                "is sound alone, or lost",
            )
        elif not header.stamped:
            self.doubt = (
                "no_time_stamps",
                f"a raw stream has no time stamps; {float(self.fps):g} frames a second are assumed. Put it "
                "into an .mp4 or .mkv that says its rate",
            )


class StillReader(VideoReader):
    """One picture as a video of one frame, upright as its EXIF says. Raises UsageError if it is none."""

    _structure = Structure()

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"{path} does not exist or is not a file. Check the path of the picture")
        if not picture_ends(path.read_bytes()):
            raise UsageError(f"{path} is truncated: the picture has no end. Copy the file again")
        cv2 = need("cv2", extra="cpu")
        self.fps, self.read_count, self.doubt = UNSAID_FPS, 0, None
        with hush_native():
            self._pixels: np.ndarray | None = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if self._pixels is None:
            raise UsageError(f"{path} cannot be opened as a picture. {_what_else(path)}")

    def read(self) -> VideoFrame | None:
        """The picture, once."""
        if self._pixels is None:
            return None
        pixels, self._pixels = self._pixels, None
        self.read_count = 1
        return VideoFrame(0, pixels, Fraction(0), Fraction(0))

    @property
    def step_s(self) -> Fraction:
        """It is shown for one frame of a rate that nobody says."""
        return 1 / self.fps

    def close(self) -> None:
        """Let the picture go."""
        self._pixels = None


def film_frames(folder: Path) -> list[Path]:
    """The pictures of a folder of which all are numbered, 00000.jpg and so on, in order; [] of another."""
    pictures = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    return sorted(pictures, key=lambda p: int(p.stem)) if all(p.stem.isdecimal() for p in pictures) else []


class FilmReader(StillReader):
    """A folder of numbered pictures as a video of ``UNSAID_FPS``, since nothing says its rate."""

    def __init__(self, folder: Path) -> None:
        self._paths = film_frames(folder)
        if not self._paths:
            raise UsageError(f"{folder} holds no pictures called by numbers, 00000.jpg and so on, as frames")
        super().__init__(self._paths[0])
        told = f"a folder of pictures says no rate; {float(self.fps):g} frames a second are assumed"
        self.doubt = ("no_time_stamps", told)

    def read(self) -> VideoFrame | None:
        """The next picture; None at the end."""
        if self.read_count == len(self._paths):
            return None
        with open_video(self._paths[self.read_count]) as still:
            pixels = next(iter(still)).pixels
        time_s = self.read_count / self.fps
        self.read_count += 1
        return VideoFrame(self.read_count - 1, pixels, time_s, time_s)


def _refuse_cut(path: Path) -> Structure:
    """What the file's structure says. Raises UsageError if there is no such video, or it was cut off."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist or is not a file. Check the path of the video")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: not a video suffix. Known: {', '.join(SUFFIXES)}")
    header = structure(path)
    if header.missing:
        size = path.stat().st_size
        raise UsageError(
            f"{path} is truncated: its header promises {size + header.missing} bytes, {size} are there. Copy "
            "the file again"
        )
    return header


def _opened(cv2: Any, path: Path) -> Any:
    """An open capture of a file. FFmpeg says nothing by itself, and looks past any length of sound."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", str(1 << 30))
    logs = cv2.utils.logging
    logs.setLogLevel(min(logs.getLogLevel(), logs.LOG_LEVEL_ERROR))
    with hush_native():
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise UsageError(f"{path} cannot be opened as a video. {_what_else(path)}")
    return capture


def _what_else(path: Path) -> str:
    """What a file that is no video may be, and what to do."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if not head:
        return "It is empty: copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "It is the pointer of Git LFS to one: run git lfs pull"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "It is text, as a server sends instead of a file: download it again"
    return "It may be truncated or not a video"


def _rate(cv2: Any, path: Path, said: Fraction | None) -> Fraction:
    """The rate in frames per second that a header says, unless the first frames have other stamps.

    A header may hold the mean of a variable rate, twice the rate, or the ticks of its clock.
    """
    capture = _opened(cv2, path)
    stamps = [capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 for _ in range(PEEKED) if capture.grab()]
    capture.release()
    apart = [abs(s - stamps[0] - i / said) for i, s in enumerate(stamps) if s or not i] if said else [np.inf]
    steps = [b - a for a, b in itertools.pairwise(stamps) if b > a]
    if max(apart, default=0) <= STEADY_S or not steps:
        return said or UNSAID_FPS
    usual = [step for step in steps if abs(step / np.median(steps) - 1) < 0.2]
    measured = Fraction(len(usual) / sum(usual))
    return frame_rate(measured) or measured.limit_denominator(1001)


def frame_rate(value: float | Fraction) -> Fraction | None:
    """Frames per second as a fraction: 29.97 is 30000/1001. None for what is no rate (0, NaN, 90000)."""
    if not 0 < float(value) < 1000:
        return None
    rate = Fraction(value)
    for whole in _NTSC:
        exact = Fraction(whole * 1000, 1001)
        if abs(rate - exact) < Fraction(5, 1000):
            return exact
    return rate.limit_denominator(1001)


class FrameTimes:
    """The times of a file's frames, from the stamps that its decoder gives.

    As long as every stamp stays within ``STEADY_S`` of index / fps, or there are none, times are index / fps
    exactly, so a constant rate neither drifts nor jitters. From the first other stamp on they are the stamps
    themselves. A frame without a stamp (0) follows at the last distance. A clock that begins again goes on
    from the frame before; one that goes ahead by more than ``JUMP_S`` is told as a jump.
    """

    def __init__(self, fps: Fraction) -> None:
        self._fps = fps
        self._count = 0
        self._steady = True
        self._first = self._stamp = self._shift = Fraction(0)
        self.step_s = 1 / fps
        self.last_s = Fraction(0)

    def place(self, stamp_s: float) -> tuple[Fraction, Fraction, float | None]:
        """(time, time from which on it counts as seen, jump before it or None) of the next frame."""
        index, self._count = self._count, self._count + 1
        stamp = Fraction(round(stamp_s * 10**6), 10**6) if abs(stamp_s) < 1e9 else Fraction(0)
        if index == 0:
            self._first = self._stamp = stamp
            return self.last_s, self.last_s, None
        due, missing = index / self._fps, stamp == 0
        self._steady = self._steady and (missing or abs(stamp - self._first - due) <= STEADY_S)
        if self._steady:
            self._stamp, self.last_s = self._first + due, due
            return due, due, None
        return self._by_stamp(stamp, missing)

    def _by_stamp(self, stamp: Fraction, missing: bool) -> tuple[Fraction, Fraction, float | None]:
        before, jump = self.last_s, None
        time: Fraction
        if missing:
            time = before + self.step_s
        else:
            if stamp < self._stamp - DISORDER_S:
                self._shift = before + self.step_s - (stamp - self._first)
                jump = float(stamp - self._stamp)
            self._stamp = stamp
            time = max(before, stamp - self._first + self._shift)
        step = time - before
        if step > max(JUMP_S, 2 / self._fps):
            jump = float(step)
        elif step:
            self.step_s = step
        self.last_s = time
        return time, max(before, time - ROUNDED_S), jump


class Ticks:
    """A model's clock at ``fps``: tick k, at k / fps after the start, is owed the newest frame seen then.

    The rule for files and for live cameras (``runtimes.sources.pace.Due``). The clock starts at the first
    frame, and again at one before which the file's own clock jumped.
    """

    def __init__(self, fps: Fraction) -> None:
        self._fps = fps
        self._start_s = Fraction(0)

    def restart(self, time_s: Fraction) -> None:
        """Tick 0 is at this time."""
        self._start_s = time_s

    def owed(self, from_s: Fraction, until_s: Fraction) -> int:
        """How many ticks are owed a frame that is the newest from one time on until another."""
        return max(0, self.before(until_s) - self.before(from_s))

    def before(self, time_s: Fraction) -> int:
        """How many ticks there are before a time."""
        return -((self._start_s - time_s) * self._fps // 1)


def at_rate(video: VideoReader, fps: Fraction) -> Iterator[tuple[VideoFrame, int]]:
    """Every frame with how many of a model's ticks at ``fps`` it is owed.

    0 for one that is passed over, more than one where the video is slower. At most two frames are held at a
    time.
    """
    ticks = Ticks(fps)
    frame = video.read()
    while frame is not None:
        after = video.read()
        if frame.jump_s is not None:
            ticks.restart(frame.seen_s)
        yield frame, ticks.owed(frame.seen_s, _until_s(video, frame, after))
        frame = after


def _until_s(video: VideoReader, frame: VideoFrame, after: VideoFrame | None) -> Fraction:
    """Until when a frame is the newest: the next one; at the end and before a jump, a usual distance."""
    usual_s = frame.seen_s + video.step_s
    if after is None:
        return usual_s
    return after.seen_s if after.jump_s is None else min(after.seen_s, usual_s)


def taken(video: VideoReader, fps: Fraction) -> Iterator[VideoFrame]:
    """The frames that a model at ``fps`` takes, one for each tick; a slow video repeats them."""
    for frame, count in at_rate(video, fps):
        yield from itertools.repeat(frame, count)
