"""Accuracy of a zoo network by the protocol of a camera: every frame, in order, at the model's rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgepv.data.frames import hold_last, model_frames
from edgepv.data.split import Sample
from edgepv.metrics.stats import accuracy, cross_entropy
from edgepv.metrics.tasks import clip_scores
from edgepv.types import ModelSpec, encode
from edgepv.zoo.pv_conv import PvConv


def frames_of(path: Path, spec: ModelSpec) -> np.ndarray:
    """A clip as the model sees it, (T, 3, H, W) float32, at least ``spec.frames`` long."""
    return hold_last(model_frames(path, spec), spec.frames)


@torch.no_grad()
def clip_answer(net: PvConv, frames: np.ndarray) -> np.ndarray:
    """Scores (classes,) of one clip, (T, 3, H, W): what streaming it frame by frame would answer."""
    device = next(net.parameters()).device
    x = torch.from_numpy(frames).to(device).transpose(0, 1)[None]
    return clip_scores(net.frame_logits(x)[0].cpu().numpy(), net.warmup)


def scores(
    net: PvConv,
    clips: Iterable[np.ndarray],
    tick: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """(n, classes) scores of clips given as (T, 3, H, W) frames."""
    net.eval()
    rows = []
    for frames in clips:
        rows.append(clip_answer(net, frames))
        tick()
    return np.stack(rows)


def verdict(scores: np.ndarray, truth: Sequence[int]) -> dict[str, Any]:
    """Validation row of a training log: loss in nats, top-1 as a fraction, n clips."""
    top1 = float((scores.argmax(1) == np.asarray(truth)).mean())
    return {"loss": round(cross_entropy(scores, truth), 4), "top1": round(top1, 4), "n": len(truth)}


def of_test(test: Sequence[Sample], table: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """What a result keeps of a test: accuracy, loss, and the scores of every clip to recompute them from."""
    truth = [s.label for s in test]
    return {
        "accuracy": encode(accuracy(truth, table, labels, [s.group for s in test])),
        "loss": verdict(table, truth)["loss"],
        "clips": [
            {"file": s.path.name, "label": s.label, "group": s.group, "scores": _rounded(row)}
            for s, row in zip(test, table, strict=True)
        ],
    }


def _rounded(row: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in row]
