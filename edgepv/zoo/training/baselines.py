"""What simple methods reach on the same clips: ``python -m edgepv.zoo.training.baselines --data DIR``.

* ``logistic``: logistic regression on hand-made features (colours, edges, frame differences);
* ``frame_average``: a 2-D network that never compares frames, its answers averaged over the clip;
* ``plain_2plus1d``: a plain (2+1)D network, 16 frames of 64 x 64.

All learn from the whole training split and are scored once on the test split, by the protocol of the
zoo models (``edgepv.metrics.tasks.clip_scores``). The networks use one seed, a fixed number of epochs and the
same augmentation as the zoo models; nothing is selected.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgepv.base.console import tell
from edgepv.base.files import read_json, write_json
from edgepv.base.optional import need
from edgepv.data.frames import hold_last
from edgepv.data.split import Sample, named
from edgepv.data.video import open_video, taken
from edgepv.errors import EdgepvError
from edgepv.metrics.stats import accuracy
from edgepv.types import ModelSpec, TensorSpec, encode
from edgepv.zoo import HERE, TASKS, spec
from edgepv.zoo.training.data import load, read_manifest
from edgepv.zoo.training.epochs import Plan, fit
from edgepv.zoo.training.score import frames_of, scores

KINDS = ("logistic", "frame_average", "plain_2plus1d")
EPOCHS = {"fight": 25, "interact": 40, "handwash": 40}
SIZE = 64
WINDOW = 16


class PlainNet(nn.Module):
    """Four (2+1)D layers (3 x 3 in space, then 3 in time), global mean, one linear layer.

    timeless: leave the convolutions over time out; the clip's answer is then the mean over its frames.
    """

    warmup = WINDOW

    def __init__(self, classes: int, *, timeless: bool = False) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 96)
        pairs = list(itertools.pairwise(widths))
        self.space = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairs)
        self.space_bn = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs)
        last = () if timeless else pairs
        self.time = nn.ModuleList(nn.Conv2d(b, b, (3, 1), padding=(1, 0), bias=False) for _, b in last)
        self.time_bn = nn.ModuleList(nn.BatchNorm2d(b) for _, b in last)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of whole clips (N, 3, T, H, W)."""
        n, _, t, h, w = x.shape
        x = x.transpose(1, 2).reshape(n * t, 3, h, w).contiguous(memory_format=torch.channels_last)
        for i, (conv, norm) in enumerate(zip(self.space, self.space_bn, strict=True)):
            x = torch.relu(norm(conv(x)))
            if len(self.time):
                b, c, h, w = x.shape
                x = x.reshape(n, t, c, h * w).transpose(1, 2)
                x = torch.relu(self.time_bn[i](self.time[i](x)))
                x = x.transpose(1, 2).reshape(b, c, h, w)
        return self.head(self.dropout(x.mean((2, 3)).reshape(n, t, -1).mean(1)))

    def frame_logits(self, x: Tensor) -> Tensor:
        """Logits of the last 16 frames at every frame, (N, T, classes); zeros before 16 were seen."""
        ends = range(WINDOW, x.shape[2] + 1)
        late = [self.forward(x[:, :, end - WINDOW : end]) for end in ends]
        return torch.stack([torch.zeros_like(late[0])] * (WINDOW - 1) + late, 1)


def small_spec(task: str) -> ModelSpec:
    """The input of the baselines: 64 x 64, everything else as the zoo models."""
    return dataclasses.replace(
        spec("pv-conv-small", task), input=TensorSpec("frame", (1, 3, SIZE, SIZE), "NCHW")
    )


def network(
    kind: str, task: str, samples: Sequence[Sample], *, seed: int = 0, epochs: int | None = None
) -> dict[str, Any]:
    """Train one baseline network on the training split and score it on the test split."""
    start = time.perf_counter()
    train, _, test = named([s for s in samples if s.task == task])
    torch.manual_seed(seed)
    net: Any = PlainNet(len(TASKS[task]), timeless=kind == "frame_average")
    plan = Plan(kind, ((epochs or EPOCHS[task], SIZE),), lr=2e-3, mix=0.0)
    net, log, _ = fit(net, load(train), {task: slice(0, len(TASKS[task]))}, plan, seed=seed)
    table = scores(net, [frames_of(s.path, small_spec(task)) for s in test])
    result = _result(task, test, table, start)
    return result | {
        "params": sum(p.numel() for p in net.parameters()),
        "epochs": plan.epochs,
        "train_top1": log[-1]["train_top1"],
    }


