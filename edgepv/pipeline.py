"""From a model to bundles: the line, the exam of every variant, and what is written."""

from __future__ import annotations

import base64
import importlib
import itertools
import math
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgepv import bundle, judge, report
from edgepv.base.console import Console
from edgepv.base.files import digest, refuse_out, sha256, whole_file, whole_folder, write_json, write_text
from edgepv.base.machine import device_facts, proof
from edgepv.base.optional import need, present
from edgepv.bundle.manifest import Content, Measured
from edgepv.data import clips as data_clips
from edgepv.data.calibration import PREPROCESSING, calibration_set, in_turns, rolled_feeds, to_and_fro
from edgepv.data.clips import Clip, unheld
from edgepv.data.frames import at_model_size, hold_last, model_frames
from edgepv.data.truth import Shown, shown
from edgepv.data.video import open_video, taken
from edgepv.errors import (
    AccuracyGateError,
    EdgepvError,
    IncompleteError,
    InconclusiveError,
    TargetUnavailableError,
    UsageError,
    told,
    unknown,
)
from edgepv.export.for_cpu import refuse_bf16
from edgepv.export.job import FLAT, Packed, reason
from edgepv.line import (
    STREAM,
    Clips,
    Line,
    Options,
    Ready,
    Source,
    gather,
    load,
    lowered,
    nothing_made,
    ready,
    run_builder,
    source_key,
)
from edgepv.measure.answers import clip_answers
from edgepv.measure.latency import latencies
from edgepv.measure.memory import peak_rss_mib
from edgepv.metrics.tasks import Pictures, shows
from edgepv.model.checkpoint import build, load_notes
from edgepv.quantize.sparsity import LayerSparsity
from edgepv.report.compare import ORIGINALS
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import Stepper, Tensors, copied, roll
from edgepv.targets import target as find_target
from edgepv.types import (
    Checkpoint,
    LayerSensitivity,
    Measurement,
    ModelSpec,
    Report,
    StepRecord,
    Target,
    Variant,
    decode,
    encode,
)

POSTPROCESSING = {
    "classification": "softmax of logits; a clip's answer is the mean of logits over valid frames",
    "tracking": "x and y in image heights, visibility in [0, 1]",
    "restoration": "x * std + mean, clipped to [0, 1]",
}
PROBABILITIES = "probabilities as they are; a clip's answer is their mean over valid frames"
THUMBNAIL = 112
ENDLESS = 1024
"""Frames of the video on which a model with states that grow for ever is compared."""
PROBED = 32
"""Held-out clips of which one input each is kept, to look inside a model and to time it."""
PICTURE_DROP_DB = 0.3
SURELY_DB = 1.0  # a restorer's picture that is so much nearer to another frame shows that one
MOST_PIXELS = 4096
MOST_COUNT = 10_000
"""Largest height and width of frames that a model may be given."""
STRAY = "kept out of the bundle"
CHANGES = {
    "prune": ("pruned", "pruned"),
    "low-rank": ("split", "split into low-rank layers"),
    "finetune": ("tuned", "fine-tuned"),
    "qat": ("qat", "trained under INT8 rounding"),
    "stream": ("stream", "made to step"),
}
"""Step -> (what it adds to a row's name, what the report says of it)."""


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
class NotMade:
    """A target that has no bundle: why, in one line, and what exit code that alone would have."""

    target: str
    why: str
    exit_code: int


@dataclass(frozen=True)
class Outcome:
    """What an export came to: the bundles that are there, and the targets that have none."""

    made: tuple[Exported, ...]
    not_made: tuple[NotMade, ...] = ()


