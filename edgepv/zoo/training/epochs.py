"""The training loop: seeded, resumable after any epoch, one thread is enough.

One network is trained on several tasks at once: its head has the classes of all tasks side by side
and a clip is only asked about the classes of its own task.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgepv.model.training import Best, SavedRun, Trainer, cosine
from edgepv.zoo.pv_conv import PvConv
from edgepv.zoo.training import parallel
from edgepv.zoo.training.data import MIRRORED, Footage, augmented
from edgepv.zoo.training.steps import follow, trainer_of

Columns = Mapping[str, slice]
"""Task -> the head's columns that hold its classes."""


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train.

    sizes: (epochs, height and width) in order; small frames first, the final size last.
    frames: frames per training clip; the loss is on the mean of the answers from frame 16 on.
    average: how much of the averaged weights is kept at each step.
    mix: chance that two clips of a task are blended, labels too. still: chance that a clip of a task
    told by motion gets a still picture of another clip over it (and 40 % of them lose their colours).
    final: height and width the network will run at. Crops are then cut so that things have the size
    they will have there, instead of shrinking the whole frame to a small training size.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    lr: float
    frames: int = 16
    batch: int = 8
    weight_decay: float = 0.02
    smoothing: float = 0.1
    average: float = 0.995
    mix: float = 0.0
    still: float = 0.0
    final: int | None = None
    patience: int | None = None

    @property
    def epochs(self) -> int:
        """How many epochs all sizes take together."""
        return sum(n for n, _ in self.sizes)

    def area(self, size: int) -> tuple[float, float]:
        """Share of the frame that a crop of ``size`` covers, lowest and highest."""
        if self.final is None:
            return 0.6, 1.0
        share = (size / self.final) ** 2
        return 0.75 * share, 1.35 * share

    def size(self, epoch: int) -> int:
        """Height and width of the frames in this epoch, counted from 0."""
        for n, size in self.sizes:
            if epoch < n:
                return size
            epoch -= n
        return self.sizes[-1][1]


@dataclass
class Run:
    """What changes while training."""

    net: PvConv
    average: PvConv
    trainer: Trainer
    epoch: int = 0
    best: Best = field(default_factory=Best)


Judge = Callable[[PvConv], dict[str, Any]]
"""Scores a network on validation clips; the key "loss" decides which epoch was best."""


