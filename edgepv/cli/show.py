"""Results printed for a person: tables on stdout."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.console import tell
from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.bundle.manifest import Bundle
from edgepv.metrics.stats import SQNR_CAP_DB, counted, metric_name, worded
from edgepv.stream.account import exactness
from edgepv.types import Accuracy, Audit, Latency, LayerSensitivity, Measurement, PairedDrop, encode

if TYPE_CHECKING:
    from edgepv.device.slots import State, Trust
    from edgepv.measure.replay import Replayed
    from edgepv.pipeline.pack import ExportedBundle
    from edgepv.pipeline.run import NotMade
    from edgepv.quantize.sparsity import LayerSparsity
    from edgepv.stream.account import Row, StreamReport, StreamTable

UNKNOWN = "not measured"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table as wide as its content, so that a pipe keeps every column."""
    widths = [max(len(str(r[i])) for r in (header, *rows)) for i in range(len(header))]
    for row in (header, ["-" * w for w in widths], *rows):
        tell("  ".join(str(cell).ljust(w) for cell, w in zip(row, widths)).rstrip())


def exported(bundles: Sequence[ExportedBundle], not_made: Sequence[NotMade] = ()) -> None:
    """One line per variant of every bundle, the reason for each choice, and why targets have none."""
    header = (
        "variant",
        "target",
        f"{_metric(bundles)} (95 %)",
        "drop (95 %)",
        "verdict",
        "SQNR dB",
        "INT8 convs, products",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "size KB",
    )
    rows: dict[tuple[str, str], list[str]] = {}
    for one in bundles:
        for row in one.report.rows:
            rows.setdefault((row.variant, row.target), _cells(row, row.variant == one.chosen.variant))
    table(header, list(rows.values()))
    for one in bundles:
        tell(f"\n{one.target}")
        for reason in one.report.reasons:
            tell(f"  {reason}")
        tell(f"  bundle {one.folder} ({one.folder}.zip), digest {one.digest[:16]}")
        tell(f"  report {one.folder}/report.html")
    for missing in not_made:
        tell(f"\n{missing.target}")
        tell(f"  not made: {missing.why}")


def _metric(bundles: Sequence[ExportedBundle]) -> str:
    """What the models are judged by, in words."""
    known = [row.accuracy.metric for one in bundles for row in one.report.rows if row.accuracy]
    return metric_name(known[0]) if known else "accuracy"


def accuracy_text(accuracy: Accuracy) -> str:
    """ "78.8 % (71.5 to 84.7, n 146)", or "..., n 146 in 16 groups)"."""
    value, low, high = (worded(v, accuracy.metric) for v in (accuracy.value, accuracy.low, accuracy.high))
    spread = "no interval" if accuracy.groups == 1 else f"{low.split()[0]} to {high.split()[0]}"
    return f"{value} ({spread}, n {counted(accuracy.n, accuracy.groups)})"


def _cells(row: Measurement, chosen: bool) -> list[str]:
    a, d, p, u = row.accuracy, row.drop, row.parity, row.audit
    first = row.latency[0] if row.latency else None
    times = (first.p50_ms, first.p95_ms, first.p99_ms) if first else (None,) * 3
    return [
        row.variant + (" *" if chosen else ""),
        row.target,
        accuracy_text(a) if a else UNKNOWN,
        points(d) if d else "the original" if row.parity is None else UNKNOWN,
        (d.verdict if d else "") + (f", needs {d.clips_needed} clips" if d and d.clips_needed else ""),
        f"{p.sqnr_db:.1f}" if p else "",
        _in_int8(u) if u else "",
        *(UNKNOWN if ms is None else f"{ms:.2f}" for ms in times),
        f"{row.bytes / 1024:.0f}" if row.bytes else UNKNOWN,
    ]


