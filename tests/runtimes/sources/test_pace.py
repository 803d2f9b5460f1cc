"""Time: a file replayed as a camera, and which frames a model is owed."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepv.data.video import Ticks
from edgepv.errors import UsageError
from edgepv.runtimes.sources import Frame, open_source
from edgepv.runtimes.sources.pace import Due, Pace, Rate

TEN = [i / 10 for i in range(10)]


class Film:
    """Frames of these times whose first pixel is their number, and a clock that only sleeping moves."""

    live = False

    def __init__(self, times: Sequence[float] = TEN, fps: Fraction | None = Fraction(10)) -> None:
        self.fps, self.now_s = fps, 50.0
        self._times, self._number = times, -1

    def read(self) -> Frame | None:
        self._number += 1
        if self._number == len(self._times):
            return None
        return Frame(np.full((2, 2, 3), self._number, np.uint8), self._times[self._number], 0.0)

    def close(self) -> None:
        pass

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds


def paced(rate: float = 1.0) -> tuple[Pace, Film]:
    film = Film()
    return Pace(film, rate=rate, clock=lambda: film.now_s, sleep=film.pass_), film


@pytest.mark.parametrize(("rate", "lasts"), [(1.0, 0.9), (2.0, 0.45), (0.5, 1.8)])
def test_a_prompt_reader_gets_every_frame_at_its_time(rate: float, lasts: float) -> None:
    source, film = paced(rate)
    frames = []
    while frame := source.read():
        frames.append(frame)
    assert source.live and source.fps == 10 and source.lost == 0
    assert [f.time_s for f in frames] == [i / 10 for i in range(10)]
    assert [f.arrived_s for f in frames] == pytest.approx([50 + i / 10 / rate for i in range(10)])
    assert film.now_s == pytest.approx(50 + lasts)


def test_a_late_reader_loses_the_frames_between_and_gets_the_newest() -> None:
    source, film = paced()
    numbers = []
    while frame := source.read():
        numbers.append(int(frame.pixels[0, 0, 0]))
        film.pass_(0.25)
    # Read at 0, 0.25, 0.5, 0.75 ... s: the newest frames of those times.
    assert numbers == [0, 2, 5, 7, 9] and source.lost == 5


def test_nobody_waits_for_the_hours_by_which_a_clock_jumps() -> None:
    source, film = paced()
    read = film.read

    def jumping() -> Frame | None:
        frame = read()
        if frame is None or frame.time_s < 0.5:
            return frame
        return replace(frame, time_s=frame.time_s + 9000, restarted=frame.time_s == 0.5)

    film.read = jumping  # type: ignore[method-assign]
    assert [f.time_s for f in iter(source.read, None) if f][4:6] == [0.4, 9000.5]
    assert source.lost == 0 and film.now_s == pytest.approx(50.8)


def test_a_pace_is_above_0() -> None:
    with pytest.raises(UsageError, match="a pace of 0 is impossible"):
        Pace(Film(), rate=0)


def test_a_replayed_file_takes_its_time_and_close_ends_the_wait(write_video: Callable[..., Path]) -> None:
    source = open_source(str(write_video("x.mp4", [10, 200, 10], fps=5)), pace=2)
    start = time.monotonic()
    assert source.read() and source.read()
    assert 0.09 < time.monotonic() - start < 2
    source.close()
    slow = open_source(str(write_video("x.mp4", [10, 200], fps=5)), pace=0.01)
    slow.read()
    threading.Timer(0.1, slow.close).start()
    start = time.monotonic()
    assert slow.read() is None and time.monotonic() - start < 1  # the next frame comes after 20 s


def taken(due: Due, times: list[float]) -> tuple[list[int], int]:
    """Which frames were due, and how many ticks were missed in all."""
    answers = [due.due(time_s) for time_s in times]
    return [i for i, (is_due, _) in enumerate(answers) if is_due], sum(missed for _, missed in answers)


RATES = st.sampled_from(
    [Fraction(n) for n in (1, 5, 10, 12, 15, 24, 25, 30, 50, 60)]
    + [Fraction(15000, 1001), Fraction(30000, 1001), Fraction(60000, 1001), Fraction(25, 2)]
)

FEW_RATES = st.sampled_from([Fraction(n) for n in (5, 10, 25, 60)] + [Fraction(30000, 1001)])


@given(camera=RATES, model=RATES, start=st.floats(0, 1e6), count=st.integers(1, 200))
def test_a_live_camera_gives_the_frames_of_a_file(
    camera: Fraction, model: Fraction, start: float, count: int
) -> None:
    times = [start + float(i / camera) for i in range(count)]
    due, missed = taken(Due(model, camera), times)
    ticks = Ticks(model)
    assert due == [i for i in range(count) if ticks.owed(i / camera, (i + 1) / camera)]
    assert missed == (0 if camera >= model else math.ceil((count - 1) * model / camera) + 1 - count)


class Slow:
    """The same rule without any shortcut: it looks at every tick of 25 frames."""

    def __init__(self, model: Fraction, camera: Fraction) -> None:
        self.model, self.camera = model, camera
        self.answered: set[int] = set()
        self.passed: set[int] = set()
        self.start: Fraction | None = None

    def due(self, time_s: float) -> tuple[bool, int]:
        self.start = Fraction(time_s) if self.start is None else self.start
        place = (Fraction(time_s) - self.start) * self.camera
        index = min(range(math.floor(place), math.floor(place) + 2), key=lambda i: (abs(i - place), i % 2))
        begun = [
            k
            for k in range(math.ceil(25 * self.model / self.camera))
            if k / self.model < (index + 1) / self.camera
        ]
        own = [k for k in begun if k / self.model >= index / self.camera]
        open_ = [k for k in begun if k not in self.answered | self.passed]
        if not open_:
            return False, 0
        tick = min((k for k in own if k in open_), default=max(open_))
        missed = {k for k in open_ if k < tick}
        self.answered.add(tick)
        self.passed |= missed
        return True, len(missed)


@settings(deadline=None, max_examples=40)
@given(
    camera=FEW_RATES,
    model=FEW_RATES,
    lost=st.sets(st.integers(1, 20), max_size=12),
    jitter=st.lists(st.floats(-0.6, 0.6), min_size=21, max_size=21),
)
def test_lost_and_late_frames_are_owed_as_the_slow_rule_says(
    camera: Fraction, model: Fraction, lost: set[int], jitter: list[float]
) -> None:
    period = float(1 / camera)
    times = [i * period + jitter[i] * period for i in range(21) if i not in lost]
    fast, slow = Due(model, camera), Slow(model, camera)
    assert [fast.due(t) for t in times] == [slow.due(t) for t in times]


def test_ten_hours_at_29_97_fps_do_not_drift_and_jitter_of_a_third_of_a_period_costs_nothing() -> None:
    rate = Fraction(30000, 1001)
    dice = random.Random(0)
    for hour in range(11):
        due = Due(rate, rate)
        due.due(0.0)
        first = int(hour * 3600 * rate)
        due.due(float(first / rate))
        late = [float((first + i) / rate) + dice.uniform(-0.011, 0.011) for i in range(1, 300)]
        assert [due.due(t) for t in late] == [(True, 0)] * 299
    half = Due(rate / 2, rate)
    assert taken(half, [float(i / rate) for i in range(1_078_000, 1_078_010)])[0] == [0, 2, 4, 6, 8]


def test_a_camera_slower_than_the_model_is_always_due_and_the_other_ticks_are_missed() -> None:
    due = Due(Fraction(30), Fraction(10))
    assert [due.due(i / 10) for i in range(3)] == [(True, 0), (True, 2), (True, 2)]


def test_a_lost_frame_is_made_up_for_by_the_next_and_a_gap_is_counted() -> None:
    due = Due(Fraction(10), Fraction(20))
    assert [due.due(t) for t in (0.0, 0.05)] == [(True, 0), (False, 0)]
    assert due.due(0.15) == (True, 0)  # the frame of 0.1 s was lost
    assert due.due(0.2) == (True, 0)
    assert due.due(0.65) == (True, 3)  # ticks 3, 4 and 5; this frame is tick 6


def test_a_camera_of_unknown_rate_gives_one_frame_to_a_tick() -> None:
    due, missed = taken(Due(Fraction(10)), [i / 24 for i in range(240)])
    assert len(due) in (100, 101) and missed == 0


DARK = [*(i / 30 for i in range(60)), *(2 + i / 5 for i in range(20))]
DAWN = [*(i / 5 for i in range(10)), *(2 + i / 30 for i in range(60))]


@pytest.mark.parametrize("said", [Fraction(30), Fraction(5), Fraction(80, 6), None])
@pytest.mark.parametrize(
    ("times", "taken"),
    [(DARK, [*range(0, 60, 3), *range(60, 80)]), (DAWN, [*range(10), *range(10, 70, 3)])],
    ids=["dark", "dawn"],
)
@pytest.mark.parametrize("rounded", [6, 3], ids=["mp4", "mkv"])
def test_of_a_replayed_variable_rate_the_stamps_decide_whatever_the_header_says(
    said: Fraction | None, times: list[float], taken: list[int], rounded: int
) -> None:
    film = Film([round(t, rounded) for t in times], said)
    source = Pace(film, clock=lambda: film.now_s, sleep=film.pass_)
    due, rate = Due(Fraction(10), said), Rate()
    got: list[int] = []
    while frame := source.read():
        if measured := rate(frame.time_s):
            due.learn(measured)
        if due.due(frame.time_s, frame.lasts_s)[0]:
            got.append(int(frame.pixels[0, 0, 0]))
    assert got == taken


def test_a_restart_begins_at_the_first_tick() -> None:
    due = Due(Fraction(10), Fraction(10))
    assert due.due(500.0) == (True, 0)
    assert due.due(3.0) == (False, 0)
    due.reset()
    assert [due.due(3.0), due.due(3.1)] == [(True, 0), (True, 0)]
