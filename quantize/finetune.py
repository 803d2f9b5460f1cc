"""A short fine-tune after pruning, with the original as the teacher (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.base.options import option
from edgepv.data.frames import hold_last
from edgepv.errors import UsageError
from edgepv.model.checkpoint import build
from edgepv.model.training import Trainer, cosine
from edgepv.quantize.step import CheckpointStep, Training
from edgepv.types import Checkpoint, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

TEMPERATURE = 2.0  # of both softmaxes, as in Hinton et al. 2015: wrong labels tell something too
CLOSEST = 0.75
"""Least share of a picture's height and width that a training view shows."""
CONTRAST = 0.15  # share by which a training view is brighter or darker at most
LEAST = 1e-7
"""Probabilities below it count as this: beside 1, float32 knows no less."""


def epochs_option(default: int, help: str, key: str) -> Any:
    """Epochs of a training, the option that asks for it; none are 0."""
    return option(
        default,
        help,
        key=key,
        metavar="N",
        check=lambda n: n >= 0,
        hint="give a number of epochs, 0 or more",
        asks=True,
    )


@dataclass(frozen=True)
class Step(CheckpointStep):
    """learning_rate: at the start, falls to zero as a cosine. batch: clips."""

    name = "finetune"
    tools = ("torch",)
    order = 30
    needs_clips = True
    done = ("tuned", "fine-tuned")

    epochs: int = epochs_option(
        6,
        "epochs of fine-tuning on the training clips (default: 6 after --prune or --low-rank, else 0)",
        "tune_epochs",
    )
    learning_rate: float = 1e-3
    batch: int = 8
    seed: int = 0

    @classmethod
    def due(cls, before: Sequence[CheckpointStep]) -> bool:
        """Whether a step before leaves what is to be tuned."""
        return any(step.lossy for step in before)

    def work(self, given: Checkpoint, out: Path, aid: Training) -> Checkpoint:
        """Train ``given`` to answer like the teacher and like the labels; returns the new checkpoint.

        Half of the loss is the labels' cross entropy, half the teacher's softened answer. Raises UsageError
        if the loss stops being finite.
        """
        torch = need("torch", extra="compress")
        torch.manual_seed(self.seed)
        model, original = build(given).requires_grad_(True), build(taught_by(aid))
        model.train()
        train(model, original, aid.clips, aid.truth, self, given.spec, aid.progress, cure="Lower the ratio")
        return self.saved(given, model.eval(), out, **lesson(aid))


def taught_by(aid: Training) -> Checkpoint:
    """The teacher. Raises UsageError if there is none."""
    if aid.teacher is None:
        raise UsageError("there is no original model to learn from")
    return aid.teacher


def lesson(aid: Training) -> dict[str, Any]:
    """What ``saved`` is told by a step that trained: its teacher went in, and of what the lesson was."""
    teacher = {"teacher": taught_by(aid).sha256}
    return {"inputs": teacher, "clips": len(aid.clips), "temperature": TEMPERATURE}


def train(
    model: nn.Module,
    original: nn.Module,
    clips: Sequence[np.ndarray],
    truth: Sequence[int],
    how: Step,
    spec: ModelSpec,
    progress: Callable[[range], Iterable[int]],
    *,
    cure: str,
) -> None:
    """Train ``model`` in place, in the mode it is in, on windows of as many frames as its spec says.

    original: the teacher, a torch module. Raises UsageError, ending in ``cure``, if the loss is not finite.
    """
    torch = need("torch", extra="compress")
    rng = np.random.default_rng(how.seed)
    steps = how.epochs * -(-len(clips) // how.batch)
    trainer = Trainer(model, weight_decay=1e-4, cure=cure)
    for _ in progress(range(how.epochs)):
        for rows in batches(rng, len(clips), how.batch):
            x = views(torch.from_numpy(windows(rng, [clips[i] for i in rows], spec.frames)), rng)
            y = torch.tensor([truth[i] for i in rows])
            loss = distilled(as_logits(model(x), spec), as_logits(original(x), spec), y)
            trainer.step(loss, how.learning_rate * cosine(trainer.steps, steps))


def as_logits(answer: Tensor, spec: ModelSpec) -> Tensor:
    """Logits of which the softmax is what a model answers."""
    return answer.clamp(min=LEAST).log() if spec.scores == "probabilities" else answer


def distilled(logits: Tensor, teacher: Tensor, truth: Tensor) -> Tensor:
    """Half the labels' cross entropy, half the teacher's softened answer."""
    from torch.nn import functional as F

    return 0.5 * F.cross_entropy(logits, truth) + 0.5 * soft_loss(logits, teacher)


def soft_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """How far an answer is from the teacher's, both softened by ``TEMPERATURE`` (Kullback-Leibler)."""
    from torch.nn import functional as F

    student, wanted = F.log_softmax(logits / TEMPERATURE, 1), F.softmax(teacher / TEMPERATURE, 1)
    return TEMPERATURE * TEMPERATURE * F.kl_div(student, wanted, reduction="batchmean")


def batches(rng: np.random.Generator, count: int, batch: int) -> list[np.ndarray]:
    """Row numbers of one epoch, shuffled, in batches."""
    order = rng.permutation(count)
    return [order[i : i + batch] for i in range(0, count, batch)]


def views(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Clips (N, C, T, H, W), each seen a little closer and at another contrast, the same over its frames.

    Student and teacher see the same view: what the teacher says of it is right without a new label (Beyer et
    al. 2022, "Knowledge distillation: A good teacher is patient and consistent"). Never mirrored: left and
    right may be labels.
    """
    import torch
    from torch.nn import functional as F

    size = tuple(x.shape[-2:])
    seen = []
    for clip in x:
        share = rng.uniform(CLOSEST, 1.0)
        high, wide = (max(1, round(share * n)) for n in size)
        top, left = int(rng.integers(size[0] - high + 1)), int(rng.integers(size[1] - wide + 1))
        part = clip[:, :, top : top + high, left : left + wide].transpose(0, 1)
        whole = F.interpolate(part, size, mode="bilinear", align_corners=False).transpose(0, 1)
        seen.append(whole * rng.uniform(1 - CONTRAST, 1 + CONTRAST))
    return torch.stack(seen)


def windows(rng: np.random.Generator, clips: Sequence[np.ndarray], frames: int) -> np.ndarray:
    """One random window per clip, (N, C, T, H, W); short clips are held on their last frame."""
    rows = []
    for clip in clips:
        start = int(rng.integers(0, max(1, len(clip) - frames + 1)))
        rows.append(hold_last(clip[start : start + frames], frames))
    return np.ascontiguousarray(np.stack(rows).transpose(0, 2, 1, 3, 4))
