"""The limit on a loss, as all ask for it who choose between what was measured."""

from __future__ import annotations

import pytest

from edgepv.metrics.gate import within_limit
from edgepv.metrics.stats import paired_drop


@pytest.mark.parametrize(
    ("lost", "spare", "within"),
    [(0, 0.0, True), (2, 0.0, True), (3, 0.0, False), (3, 1.0, True), (4, 1.0, False)],
)
def test_of_100_clips_two_points_are_two_clips(lost: int, spare: float, within: bool) -> None:
    drop = paired_drop([True] * 100, [i >= lost for i in range(100)], max_drop=2.0)
    assert within_limit(drop, spare) is within


def test_a_loss_that_nobody_measured_is_within() -> None:
    assert within_limit(None)


@pytest.mark.parametrize("lost", range(1, 30))
def test_what_surely_loses_more_is_never_within(lost: int) -> None:
    drop = paired_drop([True] * 60, [i >= lost for i in range(60)], max_drop=3.0)
    assert drop.verdict != "fail" or not within_limit(drop)
