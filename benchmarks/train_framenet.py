"""Train MobileNetV2 (half width, 96 px) on single frames of the hand-washing clips.

``python benchmarks/train_framenet.py --data DIR`` trains from random weights on the training split for a
number of epochs that is fixed beforehand and scores the test split once: the net that sees one frame only,
for benchmarks that want a common 2-D net. Kill it anywhere and run it again: it goes on after the last
finished epoch. Weights (half precision), log and test score are written to benchmarks/weights/.
Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_at import now
from safetensors.torch import save_file
from torch import Tensor, nn

from edgepv.base.files import sha256, whole_file, write_json
from edgepv.base.machine import device_facts
from edgepv.metrics.stats import accuracy
from edgepv.metrics.tasks import clip_scores
from edgepv.types import ModelSpec, TensorSpec, encode
from edgepv.zoo import TASKS
from edgepv.zoo.training.classifiers import line
from edgepv.zoo.training.command import default_cache
from edgepv.zoo.training.data import load, read_manifest
from edgepv.zoo.training.epochs import Plan, fit
from edgepv.zoo.training.publish import halve
from edgepv.zoo.training.score import frames_of

HERE = Path(__file__).resolve().parent
NAME = "mobilenet_v2"
WEIGHTS = HERE / "weights" / f"{NAME}.safetensors"
LABELS = TASKS["handwash"]
SIZE, WIDTH = 96, 0.5
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, repeats and stride of each stage, at full width."""
PLAN = Plan("frames", ((24, SIZE),), lr=2e-3, frames=6, weight_decay=0.05, average=0.99)


def conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, its norm and ReLU6."""
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside), nn.ReLU6())


class Block(nn.Module):
    """An inverted residual: expand, depthwise, project; with the input added where shapes allow it."""

    def __init__(self, inside: int, outside: int, expand: int, stride: int) -> None:
        super().__init__()
        wide = inside * expand
        first = [conv(inside, wide, 1)] if expand > 1 else []
        project = nn.Conv2d(wide, outside, 1, bias=False)
        self.layers = nn.Sequential(
            *first, conv(wide, wide, 3, stride, wide), project, nn.BatchNorm2d(outside)
        )
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """Logits (N, classes) of frames (N, 3, H, W)."""

    warmup = 1

    def __init__(self) -> None:
        super().__init__()
        wide = [max(8, round(WIDTH * c / 8) * 8) for c in (32, *(c for _, c, _, _ in STAGES))]
        layers: list[nn.Module] = [conv(3, wide[0], 3, 2)]
        inside = wide[0]
        for (expand, _, repeats, stride), outside in zip(STAGES, wide[1:]):
            for i in range(repeats):
                layers.append(Block(inside, outside, expand, stride if i == 0 else 1))
                inside = outside
        self.features = nn.Sequential(*layers, conv(inside, 640, 1))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(640, len(LABELS)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each frame."""
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits

    def frame_logits(self, x: Tensor) -> Tensor:
        """(N, T, classes) of clips (N, 3, T, H, W), each frame for itself: how the training asks it."""
        n, _, t = x.shape[:3]
        return self(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (n, t))


def mobilenet_v2() -> nn.Module:
    """What ``edgepv export`` is given as the builder."""
    return MobileNetV2()


def spec() -> ModelSpec:
    """One RGB frame at 10 fps, normalised as the zoo's models are."""
    return ModelSpec(
        name="mobilenet-v2-handwash",
        input=TensorSpec("frame", (1, 3, SIZE, SIZE)),
        labels=LABELS,
        fps=Fraction(10),
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    )


def train(data: Path, cache: Path) -> dict[str, Any]:
    """The plan, then one look at the test split, whose clips are answered by the mean over their frames."""
    torch.manual_seed(0)
    everything = [s for s in read_manifest(data) if s.task == "handwash"]
    footage = load(s for s in everything if s.split == "train")
    net: Any = MobileNetV2()
    say = lambda row: print(line(row), flush=True)  # noqa: E731
    columns = {"handwash": slice(0, len(LABELS))}
    net, log, _ = fit(net, footage, columns, PLAN, resume=cache / f"framenet-{NAME}.pt", tick=say)
    halve(net)
    net.eval()
    test = [s for s in everything if s.split == "test"]
    with torch.no_grad():
        answers = [clip_scores(net(torch.from_numpy(frames_of(s.path, spec()))).numpy(), 1) for s in test]
    found = accuracy([s.label for s in test], np.stack(answers), LABELS, [s.group for s in test])
    state = {k: (v.half() if v.ndim > 1 else v).contiguous() for k, v in net.state_dict().items()}
    with whole_file(WEIGHTS) as tmp:
        save_file(state, tmp)
    result = {"test": encode(found), "weights": sha256(WEIGHTS), "plan": encode(PLAN)}
    result |= {"log": [{k: v for k, v in row.items() if k != "seconds"} for row in log]}
    result |= {"measured_at": now(), "device": encode(device_facts())}
    write_json(WEIGHTS.with_suffix(".json"), result)
    return result


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and clips")
    parser.add_argument("--cache", type=Path, default=default_cache())
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = train(args.data, args.cache)["test"]
    print(f"{NAME}: {100 * found['value']:.1f} % of {found['n']} test clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
