"""A report with something in every part, to be drawn: the figures are made up."""

from __future__ import annotations

from dataclasses import replace

from edgepv.types import (
    Accuracy,
    Baseline,
    Curve,
    Estimate,
    LayerSensitivity,
    LiveRun,
    Measurement,
    OperatingPoint,
    Report,
    Robustness,
    Slice,
)

CURVE = Curve(
    "fight",
    24,
    12,
    0.8125,
    0.794,
    ((0.93, 0.0, 0.25, 1.0), (0.71, 0.25, 0.5, 0.6667), (0.3, 0.5, 1.0, 0.6667), (0.05, 1.0, 1.0, 0.5)),
    OperatingPoint(0.46, 0.75, 0.333, 0.692, "the model's card"),
)
SLICES = (
    Slice("label", "fight", 12, 0.75, 0.5, Estimate(25.0, 3.0, 47.0)),
    Slice("light", "dark, 12 to 61.5 of 255", 8, 0.625, 0.625, Estimate(0.0, -4.25, 4.25)),
    Slice("camera", "18 cameras", 24, 0.708, 0.667, None),
)


def every_part(report: Report) -> Report:
    """The same report with all that an export, and a live benchmark, may add to it."""
    ran = report.runs or (report.rows[-1].variant,)
    return replace(
        report,
        runs=ran,
        rows=tuple(_row(row, row.variant in ran) for row in report.rows),
        sensitivity=(
            LayerSensitivity("node_conv3d_1", 18.5, 0.125, 24),
            LayerSensitivity("node_conv3d_0", 41.25, 0.0, 24),
        ),
        robustness=tuple(
            Robustness(name, how, "float", ran[0], 12, Estimate(0.75, 0.47, 0.91), after, lost)
            for name, how, after, lost in (
                ("none", "as they are", Estimate(0.75, 0.47, 0.91), Estimate(0.0, -1.5, 1.5)),
                ("low light", "15 % of the light", Estimate(0.5, 0.25, 0.75), Estimate(25.0, 4.5, 45.5)),
            )
        ),
        baselines=(Baseline("most frequent label", "always answers fight", Accuracy(0.5, 0.31, 0.69, 24)),),
        live=(LiveRun("ladder", 20.0, 100.0, 24, 3, 0.75, 20, ((12, 3, 21.5, 30.25), (12, 0, 7.5, 9.0))),),
        commands=("edgepv export pv-c3d-valid --target cpu --out bundle",),
        digests={"model": "4f" * 32, "held-out clips": "a1" * 32},
    )


def _row(row: Measurement, ran: bool) -> Measurement:
    latency = tuple(
        replace(
            one,
            p50_ends_ms=(0.95 * one.p50_ms, 1.06 * one.p50_ms),
            spread_ms=tuple(one.p50_ms * (0.9 + 0.01 * i) for i in range(21)),
        )
        for one in row.latency
    )
    return replace(row, latency=latency, curves=(CURVE,), slices=SLICES if ran else ())
