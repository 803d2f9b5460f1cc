"""Curves of a classifier, parts of the clips, and what is reached without a network."""

from __future__ import annotations

import numpy as np
import pytest

from edgepv.data.conditions import light_and_motion, parts
from edgepv.data.frames import pictures, preprocess
from edgepv.data.truth import EvalClip, Points
from edgepv.metrics.baselines import baselines
from edgepv.metrics.curves import MOST_LABELS, MOST_POINTS, curve, curves
from edgepv.metrics.slices import MOST_PARTS, slices
from edgepv.metrics.tasks import Pictures
from edgepv.metrics.times import median_ends, spread_ms
from edgepv.types import ModelSpec, TensorSpec

FIGHT = ModelSpec("net", TensorSpec("clip", (1, 3, 2, 8, 8), "NCTHW"), ("fight", "calm"), frames=2)
POINTS = ModelSpec(
    "points",
    TensorSpec("frame", (1, 3, 8, 16), "NCHW"),
    task="tracking",
    particles=2,
    metric="delta_avg",
    outputs=(TensorSpec("tracks", (1, 2, 3), "NKC"),),
)
LARGER = ModelSpec(
    "larger",
    TensorSpec("frame", (1, 3, 4, 4), "NCHW"),
    task="restoration",
    metric="psnr",
    degrade="downscale",
    outputs=(TensorSpec("image", (1, 3, 8, 8), "NCHW"),),
)


def test_a_curve_of_four_clips_is_as_drawn_by_hand() -> None:
    found = curve("fight", np.array([True, False, True, False]), np.array([0.9, 0.8, 0.4, 0.1]))
    assert found is not None
    assert found.points == (
        (0.9, 0.0, 0.5, 1.0),
        (0.8, 0.5, 0.5, 0.5),
        (0.4, 0.5, 1.0, 0.6667),
        (0.1, 1.0, 1.0, 0.5),
    )
    assert (found.n, found.positives, found.auc) == (4, 2, 0.75)  # of 4 pairs, 3 in the right order
    assert found.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_equal_scores_are_one_point_and_one_label_alone_has_no_curve() -> None:
    found = curve("fight", np.array([True, False]), np.array([0.5, 0.5]))
    assert found is not None and found.points == ((0.5, 1.0, 1.0, 0.5),) and found.auc == 0.5
    assert curve("fight", np.array([True, True]), np.array([0.5, 0.4])) is None


def test_a_long_curve_is_cut_to_a_few_points_and_keeps_its_ends_and_its_areas() -> None:
    rng = np.random.default_rng(0)
    positive, score = rng.random(500) < 0.5, rng.random(500)
    found = curve("fight", positive, score)
    assert found is not None and len(found.points) == MOST_POINTS
    assert found.points[-1][1:3] == (1.0, 1.0) and found.points[0][0] == round(float(score.max()), 4)
    assert found.auc == pytest.approx(np.mean(score[positive][:, None] > score[~positive]))


def test_the_alarm_is_marked_on_the_curve_of_its_label() -> None:
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.2, 0.8]])
    (found,) = curves(("fight", "calm"), [0, 1, 0, 1], scores, ("fight", 0.55, "the card"))
    assert found.label == "fight" and found.at is not None
    assert (found.at.recall, found.at.false_alarms, found.at.precision) == (0.5, 0.5, 0.5)
    (mirror,) = curves(("fight", "calm"), [0, 1, 0, 1], scores, None)
    assert mirror.label == "fight" and mirror.at is None


def test_of_many_labels_those_with_the_most_clips_have_curves() -> None:
    labels = tuple(f"l{i}" for i in range(10))
    truth = [i for i in range(10) for _ in range(i + 1)]
    found = curves(labels, truth, np.random.default_rng(0).random((len(truth), 10)), None)
    assert [one.label for one in found] == list(labels[-MOST_LABELS:])


