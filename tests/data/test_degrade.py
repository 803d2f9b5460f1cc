"""Noise and halving do what they say, and the figures rank repairs as the eye does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgepv.data.degrade import CORRUPTIONS, as_float, noisy, rounded, smaller
from edgepv.errors import UsageError
from edgepv.metrics.pictures import flicker, psnr, ssim


def picture(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth shapes on a ramp, (H, W, 3) float32 in [0.2, 0.8]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + c) + seed) * np.cos(y / (4 + c)) for c in range(3)]
    return (0.5 + 0.3 * np.stack(waves, -1)).astype(np.float32)


def test_noise_has_the_standard_deviation_asked_for_and_may_leave_the_range() -> None:
    out = noisy(np.zeros((4, 50, 50, 3), np.uint8), 0.1, np.random.default_rng(0))
    assert out.dtype == np.float32
    assert abs(out.std() - 0.1) < 0.001
    assert abs(out.mean()) < 0.002
    assert out.min() < 0


def test_the_same_seed_gives_the_same_noise() -> None:
    frames = np.full((2, 8, 8, 3), 128, np.uint8)
    a, b = (noisy(frames, 0.1, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(a, b)


def test_uint8_is_mapped_to_0_to_1_and_float_is_not() -> None:
    assert as_float(np.array([0, 51, 255], np.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert as_float(np.array([-0.5, 2.0])).tolist() == [-0.5, 2.0]


def test_a_camera_delivers_256_levels_between_0_and_1() -> None:
    assert rounded(np.array([-0.3, 0.0021, 1.7])).tolist() == pytest.approx([0, 1 / 255, 1])


def test_half_takes_the_mean_of_2_x_2_in_every_frame() -> None:
    frame = np.array([[10, 20], [30, 40]], np.uint8)[..., None].repeat(3, 2)
    assert smaller(frame, 2).tolist() == [[[25, 25, 25]]]
    assert smaller(np.stack([frame, frame]), 2).shape == (2, 1, 1, 3)
    assert smaller(frame.astype(np.float32) / 255, 2).dtype == np.float32


def test_a_frame_of_odd_height_is_refused() -> None:
    with pytest.raises(UsageError, match="3 x 4 cannot be made 2 times smaller"):
        smaller(np.zeros((3, 4, 3), np.uint8), 2)


def test_an_error_of_a_tenth_everywhere_is_20_db() -> None:
    frame = np.full((4, 4, 3), 0.5)
    assert psnr(frame, frame + 0.1) == pytest.approx(20, abs=1e-4)
    assert math.isinf(psnr(frame, frame))


def test_what_leaves_the_range_is_clipped_before_it_is_compared() -> None:
    white = np.ones((16, 16, 3))
    assert math.isinf(psnr(white, white + 5))
    assert ssim(white, white + 5) == pytest.approx(1)


def test_ssim_is_1_for_equal_frames_and_falls_with_noise() -> None:
    frame, rng = picture(), np.random.default_rng(0)
    little, much = (frame + s * rng.standard_normal(frame.shape) for s in (0.02, 0.1))
    assert ssim(frame, frame) == pytest.approx(1)
    assert 1 > ssim(frame, little) > ssim(frame, much) > 0


def test_ssim_minds_a_lost_structure_more_than_a_shift_of_brightness() -> None:
    frame = picture()
    flat = np.full_like(frame, frame.mean())
    shift = float(np.sqrt(np.mean((frame - flat) ** 2)))
    assert psnr(frame, frame - shift) == pytest.approx(psnr(frame, flat), abs=0.6)
    assert ssim(frame, frame - shift) > ssim(frame, flat) + 0.3


def test_ssim_of_two_flat_frames_is_the_likeness_of_their_means() -> None:
    a, b = np.full((16, 16, 3), 0.2), np.full((16, 16, 3), 0.6)
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4))


def test_flicker_is_0_for_a_constant_error_and_counts_one_that_comes_and_goes() -> None:
    truth = np.stack([picture(t) for t in range(4)])
    assert flicker(truth, truth + 0.1) == pytest.approx(0, abs=1e-6)
    blinking = truth + 0.1 * (np.arange(4) % 2)[:, None, None, None]
    assert flicker(truth, blinking) == pytest.approx(0.1, abs=1e-6)


def test_each_corruption_spoils_a_frame_in_its_way_and_is_the_same_twice() -> None:
    frame = np.rint(255 * picture()).astype(np.uint8)
    spoilt = {}
    for name, (how, spoil) in CORRUPTIONS.items():
        once, again = (spoil(frame, np.random.default_rng(1)) for _ in range(2))
        assert once.dtype == np.uint8 and once.shape == frame.shape and how
        assert np.array_equal(once, again) and psnr(as_float(frame), as_float(once)) < 40, name
        spoilt[name] = once.astype(float)
    assert spoilt["low light"].mean() < 0.6 * frame.mean()  # 15 % of the light is 0.15 ** (1 / 2.2) = 0.42
    rough = [float(np.abs(np.diff(f, axis=0)).mean()) for f in (spoilt["blur"], frame.astype(float))]
    assert rough[0] < rough[1], "a blur is smoother"
    assert 20 < (spoilt["noise"] - frame).std() < 26