def logistic(task: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Logistic regression on ``features``; its strength is chosen by grouped folds inside train."""
    need("sklearn", extra="compress")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    start = time.perf_counter()
    train, _, test = named([s for s in samples if s.task == task])
    model = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]},
        cv=GroupKFold(4),  # by group as data.split.folds; the committed strengths were chosen on these
    )
    x = np.stack([features(s.path, task) for s in train])
    model.fit(x, [s.label for s in train], groups=[s.group for s in train])
    raw = model.decision_function(np.stack([features(s.path, task) for s in test]))
    table = np.stack([-raw, raw], 1) if raw.ndim == 1 else raw
    result = _result(task, test, table, start)
    return result | {"features": x.shape[1], "C": model.best_params_["logisticregression__C"]}


def features(path: Path, task: str) -> np.ndarray:
    """Hand-made features of a clip at 10 fps: colour histogram, edge energy, frame differences.

    24 numbers of colour (8 bins per channel), 32 of edges (4 x 4 cells, mean and spread over time),
    50 of motion (4 x 4 cells: mean, spread and peak over time; and the mean and spread of the whole).
    """
    cv2 = need("cv2", extra="cpu")
    with open_video(path) as video:
        shown = taken(video, spec("pv-conv-small", task).fps)
        small = [cv2.resize(f.pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for f in shown]
    frames = hold_last(np.stack(small), WINDOW).astype(np.float32) / 255
    colours = [np.histogram(frames[..., c], 8, (0, 1))[0] / frames[..., c].size for c in range(3)]
    grey = frames.mean(3)
    edges = np.hypot(np.diff(grey, axis=1)[:, :, :-1], np.diff(grey, axis=2)[:, :-1])
    moved = np.abs(np.diff(grey, axis=0))
    whole = moved.mean((1, 2))
    edge, motion = _cells(edges), _cells(moved)
    parts = [*colours, edge.mean(0), edge.std(0), motion.mean(0), motion.std(0), motion.max(0)]
    return np.concatenate([*parts, [whole.mean(), whole.std()]])


def _cells(x: np.ndarray) -> np.ndarray:
    """Mean of (T, H, W) over a grid of 4 x 4 cells: (T, 16)."""
    side = x.shape[1] // 4
    x = x[:, : 4 * side, : 4 * side].reshape(len(x), 4, side, 4, side)
    return x.mean((2, 4)).reshape(len(x), 16)


def _result(task: str, test: Sequence[Sample], table: np.ndarray, start: float) -> dict[str, Any]:
    row = accuracy([s.label for s in test], table, TASKS[task], [s.group for s in test])
    return {"accuracy": encode(row), "seconds": round(time.perf_counter() - start)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every baseline on every task and write one JSON; rows already there are kept."""
    parser = argparse.ArgumentParser(prog="python -m edgepv.zoo.training.baselines", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and clips")
    parser.add_argument("--out", type=Path, default=HERE / "cards" / "baselines.json")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="default: all")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--again", action="store_true", help="measure rows that are already there")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        samples = read_manifest(args.data)
        rows = read_json(args.out) if args.out.is_file() else {}
        for kind in args.kind or KINDS:
            for task in args.task or TASKS:
                if args.again or task not in rows.get(kind, {}):
                    rows.setdefault(kind, {})[task] = _measure(kind, task, samples, args.seed)
                    write_json(args.out, rows)
    except EdgepvError as e:
        tell(f"edgepv: {e}", file=sys.stderr)
        return e.exit_code
    return 0


def _measure(kind: str, task: str, samples: Sequence[Sample], seed: int) -> dict[str, Any]:
    row = logistic(task, samples) if kind == "logistic" else network(kind, task, samples, seed=seed)
    top1, n = row["accuracy"]["value"], row["accuracy"]["n"]
    print(f"{kind} {task}: top-1 {100 * top1:.1f} %, n = {n}, {row['seconds']} s", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
