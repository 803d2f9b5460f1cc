"""Accuracy of a zoo network by the protocol of a camera: every frame, in order, at the model's rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgepv.base.optional import need
from edgepv.data.frames import hold_last, model_frames
from edgepv.data.split import Sample
from edgepv.data.video import at_rate, open_video
from edgepv.metrics.stats import accuracy, cross_entropy, share_interval
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


def verdict(scores: np.ndarray, truth: Sequence[int]) -> dict[str, object]:
    """Validation row of a training log: loss in nats, top-1 as a fraction, n clips."""
    top1 = float((scores.argmax(1) == np.asarray(truth)).mean())
    return {"loss": round(cross_entropy(scores, truth), 4), "top1": round(top1, 4), "n": len(truth)}


def of_test(test: Sequence[Sample], table: np.ndarray, labels: Sequence[str]) -> dict[str, object]:
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


def operating_point(table: np.ndarray, truth: Sequence[int]) -> float:
    """Score of label 0 of two, 0 to 1, from which on an alarm pays on clips that judged nothing else.

    table: (n, 2) logits. Where the share of hits less the share of false alarms is largest, halfway to the
    next lower score (Youden 1950, "Index for rating diagnostic tests"); of several, the highest.
    """
    shown = np.asarray(truth) == 0
    score = _alarm_scores(table)
    levels = np.unique(score)
    worth = [round((score[shown] >= t).mean() - (score[~shown] >= t).mean(), 9) for t in levels]
    best = len(worth) - 1 - int(np.argmax(worth[::-1]))
    below = levels[best - 1] if best else 0.0
    return round(float(levels[best] + below) / 2, 3)


def _alarm_scores(table: np.ndarray) -> np.ndarray:
    """Softmax of two logits (n, 2), of the first."""
    return 1 / (1 + np.exp(table[:, 1] - table[:, 0]))


def footage_s(test: Sequence[Sample]) -> list[float]:
    """Seconds of every clip."""
    lengths = []
    for sample in test:
        with open_video(sample.path) as video:
            frames = sum(count for _, count in at_rate(video, video.fps))
            lengths.append(frames / float(video.fps))
    return lengths


def alarm(
    clips: Sequence[dict[str, Any]], seconds: Sequence[float], labels: Sequence[str], threshold: float
) -> dict[str, Any]:
    """What an alarm for label 0 at a threshold does on tested clips, see ``of_test``.

    "recall" of clips that show it with a 95 % interval over groups; "false_alarms" of "hours" that do not,
    and "per_hour" with a 95 % Poisson interval (Garwood 1936).
    """
    score = _alarm_scores(np.array([c["scores"] for c in clips]))
    shown = np.array([c["label"] == 0 for c in clips])
    groups = [c["group"] for c in clips if c["label"] == 0]
    low, high = share_interval(score[shown] >= threshold, groups)
    hours = float(np.asarray(seconds)[~shown].sum()) / 3600
    false = int((score[~shown] >= threshold).sum())
    return {
        "label": labels[0],
        "threshold": threshold,
        "recall": {"value": float((score[shown] >= threshold).mean()), "low": low, "high": high},
        "false_alarms": false,
        "hours": hours,
        "per_hour": [false / hours, *(v / hours for v in poisson_interval(false))],
    }


def poisson_interval(count: int) -> tuple[float, float]:
    """95 % interval of the mean of which so many were seen (Garwood 1936)."""
    chi2 = need("scipy.stats", extra="compress").chi2
    low = float(chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    return low, float(chi2.ppf(0.975, 2 * count + 2)) / 2
