"""Boxes that a detector found in a picture: from what it answers to shares of the camera's picture."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.types import BoxSpec, ModelSpec, TensorSpec

LARGEST_LOG = 20.0  # of a size: e^20 px is beyond any picture, and its square is still a float32


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, the surest first.

    boxes: (N, 4) float32, x1, y1, x2, y2 as shares of the camera picture's width and height, whatever the
    model's own input was padded or stretched to. scores: (N,) float32 in [0, 1]. labels: (N,) int64, places
    in the spec's labels. ids: (N,) int64, the track that each belongs to; -1 for none, and before anything
    follows them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        """Nothing is followed yet where no ids are given."""
        if len(self.ids) != len(self.boxes):
            object.__setattr__(self, "ids", np.full(len(self.boxes), -1, np.int64))

    def __len__(self) -> int:
        return len(self.boxes)


def detections(
    spec: ModelSpec, outputs: Mapping[str, np.ndarray], size: tuple[int, int], least: float | None = None
) -> Detections:
    """What a detector's answer to one picture says, above the spec's scores, without doubles, clipped.

    outputs: by name, without the batch axis. size: (height, width) of the camera's picture. least: score for
    every label in place of the spec's. A row says one label, its best.
    """
    how = _how(spec)
    values, scores, labels = _scored(spec, how, outputs)
    limits = np.array([how.score_of.get(label, how.score) for label in spec.labels], np.float32)
    kept = np.flatnonzero(scores >= (limits[labels] if least is None else least))
    corners, scores, labels = _corners(spec, how, values, kept), scores[kept], labels[kept]
    alone = without_doubles(corners, scores, labels, how.nms)[: how.most]
    boxes = in_picture(corners[alone], spec, size)
    there = (boxes[:, 2:] > boxes[:, :2]).all(1)  # what lies in the padding alone is nowhere
    alone = alone[there]
    return Detections(boxes[there], scores[alone], labels[alone])


def row_scores(spec: ModelSpec, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) the best score of every row of a detector's answer, which is without the batch axis."""
    return _scored(spec, _how(spec), outputs)[1]


def without_doubles(corners: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float) -> np.ndarray:
    """Places of the boxes (N, 4), x1, y1, x2, y2, that stay, the surest first.

    Of two with one label whose intersection over union is above ``iou`` the surer one stays. By OpenCV, which
    every device has for the picture's own sake: one implementation that others keep, in C++, the same for
    boxes of every unit.
    """
    if not len(scores):
        return np.zeros(0, np.int64)
    dnn = need("cv2", extra="cpu").dnn
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).astype(np.float64)
    stay = dnn.NMSBoxesBatched(sides, scores.astype(np.float32), labels.astype(np.int32), -1.0, float(iou))
    places = np.asarray(stay, np.int64).reshape(-1)
    ordered: np.ndarray = places[np.argsort(-scores[places], kind="stable")]
    return ordered


