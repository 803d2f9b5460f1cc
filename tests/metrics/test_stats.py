"""Intervals and verdicts, on numbers a reader can check."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgepv.metrics.stats import (
    accuracy,
    clips_needed,
    group_count,
    interval_of_changes,
    mean_accuracy,
    mean_drop,
    mean_interval,
    paired_drop,
    paired_interval,
    percentiles_ms,
    roc_auc,
    share_interval,
    side_of,
    student,
    wilson,
)


def test_wilson_matches_the_published_example() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_wilson_has_width_where_nothing_failed() -> None:
    low, high = wilson(52, 52)
    assert high == 1.0
    assert low == pytest.approx(52 / (52 + 3.8415), abs=1e-4)


def test_wilson_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)


def test_the_edges_of_the_paired_interval_solve_tangos_equation() -> None:
    low, high = paired_interval(12, 2, 44)
    for edge in (low, high):
        assert abs(_tango_score(12, 2, 44, edge)) == pytest.approx(1.959964, abs=1e-4)
    assert low < 10 / 44 < high


def _tango_score(b: int, c: int, n: int, d: float) -> float:
    """The score statistic, written out again from the paper: q solves 2n q^2 + B q + C = 0."""
    big_b = -b - c + (2 * n - b + c) * d
    q = (-big_b + np.sqrt(big_b**2 - 4 * 2 * n * (-c * d * (1 - d)))) / (4 * n)
    return float((b - c - n * d) / np.sqrt(n * (2 * q + d * (1 - d))))


def test_no_disagreement_still_leaves_doubt() -> None:
    low, high = paired_interval(0, 0, 52)
    assert high == pytest.approx(3.8415 / (52 + 3.8415), abs=1e-4) and low == pytest.approx(-high)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 100))
def test_the_interval_holds_the_point_and_mirrors(lost: int, won: int, same: int) -> None:
    n = lost + won + same
    if n == 0:
        return
    low, high = paired_interval(lost, won, n)
    assert -1 <= low <= (lost - won) / n <= high <= 1
    other_low, other_high = paired_interval(won, lost, n)
    assert [other_low, other_high] == pytest.approx([-high, -low], abs=1e-9)


def test_few_clips_cannot_tell_and_say_how_many_would() -> None:
    drop = paired_drop([True] * 24, [True] * 24, max_drop=1.0)
    assert drop.verdict == "inconclusive" and drop.points == 0.0
    assert drop.clips_needed is not None and 380 <= drop.clips_needed <= 410  # 3.84 / 0.01 - 3.84 = 380


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(4, 300), st.floats(0.1, 1), st.integers(0, 2000))
def test_the_clips_needed_are_the_first_whose_interval_decides(
    lost: int, won: int, same: int, share: float, hundredths: int
) -> None:
    limit = hundredths / 100  # far below, at 1e-313 points, a variance is lost in the rounding
    n = lost + won + same
    sizes = [math.ceil(n * 1.05) + 1]
    while sizes[-1] < 1_000_000:
        sizes.append(math.ceil(sizes[-1] * 1.05) + 1)

    def decides(size: int) -> bool:
        counts = (share * round(lost * size / n), share * round(won * size / n), share * size)
        low, high = (100 * edge for edge in paired_interval(*counts))
        return side_of(low, high, limit) != "inconclusive"

    assert clips_needed(lost, won, n, limit, share) == next(filter(decides, sizes), None)


def test_many_equal_answers_pass() -> None:
    assert paired_drop([True] * 400, [True] * 400, max_drop=1.0).verdict == "pass"


def test_a_clear_loss_fails() -> None:
    drop = paired_drop([True] * 100, [False] * 30 + [True] * 70, max_drop=1.0)
    assert drop.verdict == "fail" and drop.lost == 30 and drop.low > 1.0


def test_a_clip_won_and_a_clip_lost_cancel() -> None:
    drop = paired_drop([True, False, True], [False, True, True], max_drop=1.0)
    assert (drop.points, drop.lost, drop.won) == (0.0, 1, 1)


def test_accuracy_counts_by_hand() -> None:
    scores = np.array([[2.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    found = accuracy([0, 0, 1, 1], scores, ["cat", "dog"])
    assert found.value == 0.75 and found.confusion == ((2, 0), (1, 1))
    cat, dog = found.classes
    assert [cat.precision, cat.recall, cat.n] == pytest.approx([2 / 3, 1.0, 2])
    assert [dog.precision, dog.recall, dog.f1] == pytest.approx([1.0, 0.5, 2 / 3])


def test_a_label_no_clip_carries_is_unknown_not_zero() -> None:
    found = accuracy([0, 0], np.array([[1.0, 0.0], [1.0, 0.0]]), ["cat", "dog"])
    assert found.classes[1].recall is None and found.classes[1].f1 is None
    assert found.roc_auc is None


def test_auc_of_ties_is_a_half() -> None:
    positive = np.array([True, False])
    assert roc_auc(positive, np.array([1.0, 1.0])) == 0.5
    assert roc_auc(positive, np.array([1.0, 0.0])) == 1.0
    assert roc_auc(positive, np.array([0.0, 1.0])) == 0.0


def test_an_auc_of_zero_is_kept_in_the_mean() -> None:
    found = accuracy([0, 1], np.array([[0.0, 1.0], [1.0, 0.0]]), ["a", "b"])
    assert found.roc_auc == 0.0


def test_percentiles_are_in_ms() -> None:
    assert percentiles_ms([0.001, 0.002, 0.003])[0] == pytest.approx(2.0)


def test_clips_that_are_their_own_groups_count_as_clips() -> None:
    right, names = np.array([1, 1, 0, 1, 0]), list("abcde")
    assert share_interval(right, names) == share_interval(right, None) == wilson(3, 5)
    assert mean_interval(right, names) == mean_interval(right)
    assert group_count(names) is None


def test_a_mean_over_equal_groups_has_students_interval_over_their_means() -> None:
    means = np.array([30.0, 34.0, 31.0])
    low, high = mean_interval(means.repeat(4), list("aaaabbbbcccc"))
    want = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    assert [low, high] == pytest.approx(want, rel=1e-3)


def test_clips_of_one_take_that_are_right_or_wrong_together_tell_as_little_as_one() -> None:
    takes = np.array([1, 1, 0, 1, 1, 0, 1, 1])
    low, high = share_interval(takes.repeat(10), np.arange(8).repeat(10).astype(str).tolist())
    assert low < wilson(6, 8)[0] < 0.45 and high > wilson(6, 8)[1]
    assert wilson(60, 80)[0] > 0.6  # what it would be if the clips were independent


def test_one_group_has_no_interval_and_decides_nothing() -> None:
    film = ["cars.mp4"] * 6
    found = mean_accuracy(np.linspace(47, 48, 6), "psnr", film)
    assert found.low == found.high == found.value and found.groups == 1
    drop = mean_drop(np.full(6, 47.0), np.full(6, 46.9), max_drop=0.3, unit="dB", groups=film)
    assert (drop.verdict, drop.clips_needed, drop.interval()) == (
        "inconclusive",
        None,
        "one group of clips: no interval",
    )
    assert paired_drop([True] * 6, [False] * 6, max_drop=1.0, groups=film).verdict == "inconclusive"


def test_losses_of_one_camera_do_not_prove_a_loss_on_others() -> None:
    before = [True] * 100
    after = [False] * 12 + [True] * 88
    cameras = [str(i // 12) for i in range(100)]  # one camera lost all of its 12 clips
    assert paired_drop(before, after, max_drop=1.0).verdict == "fail"
    assert paired_drop(before, after, max_drop=1.0, groups=cameras).verdict == "inconclusive"


@pytest.mark.parametrize("sizes", [(9,) * 16, (40, 40) + (4,) * 14, (70,) + (5,) * 15])
def test_the_interval_of_a_share_holds_the_truth_where_groups_are_of_unequal_size(
    sizes: tuple[int, ...],
) -> None:
    """Takes of so many clips, whose chances vary from take to take around 0.7."""
    rng = np.random.default_rng(0)
    which, clips = np.repeat(np.arange(len(sizes)), sizes), sum(sizes)
    takes, held = [str(k) for k in which], []
    for _ in range(400):
        right = rng.random(clips) < rng.beta(2.1, 0.9, len(sizes))[which]
        edges = share_interval(right, takes), wilson(int(right.sum()), clips)
        held.append([low <= 0.7 <= high for low, high in edges])
    over_groups, over_clips = np.mean(held, 0)
    assert over_groups > 0.92 and over_clips < 0.85  # 0.85 where unequal groups count as equal ones


@pytest.mark.parametrize("sizes", [(6,) * 4, (12, 8, 4, 2), (20, 2, 2, 1), (16,) * 3 + (1,) * 12])
def test_the_interval_of_a_mean_holds_the_truth_where_groups_are_few_or_of_unequal_size(
    sizes: tuple[int, ...],
) -> None:
    which, rng, held, runs = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(0), 0, 500
    films = [str(k) for k in which]
    for _ in range(runs):
        loss = 0.3 + rng.normal(size=len(which)) + rng.normal(size=len(sizes))[which]
        drop = mean_drop(np.zeros(len(which)), -loss, max_drop=1.0, unit="dB", groups=films)
        held += drop.low <= 0.3 <= drop.high
    assert held / runs >= 0.915  # 0.71 and 0.84 where unequal groups count as equal ones


def test_clips_without_a_change_do_not_prove_that_the_next_is_without() -> None:
    """Of 120 boxes on 40 clips none changed: up to t^2 / 120, 3.4 %, may be lost all the same."""
    low, high = interval_of_changes(np.zeros(40), change=40 / 120)
    assert (low, high) == pytest.approx((-(student(39) ** 2) / 120, student(39) ** 2 / 120))
    drop = mean_drop(np.ones(12), np.ones(12), max_drop=0.01, unit="points", change=1 / 3)
    assert drop.verdict == "inconclusive" and drop.points == 0 and drop.high > 0.1


def test_many_changes_are_told_by_their_spread() -> None:
    """Every clip moves, by much or little: the interval is Student's, over clips and over groups."""
    draw = np.random.default_rng(0)
    loss = draw.normal(0.02, 1, 80)
    takes = [f"take {i // 4}" for i in range(80)]
    for groups in (None, takes):
        assert interval_of_changes(loss, 0.01, groups) == pytest.approx(mean_interval(loss, groups))


