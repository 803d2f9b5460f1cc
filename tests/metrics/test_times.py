"""What call times can tell, held against published counts, known truth and given loads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from edgepv.metrics.times import CONFIDENCE, busy_reason, calls_needed, paired_ratio, supported_ms
from edgepv.types import MachineLoad


@pytest.mark.parametrize(
    ("percentile", "over", "calls", "source"),
    [
        (90, 1, 64, "LoadGen's log: 'Processed at least 64 queries'"),
        (99, 1, 662, "LoadGen's floor of a p99"),
        (99, 0, 459, "LoadGen's log of 21 queries: 'would need to run at least 438 more'"),
        (95, 1, 130, "by hand from the binomial tail: 0.0099 at 130"),
    ],
)
def test_a_percentile_needs_as_many_calls_as_mlperf_asks_for(
    percentile: float, over: int, calls: int, source: str
) -> None:
    assert calls_needed(percentile, over) == calls, source
    tails = stats.binom.cdf(over, [calls - 1, calls], 1 - percentile / 100)
    assert tails[0] > 1 - CONFIDENCE >= tails[1]


@pytest.mark.parametrize(("queries", "discarded"), [(2048, 172), (2116, 178)])
def test_as_many_slow_calls_may_be_passed_over_as_in_mlperfs_logs(queries: int, discarded: int) -> None:
    """LoadGen's estimate of p90 is the slowest of those that are left."""
    assert calls_needed(90, discarded + 1) <= queries < calls_needed(90, discarded + 2)


def test_a_percentile_of_too_few_calls_is_not_told() -> None:
    seconds = [i / 1e3 for i in range(1, 663)]
    assert supported_ms(seconds) == pytest.approx((331.5, 628.95, 655.39))
    assert supported_ms(seconds[:661])[1:] == pytest.approx((628.0, None))
    assert supported_ms(seconds[:129]) == pytest.approx((65.0, None, None))


def test_what_takes_half_as_long_in_every_turn_has_a_ratio_of_a_half_under_any_shared_load() -> None:
    load = np.array([1.0, 5.0, 2.0, 80.0, 1.0, 3.0, 1.0])
    found = paired_ratio(0.5 * load, load)
    assert found and (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_one_turn_that_was_hit_moves_neither_the_ratio_nor_its_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = np.exp(0.02 * rng.standard_normal((2, 66)))
    before = paired_ratio(a, b)
    a[40] = 50.0
    after = paired_ratio(a, b)
    assert before and after
    assert abs(after.value - before.value) < 0.01 and after.high - after.low < 0.06


def test_the_interval_holds_the_truth_as_often_as_it_says_where_load_comes_in_stretches() -> None:
    """Pairs whose noise lasts two turns: an interval that takes them as independent holds 1 in 70 of 100."""
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        noise, keep = np.zeros((2, 67)), math.exp(-1 / 2)
        noise[:, 0] = rng.standard_normal(2)
        for i in range(1, 67):
            noise[:, i] = keep * noise[:, i - 1] + math.sqrt(1 - keep**2) * rng.standard_normal(2)
        found = paired_ratio(*np.exp(0.05 * noise))
        held += found is not None and found.low <= 1 <= found.high
    assert held / 300 > 0.9


@pytest.mark.parametrize("times", [[1.0] * 5, [1.0] * 9 + [0.0]])
def test_too_few_turns_or_a_time_of_nothing_have_no_ratio(times: list[float]) -> None:
    assert paired_ratio(times, times) is None


@pytest.mark.parametrize(
    ("load", "threads", "said"),
    [
        (
            MachineLoad(2, 3.1, 1.4, 0.12),
            1,
            "machine was busy (load 3.1 on 2 cores, others used 1.4 of them, steal 12 %)",
        ),
        (MachineLoad(2, 1.9, 0.1, 0.06), 1, "machine was busy (load 1.9 on 2 cores, others used 0.1"),
        (MachineLoad(2, 2.0, 0.2, 0.0), 2, "machine was busy"),
        (MachineLoad(8, 9.0, 7.2, 0.0), 1, "machine was busy"),
    ],
)
def test_a_machine_whose_cores_others_had_was_busy(load: MachineLoad, threads: int, said: str) -> None:
    assert str(busy_reason(load, threads)).startswith(said)


@pytest.mark.parametrize(
    ("load", "threads", "why"),
    [
        (MachineLoad(2, 0.1, 0.0, 0.0), 2, "idle"),
        (MachineLoad(2, 2.5, 0.05, 0.01), 1, "the load is of this process' own minute before"),
        (MachineLoad(64, 40.0, 40.0, 0.0), 2, "24 cores were left"),
        (MachineLoad(1, 2.0, 0.0, 0.0), 2, "more threads than cores are nobody else's doing"),
        (MachineLoad(2, 5.0), 1, "the system does not tell who had the cores"),
    ],
)
def test_a_machine_that_left_a_core_for_each_thread_was_not_busy(
    load: MachineLoad, threads: int, why: str
) -> None:
    assert busy_reason(load, threads) is None, why
