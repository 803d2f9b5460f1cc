"""A model made ready for its exam: what the original answers on the held-out clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgepv.base.optional import need
from edgepv.base.tasks import MOST_MASKED, task_of
from edgepv.data.calibration import in_turns, to_and_fro
from edgepv.data.clips import Clip, clips_digest, unheld
from edgepv.data.frames import hold_last, model_frames
from edgepv.data.truth import EvalClip, eval_clip
from edgepv.errors import ModelError, UsageError
from edgepv.measure.answers import clip_answers
from edgepv.metrics.gate import within_limit
from edgepv.metrics.resolution import resolution
from edgepv.metrics.segmentation import confusions, shows_labels
from edgepv.metrics.tasks import Pictures, clip_scores, groups_of, shows
from edgepv.model.surgery import parameters
from edgepv.pipeline import evaluate
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import Lowered, Ready, lowered, ready
from edgepv.pipeline.options import max_drop
from edgepv.pipeline.source import Clips, Source, all_labelled
from edgepv.pipeline.spoilt import SpoiltClips, spoilt_clips
from edgepv.quantize.step import checkpoint_steps
from edgepv.report.compare import ORIGINALS
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import Stepper, Tensors, copied
from edgepv.stream.account import too_far
from edgepv.types import Checkpoint, LayerSensitivity, Measurement, ModelSpec, PairedDrop, Variant
from edgepv.zoo import alarm

ENDLESS = 1024
"""Frames of the video on which a model with states that grow for ever is compared."""
WATCHED_FRAMES = 256
"""Frames of one film without labels on which changed answers are counted: neighbours tell little more."""
PROBED = 32
"""Held-out clips of which one input each is kept, to look inside a model and to time it."""

SURELY_DB = 1.0  # a restorer's picture that is so much nearer to another frame shows that one
STREAMED = ("stream", "made to step")
"""What streaming adds to a row's name, and what the report says of it."""


@dataclass(frozen=True)
class PreparedModel:
    """The model as the targets' builders get it, with the evaluation that its artifacts must pass.

    notes: what a person must know. original: opens the model before pruning, and inputs for it; model: opens
    what was converted. rows: of the original first, then of what torch made of it. beside: of a stream that
    was judged too and is not converted. spoilt: clips to see how answers hold on; None: not asked for.
    sensitivity: what INT8 of each layer alone costs; () where it was not measured. chain_ms: what the chain
    before the model takes of a picture here, at p99.
    """

    ready: Ready
    notes: tuple[str, ...]
    evaluation: evaluate.Evaluation
    original: tuple[Callable[[int], Engine], tuple[Tensors, ...]]
    model: Callable[[int], Engine]
    rows: tuple[Measurement, ...]
    golden_clip: Clip
    held_out: tuple[Clip, ...]
    beside: tuple[Measurement, ...] = ()
    spoilt: SpoiltClips | None = None
    sensitivity: tuple[LayerSensitivity, ...] = ()
    chain_ms: float = 0.0

    @property
    def lowered(self) -> Lowered:
        """The float model that the variants are made of."""
        return self.ready.lowered


def prepare(context: RunContext, source: Source, clips: Clips) -> PreparedModel:
    """Run the line up to the targets, and let the original answer the held-out clips.

    A clip model that was made to step is judged beside its sliding window: a stream that loses more against
    that than the gate allows gives way to it, however fast it is. See ``_loses``.
    """
    stream = _prepared(context, source, clips)
    checkpoint, row = stream.lowered.checkpoint, stream.rows[-1]
    how = stream.lowered.base.stream
    if checkpoint is None or checkpoint.rewrite is None or how is None:
        return stream
    far = too_far(source.spec, how)
    if not _loses(row.drop, far):
        return stream
    steps = {key: value for key, value in context.options.steps.items() if key != "stream_tune"}
    options = replace(context.options, stream="window", steps=steps)
    window = _prepared(replace(context, options=options), source, clips)
    lost = stream.evaluation.drop_from(window.evaluation)
    if not _loses(lost, far):
        return stream
    cost = f"a window, which computes all {source.spec.frames} frames again for every answer"
    loss = f"{lost.figures()[0]} {lost.unit} against it ({lost.interval()}, {lost.n} clips)"
    note = f"{source.spec.name} stays {cost}: as a stream it loses {loss}, more than {lost.max_drop:g}"
    context.console.say(note)
    return replace(window, beside=(row,), notes=(*window.notes, note, *filter(None, [far])))