def test_a_change_the_other_way_does_not_make_a_loss_unlikely() -> None:
    """One box of 130 won, none lost: as far as Tango's interval, where Student's knows nothing of losses."""
    loss = np.zeros(130)
    loss[0] = -1.0
    _, high = interval_of_changes(loss, change=1.0)
    assert high == pytest.approx(paired_interval(0, 1, 130)[1], rel=0.1)
    assert mean_interval(loss)[1] < high / 2


@pytest.mark.parametrize("views", [1, 6])
def test_what_loses_just_what_is_allowed_seldom_passes_where_few_boxes_change(views: int) -> None:
    """130 boxes on 82 clips, in so many views; of each 1.5 % are lost and 0.5 % won."""
    draw, passed, held, runs = np.random.default_rng(1), [], 0, 600
    for _ in range(runs):
        lost, won = (draw.binomial(views, p, 130) for p in (0.015, 0.005))
        loss = 82 / 130 / views * np.bincount(np.arange(130) % 82, lost - won, 82)
        edges = interval_of_changes(loss, 82 / 130 / views), mean_interval(loss)
        passed.append([high <= 0.01 for _, high in edges])
        held += edges[0][0] <= 0.01 <= edges[0][1]
    ours, students = np.mean(passed, 0)
    assert ours <= 0.03 and held / runs >= 0.93
    assert views > 1 or students > 0.04
