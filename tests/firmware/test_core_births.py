"""Particles begin and end in C as they do in Python: the same corners, numbers and positions, to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from toy_core import INPUT, CSession, RefusedError, Toy, Tracker, c_session, camera, python_session

from edgepv.runtimes.session import Session

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 320, 240
AVX2 = 11
"""OpenCV's number for it, which Python is not told."""


def pictures(count: int, seed: int, width: int = WIDTH, height: int = HEIGHT) -> Iterator[np.ndarray]:
    """A camera that moves over blurred noise, which has corners; some frames are flat and have none."""
    rng = np.random.default_rng(seed)
    large = rng.integers(0, 256, (height + 2 * count, width + 2 * count, 3), np.uint8)
    scene = cv2.GaussianBlur(large, (9, 9), 0)
    for number in range(count):
        frame = scene[number : number + height, 2 * number : 2 * number + width]
        noisy = frame.astype(int) + rng.integers(-60, 60, frame.shape)
        yield np.ascontiguousarray(np.full_like(frame, 90) if number == 10 else noisy.clip(0, 255), np.uint8)


def check(c: CSession, python: Session, bgr: np.ndarray, missed: int = 0) -> list[int]:
    wanted = python.step(bgr, missed=missed)
    got = c.step([bgr.reshape(len(bgr), -1)], missed=missed)
    assert (got.index, got.label, got.restarted) == (wanted.index, -1, wanted.restarted)
    assert c.ids() == list(wanted.ids)
    np.testing.assert_array_equal(c.output(0), wanted.outputs["tracks"].ravel())
    return c.ids()


@pytest.mark.parametrize(
    "tracker", [Tracker(), Tracker(16, 16, 64), Tracker(40, 22, 5), Tracker(9, 31, 20), Tracker(24, 18, 1)]
)
@pytest.mark.parametrize("seed", range(3))
def test_who_lives_is_as_python_decides(core: ctypes.CDLL, tracker: Tracker, seed: int) -> None:
    python, ids = python_session(tracker), set()
    with c_session(core, tracker, camera(WIDTH, HEIGHT)) as c:
        for number, bgr in enumerate(pictures(40, seed)):
            if number == 25:
                c.reset()
                python.reset()
            ids |= set(check(c, python, bgr, missed=3 * (number == 33)))
    assert len(ids) > 2 * tracker.particles  # many were born, and so many died


@pytest.mark.parametrize("size", [(192, 192), (96, 384), (640, 360), (51, 40), (24, 18)])
def test_pictures_of_any_size_have_the_same_corners(core: ctypes.CDLL, size: tuple[int, int]) -> None:
    tracker = Tracker()
    python = python_session(tracker)
    with c_session(core, tracker, camera(*size)) as c:
        for bgr in pictures(12, 7, *size):
            check(c, python, bgr)


@pytest.mark.parametrize("tracker", [Tracker(24, 24, 30), Tracker(40, 22, 30), Tracker(9, 31, 30)])
@pytest.mark.parametrize("contrast", [1, 16])
def test_of_equal_corners_the_same_come_first(core: ctypes.CDLL, tracker: Tracker, contrast: int) -> None:
    """A pattern that repeats: strengths are equal, or differ by how OpenCV rounds here and there.

    In the second kind a few corners are so strong that most others are too weak.
    """
    if not cv2.checkHardwareSupport(AVX2):
        pytest.skip("OpenCV rounds otherwise on a processor without AVX2")
    size = (round(192 * tracker.width / tracker.height), 192)  # as it is looked at: nothing is resized
    rng = np.random.default_rng(0)
    for tile in (13, 16, 23, 32):
        one = rng.integers(0, 256, (tile, tile, 1), np.uint8) // contrast
        bgr = np.tile(one, (-(-size[1] // tile), -(-size[0] // tile), 3))[: size[1], : size[0]].copy()
        if contrast > 1:
            bgr[60:80, 14:30] = 80
        with c_session(core, tracker, camera(*size)) as c:
            check(c, python_session(tracker), bgr)


def test_nothing_is_born_where_nothing_is(core: ctypes.CDLL) -> None:
    tracker = Tracker()
    python = python_session(tracker)
    with c_session(core, tracker, camera(WIDTH, HEIGHT)) as c:
        for value in (0, 90, 255):
            assert check(c, python, np.full((HEIGHT, WIDTH, 3), value, np.uint8)) == [-1] * tracker.particles


def test_a_tracker_needs_a_camera(core: ctypes.CDLL) -> None:
    with pytest.raises(RefusedError) as refused:
        CSession(core, Tracker(), None)
    assert refused.value.status == INPUT


def test_only_a_tracker_has_numbers(core: ctypes.CDLL) -> None:
    with c_session(core, Toy(), camera(8, 8)) as c:
        c.step([np.zeros((8, 24), np.uint8)])
        with pytest.raises(RefusedError):
            c.ids()
