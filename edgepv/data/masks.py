"""A label for each place of a picture: from what a segmenter answers to the camera's picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.data.boxes import placed
from edgepv.types import MaskSpec, ModelSpec

UNJUDGED = 255
"""What a true mask says of places that are neither right nor wrong, as Pascal VOC's borders."""


@dataclass(frozen=True)
class Mask:
    """What stands where in one picture.

    labels: (h, w) uint8, which of ``names`` stands at each place of the camera's picture, all of it, at the
    resolution that the model answers; ``on_picture`` lays it over the picture itself. names: of the spec's
    labels; of one alone it comes second, behind "", nothing. told: which of them are more than background.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    told: tuple[bool, ...]

    def areas(self) -> dict[str, float]:
        """What share of the picture each label takes that is not the background."""
        return self._shares(self.labels.ravel())

    def areas_within(self, polygon: Sequence[tuple[float, float]]) -> dict[str, float]:
        """What share of a part of the picture each takes; its corners are shares of width and height."""
        cv2 = need("cv2", extra="cpu")
        height, width = self.labels.shape
        part = np.zeros((height, width), np.uint8)
        corners = np.array(polygon) * (width, height) - 0.5  # pixel centres are at whole numbers
        cv2.fillPoly(part, [np.rint(corners).astype(np.int32)], 1)
        return self._shares(self.labels[part > 0])

    def on_picture(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) uint8, the labels at every px of the camera's picture of this (height, width)."""
        cv2 = need("cv2", extra="cpu")
        laid: np.ndarray = cv2.resize(self.labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return laid

    def _shares(self, labels: np.ndarray) -> dict[str, float]:
        counts = np.bincount(labels, minlength=len(self.names)) / max(1, labels.size)
        return {name: float(n) for name, n, told in zip(self.names, counts, self.told, strict=True) if told}


def mask_of(spec: ModelSpec, outputs: Mapping[str, np.ndarray], size: tuple[int, int]) -> Mask:
    """What a segmenter's answer says of a picture of (height, width) px.

    outputs: by name, without the batch axis.
    """
    labels = said(spec, outputs[spec.answer.name])
    height, width = spec.input.shape[-2:]
    _, _, wide, tall = placed(spec, size)
    rows, columns = (
        max(1, round(n * part / whole))
        for n, part, whole in zip(labels.shape, (tall, wide), (height, width), strict=True)
    )
    names = names_of(spec)
    nothing = how(spec).background or len(spec.labels) == 1
    told = (not nothing, *[True] * (len(names) - 1))
    return Mask(sampled(spec, labels, size, (rows, columns)), names, told)


def how(spec: ModelSpec) -> MaskSpec:
    """How a segmenter's answer is to be read."""
    return spec.masks or MaskSpec()


def names_of(spec: ModelSpec) -> tuple[str, ...]:
    """What the numbers of a mask mean: the labels; of one label alone 0 is "", nothing, and 1 the label."""
    return ("", *spec.labels) if len(spec.labels) == 1 else spec.labels


def said(spec: ModelSpec, scores: np.ndarray) -> np.ndarray:
    """(h, w) uint8: of scores (C, h, w) the number of the largest; of one label, whether it is there."""
    if len(scores) > 1:
        return np.asarray(scores.argmax(0), np.uint8)
    least = how(spec).score
    if how(spec).scores == "sigmoid":
        least = float(np.log(least / (1 - least))) if 0 < least < 1 else np.copysign(np.inf, least - 0.5)
    return np.asarray(scores[0] >= least, np.uint8)


def sampled(spec: ModelSpec, labels: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """A mask over the model's whole input as one over a camera's picture, the nearest label at each place.

    labels: (h, w), of whatever resolution. size: (height, width) of the picture, whose fit is that of the
    input. shape: (rows, columns) of what is returned.
    """
    height, width = spec.input.shape[-2:]
    left, top, wide, tall = placed(spec, size)
    rows = _nearest(shape[0], top / height, tall / height, labels.shape[0])
    columns = _nearest(shape[1], left / width, wide / width, labels.shape[1])
    return np.ascontiguousarray(labels[rows][:, columns])


def _nearest(count: int, start: float, length: float, cells: int) -> np.ndarray:
    """(count,) which of so many cells the middles of ``count`` equal parts of a stretch lie in."""
    middles = start + (np.arange(count) + 0.5) / count * length
    return np.clip(np.floor(middles * cells), 0, cells - 1).astype(np.int64)
