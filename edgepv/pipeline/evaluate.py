"""Judge variants on held-out clips: parity, accuracy against the original, and which one runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np

from edgepv.base.engines import files_of
from edgepv.base.tasks import TASKS, task_of
from edgepv.data.conditions import light_and_motion, parts
from edgepv.data.frames import pictures
from edgepv.data.truth import EvalClip
from edgepv.export.audit import audit
from edgepv.export.parity import compare_clips, first_divergence, saturation
from edgepv.export.request import FLAT
from edgepv.measure.answers import clip_answers
from edgepv.metrics.baselines import baselines
from edgepv.metrics.curves import curves
from edgepv.metrics.detection import alike, changed_boxes, found_on, telling_rows
from edgepv.metrics.flips import flips_per_1000
from edgepv.metrics.pictures import psnr_db
from edgepv.metrics.segmentation import same_places
from edgepv.metrics.slices import Kind, Parts, slices
from edgepv.metrics.stats import group_count, sqnr_db
from edgepv.metrics.tasks import (
    Pictures,
    change_of,
    clip_scores,
    distance_px,
    figures,
    frame_drop,
    groups_of,
    not_applied,
    rate,
    task_drop,
)
from edgepv.runtimes.engine import on_this_host, open_engine
from edgepv.runtimes.lane import scored
from edgepv.stream import Infer, KeepsStates, Tensors, by_file_names, copied, in_units_of
from edgepv.types import (
    Accuracy,
    Baseline,
    Curve,
    Flips,
    Measurement,
    ModelSpec,
    PairedDrop,
    Parity,
    Slice,
    Target,
    Variant,
)

SAME_NUMBERS_DB = 80.0  # at this SQNR the answers are equal to four digits: no clip can tell them apart
SAME_DB = 0.005  # a PSNR that differs by less is printed as equal
SAME_SHARE = 0.05  # points of AP and of mIoU that are printed as none
PLACES = 1 << 16  # values of a mask's scores that parity looks at in one frame; all of them fill the memory
SAME_PX = 0.01  # tracks of which 95 % are no further apart, px of 256, are the same to everyone who uses them
CONDITIONS: Mapping[Kind, tuple[str, str, str]] = {
    "light": ("dark", "middle", "bright"),
    "motion": ("slow", "middle", "fast"),
}
"""Kind of a condition -> what its lowest, middle and highest third are called."""
PROBES = 8  # inputs used to look inside a graph; more show the same


@dataclass(frozen=True)
class Evaluation:
    """Held-out clips and what the original answers on them.

    spec: of the model. shown: the clips as it sees them. names: of the clips. known: whether it is known what
    is true of every clip. warmup, original_warmup: frames before an answer of the converted model and of the
    original counts. delay: frames the converted model answers later than the original. original: answers per
    clip of the torch original; model: of the (possibly pruned) torch model that was converted. feeds:
    inputs with rolled states from these clips, to look inside artifacts. other_answers: of the
    model. clips: ``clips_digest`` of the clips; None where it was not computed. endless: of a
    model with states that grow for ever, a long video (T, C, H, W) and what it answers to it. original_lag:
    the original's ``ModelSpec.lag``; None for that of ``spec``. unheld: labels that none of the clips shows,
    so that the gate is not applied. watched: of a classifier or detector, video without labels, on which
    changed answers are counted; watched_original: what the original answers there. alarm: (label, threshold,
    who says so) of an alarm that is raised by the scores.
    """

    spec: ModelSpec
    shown: tuple[EvalClip, ...]
    names: tuple[str, ...]
    known: bool
    warmup: int
    original: tuple[np.ndarray, ...]
    model: tuple[np.ndarray, ...]
    feeds: tuple[Tensors, ...]
    max_drop: float
    original_warmup: int
    delay: int = 0
    other_answers: Mapping[str, np.ndarray] = field(default_factory=dict)
    clips: str | None = None
    endless: tuple[np.ndarray, np.ndarray] | None = None
    original_lag: int | None = None
    unheld: tuple[str, ...] = ()
    watched: tuple[EvalClip, ...] = ()
    watched_original: tuple[np.ndarray, ...] = ()
    alarm: tuple[str, float, str] | None = None

    @functools.cached_property
    def before(self) -> np.ndarray:
        """The original's figure for each clip, which every artifact is held against."""
        return figures(self.spec, self.original, self.shown, self.original_warmup, self.pictures[0])

    @functools.cached_property
    def change(self) -> float | None:
        """By how much one changed answer moves the figure of its clip (``change_of``)."""
        return change_of(self.spec, self.shown) if self.known else None

    @property
    def pictures(self) -> tuple[Pictures, Pictures]:
        """Of a restorer, which pictures of the original and of what was made of it are judged: the same."""
        lag = self.spec.lag if self.original_lag is None else self.original_lag
        one = Pictures.of(self.original_warmup, lag)
        other = Pictures.of(self.warmup, self.spec.lag + self.delay)
        return one.beside(other), other.beside(one)

    @property
    def later(self) -> int:
        """Frames by which the converted model answers later than the original."""
        one, other = self.pictures
        return other.late - one.late

    def accuracy(self, answers: Sequence[np.ndarray]) -> Accuracy | None:
        """The model's metric and what goes with it; None where nobody knows what is true."""
        if not self.known:
            return None
        mine = answers is self.original
        warmup, which = (self.original_warmup if mine else self.warmup), self.pictures[0 if mine else 1]
        return replace(rate(self.spec, answers, self.shown, warmup, which), clips=self.clips)

    def drop(self, answers: Sequence[np.ndarray], sqnr_db: float) -> PairedDrop | None:
        """What is lost against the original on the same clips; None where nobody knows what is true."""
        if not self.known:
            return None
        after = figures(self.spec, answers, self.shown, self.warmup, self.pictures[1])
        drop = task_drop(self.spec, self.before, after, self.max_drop, groups_of(self.shown), self.change)
        same = drop.lost == drop.won == 0 or (drop.unit == "dB" and abs(drop.points) < SAME_DB)
        task = task_of(self.spec)
        same = same or ((task.finds or task.segments) and abs(drop.points) < SAME_SHARE)
        if sqnr_db >= SAME_NUMBERS_DB and same:
            drop = replace(drop, low=0.0, high=0.0, verdict="pass", clips_needed=None, groups=None)
        return not_applied(drop) if self.unheld else drop

    def aligned(
        self, original: Sequence[np.ndarray], answers: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each clip, the original's answers and a variant's to the frames for which both saw enough."""
        first = max(self.original_warmup, self.warmup - self.later) - 1
        pairs = [(a[first:], b[first + self.later :]) for a, b in zip(original, answers, strict=True)]
        return [(a[: len(b)], b[: len(a)]) for a, b in pairs]

    def each_frame(self, answers: Sequence[np.ndarray]) -> PairedDrop | None:
        """What a classifier's answers after each frame lose; None where nobody knows what is true."""
        pairs = self.aligned(self.original, answers)
        if not self.known or not task_of(self.spec).classifies or not any(len(rows) for rows, _ in pairs):
            return None
        drop = frame_drop(pairs, self.shown, self.max_drop)
        return not_applied(drop) if self.unheld else drop

    def flips(self, answers: Sequence[np.ndarray]) -> Flips | None:
        """How many answers to the watched footage change, or boxes; None where nothing is watched."""
        if task_of(self.spec).finds:
            return changed_boxes(self.spec, self.watched_original, answers, self.watched)
        pairs = self.aligned(self.watched_original, answers)
        groups = [str(clip.group) for clip, (rows, _) in zip(self.watched, pairs, strict=True) for _ in rows]
        if not groups:
            return None
        original, variant = (np.concatenate(side) for side in zip(*pairs))
        return flips_per_1000(original, variant, groups)

    @functools.cached_property
    def _parts(self) -> Parts:
        """What each clip has in common with others: label, camera where groups are known, light, motion."""
        found: dict[Kind, list[str]] = {}
        if task_of(self.spec).classifies:
            found["label"] = [self.spec.labels[int(c.truth)] for c in self.shown]  # type: ignore[arg-type]
        groups = groups_of(self.shown)
        if group_count(groups) is not None and groups:
            found["camera"] = groups
        seen = [light_and_motion(c.frames, self.spec) for c in self.shown]
        for kind, values, names in zip(CONDITIONS, zip(*seen, strict=True), CONDITIONS.values(), strict=True):
            if told := parts(values, names):
                found[kind] = told
        return found

    def slices(self, answers: Sequence[np.ndarray]) -> tuple[Slice, ...]:
        """What is lost against the original on parts of the clips; () where nobody knows what is true."""
        if not self.known:
            return ()
        after = figures(self.spec, answers, self.shown, self.warmup, self.pictures[1])
        return slices(self.spec, self.before, after, self._parts, groups_of(self.shown), self.change)

    def curves(self, answers: Sequence[np.ndarray]) -> tuple[Curve, ...]:
        """How a classifier's scores of clips tell labels apart; () of other models, or without labels."""
        if not self.known or not task_of(self.spec).classifies:
            return ()
        warmup = self.original_warmup if answers is self.original else self.warmup
        scores = np.stack([scored(self.spec, clip_scores(rows, warmup)) for rows in answers])
        truth = [int(c.truth) for c in self.shown]  # type: ignore[arg-type]  # of a classifier: a label
        return curves(self.spec.labels, truth, scores, self.alarm)

    def baselines(self) -> tuple[Baseline, ...]:
        """What is reached without a network; () where nobody knows what is true."""
        return baselines(self.spec, self.shown, self.pictures[1]) if self.known else ()

    def drop_from(self, other: Evaluation) -> PairedDrop:
        """What the model that was converted loses against that of another evaluation on the same clips."""
        theirs, mine = (figures(e.spec, e.model, e.shown, e.warmup, e.pictures[1]) for e in (other, self))
        return task_drop(self.spec, theirs, mine, self.max_drop, groups_of(self.shown), self.change)


def play_clips(infer: Infer, variant: Variant, clips: Sequence[EvalClip]) -> list[np.ndarray]:
    """What a model answers on clips, each begun as it is to begin."""
    return clip_answers(infer, variant, [c.frames for c in clips], [c.start or {} for c in clips])


def other_answers(infer: Infer, spec: ModelSpec, feeds: Sequence[Tensors]) -> dict[str, np.ndarray]:
    """What a model says besides its answer, for the first of the feeds; nothing if it has one answer."""
    if not spec.answers[1:]:
        return {}
    said = [copied(_asked(infer, spec, feed)) for feed in feeds[:PROBES]]
    return {one.name: np.concatenate([s[one.name] for s in said]) for one in spec.answers[1:]}


def _asked(infer: Infer, spec: ModelSpec, feed: Tensors) -> Tensors:
    """The answer to one feed, also of an engine that keeps its states itself."""
    if isinstance(infer, KeepsStates):
        infer.reset()
        for name in feed.keys() - {spec.input.name}:
            infer.write(name, feed[name])
    return infer(feed)


def examine(variant: Variant, folder: Path, target: Target, evaluation: Evaluation) -> Measurement:
    """Run one artifact on the held-out clips and compare it with the original; no timing here.

    Where another engine stands in for its own, its numbers are checked; its speed is not measured.
    """
    runnable = on_this_host(variant)
    engine = open_engine(runnable, folder)
    try:
        outgrown = _outgrown(engine.infer, runnable, target, evaluation)
        answers = play_clips(engine.infer, runnable, evaluation.shown)
        watched = play_clips(engine.infer, runnable, evaluation.watched)
        own = in_units_of(runnable, evaluation.feeds[:PROBES])
        beside = other_answers(engine.infer, evaluation.spec, own)
    finally:
        engine.close()
    parity = with_others(
        _parity(runnable, folder, target, evaluation, answers), evaluation.other_answers, beside
    )
    against_original = evaluation.drop(answers, _sqnr_to_original(evaluation, answers))
    return Measurement(
        variant=variant.name,
        target=target.name,
        engine=variant.engine,
        precision=variant.precision,
        form=variant.form,
        status=target.status,
        bytes=_bytes(variant, folder),
        state_bytes=variant.stream.state_bytes if variant.stream else None,
        accuracy=evaluation.accuracy(answers),
        drop=against_original,
        parity=parity,
        audit=audit(variant, folder),
        blocked=outgrown,
        flips=evaluation.flips(watched),
        each_frame=evaluation.each_frame(answers),
        slices=evaluation.slices(answers),
        curves=evaluation.curves(answers),
    )


def _outgrown(infer: Infer, variant: Variant, target: Target, evaluation: Evaluation) -> str | None:
    """What is wrong with a variant at the end of a long video, where a state outgrew what clips show."""
    if evaluation.endless is None:
        return None
    video, wanted = evaluation.endless
    got = clip_answers(infer, variant, [video])[0]
    last = slice(-len(video) // 4, None)
    reached, floor = sqnr_db(wanted[last], got[last]), floor_db(evaluation.spec, target, variant.precision)
    if reached >= floor:
        return None
    return (
        f"a state grows for ever, and after {len(video)} frames the answer reaches {reached:.1f} dB of "
        f"{floor:.0f} dB. Keep the mean itself as the state: mean = mean + (x - mean) / count"
    )


def _parity(
    variant: Variant, folder: Path, target: Target, evaluation: Evaluation, answers: Sequence[np.ndarray]
) -> Parity:
    probes = by_file_names(variant, evaluation.feeds[:PROBES])
    spec = evaluation.spec
    parity = compare_clips(
        _rows(spec, evaluation.model, evaluation),
        _rows(spec, answers, evaluation),
        evaluation.names,
        min_sqnr_db=floor_db(spec, target, variant.precision),
        saturation=saturation(folder / variant.path, probes) if variant.precision == "int8" else None,
        classes=task_of(spec).classifies,
    )
    if task_of(spec).follows:
        apart = [
            distance_px(spec, a, b)[:, _followed(c)]
            for a, b, c in zip(answers, evaluation.model, evaluation.shown)
        ]
        parity = with_tracks(parity, np.concatenate([a.ravel() for a in apart]))
    if task_of(spec).finds:
        sides = (found_on(spec, rows, evaluation.shown, None) for rows in (evaluation.model, answers))
        parity = replace(parity, boxes=alike(*sides))
    if task_of(spec).segments:
        parity = replace(parity, agreement=same_places(spec, evaluation.model, answers))
    if task_of(spec).shows:
        both = [(pictures(spec, a), pictures(spec, b)) for a, b in zip(evaluation.model, answers)]
        parity = replace(parity, psnr_db=float(np.mean([psnr_db(a, b) for a, b in both])))
    return parity


def by_engine(rows: Sequence[Measurement], floats: Sequence[Measurement]) -> list[Measurement]:
    """The rows; those in less than fp32 are blocked where the same engine fails parity in fp32.

    An engine that computes the float graph wrongly (a pooling's rounding, say) may come near enough for the
    floor of INT8, and would stand there for what quantization costs.
    """
    wrong = {_graph_of(f): f for f in floats if f.parity and f.parity.verdict == "fail"}

    def judged(row: Measurement) -> Measurement:
        twin = wrong.get(_graph_of(row)) if row.precision != "fp32" else None
        if twin is None or twin.parity is None:
            return row
        what, reached = twin.parity.least
        why = f"{row.engine} computes this graph wrongly in float too: {what} of {twin.variant} reaches "
        return replace(row, blocked=f"{why}{reached:.1f} dB of {twin.parity.min_sqnr_db:.0f} dB")

    return [judged(row) for row in rows]


def _graph_of(row: Measurement) -> tuple[str, bool]:
    """The engine that computes a graph, and whether that is the flat one."""
    return row.engine, row.variant.endswith(FLAT)


def floor_db(spec: ModelSpec, target: Target, precision: str) -> float:
    """The least SQNR that an artifact must reach: the target's promise, and in INT8 what the task needs."""
    promised = target.min_sqnr_db[precision]
    return max(promised, TASKS.find(spec.task).int8_floor_db) if precision == "int8" else promised


def with_tracks(parity: Parity, apart: np.ndarray) -> Parity:
    """The same parity with how far tracks are apart, px of 256; it holds if 95 % are within ``SAME_PX``.

    A point that both lose goes on by what the last digits say, and a few of them rule the SQNR.
    """
    p50, p95 = (float(v) for v in np.percentile(apart, [50, 95]))
    same = p95 <= SAME_PX and parity.verdict == "fail"
    return replace(parity, track_px=(p50, p95), verdict="pass" if same else parity.verdict)


def with_others(parity: Parity, wanted: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> Parity:
    """The same parity with that of the other answers: one of them below the promise is a failure too."""
    others = {name: sqnr_db(wanted[name], got[name]) for name in wanted}
    low = any(value < parity.min_sqnr_db for value in others.values())
    return replace(parity, others=others, verdict="fail" if low else parity.verdict)


def _followed(clip: EvalClip) -> slice:
    """Which places of a tracker hold a point of this clip."""
    return slice(int((clip.start["life"] > 0).sum())) if clip.start else slice(None)


def _rows(spec: ModelSpec, answers: Sequence[np.ndarray], evaluation: Evaluation) -> list[np.ndarray]:
    """Answers as (frames, values) of each clip.

    Of tracks, how far the followed points moved from where the model began, else the places themselves would
    make any error look small; and only while the model sees them, since where a hidden point is taken to be
    is a guess. Of boxes, the rows that say something. Of large masks, places spread over them.
    """
    if task_of(spec).finds:
        both = zip(answers, evaluation.model, strict=True)
        return [telling_rows(spec, a, m).reshape(len(a), -1) for a, m in both]
    if task_of(spec).segments:
        every = -(-prod(spec.answer.shape) // PLACES)
        return [a.reshape(len(a), -1)[:, ::every] for a in answers]
    if not task_of(spec).follows:
        return [a.reshape(len(a), -1) for a in answers]
    rows = []
    for a, m, clip in zip(answers, evaluation.model, evaluation.shown, strict=True):
        k = _followed(clip)
        moved = (a[:, k, :2] - m[:1, k, :2]) * (m[:, k, 2:] > 0.5)
        rows.append(moved.reshape(len(a), -1))
    return rows


def localise(variant: Variant, base: Variant, folder: Path, evaluation: Evaluation, parity: Parity) -> Parity:
    """The same parity with the first node that diverges from the float graph ``base`` named."""
    feeds = evaluation.feeds[:PROBES]
    node = first_divergence(
        folder / base.path,
        folder / variant.path,
        variant.engine,
        by_file_names(variant, feeds),
        by_file_names(replace(variant, state_scales={}), feeds) if variant.precision == "int8" else None,
        min_sqnr_db=parity.min_sqnr_db,
    )
    return replace(parity, first_divergence=node)


def _sqnr_to_original(evaluation: Evaluation, answers: Sequence[np.ndarray]) -> float:
    """Over the frames for which both have seen enough; 0 dB where a clip has no such frame."""
    same = evaluation.aligned(evaluation.original, answers)
    if not all(len(a) for a, _ in same):
        return 0.0
    wanted, got = (np.concatenate(side) for side in zip(*same))
    return sqnr_db(wanted, got)


def _bytes(variant: Variant, folder: Path) -> int:
    """Size of a model file, with what lies beside it."""
    return sum(p.stat().st_size for name in files_of(variant) if (p := folder / name).is_file())
