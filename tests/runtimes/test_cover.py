"""Nobody who was to be covered is seen, whatever a detector does."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from edgepv.runtimes.picture.cover import GREY, HELD, Cover, covered

NOISE = np.random.default_rng(0).integers(80, 256, (100, 200, 3), dtype=np.uint8)
BOX = np.array([[0.4012, 0.404, 0.6013, 0.803]])
NOBODY = np.zeros((0, 4))


def finds(*answers: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Says these one after the other, and the last one for ever."""
    left = list(answers)
    return lambda picture: left.pop(0) if len(left) > 1 else left[0]


def whole(picture: np.ndarray) -> bool:
    return bool((picture == GREY).all())


def test_the_inside_of_a_box_with_its_margin_is_one_grey_and_the_rest_is_untouched() -> None:
    before = NOISE.copy()
    shown = Cover([finds(BOX)])(NOISE)
    hidden = np.zeros(NOISE.shape[:2], bool)
    hidden[32:89, 72:129] = True  # a fifth of 40 x 40 px around it, outwards to whole pixels
    assert (shown[hidden] == GREY).all()
    assert (shown[~hidden] == NOISE[~hidden]).all() and (before == NOISE).all()


def test_what_was_inside_makes_no_difference_to_what_is_shown() -> None:
    """So it cannot be had back: two pictures that differ only there become the same."""
    other = NOISE.copy()
    other[45:75, 90:110] = 255 - other[45:75, 90:110]
    assert (covered(NOISE, BOX) == covered(other, BOX)).all()


def raises(picture: np.ndarray) -> np.ndarray:
    raise RuntimeError("no memory")


@pytest.mark.parametrize(
    "finder",
    [
        raises,
        finds(np.full((1, 4), np.nan)),
        finds(np.array([[0.4, 0.4, np.inf, 0.8]])),
        finds(np.zeros((1, 5))),
        finds(np.zeros(4)),
        finds(np.array([["a", "b", "c", "d"]])),
    ],
    ids=["raises", "nan", "infinite", "five numbers", "no rows", "no numbers"],
)
def test_a_finder_that_fails_leaves_nothing_to_see_and_is_told(
    finder: Callable[[np.ndarray], np.ndarray],
) -> None:
    faults: list[Exception] = []
    cover = Cover([finds(NOBODY), finder], fault=faults.append)
    assert whole(cover(NOISE)) and whole(cover(NOISE))
    assert len(faults) == 2 and cover.counts == {"covered": 2, "covered_failed": 2}


def test_a_finder_that_hangs_holds_up_one_picture_and_all_are_covered_until_it_is_back() -> None:
    go, entered, faults = threading.Event(), threading.Event(), list[Exception]()

    def hangs(picture: np.ndarray) -> np.ndarray:
        entered.set()
        go.wait(30)
        return NOBODY

    cover = Cover([hangs], fault=faults.append, late_s=0.05)
    assert whole(cover(NOISE)) and entered.is_set()
    assert all(whole(cover(NOISE)) for _ in range(50))
    assert cover.counts["covered_late"] == 51 and not faults
    cover.close(0.05)
    assert "has not come back" in str(faults[0])
    go.set()


def test_after_a_late_answer_the_next_picture_is_looked_at_anew() -> None:
    go = threading.Event()

    def slow(picture: np.ndarray) -> np.ndarray:
        go.wait(30)
        return BOX if picture[0, 0, 0] == NOISE[0, 0, 0] else NOBODY

    cover = Cover([slow], late_s=0.05)
    assert whole(cover(np.zeros_like(NOISE)))  # nobody is in that one, but the answer is late
    go.set()
    cover._late_s = 10.0
    for _ in range(1000):
        if not whole(shown := cover(NOISE)):
            break
    assert (shown == covered(NOISE, BOX)).all()


def test_who_is_lost_for_some_pictures_stays_covered_where_they_were() -> None:
    cover = Cover([finds(BOX, NOBODY)])
    shown = [cover(NOISE) for _ in range(HELD + 1)]
    assert all((picture == covered(NOISE, BOX)).all() for picture in shown[:HELD])
    assert (shown[HELD] == NOISE).all()


def test_a_picture_of_another_size_is_covered_in_its_own_places() -> None:
    cover = Cover([finds(BOX, NOBODY)])
    cover(NOISE)
    large = np.repeat(np.repeat(NOISE, 3, 0), 3, 1)[:, :540]
    assert (cover(large) == covered(large, BOX)).all()


@pytest.mark.parametrize(
    "box", [[-1.0, -1.0, 2.0, 2.0], [0.9, 0.9, 5.0, 5.0], [0.6, 0.8, 0.4, 0.4], [0.5, 0.5, 0.5, 0.5]]
)
def test_boxes_beyond_the_picture_upside_down_or_empty_are_no_trouble(box: list[float]) -> None:
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    middle = ((low + high).clip(0, 1) / 2 * (199, 99)).astype(int)
    shown = covered(NOISE, np.array([box]))
    inside = np.ix_(*(range(int(a * n), int(np.ceil(b * n))) for a, b, n in
                      zip(low.clip(0, 1)[::-1], high.clip(0, 1)[::-1], (100, 200))))  # fmt: skip
    assert (shown[inside] == GREY).all() and middle.shape == (2,)


def test_the_running_models_boxes_are_covered_too_and_alone_it_must_have_answered() -> None:
    beside = Cover([finds(NOBODY)], label="person")
    assert (beside(NOISE, BOX) == covered(NOISE, BOX)).all()
    assert (Cover([finds(NOBODY)], label="person")(NOISE, None) == NOISE).all()
    alone = Cover([], label="person", alone=True)
    assert (alone(NOISE, BOX) == covered(NOISE, BOX)).all()
    assert whole(alone(NOISE, None)) and alone.counts["covered_unanswered"] == 1
    assert whole(alone(NOISE, np.full((1, 4), np.nan)))
