"""The score from which on an alarm pays: where hits and false alarms are furthest apart, with intervals."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from edgepv.zoo.training.score import alarm, operating_point, poisson_interval


def _logits(scores: list[float]) -> np.ndarray:
    p = np.array(scores)
    return np.stack([np.log(p / (1 - p)), np.zeros(len(p))], 1)


def test_it_lies_between_what_shows_it_and_what_does_not() -> None:
    found = operating_point(_logits([0.9, 0.7, 0.6, 0.4, 0.3, 0.2]), [0, 0, 0, 1, 1, 1])
    assert found == pytest.approx(0.5)


def test_one_that_cannot_tell_takes_the_side_that_pays_most() -> None:
    found = operating_point(_logits([0.9, 0.8, 0.3, 0.7, 0.2, 0.1]), [0, 0, 0, 1, 1, 1])
    assert found == pytest.approx(0.75)  # two of three at no false alarm


def test_an_alarm_is_told_with_recall_and_an_hourly_rate() -> None:
    scores = [0.9, 0.4, 0.8, 0.1]
    clips = [
        {"scores": list(row), "label": label, "group": str(i)}
        for i, (row, label) in enumerate(zip(_logits(scores), (0, 0, 1, 1)))
    ]
    told = alarm(clips, [10.0, 10.0, 20.0, 40.0], ("fight", "no_fight"), 0.5)
    assert told["recall"]["value"] == 0.5 and told["false_alarms"] == 1
    assert told["hours"] == pytest.approx(60 / 3600)
    assert told["per_hour"][0] == pytest.approx(60) and told["per_hour"][1] < 60 < told["per_hour"][2]


def test_the_poisson_interval_is_garwoods() -> None:
    assert poisson_interval(0) == pytest.approx([0.0, 3.6889], abs=1e-3)
    assert poisson_interval(5) == pytest.approx([1.6235, 11.6683], abs=1e-3)
