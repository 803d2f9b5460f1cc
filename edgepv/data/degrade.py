"""Degrade video in a known way, and say how close a repair comes to the original.

Training, benchmarks and the test of an exported restorer all spoil frames with these functions, so their
figures compare. Frames are arrays (..., H, W, C), uint8 or float in [0, 1].
"""

from __future__ import annotations

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.errors import UsageError

SIGMA = 25 / 255
"""Standard deviation of the noise that the denoisers of the zoo are trained for, on [0, 1]."""


def as_float(frames: np.ndarray) -> np.ndarray:
    """float32; uint8 is mapped from [0, 255] to [0, 1], float is taken as it is."""
    if frames.dtype == np.uint8:
        return frames.astype(np.float32) / np.float32(255)
    return frames.astype(np.float32)


def rounded(frames: np.ndarray) -> np.ndarray:
    """Clipped to [0, 1] and rounded to the 256 levels a camera delivers; float32 in [0, 1]."""
    levels: np.ndarray = np.rint(np.clip(as_float(frames), 0, 1) * 255) / np.float32(255)
    return levels


def noisy(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The frames plus Gaussian noise of standard deviation ``sigma`` on [0, 1], independent everywhere.

    float32, neither clipped nor rounded: some values leave [0, 1]. See ``rounded`` for what a camera gives.
    """
    clean = as_float(frames)
    spoilt: np.ndarray = clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32)
    return spoilt


def smaller(frames: np.ndarray, factor: int) -> np.ndarray:
    """Height and width divided by ``factor``: each pixel is a mean (OpenCV's INTER_AREA), same dtype.

    frames: (H, W, C) or (T, H, W, C). Raises UsageError if the height or width is no multiple of ``factor``.
    """
    *_, height, width, _ = frames.shape
    if height % factor or width % factor:
        raise UsageError(
            f"a frame of {height} x {width} cannot be made {factor} times smaller. Cut its height and width "
            f"to multiples of {factor}"
        )
    if frames.ndim > 3:
        return np.stack([smaller(frame, factor) for frame in frames])
    cv2 = need("cv2", extra="cpu")
    small: np.ndarray = cv2.resize(frames, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    return small
