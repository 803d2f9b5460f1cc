"""A camera does not wait: what comes while a frame is computed waits, or is dropped for a newer one."""

from __future__ import annotations

import pytest

from edgepv.measure.camera import at_camera_rate, supported
from edgepv.types import CameraLoad


class Clock:
    """Time that passes only when someone sleeps or computes."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def load(durations: list[float], *, fps: float = 10.0, frames: int = 10) -> CameraLoad:
    """Frames every 0.1 s; the computations last as long as told, the last one for all that follow."""
    clock, left = Clock(), list(durations)

    def step() -> None:
        clock.pass_by(left.pop(0) if len(left) > 1 else left[0])

    seconds = frames / fps
    return at_camera_rate(step, fps, seconds, threads=1, clock=clock, sleep=clock.pass_by)


def test_who_is_fast_enough_has_no_overrun() -> None:
    found = load([0.05])
    assert (found.frames, found.overruns, found.dropped) == (10, 0, 0)
    assert found.p50_ms == pytest.approx(50.0) and found.most_ms == pytest.approx(50.0)


def test_a_slow_frame_makes_the_next_one_late_too() -> None:
    """150 ms, then 40: the second waits 50 ms, is there after 90, and the third is on time again."""
    found = load([0.04, 0.15, 0.04])
    assert (found.overruns, found.dropped) == (1, 0)
    assert found.most_ms == pytest.approx(150.0) and found.p50_ms == pytest.approx(40.0)


def test_of_several_that_wait_the_newest_is_computed() -> None:
    """350 ms from frame 0: frames 1 to 3 have come; 3 is computed, 1 and 2 are dropped and overrun with 0."""
    found = load([0.35, 0.04])
    assert (found.frames, found.overruns, found.dropped) == (10, 3, 2)
    assert found.most_ms == pytest.approx(350.0)


def test_who_is_always_too_slow_answers_what_it_can() -> None:
    """Computed: 0, 2, 5, 7, and the last one that came, 9."""
    found = load([0.25])
    assert found.frames == 10 and found.overruns == 10 and found.dropped == 5


def test_a_percentile_needs_its_number_of_times() -> None:
    assert load([0.05]).p95_ms is None
    times = [i / 1e3 for i in range(7000)]
    assert supported(times[:63], 90) is None and supported(times[:64], 90) == pytest.approx(56.7)
    assert supported(times[:6000], 99.9) is None
    assert supported(times, 99.9) == pytest.approx(6992.0, abs=0.1)
