"""One target's bundle: every variant is built, examined, timed; one is chosen; the rest is kept or named."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepv import bundle
from edgepv.base.engines import ENGINES, files_of
from edgepv.base.files import digest
from edgepv.base.machine import device_facts
from edgepv.errors import AccuracyGateError, EdgepvError, UsageError
from edgepv.export.request import FLAT, BuildResult, reason
from edgepv.measure.latency import latencies
from edgepv.measure.memory import peak_rss_mib
from edgepv.measure.roofline import peaks
from edgepv.metrics import choice, gate
from edgepv.metrics.stats import counted
from edgepv.pipeline import evaluate
from edgepv.pipeline.build import nothing_made, run_builder
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.options import Options, typed
from edgepv.pipeline.prepare import PreparedModel
from edgepv.pipeline.write import thumbnails, write_bundle
from edgepv.runtimes.engine import on_this_host
from edgepv.types import Measurement, Report, Robustness, StepRecord, Target, Variant

KEPT_OUT = "kept out of the bundle"


@dataclass(frozen=True)
class ExportedBundle:
    """One finished bundle."""

    target: str
    folder: Path
    digest: str
    chosen: Measurement
    report: Report
    notes: tuple[str, ...] = ()


def pack(context: RunContext, prepared: PreparedModel, target: Target, folder: Path) -> ExportedBundle:
    """Build, examine and measure every variant of one target in ``folder``, and write the bundle."""
    models = folder / "models"
    models.mkdir()
    shutil.copyfile(prepared.lowered.base_folder / prepared.lowered.base.path, models / "model.onnx")
    base = replace(prepared.lowered.base, path="model.onnx")
    built = run_builder(context, prepared.ready, target, base, models)
    built, rows = _examined(context, prepared, target, built, models)
    rows = [_localised(r, built, base, models, prepared) for r in rows]
    rows, torch_rows = _timed(context, prepared, target, built, rows, models)
    chosen, why = _choice(prepared, [r for r in rows if r.variant not in built.evidence], context.options)
    passed = [v for v, r in zip(built.variants, rows) if gate.within_gate(r)]
    if built.settle:
        built.settle([v.name for v in passed], chosen.variant)
    kept = [v for v in passed if v.name not in built.evidence]
    reasons = (
        why,
        *_guess(chosen, context.options),
        *_on_footage(chosen),
        *(f"{r.variant} {KEPT_OUT}: {gate.gate_failure(r)}" for r in rows if not gate.within_gate(r)),
        *filter(None, (gate.inconclusive_reason(r) for r in rows if r is not chosen)),
        *filter(None, map(gate.float_remainder, rows)),
        *(f"{name} was not made: {cause}" for name, cause in built.failed.items()),
        *prepared.notes,
        *built.notes,
    )
    title = f"{prepared.lowered.base.spec.name} for {target.name}"
    results = Report(
        title,
        (*torch_rows, *prepared.beside, *rows),
        prepared.rows[0].variant,
        _all_steps(kept),
        reasons,
        prepared.lowered.base.stream,
        prepared.lowered.source.spec.frames,
        thumbnails(rows, prepared.held_out),
        (chosen.variant,),
        sensitivity=prepared.sensitivity,
        robustness=_robustness(context, prepared, target, built, chosen, models),
        baselines=prepared.evaluation.baselines(),
        commands=(typed(context.options),),
        digests=_digests(prepared),
    )
    _sweep(models, kept, built.files)
    write_bundle(prepared, target, folder, kept, results, chosen, context.options.prefer)
    return ExportedBundle(
        target.name, folder, bundle.read(folder).digest, chosen, results, (*prepared.notes, *built.notes)
    )


def _robustness(
    context: RunContext,
    prepared: PreparedModel,
    target: Target,
    built: BuildResult,
    chosen: Measurement,
    models: Path,
) -> tuple[Robustness, ...]:
    """How the variant that runs, or the best that is not float, holds on spoilt clips; () if not asked for.

    Where float runs, INT8 is still what a reader wonders about. No engine is stood in for.
    """
    if prepared.spoilt is None or not target.min_sqnr_db:
        return ()
    quantized = [
        v
        for v in built.variants
        if v.precision != "fp32" and v.name not in built.evidence and on_this_host(v).engine == v.engine
    ]
    wanted = [v for v in quantized if v.name == chosen.variant]
    for variant in (wanted or quantized)[:1]:
        context.console.say(f"{target.name}: {variant.name} on spoilt clips")
        return prepared.spoilt.compare(variant, models)
    return ()


def _digests(prepared: PreparedModel) -> dict[str, str]:
    """What the figures are of, each by its SHA-256: the model's weights or file, and the clips."""
    source, calibration = prepared.lowered.source, prepared.ready.calibration
    known = {
        "model": source.sha256,
        "float graph": prepared.lowered.base.sha256,
        "calibration": calibration.digest if calibration else None,
        "held-out clips": prepared.evaluation.clips,
    }
    return {name: value for name, value in known.items() if value}


def _guess(row: Measurement, options: Options) -> tuple[str, ...]:
    """That a choice by speed holds for this CPU only."""
    if not row.latency or row.device is None or options.prefer != "speed":
        return ()
    where = f"{row.device.cpu} ({row.device.arch})"
    return (f"chosen by speed on {where}: a guess for any other CPU, where edgepv run chooses anew",)


def _on_footage(row: Measurement) -> tuple[str, ...]:
    """What a variant changes on video without labels, where some was watched."""
    if row.flips is None:
        return ()
    flips, seen = row.flips, counted(row.flips.n, row.flips.groups, row.flips.of)
    how = ", ".join(told for told in (flips.why or flips.by_count(), seen, flips.drift()) if told)
    return (f"{row.variant} changes {flips.told()} of 1,000 {flips.of} on footage; {how}",)


