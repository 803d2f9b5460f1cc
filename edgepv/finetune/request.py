"""What a fine-tuning is asked for, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgepv.types import Accuracy, ModelSpec

How = Literal["adapter", "full", "head"]
LEARNING_RATE: dict[How, float] = {"adapter": 5e-3, "full": 2e-3, "head": 1e-2}


@dataclass(frozen=True)
class FinetuneRequest:
    """What ``edgepv finetune`` was asked for.

    model, weights, spec: as in ``edgepv export``. data: folder of clips. kept: folder that a camera kept
    clips in, see ``edgepv.finetune.kept``; one of both is needed. labels: which labels; empty: all of
    ``data``, without that the model's own. rank: of the adapters. learning_rate: None for what fits ``how``.
    mirror: whether labels stay true in a mirror, so that half of the training views may be flipped.
    """

    model: str
    data: str | None
    out: str = "adapted"
    how: How = "full"
    weights: str | None = None
    spec: str | None = None
    kept: str | None = None
    labels: tuple[str, ...] = ()
    rank: int = 8
    epochs: int = 20
    batch: int = 4
    learning_rate: float | None = None
    mirror: bool = False
    seed: int = 0
    force: bool = False
    trust_pickle: bool = False


@dataclass(frozen=True)
class Epoch:
    """One pass over the training clips. validation_loss: None without validation clips."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_top1: float | None
    seconds: float


@dataclass(frozen=True)
class FinetuneResult:
    """What came out. trained, total: numbers in the network. best: the epoch that was kept, from 0.

    clips: of training, validation and test. validation, test: None where there were no clips for it. base:
    SHA-256 of the weights it began with. seconds: of training, without decoding. kept: what was taken from a
    camera's kept clips, and what not; "" where there were none.
    """

    builder: str
    spec: ModelSpec
    how: How
    rank: int | None
    trained: int
    total: int
    clips: tuple[int, int, int]
    best: int
    validation: Accuracy | None
    test: Accuracy | None
    seconds: float
    base: str
    epochs: tuple[Epoch, ...]
    kept: str = ""
