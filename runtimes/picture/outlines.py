"""Zones and lines drawn into the camera's picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepv.base.optional import need

COLOUR = (60, 200, 240)


def outlined(picture: np.ndarray, shapes: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> np.ndarray:
    """A copy of a picture (H, W, 3) BGR with each shape's outline and its name at its first corner.

    shapes: (name, corners as shares of width and height); two corners are a line, which "in" crosses to the
    left of who goes from the first to the second.
    """
    cv2 = need("cv2", extra="cpu")
    drawn = np.ascontiguousarray(picture).copy()
    height, width = picture.shape[:2]
    for name, corners in shapes:
        points = np.rint(np.array(corners) * (width - 1, height - 1)).astype(np.int32)
        cv2.polylines(drawn, [points], len(points) > 2, COLOUR, 2, cv2.LINE_AA)
        x, y = points[0]
        at = int(min(x + 4, width - 1)), int(np.clip(y + 16, 16, height - 1))
        cv2.putText(drawn, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, COLOUR, 1, cv2.LINE_AA)
    return drawn
