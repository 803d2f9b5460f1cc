"""The line: load -> prune -> lower -> quantize -> convert -> examine -> bundle, one straight path."""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepv import bundle, judge, report
from edgepv.bundle import Content, Measured
from edgepv.cache import cached
from edgepv.calibration import PREPROCESSING, CalibrationSet, calibration_set, rolled_feeds
from edgepv.checkpoint import at_size, build, from_files, read_spec, record, versions
from edgepv.clips import Clip, find_clips, hold_last, model_frames, read_video, resample, split_clips
from edgepv.console import Console
from edgepv.errors import InconclusiveError, TargetUnavailableError, UsageError, unknown
from edgepv.export.job import Job, Packed
from edgepv.files import digest, sha256, whole_file, whole_folder, write_json, write_text
from edgepv.measure import clip_logits, device_facts, latencies, peak_rss_mib
from edgepv.optional import need, present
from edgepv.runtimes.eager import EagerEngine
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.stream import NotStreamableError, Stepper, Tensors, convert, copied, roll
from edgepv.targets import target as find_target
from edgepv.types import (
    Checkpoint,
    LayerSensitivity,
    Measurement,
    ModelSpec,
    Report,
    Rewrite,
    StepRecord,
    StreamSpec,
    Target,
    Variant,
    decode,
    encode,
)
from edgepv.zoo import checkpoint as zoo_checkpoint

ORIGINAL = "torch-fp32"
POSTPROCESSING = "softmax of logits; a clip's answer is the mean of logits over valid frames"
CALIBRATION_CLIPS = 24
THUMBNAIL = 112
STRAY = "kept out of the bundle"
STREAM = ("auto", "window", "off")
CHANGES = {"prune": ("pruned", "pruned and fine-tuned"), "stream": ("stream", "made to step")}
"""Step -> (what it adds to a row's name, what the report says of it)."""


@dataclass(frozen=True)
class Options:
    """Everything `edgepv export` was asked for, resolved; the plan that --dry-run prints.

    stream: "auto" turns a clip model into a step where that is exact (or its approximation is known),
    "window" keeps the clip model and lets the host hold its frames, "off" also leaves its graph as it is.
    every: new frames per step. size: height and width of the frames, None for what the model was trained on.
    max_drop: points of top-1 that INT8 and pruning together may cost. gate: whether the user set it
    (then too few clips to tell is an error). latency_ms: p99 limit on this machine, None for none.
    min_sqnr: dB that the logits of an INT8 ONNX must reach, with its most sensitive layers in float.
    """

    model: str = "pv-conv-small"
    targets: tuple[str, ...] = ("cpu",)
    out: str = "bundle"
    weights: str | None = None
    spec: str | None = None
    clips: str | None = None
    prune: float = 0.0
    stream: str = "auto"
    every: int = 1
    size: int | None = None
    precision: str = "auto"
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

    @property
    def sha256(self) -> str:
        """Digest of the weights or of the ONNX file."""
        return self.checkpoint.sha256 if self.checkpoint else sha256(self.onnx or Path())


@dataclass(frozen=True)
class Clips:
    """Clips by use; no group stands on two sides. ``origin`` says where they come from."""

    train: tuple[Clip, ...]
    calibration: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    origin: str
    fits: bool = True


@dataclass(frozen=True)
class Exported:
    """One finished bundle."""

    target: str
    folder: Path
    digest: str
    chosen: Measurement
    report: Report
    notes: tuple[str, ...] = ()


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


def export(options: Options, console: Console) -> list[Exported]:
    """Make one bundle per target below ``options.out``.

    Each is built under a temporary name and renamed into place when it is complete. Raises
    EdgepvError of the kind that names what went wrong; then nothing new is left behind.
    """
    targets = [find_target(name) for name in options.targets]
    check_options(options, targets)
    source = load(options)
    clips = gather(options, source.spec)
    console.say(f"model {source.spec.name} ({source.sha256[:12]}), clips: {clips.origin}")
    line = Line(options, console)
    subject = prepare(line, source, clips)
    made = []
    with contextlib.ExitStack() as stack:  # every bundle and zip appears when all are whole, or none does
        for target in targets:
            folder = bundle_folder(options, target.name)
            archive = stack.enter_context(whole_file(_zip_of(folder)))
            tmp = stack.enter_context(whole_folder(folder, replace=options.force))
            made.append(replace(pack(line, subject, target, tmp), folder=folder))
            bundle.zip_bundle(tmp, archive)
            console.say(f"{target.name}: {made[-1].chosen.variant} ({made[-1].digest[:12]})")
    return made


