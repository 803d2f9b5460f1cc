"""How near the built-in models come to what one core can do, and where the rest of the time goes.

    python benchmarks/roofline.py make    # exports the models for cpu and mobile; may run on a busy machine
    python benchmarks/roofline.py time    # five minutes at most, on a quiet machine
    python benchmarks/roofline.py page    # roofline.md from roofline.json alone

``make`` leaves bundles that are there, of it or of models.py, as they are. ``time`` measures the peaks of one
core, takes each file's time of a step (all of a model in turns, one thread) as a share of its roof, and has
ONNX Runtime tell the times of its operators; it writes roofline.json and roofline.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measured_at import machine, now, told

from edgepv import bundle, pipeline
from edgepv.base import cache
from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json, write_text
from edgepv.base.machine import device_facts
from edgepv.bundle.proof import report_of
from edgepv.measure import latency
from edgepv.measure.layers import Layer, layers
from edgepv.measure.roofline import peaks
from edgepv.metrics.roofline import bandwidth_gbs, of_row, under_roof
from edgepv.pipeline.options import Options
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.types import Measurement, Peaks, Variant, decode, encode

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "roofline.json", HERE / "roofline.md"
MODELS = ("pv-c3d-valid-fight", "pv-conv-small-fight")
TARGETS = ("cpu", "mobile")
BUDGET_S = 60.0
"""Seconds of timed calls, all files of a model together."""
SLOWEST = 15
"""Operators shown one by one; the others are told by kind."""


def make(name: str, place: Path) -> None:
    """Export a model for each target, unless its bundle is there."""
    for target in TARGETS:
        if not (place / name / target).is_dir():
            asked = Options(name, targets=(target,), out=str(place / name / target))
            pipeline.export(asked, Console(quiet=True))


def measure(name: str, place: Path) -> dict[str, Any]:
    """Rows of every variant that is timed here, and the operators of those that ONNX Runtime runs."""
    rows: dict[str, Measurement] = {}
    opened: dict[str, tuple[Engine, Variant]] = {}
    inside, chunk = {}, 1
    for target in TARGETS:
        made = bundle.read(place / name / target)
        for row in report_of(made).rows:
            if row.target != target or not row.latency:
                continue
            variant = made.variant(row.variant)
            rows[row.variant], opened[row.variant] = row, (open_engine(variant, made.checked), variant)
            chunk = variant.stream.chunk if variant.stream else 1
            if variant.engine == "onnxruntime":
                inside[row.variant] = [encode(layer) for layer in layers(made.folder / variant.path)]
    with latency.alone():
        times = latency.on_noise(opened, threads=1, budget_s=BUDGET_S)
    here, one = device_facts(), peaks()
    timed = [encode(replace(rows[n], latency=(t,), device=here, peaks=one)) for n, t in times.items()]
    keep = ("variant", "engine", "precision", "form", "status", "target", "bytes", "state_bytes", "latency")
    slim = [{k: row[k] for k in (*keep, "gflops_per_frame", "peaks", "device")} for row in timed]
    return {"rows": slim, "layers": inside, "chunk": chunk, "peaks": encode(one)}


def page(found: dict[str, Any]) -> str:
    """roofline.md."""
    lines = [
        "# The roofline of one core",
        "",
        "Made by `python benchmarks/roofline.py` from benchmarks/roofline.json. Allowed: the operations a "
        "second that one core allows a row, by its arithmetic or by the bytes it cannot do without; reached: "
        "what it does in the median call. held back by: compute or memory where at least half of the time is "
        "the one or the other, else overhead (Williams, Waterman and Patterson 2009). A multiply and an add "
        "are two operations.",
    ]
    for name, result in found.items():
        lines += ["", f"## {name}", "", f"{machine(result['device'])}. {told(result['measured_at'])}", ""]
        lines += [peaks_told(decode(Peaks, result["peaks"])), "", *variants(result)]
        for variant, inside in result["layers"].items():
            every = [decode(Layer, layer) for layer in inside]
            lines += ["", f"### {variant}, operator by operator", "", *operators(every, result)]
    return "\n".join(lines) + "\n"


def peaks_told(found: Peaks) -> str:
    """The peaks in a sentence."""
    reads = ", ".join(f"{gbs:.0f} GB/s from {size >> 10:,} KiB" for size, gbs in found.bandwidth)
    integer = f"{found.int8_gops:.0f} GOP/s in INT8" if found.int8_gops else "INT8 not measured"
    return f"One core: {found.fp32_gops:.0f} GOP/s in float32, {integer}; it reads {reads} ({found.source})."


def variants(result: dict[str, Any]) -> Iterator[str]:
    """The table of a model's files, the fastest first."""
    yield "| variant | p50 ms | GOP/s reached | GOP/s allowed | share | held back by | operations a byte |"
    yield "|---|---|---|---|---|---|---|"
    rows = [decode(Measurement, row) for row in result["rows"]]
    for row in sorted(rows, key=lambda r: r.latency[0].p50_ms):
        one, p50 = of_row(row, result["chunk"]), f"{row.latency[0].p50_ms:.3f}"
        if one is None:
            yield f"| {row.variant} | {p50} | not measured: no peak in {row.precision} | | | | |"
            continue
        yield (
            f"| {row.variant} | {p50} | {one.gops:.1f} | {one.roof_gops:.1f} | {100 * one.share:.0f} % "
            f"| {one.limit} | {one.intensity:.0f} |"
        )


