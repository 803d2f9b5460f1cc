"""The line up to a target's door: load -> prune -> stream -> lower -> the target's builder.

Every step is cached by what went into it. ``pipeline`` packs and judges what comes out; ``search`` runs it
for many candidates.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from edgepv.base.cache import cached, imported, sources
from edgepv.base.console import Console
from edgepv.base.files import digest, sha256
from edgepv.base.machine import versions
from edgepv.base.optional import present
from edgepv.data.calibration import CalibrationSet, calibration_set, grown, rolled_feeds
from edgepv.data.clips import SHOWN_LABELS, Clip, find_clips, survey, unheld_told, unlabelled_told
from edgepv.data.frames import hold_last, model_frames
from edgepv.data.split import split_clips
from edgepv.errors import EdgepvError, UsageError
from edgepv.export.job import Job, Packed
from edgepv.model.checkpoint import build, from_files, load_notes
from edgepv.model.provenance import record
from edgepv.model.spec import at_size, read_spec, with_particles
from edgepv.quantize.alive import refuse_dead_layers
from edgepv.runtimes.engine import open_engine
from edgepv.stream import NotStreamableError, Stepper, Tensors, convert
from edgepv.types import (
    Checkpoint,
    ModelSpec,
    Rewrite,
    StreamProof,
    StreamSpec,
    Target,
    Variant,
    decode,
    encode,
)
from edgepv.zoo import checkpoint as zoo_checkpoint

CALIBRATION_CLIPS = 24
TUNE_EPOCHS = 6
STREAM = ("auto", "window", "off")


@dataclass(frozen=True)
class Options:
    """Everything `edgepv export` was asked for, resolved; the plan that --dry-run prints.

    stream: "auto" turns a clip model into a step where that is exact (or its approximation is known),
    "window" keeps the clip model and lets the host hold its frames, "off" also leaves its graph as it is.
    every: new frames per step. size: height and width of the frames, None for what the model was trained on.
    particles: how many particles the model follows, None for what it was trained with.
    prune: share of channels to cut, one for all layers or one for each stage; importance, scope, multiple:
    how (see edgepv.quantize.prune). low_rank: share of the weights' energy that split layers keep, None for
    whole layers. tune_epochs: of fine-tuning on the training clips; None: 6 after either, if there are such.
    qat: epochs of training under INT8 rounding; ranges: how INT8 ranges are set (see edgepv.quantize.ranges).
    variant: the one variant to make, None for all there are. keep_float: how many of the most sensitive
    layers an INT8 ONNX keeps in float.
    max_drop: points (or dB, of a restorer) that INT8 and pruning together may cost. gate: whether the user
    set it (then too few clips to tell is an error). latency_ms: p99 limit on this machine, None for none.
    min_sqnr: dB that the logits of an INT8 ONNX must reach, with its most sensitive layers in float.
    """

    model: str = "pv-conv-small"
    targets: tuple[str, ...] = ("cpu",)
    out: str = "bundle"
    weights: str | None = None
    spec: str | None = None
    clips: str | None = None
    prune: tuple[float, ...] = ()
    importance: Literal["magnitude", "taylor", "group"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    multiple: int = 8
    low_rank: float | None = None
    tune_epochs: int | None = None
    qat: int = 0
    ranges: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    stream: str = "auto"
    every: int = 1
    size: int | None = None
    particles: int | None = None
    precision: str = "auto"
    variant: str | None = None
    keep_float: int = 0
    max_drop: float = 1.0
    gate: bool = False
    latency_ms: float | None = None
    min_sqnr: float | None = None
    seed: int = 0
    force: bool = False
    trust_pickle: bool = False


@dataclass(frozen=True)
class Source:
    """A model to export: a checkpoint, or an ONNX file (then ``checkpoint`` is None)."""

    spec: ModelSpec
    checkpoint: Checkpoint | None
    onnx: Path | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the weights or of the ONNX file."""
        from edgepv.export.from_onnx import digest_of

        return self.checkpoint.sha256 if self.checkpoint else digest_of(self.onnx or Path())


