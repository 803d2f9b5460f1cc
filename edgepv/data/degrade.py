"""Degrade video in a known way, and say how close a repair comes to the original.

Training, benchmarks and the test of an exported restorer all spoil frames with these functions, so their
figures compare. Frames are arrays (..., H, W, C), uint8 or float in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


DARK = 0.15
"""Share of the light that ``dark`` leaves: about 2.7 stops less, a street at dusk to a camera set for day."""
READ_NOISE = 0.003
"""Standard deviation of a sensor's own noise, a share of its full scale in linear light."""
BLUR = 0.02
"""Standard deviation of ``blurred`` as a share of the height: a lens out of focus."""
JPEG_QUALITY = 20
"""Of 100: what a camera sends that has little bandwidth."""


def dark(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame (H, W, 3) uint8 as in low light: ``DARK`` of the light with ``READ_NOISE``, gamma 2.2."""
    linear = as_float(frame) ** 2.2 * DARK
    seen = linear + READ_NOISE * rng.standard_normal(frame.shape)
    spoilt: np.ndarray = np.rint(255 * np.clip(seen, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    return spoilt


def blurred(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame (H, W, 3) uint8 out of focus: a Gaussian of ``BLUR`` times its height."""
    cv2 = need("cv2", extra="cpu")
    out: np.ndarray = cv2.GaussianBlur(frame, (0, 0), max(0.3, BLUR * frame.shape[0]))
    return out


def squeezed(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame (H, W, 3) uint8 through JPEG of ``JPEG_QUALITY``."""
    cv2 = need("cv2", extra="cpu")
    _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    out: np.ndarray = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return out


def grainy(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame (H, W, 3) uint8 with the noise of ``SIGMA``."""
    spoilt: np.ndarray = np.rint(255 * rounded(noisy(frame, SIGMA, rng))).astype(np.uint8)
    return spoilt


CORRUPTIONS: Mapping[str, tuple[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]]] = {
    "low light": (f"{100 * DARK:.0f} % of the light, with the noise of a sensor", dark),
    "blur": (f"Gaussian, standard deviation {100 * BLUR:.0f} % of the height", blurred),
    "JPEG": (f"quality {JPEG_QUALITY} of 100", squeezed),
    "noise": (f"Gaussian, standard deviation {255 * SIGMA:.0f} of 255", grainy),
}
"""What happens to a camera's picture: name -> (how much, the function that does it to a frame)."""


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