def _zip_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".zip")


def exit_code(options: Options, made: Sequence[Exported]) -> int:
    """6 if the user asked for an accuracy gate and a chosen variant has too few clips to tell; else 0."""
    drops = [m.chosen.drop for m in made]
    undecided = any(d is None or d.verdict == "inconclusive" for d in drops)
    return InconclusiveError.exit_code if options.gate and undecided else 0


def plan(options: Options) -> dict[str, Any]:
    """What ``export`` would do, checked as far as that is possible without doing it."""
    targets = [find_target(name) for name in options.targets]
    check_options(options, targets)
    source = load(options)
    clips = gather(options, source.spec)
    wanted = {t.name: t.precisions if options.precision == "auto" else (options.precision,) for t in targets}
    return {
        "model": source.spec.name,
        "weights": source.sha256,
        "clips": f"{clips.origin}: {len(clips.train)} train, {len(clips.calibration)} calibration, "
        f"{len(clips.held_out)} held out",
        "prune": f"{options.prune:.0%}, then fine-tune" if options.prune else "off",
        "stream": _stream_plan(options, source.spec),
        "precisions": "; ".join(f"{name}: {', '.join(p)}" for name, p in wanted.items()),
        "gate": f"at most {options.max_drop:g} points; too few clips to tell is "
        + ("exit code 6" if options.gate else "reported only"),
        "latency": f"p99 at most {options.latency_ms:g} ms" if options.latency_ms else "no limit",
        "seed": options.seed,
        "bundles": ", ".join(str(bundle_folder(options, t.name)) for t in targets),
    }


def _stream_plan(options: Options, spec: ModelSpec) -> str:
    if spec.input.layout != "NCTHW":
        return "not needed: the model eats single frames"
    if options.stream == "auto":
        return f"a step over {options.every} new frames if every operator allows it, else a window"
    return {"window": "off: the host keeps a window", "off": "off: the graph stays as it is"}[options.stream]


def bundle_folder(options: Options, target: str) -> Path:
    """Where a target's bundle goes: ``out`` itself for one target, ``out/target`` for several."""
    out = Path(os.path.normpath(Path.cwd() / options.out))
    folder = out if len(options.targets) == 1 else out / target
    return (
        folder.relative_to(Path.cwd())
        if folder.is_relative_to(Path.cwd()) and folder != Path.cwd()
        else folder
    )


def check_options(options: Options, targets: Sequence[Target]) -> None:
    """Raise for anything that can be refused before work begins."""
    for target in targets:
        if options.precision not in ("auto", *target.precisions):
            raise UsageError(
                f"{target.name} has no precision '{options.precision}'. It has auto, "
                f"{', '.join(target.precisions)}"
            )
        folder = bundle_folder(options, target.name)
        for path in (folder, _zip_of(folder)):
            if path.exists() and not options.force:
                raise UsageError(f"{path} already exists. Choose another --out, or replace it with --force")
            if path.exists() and not bundle.is_bundle(path):
                raise UsageError(f"{path} exists and is not a bundle; --force replaces bundles only")
        for module, extra in target.needs_build:
            if not present(module):
                raise TargetUnavailableError(
                    f"packing for {target.name} needs {module}. Run: pip install 'edgepv[{extra}]'"
                )
    if not 0 <= options.max_drop <= 100:
        raise UsageError(f"--max-drop {options.max_drop:g}: give points of accuracy, 0 or more")
    if not 0 <= options.prune < 1:
        raise UsageError(f"--prune {options.prune:g}: give the share of channels to remove, like 0.25")
    if options.stream not in STREAM:
        raise UsageError(unknown("--stream", options.stream, STREAM))
    if options.every < 1:
        raise UsageError(f"--every {options.every}: give a number of frames above 0")
    if options.size is not None and (options.size < 32 or options.size % 16):
        raise UsageError(f"--size {options.size}: give a multiple of 16 from 32 up")
    if options.min_sqnr is not None and not options.min_sqnr > 0:
        raise UsageError(f"--min-sqnr {options.min_sqnr:g}: give decibels above 0, like 30")
    if options.latency_ms is not None and not options.latency_ms > 0:
        raise UsageError(f"--latency-ms {options.latency_ms:g}: give a time above 0")
    if options.clips and not Path(options.clips).is_dir():
        raise UsageError(f"{options.clips} is not a folder. --clips wants a folder of video clips")


