"""What engines built on this device answer to labelled clips, before one of them takes the other's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.tasks import task_of
from edgepv.bundle.manifest import Bundle
from edgepv.data.clips import survey
from edgepv.data.split import split_clips
from edgepv.data.truth import eval_clip
from edgepv.errors import UsageError
from edgepv.measure.answers import clip_answers
from edgepv.metrics.tasks import change_of, figures, groups_of, rate, task_drop
from edgepv.runtimes.engines.trt import TrtInfer
from edgepv.runtimes.trt.engine import TrtEngine
from edgepv.runtimes.trt.kit import Judgement
from edgepv.types import Accuracy, PairedDrop, encode


class Judge:
    """Judges engines of a bundle's classifier on clips, each against the first of them, which is in float.

    clips: a folder of labelled clips; those that calibrated, where the folder says so, are left out.
    max_drop: points that an engine may lose. Raises UsageError for another task, and like ``survey``.
    """

    def __init__(self, bundle: Bundle, clips: Path, max_drop: float) -> None:
        self._bundle, self._max_drop = bundle, max_drop
        spec = bundle.content.spec
        if not task_of(spec).classifies:
            raise UsageError(f"{bundle.folder} is for {spec.task}; on a device only classifiers are judged")
        labelled = [clip for clip in survey(clips, spec.labels).clips if clip.label]
        if not labelled:
            raise UsageError(f"{clips} holds no labelled clip. Put clips into one sub-folder per label")
        self._clips = split_clips(labelled, calibration=1)[1] if any(c.split for c in labelled) else labelled

    def __call__(self, engines: Mapping[str, TrtEngine]) -> dict[str, Judgement]:
        """The judgement of each engine, by variant."""
        content = self._bundle.content
        answers: dict[str, list[np.ndarray]] = {name: [] for name in engines}
        shown = []
        for clip in self._clips:
            read = eval_clip(clip, content.spec)
            for name, engine in engines.items():
                variant = self._bundle.variant(name)
                answers[name] += clip_answers(TrtInfer(variant, engine), variant, [read.frames])
            shown.append(replace(read, frames=np.empty(0)))  # from here on only its truth counts
        warmup = content.stream.warmup if content.stream else content.spec.frames
        first = next(iter(engines))
        alone = self._bundle.variant(first).precision == "int8"
        rows = {name: figures(content.spec, own, shown, warmup) for name, own in answers.items()}
        found = {}
        for name, own in answers.items():
            accuracy = rate(content.spec, own, shown, warmup)
            drop = task_drop(
                content.spec,
                rows[first],
                rows[name],
                self._max_drop,
                groups_of(shown),
                change_of(content.spec, shown),
            )
            found[name] = _judgement(accuracy, None if name == first else drop, first, alone=alone)
        return found


def _judgement(accuracy: Accuracy, drop: PairedDrop | None, first: str, *, alone: bool) -> Judgement:
    """One engine's. drop: against the engine of ``first``; None for that one itself.

    alone: whether that one is in INT8, as none in float was built.
    """
    told = f"top-1 {accuracy.value:.1%} of {accuracy.n} clips ({accuracy.low:.1%} to {accuracy.high:.1%})"
    facts: dict[str, Any] = {"accuracy": encode(accuracy), "drop": encode(drop)}
    if drop is None:
        return Judgement(told + (", with no engine in float to hold it against" if alone else ""), "", facts)
    loss, low, high = drop.figures("+")
    told += f", loses {loss} points ({low} to {high}) against {first}: {drop.verdict}"
    why = f"it loses {loss} points against {first} here, more than {drop.max_drop:g}"
    return Judgement(told, why if drop.verdict == "fail" else "", facts)
