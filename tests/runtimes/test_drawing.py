"""What is drawn where: a dot is looked for at the place the record says."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepv.runtimes.picture.drawing import GREEN, ORANGE, STRIP, Painter, colour


def answer(**more: Any) -> dict[str, Any]:
    return {"type": "answer", "valid": True, "stale": False, **more}


def grey(height: int = 400, width: int = 600) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def near(picture: np.ndarray, x: int, y: int, wanted: tuple[int, int, int], reach: int = 3) -> bool:
    """Whether a pixel of about this colour lies around (x, y)."""
    box = picture[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].astype(int)
    return bool((np.abs(box - wanted).sum(-1) < 60).any())


def test_a_track_is_a_dot_in_its_colour_with_a_tail_behind_it() -> None:
    painter = Painter()
    painter.draw(grey(), answer(tracks=[[3, 0.25, 0.5, 1.0]]))
    picture = painter.draw(grey(), answer(tracks=[[3, 0.5, 0.5, 1.0]]))
    assert picture.shape == (400, 600, 3)
    assert near(picture, 300, 200, colour(3)) and near(picture, 225, 200, colour(3), reach=1)
    assert not near(picture, 450, 200, colour(3))


def test_a_hidden_track_is_hollow_and_a_dead_one_leaves_no_tail() -> None:
    painter = Painter()
    painter.draw(grey(), answer(tracks=[[1, 0.2, 0.5, 1.0]]))
    hidden = painter.draw(grey(), answer(tracks=[[1, 0.6, 0.5, 0.1]]))
    assert not near(hidden, 360, 200, colour(1), reach=1) and near(hidden, 360, 200, colour(1), reach=5)
    painter.draw(grey(), answer(tracks=[]))
    again = painter.draw(grey(), answer(tracks=[[1, 0.9, 0.9, 1.0]]))
    assert not near(again, 120, 200, colour(1))


def test_a_particle_has_arrows_of_velocity_and_force() -> None:
    moving = [0.5, 0.5, 0.03, 0.0, 0.0, 0.005, 1.0]
    empty = [0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    picture = Painter().draw(grey(), answer(label="fight", score=0.5, particles=[moving, empty]))
    assert picture.shape == (400 + STRIP, 600, 3)
    assert near(picture, 350, 200, GREEN) and near(picture, 300, 240, ORANGE)
    assert (picture[20:60, 40:80] == 90).all()


def test_past_scores_stand_behind_the_bar() -> None:
    painter = Painter()
    for score in (1.0, 0.0):
        picture = painter.draw(grey(), answer(label="fight", score=score))
    newest, before = picture[-20:, -1].max(), picture[-20:, -3].max()
    assert before > newest


def test_a_box_is_drawn_in_the_colour_of_its_track() -> None:
    box = {"label": "person", "score": 0.9, "box": [0.2, 0.2, 0.6, 0.8], "id": 3}
    picture = Painter().draw(grey(), answer(boxes=[box]))
    assert picture.shape[:2] == (400, 600)
    for x, y in ((120, 200), (360, 200), (240, 80), (240, 320)):
        assert near(picture, x, y, colour(3))
    assert (picture[150:250, 200:300] == 90).all()
    stale = answer(boxes=[box | {"id": None}]) | {"stale": True}
    assert near(Painter().draw(grey(), stale), 120, 200, ORANGE)


def test_a_restored_picture_is_left_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    np.testing.assert_array_equal(Painter().draw(picture, answer()), picture)


def test_ids_have_colours_of_their_own() -> None:
    assert len({colour(i) for i in range(20)}) == 20