@dataclass(frozen=True)
class Clips:
    """Clips by use; no group stands on two sides. origin: where they come from. notes: what of the user's
    folder was left out, and which labels have no held-out clips."""

    train: tuple[Clip, ...]
    calibration: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    origin: str
    fits: bool = True
    notes: tuple[str, ...] = ()


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
class Ready(Lowered):
    """A lowered model and what its INT8 ranges are set by. feeds: inputs with rolled states; empty: none.
    grown: states that grow for ever."""

    calibration: CalibrationSet | None
    feeds: tuple[Tensors, ...]
    grown: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One run of the line: its options and its console."""

    options: Options
    console: Console

    def step(
        self, name: str, key: dict[str, Any], tools: tuple[str, ...], make: Callable[[Path], Any]
    ) -> tuple[Path, Any]:
        """(folder, result) of one cached step; equal keys and tool versions are computed once."""
        folder, result, hit = cached(
            {"step": name, **key, "tools": versions(("edgepv", "numpy", *tools))}, make
        )
        self.console.say(f"{name}: {'read from the cache' if hit else 'done'}")
        return folder, result


def load(options: Options) -> Source:
    """The model the user named. Raises UsageError if it is not whole, or its parts do not fit."""
    found = _named(options)
    if options.size is None and options.particles is None:
        return found
    if found.checkpoint is None:
        raise UsageError("--size and --particles: an ONNX file is as it was exported")
    spec = found.spec
    if options.size is not None:
        if spec.task == "restoration":
            raise UsageError(f"--size {options.size} is for square frames; give {spec.name} its own --spec")
        spec = at_size(spec, options.size)
    if options.particles is not None:
        spec = with_particles(spec, options.particles)
    return Source(spec, replace(found.checkpoint, spec=spec))


NO_MODEL = (
    "not a model as edgepv takes it: a built-in name, file.py:builder, package.module:builder or file.onnx"
)
EXPORT_IT = "Give the model that it was made of: an .onnx file, or file.py:builder with --weights"
STATE = "Give the builder that makes the module, and these as its weights: file.py:builder --weights "
OTHERS = {
    ".tflite": EXPORT_IT,
    ".lite": EXPORT_IT,
    ".engine": EXPORT_IT,
    ".plan": EXPORT_IT,
    ".trt": EXPORT_IT,
    ".hef": EXPORT_IT,
    ".rknn": EXPORT_IT,
    ".ort": EXPORT_IT,
    ".mlmodel": EXPORT_IT,
    ".mlpackage": EXPORT_IT,
    ".xml": EXPORT_IT,
    ".bin": EXPORT_IT,
    ".param": EXPORT_IT,
    ".pb": "Convert it: python -m tf2onnx.convert --graphdef FILE --output model.onnx",
    ".h5": "Convert it: tf2onnx.convert.from_keras(model, output_path='model.onnx')",
    ".hdf5": "Convert it: tf2onnx.convert.from_keras(model, output_path='model.onnx')",
    ".keras": "Convert it: model.export('model.onnx', format='onnx')",
    ".torchscript": "A compiled module cannot be taken apart. " + STATE + "FILE",
    ".pt2": "An exported program cannot be taken apart. " + STATE + "FILE",
    ".safetensors": STATE + "FILE",
    ".pt": STATE + "FILE --trust-pickle",
    ".pth": STATE + "FILE --trust-pickle",
    ".ckpt": STATE + "FILE --trust-pickle",
    ".pkl": STATE + "FILE --trust-pickle",
    ".zip": "Unpack it, and give the .onnx file inside",
    ".py": "Name the function in it that makes the module: FILE:build",
}
"""Files that are given as a model and are none that can be taken: by suffix, what to do."""


def _named(options: Options) -> Source:
    name = options.model
    refuse_other(name)
    if name.lower().endswith(".onnx"):
        if not Path(name).exists():
            raise UsageError(f"{name} does not exist. MODEL may be an ONNX file")
        if options.weights:
            raise UsageError(f"{name} holds its weights itself. Leave --weights out")
        return Source(_spec(options, name), None, Path(name))
    if ":" in name:
        if not options.weights:
            raise UsageError(f"{name} needs its weights: --weights FILE.safetensors")
        spec = _spec(options, name)
        return Source(
            spec,
            from_files(name, Path(options.weights), spec, trust_pickle=options.trust_pickle),
        )
    try:
        checkpoint = zoo_checkpoint(name)
    except UsageError:
        if Path(name).exists():
            raise UsageError(f"{name} is {NO_MODEL}") from None
        raise
    if options.weights or options.spec:
        raise UsageError(
            f"'{name}' is a built-in model with weights of its own; --weights and --spec go with "
            "file.py:builder or package.module:builder"
        )
    return Source(checkpoint.spec, checkpoint)


def refuse_other(name: str) -> None:
    """Raise UsageError for a file or a folder of another kind than a MODEL can be."""
    path = Path(name)
    cure = OTHERS.get(path.suffix.lower())
    if cure is None and (path / "saved_model.pb").exists():
        cure = "Convert it: python -m tf2onnx.convert --saved-model FILE --output model.onnx"
    if cure is not None:
        raise UsageError(f"{name} is {NO_MODEL}. {cure.replace('FILE', name)}")


def _spec(options: Options, name: str) -> ModelSpec:
    if not options.spec:
        raise UsageError(f"{name} needs its description: --spec FILE.toml (see docs/spec.md)")
    return read_spec(Path(options.spec))


def gather(options: Options, spec: ModelSpec) -> Clips:
    """Calibration, training and held-out clips: the user's, else those shipped with edgepv.

    A classifier whose labels the shipped clips do not carry gets them as plain video: enough to compare
    numbers, not to set INT8 ranges or to judge accuracy.
    """
    if options.clips:
        there, origin = survey(Path(options.clips), spec.labels), options.clips
        calibration, held_out = split_clips(list(there.clips), calibration=CALIBRATION_CLIPS)
        train = tuple(c for c in there.clips if c.split == "train" and c.label)
        _refuse_shared((*calibration, *train), held_out)
        left_out = [f"left out of {origin}: {there.left_out}"] if there.left_out else []
        notes = (*left_out, *_unjudged(there.clips, held_out, spec))
        return Clips(train, tuple(calibration), tuple(held_out), origin, notes=notes)
    found = _shipped(spec)
    fits = spec.task != "classification" or {c.label for c in found} <= set(spec.labels)
    if not fits:
        found = [replace(c, label=None) for c in found]
    calibration, held_out = split_clips(found, calibration=CALIBRATION_CLIPS)
    origin = "shipped with edgepv" if fits else "shipped with edgepv, as plain video"
    if not fits and options.precision == "int8":
        raise UsageError(
            f"INT8 for {spec.name} needs clips like those its camera will see: --clips DIR. Ranges set "
            "on other video would silently cost accuracy"
        )
    return Clips((), tuple(calibration), tuple(held_out), origin, fits)


def _unjudged(clips: Sequence[Clip], held_out: Sequence[Clip], spec: ModelSpec) -> Iterator[str]:
    """What labels do not say of these clips: which have none, and which labels nobody can judge."""
    if not spec.labels:
        return
    if bare := unlabelled_told(clips):
        yield f"{bare}: they set ranges, and neither train nor judge"
    if not any(c.label for c in held_out):
        shown = ", ".join(spec.labels[:SHOWN_LABELS])
        yield f"accuracy is not judged: no held-out clip lies in a folder called like a label ({shown})"
    if told := unheld_told(held_out, spec.labels):
        yield f"the accuracy gate is not applied: {told}. Add clips of each to an evaluation/ folder"


def _refuse_shared(seen: Sequence[Clip], held_out: Sequence[Clip]) -> None:
    """Raise UsageError if a clip that calibrates or trains is judged too, under whatever name."""
    known = {sha256(c.path): c.path for c in seen}
    for clip in held_out:
        twin = known.get(sha256(clip.path))
        if twin:
            raise UsageError(
                f"{clip.path} is the same video as {twin}, which calibrates or trains, so its "
                "score would flatter. Take one of them out"
            )


def _shipped(spec: ModelSpec) -> list[Clip]:
    """Clips that came with the package: of fights; film for a restorer; for a tracker film to calibrate on,
    and clips with true points."""
    import edgepv.zoo

    here = Path(edgepv.zoo.__file__).parent
    if spec.task == "classification":
        return find_clips(here / "clips", edgepv.zoo.TASKS["fight"])
    film = find_clips(here / "film", ())
    if spec.task == "restoration":
        return film
    return [c for c in film if c.split == "calibration"] + find_clips(here / "points", ())


def lowered(line: Line, source: Source, clips: Clips) -> Lowered:
    """Compress, stream and lower a model that is what it seems, as the options say."""
    source, said = probed(line, source)
    checkpoint = compressed(line, source, clips)
    checkpoint, flat, notes = streamed(line, checkpoint, clips)
    base, folder = lower(line, source, checkpoint)
    read = [s for s in base.steps if s.name == "read"]
    notes += tuple(f"{source.onnx}: {what}" for step in read for what in step.options["changed"])
    return Lowered(source, checkpoint, base, folder, flat, (*load_notes(source.checkpoint), *said, *notes))


def probed(line: Line, source: Source) -> tuple[Source, tuple[str, ...]]:
    """The model with what was found of its answers, and notes; see ``edgepv.export.probes``.

    Raises UsageError for a model that no graph can be.
    """
    from edgepv.export import probes

    def make(_: Path) -> Any:
        if source.checkpoint:
            return encode(probes.probe(build(source.checkpoint), source.spec))
        base, folder = lower(line, source, None)
        engine = open_engine(base, folder)
        try:
            return encode(probes.of_onnx(folder / base.path, base, engine.infer))
        finally:
            engine.close()

    found = decode(probes.Found, line.step("probe", source_key(source), ("torch", "onnxruntime"), make)[1])
    if found.scores == source.spec.scores:
        return source, ()
    spec = replace(source.spec, scores=found.scores)
    told = replace(source, spec=spec, checkpoint=source.checkpoint and replace(source.checkpoint, spec=spec))
    note = f"the model answers probabilities, {found.why}: they are its scores, without another softmax"
    line.console.say(note)
    return told, (note,)


def ready(line: Line, model: Lowered, clips: Clips) -> Ready:
    """The same model with calibration inputs, where INT8 may be made; without, where a layer never fires."""
    calibration, feeds = None, []
    if model.base.precision == "int8":
        given = (line.options.keep_float, line.options.min_sqnr, line.options.ranges != "minmax")
        if any(given):
            raise UsageError(
                f"{model.source.onnx} is quantized already: --keep-float, --min-sqnr and --ranges have "
                "nothing to set. Leave them out, or give the float model"
            )
        if line.options.precision not in ("auto", "int8"):
            raise UsageError(
                f"{model.source.onnx} is quantized already, so there is no {line.options.precision} of it. "
                "Give the float model"
            )
        return Ready(**vars(model), calibration=None, feeds=(), grown=outgrown(line, model, clips))
    if model.source.onnx and (fused := _fused(model, line.options)):
        model = replace(model, notes=(*model.notes, fused))
        return Ready(**vars(model), calibration=None, feeds=(), grown=outgrown(line, model, clips))
    if clips.fits and line.options.precision in ("auto", "int8"):
        spec = model.base.spec
        calibration = calibration_set(clips.calibration, spec)
        engine = open_engine(model.base, model.base_folder)
        feeds = rolled_feeds(Stepper(engine.infer, spec, model.base.stream), calibration, spec)
        engine.close()
        try:
            refuse_dead_layers(model.base, model.base_folder, feeds)
        except UsageError as e:
            if line.options.precision == "int8":
                raise
            feeds, model = [], replace(model, notes=(*model.notes, f"no INT8: {e}"))
    endless = outgrown(line, model, clips)
    if endless:
        note = f"state '{endless[0]}' grows for ever: what works with it stays in float, and is run for long"
        model = replace(model, notes=(*model.notes, note))
    return Ready(**vars(model), calibration=calibration, feeds=tuple(feeds), grown=endless)


def outgrown(line: Line, model: Lowered, clips: Clips) -> tuple[str, ...]:
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
    return tuple(line.step("growth", key, ("onnxruntime",), make)[1])


def _fused(model: Lowered, options: Options) -> str:
    """Why no INT8 is made of an ONNX file that ONNX Runtime has optimised; "" for any other.

    Raises UsageError if INT8 was asked for.
    """
    from edgepv.export.from_onnx import fused

    found = fused(model.base_folder / model.base.path)
    why = (
        f"{model.source.onnx} was optimised by ONNX Runtime and holds operators of its own "
        f"({', '.join(found)}), which no quantizer knows. Give the file as it was exported"
    )
    if found and options.precision == "int8":
        raise UsageError(why)
    return f"no INT8: {why}" if found else ""


def compressed(line: Line, source: Source, clips: Clips) -> Checkpoint | None:
    """The checkpoint pruned, split into low-rank layers and fine-tuned, as asked; else the same one."""
    options, checkpoint = line.options, source.checkpoint
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
        **_checkpoint_key(checkpoint),
        "prune": [options.prune, options.importance, options.scope, options.multiple, options.seed],
        "low rank": options.low_rank,
        "epochs": [_epochs(options, clips), options.qat],
        "clips": digest([(sha256(c.path), c.label) for c in clips.train]),
    }
    folder, result = line.step(
        "compress", key, ("torch", "torch-pruning"), lambda out: _compress(line, checkpoint, clips, out)
    )
    found = decode(Checkpoint, result)
    return replace(found, weights=str(folder / found.weights))


def _epochs(options: Options, clips: Clips) -> int:
    if options.tune_epochs is not None:
        return options.tune_epochs
    changed = any(options.prune) or options.low_rank is not None
    return TUNE_EPOCHS if clips.train and changed else 0


def _compress(line: Line, checkpoint: Checkpoint, clips: Clips, folder: Path) -> Any:
    """Cut, split, tune and train for INT8; writes weights into ``folder``, returns the checkpoint as data."""
    from edgepv.quantize import finetune, low_rank, prune, qat

    options, spec = line.options, checkpoint.spec
    epochs = _epochs(options, clips)
    frames, truth = [], []
    if epochs or options.qat or options.importance != "magnitude":
        shown = line.console.track(clips.train, "decoding training clips")
        frames = [model_frames(c.path, spec) for c in shown]
        truth = [spec.labels.index(str(c.label)) for c in clips.train]
    small = checkpoint
    if any(options.prune):
        ratio = options.prune if len(options.prune) > 1 else options.prune[0]
        cut = prune.Step(ratio, options.importance, options.scope, options.multiple, options.seed)
        line.console.say(f"pruning {cut.shares} of the channels")
        small = cut(small, folder / "cut.safetensors", frames, truth)
    if options.low_rank is not None:
        small = low_rank.Step(options.low_rank)(small, folder / "split.safetensors")
    taught = (
        (epochs, finetune.Step(epochs, seed=options.seed), "tuned", "fine-tuning"),
        (options.qat, qat.Step(options.qat, seed=options.seed), "qat", "training for INT8"),
    )
    for wanted, step, name, what in taught:
        if wanted:
            line.console.say(f"{what} on {len(frames)} clips, {wanted} epochs")
            show = functools.partial(line.console.track, what=what)
            small = step(small, checkpoint, frames, truth, folder / f"{name}.safetensors", progress=show)
    return encode(replace(small, weights=Path(small.weights).name))


def streamed(
    line: Line, checkpoint: Checkpoint | None, clips: Clips
) -> tuple[Checkpoint | None, Checkpoint | None, tuple[str, ...]]:
    """(the checkpoint to convert, its flat twin, notes): the stream tiers.

    A clip model becomes a step where its operators allow it, proven on held-out video against the clip
    model. Otherwise it stays a window, and a note names the operator that forced it and what it costs.
    """
    options = line.options
    if checkpoint is None or checkpoint.spec.input.layout != "NCTHW" or options.stream == "off":
        return checkpoint, None, ()
    spec = checkpoint.spec
    key = _checkpoint_key(checkpoint)
    flat = replace(checkpoint, rewrite=Rewrite("flat", spec.input))

    def make(folder: Path) -> Any:
        from edgepv.stream.verify import prove

        line.console.say("rewriting the clip model as a step")
        module = build(checkpoint)
        model = convert(module, spec, every=options.every)
        held = [_first_frames(c.path, spec) for c in clips.held_out[:2]]
        proof = prove(module, model, held)
        return {"spec": encode(model.spec), "stream": encode(replace(model.stream, proof=proof))}

    if options.stream == "auto":
        try:
            shown = {"clips": [sha256(c.path) for c in clips.held_out[:2]], "proofs": 3}
            _, made = line.step("stream", {**key, "every": options.every, **shown}, ("torch",), make)
        except NotStreamableError as e:
            cost = f"a window: all {spec.frames} frames are computed again for every answer"
            return checkpoint, flat, (f"{e}. It stays {cost}",)
        stream = decode(StreamSpec, made["stream"])
        done = record(
            "stream",
            {"every": options.every, **_kind(stream)},
            {},
            {},
            ("torch",),
        )
        step = replace(
            checkpoint,
            spec=decode(ModelSpec, made["spec"]),
            rewrite=Rewrite("stream", spec.input, options.every),
        )
        return replace(step, steps=(*checkpoint.steps, done)), None, ()
    return checkpoint, flat, ()


def _kind(stream: StreamSpec) -> dict[str, Any]:
    kind = {"exactness": stream.exactness, "delay": stream.delay, "receptive_field": stream.receptive_field}
    return kind | {"proof": encode(stream.proof)}


def _first_frames(path: Path, spec: ModelSpec) -> np.ndarray:
    """The first clip of a video, (C, T, H, W)."""
    return hold_last(model_frames(path, spec), spec.frames)[: spec.frames].transpose(1, 0, 2, 3)


def lower(line: Line, source: Source, checkpoint: Checkpoint | None) -> tuple[Variant, Path]:
    """(float ONNX variant, folder it lies in)."""
    from edgepv.export import from_onnx, to_onnx

    if checkpoint is None:

        def read(folder: Path) -> Any:
            line.console.say("reading the ONNX file")
            made, changed = from_onnx.read_onnx(source.onnx or Path(), source.spec, folder / "model.onnx")
            return {"variant": encode(made), "changed": changed}

        folder, result = line.step("read", source_key(source), ("onnx", "onnx-ir", "onnxruntime"), read)
        base = decode(Variant, result["variant"])
        changed = {"changed": list(result["changed"])}
        tools = ("onnx", "onnx-ir", "onnxruntime")
        step = record("read", changed, {"file": source.sha256}, {base.path: base.sha256}, tools)
        return replace(base, steps=(step,)), folder

    def make(folder: Path) -> Any:
        line.console.say("lowering to ONNX")
        return encode(to_onnx.lower(build(checkpoint), checkpoint.spec, folder / "model.onnx"))

    key = _checkpoint_key(checkpoint)
    folder, result = line.step("lower", key, ("torch", "onnx", "onnxscript"), make)
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
    found = next((s.options.get("proof") for s in checkpoint.steps if s.name == "stream"), None)
    if base.stream is None or found is None:
        return base
    return replace(base, stream=replace(base.stream, proof=decode(StreamProof, found)))


def source_key(source: Source) -> dict[str, Any]:
    """What a model given by a user depends on, for the cache."""
    if source.checkpoint is None:
        return {"onnx": source.sha256, "spec": digest(source.spec)}
    return _checkpoint_key(source.checkpoint)


def _checkpoint_key(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a module built from a checkpoint depends on, for the cache."""
    return {
        "weights": checkpoint.sha256,
        "builder": _builder_digest(checkpoint.builder),
        "spec": digest(checkpoint.spec),
        "rewrite": digest(checkpoint.rewrite) if checkpoint.rewrite else None,
    }