def export(options: Options, console: Console) -> Outcome:
    """Make one bundle per target below ``options.out``.

    Each is built under a temporary name and renamed into place as soon as it is complete; a target that
    cannot be made leaves the others. Raises what went wrong with the first, of its kind, if none can be made;
    then nothing new is left behind.
    """
    targets = [find_target(name) for name in options.targets]
    check_options(options, targets)
    source = load(options)
    clips = gather(options, source.spec)
    console.say(f"model {source.spec.name} ({source.sha256[:12]}), clips: {clips.origin}")
    for note in (*load_notes(source.checkpoint), *clips.notes):
        console.say(note)
    line = Line(options, console)
    subject = prepare(line, source, clips)
    made: list[Exported] = []
    failed: dict[str, Exception] = {}
    try:
        for target in targets:
            try:
                made.append(_bundled(line, subject, target))
            except Exception as e:
                failed[target.name] = e
                if len(targets) > 1:
                    console.say(f"{target.name}: not made: {told(e)[0]}")
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(_left(options, made)) from e
    if not made:
        _raise_all(failed)
    return Outcome(tuple(made), tuple(NotMade(name, *told(e)) for name, e in failed.items()))


def _bundled(line: Line, subject: Subject, target: Target) -> Exported:
    """One target's bundle and its zip; both appear when they are whole, or neither does."""
    folder = bundle_folder(line.options, target.name)
    with (
        whole_file(_zip_of(folder)) as archive,
        whole_folder(folder, replace=line.options.force) as tmp,
    ):
        made = replace(pack(line, subject, target, tmp), folder=folder)
        bundle.zip_bundle(tmp, archive)
    line.console.say(f"{target.name}: {made.chosen.variant} ({made.digest[:12]})")
    return made


def _left(options: Options, made: Sequence[Exported]) -> str:
    """What a stopped export left, and what makes the rest; nothing where it left nothing."""
    rest = [name for name in options.targets if name not in {one.target for one in made}]
    if not made or not rest:
        return ""
    whole = ", ".join(str(one.folder) for one in made)
    out = options.out if len(rest) > 1 else str(bundle_folder(options, rest[0]))
    again = shlex.join(["--target", ",".join(rest), "--out", out])
    return f"Whole and kept: {whole}. For the rest run it again with {again}"


def _raise_all(failed: Mapping[str, Exception]) -> NoReturn:
    """Raise the first of the errors; where there are more, one of its kind that says them all."""
    first = next(iter(failed.values()))
    if len(failed) == 1 or not isinstance(first, EdgepvError):
        raise first
    raise type(first)("; ".join(f"{name}: {told(e)[0]}" for name, e in failed.items())) from first


def _zip_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".zip")


def exit_code(options: Options, found: Outcome) -> int:
    """10 if a target was not made; 6 if the user asked for an accuracy gate and a chosen variant has too few
    clips to tell, or a label none; else 0."""
    if found.not_made:
        return IncompleteError.exit_code
    drops = [m.chosen.drop for m in found.made]
    undecided = any(d is None or d.verdict in ("inconclusive", "not applied") for d in drops)
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
        "prune": f"{_shares(options.prune)}, then fine-tune" if any(options.prune) else "off",
        "stream": _stream_plan(options, source.spec),
        "precisions": "; ".join(f"{name}: {', '.join(p)}" for name, p in wanted.items()),
        "gate": f"at most {max_drop(options, source.spec):g} {_unit(source.spec)}; too few clips to tell is "
        + ("exit code 6" if options.gate else "reported only"),
        "latency": f"p99 at most {options.latency_ms:g} ms" if options.latency_ms else "no limit",
        "seed": options.seed,
        "bundles": ", ".join(str(bundle_folder(options, t.name)) for t in targets),
        **({"notes": "; ".join(clips.notes)} if clips.notes else {}),
    }


def _unit(spec: ModelSpec) -> str:
    return "dB" if spec.task == "restoration" else "points"


