"""Labelled clips replayed at camera rate: what is counted, on a model whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from simulated import FRAME, variant

from edgepv.cli import show
from edgepv.data.clips import Clip
from edgepv.data.frames import model_frames
from edgepv.errors import UsageError
from edgepv.measure.replay import Shot, replay, shots
from edgepv.runtimes.engines.null import NullEngine
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Lane
from edgepv.types import Deadline, Variant, encode


def at_25_fps(name: str, looks_back: int = 1) -> Variant:
    made = variant(name, looks_back=looks_back)
    return replace(made, spec=replace(made.spec, fps=Fraction(25)))


def ladder(*delays: Sequence[float], looks_back: int = 1) -> Ladder:
    """Rungs that always answer "fight", label 0."""
    rungs = [at_25_fps(f"rung{i}", looks_back) for i in range(len(delays))]
    return Ladder([Lane(NullEngine(v, list(d)), v) for v, d in zip(rungs, delays)])


def shot(label: int, frames: int = 6) -> Shot:
    return Shot((FRAME,) * frames, label)


def test_every_moment_after_the_warm_up_is_scored_against_the_label_of_its_clip() -> None:
    found = replay("one", ladder([0], looks_back=4), [1], [shot(0), shot(1), shot(0)], Deadline(38))
    assert found.frames == 18
    assert found.per_clip == ((3, 3), (0, 3), (3, 3))  # frames 5 and 6, and the moment after the last
    assert (found.right, found.instants) == (6, 9)
    assert found.miss_rate == found.missed / 18 < 0.5


def test_an_answer_of_the_clip_before_is_not_right_about_this_one() -> None:
    found = replay("slow", ladder([2000], looks_back=1), [300], [shot(0, 10)], Deadline(20))
    assert found.missed == 10 and found.right == 0


@pytest.mark.slow
def test_the_ladder_falls_to_the_rung_that_is_in_time_and_a_fixed_rung_does_not() -> None:
    played = [shot(0, 30)]
    free = replay("ladder", ladder([100], [0]), [16, 1], played, Deadline(36))
    fixed = replay("large", ladder([100], [0]), [16, 1], played, Deadline(36), keep=0)
    assert free.miss_rate <= 0.2 < 0.8 <= fixed.miss_rate
    assert free.switches_per_minute > 0 == fixed.switches_per_minute


def test_the_age_of_an_answer_is_one_period_when_all_is_well() -> None:
    found = replay("one", ladder([0]), [1], [shot(0, 20)], Deadline(38))
    assert found.age_ms and 38 <= found.age_ms[0] <= 60  # frames come every 40 ms
    assert found.latency_ms[1:3] == (None, None), "20 replies tell of no p95"


def test_of_clips_shorter_than_the_model_needs_nothing_is_said_and_json_can_say_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = replay("one", ladder([0], looks_back=9), [1], [shot(0, 2)], Deadline(38))
    assert found.instants == 0 and json.loads(json.dumps(encode(found), allow_nan=False))["age_ms"] is None
    show.replayed([found])
    assert "nan" not in capsys.readouterr().out


def test_clips_without_a_label_are_refused(a_clip: object) -> None:
    spec = at_25_fps("one").spec
    with pytest.raises(UsageError, match="has no label of the model"):
        shots([Clip(a_clip, None, "g")], spec)  # type: ignore[arg-type]


def test_clips_are_shown_at_the_models_rate(a_clip: object) -> None:
    spec = replace(variant("one").spec, labels=("fight", "no_fight"))
    (made,) = shots([Clip(a_clip, "fight", "g")], spec)  # type: ignore[arg-type]
    assert len(made.frames) == len(model_frames(a_clip, spec))  # type: ignore[arg-type]
    assert made.label == 0 and made.frames[0].dtype == np.uint8