def _loses(drop: PairedDrop | None, far: str | None) -> bool:
    """Whether a stream loses more than the gate allows: surely, or, of one that looks far, by the estimate.

    A loss that nobody measured is none. far: the warning of ``too_far``.
    """
    return drop is not None and (drop.verdict == "fail" or (far is not None and not within_limit(drop)))


def _prepared(context: RunContext, source: Source, clips: Clips) -> PreparedModel:
    """What ``prepare`` makes of one form of the model, a stream or a window."""
    calibrated = ready(context, lowered(context, source, clips), clips)
    lowered_model = calibrated.lowered
    source, checkpoint = lowered_model.source, lowered_model.checkpoint
    base, folder = lowered_model.base, lowered_model.base_folder
    spec = base.spec
    changed = checkpoint is not source.checkpoint
    original, first = _opener(context, source.checkpoint, base, folder)
    model, _ = _opener(context, checkpoint, base, folder)
    more = _more_frames(base, first)
    shown = tuple(eval_clip(c, spec, more) for c in context.console.track(clips.held_out, "decoding"))
    context.console.say(f"running the original on {len(shown)} held-out clips")
    answers = evaluate.play_clips(original(1).infer, first, shown)
    if not all(np.isfinite(rows).all() for rows in answers):
        raise ModelError(
            f"{spec.name}: the original itself answers NaN or infinity on real clips, so nothing can be "
            "compared with it. Check the weights, and mean and std of the spec"
        )
    if task_of(spec).shows:
        _refuse_lag(first.spec, answers, shown)
    watched = _watched(context, clips, spec)
    model_answers = evaluate.play_clips(model(1).infer, base, shown) if changed else answers
    if task_of(spec).classifies:
        all_labelled(clips.held_out, spec.labels)
    stepper = Stepper(model(1).infer, spec, base.stream)
    before = Stepper(original(1).infer, first.spec, first.stream)
    probed = [shown[i].frames for i in probed_clips(clips.held_out)]
    probes = tuple(probe_feeds(stepper, probed))
    evaluation = evaluate.Evaluation(
        spec=spec,
        shown=shown,
        names=tuple(clip_name(c) for c in clips.held_out),
        known=all(clip.truth is not None for clip in shown),
        warmup=stepper.warmup,
        original=tuple(answers),
        model=tuple(model_answers),
        feeds=probes,
        max_drop=max_drop(context.options, spec),
        original_warmup=before.warmup,
        delay=base.stream.delay if base.stream else 0,
        other_answers=evaluate.other_answers(model(1).infer, spec, probes),
        clips=clips_digest(clips.held_out),
        endless=_endless(model(1), base, shown[0].frames) if calibrated.grown else None,
        original_lag=first.spec.lag,
        unheld=unheld(clips.held_out, spec.labels),
        watched=watched,
        watched_original=tuple(evaluate.play_clips(original(1).infer, first, watched)),
        alarm=_alarm(spec),
    )
    nothing_true = _nothing_true(evaluation)
    if nothing_true:
        evaluation = replace(evaluation, known=False)
    if task_of(spec).classifies and evaluation.known and not evaluation.unheld:
        context.console.say(_told_by_clips(evaluation))
    return PreparedModel(
        ready=calibrated,
        notes=(*clips.notes, *nothing_true, *_doubtful(clips.held_out, shown), *lowered_model.notes),
        evaluation=evaluation,
        original=(original, tuple(probe_feeds(before, probed))),
        model=model,
        rows=_original_rows(context, source, checkpoint, base, first, evaluation),
        golden_clip=clips.held_out[0],
        held_out=clips.held_out,
        spoilt=spoilt_clips(evaluation, clips.held_out, base, folder, context.options.robustness),
    )


