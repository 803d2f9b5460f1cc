"""What each task means: what a model for it answers, and how it is judged. One record for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgepv.types.spec import Metric, ModelSpec, Task


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    answer, shape: name and shape of what a model answers with first. postprocessing: how its values are to be
    read.
    metric, metric_name: what it is judged by, and how reports call that; larger is better.
    figure: "module:function" that gives it for one clip, see ``edgepv.metrics.tasks.figures``.
    unit: of a loss. Points are of a figure that is a fraction of 1: a point is 1 %.
    max_drop: what a variant may lose where the user does not say, in ``unit``; None: Options.max_drop.
    most_frames: how many frames of a clip are judged: pictures are large, and a score needs only so many.
    int8_floor_db: SQNR below which an INT8 file is broken, whatever a few clips say. In
    benchmarks/models.json classifiers below theirs change one top-1 in eight, trackers lose 9 to 55 points
    (above it, 0.4 at most). A restorer's file at 30 dB is 36 dB of PSNR or more from the original's pictures,
    so it adds less error than restoring leaves.
    """

    answer: str
    shape: Callable[[ModelSpec], tuple[int, ...]]
    postprocessing: str
    metric: Metric
    metric_name: str
    figure: str
    unit: Literal["points", "dB"]
    max_drop: float | None
    most_frames: int
    int8_floor_db: float


TASKS: Mapping[Task, TaskSpec] = {
    "classification": TaskSpec(
        answer="logits",
        shape=lambda spec: (1, len(spec.labels)),
        postprocessing="softmax of logits; a clip's answer is the mean of logits over valid frames",
        metric="top1",
        metric_name="top-1",
        figure="edgepv.metrics.tasks:margin",
        unit="points",
        max_drop=None,
        most_frames=1 << 30,
        int8_floor_db=15.0,
    ),
    "tracking": TaskSpec(
        answer="tracks",
        shape=lambda spec: (1, spec.particles or 1, 3),
        postprocessing="x and y in image heights, visibility in [0, 1]",
        metric="delta_avg",
        metric_name="delta-avg",
        figure="edgepv.metrics.tasks:delta_avg",
        unit="points",
        max_drop=None,
        most_frames=200,
        int8_floor_db=17.0,
    ),
    "restoration": TaskSpec(
        answer="image",
        shape=lambda spec: (1, spec.input.shape[1], *spec.answer.shape[-2:]),
        postprocessing="x * std + mean, clipped to [0, 1]",
        metric="psnr",
        metric_name="PSNR",
        figure="edgepv.metrics.tasks:picture_psnr_db",
        unit="dB",
        max_drop=0.3,
        most_frames=16,
        int8_floor_db=30.0,
    ),
}