def operators(every: Sequence[Layer], result: dict[str, Any]) -> Iterator[str]:
    """Where the time goes: by kind, then the slowest one by one."""
    peak, total = decode(Peaks, result["peaks"]), sum(layer.us for layer in every)
    yield f"{len(every)} operators, {total / 1000:.3f} ms together (profiled calls on zeros; medians)."
    yield ""
    yield "| kind | operators | share of the time | GOP/s | share of what a core allows |"
    yield "|---|---|---|---|---|"
    kinds: dict[str, list[Layer]] = {}
    for layer in every:
        kinds.setdefault(f"{layer.kind}, {layer.precision}", []).append(layer)
    for kind, members in sorted(kinds.items(), key=lambda item: -sum(one.us for one in item[1])):
        us, ideal = sum(one.us for one in members), sum(least_us(one, peak) for one in members)
        work = sum(one.operations for one in members) / us / 1000 if us else 0.0
        share = f"{100 * ideal / us:.0f} %" if us else ""
        yield f"| {kind} | {len(members)} | {100 * us / total:.1f} % | {work:.1f} | {share} |"
    yield ""
    yield f"The {SLOWEST} slowest:"
    yield ""
    yield "| operator | kind | us | share of the time | GOP/s | share of what a core allows | held back by |"
    yield "|---|---|---|---|---|---|---|"
    for one in sorted(every, key=lambda layer: -layer.us)[:SLOWEST]:
        roof = under_roof(one.operations, one.bytes, one.us / 1e6, one.precision, peak)
        cells = (
            f"{roof.gops:.1f} | {100 * roof.share:.0f} % | {roof.limit}"
            if roof
            else f"| {moves(one, peak)} | moves"
        )
        yield f"| {one.name} | {one.kind} | {one.us:.0f} | {100 * one.us / total:.1f} % | {cells} |"


def moves(one: Layer, peak: Peaks) -> str:
    """What an operator without arithmetic of note reaches of the memory's speed."""
    return f"{100 * least_us(one, peak) / one.us:.0f} %" if one.us else ""


def least_us(one: Layer, peak: Peaks) -> float:
    """Microseconds that a core needs at least: for the arithmetic, or to move the bytes."""
    by_memory = one.bytes / bandwidth_gbs(peak, one.bytes) / 1e3
    gops = peak.int8_gops if one.precision == "int8" else peak.fp32_gops
    return max(by_memory, one.operations / gops / 1e3 if gops else 0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("make", "time", "page"))
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    args = parser.parse_args(argv)
    found, place = read_json(OUT) if OUT.is_file() else {}, cache.root() / "models"
    for name in args.only or MODELS:
        if args.stage == "make":
            make(name, place)
        elif args.stage == "time":
            found[name] = measure(name, place) | {"measured_at": now(), "device": encode(device_facts())}
            write_json(OUT, found)
    if found:
        write_text(PAGE, page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
