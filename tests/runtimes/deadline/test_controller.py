"""Which rung is chosen, with numbers that can be followed by hand."""

from __future__ import annotations

import pytest

from edgepv.runtimes.deadline import Controller
from edgepv.runtimes.deadline.controller import BACK_OFF, PATIENCE

PROFILES = (20.0, 10.0, 4.0)


def test_an_idle_machine_gets_the_largest_rung_that_fits() -> None:
    assert Controller(PROFILES).choose(33) == 0
    assert Controller(PROFILES).choose(15) == 1
    assert Controller(PROFILES).choose(1) == 2  # nothing fits: the smallest


@pytest.mark.parametrize(
    ("slow", "rung", "why"),
    [
        (1.5, 0, "30 of 31.35 ms"),
        (1.6, 1, "32 ms is more than 95 % of 33"),
        (4.0, 2, "40 ms is too much, 16 fits"),
    ],
)
def test_a_steady_slow_down_is_learnt_and_applied_to_rungs_that_do_not_run(
    slow: float, rung: int, why: str
) -> None:
    controller = Controller(PROFILES)
    for _ in range(100):
        controller.observe(2, 4.0 * slow, missed=False)
    assert controller.mean == pytest.approx(slow, rel=1e-3)
    assert controller.choose(33) == rung, why


def test_the_first_observation_moves_mean_and_variance_by_the_formula() -> None:
    controller = Controller(PROFILES)
    controller.observe(0, 40.0, missed=False)
    assert controller.mean == pytest.approx(1.2)  # 1 + 0.2 * (2 - 1)
    assert controller.variance == pytest.approx(0.16)  # 0.8 * (0 + 0.2 * 1)
    assert controller.expected_ms(1) == pytest.approx(10 * (1.2 + 2 * 0.4))


def quiet(controller: Controller, frames: int) -> list[int]:
    chosen = []
    for _ in range(frames):
        rung = controller.choose(33)
        chosen.append(rung)
        controller.observe(rung, PROFILES[rung], missed=False)
    return chosen


def test_going_up_takes_twelve_frames_that_agree_and_one_rung_at_a_time() -> None:
    controller = Controller(PROFILES)
    controller.rung = 2
    chosen = quiet(controller, 30)
    assert chosen == [2] * (PATIENCE - 1) + [1] * PATIENCE + [0] * 7


def test_after_a_miss_nobody_goes_up_for_24_frames_and_for_longer_if_it_comes_again() -> None:
    controller = Controller(PROFILES)
    controller.choose(33)
    controller.observe(0, 60.0, missed=True)
    chosen = quiet(controller, 80)
    assert chosen.index(1) >= 0 and 0 not in chosen[: BACK_OFF - 1]
    again = Controller(PROFILES)
    again.observe(0, 60.0, missed=True)
    again.choose(33)
    again.observe(0, 60.0, missed=True)
    assert again._hold == 2 * BACK_OFF


def test_an_excluded_rung_is_never_chosen_and_the_last_cannot_be_excluded() -> None:
    controller = Controller(PROFILES)
    assert controller.exclude(0) and controller.choose(1e9) == 1
    assert controller.exclude(2) and controller.choose(0.1) == 1
    assert not controller.exclude(1)