def _in_int8(audit: Audit) -> str:
    """ "17/17, 0/1": of the convolutions and of the matrix products, those that run in INT8."""
    if not any(c.executed for c in (*audit.convolutions, *audit.products)):
        return UNKNOWN
    products = f", {audit.int8_products}/{len(audit.products)}" if audit.products else ""
    return f"{audit.int8}/{len(audit.convolutions)}{products}"


def as_data(one: ExportedBundle) -> dict[str, object]:
    """One bundle as JSON data, for --json."""
    return {
        "target": one.target,
        "bundle": str(one.folder),
        "digest": one.digest,
        "runs": one.chosen.variant,
        "measured": encode(one.report),
    }


def summary(run: dict[str, Any]) -> None:
    """A run's summary on stderr; stdout keeps the JSON lines."""
    misses = "" if run["missed"] is None else f", {run['missed']} later than {run['deadline_ms']:g} ms"
    verdict = ""
    if "label" in run:
        verdict = f"{run['label'] or 'no valid answer'} ({run['score'] or 0:.0%}); "
    tell(
        f"{run['variant']}: {verdict}"
        f"{run['frames_answered']} answers of {run['frames_read']} frames, {run['drops']} dropped; "
        f"{_percentiles(run)} on "
        f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}{misses}",
        file=sys.stderr,
    )


def sensitivity(layers: Sequence[LayerSensitivity]) -> None:
    """One line per layer, the most sensitive first."""
    header = (f"layer alone {layers[0].change}", "SQNR dB", "top-1 changed", "top-1 lost, points (95 %)")
    rows = [[f.layer, f"{f.sqnr_db:.1f}", _changed(f), points(f.drop)] for f in layers]
    table(header, rows)


def _changed(layer: LayerSensitivity) -> str:
    return UNKNOWN if layer.changed is None else f"{layer.changed:.1%} of {layer.n}"


def points(drop: PairedDrop | None) -> str:
    """ "+0.7 points (-2.6 to +4.1)", or "not measured"."""
    if drop is None:
        return UNKNOWN
    return f"{drop.figures('+')[0]} {drop.unit} ({drop.interval('+')})"


def sparsity(layers: Sequence[LayerSparsity]) -> None:
    """A table, and in one line how far the whole model is from 2:4."""
    rows = [
        [
            row.layer,
            f"{row.weights}",
            _pattern(row),
            "" if row.kept is None else f"{100 * row.kept:.1f} %",
        ]
        for row in layers
    ]
    table(("layer", "weights", "groups of four", "energy 2:4 would keep"), rows)
    sparse = sum(row.weights for row in layers if row.sparse)
    tell(f"\n{sparse} of {sum(row.weights for row in layers)} weights lie in layers that meet 2:4")


def audited(audit: Audit) -> None:
    """What an engine runs each convolution and product in, its float islands and its conversions."""
    both = (*audit.convolutions, *audit.products)
    rows = [(c.node, c.planned, c.executed or UNKNOWN) for c in both]
    table(("convolution, matrix product", "planned", "runs in"), rows)
    planned = sum(c.planned == "int8" for c in audit.convolutions)
    tell(
        f"{audit.int8} of {planned} planned convolutions run in INT8; silently in float: "
        f"{len(audit.silent_float)}"
    )
    if audit.products:
        tell(f"{audit.int8_products} of {len(audit.products)} matrix products run in INT8")
    for island in audit.islands:
        tell(f"float      {island.first}: {', '.join(island.operators)}")
    if audit.conversions is not None:
        tell(f"converts   {audit.conversions} times ({audit.source})")


def _pattern(row: LayerSparsity) -> str:
    if not row.groups:
        return "not possible"
    return "2:4" if row.sparse else f"{row.broken} of {row.groups} break it"


