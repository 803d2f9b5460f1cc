"""Train R(2+1)D-18, R3D-18 or X3D-S on hand-washing clips: ``python benchmarks/train_clipnets.py NAME``.

From random weights, on the training split only, first on 64 px and then on the 112 px they run at. The
number of epochs is fixed beforehand; the test split is scored once. Kill it anywhere and run the same
command: it goes on after the last finished epoch. Weights (half precision), the training log and the
test score are written to benchmarks/weights/.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import clipnets
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.base.files import sha256, whole_file, write_json
from edgepv.metrics.stats import accuracy
from edgepv.types import ModelSpec, TensorSpec, encode
from edgepv.zoo import TASKS
from edgepv.zoo.training.classifiers import line
from edgepv.zoo.training.command import default_cache
from edgepv.zoo.training.data import load, read_manifest
from edgepv.zoo.training.epochs import Plan, fit
from edgepv.zoo.training.publish import halve
from edgepv.zoo.training.score import frames_of

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights"
DATA = HERE.parent.parent / "shared" / "data" / "actions"
LABELS = TASKS["handwash"]
FRAMES, SIZE = 16, 112
EPOCHS = {"r2plus1d_18": (20, 20), "r3d_18": (20, 20), "x3d_s": (60, 30)}
"""On small frames, then on frames of the final size."""
BFLOAT16 = ("r3d_18",)
"""Nets whose convolutions are trained in bfloat16, which takes a fraction of the time on CPUs with AMX."""
BY_PICTURES = ("x3d_s",)
"""Nets that are trained with ``ByPictures``: those of depthwise convolutions."""


def plans(name: str) -> tuple[Plan, Plan]:
    """On small frames, then on frames of the size it runs at."""
    small, final = EPOCHS[name]
    return (
        Plan("small frames", ((small, 64),), lr=2e-3, weight_decay=0.05),
        Plan("final size", ((final, SIZE),), lr=1e-3, weight_decay=0.05, mix=0.2, average=0.99),
    )


class Trainable(nn.Module):
    """A clip net as ``edgepv.zoo.training.epochs`` trains it: it says how many frames an answer needs."""

    warmup = FRAMES

    def __init__(self, net: nn.Module, bfloat16: bool = False) -> None:
        super().__init__()
        self.layout = torch.channels_last_3d if bfloat16 else torch.contiguous_format
        self.net, self.bfloat16 = net.to(memory_format=self.layout), bfloat16

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of clips (N, 3, T, H, W)."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16 and self.training):
            return cast(Tensor, self.net(x.contiguous(memory_format=self.layout))).float()


class ByPictures(nn.Conv3d):
    """A convolution over clips as one over pictures for each of its rows in time: the same sums.

    Its stride in time is 1. On a CPU the gradients of a depthwise one take a fraction of the time so.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C', T, H', W')."""
        count, length = x.shape[0], x.shape[2]
        pictures = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        before = int(self.padding[0])
        total: Tensor | None = None
        for row in range(self.kernel_size[0]):
            weight, bias = self.weight[:, :, row], self.bias if row == before else None
            padding, stride = self.padding[1:], self.stride[1:]
            part = F.conv2d(pictures, weight, bias, stride, padding, 1, self.groups)  # type: ignore[arg-type]
            part = _shifted(part.unflatten(0, (count, length)), row - before)
            total = part if total is None else total + part
        assert total is not None
        return total.transpose(1, 2)


def _shifted(rows: Tensor, by: int) -> Tensor:
    """(N, T, ...) whose row t is row t + by of the given, zeros beyond its ends."""
    if by == 0:
        return rows
    kept = rows[:, by:] if by > 0 else rows[:, :by]
    return F.pad(kept, (0,) * 6 + ((0, by) if by > 0 else (-by, 0)))


def by_pictures(net: nn.Module) -> nn.Module:
    """The net, its convolutions without a stride in time computed by pictures."""
    for layer in net.modules():
        if type(layer) is nn.Conv3d and layer.stride[0] == 1:
            layer.__class__ = ByPictures
    return net


class ClipNow(nn.Module):
    """Mean over space and over the clip's length of frames that ends now.

    A squeeze over the clip becomes this in a stream. Frames before the first count as zeros.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, 1, 1) of (N, C, T, H, W)."""
        rows = F.pad(x.mean((3, 4), keepdim=True), (0, 0, 0, 0, self.frames - 1, 0))
        return F.avg_pool3d(rows, (self.frames, 1, 1), 1)


