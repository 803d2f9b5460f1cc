"""A ground for studies without engines: every candidate has a programmed time and accuracy.

As a program it is a worker: ``python fake_trials.py STORAGE SECONDS_PER_TRIAL TRIALS``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

from edgepv import zoo
from edgepv.base.console import Console
from edgepv.errors import UsageError
from edgepv.metrics.stats import paired_drop
from edgepv.pipeline.options import Options
from edgepv.search.space import Axis, Candidate, Space
from edgepv.search.study import Study
from edgepv.search.trial import SearchRequest, TrialResult, TrialRunner
from edgepv.types import Latency, Variant

KEEPING = Axis("keep_float", (0, 2, 4), variants=("onnxruntime-int8",))
AXES = (Axis("prune", (0.0, 0.25, 0.5), places=2), Axis("low_rank", (0.0, 0.9)), KEEPING)
SPACE = Space(("onnxruntime-fp32", "onnxruntime-int8"), ("clip", "stream"), (112, 96), AXES)
QUESTION = SearchRequest(Options("fake", max_drop=2.0), latency_ms=4.0, percentile=50)
CLIPS = 100
STDOUT = os.dup(1)  # a study hides what is written on 1 while it measures


def time_of(candidate: Candidate) -> float:
    """Milliseconds: 16 for the start, less with every method."""
    ms = 16.0 if candidate.form == "clip" else 4.0
    ms *= 0.5 if candidate.precision == "int8" else 1.0
    ms *= (candidate.size / 112) ** 2 * (0.8 if "low_rank" in candidate.given else 1.0)
    return ms * (1 - 0.5 * sum(candidate.given.get("prune", ())) / 2)


def lost_of(candidate: Candidate) -> int:
    """Clips of ``CLIPS`` that the original gets right and the candidate does not."""
    lost = 1 if candidate.precision == "int8" else 0
    lost += 3 if candidate.size < 112 else 0
    return lost + round(4 * sum(candidate.given.get("prune", ()))) + ("low_rank" in candidate.given)


@dataclass
class Fake:
    """What a Study asks of its ground. broken: variants that cannot be made. pause: seconds per trial.

    load: how many times longer everything takes while each of the first trials is timed; 1 after them.
    """

    broken: tuple[str, ...] = ()
    pause: float = 0.0
    load: tuple[float, ...] = ()
    asked: list[str] = field(default_factory=list)
    space: Space = SPACE
    native: int = 112
    search: tuple[Any, ...] = ()
    clips: Any = field(default_factory=lambda: SimpleNamespace(train=(), calibration=()))
    source: Any = field(
        default_factory=lambda: SimpleNamespace(
            sha256="0" * 64, checkpoint=None, spec=replace(zoo.spec("pv-conv-nano", "fight"), name="fake")
        )
    )

    def features(self, candidate: Candidate) -> tuple[float, ...]:
        """One kind of work, which the time is proportional to."""
        work = (candidate.size / 112) ** 2 * (0.8 if "low_rank" in candidate.given else 1.0)
        return (work * (1 - 0.5 * sum(candidate.given.get("prune", ())) / 2), 0.0, 0.0, 0.0, 0.0, 0.0)

    def measure(
        self, candidate: Candidate, timed: Callable[[Latency, float], None] = lambda latency, ratio: None
    ) -> TrialResult:
        """Programmed, after a pause."""
        self.asked.append(candidate.name)
        if self.pause:
            os.write(STDOUT, f"measuring {candidate.name}\n".encode())
        time.sleep(self.pause)
        if candidate.variant in self.broken:
            raise UsageError(f"{candidate.variant} does not convert")
        ms = time_of(candidate)
        busy = ms * dict(enumerate(self.load, start=1)).get(len(self.asked), 1.0)
        latency = Latency(busy, busy, busy, 90, 6, 1)
        timed(latency, ms / 16.0)
        right = [i >= lost_of(candidate) for i in range(CLIPS)]
        drop = paired_drop([True] * CLIPS, right, max_drop=QUESTION.options.max_drop)
        return TrialResult(candidate, _variant(), "", latency, ms / 16.0, drop, sum(right) / CLIPS)


def _variant() -> Variant:
    spec = zoo.spec("pv-conv-nano", "fight")
    return Variant("v", "onnxruntime", "fp32", "step", "m.onnx", "0", spec, None, {}, {})


def study(
    ground: Fake, storage: str, console: Console | None = None, question: SearchRequest = QUESTION
) -> Study:
    """A study over the fake ground."""
    return Study(question, cast(TrialRunner, ground), storage, console or Console(quiet=True))


def seeded(seed: int) -> SearchRequest:
    """The same question under another seed."""
    return replace(QUESTION, seed=seed)


if __name__ == "__main__":
    study(Fake(pause=float(sys.argv[2])), sys.argv[1]).run(seconds=600, trials=int(sys.argv[3]))