def _shares(prune: Sequence[float]) -> str:
    return ",".join(f"{share:g}" for share in prune)


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
        _refuse_unmakeable(options, target)
        folder = bundle_folder(options, target.name)
        refuse_out(folder)
        for path in (folder, _zip_of(folder)):
            refuse_out(path)
            if path.exists() and not options.force:
                raise UsageError(f"{path} already exists. Choose another --out, or replace it with --force")
            if path.exists() and not bundle.is_bundle(path):
                raise UsageError(f"{path} exists and is not a bundle; --force replaces bundles only")
        for module, extra in target.needs_build:
            if not present(module):
                raise TargetUnavailableError(
                    f"packing for {target.name} needs {module}. Run: pip install 'edgepv[{extra}]'"
                )
    if options.precision == "bf16" or "-bf16" in (options.variant or ""):
        refuse_bf16()
    _refuse_huge(options)
    if not 0 <= options.max_drop <= 100:
        raise UsageError(
            f"--max-drop {options.max_drop:g}: give points of accuracy, or dB of a restorer, 0 or more"
        )
    if not all(0 <= share < 1 for share in options.prune):
        raise UsageError(f"--prune {_shares(options.prune)}: give the share of channels to remove, like 0.25")
    if options.low_rank is not None and not 0 < options.low_rank <= 1:
        raise UsageError(f"--low-rank {options.low_rank:g}: give the share of energy to keep, like 0.9")
    if options.multiple < 1 or min(options.tune_epochs or 0, options.qat) < 0:
        raise UsageError("--multiple must be above 0, --tune-epochs and --qat not below")
    if options.keep_float < 0:
        raise UsageError(f"--keep-float {options.keep_float}: give a number of layers, 0 or more")
    if options.stream not in STREAM:
        raise UsageError(unknown("--stream", options.stream, STREAM))
    if options.every < 1:
        raise UsageError(f"--every {options.every}: give a number of frames above 0")
    if options.size is not None and (not 32 <= options.size <= MOST_PIXELS or options.size % 16):
        raise UsageError(f"--size {options.size}: give a multiple of 16 from 32 to {MOST_PIXELS}")
    if options.particles is not None and options.particles < 1:
        raise UsageError(f"--particles {options.particles}: give a number above 0")
    if options.min_sqnr is not None and not 0 < options.min_sqnr < math.inf:
        raise UsageError(f"--min-sqnr {options.min_sqnr:g}: give decibels above 0, like 30")
    _refuse_unheeded(options)
    if options.latency_ms is not None and not 0 < options.latency_ms < math.inf:
        raise UsageError(f"--latency-ms {options.latency_ms:g}: give a time above 0")
    if options.clips and not Path(options.clips).is_dir():
        raise UsageError(f"{options.clips} is not a folder. --clips wants a folder of video clips")


def _refuse_unmakeable(options: Options, target: Target) -> None:
    """Raise UsageError for what the options tell of a target that cannot be made: no work is begun then."""
    if target.torch_only and options.model.lower().endswith(".onnx"):
        raise UsageError(
            f"{target.name} is converted from torch, and {options.model} is an ONNX file. Leave it out "
            "of --target, or give the builder: file.py:builder --weights w.safetensors --spec spec.toml"
        )
    if options.latency_ms is not None and target.status != Target.status:
        raise UsageError(f"--latency-ms: {target.name} is not timed on this host. Measure on the device")
    known = getattr(importlib.import_module(target.builder.partition(":")[0]), "VARIANTS", ())
    if options.variant and known and options.variant.removesuffix(FLAT) not in known:
        raise UsageError(f"{target.name}: {unknown('variant', options.variant, known)}")
    if options.variant and known and options.precision not in ("auto", options.variant.split("-")[1]):
        raise UsageError(
            f"--variant {options.variant} is none of --precision {options.precision}. Leave one out"
        )


def _refuse_huge(options: Options) -> None:
    """Raise UsageError for a count that is none of frames, channels, layers, particles or epochs."""
    counts = {
        "--every": options.every,
        "--multiple": options.multiple,
        "--tune-epochs": options.tune_epochs,
        "--qat": options.qat,
        "--keep-float": options.keep_float,
        "--particles": options.particles,
    }
    for name, count in counts.items():
        if count is not None and count > MOST_COUNT:
            raise UsageError(f"{name} {count}: give a number up to {MOST_COUNT}")


