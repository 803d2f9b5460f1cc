"""Reconnecting with planted faults: every restart is marked and told, and time only grows."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from edgepv.errors import SourceLostError, TargetUnavailableError, UsageError
from edgepv.runtimes.sources import Frame
from edgepv.runtimes.sources.capture import StreamClock
from edgepv.runtimes.sources.reconnect import Reconnecting

GREY = np.full((4, 6, 3), 9, np.uint8)


class Planted:
    """A camera at 10 fps that gives what it was told to: frames, or errors to raise."""

    live = True

    def __init__(self, given: list[Frame | Exception], opened: list[Planted] | None = None) -> None:
        self.fps: Fraction | None = Fraction(10)
        self._given = list(given)
        self.closed = False
        if opened is not None:
            opened.append(self)

    def read(self) -> Frame | None:
        if not self._given:
            raise SourceLostError("cam is gone")
        given = self._given.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    def close(self) -> None:
        self.closed = True


def at(time_s: float, arrived_s: float | None = None, pixels: np.ndarray = GREY) -> Frame:
    return Frame(pixels, time_s, time_s if arrived_s is None else arrived_s)


def kept(
    *openings: list[Frame | Exception] | Exception, must_open: bool = True
) -> tuple[Reconnecting, list[dict[str, Any]], list[float]]:
    """A source that opens as told, one after the other; what it tells; and how long it sleeps."""
    left = list(openings)
    told: list[dict[str, Any]] = []
    slept: list[float] = []

    def open_again() -> Planted:
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return Planted(given)

    source = Reconnecting(open_again, told.append, must_open=must_open, clock=lambda: 0.0, sleep=slept.append)
    return source, told, slept


def read(source: Reconnecting, count: int) -> list[Frame]:
    frames = [source.read() for _ in range(count)]
    source.close()
    return [frame for frame in frames if frame]


def test_a_camera_that_comes_back_is_marked_once_and_its_time_goes_on() -> None:
    source, told, slept = kept([at(7, 100), at(7.1, 100.1)], [at(0, 105.1), at(0.1, 105.2)])
    frames = read(source, 4)
    assert [f.why for f in frames] == ["", "", "reconnected", ""]
    assert [f.restarted for f in frames] == [False, False, True, False]
    assert [f.time_s for f in frames] == pytest.approx([7, 7.1, 12.1, 12.2])  # 5 s passed here
    assert [(s["type"], s["what"], s["why"]) for s in told] == [
        ("status", "camera_lost", "cam is gone"),
        ("status", "camera_back", "after 0.0 s"),
    ]
    assert told[1]["tries"] == 1 and 0.25 <= slept[0] <= 0.5


def test_the_pauses_double_from_half_a_second_to_30_s_with_jitter_and_start_again_after_a_frame() -> None:
    away = UsageError("cam cannot be opened")
    source, told, slept = kept([at(0)], *[away] * 9, [at(1)], away, [at(2)])
    assert len(read(source, 3)) == 3
    longest = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 0.5, 1]
    assert len(slept) == len(longest)
    assert all(most / 2 <= pause <= most for pause, most in zip(slept, longest))
    assert len({pause / most for pause, most in zip(slept, longest)}) > 6  # not all cameras at once
    assert [s["what"] for s in told] == ["camera_lost", "camera_back"] * 2 and told[1]["tries"] == 10


def test_a_camera_that_was_never_there_is_an_error_or_waited_for() -> None:
    with pytest.raises(UsageError, match="cam cannot be opened"):
        kept(UsageError("cam cannot be opened"))
    source, told, slept = kept(UsageError("cam cannot be opened"), [at(5)], must_open=False)
    assert told == []
    (frame,) = read(source, 1)
    assert (frame.time_s, frame.restarted) == (5, False) and len(slept) == 1
    assert [s["what"] for s in told] == ["camera_lost", "camera_back"]


def test_a_missing_library_is_not_waited_for() -> None:
    source, _, slept = kept(TargetUnavailableError("no gi"), must_open=False)
    with pytest.raises(TargetUnavailableError):
        source.read()
    assert slept == []


def test_an_error_nobody_thought_of_is_a_lost_camera() -> None:
    source, told, _ = kept([at(0), ValueError("bad packet")], [at(1)])
    assert [f.why for f in read(source, 2)] == ["", "reconnected"]
    assert told[0]["why"] == "ValueError: bad packet"


@pytest.mark.parametrize(
    "pixels",
    [
        np.empty((0, 0, 3), np.uint8),
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((4, 6, 3), np.float32),
    ],
    ids=["not decoded", "no channels", "four channels", "float"],
)
def test_damaged_frames_are_skipped_counted_and_told_once_a_burst(pixels: np.ndarray) -> None:
    again = at(0.4, pixels=pixels)
    source, told, _ = kept([at(0), at(0.1, pixels=pixels), at(0.2, pixels=pixels), at(0.3), again, at(0.5)])
    frames = read(source, 3)
    assert [f.time_s for f in frames] == [0, 0.3, 0.5] and not any(f.restarted for f in frames)
    assert source.skipped == 3
    assert told == [
        {"type": "status", "what": "frames_skipped", "why": "2 damaged", "count": 2},
        {"type": "status", "what": "frames_skipped", "why": "1 damaged", "count": 1},
    ]


def test_100_damaged_frames_in_a_row_are_a_lost_camera() -> None:
    broken: list[Frame | Exception] = [at(i / 10, pixels=GREY[:0]) for i in range(1, 101)]
    source, told, _ = kept([at(0), *broken], [at(20)])
    assert [f.why for f in read(source, 2)] == ["", "reconnected"] and source.skipped == 100
    assert told[0]["why"] == "100 damaged frames in a row; the last: it could not be decoded"


def test_a_change_of_size_is_a_restart() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    source, told, _ = kept([at(0), at(0.1, pixels=wide), at(0.2, pixels=wide)])
    frames = read(source, 3)
    assert [f.why for f in frames] == ["", "size changed from 6x4 to 8x4", ""]
    assert [f.restarted for f in frames] == [False, True, False]
    assert [f.time_s for f in frames] == pytest.approx([0, 0.1, 0.2])
    assert [s["what"] for s in told] == ["size_changed"]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (0.0, ""),  # two frames of one time
        (4.9, ""),  # 49 periods
        (5.1, "the clock jumped by +5.1 s"),
        (-0.1, "the clock jumped by -0.1 s"),
        (-3600.0, "the clock jumped by -3600.0 s"),
    ],
)
def test_a_clock_that_goes_back_or_50_periods_ahead_is_a_restart(step: float, why: str) -> None:
    source, told, _ = kept([at(5000, 0), at(5000 + step, 0.1), at(5000.1 + step, 0.2)])
    frames = read(source, 3)
    assert [f.why for f in frames] == ["", why, ""]
    assert [s["what"] for s in told] == (["clock_jumped"] if why else [])
    expected = [5000, 5000.1, 5000.2] if why else [5000, 5000 + step, 5000.1 + step]
    assert [f.time_s for f in frames] == pytest.approx(expected)


def test_a_slow_cameras_own_period_is_no_jump_and_10_s_is_one_for_a_camera_without_a_rate() -> None:
    def steps(rate: Fraction | None, step: float) -> str:
        camera = Planted([at(0), at(step)])
        camera.fps = rate
        source = Reconnecting(lambda: camera, lambda record: None)
        return read(source, 2)[1].why

    assert steps(Fraction(1, 20), 20) == ""
    assert steps(Fraction(1), 9.9) == "" and steps(Fraction(1), 10.1) != ""
    assert steps(None, 9.9) == "" and steps(None, 10.1) == "the clock jumped by +10.1 s"


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_close_ends_a_read_that_hangs_and_lets_the_device_go_when_it_wakes() -> None:
    hang = threading.Event()

    class Hanging(Planted):
        def read(self) -> Frame | None:
            hang.wait()
            return at(0)

    camera = Hanging([])
    source = Reconnecting(lambda: camera, lambda record: None)
    threading.Timer(0.1, source.close).start()
    start = time.monotonic()
    assert source.read() is None and time.monotonic() - start < 1
    assert not camera.closed
    hang.set()
    wait_for(lambda: camera.closed)
    assert source.read() is None


def test_close_ends_a_pause_between_two_attempts_and_an_opening_that_hangs() -> None:
    hang = threading.Event()

    def never() -> Planted:
        raise UsageError("cam cannot be opened")

    def slow() -> Planted:
        hang.wait()
        return Planted([])

    for open_again in (never, slow):
        source = Reconnecting(open_again, lambda record: None, must_open=False)
        threading.Timer(0.1, source.close).start()
        start = time.monotonic()
        assert source.read() is None and time.monotonic() - start < 1
    hang.set()


def test_a_source_that_says_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepv.runtimes.sources.reconnect.SILENT_S", 0.1)
    hang = threading.Event()
    opened: list[Planted] = []

    class Hanging(Planted):
        def read(self) -> Frame | None:
            if len(opened) == 1:
                hang.wait()
            return super().read()

    told: list[dict[str, Any]] = []
    source = Reconnecting(lambda: Hanging([at(0)], opened), told.append, sleep=lambda seconds: None)
    frame = source.read()
    assert frame and told[0]["why"] == "the source said nothing for 0.1 s"
    source.close()
    hang.set()
    wait_for(lambda: all(camera.closed for camera in opened))


def test_a_program_that_forgets_to_close_its_camera_ends() -> None:
    program = """
import numpy as np
from edgepv.runtimes.sources import Frame
from edgepv.runtimes.sources.reconnect import Reconnecting
class Camera:
    live, fps = True, None
    def read(self): return Frame(np.zeros((2, 2, 3), np.uint8), 0.0, 0.0)
    def close(self): print("closed", flush=True)
Reconnecting(Camera, print).read()
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "closed\n", "")


def test_a_stream_without_a_clock_gets_the_arrival() -> None:
    clock = StreamClock()
    arrivals = [100.0, 100.04, 100.09, 100.12]
    assert [clock(0.0, a) for a in arrivals] == pytest.approx([0, 0.04, 0.09, 0.12])
    clock = StreamClock()
    moving = [clock(taken, a) for taken, a in zip([5.0, 5.04, 5.04, 0.0], arrivals)]
    assert moving == pytest.approx([5, 5.04, 5.09, 5.12])  # it stood still once and is not asked again
    clock = StreamClock()
    assert [clock(taken, a) for taken, a in zip([5.0, 3.0, 3.1], arrivals)] == [5, 3, 3.1]  # a jump stays