def fit(
    net: PvConv,
    footage: Sequence[Footage],
    columns: Columns,
    plan: Plan,
    *,
    seed: int = 0,
    resume: Path | None = None,
    judge: Judge | None = None,
    stop_after: int | None = None,
    tick: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[PvConv, list[dict[str, Any]], int]:
    """Train ``net`` in place. Returns (averaged network, log per epoch, best epoch).

    With ``judge`` the averaged weights of the epoch with the lowest validation loss are returned and
    ``plan.patience`` epochs without a better one end the training; without it the last ones are.
    ``resume``: file the run is saved to after every epoch and continued from if it is there.
    ``stop_after``: train only the first epochs of the plan (the learning rate still follows it all).
    Under torchrun the batches of an epoch are shared out among the processes (see ``parallel``).
    """
    parallel.same_start(net)
    run = Run(net, copy.deepcopy(net), trainer_of(net, plan.weight_decay, clip=2.0))
    saved = SavedRun(resume, net=net, average=run.average, trainer=run.trainer, best=run.best)
    log = saved.resume()
    run.epoch = len(log)
    last = plan.epochs if stop_after is None else stop_after
    while run.epoch < last and not _out_of_patience(run, plan):
        row = _epoch(run, footage, columns, plan, seed)
        if judge:
            row |= judge(run.average)
            run.best.offer(run.average, row["loss"], run.epoch)
        run.epoch += 1
        log.append(row)
        if parallel.place()[0] == 0:
            saved.save(log)
            tick(row)
    if judge:
        run.best.restore(run.average)
    return run.average, log, run.best.epoch if judge else run.epoch - 1


def _out_of_patience(run: Run, plan: Plan) -> bool:
    return plan.patience is not None and run.epoch - run.best.epoch > plan.patience and run.epoch > 0


def _epoch(run: Run, footage: Sequence[Footage], columns: Columns, plan: Plan, seed: int) -> dict[str, Any]:
    """One pass over all clips. Every random number follows from (seed, epoch), so it can be redone."""
    start = time.perf_counter()
    rng = np.random.default_rng([seed, run.epoch])
    torch.manual_seed(seed * 1000 + run.epoch)
    order = rng.permutation(len(footage))
    batches = [order[i : i + plan.batch] for i in range(0, len(order) - 1, plan.batch)]
    batches = [b for b in batches if len(b) > 1]
    process, processes = parallel.place()
    if processes > 1:
        rng = np.random.default_rng([seed, run.epoch, process])
        batches = batches[: len(batches) // processes * processes][process::processes]
    run.net.train()
    total = hits = 0.0
    for i, batch in enumerate(batches):
        share = (run.epoch + i / len(batches)) / plan.epochs
        loss, right = _step(run, [footage[j] for j in batch], columns, plan, rng, plan.lr * _rate(share))
        total += loss * len(batch)
        hits += right
    seen = sum(len(b) for b in batches)
    return {
        "stage": plan.name,
        "epoch": run.epoch,
        "size": plan.size(run.epoch),
        "train_loss": round(total / seen, 4),
        "train_top1": round(hits / seen, 4),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _rate(share: float) -> float:
    """Share of the full learning rate after ``share`` of the training: short rise, cosine fall."""
    rise = 0.06
    if share < rise:
        return 0.1 + 0.9 * share / rise
    return cosine(share - rise, 1 - rise) + 1e-3


def _step(
    run: Run, batch: Sequence[Footage], columns: Columns, plan: Plan, rng: np.random.Generator, rate: float
) -> tuple[float, float]:
    """One update at a learning rate. Returns (loss, clips answered right)."""
    device = next(run.net.parameters()).device
    size = plan.size(run.epoch)
    x = to_input([_view(f, batch, plan, size, rng) for f in batch]).to(device)
    tasks = [f.sample.task for f in batch]
    labels = [f.sample.label for f in batch]
    other, share = _partners(tasks, plan.mix, rng)
    keep = torch.tensor(share, dtype=x.dtype, device=device)
    x = x * keep.view(-1, 1, 1, 1, 1) + x[other] * (1 - keep).view(-1, 1, 1, 1, 1)
    logits = _answer(run.net, x)
    losses = []
    right = 0
    for i, task in enumerate(tasks):
        mine = logits[i, columns[task]]
        goal = _soft(labels[i], mine, plan.smoothing) * keep[i]
        goal = goal + _soft(labels[other[i]], mine, plan.smoothing) * (1 - keep[i])
        losses.append(-(goal * torch.log_softmax(mine, 0)).sum())
        right += int(mine.argmax()) == labels[i]
    loss = run.trainer.step(torch.stack(losses).mean(), rate)
    follow(run.average, run.net, min(plan.average, 1 - 1 / (2 + run.epoch * 4)))
    return loss, right


def _view(
    clip: Footage, batch: Sequence[Footage], plan: Plan, size: int, rng: np.random.Generator
) -> np.ndarray:
    """A random view of one clip; with ``plan.still`` maybe with a still of its batch over it."""
    area = plan.area(size)
    if not plan.still or clip.sample.task not in MIRRORED:
        return augmented(clip, rng, frames=plan.frames, size=size, area=area)
    still = None
    if rng.random() < plan.still:
        other = batch[int(rng.integers(len(batch)))].frames
        still = other[int(rng.integers(len(other)))]
    return augmented(clip, rng, frames=plan.frames, size=size, still=still, grey=0.4, area=area)


def _answer(net: PvConv, x: Tensor) -> Tensor:
    """Logits the camera would give for these clips: the mean over the valid frames."""
    if x.shape[2] == net.warmup:
        return net(x)
    return net.frame_logits(x)[:, net.warmup - 1 :].mean(1)


def to_input(clips: Sequence[np.ndarray]) -> Tensor:
    """(N, 3, T, H, W) float32 from uint8 RGB clips (T, H, W, 3), normalised as the spec says."""
    x = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
    return x.float().mul_(1 / 255 / 0.225).sub_(0.45 / 0.225)


def _partners(tasks: Sequence[str], chance: float, rng: np.random.Generator) -> tuple[list[int], list[float]]:
    """Mixup partners inside a task: (index of the other clip, share of the clip itself)."""
    other = list(range(len(tasks)))
    for task in set(tasks):
        mine = [i for i, t in enumerate(tasks) if t == task]
        for i, j in zip(mine, rng.permutation(mine), strict=True):
            other[i] = int(j)
    mixed = rng.random(len(tasks)) < chance
    share = np.where(mixed, np.maximum(b := rng.beta(0.4, 0.4, len(tasks)), 1 - b), 1.0)
    return other, [float(s) for s in share]


def _soft(label: int, logits: Tensor, smoothing: float) -> Tensor:
    """What ``logits`` (classes,) are to say of a label: the probability of each class."""
    goal = torch.full_like(logits, smoothing / len(logits))
    goal[label] += 1 - smoothing
    return goal