def _refuse_unheeded(options: Options) -> None:
    """Raise UsageError for an option of cpu's INT8 where nothing is made for cpu."""
    given = {
        "--keep-float": options.keep_float > 0,
        "--min-sqnr": options.min_sqnr is not None,
        "--ranges": options.ranges != "minmax",
    }
    wanted = [name for name, there in given.items() if there]
    if wanted and "cpu" not in options.targets:
        raise UsageError(
            f"{wanted[0]} is heeded by INT8 for cpu only, and --target is {','.join(options.targets)}. "
            "Leave it out, or add cpu"
        )


@dataclass(frozen=True)
class Subject(Ready):
    """The model as the targets' builders get it, with the exam its artifacts must pass.

    original: opens the model before pruning, and inputs for it; model: opens what was converted. rows: of the
    original first, then of what torch made of it.
    """

    exam: judge.Exam
    original: tuple[Callable[[int], Engine], tuple[Tensors, ...]]
    model: Callable[[int], Engine]
    rows: tuple[Measurement, ...]
    golden_clip: Clip
    held_out: tuple[Clip, ...]


def prepare(line: Line, source: Source, clips: Clips) -> Subject:
    """Run the line up to the targets, and let the original answer the held-out clips."""
    found = ready(line, lowered(line, source, clips), clips)
    source = found.source
    checkpoint, base, folder = found.checkpoint, found.base, found.base_folder
    spec = base.spec
    changed = checkpoint is not source.checkpoint
    original, first = _opener(source.checkpoint, base, folder)
    model, _ = _opener(checkpoint, base, folder)
    more = _more_frames(base, first)
    held = tuple(shown(c, spec, more) for c in line.console.track(clips.held_out, "decoding"))
    line.console.say(f"running the original on {len(held)} held-out clips")
    answers = judge.play_clips(original(1).infer, first, held)
    if not all(np.isfinite(rows).all() for rows in answers):
        raise UsageError(
            f"{spec.name}: the original itself answers NaN or infinity on real clips, so nothing can be "
            "compared with it. Check the weights, and mean and std of the spec"
        )
    if spec.task == "restoration":
        _refuse_lag(first.spec, answers, held)
    model_answers = judge.play_clips(model(1).infer, base, held) if changed else answers
    if spec.task == "classification":
        all_labelled(clips.held_out, spec.labels)
    stepper = Stepper(model(1).infer, spec, base.stream)
    before = Stepper(original(1).infer, first.spec, first.stream)
    probed = [held[i].frames for i in _probed(clips.held_out)]
    probes = tuple(_probe_feeds(stepper, probed))
    exam = judge.Exam(
        spec=spec,
        shown=held,
        names=tuple(clip_name(c) for c in clips.held_out),
        known=all(clip.truth is not None for clip in held),
        warmup=stepper.warmup,
        original=tuple(answers),
        model=tuple(model_answers),
        feeds=probes,
        max_drop=max_drop(line.options, spec),
        original_warmup=before.warmup,
        delay=base.stream.delay if base.stream else 0,
        others=judge.others(model(1).infer, spec, probes),
        clips=data_clips.clips_digest(clips.held_out),
        endless=_endless(model(1), base, held[0].frames) if found.grown else None,
        original_lag=first.spec.lag,
        unheld=unheld(clips.held_out, spec.labels),
    )
    return Subject(
        **vars(found) | {"notes": (*clips.notes, *_doubtful(clips.held_out, held), *found.notes)},
        exam=exam,
        original=(original, tuple(_probe_feeds(before, probed))),
        model=model,
        rows=_original_rows(source, checkpoint, base, first, exam),
        golden_clip=clips.held_out[0],
        held_out=clips.held_out,
    )


