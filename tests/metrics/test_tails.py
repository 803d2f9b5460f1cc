"""A threshold for so many false alarms an hour: kept on hours that it was not learned on, or not given."""

from __future__ import annotations

import numpy as np
import pytest

from edgepv.errors import InconclusiveError
from edgepv.metrics.tails import LEAST_BLOCKS, Pareto, Stretch, limit, peaks, refuse_short

APART_S = 30.0


def noise(hours: float, seed: int, *, heavy: bool = False) -> Stretch:
    """A value a second; each is half of the one before and half new."""
    rng, values = np.random.default_rng(seed), [0.0]
    for fresh in rng.standard_normal(round(3600 * hours) - 1).tolist():
        values.append(0.5 * values[-1] + fresh)
    score = np.array(values)
    return Stretch(np.arange(len(score), dtype=float), np.exp(score) if heavy else score, 1.0)


def rate(stretch: Stretch, level: float) -> float:
    """How often a level is exceeded, an hour."""
    return len(peaks(stretch, level, APART_S)[0]) / stretch.hours


@pytest.fixture(scope="module")
def fresh() -> dict[bool, Stretch]:
    return {heavy: noise(100, 99, heavy=heavy) for heavy in (False, True)}


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(("hours", "per_hour"), [(10, 2.0), (10, 0.3), (3, 0.2)])
def test_new_hours_exceed_the_level_about_as_often_as_was_asked(
    fresh: dict[bool, Stretch], heavy: bool, hours: float, per_hour: float
) -> None:
    learned = [limit([noise(hours, seed, heavy=heavy)], per_hour, APART_S) for seed in range(6)]
    kept = [rate(fresh[heavy], one.level) for one in learned]
    assert per_hour / 2.5 < float(np.median(kept)) < 2.5 * per_hour
    held = sum(one.rate_low <= got <= one.rate_high for one, got in zip(learned, kept, strict=True))
    assert held >= 4
    assert all(one.low <= one.level <= one.high and one.release < one.level for one in learned)


def test_a_rate_below_once_in_the_hours_is_said_to_be_extrapolated() -> None:
    footage = [noise(3, 0)]
    assert not limit(footage, 0.5, APART_S).beyond
    assert limit(footage, 0.2, APART_S).beyond


def test_a_rate_below_once_in_four_times_the_hours_is_refused_with_the_hours_it_wants() -> None:
    with pytest.raises(InconclusiveError, match="that wants 25 hours or more"):
        limit([noise(3, 0)], 0.01, APART_S)


def test_too_few_peaks_are_refused() -> None:
    with pytest.raises(InconclusiveError, match="hold fewer than 30 peaks that are 100 s apart"):
        limit([noise(1, 0)], 1.0, 100.0)


def test_hours_without_room_for_the_peaks_are_refused_whatever_is_in_them() -> None:
    """An hour has 12 stretches of 300 s, so 13 peaks at most; two of half an hour have 7 each."""
    with pytest.raises(InconclusiveError, match="1 hours have room for 13 peaks that are 300 s apart, .* 30"):
        limit([noise(1, 0)], 1.0, 300.0)
    with pytest.raises(InconclusiveError, match="room for 14 peaks"):
        refuse_short([0.5, 0.5], 1.0, 300.0)
    refuse_short([2.5], 1.0, 300.0)


def test_a_score_that_never_moves_has_no_tail() -> None:
    still = Stretch(np.arange(3600.0), np.zeros(3600), 1.0)
    with pytest.raises(InconclusiveError):
        limit([still], 1.0, APART_S)


def test_a_shorter_recording_has_the_wider_interval() -> None:
    long, short = (limit([noise(hours, 1)], 1.0, APART_S) for hours in (20, 2))
    assert short.high - short.low > 1.5 * (long.high - long.low)


def test_many_short_clips_are_as_good_as_one_long_one() -> None:
    whole = noise(4, 2)
    parts = [
        Stretch(t - t[0], s, 1.0)
        for t, s in zip(np.split(whole.time_s, 2 * LEAST_BLOCKS), np.split(whole.score, 2 * LEAST_BLOCKS))
    ]
    one, other = limit([whole], 1.0, APART_S), limit(parts, 1.0, APART_S)
    assert one.hours == pytest.approx(other.hours)
    assert one.level == pytest.approx(other.level, rel=0.05)


def test_peaks_less_than_the_distance_apart_are_one() -> None:
    score = np.zeros(20)
    score[[2, 5, 12, 13]] = 1.0, 3.0, 2.0, 1.5
    when, high = peaks(Stretch(np.arange(20.0), score, 1.0), 1.0, apart_s=5.0)
    assert when.tolist() == [2, 12] and high.tolist() == [3, 2]


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
def test_level_and_rate_undo_each_other(shape: float) -> None:
    tail = Pareto(start=1.0, rate=20.0, shape=shape, scale=0.5)
    assert tail.per_hour(tail.level(0.4)) == pytest.approx(0.4)
    assert tail.level(20.0) == pytest.approx(1.0)
