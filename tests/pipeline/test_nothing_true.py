"""Held-out truth in which no label of the model stands judges nobody: no figure, not a figure of 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from segmenters import spec_of

from edgepv.data.truth import EvalClip, Masks
from edgepv.pipeline.prepare import nothing_true

SPEC = replace(spec_of(), labels=("car",))
FRAMES = np.zeros((2, 3, 32, 32), np.float32)


def clip(*numbers: int | None) -> EvalClip:
    masks = (None if n is None else np.full((8, 8), n, np.uint8) for n in numbers)
    return EvalClip(FRAMES, Masks(tuple(masks)))


@pytest.mark.parametrize(
    ("clips", "told"),
    [
        pytest.param([clip(0), clip(0, 255)], "the 3 held-out masks", id="background and what is not judged"),
        pytest.param([clip(None, None)], "the 0 held-out masks", id="masks of later frames alone"),
        pytest.param([clip(0), clip(None, 1)], "", id="one that shows it"),
        pytest.param([EvalClip(FRAMES, None)], "", id="no masks, which is told elsewhere"),
    ],
)
def test_masks_without_a_px_of_a_label_do_not_judge(clips: list[EvalClip], told: str) -> None:
    notes = nothing_true(SPEC, clips)
    assert bool(notes) is bool(told) and all(told in note for note in notes)