def load(options: Options) -> Source:
    """The model the user named. Raises UsageError if it is not whole, or its parts do not fit."""
    found = _named(options)
    if options.size is None:
        return found
    if found.checkpoint is None:
        raise UsageError(f"--size {options.size}: an ONNX file has the size it was exported with")
    spec = at_size(found.spec, options.size)
    return Source(spec, replace(found.checkpoint, spec=spec))


def _named(options: Options) -> Source:
    name = options.model
    if name.endswith(".onnx"):
        if not Path(name).is_file():
            raise UsageError(f"{name} does not exist. MODEL may be an ONNX file")
        return Source(_spec(options, name), None, Path(name))
    if ":" in name:
        if not options.weights:
            raise UsageError(f"{name} needs its weights: --weights FILE.safetensors")
        spec = _spec(options, name)
        return Source(
            spec,
            from_files(name, Path(options.weights), spec, trust_pickle=options.trust_pickle),
        )
    if options.weights or options.spec:
        raise UsageError(
            f"'{name}' is a built-in model with weights of its own; --weights and --spec go with "
            "file.py:builder or package.module:builder"
        )
    checkpoint = zoo_checkpoint(name)
    return Source(checkpoint.spec, checkpoint)


def _spec(options: Options, name: str) -> ModelSpec:
    if not options.spec:
        raise UsageError(f"{name} needs its description: --spec FILE.toml (see docs/spec.md)")
    return read_spec(Path(options.spec))


def gather(options: Options, spec: ModelSpec) -> Clips:
    """Calibration, training and held-out clips: the user's, else those shipped with the model.

    A model whose labels the shipped clips do not carry gets them as plain video: enough to compare
    numbers, not to set INT8 ranges or to judge accuracy.
    """
    import edgepv.zoo

    shipped = Path(edgepv.zoo.__file__).parent / "clips"
    if options.clips:
        found, origin = find_clips(Path(options.clips), spec.labels), options.clips
        calibration, held_out = split_clips(found, calibration=CALIBRATION_CLIPS)
        train = tuple(c for c in found if c.split == "train" and c.label)
        return Clips(train, tuple(calibration), tuple(held_out), origin)
    found = find_clips(shipped, edgepv.zoo.TASKS["fight"])
    fits = {c.label for c in found} <= set(spec.labels)
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


@dataclass(frozen=True)
class Subject:
    """The model as the targets' builders get it, with the exam its artifacts must pass.

    original: opens the torch model before pruning, and inputs for it; model: opens what was converted.
    flat: a clip model once more without Conv3D, for the engines that want it so; None for a step.
    """

    source: Source
    checkpoint: Checkpoint | None
    base: Variant
    base_folder: Path
    flat: Checkpoint | None
    notes: tuple[str, ...]
    calibration: CalibrationSet | None
    feeds: tuple[Tensors, ...]
    exam: judge.Exam
    original: tuple[Callable[[int], Engine], tuple[Tensors, ...]]
    model: Callable[[int], Engine]
    rows: tuple[Measurement, ...]
    golden_clip: Clip
    held_out: tuple[Clip, ...]


