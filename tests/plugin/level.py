"""A task that edgepv knows nothing of: how bright the picture is, from 0 (black) to 1 (white)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgepv.data.clips import Clip
from edgepv.data.truth import EvalClip, plain
from edgepv.metrics.tasks import Pictures
from edgepv.types import ModelSpec, TaskSpec

TASK = TaskSpec(
    answer="level",
    shape=lambda spec: (1, 1),
    postprocessing="0 is black, 1 is white",
    truth="level:lit",
    metric="level_nearness",
    metric_name="nearness",
    figure="level:nearness",
    unit="points",
    max_drop=None,
    most_frames=8,
    int8_floor_db=20.0,
)


def lit(clip: Clip, spec: ModelSpec, more: int) -> EvalClip:
    """A clip with the brightness that stands in CLIP.txt beside CLIP.mp4."""
    beside = clip.path.with_suffix(".txt")
    truth = float(beside.read_text()) if beside.is_file() else None
    return replace(plain(clip, spec, more), truth=truth)


def nearness(spec: ModelSpec, rows: np.ndarray, truth: float, warmup: int, which: Pictures) -> float:
    """1 where the mean answer is the true one, 0 where it is as far off as can be."""
    return float(1 - abs(rows[warmup - 1 :].mean() - truth))


def build() -> Any:
    """A module that answers the mean of a frame, with its weights all 1/27."""
    import torch
    from torch import nn

    class Level(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, frame: torch.Tensor) -> torch.Tensor:
            return self.see(frame).mean((1, 2, 3)).reshape(1, 1)

    return Level()