def sensitivity_picture(model: str, layers: Sequence[LayerSensitivity], out: Path) -> None:
    """A bar per layer, the most sensitive on top, with the points of top-1 lost at its end."""
    need("matplotlib", extra="compress")
    from matplotlib.figure import Figure

    change = layers[0].change
    figure = Figure(figsize=(7, 1.2 + 0.19 * len(layers)), layout="constrained")
    axes = figure.subplots()
    colours = ["#c65d3b" if f.changed else "#4878a8" for f in layers]
    bars = axes.barh([f.layer for f in layers], [f.sqnr_db for f in layers], color=colours, height=0.7)
    lost = [f"{f.drop.points:+.1f}" if f.drop and f.drop.points else "" for f in layers]
    axes.bar_label(bars, lost, padding=2, fontsize=6)
    axes.invert_yaxis()
    told = "red: an answer changed" + ("; beside it: points of top-1 lost" if any(lost) else "")
    axes.set_xlabel(f"SQNR of the logits in dB with this layer alone {change}\n{told}", fontsize=9)
    seen = [f.sqnr_db for f in layers if f.sqnr_db < SQNR_CAP_DB]  # bars of equal logits run off the edge
    axes.set_xlim(right=1.1 * max(1.0, *seen) if seen else SQNR_CAP_DB)
    axes.set_title(f"{model}: the cost of each layer {change}", loc="left", fontsize=10)
    axes.tick_params(axis="y", labelsize=7, length=0)
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    with whole_file(out) as tmp:
        figure.savefig(tmp, format=out.suffix[1:], dpi=150)


def _percentiles(run: dict[str, Any]) -> str:
    """ "p50 1.20, p95 1.41 ms": those that so many answers support."""
    known = [f"{p} {run[f'{p}_ms']:.2f}" for p in ("p50", "p95", "p99") if run[f"{p}_ms"] is not None]
    return f"{', '.join(known)} ms" if known else "times not measured"


def latencies(rows: Mapping[str, Latency], base: str | None = None) -> None:
    """One line per row: time of one call, and as a share of that of ``base``; None: of the fastest float."""
    floats = [to.to for row in rows.values() for to in row.ratios]
    base = base or min(floats, key=lambda name: rows[name].p50_ms, default="")
    share = f"of {base or 'float32'} (95 %)"
    header = ("variant", "p50 ms", "p95 ms", "p99 ms", "CPU ms", share, "calls", "threads")
    cells = []
    for name, row in rows.items():
        times = (row.p50_ms, row.p95_ms, row.p99_ms, row.cpu_ms)
        pair = row.against(base)
        told = "1" if name == base else str(pair.wall) if pair else UNKNOWN
        each = (UNKNOWN if ms is None else f"{ms:.3f}" for ms in times)
        cells.append((name, *each, told, str(row.n), str(row.threads)))
    table(header, cells)
    for why in dict.fromkeys(row.inconclusive for row in rows.values() if row.inconclusive):
        tell(f"inconclusive: {why}. Measure again on an idle machine")


def replayed(rows: Sequence[Replayed]) -> None:
    """One line per way to run: streaming accuracy, misses, freshness, latency."""
    header = ("runs", "right", "missed", "dropped", "age p50/p95 ms", "reply p50/p99/max ms", "switches/min")
    table(
        header,
        [
            (
                r.name,
                f"{r.accuracy:.1%} of {r.instants}" if r.instants else UNKNOWN,
                f"{r.miss_rate:.1%} of {r.frames}",
                str(r.dropped),
                _times(*r.age_ms[:2]) if r.age_ms else UNKNOWN,
                _times(r.latency_ms[0], r.latency_ms[2], r.latency_ms[3]),
                f"{r.switches_per_minute:.1f}",
            )
            for r in rows
        ],
    )
    first = rows[0]
    tell(f"\ndeadline {first.limit_ms:.1f} ms, a frame every {first.period_ms:.1f} ms")


def _times(*milliseconds: float | None) -> str:
    """ "1.2 / not measured / 3.4"."""
    return " / ".join(UNKNOWN if ms is None else f"{ms:.1f}" for ms in milliseconds)