def _examined(
    context: RunContext, prepared: PreparedModel, target: Target, built: BuildResult, models: Path
) -> tuple[BuildResult, list[Measurement]]:
    """What its engine runs of a target's variants, with a row for each; the others go to ``failed``.

    Float twins of INT8 that nobody asked for are run too, and judge it.
    """
    if not target.min_sqnr_db:
        return built, [_unexamined(v, target) for v in built.variants]
    names = {v.name for v in built.variants}
    twins = [v for v in built.floats if v.name not in names]
    rows: dict[str, Measurement] = {}
    failed: dict[str, EdgepvError] = {}
    for v in context.console.track((*built.variants, *twins), f"{target.name}: running on held-out clips"):
        try:
            rows[v.name] = evaluate.examine(v, models, target, prepared.evaluation)
        except Exception as e:  # engines raise anything
            failed[v.name] = reason(e)
    run = tuple(v for v in built.variants if v.name in rows)
    if not run:
        nothing_made(target.name, failed)
    why = {name: str(e) for name, e in failed.items() if name in names}
    floats = [row for row in rows.values() if row.precision == "fp32"]
    judged = evaluate.by_engine([rows[v.name] for v in run], floats)
    if prepared.lowered.base.precision == "int8":
        judged = [_as_given(row) for row in judged]
    return replace(built, variants=run, failed={**built.failed, **why}), judged


def _as_given(row: Measurement) -> Measurement:
    """A row of a file that was quantized before: convolutions that it keeps in float are no fault."""
    meant = row.audit is None or any(c.planned == "int8" for c in row.audit.convolutions)
    integer = row.audit is not None and row.audit.int8 > 0
    return row if meant or integer else replace(row, audit=None)


def _choice(
    prepared: PreparedModel, rows: Sequence[Measurement], options: Options
) -> tuple[Measurement, str]:
    """``evaluate.choose``; a stream that lost its accuracy is told apart from what INT8 lost."""
    limit_ms = options.latency_ms and options.latency_ms - prepared.chain_ms
    try:
        return choice.choose(rows, latency_ms=limit_ms, prefer=options.prefer)
    except AccuracyGateError as e:
        stream, frames = prepared.lowered.base.stream, prepared.lowered.source.spec.frames
        streamed = prepared.lowered.checkpoint is not None and prepared.lowered.checkpoint.rewrite is not None
        field = stream.receptive_field if stream and streamed else None
        if field is None or field <= frames:
            raise
        raise AccuracyGateError(
            f"{e}. As a stream it sees {field} frames where its clips of {frames} ended in padding: if that "
            "is what costs, export with --stream window"
        ) from e


def _unexamined(variant: Variant, target: Target) -> Measurement:
    return Measurement(
        variant.name, target.name, variant.engine, variant.precision, variant.form, target.status
    )


def _localised(
    row: Measurement, built: BuildResult, base: Variant, models: Path, prepared: PreparedModel
) -> Measurement:
    """Name the first diverging node of a row that failed parity."""
    if row.parity is None or row.parity.verdict != "fail":
        return row
    variant = next(v for v in built.variants if v.name == row.variant)
    reference = _in_float(variant, built) if ENGINES.find(variant.engine).own_names else base
    parity = evaluate.localise(variant, reference, models, prepared.evaluation, row.parity)
    return replace(row, parity=parity)


def _in_float(variant: Variant, built: BuildResult) -> Variant:
    """The float file that a variant was made of, for the same engine; itself where there is none."""
    flat = variant.name.endswith(FLAT)
    made = (v for v in (*built.variants, *built.floats) if v.engine == variant.engine)
    return next((v for v in made if v.precision == "fp32" and v.name.endswith(FLAT) == flat), variant)


def _timed(
    context: RunContext,
    prepared: PreparedModel,
    target: Target,
    built: BuildResult,
    rows: Sequence[Measurement],
    models: Path,
) -> tuple[list[Measurement], list[Measurement]]:
    """(rows with latency and memory, the original's rows with latency). What has a stand-in is not timed."""
    here = [v for v in built.variants if on_this_host(v).engine == v.engine]
    times: dict[str, Any] = {}
    if here and prepared.evaluation.feeds:
        context.console.say(f"{target.name}: timing {len(here) + 1} variants, interleaved")
        baseline = prepared.rows[0].variant
        times = latencies(
            here,
            models,
            prepared.evaluation.feeds,
            original=prepared.original,
            baseline=baseline,
            p99=context.options.latency_ms is not None,
        )
        for why in {row.inconclusive for rows in times.values() for row in rows[:1] if row.inconclusive}:
            context.console.say(f"{target.name}: times are inconclusive: {why}")
    facts = device_facts()
    params = prepared.rows[-1].params
    cost = prepared.rows[-1].gflops_per_frame
    timed = []
    for variant, row in zip(built.variants, rows):
        row = replace(row, params=params, gflops_per_frame=cost, latency=times.get(row.variant, ()))
        if variant in here:
            row = replace(row, device=facts, rss_mib=_peak_rss_mib(variant, models), peaks=peaks())
        timed.append(row)
    torch_rows = [
        replace(r, latency=times.get(r.variant, ()), device=facts if r.variant in times else None)
        for r in prepared.rows
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
    """Remove files that no kept variant and no note refers to."""
    wanted = {*extra, *(name for v in kept for name in files_of(v))}
    for path in models.iterdir():
        if path.name not in wanted:
            path.unlink()