def _endless(engine: Engine, base: Variant, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A clip (T, C, H, W) played to and fro for long, and what the model answers to it."""
    video = to_and_fro(clip, ENDLESS)
    return video, clip_answers(engine.infer, base, [video])[0]


def _more_frames(base: Variant, first: Variant) -> int:
    """Frames of a clip that a restorer is not judged by: before its pictures count, and after the last."""
    both = []
    for variant in (base, first):
        warmup, delay = variant.spec.frames, 0
        if variant.stream:
            warmup, delay = variant.stream.warmup, variant.stream.delay
        both.append(Pictures.of(warmup, variant.spec.lag + delay))
    return both[0].beside(both[1]).needed


def _refuse_lag(spec: ModelSpec, answers: Sequence[np.ndarray], held: Sequence[Shown]) -> None:
    """Raise UsageError if a restorer's pictures show another frame of its clip than its spec says."""
    if spec.frames == 1 or any(clip.truth is None for clip in held):
        return
    enough = [(a, c) for a, c in zip(answers, held) if len(c.frames) >= 2 * spec.frames]
    if not enough:
        return
    lag, nearer = shows(spec, [a for a, _ in enough], [c for _, c in enough], spec.frames)
    if lag != spec.lag and nearer > SURELY_DB:
        raise UsageError(
            f"{spec.name}: its pictures are {nearer:.1f} dB nearer to the frame {lag} before the newest than "
            f"to the frame {spec.lag} before it, which is the spec's lag. Set lag = {lag}"
        )


def _doubtful(clips: Sequence[Clip], held: Sequence[Shown]) -> list[str]:
    """That held-out clips may not be whole, the first by name."""
    doubts = [f"{clip.path}: {one.doubt}" for clip, one in zip(clips, held) if one.doubt]
    count = f"{len(doubts)} of {len(held)} held-out clips"
    return [f"{count} may not be what they seem; the first: {doubts[0]}"] if doubts else []


def max_drop(options: Options, spec: ModelSpec) -> float:
    """What a variant may lose: points of accuracy, or dB of a restorer's pictures."""
    return options.max_drop if options.gate or spec.task != "restoration" else PICTURE_DROP_DB


def all_labelled(clips: Sequence[Clip], labels: Sequence[str]) -> bool:
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
        return EagerEngine(module, spec, stream)

    return opened, replace(base, spec=spec, stream=stream, form="step" if stream else "window")


def _probed(held: Sequence[Clip]) -> list[int]:
    """Places of at most ``PROBED`` clips; the first few are spread over labels and groups too."""
    return in_turns(held)[:PROBED]


def _probe_feeds(stepper: Stepper, clips: Iterable[np.ndarray]) -> list[Tensors]:
    """One input with warm states for each clip, (T, C, H, W) float32."""
    probes = []
    for clip in clips:
        steps = [
            feeds for feeds, _ in roll(stepper, hold_last(clip, stepper.warmup + stepper.chunk)) if feeds
        ]
        probes.append(copied(steps[-1]))
    return probes


def _original_rows(
    source: Source, checkpoint: Checkpoint | None, base: Variant, first: Variant, exam: judge.Exam
) -> tuple[Measurement, ...]:
    """The original, and the torch model that was made of it if it was changed, as rows of the report."""
    if source.checkpoint is None or checkpoint is None:
        row = Measurement(
            ORIGINALS["onnxruntime"],
            "host",
            "onnxruntime",
            base.precision,
            base.form,
            "the user's ONNX file",
            accuracy=exam.accuracy(exam.original),
        )
        return (row,)
    rows = [_torch_row(ORIGINALS["torch"], "the original", source.checkpoint, first, exam, exam.original)]
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
    answers: Sequence[np.ndarray],
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
        accuracy=exam.accuracy(answers),
        drop=exam.drop(answers, 0.0) if answers is not exam.original else None,
    )


def _weights_of(checkpoint: Checkpoint) -> int:
    """Parameters of the module as trained, before any rewriting."""
    return sum(p.numel() for p in build(replace(checkpoint, rewrite=None)).parameters())


