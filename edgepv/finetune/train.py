"""The training itself: the loop over epochs, what is kept, and when it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.base.console import Console
from edgepv.base.optional import need
from edgepv.data.frames import hold_last
from edgepv.finetune.data import Shot, tensor, window
from edgepv.finetune.head import logits
from edgepv.finetune.request import LEARNING_RATE, Epoch, FinetuneRequest
from edgepv.metrics.stats import accuracy
from edgepv.model.training import Best, Trainer, cosine, refuse_diverged
from edgepv.quantize.finetune import views
from edgepv.types import Accuracy, ModelSpec

if TYPE_CHECKING:
    from torch import nn

SMOOTHING = 0.1

WINDOWS = 4
DIVERGED = 1e3
"""Cross entropy in nats from which on a training is lost; guessing costs the logarithm of the labels."""
CURE = "Lower --learning-rate"


def _prepared(model: Any, head: str, request: FinetuneRequest) -> None:
    """Decide what trains."""
    from edgepv.finetune import lora

    if request.how == "adapter":
        lora.inject(model, request.rank, head=head)
    else:
        model.requires_grad_(request.how == "full")
        model.get_submodule(head).requires_grad_(True)


def merged(model: nn.Module) -> nn.Module:
    """The model in eval mode, its adapters folded into the weights they stand beside."""
    from edgepv.finetune import lora

    return lora.merged(model).eval()


def trained(
    model: nn.Module,
    head: str,
    train: Sequence[Shot],
    validation: Sequence[Shot],
    spec: ModelSpec,
    request: FinetuneRequest,
    console: Console,
) -> tuple[nn.Module, list[Epoch], int]:
    """Train in place. Returns (model, log, epoch kept): the lowest validation loss, else the last."""
    torch = need("torch", extra="compress")
    torch.manual_seed(request.seed)
    _prepared(model, head, request)
    rng = np.random.default_rng(request.seed)
    rate = request.learning_rate or LEARNING_RATE[request.how]
    steps = request.epochs * -(-len(train) // request.batch)
    trainer = Trainer(model, weight_decay=0.01, clip=2.0, cure=CURE, most=DIVERGED)
    log: list[Epoch] = []
    best = Best()
    for epoch in range(request.epochs):
        start = time.perf_counter()
        loss = _epoch(model, train, spec, request, rng, trainer, lambda step: rate * _rate(step, steps=steps))
        judged = _judged(model, validation, spec)
        if judged[0] is not None:
            refuse_diverged(judged[0], "validation", CURE, DIVERGED)
            best.offer(model, judged[0], epoch)
        log.append(Epoch(epoch, loss, *judged, seconds=time.perf_counter() - start))
        console.say(_told(log[-1], request.epochs))
    best.restore(model)
    return model.eval(), log, best.epoch if validation else request.epochs - 1


def _rate(step: int, *, steps: int) -> float:
    """Share of the full learning rate: a short rise, then a cosine to zero."""
    rise = 0.1 * steps
    return min((step + 1) / (rise + 1), cosine(step, steps))


def _told(row: Epoch, epochs: int) -> str:
    line = f"epoch {row.epoch + 1}/{epochs}: loss {row.train_loss:.3f}"
    if row.validation_loss is not None:
        line += f", validation {row.validation_loss:.3f}, top-1 {100 * (row.validation_top1 or 0):.1f} %"
    return f"{line}, {row.seconds:.0f} s"


def _epoch(
    model: Any,
    train: Sequence[Shot],
    spec: ModelSpec,
    request: FinetuneRequest,
    rng: np.random.Generator,
    trainer: Trainer,
    rate: Callable[[int], float],
) -> float:
    """One pass over the training clips at learning rate ``rate`` of each step; returns its mean loss.

    Raises UsageError for a loss that is not finite, or beyond ``DIVERGED``.
    """
    import torch
    from torch.nn import functional as F

    _training_mode(model, request)
    batches = np.array_split(rng.permutation(len(train)), -(-len(train) // request.batch))
    total = 0.0
    for rows in batches:
        x = torch.stack([tensor(window(train[i].frames, spec.frames, rng), spec) for i in rows])
        x = views(x, rng)
        if request.mirror:
            x = torch.stack([clip.flip(-1) if rng.random() < 0.5 else clip for clip in x])
        y = torch.tensor([train[i].label for i in rows])
        loss = F.cross_entropy(logits(model, x, spec), y, label_smoothing=SMOOTHING)
        total += trainer.step(loss, rate(trainer.steps)) * len(rows)
    return total / len(train)


def _training_mode(model: Any, request: FinetuneRequest) -> None:
    """Norms count anew, unless nothing but the head trains, or frames come one by one."""
    import torch

    one_by_one = type(model).forward is torch.nn.Module.forward
    model.train(not (request.how == "head" or one_by_one))


def _judged(model: Any, validation: Sequence[Shot], spec: ModelSpec) -> tuple[float | None, float | None]:
    """(cross entropy, top-1) on the validation clips; (None, None) without."""
    from edgepv.metrics.stats import cross_entropy

    if not validation:
        return None, None
    rows = scores(model.eval(), validation, spec)
    truth = [s.label for s in validation]
    return cross_entropy(rows, truth), float((rows.argmax(1) == truth).mean())


def scores(model: nn.Module, clips: Sequence[Shot], spec: ModelSpec) -> np.ndarray:
    """(clips, classes) logits of whole clips.

    A model with ``frame_logits`` (N, C, T, H, W) -> (N, T, classes) is asked for every frame and its valid
    answers are averaged, as ``edgepv export`` judges it; others see up to ``WINDOWS`` windows spread evenly.
    """
    torch = need("torch", extra="compress")
    per_frame: Any = getattr(model, "frame_logits", None)
    every_frame = spec.input.layout == "NCHW" and callable(per_frame)
    rows = []
    with torch.no_grad():
        for clip in clips:
            frames = hold_last(clip.frames, spec.frames)
            if every_frame:
                said = per_frame(tensor(frames, spec)[None])[0, spec.frames - 1 :]
            else:
                last = len(frames) - spec.frames
                starts = sorted({round(s) for s in np.linspace(0, last, WINDOWS)})
                parts = [tensor(frames[s : s + spec.frames], spec) for s in starts]
                said = torch.cat([logits(model, part[None], spec) for part in parts])
            rows.append(said.mean(0).numpy())
    return np.stack(rows)


def rated(model: nn.Module, clips: Sequence[Shot], spec: ModelSpec) -> Accuracy | None:
    """Top-1 with its interval over the clips' groups; None without clips."""
    if not clips:
        return None
    groups = [c.group for c in clips]
    return accuracy([c.label for c in clips], scores(model, clips, spec), spec.labels, groups)
