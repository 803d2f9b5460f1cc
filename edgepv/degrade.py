"""Degrade video in a known way, and say how close a repair comes to the original.

Training, benchmarks and the test of an exported restorer all spoil frames with these functions, so their
figures compare. Frames are arrays (..., H, W, C), uint8 or float in [0, 1].
"""

from __future__ import annotations

import numpy as np

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
    return np.rint(np.clip(as_float(frames), 0, 1) * 255) / np.float32(255)


def noisy(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The frames plus Gaussian noise of standard deviation ``sigma`` on [0, 1], independent everywhere.

    float32, neither clipped nor rounded: some values leave [0, 1]. See ``rounded`` for what a camera gives.
    """
    clean = as_float(frames)
    return clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32)


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
    return cv2.resize(frames, (width // factor, height // factor), interpolation=cv2.INTER_AREA)


def psnr(truth: np.ndarray, got: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, peak 1; infinite for equal frames. ``got`` is clipped to [0, 1]."""
    error = as_float(truth) - np.clip(as_float(got), 0, 1)
    mean = float(np.mean(np.square(error, dtype=np.float64)))
    return float(-10 * np.log10(mean)) if mean else float("inf")


def ssim(truth: np.ndarray, got: np.ndarray) -> float:
    """Structural similarity of two frames (H, W, C): 1 for equal ones, mean over pixels and channels.

    Gaussian window of 11 x 11 pixels, sigma 1.5, inside the frame only; ``got`` is clipped to [0, 1].
    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """
    cv2 = need("cv2", extra="cpu")

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5]

    a, b = as_float(truth).astype(np.float64), np.clip(as_float(got), 0, 1).astype(np.float64)
    mean_a, mean_b = blur(a), blur(b)
    spread = blur(a * a) + blur(b * b) - mean_a * mean_a - mean_b * mean_b
    shared = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_a * mean_b + c1) * (2 * shared + c2)
    return float(np.mean(likeness / ((mean_a * mean_a + mean_b * mean_b + c1) * (spread + c2))))


def flicker(truth: np.ndarray, got: np.ndarray) -> float:
    """Mean of |change from frame to frame in ``got`` - the change in ``truth``|, on [0, 1].

    Both (T, H, W, C) with T of 2 or more. 0 when every change is the true one.
    """
    a, b = as_float(truth), np.clip(as_float(got), 0, 1)
    return float(np.abs(np.diff(b, axis=0) - np.diff(a, axis=0)).mean())
