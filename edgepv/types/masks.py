"""How a segmenter's answer is to be read as a label for each place of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MaskSpec:
    """How a picture becomes a segmenter's input, and what it answers becomes labels.

    The answer is (1, C, h, w): a score for each label at each place, of which the largest is said; of one
    label alone (C = 1) its logit, or its probability where ``ModelSpec.scores`` says so. It covers the whole
    input, at whatever size.

    background: whether the first label is what is nothing in particular: it is judged, but neither told nor
    drawn. score: of one label alone, the least probability at which it is said.
    fit, place, pad: as in ``BoxSpec``; what lies in the padding is not part of the picture.
    """

    background: bool = False
    score: float = 0.5
    fit: Literal["letterbox", "stretch"] = "stretch"
    place: Literal["corner", "centre"] = "corner"
    pad: int = 114