def _alarm(spec: ModelSpec) -> tuple[str, float, str] | None:
    """The threshold that the card of a built-in model says, with its label."""
    point = alarm(spec.name)
    return (*point, "the model's card") if point else None


def _told_by_clips(evaluation: evaluate.Evaluation) -> str:
    """What the held-out clips can tell of a variant of this classifier."""
    scores = np.stack([clip_scores(rows, evaluation.original_warmup) for rows in evaluation.original])
    truth = [int(c.truth) for c in evaluation.shown]  # type: ignore[arg-type]  # of a classifier: a label
    return resolution(scores, truth, groups_of(evaluation.shown), evaluation.max_drop).told()


def _nothing_true(evaluation: evaluate.Evaluation) -> tuple[str, ...]:
    """That the truth shows none of the model's labels, so that a figure of 0 would judge nobody.

    Of a detector no true box; of a segmenter no true px in the frames that are looked at.
    """
    spec, shown = evaluation.spec, evaluation.shown
    frames = [true for clip in shown if isinstance(clip.truth, tuple) for true in clip.truth]
    if task_of(spec).finds and frames and not any((~true.crowd).any() for true in frames):
        what = f"no true box of a label of the model in {len(frames)} held-out pictures"
    elif task_of(spec).segments and evaluation.known and not _shown(evaluation):
        first = evaluation.pictures[0].first
        of = f"frames {first} to {MOST_MASKED - 1}" if first else f"the first {MOST_MASKED} frames"
        what = f"no mask of {of} of the held-out clips shows a label of the model"
    else:
        return ()
    return (f"accuracy is not judged: {what}",)


def _shown(evaluation: evaluate.Evaluation) -> bool:
    """Whether the masks that a segmenter is judged by show one of its labels."""
    spec, which = evaluation.spec, evaluation.pictures[0]
    return shows_labels(
        spec, confusions(spec, evaluation.original, evaluation.shown, which.late, which.first)
    )


def _watched(context: RunContext, clips: Clips, spec: ModelSpec) -> tuple[EvalClip, ...]:
    """Video without labels on which changed answers are counted: a classifier's, or a detector's boxes."""
    task = task_of(spec)
    if not task.classifies and not task.finds:
        return ()
    shown = context.console.track(clips.watched, "decoding footage")
    if task.finds:
        return tuple(eval_clip(clip, spec) for clip in shown)
    return tuple(EvalClip(model_frames(c.path, spec, WATCHED_FRAMES), None, group=c.group) for c in shown)


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


def _refuse_lag(spec: ModelSpec, answers: Sequence[np.ndarray], shown: Sequence[EvalClip]) -> None:
    """Raise UsageError if a restorer's pictures show another frame of its clip than its spec says."""
    if spec.frames == 1 or any(clip.truth is None for clip in shown):
        return
    enough = [(a, c) for a, c in zip(answers, shown) if len(c.frames) >= 2 * spec.frames]
    if not enough:
        return
    lag, nearer = shows(spec, [a for a, _ in enough], [c for _, c in enough], spec.frames)
    if lag != spec.lag and nearer > SURELY_DB:
        raise UsageError(
            f"{spec.name}: its pictures are {nearer:.1f} dB nearer to the frame {lag} before the newest than "
            f"to the frame {spec.lag} before it, which is the spec's lag. Set lag = {lag}"
        )


def _doubtful(clips: Sequence[Clip], shown: Sequence[EvalClip]) -> list[str]:
    """That held-out clips may not be whole, the first by name."""
    doubts = [f"{clip.path}: {one.doubt}" for clip, one in zip(clips, shown) if one.doubt]
    count = f"{len(doubts)} of {len(shown)} held-out clips"
    return [f"{count} may not be what they seem; the first: {doubts[0]}"] if doubts else []