def pack(line: Line, subject: Subject, target: Target, folder: Path) -> Exported:
    """Build, examine and measure every variant of one target in ``folder``, and write the bundle."""
    models = folder / "models"
    models.mkdir()
    shutil.copyfile(subject.base_folder / subject.base.path, models / "model.onnx")
    base = replace(subject.base, path="model.onnx")
    packed = run_builder(line, subject, target, base, models)
    packed, rows = _examined(line, subject, target, packed, models)
    rows = [_localised(r, packed, base, models, subject) for r in rows]
    rows, torch_rows = _timed(line, subject, target, packed, rows, models)
    chosen, why = _choice(subject, rows, line.options)
    kept = [v for v, r in zip(packed.variants, rows) if judge.keeps(r)]
    reasons = (
        why,
        *(f"{r.variant} {STRAY}: {judge.fault(r)}" for r in rows if not judge.keeps(r)),
        *filter(None, (judge.doubt(r) for r in rows if r is not chosen)),
        *filter(None, map(judge.partly, rows)),
        *(f"{name} was not made: {cause}" for name, cause in packed.failed.items()),
        *subject.notes,
        *packed.notes,
    )
    title = f"{subject.base.spec.name} for {target.name}"
    found = Report(
        title,
        (*torch_rows, *rows),
        subject.rows[0].variant,
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


def _examined(
    line: Line, subject: Subject, target: Target, packed: Packed, models: Path
) -> tuple[Packed, list[Measurement]]:
    """What its engine runs of a target's variants, with a row for each; the others go to ``failed``.

    Float twins of INT8 that nobody asked for are run too, and judge it.
    """
    if not target.min_sqnr_db:
        return packed, [_unexamined(v, target) for v in packed.variants]
    names = {v.name for v in packed.variants}
    twins = [v for v in packed.floats if v.name not in names]
    rows: dict[str, Measurement] = {}
    failed: dict[str, EdgepvError] = {}
    for v in line.console.track((*packed.variants, *twins), f"{target.name}: running on held-out clips"):
        try:
            rows[v.name] = judge.examine(v, models, target, subject.exam)
        except Exception as e:  # engines raise anything
            failed[v.name] = reason(e)
    run = tuple(v for v in packed.variants if v.name in rows)
    if not run:
        nothing_made(target.name, failed)
    why = {name: str(e) for name, e in failed.items() if name in names}
    floats = [row for row in rows.values() if row.precision == "fp32"]
    judged = judge.by_engine([rows[v.name] for v in run], floats)
    if subject.base.precision == "int8":
        judged = [_as_given(row) for row in judged]
    return replace(packed, variants=run, failed={**packed.failed, **why}), judged


def _as_given(row: Measurement) -> Measurement:
    """A row of a file that was quantized before: convolutions that it keeps in float are no fault."""
    meant = row.audit is None or any(c.planned == "int8" for c in row.audit.convolutions)
    integer = row.audit is not None and row.audit.int8 > 0
    return row if meant or integer else replace(row, audit=None)


def _choice(subject: Subject, rows: Sequence[Measurement], options: Options) -> tuple[Measurement, str]:
    """``judge.choose``; a stream that lost its accuracy is told apart from what INT8 lost."""
    try:
        return judge.choose(rows, latency_ms=options.latency_ms)
    except AccuracyGateError as e:
        stream, frames = subject.base.stream, subject.source.spec.frames
        streamed = subject.checkpoint is not None and subject.checkpoint.rewrite is not None
        field = stream.receptive_field if stream and streamed else None
        if field is None or field <= frames:
            raise
        raise AccuracyGateError(
            f"{e}. As a stream it sees {field} frames where its clips of {frames} ended in padding: if that "
            "is what costs, export with --stream window"
        ) from e


def clip_name(clip: Clip) -> str:
    """How reports call a clip: its folder, which is its label or its source, and its file."""
    return f"{clip.path.parent.name}/{clip.path.name}"


def thumbnails(rows: Sequence[Measurement], clips: Sequence[Clip]) -> dict[str, str]:
    """A small JPEG, base64, of the middle frame of every clip that a row names as one of its worst."""
    worst = [one for row in rows if row.parity for one in row.parity.worst]
    named = {one.clip for one in worst if one.agreement is None or one.agreement < 1}
    cv2 = need("cv2", extra="cpu")
    found = {}
    for clip in clips:
        if clip_name(clip) in named:
            frame = _middle(clip.path)
            size = (THUMBNAIL, max(1, round(THUMBNAIL * frame.shape[0] / frame.shape[1])))
            _, data = cv2.imencode(".jpg", cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
            found[clip_name(clip)] = base64.b64encode(data.tobytes()).decode("ascii")
    return dict(sorted(found.items()))


def _middle(path: Path) -> np.ndarray:
    """The frame in the middle of a video, found by reading it twice; one frame is held at a time."""
    with open_video(path) as video:
        count = sum(1 for _ in video)
    with open_video(path) as video:
        return next(itertools.islice(video, count // 2, None)).pixels


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
    """(rows with latency and memory, the original's rows with latency). TensorRT is not timed on a host."""
    here = [v for v in packed.variants if v.engine != "tensorrt"]
    found: dict[str, Any] = {}
    if here and subject.exam.feeds:
        line.console.say(f"{target.name}: timing {len(here) + 1} variants, interleaved")
        baseline = subject.rows[0].variant
        found = latencies(here, models, subject.exam.feeds, original=subject.original, baseline=baseline)
    facts = device_facts()
    params = subject.rows[-1].params
    cost = subject.rows[-1].gflops_per_frame
    timed = []
    for variant, row in zip(packed.variants, rows):
        row = replace(row, params=params, gflops_per_frame=cost, latency=found.get(row.variant, ()))
        if variant in here:
            row = replace(row, device=facts, rss_mib=_peak_rss_mib(variant, models))
        timed.append(row)
    torch_rows = [
        replace(r, latency=found.get(r.variant, ()), device=facts if r.variant in found else None)
        for r in subject.rows
    ]
    return timed, torch_rows


def _peak_rss_mib(variant: Variant, models: Path) -> float | None:
    """None where the process that is measured does not end by itself: its memory may not be there."""
    try:
        return peak_rss_mib(variant, models)
    except UsageError:
        return None


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
        postprocessing=_postprocessing(subject.base.spec),
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
        proven={v.name: proof(bundle.on_this_host(v).engine) for v in variants},
    )
    bundle.write(folder, content, measured)


def _postprocessing(spec: ModelSpec) -> str:
    return PROBABILITIES if spec.scores == "probabilities" else POSTPROCESSING[spec.task]


def write_golden(subject: Subject, variants: Sequence[Variant], folder: Path) -> dict[str, Any]:
    """Frames of one held-out clip, and what the converted torch model and each variant answer.

    The frames have the model's size: OpenCV rounds a few values to another grey level on Arm
    when it resizes, and golden answers are about engines.
    """
    from safetensors.numpy import save

    from edgepv.bundle.golden import play

    spec = subject.base.spec
    with open_video(subject.golden_clip.path) as video:
        first = itertools.islice(taken(video, spec.fps), subject.exam.warmup + 4)
        small = np.stack([at_model_size(frame.pixels, spec) for frame in first])
    frames = hold_last(small, subject.exam.warmup + 2)
    tensors = {"frames": frames, "torch": play(subject.model(1), subject.base, frames)}
    for variant in variants:
        tensors[variant.name] = play(open_replay(variant, folder), variant, frames)
    (folder / bundle.GOLDEN).write_bytes(save(tensors))
    return {"file": bundle.GOLDEN, "frames": len(frames)}


def open_replay(variant: Variant, folder: Path) -> Engine:
    """The variant's own engine, or ONNX Runtime for a file meant for TensorRT."""
    return open_engine(bundle.on_this_host(variant), folder)


def sensitivity(
    options: Options, console: Console, *, cut: float | None = None
) -> tuple[LayerSensitivity, ...]:
    """What INT8 of each layer alone costs a model, the most sensitive first; from the cache if it is known.

    cut: instead, what cutting this share of the channels of each group of layers alone costs, before any
    fine-tuning. Ranges come from the calibration clips. Answers are compared on the held-out ones: of all of
    them after a cut, of at most ``PROBED``, labels in turns, in INT8. Raises UsageError if there are no clips
    the model was made for.
    """
    line = Line(options, console)
    source = load(options)
    for note in load_notes(source.checkpoint):
        console.say(note)
    clips = gather(options, source.spec)
    if not clips.fits:
        raise UsageError(f"{source.spec.name} needs clips like those its camera will see: --clips DIR")
    held = clips.held_out
    truth = None
    if source.spec.task == "classification" and all_labelled(held, source.spec.labels):
        truth = [source.spec.labels.index(str(c.label)) for c in held]
    key: dict[str, Any] = {"held out": digest([(sha256(c.path), c.label) for c in held])}
    if cut is not None and source.spec.task != "classification":
        raise UsageError(f"cuts are tried on classifiers; {source.spec.name} is for {source.spec.task}")
    if cut is None:
        found = _int8_alone(line, source, clips, truth, key)
    else:
        found = _cut_alone(line, source, clips, truth, key, cut)
    return tuple(decode(LayerSensitivity, row) for row in found)


def sparsity(options: Options) -> tuple[LayerSparsity, ...]:
    """Every layer of a model against NVIDIA's 2:4 pattern. Raises UsageError for an ONNX file."""
    from edgepv.quantize.sparsity import check

    checkpoint = load(options).checkpoint
    if checkpoint is None:
        raise UsageError("the 2:4 pattern is checked on torch weights. Give the builder and its weights")
    return check(checkpoint)


def _int8_alone(
    line: Line, source: Source, clips: Clips, truth: list[int] | None, key: dict[str, Any]
) -> list[Any]:
    from edgepv.quantize.sensitivity import per_layer

    model = lowered(line, source, clips)
    base, folder = model.base, model.base_folder
    if base.precision == "int8":
        raise UsageError(f"{source.onnx} is quantized already. Give the float model to see what INT8 costs")
    chosen, probed = calibration_set(clips.calibration, base.spec), _probed(clips.held_out)

    def make(_: Path) -> Any:
        stepper = Stepper(open_engine(base, folder).infer, base.spec, base.stream)
        feeds = rolled_feeds(stepper, chosen, base.spec)
        probes = _probe_feeds(stepper, (model_frames(clips.held_out[i].path, base.spec) for i in probed))
        known = [truth[i] for i in probed] if truth else None
        return encode(per_layer(base, folder, feeds, probes, line.console.track, known))

    key |= {"model": base.sha256, "calibration": chosen.digest, "probed": probed}
    result: list[Any] = line.step("sensitivity", key, ("onnx", "onnxruntime"), make)[1]
    return result


def _cut_alone(
    line: Line, source: Source, clips: Clips, truth: list[int] | None, key: dict[str, Any], cut: float
) -> list[Any]:
    from edgepv.quantize.sensitivity import per_group

    checkpoint = source.checkpoint
    if checkpoint is None:
        raise UsageError("an ONNX file has no channels to cut here. Give the builder and its weights")

    def make(_: Path) -> Any:
        frames = [model_frames(c.path, source.spec) for c in clips.held_out]
        return encode(per_group(checkpoint, frames, truth, cut, line.console.track))

    key |= {**source_key(source), "cut": cut}
    result: list[Any] = line.step("sensitivity", key, ("torch", "torch-pruning"), make)[1]
    return result
