"""What a report says in words and numbers: every table as plain cells, for HTML and Markdown alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgepv.metrics.stats import counted, figure, size, worded
from edgepv.report.cells import (
    NOT_MEASURED,
    UNKNOWN,
    Cell,
    Table,
    amount,
    heads,
    machine_load,
    number,
    percent,
    ratio,
    share,
    tail,
    text,
    typical,
    verdict,
    whole,
)
from edgepv.report.compare import machine, main_latency, metric, name, speed, speedups
from edgepv.stream.account import exactness
from edgepv.types import (
    Accuracy,
    Audit,
    DeviceFacts,
    Flips,
    Measurement,
    PairedDrop,
    Parity,
    Report,
    StreamSpec,
)


def accuracy_cell(accuracy: Accuracy | None) -> Cell:
    """A model's metric with its interval and clip count below."""
    if accuracy is None:
        return UNKNOWN
    value, low, high = (worded(v, accuracy.metric) for v in (accuracy.value, accuracy.low, accuracy.high))
    spread = "no interval" if accuracy.groups == 1 else f"{low.split()[0]} to {high.split()[0]}"
    return Cell(value, accuracy.value, note=f"{spread}, n = {counted(accuracy.n, accuracy.groups)}")


def _beside(parity: Parity) -> str:
    """What a parity figure is held against, and that of the other answers."""
    others = "".join(f"; {name} {figure(db)} dB" for name, db in parity.others.items())
    return f"promised {figure(parity.min_sqnr_db)} dB{others}"


def agreement(parity: Parity) -> Cell:
    """How near a variant's answers are to the original's, in what its task understands."""
    if parity.track_px:
        p50, p95 = parity.track_px
        return Cell(f"{p50:.2f} px", p50, note=f"95 %: {p95:.2f}")
    if parity.psnr_db is not None:
        return number(parity.psnr_db, "dB")
    if parity.boxes:
        shared, moved = parity.boxes
        return replace(share(shared), note=f"of boxes; scores {moved:.3f} apart")
    return share(parity.agreement)


def lost_points(drop: PairedDrop | None) -> Cell:
    """Points (or dB) lost against the original on the same clips, with the paired interval below.

    Of points expected from margins, what counting clips tells too.
    """
    if drop is None:
        return UNKNOWN
    unit = "" if drop.unit == "points" else f" {drop.unit}"
    counted = drop.by_count("+")
    note = drop.interval("+") + (f"; counted {counted}" if counted else "")
    return Cell(f"{drop.figures('+')[0]}{unit}", drop.points, note=note)


def flips_cell(flips: Flips | None) -> Cell:
    """Answers that change in 1,000 of footage, with the interval and the count below."""
    if flips is None:
        return UNKNOWN
    value, spread = flips.told().split(" ", 1)
    return Cell(value, flips.per_1000, note=f"{spread[1:-1]}; {flips.by_count()}", hint=flips.why or "")


def gate(drop: PairedDrop | None) -> Cell:
    """Whether the allowed drop is kept, and the clips that would tell when it is open or not applied."""
    if drop is None:
        return UNKNOWN
    note = f"at most {drop.max_drop:g} {drop.unit}"
    if drop.verdict == "inconclusive":
        clips = "more than 1,000,000" if drop.clips_needed is None else f"{drop.clips_needed:,}"
        note = f"{note}; needs {clips} clips"
    if drop.verdict == "not applied":
        return Cell(drop.verdict, drop.verdict, tone="inconclusive", note=f"{note}; a label has no clips")
    if drop.why:
        note = f"{note}; {drop.why}"
    return Cell(drop.verdict, drop.verdict, tone=drop.verdict, note=note)


def overview(report: Report) -> Table:
    """Every variant side by side: what decides between them."""
    rows = []
    for row in report.rows:
        fastest = main_latency(row)
        threads = f"{fastest.threads} thr, n = {fastest.n:,}" if fastest else ""
        rows.append(
            (
                name(report, row, "; ".join(filter(None, [row.status, row.note]))),
                text(row.target),
                replace(text(row.engine), note=f"{row.precision}, {row.form}"),
                amount(row.bytes),
                accuracy_cell(row.accuracy),
                lost_points(row.drop),
                gate(row.drop),
                verdict(row.parity.verdict if row.parity else None),
                typical(fastest, threads),
                tail(fastest, 95),
                speed(report, row, fastest) if fastest else UNKNOWN,
            )
        )
    return Table(
        "overview",
        "Variants side by side",
        "Small print under a figure is its 95 % interval, over groups of clips (a camera, a film) where a "
        "manifest names them, else over clips. Points lost (dB of PSNR) are against the original on the same "
        "clips. Speed is the original's time over this one, by pairs, given only where both were timed "
        "in turns in one run.",
        heads(
            f"variant, target, engine, size, {metric(report)}, points lost, drop gate, parity, "
            "p50 ms, p95 ms, speed"
        ),
        tuple(rows),
    )


