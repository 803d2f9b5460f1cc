"""The tasks a model may be for, as data. See ``TaskSpec``."""

from __future__ import annotations

from edgepv.base.registry import Registry
from edgepv.types import ModelSpec, TaskSpec

MOST_MASKED = 32
"""Frames of a clip of a segmenter that are judged: masks are as large as pictures."""

TASKS = Registry(
    "task",
    "edgepv.tasks",
    TaskSpec,
    {
        "classification": TaskSpec(
            answer="logits",
            shape=lambda spec: (1, len(spec.labels)),
            postprocessing="softmax of logits; a clip's answer is the mean of logits over valid frames",
            truth="edgepv.data.truth:labelled",
            metric="top1",
            metric_name="top-1",
            figure="edgepv.metrics.tasks:margin",
            unit="points",
            max_drop=None,
            most_frames=1 << 30,
            int8_floor_db=15.0,
            classifies=True,
        ),
        "tracking": TaskSpec(
            answer="tracks",
            shape=lambda spec: (1, spec.particles or 1, 3),
            postprocessing="x and y in image heights, visibility in [0, 1]",
            truth="edgepv.data.truth:tracked",
            metric="delta_avg",
            metric_name="delta-avg",
            figure="edgepv.metrics.tasks:delta_avg",
            unit="points",
            max_drop=None,
            most_frames=200,
            int8_floor_db=17.0,
            follows=True,
            per_frame=True,
        ),
        "detection": TaskSpec(
            answer="boxes",
            shape=lambda spec: spec.answer.shape,
            postprocessing="boxes, scores and labels as the spec's [boxes] says; see docs/tasks.md",
            truth="edgepv.data.truth:found",
            metric="ap50",
            metric_name="AP50",
            figure="edgepv.metrics.detection:ap_figures",
            unit="points",
            max_drop=None,
            most_frames=16,
            int8_floor_db=15.0,
            finds=True,
            per_frame=True,
        ),
        "segmentation": TaskSpec(
            answer="scores",
            shape=lambda spec: (1, max(1, len(spec.labels)), *spec.answer.shape[-2:]),
            postprocessing="at each place the label of the largest score, as [masks] says; see docs/tasks.md",
            truth="edgepv.data.truth:masked",
            metric="miou",
            metric_name="mIoU",
            figure="edgepv.metrics.segmentation:iou_figures",
            unit="points",
            max_drop=None,
            most_frames=MOST_MASKED,
            int8_floor_db=15.0,
            segments=True,
        ),
        "restoration": TaskSpec(
            answer="image",
            shape=lambda spec: (1, spec.input.shape[1], *spec.answer.shape[-2:]),
            postprocessing="x * std + mean, clipped to [0, 1]",
            truth="edgepv.data.truth:restored",
            metric="psnr",
            metric_name="PSNR",
            figure="edgepv.metrics.tasks:picture_psnr_db",
            unit="dB",
            max_drop=0.3,
            most_frames=16,
            int8_floor_db=30.0,
            shows=True,
        ),
    },
)


def task_of(spec: ModelSpec) -> TaskSpec:
    """What the task of a model means. Raises like ``Registry.find``."""
    return TASKS.find(spec.task)