def placed(spec: ModelSpec, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a picture of (height, width) px lies in the model's input: (left, top, width, height) in px.

    The whole input, but for a detector or segmenter that keeps the aspect.
    """
    height, width = spec.input.shape[-2:]
    if spec.fit is None or spec.fit.fit == "stretch":
        return 0, 0, width, height
    scale = min(height / size[0], width / size[1])
    tall, wide = (min(most, max(1, round(n * scale))) for n, most in zip(size, (height, width)))
    if spec.fit.place == "corner":
        return 0, 0, wide, tall
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def in_picture(corners: np.ndarray, spec: ModelSpec, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) in px of the model's input as shares of a picture of (height, width) px, clipped to it."""
    left, top, wide, tall = placed(spec, size)
    shares = (corners - [left, top, left, top]) / [wide, tall, wide, tall]
    return np.clip(shares, 0, 1).astype(np.float32)


def _how(spec: ModelSpec) -> BoxSpec:
    assert spec.boxes is not None, "check_spec refuses a detector without [boxes]"
    return spec.boxes


def _scored(
    spec: ModelSpec, how: BoxSpec, outputs: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows that begin with the four numbers, the best score of each, the label it is of)."""
    said = [_rows(spec, answer, outputs[answer.name]) for answer in spec.answers]
    values = said[0]
    if len(said) == 3:
        labels = np.rint(said[2][:, 0]).astype(np.int64).clip(0, len(spec.labels) - 1)
        return values, _activated(said[1], how)[:, 0], labels
    scores = said[1] if len(said) == 2 else values[:, 4:]
    surely = np.ones((len(values), 1), np.float32)
    if scores.shape[1] > _how(spec).values(len(spec.labels)):
        objectness = scores[:, 0] if how.scores == "probabilities" else _sigmoid(scores[:, 0])
        surely, scores = objectness[:, None], scores[:, 1:]
    scores = _activated(scores, how)
    if how.background is not None:
        scores = scores[:, 1:] if how.background == "first" else scores[:, :-1]
    scores = (scores * surely).clip(0, 1)
    labels = scores.argmax(1)
    return values, scores[np.arange(len(scores)), labels], labels


def _rows(spec: ModelSpec, answer: TensorSpec, value: np.ndarray) -> np.ndarray:
    """One output, without the batch axis, as (N, values)."""
    if value.ndim == 1:
        return value[:, None]
    count = _how(spec).values(len(spec.labels))
    if len(spec.answers) == 1:
        widths: tuple[int, ...] = (4 + count, 5 + count)
    else:
        widths = (4,) if answer is spec.answers[0] else (count,) if len(spec.answers) == 2 else (1,)
    return value if answer.in_rows(widths) else value.T


def _activated(values: np.ndarray, how: BoxSpec) -> np.ndarray:
    """Scores of what stands for them in the answer."""
    if how.scores == "sigmoid":
        return _sigmoid(values)
    if how.scores == "softmax":
        e = np.exp(values - values.max(1, keepdims=True))
        shares: np.ndarray = e / e.sum(1, keepdims=True)
        return shares
    return values


def _sigmoid(values: np.ndarray) -> np.ndarray:
    ones: np.ndarray = 1 / (1 + np.exp(-values.clip(-LARGEST_LOG, None)))
    return ones


def _corners(spec: ModelSpec, how: BoxSpec, values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(n, 4) x1, y1, x2, y2 in px of the model's input, of the rows ``kept``."""
    height, width = spec.input.shape[-2:]
    first = values[kept, :4].astype(np.float32)
    if how.coding == "decoded":
        boxes = first * ([width, height, width, height] if how.unit == "shares" else 1)
        return boxes if how.form == "xyxy" else _around(boxes[:, :2], boxes[:, 2:])
    corner, stride, sides = (part[kept] for part in _cells(how.strides, how.anchors, height, width))
    logs = first[:, 2:].clip(None, LARGEST_LOG)
    if how.coding == "grid":
        return _around((corner + first[:, :2]) * stride, np.exp(logs) * stride)
    if how.variances is None:
        return _around((corner + _sigmoid(first[:, :2])) * stride, np.exp(logs) * sides)
    centre = (corner + 0.5) * stride + first[:, :2] * how.variances[0] * sides
    return _around(centre, np.exp(logs * how.variances[1]) * sides)


def _around(centre: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Corners of boxes by their centres and sides, (n, 2) each."""
    return np.concatenate([centre - sides / 2, centre + sides / 2], 1)


@functools.lru_cache(maxsize=8)
def _cells(
    strides: tuple[int, ...],
    anchors: tuple[tuple[tuple[float, float], ...], ...],
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every row: (column and row of its cell (N, 2), its stride (N, 1), its anchor's sides, px (N, 2))."""
    corners, steps, sides = [], [], []
    for level, stride in enumerate(strides):
        mine = np.array(anchors[level] if anchors else [(stride, stride)], np.float32)
        rows, columns = np.indices((-(-height // stride), -(-width // stride)))
        corner = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float32)
        corners.append(corner.repeat(len(mine), 0))
        steps.append(np.full((len(corners[-1]), 1), stride, np.float32))
        sides.append(np.tile(mine, (len(corner), 1)))
    return np.concatenate(corners), np.concatenate(steps), np.concatenate(sides)
