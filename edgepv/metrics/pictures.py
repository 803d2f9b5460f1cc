"""How close a picture comes to another: PSNR, SSIM, flicker."""

from __future__ import annotations

import numpy as np

from edgepv.base.optional import need
from edgepv.data.degrade import as_float


def psnr(truth: np.ndarray, got: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, peak 1; infinite for equal frames. ``got`` is clipped to [0, 1]."""
    error = as_float(truth) - np.clip(as_float(got), 0, 1)
    mean = float(np.mean(np.square(error, dtype=np.float64)))
    return float(-10 * np.log10(mean)) if mean else float("inf")


def decibel(squared_error: float) -> float:
    """PSNR in dB of a mean squared error of [0, 1], at most 100 as that of ``psnr_db``."""
    return min(100.0, float(-10 * np.log10(max(squared_error, 1e-10))))


def psnr_db(truth: np.ndarray, got: np.ndarray) -> float:
    """``psnr``, at most 100: 16 bits would have that, and JSON has no infinity."""
    return min(100.0, psnr(truth, got))


def ssim(truth: np.ndarray, got: np.ndarray) -> float:
    """Structural similarity of two frames (H, W, C): 1 for equal ones, mean over pixels and channels.

    Gaussian window of 11 x 11 pixels, sigma 1.5, inside the frame only; ``got`` is clipped to [0, 1].
    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """
    cv2 = need("cv2", extra="cpu")

    def blur(x: np.ndarray) -> np.ndarray:
        inside: np.ndarray = cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5]
        return inside

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
