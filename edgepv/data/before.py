"""The chain before the model: what ``ModelSpec.before`` names is done to every picture, at the model's size.

After the resizing, since that is where it is cheap: full HD has 165 times the pixels of 112 x 112, and a mean
over an area, which the resizing is, takes most of a camera's noise by itself. Calibration, evaluation,
training, explanations and the live path all come here by ``edgepv.data.frames.preprocess``; the frames of
golden answers have been here already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.types import Before, ModelSpec

CLIP_LIMIT = 2.0
"""How much steeper than without a limit a tile's histogram may make grey levels: OpenCV's tutorial, and what
most image pipelines use; more shows the noise of the dark."""
TILES = (8, 8)
"""Tiles along height and width, as in the tutorial: 14 x 14 px of a picture of 112."""
DIAMETER, ACROSS, ALONG = 5, 60.0, 1.5
"""Of the bilateral filter: px; grey levels, 2.4 standard deviations of the noise of ``edgepv.data.degrade``,
so that noise is averaged and edges are not; px."""


def clahe(picture: np.ndarray) -> np.ndarray:
    """Local contrast, of the lightness alone: CLAHE on Y of YCrCb. (h, w, 3) uint8 BGR in and out.

    Source: Zuiderveld 1994, "Contrast limited adaptive histogram equalization"; OpenCV's createCLAHE.
    """
    cv2 = need("cv2", extra="cpu")
    planes = cv2.cvtColor(picture, cv2.COLOR_BGR2YCrCb)
    planes[..., 0] = cv2.createCLAHE(CLIP_LIMIT, TILES).apply(planes[..., 0])
    lit: np.ndarray = cv2.cvtColor(planes, cv2.COLOR_YCrCb2BGR)
    return lit


def denoise(picture: np.ndarray) -> np.ndarray:
    """Noise averaged away within what is alike, edges kept: OpenCV's bilateralFilter. (h, w, 3) uint8 BGR.

    Source: Tomasi and Manduchi 1998, "Bilateral filtering for gray and color images".
    """
    cv2 = need("cv2", extra="cpu")
    smooth: np.ndarray = cv2.bilateralFilter(np.ascontiguousarray(picture), DIAMETER, ACROSS, ALONG)
    return smooth


CHAIN: Mapping[Before, Callable[[np.ndarray], np.ndarray]] = {"clahe": clahe, "denoise": denoise}
"""What a chain is made of, by its names in a spec."""


def chained(picture: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """A picture (h, w, 3) uint8 BGR of the model's size after the spec's chain, in its order."""
    for name in spec.before:
        picture = CHAIN[name](picture)
    return picture


def bare(spec: ModelSpec) -> ModelSpec:
    """The same model without its chain, for pictures that have been through it."""
    return replace(spec, before=()) if spec.before else spec
