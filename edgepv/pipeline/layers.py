"""What INT8, or cutting channels, costs each layer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepv.base.console import Console
from edgepv.base.tasks import task_of
from edgepv.data.calibration import calibration_set, rolled_feeds
from edgepv.data.clips import clips_digest
from edgepv.data.frames import model_frames
from edgepv.errors import UsageError
from edgepv.model.checkpoint import load_notes
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import Lowered, lowered
from edgepv.pipeline.options import Options
from edgepv.pipeline.prepare import probe_feeds, probed_clips
from edgepv.pipeline.source import Clips, Source, all_labelled, gather, load, source_key
from edgepv.quantize.sparsity import LayerSparsity
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Stepper
from edgepv.types import LayerSensitivity, decode, encode


def sensitivity(
    options: Options, console: Console, *, cut: float | None = None
) -> tuple[LayerSensitivity, ...]:
    """What INT8 of each layer alone costs a model, the most sensitive first; from the cache if it is known.

    cut: instead, what cutting this share of the channels of each group of layers alone costs, before any
    fine-tuning. Ranges come from the calibration clips. Answers are compared on the held-out ones: of all of
    them after a cut, of at most ``PROBED``, labels in turns, in INT8. Raises UsageError if there are no clips
    the model was made for.
    """
    context = RunContext(options, console)
    source = load(options)
    for note in load_notes(source.checkpoint):
        console.say(note)
    clips = gather(options, source.spec)
    if not clips.fits:
        raise UsageError(f"{source.spec.name} needs clips like those its camera will see: --clips DIR")
    held_out = clips.held_out
    truth = _truth(source, clips)
    key: dict[str, Any] = {"held out": clips_digest(held_out, ordered=True)}
    if cut is not None and not task_of(source.spec).classifies:
        raise UsageError(f"cuts are tried on classifiers; {source.spec.name} is for {source.spec.task}")
    if cut is None:
        rows = _int8_alone(context, lowered(context, source, clips), clips, truth, key)
    else:
        rows = _cut_alone(context, source, clips, truth, key, cut)
    return tuple(decode(LayerSensitivity, row) for row in rows)


MOST_MIB = 256
"""Of the files, one a layer, that an export writes for this; beyond, ``edgepv sensitivity`` tells."""


def of_export(context: RunContext, source: Source, clips: Clips) -> tuple[LayerSensitivity, ...]:
    """What INT8 of each layer alone costs, for an export's report; () where it does not apply or costs much.

    The same rows as ``sensitivity``, and the same place in the cache.
    """
    from edgepv.quantize.sensitivity import convolutions

    if not clips.fits:
        return ()
    model = lowered(context, source, clips)
    file = model.base_folder / model.base.path
    layers = len(convolutions(file))
    if not layers or model.base.precision == "int8" or layers * file.stat().st_size > MOST_MIB << 20:
        return ()
    truth, key = _truth(source, clips), {"held out": clips_digest(clips.held_out, ordered=True)}
    rows = _int8_alone(context, model, clips, truth, key)
    return tuple(decode(LayerSensitivity, row) for row in rows)


def _truth(source: Source, clips: Clips) -> list[int] | None:
    """The label numbers of the held-out clips; None where nobody knows them, or of what does not classify."""
    labels = source.spec.labels
    if not task_of(source.spec).classifies or not all_labelled(clips.held_out, labels):
        return None
    return [labels.index(str(c.label)) for c in clips.held_out]


def sparsity(options: Options) -> tuple[LayerSparsity, ...]:
    """Every layer of a model against NVIDIA's 2:4 pattern. Raises UsageError for an ONNX file."""
    from edgepv.quantize.sparsity import check

    checkpoint = load(options).checkpoint
    if checkpoint is None:
        raise UsageError("the 2:4 pattern is checked on torch weights. Give the builder and its weights")
    return check(checkpoint)


def _int8_alone(
    context: RunContext, model: Lowered, clips: Clips, truth: list[int] | None, key: dict[str, Any]
) -> list[Any]:
    from edgepv.quantize.sensitivity import per_layer

    base, folder = model.base, model.base_folder
    if base.precision == "int8":
        raise UsageError(
            f"{model.source.onnx} is quantized already. Give the float model to see what INT8 costs"
        )
    chosen, probed = calibration_set(clips.calibration, base.spec), probed_clips(clips.held_out)

    def make(_: Path) -> Any:
        stepper = Stepper(open_engine(base, folder).infer, base.spec, base.stream)
        feeds = rolled_feeds(stepper, chosen, base.spec)
        probes = probe_feeds(stepper, (model_frames(clips.held_out[i].path, base.spec) for i in probed))
        known = [truth[i] for i in probed] if truth else None
        return encode(per_layer(base, folder, feeds, probes, context.console.track, known))

    key |= {"model": base.sha256, "calibration": chosen.digest, "probed": probed}
    result: list[Any] = context.step("sensitivity", key, ("onnx", "onnxruntime"), make)[1]
    return result


def _cut_alone(
    context: RunContext,
    source: Source,
    clips: Clips,
    truth: list[int] | None,
    key: dict[str, Any],
    cut: float,
) -> list[Any]:
    from edgepv.quantize.sensitivity import per_group

    checkpoint = source.checkpoint
    if checkpoint is None:
        raise UsageError("an ONNX file has no channels to cut here. Give the builder and its weights")

    def make(_: Path) -> Any:
        frames = [model_frames(c.path, source.spec) for c in clips.held_out]
        return encode(per_group(checkpoint, frames, truth, cut, context.console.track))

    key |= {**source_key(source), "cut": cut}
    result: list[Any] = context.step("sensitivity", key, ("torch", "torch-pruning"), make)[1]
    return result
