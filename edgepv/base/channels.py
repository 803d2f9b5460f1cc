"""Channels that are made louder or quieter so that INT8 has more steps for them: what all who do it share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepv.base.late import np

if TYPE_CHECKING:
    from onnx import NodeProto

STRENGTH = 0.75
"""How much of a channel's loudness its readers' weights take over: more leaves those less equal. Of 0.5 and
0.75 the second was better on more nets (benchmarks/recipes.md)."""
MOST = 16.0
"""A channel that is so much quieter than the loudest is taken to be that loud: one that hardly moved on
calibration clips may move later, and must not clip then."""
PROOFS, EXACT_DB = 4, 80.0
"""Of the calibration inputs so many show that the answers are as before: float rounding leaves 110 dB and
more."""


def groups_of(node: NodeProto) -> int:
    """In how many groups a convolution reads its channels."""
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def grouped(weights: np.ndarray, groups: int) -> np.ndarray:
    """(O, I, ...) as (groups, O / groups, I, ...)."""
    return weights.reshape(groups, -1, *weights.shape[1:])
