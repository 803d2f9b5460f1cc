"""Build, time and score one candidate. Everything is cached by what went into it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgepv.base import cache
from edgepv.base.console import Console
from edgepv.base.files import digest
from edgepv.base.machine import machine, versions
from edgepv.base.options import Option, options_of
from edgepv.base.tasks import task_of
from edgepv.data.clips import Clip, clips_digest, unheld
from edgepv.data.frames import model_frames
from edgepv.data.split import search_and_final
from edgepv.errors import UsageError
from edgepv.measure.answers import clip_answers, scores
from edgepv.measure.latency import alone, on_noise
from edgepv.metrics.margins import margin_drop, margins
from edgepv.metrics.tasks import not_applied
from edgepv.model.checkpoint import build
from edgepv.model.spec import at_size
from edgepv.pipeline.build import run_builder
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import Lowered, Ready, lowered, ready
from edgepv.pipeline.lower import streamed
from edgepv.pipeline.options import Options, steps_of
from edgepv.pipeline.source import Clips, Source, all_labelled, gather, load, source_key
from edgepv.quantize.prune import clip_example
from edgepv.quantize.step import CheckpointStep, asked, broken_steps, steps
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.search import costs
from edgepv.search.space import Axis, Candidate, Form, Space, sizes_for, variants_of
from edgepv.stream import NotStreamableError, Stepper, flatten
from edgepv.targets import target as find_target
from edgepv.types import Latency, PairedDrop, Variant, decode, encode

CALLS = 90
"""Of a candidate in its trial: seconds at most, for a ratio that orders candidates; finalists get more."""
RUNNERS = ("edgepv", "numpy", "onnxruntime", "openvino", "ai-edge-litert")
TOOLS = (*RUNNERS, "torch", "torch-pruning", "onnx", "onnxscript", "nncf", "ai-edge-quantizer")


@dataclass(frozen=True)
class SearchRequest:
    """What is asked: the model and clips in ``options``, and what the answer must keep.

    latency_ms: limit of the ``percentile`` (50 or 99) of one answer on this machine, one thread.
    options.max_drop: points of top-1 that may be lost. tune_epochs: of a finalist; short_epochs: of a trial.
    """

    options: Options
    latency_ms: float
    percentile: Literal[50, 99] = 99
    tune_epochs: int = 10
    short_epochs: int = 2
    seed: int = 0


@dataclass(frozen=True)
class TrialResult:
    """What was measured of a candidate. variant, folder: what was built. latency: of one answer, here.

    ratio: its p50 over that of the reference, timed in turns with it. drop: on the search clips, against the
    original. top1: share of the search clips it got right.
    """

    candidate: Candidate
    variant: Variant
    folder: str
    latency: Latency
    ratio: float
    drop: PairedDrop
    top1: float


class TrialRunner:
    """One model on this machine, and the clips that judge its candidates.

    Calibration clips set ranges and training clips fine-tune; the held-out clips are halved into ``search``,
    on which candidates are compared, and ``final``, which is not touched here.
    """

    def __init__(self, question: SearchRequest, console: Console) -> None:
        """Raises UsageError for clips that cannot judge, or a target that cannot be measured here."""
        self.question, self.console = question, console
        options = question.options
        self.target = find_target(options.targets[0])
        self.variants = variants_of(self.target, options.precision)
        self.source = classifier(options)
        self.clips = _labelled(gather(options, self.source.spec), self.source)
        for note in self.clips.notes:
            console.say(note)
        self.search, self.final = _judges(self.clips.held_out, console)
        self.native = self.source.spec.input.shape[-1]
        self._inputs: Ready | None = None
        self.space = self._space()
        self.space = replace(self.space, forms=self._sound())

    def _space(self) -> Space:
        checkpoint = self.source.checkpoint
        forms: tuple[Form, ...] = ("stream",)
        if checkpoint is not None and self.source.spec.input.layout == "NCTHW":
            converted, _, notes = streamed(
                RunContext(self.question.options, self.console), checkpoint, self.clips
            )
            for note in notes:
                self.console.say(note)
            forms = ("clip",) if converted is checkpoint else ("clip", "stream")
            with contextlib.suppress(NotStreamableError):
                flatten(build(checkpoint), self.source.spec)
                forms = ("clip", "flat", *forms[1:])
        first = variants_of(self.target, "auto")[0]
        return Space(self.variants, forms, self._sizes(), self._axes(), first)

    def _sound(self) -> tuple[Form, ...]:
        """The forms that may win: a stream that surely loses too much in float is not tried at all."""
        start, forms = self.space.start(), self.space.forms
        if forms[-1] != "stream" or len(forms) == 1:
            return forms
        clip_margins = self.margins(*self.make(replace(start, form="stream"), 0), self.search)
        drop = self.lost(self.original(), clip_margins, self.search)
        if drop.verdict != "fail":
            return forms
        self.console.say(
            f"not searched as a stream: that loses {drop.points:.0f} points of {drop.n} clips "
            "before anything is compressed"
        )
        return forms[:-1]

    def _sizes(self) -> tuple[int, ...]:
        """Smaller frames are searched only where the model can be fine-tuned for them."""
        if self.source.checkpoint is None or not self.clips.train:
            return (self.native,)
        return sizes_for(self.native)

    def _axes(self) -> tuple[Axis, ...]:
        """The options of steps that are searched, as far as the steps can work on this model."""
        if self.source.checkpoint is None or not self.clips.train:
            self.console.say("no training clips: widths and sizes stay as they are, nothing could be tuned")
        for line in broken_steps():
            self.console.say(line)
        axes, made_by = [], steps_of(self.target)
        for name, kind in steps().items():
            for option in (o for o in options_of(kind) if o.searched):
                if issubclass(kind, CheckpointStep):
                    places = self._places(kind, option)
                    axes += [Axis(option.key, option.searched, places)] if places else []
                elif by_it := tuple(v for v in self.variants if made_by.get(v) == name):
                    axes.append(Axis(option.key, option.searched, variants=by_it))
        return tuple(axes)

    def _places(self, kind: type[CheckpointStep], option: Option) -> int:
        """How many values the option has for this model; 0 if its step cannot work on it, and why is said."""
        checkpoint = self.source.checkpoint
        if checkpoint is None or (kind.needs_clips and not self.clips.train):
            return 0
        step = kind.of({option.key: option.searched[-1]})
        try:
            with tempfile.TemporaryDirectory() as scratch:
                step(checkpoint, Path(scratch) / "tried.safetensors")
            return step.places(checkpoint)
        except UsageError as e:
            self.console.say(f"{option.flag} is not searched: {e}")
            return 0

    def changed(self, candidate: Candidate) -> bool:
        """Whether its weights are others than the original's, so that fine-tuning is due."""
        return any(step.lossy for step in asked(candidate.given)) or candidate.size != self.native

    def epochs(self, candidate: Candidate, wanted: int | None = None) -> int | None:
        """Of fine-tuning; None for weights that are the original's, or where no clips can train."""
        if not self.changed(candidate) or not self.clips.train:
            return None
        return self.question.tune_epochs if wanted is None else wanted

    def make(self, candidate: Candidate, epochs: int) -> tuple[Variant, Path]:
        """(variant, folder it lies in) of a candidate, fine-tuned for ``epochs`` where it was changed."""
        options = candidate.options(self.question.options, self.native, self.epochs(candidate, epochs))
        key = {
            "step": "search build",
            "options": encode(without_paths(options)),
            "model": source_key(self.source),
            "clips": clips_digest([*self.clips.train, *self.clips.calibration], ordered=True),
            "tools": versions(TOOLS),
        }

        def build_it(folder: Path) -> Any:
            return encode(self._built(options, folder))

        folder, result, _ = cache.cached(key, build_it)
        return decode(Variant, result), folder

    def _built(self, options: Options, folder: Path) -> Variant:
        context = RunContext(options, Console(quiet=True))
        source = self.source
        if options.size is not None and source.checkpoint:
            spec = at_size(source.spec, options.size)
            source = Source(spec, replace(source.checkpoint, spec=spec))
        model = lowered(context, source, self.clips)
        base = replace(model.base, path="model.onnx")
        (folder / "model.onnx").write_bytes((model.base_folder / model.base.path).read_bytes())
        built = run_builder(context, self._ready(context, model), self.target, base, folder)
        return built.variants[0]

    def _ready(self, context: RunContext, model: Lowered) -> Ready:
        """With its calibration inputs, which are kept for the next candidate: often it needs the same."""
        if context.options.precision != "int8":
            return ready(context, model, self.clips)
        if self._inputs is None or self._inputs.lowered.base.sha256 != model.base.sha256:
            self._inputs = None  # free the old ones first, they are large
            self._inputs = ready(context, model, self.clips)
        known = self._inputs
        return Ready(model, calibration=known.calibration, feeds=known.feeds, grown=known.grown)

    def lost(self, before: np.ndarray, after: np.ndarray, clips: Sequence[Clip]) -> PairedDrop:
        """What margins ``after`` lose against ``before`` on these clips, over their groups."""
        groups = [c.group for c in clips]
        drop = margin_drop(before, after, max_drop=self.question.options.max_drop, groups=groups)
        return not_applied(drop) if unheld(clips, self.source.spec.labels) else drop

    def measure(
        self,
        candidate: Candidate,
        timed: Callable[[Latency, float], None] = lambda latency, ratio: None,
        *,
        epochs: int | None = None,
    ) -> TrialResult:
        """Build, time, train and score a candidate. Raises EdgepvError if that is not possible.

        timed: is told latency and ratio before the candidate is trained, and may end it there by raising:
        time does not depend on what weights hold. epochs: of fine-tuning, by default those of a trial.
        """
        latency, ratio = self._timed(*self.make(candidate, 0))
        timed(latency, ratio)
        variant, folder = self.make(candidate, self.question.short_epochs if epochs is None else epochs)
        clip_margins = self.margins(variant, folder, self.search)
        drop = self.lost(self.original(), clip_margins, self.search)
        return TrialResult(
            candidate, variant, str(folder), latency, ratio, drop, float((clip_margins > 0).mean())
        )

    def reference(self) -> tuple[Variant, Path]:
        """What latencies are compared to: the unchanged model in float, in its fastest form."""
        return self.make(replace(self.space.start(), form=self.space.forms[-1]), 0)

    def _timed(self, variant: Variant, folder: Path) -> tuple[Latency, float]:
        """(latency, p50 over the reference's) on one thread, timed in turns; cached by machine."""
        base, base_folder = self.reference()
        key = {
            "step": "search time",
            "variant": timed_as(variant),
            "reference": timed_as(base),
            "machine": machine(),
            "tools": versions(RUNNERS),
        }

        def time_it(_: Path) -> Any:
            latencies = in_turns(
                {"candidate": (variant, folder), "reference": (base, base_folder)}, calls=CALLS
            )
            ratio = latencies["candidate"].p50_ms / latencies["reference"].p50_ms
            return {"latency": encode(latencies["candidate"]), "ratio": ratio}

        result = cache.cached(key, time_it)[1]
        return decode(Latency, result["latency"]), float(result["ratio"])

    def margins(self, variant: Variant, folder: Path, clips: Sequence[Clip]) -> np.ndarray:
        """(clips,) margins of a variant's answers. Float engines share them: their numbers are the same."""
        key = {
            "step": "search margins",
            "variant": [variant.sha256, variant.precision, digest(variant.spec), digest(variant.stream)],
            "engine": "any" if variant.precision == "fp32" else variant.engine,
            "clips": clips_digest(clips, ordered=True),
            "tools": versions(RUNNERS),
        }

        def score(_: Path) -> Any:
            with engines((variant, folder)) as (engine,):
                frames = (model_frames(c.path, variant.spec) for c in clips)
                rows = clip_answers(engine.infer, variant, frames)
                warmup = Stepper(engine.infer, variant.spec, variant.stream).warmup
            return margins(scores(rows, warmup), self._truth(clips)).tolist()

        return np.array(cache.cached(key, score)[1])

    def original(self, clips: Sequence[Clip] | None = None) -> np.ndarray:
        """(clips,) margins of the original model, in its own form, on these clips (default: search clips)."""
        variant, folder = self.make(self.space.start(), 0)
        return self.margins(variant, folder, self.search if clips is None else clips)

    def features(self, candidate: Candidate) -> tuple[float, ...] | None:
        """What the latency model knows of a candidate, without building it; None for an ONNX file."""
        checkpoint = self.source.checkpoint
        if checkpoint is None:
            return None
        made_by = asked({**self.question.options.steps, **candidate.given})
        made_by = tuple(s for s in made_by if not (s.learns or s.watches))
        before = checkpoint.spec.before
        key = {
            "step": "search layers",
            "model": source_key(self.source),
            "steps": [[step.name, step.version, encode(step)] for step in made_by],
            "size": candidate.size,
            "tools": versions(TOOLS),
        }

        def count(folder: Path) -> Any:
            sized = replace(checkpoint, spec=at_size(checkpoint.spec, candidate.size))
            for step in made_by:
                sized = step(sized, folder / f"{step.name}.safetensors")
            layers = costs.layers_of(build(sized), clip_example(sized.spec))
            for file in folder.glob("*.safetensors"):
                file.unlink()
            chain = (candidate.size**2 * len(before) / 1e6,) if before else ()  # what its time grows with
            return (*costs.features(layers), *chain)

        return tuple(cache.cached(key, count)[1])

    def _truth(self, clips: Sequence[Clip]) -> np.ndarray:
        return np.array([self.source.spec.labels.index(str(c.label)) for c in clips])


