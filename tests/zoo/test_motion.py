"""Rendered clips move as their tracks say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepv.errors import UsageError
from edgepv.zoo.training.motion import (
    Layer,
    Scene,
    batch,
    blob,
    compose,
    follow,
    read_pictures,
    render,
    to_and_fro,
)

SIZE = 64


def dots(seed: int = 0) -> list[np.ndarray]:
    """Grey pictures with rough texture."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (4, 40, 40), dtype=np.uint8)
    return [np.repeat(cv2.resize(p, (120, 120))[..., None], 3, -1) for p in small]


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1.0, y], [0, 0, 1]])


def test_a_drawn_dot_is_where_the_track_says() -> None:
    turn = np.array([[0.9, -0.2, 10.0], [0.15, 1.05, -3.0], [0.001, -0.0005, 1.0]])
    picture = np.zeros((90, 90, 3), np.uint8)
    cv2.circle(picture, (40, 30), 2, (255, 255, 255), -1, cv2.LINE_AA)
    layer = Layer(picture, None, np.stack([shift(-10, -5), turn]))
    frames = compose([layer], SIZE)
    points, hidden = follow([layer], np.array([[30.0, 25.0]]), 0, SIZE)
    for frame, point in zip(frames, points[0], strict=True):
        bright = frame[..., 0].astype(float)
        y, x = np.mgrid[:SIZE, :SIZE]
        centre = np.array([(bright * x).sum(), (bright * y).sum()]) / bright.sum()
        assert np.abs(centre - point).max() < 0.1
    assert not hidden.any()


def test_a_point_is_hidden_while_a_layer_lies_over_it() -> None:
    ground = Layer(np.full((99, 99, 3), 50, np.uint8), None, np.stack([shift(0, 0)] * 3))
    cover = np.ones((20, 20), np.float32)
    plate = Layer(
        np.full((20, 20, 3), 200, np.uint8), cover, np.stack([shift(0, 0), shift(25, 25), shift(44, 44)])
    )
    points, hidden = follow([ground, plate], np.array([[30.0, 30.0]]), 0, SIZE)
    assert hidden[0].tolist() == [False, True, False]
    assert compose([ground, plate], SIZE)[:, 30, 30, 0].tolist() == [50, 200, 50]
    assert np.allclose(points, 30)


def test_a_point_on_the_upper_layer_moves_with_it_and_leaves_the_frame() -> None:
    ground = Layer(np.zeros((99, 99, 3), np.uint8), None, np.stack([shift(0, 0)] * 2))
    plate = Layer(
        np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), np.float32), np.stack([shift(0, 0), shift(60, 0)])
    )
    points, hidden = follow([ground, plate], np.array([[10.0, 10.0]]), 0, SIZE)
    assert points[0].round(6).tolist() == [[10, 10], [70, 10]]
    assert hidden[0].tolist() == [False, True]


def test_tracks_agree_with_what_the_pixels_show() -> None:
    """The colour under a visible point stays the same while nothing changes the light."""
    clip = render(np.random.default_rng(3), dots(), Scene(size=96, frames=10, points=40, harsh=0.0))
    drift = []
    for track, hidden, birth in zip(clip.points, clip.occluded, clip.birth, strict=True):
        at = track * 96 - 0.5
        colours = np.stack(
            [cv2.getRectSubPix(f, (1, 1), (float(x), float(y)))[0, 0] for f, (x, y) in zip(clip.frames, at)]
        )
        seen = ~hidden & (np.arange(10) >= birth)
        drift.append(np.abs(colours[seen].astype(float) - colours[birth]).mean())
    assert np.median(drift) < 8
    assert not clip.occluded[np.arange(40), clip.birth].any()


def test_the_same_seed_renders_the_same_clip() -> None:
    scene = Scene(size=SIZE, frames=4, points=5)
    first, second = (render(np.random.default_rng(7), dots(), scene) for _ in range(2))
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.points, second.points)


def test_a_clip_with_a_period_goes_to_and_fro() -> None:
    assert to_and_fro(7, 3).tolist() == [0, 1, 2, 1, 0, 1, 2]
    scene = Scene(size=SIZE, frames=9, points=5, period=3, late=0.0, harsh=0.0)
    clip = render(np.random.default_rng(1), dots(), scene)
    assert np.array_equal(clip.frames[0], clip.frames[4])
    assert np.allclose(clip.points[:, 0], clip.points[:, 8])


def test_faster_scenes_move_more() -> None:
    def travel(speed: float) -> float:
        scene = Scene(size=SIZE, frames=6, points=30, speed=(speed, speed), late=0.0)
        clip = render(np.random.default_rng(5), dots(), scene)
        return float(np.linalg.norm(np.diff(clip.points, axis=1), axis=-1).mean())

    assert 0 < travel(0.003) < travel(0.03) < 0.1


def test_a_blob_is_inside_its_square() -> None:
    shape = blob(np.random.default_rng(0), 40)
    border = np.concatenate([shape[0], shape[-1], shape[:, 0], shape[:, -1]])
    assert border.max() < 1e-3
    assert 0.9 < shape.max() <= 1


def test_clips_are_stacked_by_field() -> None:
    scene = Scene(size=SIZE, frames=3, points=6)
    made = batch(render(np.random.default_rng(i), dots(), scene) for i in range(2))
    assert made["frames"].shape == (2, 3, SIZE, SIZE, 3)
    assert made["points"].shape == (2, 6, 3, 2)


def test_training_pictures_and_held_out_pictures_do_not_meet(tmp_path: Path) -> None:
    stills = tmp_path / "stills" / "train400_gray180"
    stills.mkdir(parents=True)
    for i in range(363):
        cv2.imwrite(str(stills / f"test_{i:03d}.png"), np.full((8, 8), i % 251, np.uint8))
    assert len(read_pictures(tmp_path, "train")) == 360
    assert [int(p[0, 0, 0]) for p in read_pictures(tmp_path, "test")] == [360 % 251, 361 % 251, 362 % 251]


def test_a_folder_without_stills_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no stills"):
        read_pictures(tmp_path, "train")


def test_clean_scenes_only_differ_in_their_pixels() -> None:
    scene = Scene(size=SIZE, frames=3, points=4, late=0.0)
    harsh, clean = (render(np.random.default_rng(2), dots(), replace(scene, harsh=h)) for h in (1.0, 0.0))
    assert not np.array_equal(harsh.frames, clean.frames)
