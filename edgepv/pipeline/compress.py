"""The steps on a checkpoint that were asked for, in their order."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgepv.base.tasks import task_of
from edgepv.data.clips import clips_digest
from edgepv.data.frames import model_frames
from edgepv.errors import UsageError
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Clips, Source, checkpoint_key
from edgepv.quantize.step import CheckpointStep, Training, asked, checkpoint_steps, flags
from edgepv.types import Checkpoint, ModelSpec, decode, encode

Chain = tuple[CheckpointStep, ...]
LEARNT_FRAMES = 256
"""Frames of one film that are looked at without labels: 25 s at 10 frames per second, 39 MB at 112 x 112."""


def compressed(
    context: RunContext, source: Source, clips: Clips
) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """(the checkpoint after every step that was asked for or is due, notes); the same one if there is none.

    A step that is due and cannot be done is left out, and a note says why.
    """
    checkpoint = source.checkpoint
    chain = chain_of(context.options, source, clips)
    if not chain:
        return checkpoint, ()
    if checkpoint is None:
        raise UsageError("an ONNX file is compressed by INT8 only, the rest is done in torch. Use --prune 0")
    _refuse_untrainable(chain, checkpoint.spec, clips)
    key = {
        **checkpoint_key(checkpoint),
        "steps": [[step.name, step.version, encode(step)] for step in chain],
        "clips": clips_digest(clips.train, ordered=True),
    }
    if any(step.watches for step in chain):
        key["footage"] = clips_digest(clips.unlabelled, ordered=True)
    tools = tuple(dict.fromkeys(tool for step in chain for tool in step.tools))
    folder, result = context.step(
        "compress", key, tools, functools.partial(_compress, context, chain, checkpoint, clips)
    )
    compact = decode(Checkpoint, result["checkpoint"])
    done = compact.steps[result["loaded"] :]  # the same weights may have been read from another kind of file
    if done:
        weights = str(folder / compact.weights)
        checkpoint = replace(compact, weights=weights, steps=checkpoint.steps + done)
    return checkpoint, tuple(result["notes"])


def chain_of(options: Options, source: Source, clips: Clips) -> Chain:
    """The steps that the options ask for, and those that are due of a classifier's checkpoint with clips."""
    able = source.checkpoint is not None and task_of(source.spec).classifies
    tuning, watching = able and bool(clips.train), able and bool(clips.unlabelled)
    return asked(options.steps, options.seed, tuning=tuning, watching=watching)


def _refuse_untrainable(chain: Chain, spec: ModelSpec, clips: Clips) -> None:
    """Raise UsageError for a step that needs training clips, where there are none or no labels for them."""
    if not any(step.needs_clips for step in chain):
        return
    trained = flags(kind for kind in checkpoint_steps() if kind.needs_clips)
    if not task_of(spec).classifies:
        others = flags(kind for kind in checkpoint_steps() if not kind.needs_clips)
        raise UsageError(
            f"{trained} train classifiers; {spec.name} is for {spec.task}. Train it smaller, or use INT8 "
            f"and {others}"
        )
    if not clips.train:
        raise UsageError(
            f"{trained} need training clips to fine-tune on: --clips DIR with a train "
            "split. A pruned model that is not fine-tuned has lost its accuracy"
        )


def _compress(context: RunContext, chain: Chain, checkpoint: Checkpoint, clips: Clips, folder: Path) -> Any:
    """Run the chain; writes weights into ``folder``, returns the last checkpoint as data, and notes."""
    training = _training(context, chain, checkpoint, clips)
    compact, notes = checkpoint, []
    for step in chain:
        context.console.say(f"{step.name}: {step.told()}")
        show = functools.partial(context.console.track, what=step.name)
        out = folder / f"{step.name}.safetensors"
        try:
            compact = step(compact, out, replace(training, progress=show))
        except UsageError as e:
            if type(step).wanted(context.options.steps):
                raise
            notes.append(f"no {step.name}: {e}")
            context.console.say(notes[-1])
    last = encode(replace(compact, weights=Path(compact.weights).name))
    return {"checkpoint": last, "loaded": len(checkpoint.steps), "notes": notes}


def _training(context: RunContext, chain: Chain, checkpoint: Checkpoint, clips: Clips) -> Training:
    """What the steps of a chain look at; only what one of them needs is decoded."""
    training, spec = Training(teacher=checkpoint), checkpoint.spec
    if any(step.learns for step in chain):
        shown = context.console.track(clips.train, "decoding training clips")
        frames = [model_frames(c.path, spec) for c in shown]
        truth = [spec.labels.index(str(c.label)) for c in clips.train]
        training = replace(training, clips=frames, truth=truth)
    if any(step.watches for step in chain):
        shown = context.console.track(clips.unlabelled, "decoding footage")
        footage = [model_frames(c.path, spec, LEARNT_FRAMES) for c in shown]
        training = replace(training, footage=footage)
    return training