def classifier(options: Options) -> Source:
    """The model of the options. Raises UsageError if it is for another task than classification."""
    source = load(options)
    if not task_of(source.spec).classifies:
        name, task = source.spec.name, source.spec.task
        raise UsageError(f"the search knows classifiers; {name} is for {task}. Use edgepv export")
    return source


def _judges(held_out: Sequence[Clip], console: Console) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """(search clips, final clips): validation and test where both are named, else two halves."""
    first, second, torn = search_and_final(list(held_out))
    if not first or not second:
        raise UsageError(
            f"{len(held_out)} held-out clips cannot be halved into search and final clips. Give more "
            "labelled clips"
        )
    if torn:
        console.say(
            f"{', '.join(torn)}: filmed in one piece each, so footage of these stands in both halves, and "
            "their final figure is a little flattered"
        )
    return tuple(first), tuple(second)


def _labelled(clips: Clips, source: Source) -> Clips:
    if not clips.fits or not all_labelled(clips.held_out, source.spec.labels):
        raise UsageError(
            f"the search judges by accuracy, and {source.spec.name} has no labelled clips. Give them: "
            "--clips DIR with one folder for each label"
        )
    return clips


def without_paths(options: Options) -> Options:
    """What of the options changes a candidate: files count by what is in them, and that is told elsewhere."""
    return replace(
        options,
        model="",
        out="",
        weights=None,
        spec=None,
        clips=None,
        force=False,
        gate=False,
        max_drop=0.0,
        latency_ms=None,
    )