def prepare(line: Line, source: Source, clips: Clips) -> Subject:
    """Prune, stream, lower, roll the calibration states, and let the original answer the held-out clips."""
    checkpoint = prune(line, source, clips)
    checkpoint, flat, notes = streamed(line, checkpoint, clips)
    base, folder = lower(line, source, checkpoint)
    spec = base.spec
    changed = checkpoint is not source.checkpoint
    original, first = _opener(source.checkpoint, base, folder)
    model, _ = _opener(checkpoint, base, folder)
    held = tuple(model_frames(c.path, spec) for c in line.console.track(clips.held_out, "decoding"))
    line.console.say(f"running the original on {len(held)} held-out clips")
    answers = clip_logits(original(1).infer, first, held)
    model_answers = clip_logits(model(1).infer, base, held) if changed else answers
    labelled = _all_labelled(clips.held_out, spec.labels)
    stepper = Stepper(model(1).infer, spec, base.stream)
    before = Stepper(original(1).infer, first.spec, first.stream)
    exam = judge.Exam(
        labels=spec.labels,
        clips=held,
        names=tuple(clip_name(c) for c in clips.held_out),
        truth=tuple(spec.labels.index(str(c.label)) for c in clips.held_out) if labelled else None,
        warmup=stepper.warmup,
        original=tuple(answers),
        model=tuple(model_answers),
        feeds=tuple(_probe_feeds(stepper, held)),
        max_drop=line.options.max_drop,
        original_warmup=before.warmup,
        delay=base.stream.delay if base.stream else 0,
    )
    calibration, feeds = None, []
    if clips.fits and line.options.precision in ("auto", "int8"):
        calibration = calibration_set(clips.calibration, spec)
        feeds = rolled_feeds(stepper, calibration, spec)
    rows = _torch_rows(source, checkpoint, base, first, exam)
    return Subject(
        source,
        checkpoint,
        base,
        folder,
        flat,
        notes,
        calibration,
        tuple(feeds),
        exam,
        (original, tuple(_probe_feeds(before, held))),
        model,
        rows,
        clips.held_out[0],
        clips.held_out,
    )


def _all_labelled(clips: Sequence[Clip], labels: Sequence[str]) -> bool:
    """Whether every held-out clip has a label. Raises UsageError if only some have: a typing error."""
    bare = [c for c in clips if not c.label]
    if bare and len(bare) < len(clips):
        raise UsageError(
            f"{bare[0].path} has no label, other clips have. Put it into a folder named after its label "
            f"({', '.join(labels)}), or take it out"
        )
    return not bare


def _opener(
    checkpoint: Checkpoint | None, base: Variant, folder: Path
) -> tuple[Callable[[int], Engine], Variant]:
    """Opens torch eager for a checkpoint, ONNX Runtime for a user's ONNX file; and how it is stepped.

    An original that was pruned later has larger states than ``base``, one that was streamed has none.
    """
    from edgepv.export.to_onnx import stream_spec

    if checkpoint is None:
        return lambda threads: open_engine(base, folder, threads=threads), base
    module, spec = build(checkpoint), checkpoint.spec
    stream = stream_spec(module, spec)

    def opened(threads: int) -> Engine:
        need("torch", extra="compress").set_num_threads(threads)
        return EagerEngine(module, spec.input.name, stream)

    return opened, replace(base, spec=spec, stream=stream, form="step" if stream else "window")


def _probe_feeds(stepper: Stepper, held: Sequence[np.ndarray]) -> list[Tensors]:
    """One input with warm states per held-out clip."""
    probes = []
    for clip in held[:32]:
        steps = [
            feeds for feeds, _ in roll(stepper, hold_last(clip, stepper.warmup + stepper.chunk)) if feeds
        ]
        probes.append(copied(steps[-1]))
    return probes


def _torch_rows(
    source: Source, checkpoint: Checkpoint | None, base: Variant, first: Variant, exam: judge.Exam
) -> tuple[Measurement, ...]:
    """The original, and the torch model that was made of it if it was changed, as rows of the report."""
    if source.checkpoint is None or checkpoint is None:
        row = Measurement(
            ORIGINAL,
            "host",
            "onnxruntime",
            "fp32",
            base.form,
            "the user's ONNX file",
            accuracy=exam.accuracy(exam.original),
        )
        return (row,)
    rows = [_torch_row(ORIGINAL, "the original", source.checkpoint, first, exam, exam.original)]
    if checkpoint is not source.checkpoint:
        names, says = zip(*(CHANGES[s.name] for s in checkpoint.steps if s.name in CHANGES))
        name = "-".join(("torch", *names))
        rows.append(_torch_row(name, " and ".join(says), checkpoint, base, exam, exam.model))
    return tuple(rows)


def _torch_row(
    name: str,
    status: str,
    checkpoint: Checkpoint,
    how: Variant,
    exam: judge.Exam,
    logits: Sequence[np.ndarray],
) -> Measurement:
    from edgepv.export.cost import gflops_per_frame

    module = build(checkpoint)
    return Measurement(
        variant=name,
        target="host",
        engine="torch",
        precision="fp32",
        form=how.form,
        status=status,
        bytes=Path(checkpoint.weights).stat().st_size,
        params=_weights_of(checkpoint),
        gflops_per_frame=gflops_per_frame(module, checkpoint.spec),
        state_bytes=how.stream.state_bytes if how.stream else None,
        accuracy=exam.accuracy(logits),
        drop=exam.drop(logits, 0.0) if name != ORIGINAL else None,
    )


