"""A camera's picture becomes the model's input in C number for number as in Python."""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_core import FORMATS, Toy, c_session, camera, picture

from edgepv.data.frames import preprocess

SIDES = st.integers(1, 40)


def seen(
    core: ctypes.CDLL, toy: Toy, planes: list[np.ndarray], size: tuple[int, int], kind: str
) -> np.ndarray:
    with c_session(core, toy, camera(*size, kind)) as session:
        session.step(planes)
        return session.output(1).reshape(1, toy.channels, toy.height, toy.width)


def check(core: ctypes.CDLL, toy: Toy, width: int, height: int, kind: str, seed: int = 0) -> None:
    if kind == "nv12":
        width, height = width + width % 2, height + height % 2
    planes, bgr = picture(np.random.default_rng(seed), width, height, kind)
    np.testing.assert_array_equal(
        seen(core, toy, planes, (width, height), kind), preprocess(bgr, toy.spec), f"{width}x{height} {kind}"
    )


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    to_x=SIDES,
    to_y=SIDES,
    kind=st.sampled_from(sorted(FORMATS)),
    colour=st.sampled_from(["rgb", "bgr", "grey"]),
    seed=st.integers(0, 9),
)
def test_any_size_format_and_stride(
    core: ctypes.CDLL, width: int, height: int, to_x: int, to_y: int, kind: str, colour: str, seed: int
) -> None:
    check(core, Toy(to_x, to_y, colour), width, height, kind, seed)


@pytest.mark.parametrize("kind", sorted(FORMATS))
@pytest.mark.parametrize(
    ("source", "to"),
    [
        ((60, 48), (60, 48)),  # nothing to do
        ((60, 48), (30, 24)),  # by two: halves go up
        ((60, 48), (20, 16)),  # by three: halves go to even
        ((64, 48), (16, 12)),
        ((64, 48), (32, 12)),  # whole factors that differ
        ((60, 48), (60, 24)),
        ((98, 98), (2, 2)),  # 49 is not 1 / (1 / 49)
        ((61, 47), (30, 24)),
        ((20, 16), (60, 48)),
        ((20, 60), (61, 24)),  # one axis grows, the other shrinks
        ((60, 20), (24, 61)),
        ((1, 1), (5, 7)),
        ((2, 90), (1, 1)),
        ((1920, 1080), (224, 224)),
        ((337, 291), (700, 411)),
        ((4003, 12), (2001, 4)),  # a share of less than 1/1000 of a pixel is left out: behind,
        ((3999, 12), (2000, 4)),  # and before
    ],
)
def test_what_opencv_treats_apart(
    core: ctypes.CDLL, source: tuple[int, int], to: tuple[int, int], kind: str
) -> None:
    check(core, Toy(*to), *source, kind)


@pytest.mark.slow
def test_every_length_of_one_axis(core: ctypes.CDLL) -> None:
    for length in range(1, 130):
        for to in (1, 2, 7, 16, 31, 64):
            check(core, Toy(to, 2), length, 3, "grey", length)


@pytest.mark.slow
def test_every_colour_turns_grey_as_opencv_says(core: ctypes.CDLL) -> None:
    """All 16 million, in pieces of 64 thousand."""
    low = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij"), -1).astype(np.uint8)
    toy = Toy(256, 256, "grey", mean=(0.0,) * 3, std=(1 / 255,) * 3)
    with c_session(core, toy, camera(256, 256)) as session:
        for blue in range(256):
            bgr = np.concatenate([np.full((256, 256, 1), blue, np.uint8), low], -1)
            session.step([bgr.reshape(256, -1)])
            got = session.output(1).reshape(256, 256)
            np.testing.assert_array_equal(np.rint(got), cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY))


@pytest.mark.slow
def test_every_luma_and_chroma(core: ctypes.CDLL) -> None:
    """Each pair of chroma values, under every luma: 16 million pixels, a luma in a picture."""
    chroma = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij"), -1).astype(np.uint8)
    toy = Toy(512, 512, "bgr", mean=(0.0,) * 3, std=(1 / 255,) * 3)
    planes = [np.zeros((512, 512), np.uint8), chroma.reshape(256, 512)]
    with c_session(core, toy, camera(512, 512, "nv12")) as session:
        for luma in (*range(0, 24), *range(24, 232, 13), *range(232, 256)):
            planes[0][:] = luma
            session.step(planes)
            got = np.rint(session.output(1).reshape(3, 512, 512).transpose(1, 2, 0))
            np.testing.assert_array_equal(got, cv2.cvtColor(np.concatenate(planes), cv2.COLOR_YUV2BGR_NV12))
