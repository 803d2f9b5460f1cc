"""What an answer says, as plain data for records and as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepv.clips import pictures
from edgepv.runtimes.session import Answer
from edgepv.types import ModelSpec


def said(answer: Answer, spec: ModelSpec) -> dict[str, Any]:
    """The keys of a record that depend on the task.

    "label" and "score" of a classifier; "particles", those it follows, as [x, y, vx, vy, ax, ay, visibility];
    "tracks" of a tracker as [id, x, y, visibility], without empty places. x and y are shares of the picture's
    width and height, velocities such shares per frame, accelerations per frame squared.
    """
    found: dict[str, Any] = {}
    if answer.label is not None and answer.score is not None:
        found = {"label": answer.label, "score": round(answer.score, 4)}
    if "particles" in answer.outputs:
        table = answer.outputs["particles"] / _unit(spec, 3)
        found["particles"] = [[round(float(v), 4) for v in row] for row in table if row[-1] > 0]
    if "tracks" in answer.outputs:
        table = answer.outputs["tracks"] / _unit(spec, 1)
        ids = answer.ids or range(len(table))
        found["tracks"] = [
            [name, *(round(float(v), 4) for v in row)] for name, row in zip(ids, table) if name >= 0
        ]
    return found


def _unit(spec: ModelSpec, pairs: int) -> np.ndarray:
    """Image heights per width and height of the picture, for (x, y) ``pairs`` and a visibility."""
    height, width = spec.input.shape[-2:]
    return np.array([width / height, 1.0] * pairs + [1.0])


def picture_of(answer: Answer, spec: ModelSpec) -> np.ndarray | None:
    """The picture a restorer answers, (H, W, 3) uint8 BGR; None for other tasks."""
    if spec.task != "restoration":
        return None
    return pictures(spec, answer.outputs["image"][None])[0]