def _opener(
    context: RunContext, checkpoint: Checkpoint | None, base: Variant, folder: Path
) -> tuple[Callable[[int], Engine], Variant]:
    """Opens torch eager for a checkpoint, ONNX Runtime for a user's ONNX file; and how it is stepped.

    An original that was pruned later has larger states than ``base``, one that was streamed has none.
    """
    from edgepv.export.to_onnx import stream_spec

    if checkpoint is None:
        return lambda threads: open_engine(base, folder, threads=threads), base
    module, spec = context.module(checkpoint), checkpoint.spec
    stream = stream_spec(module, spec)

    def opened(threads: int) -> Engine:
        need("torch", extra="compress").set_num_threads(threads)
        return EagerEngine(module, spec, stream)

    return opened, replace(base, spec=spec, stream=stream, form="step" if stream else "window")


def probed_clips(held_out: Sequence[Clip]) -> list[int]:
    """Places of at most ``PROBED`` clips; the first few are spread over labels and groups too."""
    return in_turns(held_out)[:PROBED]


def probe_feeds(stepper: Stepper, clips: Iterable[np.ndarray]) -> list[Tensors]:
    """The last input with warm states of each clip, (T, C, H, W); a window is filled, not computed."""
    probes = []
    for clip in clips:
        stepper.reset()
        frames = hold_last(clip, stepper.warmup + stepper.chunk)
        last = len(frames) // stepper.chunk * stepper.chunk - 1
        for frame in frames[:last]:
            stepper.remember(frame[None])
        feeds = stepper.feeds(frames[last][None])
        assert feeds is not None
        probes.append(copied(feeds))
    return probes


def _original_rows(
    context: RunContext,
    source: Source,
    checkpoint: Checkpoint | None,
    base: Variant,
    first: Variant,
    evaluation: evaluate.Evaluation,
) -> tuple[Measurement, ...]:
    """The original, and the torch model that was made of it if it was changed, as rows of the report."""
    if source.checkpoint is None or checkpoint is None:
        row = Measurement(
            ORIGINALS[base.engine],
            "host",
            base.engine,
            base.precision,
            base.form,
            "the user's ONNX file",
            accuracy=evaluation.accuracy(evaluation.original),
            curves=evaluation.curves(evaluation.original),
        )
        return (row,)
    rows = [
        _torch_row(
            context,
            ORIGINALS["torch"],
            "the original",
            source.checkpoint,
            first,
            evaluation,
            evaluation.original,
        )
    ]
    if checkpoint is not source.checkpoint:
        done = {
            "stream": STREAMED,
            **{k.name: k.done or (k.name, f"after {k.name}") for k in checkpoint_steps()},
        }
        names, says = zip(*(done[s.name] for s in checkpoint.steps if s.name in done))
        name = "-".join(("torch", *names))
        rows.append(
            _torch_row(context, name, " and ".join(says), checkpoint, base, evaluation, evaluation.model)
        )
    return tuple(rows)


def _torch_row(
    context: RunContext,
    name: str,
    status: str,
    checkpoint: Checkpoint,
    how: Variant,
    evaluation: evaluate.Evaluation,
    answers: Sequence[np.ndarray],
) -> Measurement:
    from edgepv.export.cost import gflops_per_frame

    module = context.module(checkpoint)
    return Measurement(
        variant=name,
        target="host",
        engine="torch",
        precision="fp32",
        form=how.form,
        status=status,
        bytes=Path(checkpoint.weights).stat().st_size,
        params=_weights_of(context, checkpoint),
        gflops_per_frame=gflops_per_frame(module, checkpoint.spec),
        state_bytes=how.stream.state_bytes if how.stream else None,
        accuracy=evaluation.accuracy(answers),
        drop=evaluation.drop(answers, 0.0) if answers is not evaluation.original else None,
        curves=evaluation.curves(answers),
    )


def _weights_of(context: RunContext, checkpoint: Checkpoint) -> int:
    """Parameters of the module as trained, before any rewriting."""
    return parameters(context.module(replace(checkpoint, rewrite=None)))


def clip_name(clip: Clip) -> str:
    """How reports call a clip: its folder, which is its label or its source, and its file."""
    return f"{clip.path.parent.name}/{clip.path.name}"