def squeezing_now(net: Any, frames: int) -> nn.Module:
    """An X3D whose squeezes take the clip that ends now: on long video it computes what its stream does."""
    for block in net.blocks:
        if block.se is not None:
            block.se[0] = ClipNow(frames)
    return cast(nn.Module, net)


def r2plus1d_18() -> nn.Module:
    """R(2+1)D-18 at a quarter of the paper's width, 12 classes."""
    return _with_head(clipnets.r2plus1d_18())


def r3d_18() -> nn.Module:
    """R3D-18 at a quarter of the paper's width, 12 classes."""
    return _with_head(clipnets.r3d_18())


def x3d_s() -> nn.Module:
    """X3D-S at the paper's width, 12 classes; at first each block is its shortcut (Goyal et al. 2017)."""
    net: Any = clipnets.x3d_s(width=1.0)
    for block in net.blocks:
        nn.init.zeros_(block.c_bn.weight)
    return _with_head(net)


def x3d_s_stream() -> nn.Module:
    """X3D-S as its stream computes it; its weights are those of X3D-S."""
    return squeezing_now(x3d_s(), FRAMES)


def _with_head(net: Any) -> nn.Module:
    net.fc = nn.Linear(net.fc.in_features, len(LABELS))
    return cast(nn.Module, net)


BUILDERS = {"r2plus1d_18": r2plus1d_18, "r3d_18": r3d_18, "x3d_s": x3d_s}
AS_STREAM = {"x3d_s": "x3d_s_stream"}
"""Builders of nets as their streams compute them, where more than the ends of a clip is different."""


def spec(name: str) -> ModelSpec:
    """RGB clips of 16 frames at 10 fps, 112 px, normalised as the zoo's models are."""
    return ModelSpec(
        name=f"{name.replace('_', '-')}-handwash",
        input=TensorSpec("clip", (1, 3, FRAMES, SIZE, SIZE), "NCTHW"),
        labels=LABELS,
        frames=FRAMES,
        fps=Fraction(10),
        colour="rgb",
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    )


def train(name: str, data: Path, cache: Path, seed: int) -> dict[str, Any]:
    """Both plans, then one look at the test split."""
    torch.manual_seed(seed)
    everything = [s for s in read_manifest(data) if s.task == "handwash"]
    footage = load(s for s in everything if s.split == "train")
    net: Any = BUILDERS[name]().requires_grad_(True)
    net = Trainable(by_pictures(net) if name in BY_PICTURES else net, name in BFLOAT16)
    log: list[dict[str, Any]] = []
    for i, plan in enumerate(plans(name)):
        resume = cache / f"clipnet-{name}-{seed}-{i}.pt"
        say = lambda row: print(f"{name} {line(row)}", flush=True)  # noqa: E731
        net, rows, _ = fit(
            net, footage, {"handwash": slice(0, len(LABELS))}, plan, seed=seed, resume=resume, tick=say
        )
        log += rows
    halve(net)
    test = [s for s in everything if s.split == "test"]
    answers = torch.cat([_answer(net, s.path, name) for s in test])
    found = accuracy([s.label for s in test], answers.numpy(), LABELS)
    result = {"test": encode(found), "seed": seed, "plans": encode(plans(name)), "log": log}
    return publish(name, net.net, result)


@torch.no_grad()
def _answer(net: nn.Module, path: Path, name: str) -> Tensor:
    """Mean of the logits over every window of a clip, as a camera gives them, (1, classes)."""
    frames = torch.from_numpy(frames_of(path, spec(name)))
    windows = [frames[t : t + FRAMES] for t in range(max(1, len(frames) - FRAMES + 1))]
    windows = [torch.cat([w, w[-1:].repeat(FRAMES - len(w), 1, 1, 1)]) for w in windows]
    net.eval()
    return torch.cat([net(w.permute(1, 0, 2, 3)[None]) for w in windows]).mean(0, keepdim=True)


def publish(name: str, net: nn.Module, result: dict[str, Any]) -> dict[str, Any]:
    """Write weights and result."""
    WEIGHTS.mkdir(exist_ok=True)
    state = {k: v.half() if v.ndim > 1 else v for k, v in net.state_dict().items()}
    with whole_file(WEIGHTS / f"{name}.safetensors") as tmp:
        save_file({k: v.contiguous() for k, v in state.items()}, tmp)
    result |= {
        "weights": sha256(WEIGHTS / f"{name}.safetensors"),
        "seconds": round(sum(r["seconds"] for r in result["log"])),
    }
    write_json(WEIGHTS / f"{name}.json", result)
    return result


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(BUILDERS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = train(args.name, args.data, args.cache, args.seed)["test"]
    print(f"{args.name}: {100 * found['value']:.1f} % of {found['n']} test clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
