"""Boxes become tracks: the numbers stay with who they were given to."""

from __future__ import annotations

import numpy as np
import pytest

from edgepv.data.boxes import Detections
from edgepv.runtimes.events.tracks import LOST_S, Tracker, assigned, overlaps

FPS = 10.0
TALL, WIDE = 0.3, 0.1


def people(*places: tuple[float, float], score: float = 0.9, label: int = 0) -> Detections:
    """Upright boxes with the middle of their lower edge at these places."""
    boxes = [(x - WIDE / 2, y - TALL, x + WIDE / 2, y) for x, y in places]
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(count, score, np.float32), np.full(count, label)
    )


def numbers(tracker: Tracker, *frames: Detections, since_s: float = 0.0) -> list[list[int]]:
    """The numbers given in each of these frames."""
    return [tracker.step(since_s + k / FPS, frame).ids.tolist() for k, frame in enumerate(frames)]


def test_the_second_box_of_a_thing_makes_it_a_track() -> None:
    assert numbers(Tracker(), *[people((0.5, 0.9))] * 3) == [[-1], [0], [0]]


def test_who_walks_keeps_the_number_however_the_boxes_are_ordered() -> None:
    walk = [people((0.2 + 0.01 * k, 0.8), (0.8 - 0.01 * k, 0.6)) for k in range(20)]
    swapped = people((0.6, 0.6), (0.4, 0.8))
    assert numbers(Tracker(), *walk, swapped)[-2:] == [[0, 1], [1, 0]]


def test_two_who_pass_each_other_keep_their_numbers() -> None:
    """They walk at 0.2 a second, one behind the other by a fifth of their height."""
    walk = [people((0.2 + 0.02 * k, 0.80), (0.8 - 0.02 * k, 0.74)) for k in range(31)]
    assert numbers(Tracker(), *walk)[-1] == [0, 1]


@pytest.mark.parametrize(("gone_s", "same"), [(1.0, True), (LOST_S + 0.2, False)])
def test_a_track_outlives_frames_in_which_it_is_not_seen(gone_s: float, same: bool) -> None:
    """It goes by seconds: at 0.2 a second it is expected where it has walked to meanwhile."""
    tracker = Tracker()
    numbers(tracker, *[people((0.2 + 0.02 * k, 0.8)) for k in range(10)])
    for k in range(10, 9 + round(gone_s * FPS)):
        tracker.step(k / FPS, people())
    back = 9 + round(gone_s * FPS)
    again = [tracker.step(k / FPS, people((0.2 + 0.02 * k, 0.8))).ids[0] for k in (back, back + 1)]
    assert again == ([0, 0] if same else [-1, 1])


def test_frames_that_were_never_answered_are_only_time() -> None:
    tracker = Tracker()
    numbers(tracker, *[people((0.2 + 0.02 * k, 0.8)) for k in range(10)])
    assert tracker.step(1.9, people((0.2 + 0.02 * 19, 0.8))).ids.tolist() == [0]


def test_somebody_half_hidden_is_followed_by_an_unsure_box_which_begins_no_track() -> None:
    tracker = Tracker()
    numbers(tracker, *[people((0.5, 0.9))] * 3)
    unsure = people((0.5, 0.9), (0.2, 0.9), score=0.3)
    assert numbers(tracker, *[unsure] * 20, since_s=0.3)[-1] == [0, -1]
    assert tracker.step(2.4, people((0.5, 0.9))).ids.tolist() == [0]


def test_a_box_of_another_label_is_another_track() -> None:
    tracker = Tracker()
    numbers(tracker, *[people((0.5, 0.9))] * 3)
    assert numbers(tracker, *[people((0.5, 0.9), label=1)] * 2, since_s=0.3) == [[-1], [1]]


@pytest.mark.parametrize("away", ["forget", "clock"])
def test_no_number_is_given_twice(away: str) -> None:
    tracker = Tracker()
    numbers(tracker, *[people((0.5, 0.9))] * 3)
    if away == "forget":
        tracker.forget()
    since_s = 0.3 if away == "forget" else -5.0
    assert numbers(tracker, *[people((0.5, 0.9))] * 3, since_s=since_s) == [[-1], [1], [1]]


