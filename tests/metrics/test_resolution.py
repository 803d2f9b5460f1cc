"""What clips can tell of a variant before there is one: it narrows with clips, and the gate agrees."""

from __future__ import annotations

import math

import numpy as np

from edgepv.metrics.margins import margin_drop, margins
from edgepv.metrics.resolution import ASSUMED_DB, resolution

RNG = np.random.default_rng


def scores(n: int, apart: float = 1.0) -> np.ndarray:
    """Of a two-label classifier that is right in three of four clips of the first label; (n, 2)."""
    margin = RNG(0).normal(apart, 1.6, n)
    return np.stack([margin / 2, -margin / 2], 1)


def test_nine_times_the_clips_tell_a_third_of_the_loss() -> None:
    few, many = (resolution(scores(n), [0] * n, None, 0.3) for n in (60, 540))
    assert 2 < few.points / many.points < 4.5
    assert few.needed and 100 < few.needed < 400 and many.needed is None
    assert "60 clips tell a loss of" in few.told() and "would settle the allowed 0.3" in few.told()


def test_the_gate_passes_a_variant_at_that_noise_where_it_was_foretold() -> None:
    before, rng = scores(540), RNG(1)
    size = np.sqrt((before**2).mean()) * 10 ** (-ASSUMED_DB / 20)
    after = before + size * rng.normal(size=before.shape)
    found = margin_drop(margins(before, [0] * 540), margins(after, [0] * 540), max_drop=1.0)
    assert found.verdict == "pass" and resolution(before, [0] * 540, None, 1.0).points < 1.0


def test_clips_of_few_cameras_tell_less() -> None:
    cameras = [str(n // 30) for n in range(240)]
    alone, grouped = (resolution(scores(240), [0] * 240, g, 1.0) for g in (None, cameras))
    assert grouped.points > 1.3 * alone.points and grouped.groups == 8


def test_one_camera_decides_nothing() -> None:
    found = resolution(scores(60), [0] * 60, ["door"] * 60, 1.0)
    assert found.points == math.inf and "cannot decide the gate" in found.told()


def test_where_no_margin_is_near_the_border_it_is_what_counting_can_tell() -> None:
    found = resolution(scores(40, apart=40.0), [0] * 40, None, 1.0)
    assert 8 < found.points < 10 and found.needed and found.needed > 300