def ladder(b: Bundle) -> None:
    """The rungs, the largest first, and what was left out."""
    header = ("rung", "p50 ms", "top-1")
    rows = [
        (
            rung.variant,
            UNKNOWN if rung.p50_ms is None else f"{rung.p50_ms:.3f}",
            UNKNOWN if rung.accuracy is None else f"{rung.accuracy:.1%}",
        )
        for rung in b.measured.ladder
    ]
    table(header, rows)
    for reason in b.measured.reasons:
        tell(f"  {reason}")


def slots(root: Path, state: State, trust: Trust | None) -> None:
    """Which slot runs, whose bundles are taken, and what happened last."""
    running = "nothing is installed" if state.active is None else f"slot {state.active} runs"
    trial = f", on trial, started {state.starts} times" if state.trial else ""
    tell(f"{root}: {running}{trial}")
    if trust and trust.key:
        tell(f"  takes bundles signed by key {trust.key}, version {trust.version} or newer")
    for one in state.history[-5:]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.time))
        tell(
            f"  {when} UTC  {one.what}  {one.digest[:12]}  {one.why}"
            + (f" ({one.times} times)" if one.times > 1 else "")
        )


def bundle(b: Bundle) -> None:
    """What a bundle holds."""
    c, m, spec = b.content, b.measured, b.content.spec
    stream = c.stream
    tell(f"{c.name} for {c.target}, {m.status}, digest {b.digest[:16]}")
    tell(f"input      {spec.input.shape} {spec.input.layout}, {spec.colour}, {spec.fps} frames per second")
    tell(f"labels     {', '.join(spec.labels)}")
    if stream:
        field = stream.receptive_field or "not bounded"
        tell(
            f"stream     {len(stream.states)} states, {stream.state_bytes / 1024:.0f} KB; valid after "
            f"{stream.warmup} frames, looks back on {field}"
        )
        if stream.exactness:
            tell(f"           {exactness(stream, spec.fps)}")
    else:
        tell(f"stream     none: the host keeps {spec.frames} frames and computes all for each answer")
    preferred = f"; chosen by {m.prefer}" if m.prefer else ""
    tell(f"runs       {m.run}{preferred}; accuracy gate: {m.verdict}")
    for reason in m.reasons:
        tell(f"           {reason}")
    tell(f"answers    {c.postprocessing}")
    table(
        ("variant", "engine", "precision", "form", "file", "KB"),
        [
            (
                v.name,
                v.engine,
                v.precision,
                v.form,
                v.path,
                f"{(b.folder / v.path).stat().st_size / 1024:.0f}",
            )
            for v in c.variants
        ],
    )
    for step in c.steps:
        tools = ", ".join(f"{k} {v}" for k, v in step.tools.items())
        tell(f"step       {step.name} {step.options or ''} with {tools}")


def model_rows(zoo: Any) -> list[dict[str, Any]]:
    """Every shipped checkpoint: name, task, labels, metrics, and what its held-out data show.

    Its metric when cross-validated by group (None: it was not) and on held-out data are as its card has them.
    """
    from edgepv.base.files import read_json

    index = read_json(zoo.INDEX)
    return [
        {
            "name": name,
            "task": row["spec"].get("task", "classification"),
            "labels": row["spec"]["labels"],
            "crossval": zoo.cross_validated(name),
            "test": row["metrics"]["test"],
            "tested_on": zoo.tested_on(name),
        }
        for name, row in sorted(index.items())
    ]


def models(rows: Sequence[dict[str, Any]]) -> None:
    """The shipped checkpoints as a table."""
    table(
        ("model", "cross-validated by group", "on held-out clips (95 %)", "which show", "labels"),
        [
            (
                r["name"],
                folds(r["crossval"]) if r["crossval"] else UNKNOWN,
                _interval(r["test"]),
                r["tested_on"],
                ", ".join(r["labels"]) or r["task"],
            )
            for r in rows
        ],
    )


