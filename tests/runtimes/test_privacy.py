"""What a mask and a mosaic hide, what they leave, and which polygons they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from edgepv.errors import UsageError
from edgepv.runtimes.picture.privacy import Polygon, PrivacyMask, mosaic

WHITE = np.full((40, 60, 3), 255, np.uint8)
NOISE = np.random.default_rng(0).integers(1, 256, (120, 160, 3), dtype=np.uint8)
LEFT_THIRD = [(0, 0), (1 / 3, 0), (1 / 3, 1), (0, 1)]


def test_a_polygon_is_black_in_a_new_frame_and_the_rest_is_untouched() -> None:
    before = WHITE.copy()
    masked = PrivacyMask([LEFT_THIRD])(before)
    assert (masked[:, :21] == 0).all() and (masked[:, 21:] == 255).all()  # its edge, column 20, is hidden too
    assert (before == WHITE).all()


def test_a_mask_in_pixels_is_the_same_mask_and_fits_every_size_of_frame() -> None:
    pixels = PrivacyMask([[(0, 0), (20, 0), (20, 40), (0, 40)]], size=(60, 40))
    for frame in (WHITE, np.full((80, 120, 3), 255, np.uint8), WHITE):
        assert (pixels(frame) == PrivacyMask([LEFT_THIRD])(frame)).all()
        assert (pixels(frame)[:, : frame.shape[1] // 3] == 0).all()


def test_two_polygons_that_overlap_and_one_that_crosses_itself_have_no_hole() -> None:
    twice = PrivacyMask([LEFT_THIRD, LEFT_THIRD])(WHITE)
    assert (twice == PrivacyMask([LEFT_THIRD])(WHITE)).all()
    corners = np.deg2rad(np.arange(5) * 144)
    star = [(float(x), float(y)) for x, y in zip(0.5 + 0.5 * np.sin(corners), 0.5 - 0.5 * np.cos(corners))]
    assert (PrivacyMask([star])(WHITE)[20, 30] == 0).all()  # its middle


@pytest.mark.parametrize(
    ("polygon", "says"),
    [
        ([(0, 0), (1, 1)], "mask polygon 1 has 2 points; it needs at least 3"),
        ([(0, 0), (1, 0), (1.2, 1)], r"mask polygon 1: the point \(1.2, 1\) is outside 0..1, 0..1"),
        ([(0, 0), (1, 0), (1, -0.1)], "mask polygon 1: the point .* outside"),
        ([(0, 0), (1, 0), (float("nan"), 1)], "mask polygon 1: the point .nan, 1. is outside"),
        ([(0, 0), (0.5, 0.5), (1, 1)], "mask polygon 1 has no area"),
    ],
)
def test_a_polygon_that_cannot_be_right_is_named(polygon: Polygon, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        PrivacyMask([LEFT_THIRD, polygon])


def test_pixels_need_the_size_of_their_frame() -> None:
    with pytest.raises(UsageError, match=r"the point \(61, 0\) is outside 0..60, 0..40"):
        PrivacyMask([[(0, 0), (61, 0), (9, 9)]], size=(60, 40))


def test_a_region_becomes_its_block_means_and_nothing_else_changes() -> None:
    shown = mosaic(NOISE, [(40, 20, 120, 100)])  # 80 x 80 pixels: 4 x 4 blocks of 20
    for top in range(20, 100, 20):
        for left in range(40, 120, 20):
            block = shown[top : top + 20, left : left + 20].reshape(-1, 3)
            mean = NOISE[top : top + 20, left : left + 20].reshape(-1, 3).mean(axis=0)
            assert (block == block[0]).all() and np.abs(block[0] - mean).max() <= 0.5
    outside = np.ones(NOISE.shape[:2], bool)
    outside[20:101, 40:121] = False
    assert (shown[outside] == NOISE[outside]).all()


@pytest.mark.parametrize(
    ("region", "blocks"),
    [((10, 10, 17, 15), 1), ((10, 10, 26, 18), 2), ((10, 10, 42, 42), 16), ((0, 0, 160, 120), 12)],
    ids=["7 x 5: one", "16 x 8: 2 x 1", "32 x 32: 4 x 4", "160 x 120: 4 x 3"],
)
def test_a_region_keeps_at_most_four_blocks_a_side_of_at_least_8_pixels(
    region: tuple[int, int, int, int], blocks: int
) -> None:
    left, top, right, bottom = region
    shown = mosaic(NOISE, [region])[top:bottom, left:right]
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == blocks


def test_a_polygon_is_hidden_and_its_surroundings_are_not() -> None:
    shown = mosaic(NOISE, [[(40, 20), (120, 20), (40, 100)]])
    changed = (shown != NOISE).any(axis=2)
    assert changed[22:55, 42:80].mean() > 0.99
    assert not changed[62:, 82:].any()  # beyond the long side


def test_a_fraction_of_a_pixel_is_hidden_as_a_whole_one() -> None:
    shown = mosaic(WHITE * np.uint8(0) + np.arange(60, dtype=np.uint8)[:, None], [(10.6, 10.6, 20.2, 20.2)])
    changed = (shown != np.arange(60, dtype=np.uint8)[:, None]).any(axis=(0, 2))
    assert np.flatnonzero(changed).min() == 10 and np.flatnonzero(changed).max() == 20


@pytest.mark.filterwarnings("error")
def test_a_region_partly_or_wholly_outside_is_cut_off() -> None:
    far = mosaic(NOISE, [(500, 500, 600, 600), (-50, -50, -10, -10), (1e9, 0, 2e9, 5)])
    assert (far == NOISE).all()
    shown = mosaic(NOISE, [(-1e12, -1e12, 40, 40)])
    assert len(np.unique(shown[:40, :40].reshape(-1, 3), axis=0)) == 16


@pytest.mark.parametrize(
    "region",
    [
        (10, 10, 10, 20),
        (20, 10, 10, 20),
        (0, 0, float("nan"), 5),
        [(0, 0), (1, 1)],
        [(0, 0), (1,), (2, 2)],
        (1, 2, 3),
    ],
)
def test_a_region_that_is_none_is_named(region: Polygon) -> None:
    with pytest.raises(UsageError, match="^region 1: "):
        mosaic(NOISE, [(0, 0, 5, 5), region])


def test_a_mosaic_of_no_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match="0 blocks"):
        mosaic(NOISE, [], blocks=0)