def latency_table(report: Report) -> Table:
    """Percentiles per thread count, ratios, memory."""
    rows: list[tuple[Cell, ...]] = []
    for row in report.rows:
        memory = number(row.rss_mib, "MiB")
        for latency in row.latency:
            to_slowest = speedups(report, row, latency)[1]
            rows.append(
                (
                    name(report, row),
                    whole(latency.threads),
                    typical(latency),
                    tail(latency, 95),
                    tail(latency, 99),
                    number(latency.cpu_ms),
                    speed(report, row, latency),
                    verdict("inconclusive") if latency.inconclusive else ratio(to_slowest),
                    whole(latency.n),
                    whole(latency.warmup),
                    machine_load(latency.load),
                    memory,
                )
            )
        if not row.latency:
            rows.append((name(report, row), *[UNKNOWN] * 10, memory))
    return Table(
        "latency",
        "Latency and memory",
        "One engine call is one new frame; CPU ms is the time of all threads. Ratios exist only between rows "
        "timed in turns in one run, on one machine, with equal threads: against the original by pairs of "
        "turns, with the 95 % interval; against the slowest of p50. A percentile that so few calls do not "
        "support is not measured (MLPerf's early stopping, 99 % confidence).",
        heads(
            "variant, threads, p50 ms, p95 ms, p99 ms, CPU ms, against original, against slowest, calls, "
            "warm-up, machine, peak memory"
        ),
        tuple(rows),
    )


EACH_FRAME = (
    "Lost each frame: points lost by the answers after each frame, which a camera raises alarms with; the "
    "gate is held against a clip's answer, which is their mean."
)
FLIPS = (
    "Changed of 1000: answers to video without labels that differ from the original's, expected from how "
    "near its two best scores are, over clips of it; counted ones beside it. Of a detector, the boxes that "
    "one of the two alone says."
)


def accuracy_table(report: Report) -> Table:
    """Top-1, its spread, and the paired comparison with the original; what changes on footage, if seen."""
    rows = []
    watched = any(row.flips for row in report.rows)
    framed = any(row.each_frame for row in report.rows)
    for row in report.rows:
        accuracy, drop = row.accuracy, row.drop
        rows.append(
            (
                name(report, row),
                accuracy_cell(accuracy),
                share(accuracy.macro_f1 if accuracy else None),
                number(accuracy.roc_auc if accuracy else None),
                lost_points(drop),
                whole(drop.n if drop else None),
                whole(drop.lost if drop else None),
                whole(drop.won if drop else None),
                gate(drop),
                *([lost_points(row.each_frame)] if framed else []),
                *([flips_cell(row.flips)] if watched else []),
            )
        )
    return Table(
        "accuracy",
        "Accuracy",
        "Top-1 with its 95 % Wilson interval; delta-avg (share of points within 1, 2, 4, 8, 16 px of the "
        "truth on 256 x 256, averaged) and PSNR with Student's, AP50 with the jackknife's; points lost (dB "
        "of PSNR) with the 95 % paired interval. Lost and won count the clips that only the original, or "
        "only this variant, got right or did better."
        + (f" {EACH_FRAME}" if framed else "")
        + (f" {FLIPS}" if watched else ""),
        heads(
            f"variant, {metric(report)}, macro F1, ROC-AUC, points lost, paired clips, lost, won, drop gate"
            + (", lost each frame" if framed else "")
            + (", changed of 1000" if watched else "")
        ),
        tuple(rows),
    )


def parity_table(report: Report) -> Table:
    """Each file against the torch original on real frames."""
    rows = []
    for row in report.rows:
        parity = row.parity
        if parity is None:
            rows.append((name(report, row), *[UNKNOWN] * 9))
            continue
        diverges = text(parity.first_divergence)
        if parity.first_divergence is None and parity.verdict == "pass":
            diverges = Cell("none, parity holds")
        codes = share(parity.saturation)
        if parity.saturation is None:
            codes = replace(codes, note="no INT8 codes")
        rows.append(
            (
                name(report, row),
                number(parity.max_abs),
                number(parity.sqnr_db, "dB", note=_beside(parity)),
                codes,
                slopes(parity.slope),
                agreement(parity),
                flicker(parity.flicker),
                whole(parity.frames),
                verdict(parity.verdict),
                diverges,
            )
        )
    return Table(
        "parity",
        "Parity with the original",
        "Every output value on real frames. SQNR is signal over error power. Saturation is the share "
        "of 8-bit activation codes at an end of their range, where a value may have been clipped; an end "
        "that means zero does not count. Slope is the least and the largest of the "
        "outputs over the original's: below 1 where a range clips. Flicker is the share of frames at which "
        "the top-1 changes. Agreement is the share of frames with the same top-1, or of places with the same "
        "label, the median distance of tracked points on 256 x 256, the PSNR of the pictures, or the share "
        "of boxes that both have, with the median change of their scores.",
        heads(
            "variant, max error, SQNR, saturation, slope, agreement, flicker, frames, "
            "verdict, first diverging node"
        ),
        tuple(rows),
    )