def test_the_part_that_loses_most_comes_first_and_too_few_have_no_loss() -> None:
    before = np.ones(20)
    after = np.where(np.arange(20) < 5, -1.0, 1.0)  # five of the first ten go wrong
    found = slices(FIGHT, before, after, {"label": ["fight"] * 10 + ["calm"] * 7 + ["rest"] * 3}, None)
    assert [(one.name, one.n, one.lost and one.lost.value) for one in found] == [
        ("fight", 10, 50.0),
        ("2 other labels", 10, None),
    ]
    assert (found[0].before, found[0].after) == (1.0, 0.5)
    low, high = (found[0].lost.low, found[0].lost.high) if found[0].lost else (None, None)
    assert low is not None and high is not None and low < 50 < high


def test_cameras_beyond_the_largest_few_stand_together() -> None:
    names = [f"c{i}" for i in range(MOST_PARTS + 2) for _ in range(8)]
    figures = np.ones(len(names))
    found = slices(FIGHT, figures, figures, {"camera": names}, names)
    assert len(found) == MOST_PARTS + 1 and found[-1].name == "2 other cameras" and found[-1].n == 16
    assert found[0].lost is not None and found[0].lost.low is None, "one camera tells nothing of others"


def test_light_and_motion_are_read_off_the_frames() -> None:
    def clip(*levels: int) -> np.ndarray:
        frames = [np.full((8, 8, 3), level, np.uint8) for level in levels]
        return np.concatenate([preprocess(f, FIGHT) for f in frames])

    assert light_and_motion(clip(50, 60, 70), FIGHT) == pytest.approx((60, 10))
    assert light_and_motion(clip(9), FIGHT) == pytest.approx((9, 0))
    assert pictures(FIGHT, clip(50))[0, 0, 0].tolist() == [50, 50, 50]


def test_clips_are_parted_into_thirds_halves_or_not_at_all() -> None:
    names = ("dark", "between", "light")
    thirds = parts([float(v) for v in range(24)], names)
    assert thirds is not None and [thirds.count(name) for name in dict.fromkeys(thirds)] == [8, 8, 8]
    assert thirds[0] == "dark, 0 to 7 of 255" and thirds[-1] == "light, 16 to 23 of 255"
    halves = parts([float(v) for v in range(17)], names)
    assert halves is not None and len(set(halves)) == 2
    assert parts([float(v) for v in range(15)], names) is None
    assert parts([3.0] * 40, names) is None


def test_a_classifier_is_held_against_its_most_frequent_label() -> None:
    clips = [EvalClip(np.zeros((2, 3, 8, 8), np.float32), label) for label in (0, 1, 1, 1)]
    (found,) = baselines(FIGHT, clips, Pictures.of(2, 0))
    assert found.accuracy.value == 0.75 and "calm" in found.told


def test_a_tracker_is_held_against_points_that_stand_still() -> None:
    position = np.zeros((3, 1, 2))
    position[1:, 0, 1] = [0.5 / 256, 100 / 256]  # half a pixel of 256, then a hundred
    clip = EvalClip(np.zeros((3, 3, 8, 16), np.float32), Points(position, np.ones((3, 1), bool)))
    (found,) = baselines(POINTS, [clip, clip], Pictures.of(1, 0))
    assert found.name == "standing still" and found.accuracy.value == 0.5


def test_an_enlarger_is_held_against_bicubic() -> None:
    flat = np.full((2, 8, 8, 3), 100, np.uint8)
    small = np.concatenate([preprocess(np.full((4, 4, 3), 110, np.uint8), LARGER)] * 2)
    (found,) = baselines(LARGER, [EvalClip(small, flat)] * 2, Pictures.of(1, 0))
    assert found.name == "bicubic" and found.accuracy.value == pytest.approx(
        20 * np.log10(255 / 10), abs=0.01
    )


def test_the_interval_of_a_median_holds_it_and_needs_enough_turns() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        ends = median_ends(np.exp(0.1 * rng.standard_normal(60)).tolist())
        held += ends is not None and ends[0] <= 1 <= ends[1]
    assert held > 180
    assert median_ends([1.0] * 5) is None and median_ends([1.0] * 6) == (1.0, 1.0)


def test_the_spread_goes_from_the_shortest_to_the_longest_call() -> None:
    spread = spread_ms([i / 1000 for i in range(101)])
    assert len(spread) == 21 and spread[0] == 0 and spread[10] == 50 and spread[-1] == 100
