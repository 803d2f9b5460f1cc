"""How near the built-in models come to what one core can do, and where the rest of the time goes.

``python benchmarks/roofline.py`` measures the peaks of one core, exports each model for cpu and mobile, takes
each file's time of a step (all of a model in turns, one thread) as a share of its roof, and has ONNX Runtime
tell the times of its operators. About five minutes on a quiet machine; writes roofline.json and roofline.md.
What is there is left as it is; --again measures anew. ``--page`` only writes the page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measured_at import machine, now, told

from edgepv import bundle, pipeline
from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json, write_text
from edgepv.base.machine import device_facts
from edgepv.measure.layers import Layer, layers
from edgepv.measure.roofline import peaks
from edgepv.metrics.roofline import bandwidth_gbs, of_row, under_roof
from edgepv.pipeline.options import Options
from edgepv.types import Measurement, Peaks, decode, encode

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "roofline.json", HERE / "roofline.md"
MODELS = ("pv-c3d-handwash", "pv-conv-small-handwash")
SLOWEST = 15
"""Operators shown one by one; the others are told by kind."""


def measure(name: str) -> dict[str, Any]:
    """Rows of every variant and the operators of those that ONNX Runtime runs."""
    rows, inside, chunk = [], {}, 1
    with tempfile.TemporaryDirectory() as scratch:
        for target in ("cpu", "mobile"):
            out = Path(scratch) / target
            made = pipeline.export(Options(name, targets=(target,), out=str(out)), Console(quiet=True)).made[
                0
            ]
            rows += [encode(row) for row in made.report.rows if row.target == target and row.latency]
            for variant in bundle.read(out).content.variants:
                chunk = variant.stream.chunk if variant.stream else 1
                if variant.engine == "onnxruntime":
                    inside[variant.name] = [encode(layer) for layer in layers(out / variant.path)]
    keep = ("variant", "engine", "precision", "form", "status", "target", "bytes", "state_bytes", "latency")
    slim = [{k: row[k] for k in (*keep, "gflops_per_frame", "peaks", "device")} for row in rows]
    return {"rows": slim, "layers": inside, "chunk": chunk, "peaks": encode(peaks())}


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args(argv)
    found = read_json(OUT) if OUT.is_file() else {}
    for name in () if args.page else args.only or MODELS:
        if name not in found or args.again:
            found[name] = measure(name) | {"measured_at": now(), "device": encode(device_facts())}
            write_json(OUT, found)
    write_text(PAGE, page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
