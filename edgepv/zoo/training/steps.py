"""A training loop over random batches: seeded, resumable after a kill, on one device or on several.

``epochs`` trains classifiers over epochs of clips; this one serves what draws its batches without end, from
a renderer or a simulator.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edgepv.model.training import SavedRun, Trainer, cosine
from edgepv.zoo.training import parallel

Net = TypeVar("Net", bound=nn.Module)
Loss = Callable[[Net, int, np.random.Generator], tuple[Tensor, dict[str, float]]]
"""(network, step, random numbers of this step and process) -> (loss, further figures for the log)."""


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train.

    steps: of the optimizer. lr: the highest learning rate; it rises over the first ``warm`` share of the
    steps and falls to 0 along a cosine. clip: largest norm of the gradient. average: share of the averaged
    weights that is kept at each step, so they follow about the last 1 / (1 - average) of them. log_every,
    save_every: steps between log rows and between saves.
    """

    steps: int
    lr: float
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.99
    warm: float = 0.05
    log_every: int = 100
    save_every: int = 100

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = max(1, round(self.warm * self.steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * cosine(step - warm, max(1, self.steps - warm))


def fit(
    net: Net,
    loss: Loss[Net],
    schedule: Schedule,
    *,
    seed: int,
    resume: Path | None = None,
    tick: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[Net, list[dict[str, Any]]]:
    """Train ``net`` in place with AdamW; returns (network with the averaged weights, in eval mode; log).

    A log row has the mean ``loss`` and figures of the steps since the row before, "step" and "seconds".
    resume: file the run is saved to, and continued from if it is there: the same command after a kill gives
    the same network. ``loss`` puts its batches on the device of the network's weights. Under torchrun every
    process draws batches of its own (see ``parallel``). Raises UsageError when the loss is not finite.
    """
    device = parallel.start()
    net = net.to(device)
    parallel.same_start(net)
    average = copy.deepcopy(net)
    trainer = trainer_of(net, schedule.weight_decay, schedule.clip)
    run = SavedRun(resume, net=net, average=average, trainer=trainer)
    log = run.resume(device)
    first = parallel.place()[0] == 0
    tally = Tally()
    net.train()
    for step in range(trainer.steps, schedule.steps):
        tally.add(*_step(net, loss, trainer, schedule, step, seed))
        follow(average, net, min(schedule.average, 1 - 1 / (2 + step)))
        last = step + 1 == schedule.steps
        if last or (step + 1) % schedule.log_every == 0:
            log.append({"step": step + 1, **tally.row()})
            if first:
                tick(log[-1])
        if first and (last or (step + 1) % schedule.save_every == 0):
            run.save(log)
    return average.eval(), log


def trainer_of(net: nn.Module, weight_decay: float, clip: float) -> Trainer:
    """The optimizer of a network here: only matrices and kernels decay, processes average their gradients."""
    return Trainer(net, weight_decay, only_matrices=True, clip=clip, share=parallel.average_gradients)


def _step(
    net: Net, loss: Loss[Net], trainer: Trainer, schedule: Schedule, step: int, seed: int
) -> tuple[float, dict[str, float]]:
    """One step of the optimizer; (loss, figures)."""
    rng = np.random.default_rng((seed, step, parallel.place()[0]))
    torch.manual_seed(int(rng.integers(1 << 31)))  # for dropout and the like
    value, figures = loss(net, step, rng)
    return trainer.step(value, schedule.rate(step)), figures


class Tally:
    """Means of what a few steps gave, and how long they took."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._begun = time.perf_counter()

    def add(self, loss: float, figures: dict[str, float]) -> None:
        """Take one step's figures."""
        self._rows.append({"loss": loss, **figures})

    def row(self) -> dict[str, float]:
        """Means since the last call, of the steps that have the figure, and "seconds"."""
        names = dict.fromkeys(name for row in self._rows for name in row)
        means = {n: float(np.mean([row[n] for row in self._rows if n in row])) for n in names}
        now = time.perf_counter()
        seconds = now - self._begun
        self._rows, self._begun = [], now
        return {**{n: round(v, 5) for n, v in means.items()}, "seconds": round(seconds, 1)}


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, keep: float) -> None:
    """Move the averaged network towards the trained one, keeping the share ``keep``; counters are copied."""
    new = net.state_dict()
    for name, old in average.state_dict().items():
        if old.is_floating_point():
            old.lerp_(new[name], 1 - keep)
        else:
            old.copy_(new[name])
