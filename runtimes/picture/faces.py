"""Faces in a picture, by YuNet through OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.optional import need
from edgepv.base.quiet import hush_native

LONGEST = 640
"""Larger pictures are searched at this size, for the time it takes; there a face has 10 px or more."""
LEAST = 0.3
"""Score of a face: below what others take (0.6 to 0.9), for a face too many costs less than one too few."""
OVERLAP = 0.3
MOST = 1000


class Faces:
    """Finds faces in pictures (H, W, 3) uint8 BGR of any size: boxes (N, 4) in shares of the picture.

    model: the ONNX file. Source: Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine
    Intelligence Research 2023. Raises TargetUnavailableError without OpenCV.
    """

    def __init__(self, model: Path) -> None:
        cv2 = need("cv2", extra="cpu")
        with hush_native():
            self._net: Any = cv2.FaceDetectorYN.create(str(model), "", (320, 320), LEAST, OVERLAP, MOST)
        self._size = (0, 0)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(N, 4) x1, y1, x2, y2."""
        height, width = picture.shape[:2]
        scale = min(1.0, LONGEST / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size != (width, height):
            cv2 = need("cv2", extra="cpu")
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        if size != self._size:
            self._net.setInputSize(size)
            self._size = size
        _, found = self._net.detect(picture)
        if found is None:
            return np.zeros((0, 4))
        corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1)
        return np.asarray(corners, float) / [*size, *size]
