"""Accuracy lost from margins: by hand, against counting, and against known truth."""

from __future__ import annotations

import numpy as np
import pytest

from edgepv.metrics.margins import expected_loss, margin_drop, margins
from edgepv.metrics.stats import paired_drop

RNG = np.random.default_rng


def test_a_margin_is_the_true_score_less_the_best_other() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.5]])
    assert margins(scores, [0, 1]).tolist() == [1.0, -2.0]


def test_a_tie_is_right_where_the_first_of_the_best_is_true() -> None:
    tied = margins(np.array([[1.0, 1.0], [1.0, 1.0]]), [0, 1])
    assert tied[0] > 0 > tied[1] and np.abs(tied).max() < 1e-300


def test_a_shift_of_all_margins_loses_what_stands_at_the_border() -> None:
    before = RNG(0).normal(1.0, 1.6, 20_000)
    found = expected_loss(before, before - 0.05)
    density = np.exp(-0.5 * (1 / 1.6) ** 2) / (1.6 * np.sqrt(2 * np.pi))
    assert found.why is None and found.points == pytest.approx(100 * density * 0.05, rel=0.05)
    assert found.low < 100 * density * 0.05 < found.high


def test_a_loss_at_the_border_is_told_from_one_among_the_sure_answers() -> None:
    before = RNG(1).normal(1.0, 1.6, 400)
    sure = np.abs(before) > 2.5
    far = expected_loss(before, before - np.where(sure, 0.5, 0.0))
    near = expected_loss(before, before - np.where(sure, 0.0, 0.1))
    assert abs(far.points) < 0.5 < near.points


def test_equal_answers_lose_nothing_whatever_their_number() -> None:
    before = RNG(2).normal(1.0, 1.6, 24)
    drop = margin_drop(before, before.copy(), max_drop=1.0)
    assert (drop.points, drop.low, drop.high, drop.verdict) == (0.0, 0.0, 0.0, "pass")
    counted = paired_drop((before > 0).tolist(), (before > 0).tolist(), max_drop=1.0)
    assert counted.verdict == "inconclusive" and drop.counted and drop.counted.high == counted.high > 10


def test_noise_of_25_db_is_decided_on_the_clips_on_which_counting_is_not() -> None:
    rng = RNG(3)
    before = rng.normal(1.0, 1.6, 146)
    after = before + 0.1 * rng.standard_t(6, 146)
    drop = margin_drop(before, after, max_drop=1.0)
    assert drop.verdict == "pass" and drop.counted
    assert drop.high - drop.low < 0.3 * (drop.counted.high - drop.counted.low)


def test_clips_of_one_camera_that_shift_together_count_as_one() -> None:
    rng = RNG(4)
    before = rng.normal(1.0, 1.6, 160)
    cameras = np.arange(160) // 20
    after = before - 0.1 * rng.normal(size=8)[cameras]
    apart = expected_loss(before, after)
    together = expected_loss(before, after, [str(c) for c in cameras])
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_where_no_margin_is_near_the_border_counting_decides_and_says_why() -> None:
    before = 20 + RNG(5).normal(size=400)
    drop = margin_drop(before, before - 0.01, max_drop=1.0)
    assert drop.counted is None and drop.why and "border" in drop.why
    assert drop.verdict == "pass" and drop.high == pytest.approx(0.95, abs=0.01)


def test_where_changes_are_as_large_as_margins_counting_decides_and_says_why() -> None:
    rng = RNG(6)
    before = rng.normal(1.0, 1.6, 146)
    drop = margin_drop(before, before + 1.5 * rng.normal(size=146), max_drop=1.0)
    assert drop.counted is None and drop.why and "large" in drop.why


def test_it_decides_nothing_against_the_count() -> None:
    before = np.concatenate([RNG(7).normal(1.0, 1.6, 380), np.full(20, 3.0)])
    after = np.concatenate([before[:-20], np.full(20, -3.0)])  # far from the border, and lost all the same
    drop = margin_drop(before, after, max_drop=1.0)
    assert drop.lost == 20 and drop.verdict != "pass"


def test_one_group_decides_nothing() -> None:
    before = RNG(8).normal(1.0, 1.6, 60)
    drop = margin_drop(before, before - 0.01, max_drop=1.0, groups=["film"] * 60)
    assert drop.verdict == "inconclusive" and drop.groups == 1


def test_an_open_verdict_says_how_many_clips_would_settle_it() -> None:
    rng = RNG(9)
    before = rng.normal(1.0, 1.6, 52)
    drop = margin_drop(before, before - 0.03 + 0.2 * rng.normal(size=52), max_drop=1.0)
    assert drop.verdict == "inconclusive" and drop.clips_needed and 52 < drop.clips_needed < 10_000


@pytest.mark.parametrize("n", [24, 146])
@pytest.mark.parametrize("grouped", [False, True])
def test_its_interval_holds_the_truth_as_often_as_it_says(n: int, grouped: bool) -> None:
    rng, held, runs = RNG(10), 0, 300
    truth = 100 * 0.2051 * 0.05  # density of N(1, 1.6) at 0, times the shift
    cameras = np.arange(n) // (n // 6) if grouped else np.arange(n)
    for _ in range(runs):
        before = rng.normal(1.0, 1.6, n)
        noise = 0.08 * rng.standard_t(6, n) + 0.05 * rng.normal(size=n)[cameras]
        groups = [str(c) for c in cameras] if grouped else None
        found = expected_loss(before, before - 0.05 + noise, groups)
        held += found.low <= truth <= found.high
    assert held / runs >= 0.92


def test_large_changes_that_go_both_ways_lose_what_noise_costs() -> None:
    rng = RNG(11)
    before = rng.normal(3.0, 1.5, 400_000)
    truth = 100 * float(np.mean(before > 0) - np.mean(before + 0.4 * rng.standard_t(6, 400_000) > 0))
    runs = rng.normal(3.0, 1.5, (150, 400))
    found = [expected_loss(m, m + 0.4 * rng.standard_t(6, 400)).points for m in runs]
    assert np.mean(found) == pytest.approx(truth, abs=0.12)


def test_three_large_takes_among_many_small_ones_count_as_few() -> None:
    takes = np.repeat(np.arange(15), [16] * 3 + [1] * 12)
    truth = 100 * 0.2051 * 0.05  # density of N(1, 1.6) at 0, times the shift
    rng, held, runs = RNG(12), 0, 300
    for _ in range(runs):
        before = rng.normal(1.0, 1.6, 60)
        change = -0.05 + 0.02 * rng.normal(size=60) + 0.1 * rng.normal(size=15)[takes]
        found = expected_loss(before, before + change, [str(k) for k in takes])
        held += found.low <= truth <= found.high
    assert held / runs >= 0.9  # 0.86 with a degree of freedom for each take but one
