"""What a task means: what a model for it answers, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgepv.types.spec import Metric, ModelSpec


@dataclass(frozen=True)
class TaskSpec:
    """One task; a dotted string is "module:function".

    answer, shape: name and shape of what a model answers with first. postprocessing: how its values are to be
    read.
    truth: called as (clip, spec, more), gives the clip as the model sees it with what is true of it, see
    ``edgepv.data.truth``.
    metric, metric_name: what it is judged by, and how reports call that; larger is better.
    figure: gives it for one clip; of what ``finds``, one for each clip, of which it is the mean. See
    ``edgepv.metrics.tasks.figures``.
    unit: of a loss. Points are of a figure that is a fraction of 1: a point is 1 %.
    max_drop: what a variant may lose where the user does not say, in ``unit``; None: Options.max_drop.
    most_frames: how many frames of a clip are judged: pictures are large, and a score needs only so many.
    int8_floor_db: SQNR below which an INT8 file is broken, whatever a few clips say. In
    benchmarks/models.json classifiers below theirs change one top-1 in eight, trackers lose 9 to 55 points
    (above it, 0.4 at most). A restorer's file at 30 dB is 36 dB of PSNR or more from the original's pictures,
    so it adds less error than restoring leaves.
    Of a detector, over the rows that say something: YOLOX-nano's files at 7.6 dB and below lost 29 points of
    AP50 and more, those at 17 dB and above less than 1. Of a segmenter that of a
    classifier, since its answer too is the largest of a few scores, at each place.
    classifies: whether the answer is a score for each label: such a model has two labels or more, and can be
    trained further, searched for, packed into a ladder and explained.
    shows: whether the answer is a picture: it may lag behind what came in, and be of what was made worse.
    follows: whether the answer is points that are followed, which the host lets begin and end.
    finds: whether the answer is boxes: it is read by ``ModelSpec.boxes``, may have any name, and the labels
    say what is in a box.
    segments: whether the answer is a label for each place of the picture, read by ``ModelSpec.masks``;
    ``figure`` is then called as that of what finds, and with the pictures that are judged.
    per_frame: whether only a model that takes one frame at a time may be for it.
    """

    answer: str
    shape: Callable[[ModelSpec], tuple[int, ...]]
    postprocessing: str
    truth: str
    metric: Metric
    metric_name: str
    figure: str
    unit: Literal["points", "dB"]
    max_drop: float | None
    most_frames: int
    int8_floor_db: float
    classifies: bool = False
    shows: bool = False
    follows: bool = False
    finds: bool = False
    segments: bool = False
    per_frame: bool = False
