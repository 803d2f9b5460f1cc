"""How a segmenter's answer is to be read as a label for each place of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MaskSpec:
    """How a picture becomes a segmenter's input, and what it answers becomes labels.

    The answer is (1, C, h, w): a score for each label at each place, of which the largest is said; of one
    label alone (C = 1) its value as ``scores`` says. It covers the whole input, at whatever size.

    background: whether the first label is what is nothing in particular: it is judged, but neither told nor
    drawn. scores: what makes a score, 0 to 1, of the value of one label alone: the sigmoid,
    or nothing. score: the least at which it is said.
    fit, place, pad: as in ``BoxSpec``; what lies in the padding is not part of the picture.
    """

    background: bool = False
    scores: Literal["sigmoid", "probabilities"] = "sigmoid"
    score: float = 0.5
    fit: Literal["letterbox", "stretch"] = "stretch"
    place: Literal["corner", "centre"] = "corner"
    pad: int = 114
