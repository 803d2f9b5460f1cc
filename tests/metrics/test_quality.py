"""What a tracker and a restorer are judged by: figures that can be checked in the head."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import stats

from edgepv.data.clips import Clip, find_clips
from edgepv.data.frames import clean_frames, degraded, model_frames, pictures
from edgepv.data.truth import EvalClip, Points, born_at, eval_clip
from edgepv.errors import UsageError
from edgepv.metrics.stats import mean_drop, mean_interval, student
from edgepv.metrics.tasks import distance_px, figures, groups_of, rate, task_drop
from edgepv.types import ModelSpec, TensorSpec
from edgepv.zoo import HERE

TRACKER = ModelSpec(
    "tracker",
    TensorSpec("frame", (1, 3, 64, 128)),
    task="tracking",
    metric="delta_avg",
    outputs=(TensorSpec("tracks", (1, 2, 3), "NKC"),),
    particles=2,
    fps=Fraction(5),
)
RESTORER = ModelSpec(
    "restorer",
    TensorSpec("frame", (1, 3, 16, 24)),
    task="restoration",
    metric="psnr",
    outputs=(TensorSpec("image", (1, 3, 32, 48)),),
    degrade="half",
)


def video(path: Path, frames: int, height: int = 64, width: int = 128) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for i in range(frames):
        writer.write(np.full((height, width, 3), 20 + 5 * i, np.uint8))
    writer.release()
    return path


def clip(path: Path) -> Clip:
    return Clip(path, None, path.name)


def test_a_pixel_is_a_256th_of_the_frame_along_both_sides() -> None:
    here, there = np.zeros((1, 2)), np.array([[2 / 256, 0.0]])  # the frame is 2 image heights wide
    assert distance_px(TRACKER, here, there)[0] == pytest.approx(1.0)
    assert distance_px(TRACKER, here, np.array([[0.0, 1 / 256]]))[0] == pytest.approx(1.0)


def test_delta_avg_counts_visible_points_after_the_first_frame() -> None:
    truth = Points(np.zeros((3, 2, 2)), np.array([[True, True], [True, True], [True, False]]))
    rows = np.zeros((3, 2, 3))
    rows[1, 0, 1] = 3 / 256  # within 4, 8 and 16 px, not within 1 and 2
    rows[0, 1, 1] = rows[2, 1, 1] = 0.5  # the frame of birth, and a hidden point: neither counts
    found = figures(TRACKER, [rows], [EvalClip(rows, truth)], warmup=1)
    assert found[0] == pytest.approx((2 / 3 + 2 / 3 + 1 + 1 + 1) / 5)


def test_true_points_come_from_the_file_beside_the_clip_at_the_models_rate(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 6)
    points = np.zeros((3, 6, 2))
    points[:, :, 0] = np.arange(6) * 2
    points[:, :, 1] = 32
    occluded = np.zeros((3, 6), bool)
    occluded[0, 0] = occluded[2, 4] = True
    np.savez(tmp_path / "a.npz", points=points, occluded=occluded)
    found = eval_clip(clip(path), TRACKER)
    assert isinstance(found.truth, Points) and found.start is not None
    assert found.frames.shape == (3, 3, 64, 128)
    assert found.truth.position.shape == (3, 2, 2)  # point 0 is hidden at first, so 1 and 2 are followed
    np.testing.assert_allclose(found.truth.position[:, 0], [[0, 0.5], [4 / 64, 0.5], [8 / 64, 0.5]])
    assert found.truth.visible.tolist() == [[True, True], [True, True], [True, False]]
    np.testing.assert_allclose(found.start["position"][0], [[0, 0.5], [0, 0.5]])
    assert found.start["life"][0, :, 0].tolist() == [2, 2]


def test_points_that_do_not_fit_the_video_are_refused(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 6)
    np.savez(tmp_path / "a.npz", points=np.zeros((3, 5, 2)), occluded=np.zeros((3, 5), bool))
    with pytest.raises(UsageError, match="do not fit a video of 6 frames"):
        eval_clip(clip(path), TRACKER)
    np.savez(tmp_path / "a.npz", places=np.zeros(3))
    with pytest.raises(UsageError, match="holds no points"):
        eval_clip(clip(path), TRACKER)


def test_places_without_a_point_are_empty() -> None:
    assert born_at(np.array([[0.5, 0.25]]), TRACKER)["life"][0, :, 0].tolist() == [2, -1]


def test_a_restorer_sees_the_degraded_clip_and_is_judged_by_the_clean_one(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 4)
    found = eval_clip(clip(path), RESTORER)
    assert isinstance(found.truth, np.ndarray)
    assert found.frames.shape == (4, 3, 16, 24) and found.truth.shape == (4, 32, 48, 3)
    np.testing.assert_array_equal(found.frames, model_frames(path, RESTORER))
    perfect = found.truth[..., ::-1].transpose(0, 3, 1, 2) / 255
    np.testing.assert_array_equal(pictures(RESTORER, perfect), found.truth)
    assert figures(RESTORER, [perfect], [found], 1)[0] == 100
    off = rate(RESTORER, [np.clip(perfect + 10 / 255, 0, 1)], [found], 1)
    assert off.metric == "psnr" and off.value == pytest.approx(20 * np.log10(255 / 10), abs=0.1)


def test_noise_is_the_same_every_time(tmp_path: Path) -> None:
    spec = replace(RESTORER, degrade="noise-25", outputs=(TensorSpec("image", (1, 3, 16, 24)),))
    clean = clean_frames(video(tmp_path / "a.mp4", 3), spec)
    once, again = degraded(clean, spec), degraded(clean, spec)
    np.testing.assert_array_equal(np.stack(once), np.stack(again))
    spread = np.std(np.stack(once).astype(float) - np.stack(clean))
    assert 15 < spread < 26  # 25 levels, less what is clipped at black


def test_a_loss_in_db_passes_fails_or_needs_more_clips() -> None:
    before = np.array([30.0, 32, 28, 31])
    assert mean_drop(before, before - 0.1, max_drop=0.3, unit="dB").verdict == "pass"
    worse = mean_drop(before, before - [0.9, 1.0, 1.1, 1.0], max_drop=0.3, unit="dB")
    assert worse.verdict == "fail" and worse.points == pytest.approx(1.0) and worse.lost == 4
    open_ = mean_drop(before, before - [0.0, 1.0, -0.5, 0.4], max_drop=0.3, unit="dB")
    assert open_.verdict == "inconclusive" and open_.clips_needed and open_.clips_needed > 4


def test_four_clips_are_judged_by_students_t() -> None:
    loss = np.array([0.2, -0.9, -0.4, -0.9])
    low, high = mean_interval(loss)
    wanted = stats.t.interval(0.95, 3, loss.mean(), stats.sem(loss))
    assert (low, high) == pytest.approx(wanted, abs=1e-3)
    drop = mean_drop(np.zeros(4), -loss, max_drop=0.2, unit="points")
    assert drop.verdict == "inconclusive" and drop.clips_needed == 5


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 31, 50, 1000])
def test_students_quantile_is_that_of_a_library(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=6e-4)


def test_one_clip_can_tell_nothing() -> None:
    assert mean_interval(np.array([3.0])) == (-np.inf, np.inf)
    alone = mean_drop(np.array([30.0]), np.array([29.9]), max_drop=0.3, unit="dB")
    assert alone.verdict == "inconclusive"


def test_delta_avg_is_lost_in_points() -> None:
    drop = task_drop(TRACKER, np.array([0.9, 0.8]), np.array([0.8, 0.7]), max_drop=1.0)
    assert drop.unit == "points" and drop.points == pytest.approx(10.0) and drop.verdict == "fail"


def test_the_shipped_films_are_one_film_on_each_side_and_give_no_interval() -> None:
    film = find_clips(HERE / "film", ())
    held = [eval_clip(c, RESTORER) for c in film if c.split == "evaluation"]
    assert {c.group for c in film if c.split != "evaluation"}.isdisjoint(groups_of(held) or ())
    found = rate(RESTORER, [np.zeros((16, 3, 32, 48), np.float32)] * len(held), held, 1)
    assert (found.n, found.groups) == (6, 1) and found.low == found.high == found.value
