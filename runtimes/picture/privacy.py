"""What a camera must not see, and what a picture must not show.

``PrivacyMask`` blackens parts of the view before the model looks; ``mosaic`` makes regions of a picture
unrecognisable before it goes to any receiver that takes pixels. Events carry no pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from edgepv.base.optional import need
from edgepv.errors import UsageError

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = Sequence[Point]
Rectangle: TypeAlias = tuple[float, float, float, float]
SMALLEST_BLOCK = 8  # pixels
FAR = 30_000  # pixels; OpenCV's fixed-point coordinates end a little further out


class PrivacyMask:
    """Blackens polygons of every frame.

    polygons: points (x, y) from the left and the top, from 0 to 1 of the frame; with ``size`` (width, height)
    in pixels of a frame of that size. They fit frames of any size. An edge is blackened with its polygon.
    Raises UsageError naming the polygon that has fewer than three points, no area, a point outside the frame
    or one that is no number.
    """

    def __init__(self, polygons: Sequence[Polygon], size: tuple[int, int] | None = None) -> None:
        width, height = size or (1, 1)
        self._polygons = [
            _checked(f"mask polygon {i}", points, width, height) / (width, height)
            for i, points in enumerate(polygons)
        ]
        self._shape: tuple[int, ...] | None = None
        self._visible: np.ndarray = np.zeros((0, 0), np.uint8)  # 1 where nothing is hidden

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A new (H, W, 3) uint8 array, black where the polygons are."""
        if frame.shape[:2] != self._shape:
            self._shape = frame.shape[:2]
            hidden = np.zeros(self._shape, bool)
            for polygon in self._polygons:
                hidden |= _filled(polygon * (frame.shape[1], frame.shape[0]), self._shape)
            self._visible = (~hidden).astype(np.uint8)
        return need("cv2", extra="cpu").bitwise_and(frame, frame, mask=self._visible)


def mosaic(frame: np.ndarray, regions: Sequence[Rectangle | Polygon], *, blocks: int = 4) -> np.ndarray:
    """A new frame in which every region is averaged away.

    regions, in pixels: rectangles (left, top, right, bottom) or polygons [(x, y), ...]; parts outside the
    frame do not matter. blocks: at most so many along the longer side of a region, and none smaller than
    8 pixels, so a small region is one block. What is left of a region is the mean colour of each block.
    Raises UsageError naming a region that is none.
    """
    if blocks < 1:
        raise UsageError(f"a mosaic of {blocks} blocks is impossible. Give 1 or more")
    shown = frame.copy()
    height, width = frame.shape[:2]
    for i, region in enumerate(regions):
        points = _corners(f"region {i}", region)
        left, top = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, (width, height)).astype(int)
        if left == right or top == bottom:
            continue
        part = shown[top:bottom, left:right]
        inside = _filled(points - (left, top), part.shape[:2])
        part[inside] = _averaged(part, blocks)[inside]
    return shown


def averaged(picture: np.ndarray, regions: Sequence[Polygon]) -> np.ndarray:
    """The picture with these polygons, in shares of its width and height, averaged away; see ``mosaic``."""
    height, width = picture.shape[:2]
    return mosaic(picture, [[(x * width, y * height) for x, y in region] for region in regions])


def _corners(name: str, region: Rectangle | Polygon) -> np.ndarray:
    """(points, 2) float of a rectangle or a polygon."""
    flat = np.asarray(region, float) if _is_regular(region) else np.zeros(0)
    if flat.shape == (4,):
        left, top = np.floor(flat[:2])
        right, bottom = np.ceil(flat[2:])
        flat = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        if not (left < right and top < bottom):
            raise UsageError(f"{name}: {region} is no rectangle (left, top, right, bottom)")
    if flat.ndim != 2 or flat.shape[1:] != (2,) or len(flat) < 3 or not np.isfinite(flat).all():
        raise UsageError(f"{name}: {region} is neither a rectangle nor at least three points (x, y)")
    return flat


def _averaged(part: np.ndarray, blocks: int) -> np.ndarray:
    """The mean colour of each block of (H, W, 3), in its place."""
    cv2 = need("cv2", extra="cpu")
    height, width = part.shape[:2]
    side = max(SMALLEST_BLOCK, math.ceil(max(height, width) / blocks))
    few = (max(1, width // side), max(1, height // side))
    small = cv2.resize(part, few, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _is_regular(region: Rectangle | Polygon) -> bool:
    try:
        np.asarray(region, float)
    except (TypeError, ValueError):
        return False
    return True


def _checked(name: str, points: Polygon, width: int, height: int) -> np.ndarray:
    """(points, 2) float within (0, 0) to (width, height)."""
    if len(points) < 3:
        raise UsageError(f"{name} has {len(points)} points; it needs at least 3")
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):  # also false for NaN
            raise UsageError(f"{name}: the point ({x}, {y}) is outside 0..{width}, 0..{height}")
    polygon = np.asarray(points, float)
    if np.linalg.matrix_rank(polygon - polygon[0]) < 2:
        raise UsageError(f"{name} has no area: its points lie on one line")
    return polygon


def _filled(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: the inside of a polygon in pixels, with its edge and with every hole it encloses.

    A polygon that crosses itself encloses holes; to hide too much is safe, to hide too little is not.
    """
    cv2 = need("cv2", extra="cpu")
    inside = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.rint(points.clip(-FAR, FAR)).astype(np.int32)], 1)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(inside, outlines, -1, 1, cv2.FILLED)
    return inside.astype(bool)