def test_boxes_without_area_and_frames_without_boxes_are_no_trouble() -> None:
    flat = Detections(np.array([[0.5, 0.5, 0.5, 0.5]], np.float32), np.ones(1, np.float32), np.zeros(1))
    shrinking = [
        Detections(
            np.array([[0.4, 0.4, 0.6 - 0.019 * k, 0.6 - 0.019 * k]], np.float32), np.ones(1), np.zeros(1)
        )
        for k in range(11)
    ]
    tracker = Tracker()
    assert numbers(tracker, *shrinking, people(), *[flat] * 5, people())[-1] == []
    assert all(np.isfinite(track.mean).all() for track in tracker._tracks)


def crowd(seed: int) -> tuple[list[Detections], list[np.ndarray]]:
    """30 seconds of 12 who walk about, one in ten boxes missed, and who is behind whom half or wholly hidden.

    Returns the boxes of each frame and whose each of them is.
    """
    draw = np.random.default_rng(seed)
    count, tall = 12, draw.uniform(0.15, 0.3, 12)
    size = np.stack([tall / 4, tall], 1)
    place, speed = draw.uniform([0.1, 0.3], [0.9, 0.9], (count, 2)), draw.normal(0, [0.08, 0.03], (count, 2))
    frames, whose = [], []
    for _ in range(300):
        speed = speed + draw.normal(0, [0.01, 0.004], (count, 2))
        place = place + speed / FPS
        outside = (place < [0.05, 0.3]) | (place > 0.95)
        speed, place = np.where(outside, -speed, speed), place.clip([0.05, 0.3], 0.95)
        boxes = np.concatenate([place - size * [0.5, 1], place + size * [0.5, 0]], 1)
        behind = (overlaps(boxes, boxes) * (place[:, 1] > place[:, 1:])).max(1)
        scores = np.where(behind > 0.25, 0.3, 0.9) * (behind < 0.6) * (draw.random(count) > 0.1)
        shown = np.flatnonzero(scores)
        trembling = boxes + draw.normal(0, 0.04, (count, 4)) * np.tile(size, 2)
        frames.append(Detections(trembling[shown].astype(np.float32), scores[shown], np.zeros(len(shown))))
        whose.append(shown)
    return frames, whose


def test_in_a_crowd_a_number_seldom_changes_and_the_same_boxes_get_the_same_numbers() -> None:
    """Without the filter, which knows where they go, it would be more than ten times as many."""
    frames, whose = crowd(0)
    given = numbers(Tracker(), *frames)
    assert given == numbers(Tracker(), *frames)
    last: dict[int, int] = {}
    switches = 0
    for ids, people_there in zip(given, whose):
        for number, person in zip(ids, people_there):
            if number >= 0:
                switches += last.get(person, number) != number
                last[person] = number
    assert switches <= 60, "of 12 people in 30 s, who are hidden by one another all the time"


def test_the_pairs_are_those_of_the_largest_total() -> None:
    """Greedy would take the 0.9 and be left with nothing beside it."""
    assert assigned(np.array([[0.9, 0.8], [0.7, 0.0]])) == [(0, 1), (1, 0)]
    assert assigned(np.array([[0.0, 0.0], [0.0, 0.3], [0.0, 0.2]])) == [(1, 1)]
    assert assigned(np.zeros((2, 0))) == []


def test_they_are_as_good_as_scipys() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    draw = np.random.default_rng(0)
    for _ in range(300):
        rows, columns = draw.integers(1, 9, 2)
        alike = draw.random((rows, columns)) * (draw.random((rows, columns)) < draw.choice([0.3, 0.7, 1]))
        pairs = assigned(alike)
        assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
        best = alike[optimize.linear_sum_assignment(alike, maximize=True)].sum()
        assert sum(alike[pair] for pair in pairs) == pytest.approx(best)
