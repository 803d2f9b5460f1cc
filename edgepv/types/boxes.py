"""How a detector's answer is to be read as boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class BoxSpec:
    """How a picture becomes a detector's input, and what it answers becomes boxes.

    The answer has a row for each place where something may be found: four numbers for the box, one more for
    whether there is anything (objectness) if it is that wide, then a score for each label; or it is two
    answers, the boxes' four numbers and the scores. Rows may stand as columns, (1, values, N).

    coding: what the four numbers are. "grid": for each cell of each of ``strides``, row by row, offsets of
    the centre from the cell's corner and the logarithms of width and height, all in strides (YOLOX, Ge et
    al. 2021). "anchors": the same cells, each with the ``anchors`` of its stride, see ``variances``.
    "decoded": the box itself, as ``form`` and ``unit`` say.
    strides: px of the model's input from one cell to the next, the first in the answer first.
    anchors: of each stride, (width, height) of each anchor, in px of the model's input.
    variances: of the centre and of the size: offsets from the anchor's centre are in shares of its size,
    times the first, logarithms of the size times the second (SSD, Liu et al. 2016). None: the centre is the
    sigmoid of the offset from the cell's corner, in strides (YOLOv3, Redmon and Farhadi 2018).
    form, unit: of decoded boxes: corners, or centre and size; in px of the model's input or in shares of it.
    scores: what makes scores of what the model answers: nothing, the sigmoid, or the softmax over labels.
    background: where among the scores stands that of nothing; None where there is none.
    fit: "letterbox" keeps the picture's aspect and fills up with grey ``pad``; it lies in the upper left
    "corner" or in the "centre" (``place``). "stretch": the whole input is the picture.
    score: least score of a box that is said; score_of: another one for a label. nms: of two boxes of one
    label whose intersection over union is larger, the surer one stays; 1: both stay. most: boxes that are
    said of one picture, the surest.
    """

    coding: Literal["grid", "anchors", "decoded"]
    strides: tuple[int, ...] = ()
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    variances: tuple[float, float] | None = None
    form: Literal["xyxy", "cxcywh"] = "xyxy"
    unit: Literal["px", "shares"] = "px"
    scores: Literal["probabilities", "sigmoid", "softmax"] = "probabilities"
    background: Literal["first", "last"] | None = None
    fit: Literal["letterbox", "stretch"] = "letterbox"
    place: Literal["corner", "centre"] = "corner"
    pad: int = 114
    score: float = 0.3
    score_of: dict[str, float] = field(default_factory=dict)
    nms: float = 0.5
    most: int = 100

    def cells(self, height: int, width: int) -> int:
        """Rows of an answer over cells, for an input of so many px: of all strides; 0 without any."""
        counts = [len(one) for one in self.anchors] or [1] * len(self.strides)
        return sum(n * -(-height // s) * -(-width // s) for n, s in zip(counts, self.strides))

    def values(self, labels: int) -> int:
        """Scores in a row: one for each label, and one for the background where there is that."""
        return labels + (self.background is not None)