def timed_as(variant: Variant) -> list[object]:
    """What the time of a variant depends on, for the cache."""
    return [variant.sha256, variant.engine, variant.precision, list(variant.spec.before)]


def in_turns(
    named: Mapping[str, tuple[Variant, Path]], *, calls: int, budget_s: float | None = None
) -> dict[str, Latency]:
    """Latency of variants, each in its folder, on noise and one thread, while no other worker measures.

    What comes before the model is in it.
    """
    with alone():
        opened = {name: (open_engine(v, folder, threads=1), v) for name, (v, folder) in named.items()}
        return on_noise(opened, threads=1, calls=calls, budget_s=budget_s, chain=True)


def at_percentile(latency: Latency, percentile: int) -> float:
    """Milliseconds at the percentile (50 or 99) a search asks for, or at the highest that the calls support.

    A trial has too few calls for p99 and is held to less; the finalists are timed with enough.
    """
    known = [ms for ms in (latency.p50_ms, latency.p95_ms, latency.p99_ms) if ms is not None]
    return known[-1] if percentile == 99 else latency.p50_ms


@contextlib.contextmanager
def engines(*opened: tuple[Variant, Path]) -> Iterator[tuple[Engine, ...]]:
    """Open engines on one thread each, closed at the end."""
    open_engines = tuple(open_engine(variant, folder, threads=1) for variant, folder in opened)
    try:
        yield open_engines
    finally:
        for engine in open_engines:
            engine.close()
