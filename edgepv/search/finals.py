"""Finalists side by side: built whole, timed in turns, scored again; the winner sees the final clips."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepv.base import cache
from edgepv.base.console import Console
from edgepv.base.files import read_json, sha256, turn, write_json
from edgepv.base.machine import machine, versions
from edgepv.errors import AccuracyGateError, InconclusiveError, LatencyGateError, UsageError
from edgepv.measure.latency import SURE_BUDGET_S, SURE_CALLS
from edgepv.metrics.choice import answers_within
from edgepv.metrics.gate import within_limit
from edgepv.search.space import methods_of
from edgepv.search.study import Study
from edgepv.search.trial import RUNNERS, TrialResult, TrialRunner, at_percentile, in_turns, timed_as
from edgepv.types import Latency, PairedDrop, decode, encode

FINALISTS = 4
"""Candidates built whole and timed side by side: each is a whole fine-tuning of the budget."""
TUNING_GAP_POINTS = 3.0
"""Points that a short fine-tuning may still be short of the whole one."""


@dataclass(frozen=True)
class Row:
    """A candidate as it was tried.

    ms: the percentile asked for as a ratio to the reference in the same turns, times ``Result.reference_ms``.
    top1, points: on the search clips.
    """

    name: str
    methods: str
    ms: float
    top1: float
    points: float


@dataclass(frozen=True)
class Final:
    """A finalist. latency: in turns with all others. ms: as in ``Row``, of these turns.

    methods: those it uses. tuned: epochs, None for none.
    """

    found: TrialResult
    latency: Latency
    ms: float
    methods: str
    tuned: int | None


@dataclass(frozen=True)
class Result:
    """What a search answers.

    finalists: fastest first; winner: among them, the fastest that keeps the gates on the search clips.
    reference: the unchanged model, timed in the same turns. reference_ms: its least p50 in any turns of the
    study, the machine at its least busy; by it ratios are told in ms and held against the limit. final_drop:
    on the clips nobody looked at before; looks: how many winners of this model have been shown them, this one
    included. final_top1: of the original and the winner there. failures: (candidate's name, why it was not
    measured). native: the size the model was trained at. before: what comes before the model, and is in every
    time.
    """

    model: str
    native: int
    latency_ms: float
    percentile: int
    max_drop: float
    trials: tuple[Row, ...]
    failures: tuple[tuple[str, str], ...]
    finalists: tuple[Final, ...]
    reference: Latency
    reference_ms: float
    winner: Final
    final_drop: PairedDrop
    final_top1: tuple[float, float]
    looks: int
    search_clips: int
    seconds: float
    before: tuple[str, ...] = ()


def finish(study: Study, console: Console) -> Result:
    """The answer to the question. Raises LatencyGateError or AccuracyGateError naming what came nearest."""
    begun = time.monotonic()
    rows = study.found()
    near = study.nearest()
    if near is None:
        why = "; ".join(f"{name}: {reason}" for name, reason in study.failures()[:2])
        raise UsageError(f"no candidate could be measured. {why or 'Give a longer --budget'}")
    if not any(ms <= study.question.latency_ms for _, ms in rows):
        raise LatencyGateError(
            f"no candidate answers within {study.question.latency_ms:g} ms (p{study.question.percentile}); "
            f"the nearest of those tried is {near[0]} with {near[1]:.2f} ms. Allow more time, give a longer "
            "--budget, or start from a smaller model"
        )
    chosen = _finalists(study, rows)
    trials, question = study.trials, study.question
    console.say(f"{len(chosen)} finalists: building them whole")
    whole = [
        trials.measure(f.candidate, epochs=question.tune_epochs) for f in console.track(chosen, "finalists")
    ]
    times, reference = _side_by_side(trials, whole)
    start, quietest = trials.space.start(), min(study.reference_ms, reference.p50_ms)
    finals = []
    for f in sorted(whole, key=lambda f: times[f.candidate.name].p50_ms):
        latency = times[f.candidate.name]
        ms = study.relative(latency, latency.p50_ms / reference.p50_ms) * quietest
        finals.append(Final(f, latency, ms, methods_of(f.candidate, start), trials.epochs(f.candidate)))
    winner = _winner(finals, study)
    drop, top1, looks = _last_look(trials, winner.found)
    return Result(
        model=trials.source.spec.name,
        native=trials.native,
        latency_ms=question.latency_ms,
        percentile=question.percentile,
        max_drop=question.options.max_drop,
        trials=tuple(
            Row(
                f.candidate.name,
                methods_of(f.candidate, start),
                ms / study.reference_ms * quietest,
                f.top1,
                f.drop.points,
            )
            for f, ms in rows
        ),
        failures=tuple(study.failures()),
        finalists=tuple(finals),
        reference=reference,
        reference_ms=quietest,
        winner=winner,
        final_drop=drop,
        final_top1=top1,
        looks=looks,
        search_clips=len(trials.search),
        seconds=round(float(study.study.user_attrs.get("spent_s", 0.0)) + time.monotonic() - begun, 1),
        before=trials.source.spec.before,
    )


def _finalists(study: Study, rows: Sequence[tuple[TrialResult, float]]) -> list[TrialResult]:
    """The fastest candidates within the budget that keep the gate, or may after their whole fine-tuning."""
    limit = study.question.latency_ms
    in_time = sorted((r for r in rows if r[1] <= limit), key=lambda r: r[1])
    changed = study.trials.changed
    good = [f for f, _ in in_time if within_limit(f.drop, TUNING_GAP_POINTS if changed(f.candidate) else 0.0)]
    safe = [f for f in good if not changed(f.candidate)]
    sure = [f for f in good if within_limit(f.drop)]
    kept = list({f.candidate: f for f in [*good[: FINALISTS - 1], *sure[:1], *safe[:1]]}.values())
    return kept or [min((f for f, _ in in_time), key=lambda f: f.drop.points)]


def _side_by_side(trials: TrialRunner, whole: Sequence[TrialResult]) -> tuple[dict[str, Latency], Latency]:
    """Latency of every finalist and of the reference, taking turns on one thread."""
    base, base_folder = trials.reference()
    named = {"reference": (base, base_folder)}
    named |= {f.candidate.name: (f.variant, Path(f.folder)) for f in whole}
    key = {
        "step": "search finals",
        "calls": SURE_CALLS,
        "variants": [[name, *timed_as(v)] for name, (v, _) in named.items()],
        "machine": machine(),
        "tools": versions(RUNNERS),
    }

    def time_them(_: Path) -> Any:
        return encode(in_turns(named, calls=SURE_CALLS, budget_s=SURE_BUDGET_S))

    times = {name: decode(Latency, row) for name, row in cache.cached(key, time_them)[1].items()}
    return times, times["reference"]


def _within(final: Final, limit_ms: float, percentile: int) -> bool | None:
    """Whether a finalist is in time, told by its ratio to the reference; None where its calls cannot tell."""
    if percentile != 99:
        return final.ms <= limit_ms
    return answers_within(final.latency, limit_ms * at_percentile(final.latency, percentile) / final.ms)


def _winner(finals: Sequence[Final], study: Study) -> Final:
    """The fastest that is in time and, by the search clips, within the gate."""
    limit, most, p = study.question.latency_ms, study.question.options.max_drop, study.question.percentile
    told = [_within(f, limit, p) for f in finals]
    in_time = [f for f, within in zip(finals, told) if within]
    if not in_time:
        near = min(finals, key=lambda f: f.ms)
        raise (InconclusiveError if None in told else LatencyGateError)(
            f"measured again side by side, no finalist surely answers within {limit:g} ms (p{p}); nearest is "
            f"{near.found.candidate.name}: {near.ms:.2f} ms in {near.latency.n} calls"
            + (f"; {near.latency.inconclusive}" if near.latency.inconclusive else "")
        )
    good = [f for f in in_time if within_limit(f.found.drop)]
    if not good:
        near = min(in_time, key=lambda f: f.found.drop.points)
        drop = near.found.drop
        raise AccuracyGateError(
            f"no candidate within {limit:g} ms keeps {most:g} points; the nearest is "
            f"{near.found.candidate.name}: it loses {drop.figures()[0]} ({drop.interval()}, "
            f"{drop.n} clips). Allow more time, more points, or a longer --budget"
        )
    return good[0]


def _last_look(trials: TrialRunner, winner: TrialResult) -> tuple[PairedDrop, tuple[float, float], int]:
    """(drop on the final clips, top-1 of original and winner, how often these clips were looked at).

    The same winner asked again is no new look: its answers are known.
    """
    looks = _note(trials.source.spec.name, winner.variant.sha256, [sha256(c.path) for c in trials.final])
    before = trials.original(trials.final)
    after = trials.margins(winner.variant, Path(winner.folder), trials.final)
    drop = trials.lost(before, after, trials.final)
    return drop, (float((before > 0).mean()), float((after > 0).mean())), looks


def _note(model: str, winner: str, clips: Sequence[str]) -> int:
    """Write into this machine's book that a winner is shown these clips; how many they were shown to."""
    book = cache.root() / "final-looks.json"
    with turn(book.with_suffix(".lock")):
        try:
            known = read_json(book) if book.is_file() else {}
        except UsageError:  # a damaged book must not cost a finished search
            known = {}
        pages = known.setdefault(model, {})
        for clip in clips:
            seen = pages.setdefault(clip, [])
            if winner[:16] not in seen:
                seen.append(winner[:16])
        write_json(book, known)
    return max(len(pages[clip]) for clip in clips)
