"""Particles are born at corners, keep their ids, and die when they are lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepv.errors import UsageError
from edgepv.runtimes.births import Births, Followed, Policy

EAGER = Policy(every=1, patience=3)


def squares(*at: tuple[int, int], side: int = 192) -> np.ndarray:
    """A dark frame with bright squares of 30 pixels whose upper left corners are at (x, y)."""
    frame = np.full((side, side, 3), 20, np.uint8)
    for x, y in at:
        frame[y : y + 30, x : x + 30] = 220
    return frame


FRAME = squares((40, 50))
FLAT = np.full((48, 48, 3), 99, np.uint8)


def answered(writes: dict[str, np.ndarray], visibility: float = 1.0) -> np.ndarray:
    """Tracks of a model that leaves all particles where they were written."""
    seen = visibility * (writes["life"] > 0)
    return np.concatenate([writes["position"], seen], -1).astype(np.float32)


def test_the_corners_of_a_square_are_followed_and_the_other_places_are_empty() -> None:
    births = Births(6, policy=EAGER)
    writes = births.update(None, FRAME)
    assert sorted(writes["life"].ravel().tolist()) == [-1, -1, 2, 2, 2, 2]
    born = writes["position"][0, births.ids >= 0] * 192
    corners = np.array([(40, 50), (70, 50), (40, 80), (70, 80)])
    assert np.abs(born[:, None] - corners[None]).max(-1).min(1).max() < 2
    assert births.followed == ()


def test_nothing_is_written_while_all_goes_well() -> None:
    births = Births(4, policy=EAGER)
    writes = births.update(None, FRAME)
    for _ in range(5):
        assert births.update(answered(writes), FRAME) == {}
    assert [p.age for p in births.followed] == [5] * 4


def test_a_flat_picture_bears_nobody() -> None:
    births = Births(3, policy=EAGER)
    assert births.update(None, FLAT)["life"].ravel().tolist() == [-1, -1, -1]


def test_a_particle_unseen_for_too_long_dies() -> None:
    births = Births(4, policy=EAGER)
    tracks = answered(births.update(None, FRAME))
    tracks[0, 1, 2] = 0.2
    assert births.update(tracks, FLAT) == {}
    assert births.update(tracks, FLAT) == {}
    assert births.update(tracks, FLAT)["life"].ravel().tolist() == [1, -1, 1, 1]
    assert births.ids.tolist() == [0, -1, 2, 3]


def test_being_seen_in_between_saves_it() -> None:
    births = Births(4, policy=EAGER)
    tracks = answered(births.update(None, FRAME))
    for visibility in (0.1, 0.1, 0.9, 0.1, 0.1):
        tracks[0, 1, 2] = visibility
        assert births.update(tracks, FLAT) == {}


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [(1.03, 0.3, "outside"), (0.3, -0.03, "outside"), (0.6, 0.6, "jumped"), (np.nan, 0.3, "not a number")],
)
def test_a_particle_that_left_or_jumped_dies(x: float, y: float, reason: str) -> None:
    births = Births(4, policy=replace(EAGER, jump=0.3 if reason == "jumped" else 9.0))
    tracks = answered(births.update(None, FRAME))
    tracks[0, 2, :2] = x, y
    writes = births.update(tracks, FLAT)
    assert writes["life"].ravel().tolist() == [1, 1, -1, 1], reason
    assert np.isfinite(writes["position"]).all()


def test_a_hidden_particle_may_move_fast() -> None:
    births = Births(4, policy=replace(EAGER, jump=0.01))
    tracks = answered(births.update(None, FRAME))
    tracks[0, 2] = (0.6, 0.6, 0.1)
    assert births.update(tracks, FLAT) == {}


def test_of_two_particles_at_one_spot_the_younger_dies() -> None:
    births = Births(4, policy=replace(EAGER, jump=9.0))
    tracks = answered(births.update(None, FRAME))
    tracks[0, 0, :2] = tracks[0, 3, :2]
    births.update(tracks, FLAT)
    assert births.ids.tolist() == [0, 1, 2, -1]


def test_an_empty_place_is_filled_again_under_a_new_id() -> None:
    births = Births(4, policy=EAGER)
    first = births.update(None, FRAME)
    tracks = answered(first)
    tracks[0, 1, :2] = 2.0
    writes = births.update(tracks, FRAME)
    assert writes["life"].ravel().tolist() == [1, 2, 1, 1]
    assert np.allclose(writes["position"][0, 1], first["position"][0, 1])
    assert births.ids.tolist() == [0, 4, 2, 3]


def test_a_newborn_is_told_once() -> None:
    births = Births(4, policy=EAGER)
    writes = births.update(None, FRAME)
    tracks = answered(writes)
    tracks[0, 0, :2] = 2.0
    again = births.update(tracks, FRAME)
    assert again["life"][0, 0, 0] == 2
    assert births.update(answered(again), FRAME) == {}


def test_new_ones_keep_away_from_those_alive() -> None:
    births = Births(8, policy=EAGER)
    births.update(None, FRAME)
    tracks = answered(births.update(None, FRAME))
    writes = births.update(tracks, squares((40, 50), (110, 120)))
    at = writes["position"][0, births.ids >= 0]
    gaps = np.linalg.norm(at[:, None] - at[None], axis=-1)[~np.eye(len(at), dtype=bool)]
    assert len(at) == 8
    assert gaps.min() >= EAGER.apart


def test_births_wait_for_their_turn() -> None:
    births = Births(4, policy=replace(EAGER, every=3))
    nobody = np.zeros((1, 4, 3), np.float32)
    births.update(None, FLAT)
    counts = []
    for _ in range(4):
        births.update(nobody, FRAME)
        counts.append(int((births.ids >= 0).sum()))
    assert counts == [0, 0, 4, 4]


def test_a_limit_leaves_places_empty() -> None:
    births = Births(4, policy=EAGER, limit=2)
    assert sorted(births.update(None, FRAME)["life"].ravel().tolist()) == [-1, -1, 2, 2]


def test_positions_are_in_heights_of_the_models_frame() -> None:
    """A camera of 4:3 whose picture is squeezed into a square: x ends at 1."""
    wide = np.repeat(FRAME, 2, axis=1)
    one, two = (Births(4, policy=EAGER).update(None, f)["position"] for f in (FRAME, wide))
    assert np.abs(np.sort(one[0], 0) - np.sort(two[0], 0)).max() < 0.02
    stretched = Births(4, aspect=2.0, policy=EAGER).update(None, wide)["position"]
    assert 1.5 < np.ptp(stretched[0, :, 0]) / np.ptp(one[0, :, 0]) < 2.5


def test_ids_go_on_after_a_reset() -> None:
    births = Births(4, policy=EAGER)
    births.update(None, FRAME)
    births.reset()
    assert births.ids.tolist() == [-1] * 4
    births.update(None, FRAME)
    assert sorted(births.ids.tolist()) == [4, 5, 6, 7]


def test_the_followed_are_told_with_their_place_and_age() -> None:
    births = Births(5, policy=EAGER)
    tracks = answered(births.update(None, FRAME), visibility=0.75)
    births.update(tracks, FRAME)
    first = births.followed[0]
    x, y = (float(v) for v in tracks[0, 0, :2])
    assert first == Followed(place=0, id=0, age=1, position=(x, y), visibility=0.75)


def test_more_values_per_particle_do_not_matter() -> None:
    """pv-graph answers x, y, velocity, acceleration, visibility."""
    births = Births(4, policy=EAGER)
    tracks = answered(births.update(None, FRAME))
    longer = np.concatenate([tracks[..., :2], np.full((1, 4, 4), 7, np.float32), tracks[..., 2:]], -1)
    assert births.update(longer, FRAME) == {}


def test_a_wrong_number_of_tracks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\(1, 4, 3\), got \(1, 5, 3\)"):
        Births(4).update(np.zeros((1, 5, 3), np.float32), FRAME)


@pytest.mark.parametrize(("count", "limit"), [(0, None), (4, 5), (4, 0)])
def test_impossible_numbers_are_refused(count: int, limit: int | None) -> None:
    with pytest.raises(UsageError, match="places"):
        Births(count, limit=limit)
