"""Rows held against each other: which is the original, and how much faster another is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from edgepv.metrics.stats import metric_name
from edgepv.report.cells import Cell, ratio, verdict
from edgepv.types import DeviceFacts, Latency, Measurement, Report

ORIGINALS = {"torch": "torch-fp32", "onnxruntime": "onnxruntime-original"}
"""Engine of an original -> name of its row: a torch model, a user's ONNX file."""


def metric(report: Report) -> str:
    """What the models of a report are judged by, in words."""
    known = [row.accuracy.metric for row in report.rows if row.accuracy]
    return metric_name(known[0]) if known else "accuracy"


def machine(device: DeviceFacts | None) -> DeviceFacts | None:
    """The facts that make two figures comparable: all but the load of the moment."""
    return device and replace(device, load=None)


def together(report: Report, row: Measurement, latency: Latency) -> dict[str, Latency]:
    """The rows timed in turns with ``latency`` in one run on one machine, itself among them."""
    latencies = {row.variant: latency}
    for other in report.rows:
        same_machine = machine(other.device) == machine(row.device)
        for theirs in other.latency if same_machine and other is not row else ():
            both = other.variant in latency.interleaved_with
            both = both and row.variant in theirs.interleaved_with
            if both and theirs.threads == latency.threads:
                latencies[other.variant] = theirs
    return latencies


def original(report: Report, row: Measurement, among: Iterable[str]) -> str | None:
    """The name of the original that ``row`` compares to: the baseline, or its own folder's one.

    Rows of joined reports whose names clash are called "folder/name": each folder brings its own original.
    """
    folder = "".join(row.variant.rpartition("/")[:2])
    beside = (folder + one for one in (report.baseline.rpartition("/")[2], *ORIGINALS.values()))
    return next((name for name in (report.baseline, *beside) if name in among), None)


def speedups(report: Report, row: Measurement, latency: Latency) -> tuple[float | None, float | None]:
    """p50 of the original, and of the slowest row, over this p50; None if not timed in turns."""
    latencies = together(report, row, latency)
    base = original(report, row, latencies)
    slowest = max(other.p50_ms for other in latencies.values())
    to_base = latencies[base].p50_ms / latency.p50_ms if base else None
    return to_base, slowest / latency.p50_ms if len(latencies) > 1 else None


def speed(report: Report, row: Measurement, latency: Latency) -> Cell:
    """How many times faster than the original, by pairs of turns with their interval where there are such.

    Times of a busy machine tell of no speed.
    """
    if latency.inconclusive:
        return verdict("inconclusive")
    base = original(report, row, together(report, row, latency))
    pair = latency.against(base) if base else None
    if pair is None:
        return ratio(speedups(report, row, latency)[0])
    low, high = 1 / pair.wall.high, 1 / pair.wall.low
    return replace(ratio(1 / pair.wall.value), note=f"{low:.2f} to {high:.2f}")


def main_latency(row: Measurement) -> Latency | None:
    """The latency on the fewest threads: the one that is compared first."""
    return min(row.latency, key=lambda latency: latency.threads, default=None)


def name(report: Report, row: Measurement, note: str | None = None) -> Cell:
    """The row's name; an original is marked."""
    mark = "the original" if row.variant == original(report, row, [row.variant]) else None
    notes = dict.fromkeys(filter(None, [mark, *(note or "").split("; ")]))
    return Cell(row.variant, row.variant, note="; ".join(notes))