def _weights_of(checkpoint: Checkpoint) -> int:
    """Parameters of the module as trained, before any rewriting."""
    return sum(p.numel() for p in build(replace(checkpoint, rewrite=None)).parameters())


def prune(line: Line, source: Source, clips: Clips) -> Checkpoint | None:
    """The checkpoint with ``--prune`` applied and fine-tuned; the same one where that is off."""
    ratio = line.options.prune
    checkpoint = source.checkpoint
    if not ratio:
        return checkpoint
    if checkpoint is None:
        raise UsageError("an ONNX file cannot be pruned here: channels are cut in torch. Use --prune 0")
    if not clips.train:
        raise UsageError(
            "--prune needs training clips to fine-tune on: --clips DIR with a train split. "
            "A pruned model that is not fine-tuned has lost its accuracy"
        )
    from edgepv.quantize import finetune
    from edgepv.quantize import prune as pruning

    cut = pruning.Step(ratio)
    tune = finetune.Step(seed=line.options.seed)

    def make(folder: Path) -> Any:
        line.console.say(f"pruning {ratio:.0%} of the channels")
        small = cut(checkpoint, folder / "cut.safetensors")
        frames = [
            model_frames(c.path, checkpoint.spec)
            for c in line.console.track(clips.train, "decoding training clips")
        ]
        truth = [checkpoint.spec.labels.index(str(c.label)) for c in clips.train]
        line.console.say(f"fine-tuning on {len(frames)} clips, {tune.epochs} epochs")
        tuned = tune(
            small,
            checkpoint,
            frames,
            truth,
            folder / "pruned.safetensors",
            progress=lambda epochs: line.console.track(epochs, "fine-tuning"),
        )
        return encode(replace(tuned, weights="pruned.safetensors"))

    key = {
        "weights": checkpoint.sha256,
        "builder": _builder_digest(checkpoint.builder),
        "spec": digest(checkpoint.spec),
        "cut": encode_step(cut),
        "tune": encode_step(tune),
        "clips": digest([(sha256(c.path), c.label) for c in clips.train]),
    }
    folder, result = line.step("prune", key, ("torch", "torch-pruning"), make)
    found = decode(Checkpoint, result)
    return replace(found, weights=str(folder / found.weights))


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
        from edgepv.stream.verify import verify

        line.console.say("rewriting the clip model as a step")
        module = build(checkpoint)
        model = convert(module, spec, every=options.every)
        held = [_first_frames(c.path, spec) for c in clips.held_out[:2]]
        return {
            "error": verify(module, model, held),
            "spec": encode(model.spec),
            "stream": encode(model.stream),
        }

    if options.stream == "auto":
        try:
            _, made = line.step("stream", {**key, "every": options.every}, ("torch",), make)
        except NotStreamableError as e:
            cost = f"a window: all {spec.frames} frames are computed again for every answer"
            return checkpoint, flat, (f"{e} It stays {cost}",)
        stream = decode(StreamSpec, made["stream"])
        done = record(
            "stream",
            {"every": options.every, "difference": made["error"], **_kind(stream)},
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
    return {"exactness": stream.exactness, "delay": stream.delay, "receptive_field": stream.receptive_field}


def _first_frames(path: Path, spec: ModelSpec) -> np.ndarray:
    """The first clip of a video, (C, T, H, W)."""
    return hold_last(model_frames(path, spec), spec.frames)[: spec.frames].transpose(1, 0, 2, 3)


def encode_step(step: Any) -> dict[str, Any]:
    """A compression step's name and options, as data."""
    return {"step": f"{type(step).__module__}", **vars(step)}


def lower(line: Line, source: Source, checkpoint: Checkpoint | None) -> tuple[Variant, Path]:
    """(float ONNX variant, folder it lies in)."""
    from edgepv.export import to_onnx

    if checkpoint is None:
        assert source.onnx
        base = to_onnx.read_onnx(source.onnx, source.spec)
        return base, source.onnx.parent

    def make(folder: Path) -> Any:
        line.console.say("lowering to ONNX")
        return encode(to_onnx.lower(build(checkpoint), checkpoint.spec, folder / "model.onnx"))

    key = _checkpoint_key(checkpoint)
    folder, result = line.step("lower", key, ("torch", "onnx", "onnxscript"), make)
    base = decode(Variant, result)
    step = record(
        "lower",
        {"opset": to_onnx.OPSET},
        {"weights": checkpoint.sha256},
        {base.path: base.sha256},
        ("torch", "onnx", "onnxscript"),
    )
    return replace(base, steps=(*checkpoint.steps, step)), folder


def _checkpoint_key(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a module built from a checkpoint depends on, for the cache."""
    return {
        "weights": checkpoint.sha256,
        "builder": _builder_digest(checkpoint.builder),
        "spec": digest(checkpoint.spec),
        "rewrite": digest(checkpoint.rewrite) if checkpoint.rewrite else None,
    }


def _builder_digest(builder: str) -> str:
    """The builder's name and, for a user's file, its text: an edited builder is another model."""
    place = builder.rpartition(":")[0]
    if place.endswith(".py"):
        return f"{builder}@{sha256(Path(place))}"
    found = importlib.util.find_spec(place) if present(place) else None
    return f"{builder}@{sha256(Path(found.origin))}" if found and found.origin else builder


def pack(line: Line, subject: Subject, target: Target, folder: Path) -> Exported:
    """Build, examine and measure every variant of one target in ``folder``, and write the bundle."""
    models = folder / "models"
    models.mkdir()
    shutil.copyfile(subject.base_folder / subject.base.path, models / "model.onnx")
    base = replace(subject.base, path="model.onnx")
    packed = run_builder(line, subject, target, base, models)
    rows = (
        [
            judge.examine(v, models, target, subject.exam)
            for v in line.console.track(packed.variants, f"{target.name}: running on held-out clips")
        ]
        if target.min_sqnr_db
        else [_unexamined(v, target) for v in packed.variants]
    )
    rows = [_localised(r, packed, base, models, subject) for r in rows]
    rows, torch_rows = _timed(line, subject, target, packed, rows, models)
    chosen, why = judge.choose(rows, latency_ms=line.options.latency_ms)
    kept = [v for v, r in zip(packed.variants, rows) if judge.keeps(r)]
    reasons = (
        why,
        *(f"{r.variant} {STRAY}: {judge.fault(r)}" for r in rows if not judge.keeps(r)),
        *filter(None, map(judge.doubt, rows)),
        *(f"{name} was not made: {cause}" for name, cause in packed.failed.items()),
        *subject.notes,
        *packed.notes,
    )
    title = f"{subject.base.spec.name} for {target.name}"
    found = Report(
        title,
        (*torch_rows, *rows),
        ORIGINAL,
        _all_steps(kept),
        reasons,
        subject.base.stream,
        subject.source.spec.frames,
        thumbnails(rows, subject.held_out),
    )
    _sweep(models, kept, packed.files)
    write_bundle(subject, target, folder, kept, found, chosen)
    return Exported(
        target.name, folder, bundle.read(folder).digest, chosen, found, (*subject.notes, *packed.notes)
    )


def clip_name(clip: Clip) -> str:
    """How reports call a clip: its folder, which is its label or its source, and its file."""
    return f"{clip.path.parent.name}/{clip.path.name}"


def thumbnails(rows: Sequence[Measurement], clips: Sequence[Clip]) -> dict[str, str]:
    """A small JPEG, base64, of the middle frame of every clip that a row names as one of its worst."""
    named = {w.clip for row in rows if row.parity for w in row.parity.worst if w.agreement < 1}
    cv2 = need("cv2", extra="cpu")
    found = {}
    for clip in clips:
        if clip_name(clip) in named:
            frames = read_video(clip.path).frames
            frame = frames[len(frames) // 2]
            size = (THUMBNAIL, max(1, round(THUMBNAIL * frame.shape[0] / frame.shape[1])))
            _, data = cv2.imencode(".jpg", cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
            found[clip_name(clip)] = base64.b64encode(data.tobytes()).decode("ascii")
    return dict(sorted(found.items()))


def run_builder(line: Line, subject: Subject, target: Target, base: Variant, models: Path) -> Packed:
    """Call the target's builder with the cache and the quantization room at hand."""

    def work(
        name: str,
        options: dict[str, Any],
        source: Variant,
        tools: tuple[str, ...],
        make: Callable[[Path], Variant],
    ) -> Variant:
        checkpoint = subject.checkpoint
        key = {
            "target": target.name,
            "options": options,
            "source": digest(source),
            "weights": checkpoint.sha256 if checkpoint else None,
            "rewrite": digest(checkpoint.rewrite) if checkpoint and checkpoint.rewrite else None,
            "feeds": subject.calibration.digest if subject.calibration else None,
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
        calibration = subject.calibration
        assert calibration
        tools = ("onnxruntime", "openvino", "nncf", "ai-edge-quantizer", "ai-edge-litert")
        return work(
            f"int8 {Path(file).stem}",
            options,
            source,
            tools,
            lambda tmp: call(source, models, subject.feeds, calibration.digest, tmp / file),
        )

    module, _, name = target.builder.partition(":")
    wanted = line.options.precision
    job = Job(
        base=base,
        flat=_flat_base(line, subject, models),
        folder=models,
        checkpoint=subject.checkpoint,
        flat_checkpoint=subject.flat,
        feeds=subject.feeds,
        calibration_digest=subject.calibration.digest if subject.calibration else "",
        precisions=target.precisions if wanted == "auto" else (wanted,),
        work=work,
        compress=compress,
        say=line.console.say,
        min_sqnr_db=line.options.min_sqnr,
    )
    packed: Packed = getattr(importlib.import_module(module), name)(job)
    if not packed.variants:
        why = next(iter(packed.failed.values()), f"{wanted} is not possible on this machine")
        raise UsageError(f"{target.name}: nothing could be made. {why}")
    return packed


def _flat_base(line: Line, subject: Subject, models: Path) -> Variant | None:
    """The flat form of a clip model, lowered beside the other; None for a step, and where it has none."""
    if subject.flat is None:
        return None
    try:
        flat, folder = lower(line, subject.source, subject.flat)
    except NotStreamableError as e:
        line.console.say(f"no flat form: {e}")
        return None
    shutil.copyfile(folder / flat.path, models / "model-r4.onnx")
    return replace(flat, path="model-r4.onnx")


def _unexamined(variant: Variant, target: Target) -> Measurement:
    return Measurement(
        variant.name, target.name, variant.engine, variant.precision, variant.form, target.status
    )


def _localised(
    row: Measurement, packed: Packed, base: Variant, models: Path, subject: Subject
) -> Measurement:
    """Name the first diverging node of a row that failed parity."""
    if row.parity is None or row.parity.verdict != "fail":
        return row
    variant = next(v for v in packed.variants if v.name == row.variant)
    reference = base
    if variant.engine == "litert":
        reference = next((v for v in packed.variants if v.name == "litert-fp32"), variant)
    found = judge.localise(variant, reference, models, subject.exam, row.parity)
    return replace(row, parity=found)


def _timed(
    line: Line,
    subject: Subject,
    target: Target,
    packed: Packed,
    rows: Sequence[Measurement],
    models: Path,
) -> tuple[list[Measurement], list[Measurement]]:
    """(rows with latency and memory, torch rows with latency). TensorRT is not timed on a host."""
    here = [v for v in packed.variants if v.engine != "tensorrt"]
    found: dict[str, Any] = {}
    if here and subject.exam.feeds:
        line.console.say(f"{target.name}: timing {len(here) + 1} variants, interleaved")
        found = latencies(here, models, subject.exam.feeds, original=subject.original)
    facts = device_facts()
    params = subject.rows[-1].params
    cost = subject.rows[-1].gflops_per_frame
    timed = []
    for variant, row in zip(packed.variants, rows):
        row = replace(row, params=params, gflops_per_frame=cost, latency=found.get(row.variant, ()))
        if variant in here:
            row = replace(row, device=facts, rss_mib=peak_rss_mib(variant, models))
        timed.append(row)
    torch_rows = [
        replace(r, latency=found.get(r.variant, ()), device=facts if r.variant in found else None)
        for r in subject.rows
    ]
    return timed, torch_rows


def _all_steps(variants: Sequence[Variant]) -> tuple[StepRecord, ...]:
    """Every step behind the variants, once, in order."""
    steps: dict[str, StepRecord] = {}
    for variant in variants:
        for step in variant.steps:
            steps.setdefault(digest(step), step)
    return tuple(steps.values())


def _sweep(models: Path, kept: Sequence[Variant], extra: Sequence[str]) -> None:
    """Remove files that no kept variant and no note refers to. An .xml keeps its .bin."""
    wanted = {*extra, *(v.path for v in kept)}
    wanted |= {str(Path(v.path).with_suffix(".bin")) for v in kept if v.path.endswith(".xml")}
    for path in models.iterdir():
        if path.name not in wanted:
            path.unlink()


def write_bundle(
    subject: Subject,
    target: Target,
    folder: Path,
    kept: Sequence[Variant],
    found: Report,
    chosen: Measurement,
) -> None:
    """Golden vectors, report and manifest."""
    variants = tuple(replace(v, path=f"models/{v.path}") for v in kept)
    golden = write_golden(subject, variants, folder)
    made = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    content = Content(
        name=subject.base.spec.name,
        target=target.name,
        spec=subject.base.spec,
        stream=subject.base.stream,
        preprocessing=PREPROCESSING,
        postprocessing=POSTPROCESSING,
        calibration_digest=subject.calibration.digest if subject.calibration else None,
        steps=found.steps,
        variants=variants,
        golden=golden,
        files=bundle.digests(folder, made),
    )
    write_json(folder / "measured.json", found)
    write_text(folder / "report.md", report.to_markdown(found))
    write_text(folder / "report.html", report.to_html(found))
    measured = Measured(
        run=chosen.variant,
        status=target.status,
        verdict=chosen.drop.verdict if chosen.drop else "not measured",
        reasons=found.reasons,
        files=bundle.digests(folder, ["measured.json", "report.md", "report.html"]),
    )
    bundle.write(folder, content, measured)


def write_golden(subject: Subject, variants: Sequence[Variant], folder: Path) -> dict[str, Any]:
    """Camera frames of one held-out clip, and what the converted torch model and each variant answer."""
    from safetensors.numpy import save

    from edgepv.golden import play

    spec = subject.base.spec
    video = read_video(subject.golden_clip.path)
    taken = resample(len(video.frames), video.fps, spec.fps)[: subject.exam.warmup + 4]
    frames = hold_last(np.stack([video.frames[i] for i in taken]), subject.exam.warmup + 2)
    tensors = {"frames": frames, "torch": play(subject.model(1), subject.base, frames)}
    for variant in variants:
        tensors[variant.name] = play(open_replay(variant, folder), variant, frames)
    (folder / bundle.GOLDEN).write_bytes(save(tensors))
    return {"file": bundle.GOLDEN, "frames": len(frames)}


def open_replay(variant: Variant, folder: Path) -> Engine:
    """The variant's own engine, or ONNX Runtime for a file meant for TensorRT."""
    return open_engine(bundle.on_this_host(variant), folder)


def sensitivity(options: Options, console: Console) -> tuple[LayerSensitivity, ...]:
    """What INT8 of each layer alone costs a model, the most sensitive first; from the cache if it is known.

    Ranges come from the calibration clips, answers are compared on the held-out ones. Raises UsageError if
    there are no clips the model was made for.
    """
    from edgepv.quantize.sensitivity import per_layer

    line = Line(options, console)
    source = load(options)
    clips = gather(options, source.spec)
    if not clips.fits:
        raise UsageError(f"{source.spec.name} needs clips like those its camera will see: --clips DIR")
    checkpoint, _, _ = streamed(line, source.checkpoint, clips)
    base, folder = lower(line, source, checkpoint)
    chosen = calibration_set(clips.calibration, base.spec)

    def make(out: Path) -> Any:
        stepper = Stepper(open_engine(base, folder).infer, base.spec, base.stream)
        feeds = rolled_feeds(stepper, chosen, base.spec)
        probes = _probe_feeds(stepper, [model_frames(c.path, base.spec) for c in clips.held_out])
        return encode(per_layer(base, folder, feeds, probes, console.track))

    held = digest([sha256(c.path) for c in clips.held_out])
    key = {"model": base.sha256, "calibration": chosen.digest, "held out": held}
    _, found = line.step("sensitivity", key, ("onnx", "onnxruntime"), make)
    return tuple(decode(LayerSensitivity, row) for row in found)
