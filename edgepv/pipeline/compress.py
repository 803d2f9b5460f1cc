"""Prune, split into low-rank layers, fine-tune, train for INT8: as asked, in this order."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgepv.data.clips import clips_digest
from edgepv.data.frames import model_frames
from edgepv.errors import UsageError
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Clips, Source, checkpoint_key
from edgepv.types import Checkpoint, decode, encode

TUNE_EPOCHS = 6


def compressed(context: RunContext, source: Source, clips: Clips) -> Checkpoint | None:
    """The checkpoint pruned, split into low-rank layers and fine-tuned, as asked; else the same one."""
    options, checkpoint = context.options, source.checkpoint
    trained = any(options.prune) or options.tune_epochs or options.qat
    if not trained and options.low_rank is None:
        return checkpoint
    if checkpoint is None:
        raise UsageError("an ONNX file is compressed by INT8 only, the rest is done in torch. Use --prune 0")
    if trained and checkpoint.spec.task != "classification":
        raise UsageError(
            f"--prune, --tune-epochs and --qat train classifiers; {checkpoint.spec.name} is for "
            f"{checkpoint.spec.task}. Train it smaller, or use INT8 and --low-rank"
        )
    if trained and not clips.train:
        raise UsageError(
            "--prune, --tune-epochs and --qat need training clips to fine-tune on: --clips DIR with a train "
            "split. A pruned model that is not fine-tuned has lost its accuracy"
        )
    key = {
        **checkpoint_key(checkpoint),
        "prune": [options.prune, options.importance, options.scope, options.multiple, options.seed],
        "low rank": options.low_rank,
        "epochs": [_epochs(options, clips), options.qat],
        "clips": clips_digest(clips.train, ordered=True),
    }
    folder, result = context.step(
        "compress", key, ("torch", "torch-pruning"), lambda out: _compress(context, checkpoint, clips, out)
    )
    found = decode(Checkpoint, result)
    return replace(found, weights=str(folder / found.weights))


def _epochs(options: Options, clips: Clips) -> int:
    if options.tune_epochs is not None:
        return options.tune_epochs
    changed = any(options.prune) or options.low_rank is not None
    return TUNE_EPOCHS if clips.train and changed else 0


def _compress(context: RunContext, checkpoint: Checkpoint, clips: Clips, folder: Path) -> Any:
    """Cut, split, tune and train for INT8; writes weights into ``folder``, returns the checkpoint as data."""
    from edgepv.quantize import finetune, low_rank, prune, qat

    options, spec = context.options, checkpoint.spec
    epochs = _epochs(options, clips)
    frames, truth = [], []
    if epochs or options.qat or options.importance != "magnitude":
        shown = context.console.track(clips.train, "decoding training clips")
        frames = [model_frames(c.path, spec) for c in shown]
        truth = [spec.labels.index(str(c.label)) for c in clips.train]
    small = checkpoint
    if any(options.prune):
        ratio = options.prune if len(options.prune) > 1 else options.prune[0]
        cut = prune.Step(ratio, options.importance, options.scope, options.multiple, options.seed)
        context.console.say(f"pruning {cut.shares} of the channels")
        small = cut(small, folder / "cut.safetensors", frames, truth)
    if options.low_rank is not None:
        small = low_rank.Step(options.low_rank)(small, folder / "split.safetensors")
    taught = (
        (epochs, finetune.Step(epochs, seed=options.seed), "tuned", "fine-tuning"),
        (options.qat, qat.Step(options.qat, seed=options.seed), "qat", "training for INT8"),
    )
    for wanted, step, name, what in taught:
        if wanted:
            context.console.say(f"{what} on {len(frames)} clips, {wanted} epochs")
            show = functools.partial(context.console.track, what=what)
            small = step(small, checkpoint, frames, truth, folder / f"{name}.safetensors", progress=show)
    return encode(replace(small, weights=Path(small.weights).name))
