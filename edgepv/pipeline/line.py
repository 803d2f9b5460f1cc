"""The line up to a target's door: load -> prune -> stream -> lower -> the target's builder.

Every step is cached by what went into it. ``pipeline`` packs and judges what comes out; ``search`` runs it
for many candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepv.base.files import digest, sha256
from edgepv.data.calibration import CalibrationSet, calibration_set, grown, rolled_feeds
from edgepv.data.frames import model_frames
from edgepv.errors import UsageError
from edgepv.model.checkpoint import build, load_notes
from edgepv.pipeline.compress import compressed
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.lower import lower, streamed
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Clips, Source, source_key
from edgepv.quantize.dead_channels import refuse_dead_layers
from edgepv.quantize.step import listed, variant_options
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Stepper, Tensors
from edgepv.types import (
    Checkpoint,
    Variant,
    decode,
    encode,
)


@dataclass(frozen=True)
class Lowered:
    """A model before any target's door. base: its float ONNX, in ``base_folder``.

    checkpoint: after pruning and streaming; None if the user gave an ONNX file. flat: a clip model once more
    without Conv3D, for the engines that want it so; None for a step. notes: what a person must know.
    """

    source: Source
    checkpoint: Checkpoint | None
    base: Variant
    base_folder: Path
    flat: Checkpoint | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Ready:
    """A lowered model and what its INT8 ranges are set by.

    feeds: inputs with rolled states; empty: none. grown: states that grow for ever.
    """

    lowered: Lowered
    calibration: CalibrationSet | None
    feeds: tuple[Tensors, ...]
    grown: tuple[str, ...]


def lowered(context: RunContext, source: Source, clips: Clips) -> Lowered:
    """Compress, stream and lower a model that is what it seems, as the options say."""
    source, said = probed(context, source)
    checkpoint, left_out = compressed(context, source, clips)
    checkpoint, flat, notes = streamed(context, checkpoint, clips)
    base, folder = lower(context, source, checkpoint)
    read = [s for s in base.steps if s.name == "read"]
    notes += tuple(f"{source.onnx}: {what}" for step in read for what in step.options["changed"])
    return Lowered(
        source, checkpoint, base, folder, flat, (*load_notes(source.checkpoint), *said, *left_out, *notes)
    )


def probed(context: RunContext, source: Source) -> tuple[Source, tuple[str, ...]]:
    """The model with what was found of its answers, and notes; see ``edgepv.export.probes``.

    Raises UsageError for a model that no graph can be.
    """
    from edgepv.export import probes

    def make(_: Path) -> Any:
        if source.checkpoint:
            return encode(probes.probe(build(source.checkpoint), source.spec))
        base, folder = lower(context, source, None)
        engine = open_engine(base, folder)
        try:
            return encode(probes.of_onnx(folder / base.path, base, engine.infer))
        finally:
            engine.close()

    result = decode(
        probes.ProbeResult, context.step("probe", source_key(source), ("torch", "onnxruntime"), make)[1]
    )
    if result.scores == source.spec.scores:
        return source, ()
    spec = replace(source.spec, scores=result.scores)
    told = replace(source, spec=spec, checkpoint=source.checkpoint and replace(source.checkpoint, spec=spec))
    note = f"the model answers probabilities, {result.why}: they are its scores, without another softmax"
    context.console.say(note)
    return told, (note,)


def ready(context: RunContext, model: Lowered, clips: Clips) -> Ready:
    """The same model with calibration inputs, where INT8 may be made; without, where a layer never fires."""
    calibration, feeds = None, []
    if model.base.precision == "int8":
        idle = variant_options()
        if any(o.key in context.options.steps for o in idle):
            flags = listed([o.flag for o in idle])
            raise UsageError(
                f"{model.source.onnx} is quantized already: {flags} have "
                "nothing to set. Leave them out, or give the float model"
            )
        if context.options.precision not in ("auto", "int8"):
            raise UsageError(
                f"{model.source.onnx} is quantized already, so there is no "
                f"{context.options.precision} of it. Give the float model"
            )
        return Ready(model, calibration=None, feeds=(), grown=outgrown(context, model, clips))
    if model.source.onnx and (fused := _fused(model, context.options)):
        model = replace(model, notes=(*model.notes, fused))
        return Ready(model, calibration=None, feeds=(), grown=outgrown(context, model, clips))
    if clips.fits and context.options.precision in ("auto", "int8"):
        spec = model.base.spec
        calibration = calibration_set(clips.calibration, spec)
        engine = open_engine(model.base, model.base_folder)
        feeds = rolled_feeds(Stepper(engine.infer, spec, model.base.stream), calibration, spec)
        engine.close()
        try:
            refuse_dead_layers(model.base, model.base_folder, feeds)
        except UsageError as e:
            if context.options.precision == "int8":
                raise
            feeds, model = [], replace(model, notes=(*model.notes, f"no INT8: {e}"))
    endless = outgrown(context, model, clips)
    if endless:
        note = f"state '{endless[0]}' grows for ever: what works with it stays in float, and is run for long"
        model = replace(model, notes=(*model.notes, note))
    return Ready(model, calibration=calibration, feeds=tuple(feeds), grown=endless)


def outgrown(context: RunContext, model: Lowered, clips: Clips) -> tuple[str, ...]:
    """States that grow for ever, of a model that brought its own step: what was converted only stores."""
    base = model.base
    own = base.stream is not None and (model.checkpoint is None or model.checkpoint.rewrite is None)
    names = [s.name for s in base.stream.states if s.update == "replace"] if own and base.stream else []
    if not names:
        return ()
    clip = (*clips.calibration, *clips.held_out)[0]

    def make(_: Path) -> Any:
        engine = open_engine(base, model.base_folder)
        try:
            stepper = Stepper(engine.infer, base.spec, base.stream)
            return list(grown(stepper, model_frames(clip.path, base.spec), names))
        finally:
            engine.close()

    key = {"model": base.sha256, "spec": digest(base.spec), "clip": sha256(clip.path)}
    return tuple(context.step("growth", key, ("onnxruntime",), make)[1])


def _fused(model: Lowered, options: Options) -> str:
    """Why no INT8 is made of an ONNX file that ONNX Runtime has optimised; "" for any other.

    Raises UsageError if INT8 was asked for.
    """
    from edgepv.export.from_onnx import fused

    operators = fused(model.base_folder / model.base.path)
    why = (
        f"{model.source.onnx} was optimised by ONNX Runtime and holds operators of its own "
        f"({', '.join(operators)}), which no quantizer knows. Give the file as it was exported"
    )
    if operators and options.precision == "int8":
        raise UsageError(why)
    return f"no INT8: {why}" if operators else ""