def _builder_digest(builder: str) -> str:
    """The builder's name and the text behind it, for an edited builder is another model.

    That is a user's file with what it imports from beside it, or the whole of a package.
    """
    place = builder.rpartition(":")[0]
    if place.endswith(".py"):
        return f"{builder}@{digest(imported(Path(place)))}"
    top = place.partition(".")[0]
    found = importlib.util.find_spec(top) if present(top) else None
    folders = (found.submodule_search_locations if found else None) or ()
    if not folders and found and found.origin:
        return f"{builder}@{digest(imported(Path(found.origin)))}"
    return f"{builder}@{digest([sources(Path(folder)) for folder in folders])}"


def run_builder(line: Line, model: Ready, target: Target, base: Variant, models: Path) -> Packed:
    """Call the target's builder with the cache and the quantization room at hand."""

    def work(
        name: str,
        options: dict[str, Any],
        source: Variant,
        tools: tuple[str, ...],
        make: Callable[[Path], Variant],
    ) -> Variant:
        checkpoint = model.checkpoint
        key = {
            "target": target.name,
            "options": options,
            "source": digest(source),
            "weights": checkpoint.sha256 if checkpoint else None,
            "rewrite": digest(checkpoint.rewrite) if checkpoint and checkpoint.rewrite else None,
            "feeds": model.calibration.digest if model.calibration else None,
        }
        folder, result = line.step(name, key, tools, lambda tmp: encode(make(tmp)))
        made = decode(Variant, result)
        for path in folder.glob(f"{Path(made.path).stem}.*"):
            shutil.copyfile(path, models / path.name)
        step = record(name, options, {source.path: source.sha256}, {made.path: made.sha256}, tools)
        return replace(made, steps=(*source.steps, step))

    def compress(step: str, options: dict[str, Any], source: Variant, file: str) -> Variant:
        module, _, name = step.partition(":")
        call = getattr(importlib.import_module(module), name)(**options)
        calibration = model.calibration
        assert calibration
        tools = ("onnxruntime", "openvino", "nncf", "ai-edge-quantizer", "ai-edge-litert")
        return work(
            f"int8 {Path(file).stem}",
            options,
            source,
            tools,
            lambda tmp: call(source, models, model.feeds, calibration.digest, tmp / file),
        )

    module, _, name = target.builder.partition(":")
    wanted = line.options.precision
    job = Job(
        base=base,
        flat=_flat_base(line, model, models),
        folder=models,
        checkpoint=model.checkpoint,
        flat_checkpoint=model.flat,
        feeds=model.feeds,
        calibration_digest=model.calibration.digest if model.calibration else "",
        precisions=target.precisions if wanted == "auto" else (wanted,),
        work=work,
        compress=compress,
        say=line.console.say,
        min_sqnr_db=line.options.min_sqnr,
        keep_float=line.options.keep_float,
        ranges=line.options.ranges,
        only=line.options.variant,
        grown=model.grown,
    )
    packed: Packed = getattr(importlib.import_module(module), name)(job)
    if packed.variants:
        return replace(packed, failed={**packed.failed, **{n: str(e) for n, e in job.failed.items()}})
    if job.failed:
        nothing_made(target.name, job.failed)
    unmade = f"{wanted} is not possible on this machine"
    if job.only:
        unmade = f"there is no variant '{job.only}' of this model; export without --variant lists all"
    why = next(iter(packed.failed.values()), unmade)
    raise UsageError(f"{target.name}: nothing could be made. {why}")


def nothing_made(target: str, failed: Mapping[str, EdgepvError]) -> NoReturn:
    """Raise the first of the reasons, as an error of its kind, with the names of all that failed."""
    first = next(iter(failed.values()))
    raise type(first)(f"{target}: nothing could be made ({', '.join(failed)}). {first}") from first


def _flat_base(line: Line, model: Ready, models: Path) -> Variant | None:
    """The flat form of a clip model, lowered beside the other; None for a step, and where it has none."""
    if model.flat is None:
        return None
    try:
        flat, folder = lower(line, model.source, model.flat)
    except NotStreamableError as e:
        line.console.say(f"no flat form: {e.why}")
        return None
    shutil.copyfile(folder / flat.path, models / "model-r4.onnx")
    return replace(flat, path="model-r4.onnx")