def slopes(ends: tuple[float, float] | None) -> Cell:
    """Least and largest slope over the outputs."""
    if ends is None:
        return UNKNOWN
    return Cell(f"{ends[0]:.3f} to {ends[1]:.3f}", min(ends, key=lambda s: 1 - abs(1 - s)))


def flicker(rates: tuple[float, float] | None) -> Cell:
    """Of this variant, and in small of the original."""
    if rates is None:
        return UNKNOWN
    return replace(share(rates[1]), note=f"original {share(rates[0]).text}")


def worst_table(report: Report) -> Table:
    """The clips on which each variant is furthest from the original."""
    rows = [
        (name(report, row), Cell(one.clip), share(one.agreement), number(one.sqnr_db, "dB"))
        for row in report.rows
        for one in (row.parity.worst if row.parity else ())
        if one.agreement is None or one.agreement < 1
    ]
    return Table(
        "worst",
        "Where it differs most",
        "Up to five clips per variant on which its top-1 is not the original's at every frame, worst first.",
        heads("variant, clip, top-1 agreement, SQNR"),
        tuple(rows),
    )


def audited(audit: Audit | None) -> Cell:
    """INT8 convolutions executed / planned, and matrix products; what silently stayed float folds out."""
    if audit is None:
        return UNKNOWN
    planned = sum(c.planned == "int8" for c in audit.convolutions)
    hidden = sum(c.planned == "int8" and c.executed is None for c in audit.convolutions)
    if planned and hidden == planned:
        return Cell(f"{NOT_MEASURED} / {planned}", tone="none", note="the engine hides it")
    silent = audit.silent_float
    note = f"{len(silent)} silently in float" if silent else ""
    hides = f"{hidden} hidden by the engine" if hidden else ""
    products = f"{audit.int8_products} / {len(audit.products)} matrix products" if audit.products else ""
    note = "; ".join(filter(None, [products, note, hides, *_in_float(audit)]))
    more = (
        *silent,
        *(f"{i.first}: {', '.join(i.operators)} in float{_of_time(i.share)}" for i in audit.islands[:5]),
    )
    return Cell(f"{audit.int8} / {planned}", audit.int8, "fail" if silent else "", note, more=more)


def _in_float(audit: Audit) -> list[str]:
    """How much of an INT8 variant is float, and how much goes into conversions."""
    if audit.conversions is None:
        return []
    shares = [i.share for i in audit.islands]
    known = sum(s for s in shares if s is not None) if any(s is not None for s in shares) else None
    said = [f"{len(audit.islands)} float islands{_of_time(known)}"] if audit.islands else []
    return [*said, f"{audit.conversions} conversions{_of_time(audit.conversions_share)}"]


def _of_time(share_: float | None) -> str:
    return "" if share_ is None else f", {percent(share_)} of the time"


def cost_table(report: Report) -> Table:
    """What a variant weighs, and whether its INT8 is real."""
    rows = tuple(
        (
            name(report, row),
            amount(row.bytes),
            whole(row.params),
            number(row.gflops_per_frame),
            amount(row.state_bytes),
            audited(row.audit),
            text(row.audit.source if row.audit else None),
        )
        for row in report.rows
    )
    return Table(
        "cost",
        "Size, arithmetic, and is it really INT8?",
        "INT8 convolutions are counted as the engine executed them, out of those planned.",
        heads(
            "variant, file size, parameters, GFLOPs per frame, state, "
            "INT8 convolutions executed / planned, read from"
        ),
        rows,
    )


def stream_table(report: Report) -> Table:
    """What became of a clip model; no rows where nothing was made to step."""
    stream = report.stream
    facts = _stream_facts(report, stream) if stream and stream.exactness else []
    return Table(
        "stream",
        "From clip to stream",
        "The clip model computes a whole clip for every answer; a step computes what is new. Exact means "
        "equal to rounding, shown by the untouched clip model on a long video; by construction means that it "
        "could not be asked there; away from the ends of a clip, where the clip model sees padding.",
        heads("what, value"),
        tuple((Cell(what), cell) for what, cell in facts),
    )


