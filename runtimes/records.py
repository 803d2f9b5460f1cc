"""What an answer says, as plain data for records and as a picture.

Records of a file and of a camera have the same keys with the same meanings; RECORDS is the version of that.
"""

from __future__ import annotations

import numpy as np

from edgepv.base.tasks import TASKS, task_of
from edgepv.data.boxes import Detections
from edgepv.data.frames import pictures
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.record import AnswerRecord, Record
from edgepv.types import ModelSpec

RECORDS = 1
"""Version of the records' shape, in each of them as "version"."""
TAKEN = frozenset(AnswerRecord.__annotations__) - {"surprise"}
"""Keys of an answer's record that have a meaning of their own."""


def record(
    answer: Answer | None,
    spec: ModelSpec,
    *,
    camera: str,
    number: int,
    frame: int,
    time_s: float,
    latency_ms: float,
    variant: str,
    stale: bool = False,
    why: str = "",
    age_ms: float | None = None,
) -> Record:
    """The "answer" record of one frame that was due.

    number: of the answer. frame, time_s: of its frame in the source, counted from 0, and on the source's
    clock, in seconds. stale, why, age_ms, latency_ms, variant: see ``Reply``. "pre_ms", "infer_ms": what the
    answer took; None while there is none.
    """
    return {
        "type": "answer",
        "version": RECORDS,
        "camera": camera,
        "number": number,
        "frame": frame,
        "time_s": round(time_s, 3),
        **_nothing(spec),
        **(answer_fields(answer, spec) if answer else {}),
        "valid": bool(answer and answer.valid),
        "restarted": bool(answer and answer.restarted and not stale),
        "stale": stale,
        "why": why,
        "age_ms": None if age_ms is None else round(age_ms, 3),
        "latency_ms": round(latency_ms, 3),
        "pre_ms": round(answer.pre_ms, 3) if answer else None,
        "infer_ms": round(answer.infer_ms, 3) if answer else None,
        "variant": variant,
    }


def _nothing(spec: ModelSpec) -> Record:
    """What is said before there is an answer."""
    names = {a.name for a in spec.answers}
    fields: Record = {"label": None, "score": None, "margin": None} if task_of(spec).classifies else {}
    if spec.task not in TASKS.own:
        fields = {spec.answer.name: None}
    fields |= dict.fromkeys(_numbers(spec))
    if spec.boxes is not None:
        fields["boxes"] = []
    if TASKS.find(spec.task).segments:
        fields["areas"] = {}
    return fields | {name: [] for name in ("particles", "tracks") if name in names}


def answer_fields(answer: Answer, spec: ModelSpec) -> Record:
    """The keys of a record that depend on the task.

    "label", "score" and "margin" of a classifier, the last by how much the highest score is above the second;
    "particles", those it follows, as [x, y, vx, vy, ax, ay, visibility]; "tracks" of a tracker as [id, x, y,
    visibility], without empty places. x and y are shares of the picture's width and height, velocities such
    shares per frame, accelerations per frame squared. "boxes" of a detector, see
    ``runtimes.record.BoxRecord``. "areas" of a segmenter, the share of the picture that each label takes but
    the background. Of a task that a package brought, the answer as it is. Further answers that are
    one number, such as "surprise", by their names.
    """
    fields: Record = {}
    if answer.label is not None and answer.score is not None:
        best = sorted(answer.scores, reverse=True)
        margin = round(best[0] - best[1], 4) if best[1:] else None
        fields = {"label": answer.label, "score": round(answer.score, 4), "margin": margin}
    if "particles" in answer.outputs:
        table = answer.outputs["particles"] / _unit(spec, 3)
        fields["particles"] = [[round(float(v), 4) for v in row] for row in table if row[-1] > 0]
    if "tracks" in answer.outputs:
        table = answer.outputs["tracks"] / _unit(spec, 1)
        fields["tracks"] = [
            [name, *(round(float(v), 4) for v in row)]
            for name, row in zip(answer.numbers, table)
            if name >= 0
        ]
    if answer.detections is not None:
        fields["boxes"] = _boxes(answer.detections, spec)
    if answer.mask is not None:
        fields["areas"] = {label: round(share, 4) for label, share in answer.mask.areas().items()}
    if spec.task not in TASKS.own:
        fields[spec.answer.name] = answer.outputs[spec.answer.name].astype(float).round(4).tolist()
    said = {name: answer.outputs.get(name) for name in _numbers(spec)}  # a smaller rung may have none
    return fields | {n: None if v is None else round(float(v.reshape(())), 4) for n, v in said.items()}


def _numbers(spec: ModelSpec) -> tuple[str, ...]:
    """The model's further numbers that are told: one called like another key of the record is not."""
    return tuple(name for name in spec.numbers if name not in TAKEN)


def _boxes(found: Detections, spec: ModelSpec) -> list[Record]:
    """Every box of a picture, the surest first."""
    columns = (found.boxes, found.scores, found.labels, found.ids)
    return [
        {
            "label": spec.labels[label],
            "score": round(float(score), 4),
            "box": [round(float(v), 4) for v in box],
            "id": int(name) if name >= 0 else None,
        }
        for box, score, label, name in zip(*columns, strict=True)
    ]


def _unit(spec: ModelSpec, pairs: int) -> np.ndarray:
    """Image heights per width and height of the picture, for (x, y) ``pairs`` and a visibility."""
    height, width = spec.input.shape[-2:]
    return np.array([width / height, 1.0] * pairs + [1.0])


def picture_of(answer: Answer, spec: ModelSpec) -> np.ndarray | None:
    """The picture a restorer answers, (H, W, 3) uint8 BGR; None for other tasks."""
    if not task_of(spec).shows:
        return None
    return pictures(spec, answer.outputs["image"][None])[0]
