"""A clip model is made to step, and a module is written as float ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.files import sha256
from edgepv.data.frames import hold_last, model_frames
from edgepv.model.checkpoint import build
from edgepv.model.provenance import record
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.source import Clips, Source, checkpoint_key, source_key
from edgepv.types import Checkpoint, ModelSpec, Rewrite, StreamProof, StreamSpec, Variant, decode, encode


def streamed(
    context: RunContext, checkpoint: Checkpoint | None, clips: Clips
) -> tuple[Checkpoint | None, Checkpoint | None, tuple[str, ...]]:
    """(the checkpoint to convert, its flat twin, notes): the stream tiers.

    A clip model becomes a step where its operators allow it, proven on held-out video against the clip
    model. Otherwise it stays a window, and a note names the operator that forced it and what it costs.
    """
    from edgepv.stream import NotStreamableError
    from edgepv.stream.account import too_far

    options = context.options
    if checkpoint is None or checkpoint.spec.input.layout != "NCTHW" or options.stream == "off":
        return checkpoint, None, ()
    spec = checkpoint.spec
    flat = replace(checkpoint, rewrite=Rewrite("flat", spec.input))
    if options.stream != "auto":
        return checkpoint, flat, ()
    try:
        step, stream = _as_step(context, checkpoint, clips)
    except NotStreamableError as e:
        cost = f"a window: all {spec.frames} frames are computed again for every answer"
        return checkpoint, flat, (f"{e}. It stays {cost}",)
    done = record("stream", {"every": options.every, **_kind(stream)}, {}, {}, ("torch",))
    tuned = any(s.name == "stream_tune" for s in checkpoint.steps)
    warning = None if tuned else too_far(spec, stream)
    if warning:
        context.console.say(warning)
    return replace(step, steps=(*checkpoint.steps, done)), None, (warning,) if warning else ()


def _as_step(context: RunContext, checkpoint: Checkpoint, clips: Clips) -> tuple[Checkpoint, StreamSpec]:
    """(the checkpoint made to step, how its states are carried and the proof). Raises NotStreamableError."""
    from edgepv.stream import convert

    spec, every, shown = checkpoint.spec, context.options.every, clips.held_out[:2]
    rewrite = Rewrite("stream", spec.input, every)

    def make(folder: Path) -> Any:
        from edgepv.stream.verify import prove

        context.console.say("rewriting the clip model as a step")
        module = build(checkpoint)
        model = convert(module, spec, every=every)
        proof = prove(module, model, [_first_frames(c.path, spec) for c in shown])
        context.keep(replace(checkpoint, spec=model.spec, rewrite=rewrite), model)
        return {"spec": encode(model.spec), "stream": encode(replace(model.stream, proof=proof))}

    files = {"clips": [sha256(c.path) for c in shown], "proofs": 3}
    key = {**checkpoint_key(checkpoint), "every": every, **files}
    _, found = context.step("stream", key, ("torch",), make)
    step = replace(checkpoint, spec=decode(ModelSpec, found["spec"]), rewrite=rewrite)
    return step, decode(StreamSpec, found["stream"])


def _kind(stream: StreamSpec) -> dict[str, Any]:
    kind = {"exactness": stream.exactness, "delay": stream.delay, "receptive_field": stream.receptive_field}
    return kind | {"proof": encode(stream.proof)}


def _first_frames(path: Path, spec: ModelSpec) -> np.ndarray:
    """The first clip of a video, (C, T, H, W)."""
    return hold_last(model_frames(path, spec), spec.frames)[: spec.frames].transpose(1, 0, 2, 3)


def lower(context: RunContext, source: Source, checkpoint: Checkpoint | None) -> tuple[Variant, Path]:
    """(float ONNX variant, folder it lies in)."""
    from edgepv.export import from_onnx, to_onnx

    if checkpoint is None:

        def read(folder: Path) -> Any:
            context.console.say("reading the ONNX file")
            variant, changed = from_onnx.read_onnx(source.onnx or Path(), source.spec, folder / "model.onnx")
            return {"variant": encode(variant), "changed": changed}

        folder, result = context.step("read", source_key(source), ("onnx", "onnx-ir", "onnxruntime"), read)
        base = decode(Variant, result["variant"])
        changed = {"changed": list(result["changed"])}
        tools = ("onnx", "onnx-ir", "onnxruntime")
        step = record("read", changed, {"file": source.sha256}, {base.path: base.sha256}, tools)
        return replace(base, steps=(step,)), folder

    def make(folder: Path) -> Any:
        context.console.say("lowering to ONNX")
        module = context.module(checkpoint) if checkpoint.rewrite else build(checkpoint)
        return encode(to_onnx.lower(module, checkpoint.spec, folder / "model.onnx"))

    key = checkpoint_key(checkpoint)
    folder, result = context.step("lower", key, ("torch", "onnx", "onnxscript"), make)
    base = _with_proof(decode(Variant, result), checkpoint)
    step = record(
        "lower",
        {"opset": to_onnx.OPSET},
        {"weights": checkpoint.sha256},
        {base.path: base.sha256},
        ("torch", "onnx", "onnxscript"),
    )
    return replace(base, steps=(*checkpoint.steps, step)), folder


def _with_proof(base: Variant, checkpoint: Checkpoint) -> Variant:
    """``base`` with what was found when its checkpoint was made to step."""
    proof = next((s.options.get("proof") for s in checkpoint.steps if s.name == "stream"), None)
    if base.stream is None or proof is None:
        return base
    return replace(base, stream=replace(base.stream, proof=decode(StreamProof, proof)))