def _stream_facts(report: Report, stream: StreamSpec) -> list[tuple[str, Cell]]:
    costs = [r.gflops_per_frame for r in report.rows if r.form == "window"]
    steps = [r.gflops_per_frame for r in report.rows if r.form == "step"]
    window, step = (next((c for c in costs_of_form if c), None) for costs_of_form in (costs, steps))
    field = stream.receptive_field
    return [
        ("against the clip model", Cell(exactness(stream, None), more=stream.because)),
        (
            "operators that show the clip model the ends of a clip",
            Cell(f"{len(stream.edges)}", more=stream.edges, note=stream.edges[0] if stream.edges else ""),
        ),
        ("an answer looks back on", Cell(f"{field} frames" if field else "everything since the reset")),
        ("valid after", Cell(f"{stream.warmup} frames")),
        ("new frames per step", whole(stream.chunk)),
        ("states", Cell(f"{len(stream.states)}, {size(stream.state_bytes)}", stream.state_bytes)),
        ("GFLOPs per new frame, as a step", number(step)),
        (f"GFLOPs per new frame, as a window of {report.frames}", number(window)),
        ("saved", ratio(window / step if window and step else None)),
    ]


def class_table(report: Report) -> Table:
    """Precision, recall and F1 of every label under every variant."""
    scores = [(r.variant, c) for r in report.rows if r.accuracy for c in r.accuracy.classes]
    labels = list(dict.fromkeys(score.label for _, score in scores))
    rows = tuple(
        (
            Cell(score.label, score.label),
            Cell(variant, variant),
            *(share(value) for value in (score.precision, score.recall, score.f1)),
            whole(score.n),
        )
        for variant, score in sorted(scores, key=lambda pair: labels.index(pair[1].label))
    )
    return Table(
        "classes",
        "Per class",
        "n clips carry the label. A label never answered has no precision.",
        heads("label, variant, precision, recall, F1, n"),
        rows,
    )


def device_table(report: Report) -> Table:
    """The machines, and the rows measured on each."""
    groups: dict[DeviceFacts | None, list[Measurement]] = {}
    for row in report.rows:
        groups.setdefault(machine(row.device), []).append(row)
    rows = []
    for device, members in groups.items():
        loads = sorted(r.device.load for r in members if r.device and r.device.load is not None)
        load = Cell(f"{loads[0]:.2f} to {loads[-1]:.2f}", loads[-1]) if loads else UNKNOWN
        if loads and loads[0] == loads[-1]:
            load = Cell(f"{loads[0]:.2f}", loads[0])
        cells = [UNKNOWN] * 6 if device is None else _device_cells(device)
        names = tuple(r.variant for r in members)
        rows.append((*cells, load, Cell(f"{len(names)}", len(names), more=names)))
    return Table(
        "devices",
        "Device facts",
        "Figures of different machines are never averaged or compared. Load is the one-minute load "
        "average noted with the figures.",
        heads("processor, cores, architecture, flags, system, Python, load, rows"),
        tuple(rows),
    )


def _device_cells(device: DeviceFacts) -> list[Cell]:
    flags = text(", ".join(device.flags) or "none of interest")
    words = (text(device.arch), flags, text(device.os), text(device.python))
    return [text(device.cpu), whole(device.cores), *words]


def steps_table(report: Report) -> Table:
    """What each step did, with which options and tools; digests shortened."""
    rows = tuple(
        (
            Cell(step.name, step.name),
            text(_pairs(step.options) or "none"),
            text(_digests(step.inputs) or "none"),
            text(_digests(step.outputs) or "none"),
            text(_pairs(dict(sorted(step.tools.items()))) or "none"),
        )
        for step in report.steps
    )
    return Table(
        "steps",
        "How it was made",
        "One row per step of the line, in order; digests are cut to 12 digits.",
        heads("step, options, from, to, tools"),
        rows,
    )


def _pairs(options: Mapping[str, Any]) -> str:
    """In the order of their names: a report looks the same before and after it was written as JSON."""
    plain = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in options.items()}
    return ", ".join(f"{k} = {v}" for k, v in sorted(plain.items()))


def _digests(files: dict[str, str]) -> str:
    return ", ".join(f"{k} {v[:12]}" for k, v in files.items())


def summary(report: Report) -> str:
    """One sentence that counts rows and drop-gate verdicts."""
    judged = [row.drop.verdict for row in report.rows if row.drop]
    count = f"{len(report.rows)} row" + ("" if len(report.rows) == 1 else "s")
    gates = "accuracy lost against the original was not measured"
    if judged:
        gates = (
            f"{len(judged)} judged against the original: {judged.count('pass')} kept the allowed "
            f"drop, {judged.count('fail')} broke it, {judged.count('inconclusive')} undecided"
        )
    if "not applied" in judged:
        gates += f", to {judged.count('not applied')} the gate was not applied: a label has no held-out clips"
    return f"{count}, {gates}. The original is {report.baseline}."