def folds(top1: dict[str, Any]) -> str:
    """ "top-1 57.7 % (folds of 53.2 to 64.7 %, n 338)"."""
    low, high = min(top1["per_fold"]), max(top1["per_fold"])
    return (
        f"top-1 {100 * top1['value']:.1f} % (folds of {100 * low:.1f} to {100 * high:.1f} %, n {top1['n']})"
    )


def _interval(test: dict[str, Any]) -> str:
    metric = test.get("metric", "top1")
    groups = test.get("groups")
    accuracy = Accuracy(test["value"], test["low"], test["high"], test["n"], metric=metric, groups=groups)
    return f"{metric_name(accuracy.metric)} {accuracy_text(accuracy)}"


KINDS = {
    "step": "steps by itself: nothing to convert",
    "stream": "a clip model, converted to a stream",
    "window": "a clip model that cannot be streamed: it runs as a window",
}


def stream(account: StreamReport) -> None:
    """What became of a model: its layers, what a result costs, and what that means."""
    tell(f"{account.model}: {KINDS[account.tier]}\n")
    if account.streams:
        _layers(account.streams)
        tell("\nrate: frames between two rows of a layer. delay: frames that a row is late.")
        tell("GFLOPs: 10^9 operations of convolutions and matrix products; a multiply and an add are two.\n")
    if account.savings:
        _savings(account)
        tell()
    for about, text in account.says.items():
        wrapped = textwrap.wrap(f"{about:8} {text}", 110, subsequent_indent=" " * 9, break_long_words=False)
        for part in wrapped:
            tell(part)


def _layers(streams: Sequence[StreamTable]) -> None:
    """Every layer of the first conversion, and what it costs in each of them."""
    from edgepv.stream.account import keys, kilobytes

    costs = [dict(zip(keys(s.layers), s.layers)) for s in streams]
    header = ["layer", "operator", "source", "rate", "delay", "states", "host keeps", "GFLOPs/clip"]
    header += [f"GFLOPs/frame, every {s.every}" for s in streams]
    rows = []
    for key, row in costs[0].items():
        kept = kilobytes(row.state_bytes) if row.states else ""
        each = [_gflops(c[key].gflops_frame if key in c else 0.0) for c in costs]
        what = [row.layer, row.operator, row.source, str(row.rate), str(row.delay)]
        rows.append([*what, _states(row, streams[0]), kept, _gflops(row.gflops_clip), *each])
    total = [_gflops(s.gflops_frame) for s in streams]
    first = streams[0]
    sums = [f"{len(first.stream.states)} states", kilobytes(first.state_bytes), _gflops(first.gflops_clip)]
    rows.append(["total", *[""] * 4, *sums, *total])
    table(header, rows)


def _states(row: Row, one: StreamTable) -> str:
    """ "2 x 24x28x28": the host keeps two rows of that shape."""
    states = [s for s in one.stream.states if s.name in row.states]
    return " + ".join(f"{s.shape[0] * s.period} x {'x'.join(map(str, s.shape[1:]))}" for s in states)


def _gflops(value: float) -> str:
    return "" if not value else f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def _savings(account: StreamReport) -> None:
    """What a new frame costs, by how often a result is wanted."""
    from edgepv.stream.account import kilobytes, operations

    header = ["a result every", "clip model, GFLOPs/frame"]
    if account.streams:
        header += ["stream", "saving", "clip length / clip stride", "host keeps"]
    else:
        header += ["times a frame is computed"]
    rows = []
    for one in account.savings:
        row = [f"{one.every} frame{'' if one.every == 1 else 's'}", operations(one.clip)]
        if one.stream is not None:
            saving = f"{one.times:.1f}x" if one.times else UNKNOWN
            row += [operations(one.stream), saving, f"{one.ideal:.3g}x", kilobytes(one.state_bytes or 0)]
        else:
            row += [f"{one.ideal:.3g}"]
        rows.append(row)
    table(header, rows)
