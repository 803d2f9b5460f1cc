"""A report for Python: ``load`` a file or a bundle, look at it as a pandas frame, log it to MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepv.base.optional import need
from edgepv.errors import UsageError
from edgepv.metrics.stats import unit_of
from edgepv.report import results
from edgepv.report.compare import main_latency
from edgepv.report.page import to_html, to_json
from edgepv.types import Measurement, Report

EXPERIMENT = "edgepv"
NAMED = ("model", "variant", "target", "engine", "precision", "form")
"""Columns that say what a row is; all others are figures."""


@dataclass(frozen=True)
class Loaded:
    """A report as it was read. report: its rows as values."""

    report: Report

    def frame(self) -> Any:
        """A pandas DataFrame with a row for each variant; a column's name ends with its unit.

        What was not measured is NaN. Raises TargetUnavailableError if pandas is not installed.
        """
        pandas = need("pandas", extra="pandas")
        rows = [_named(self.report, row) | _in_floats(figures_of(row)) for row in self.report.rows]
        return pandas.DataFrame(rows)


def load(*paths: str | Path) -> Loaded:
    """The reports of bundles (folders or zips), folders of bundles, or .json files, as one.

    Raises UsageError as ``results.load``.
    """
    return Loaded(results.load([Path(path) for path in paths]))


def _named(report: Report, row: Measurement) -> dict[str, Any]:
    words = (report.title, row.variant, row.target, row.engine, row.precision, row.form)
    return {**dict(zip(NAMED, words, strict=True)), "runs": row.variant in report.runs}


def figures_of(row: Measurement) -> dict[str, float | int | None]:
    """Every figure of a row by its name with its unit; None is "not measured".

    Times are on the fewest threads. A metric in points is a fraction of 1, a loss of it is in points.
    """
    accuracy, drop, parity, latency = row.accuracy, row.drop, row.parity, main_latency(row)
    metric = accuracy.metric if accuracy else None
    unit = "db" if metric and unit_of(metric) == "dB" else "share"
    lost = "db" if drop and drop.unit == "dB" else "points"
    return {
        "file_bytes": row.bytes,
        "parameters": row.params,
        "gflops_per_frame": row.gflops_per_frame,
        "state_bytes": row.state_bytes,
        "peak_memory_mib": row.rss_mib,
        **{
            f"{metric or 'accuracy'}_{name}": value
            for name, value in (
                (unit, accuracy.value if accuracy else None),
                (f"low_{unit}", accuracy.low if accuracy else None),
                (f"high_{unit}", accuracy.high if accuracy else None),
            )
        },
        "clips": accuracy.n if accuracy else None,
        f"lost_{lost}": drop.points if drop else None,
        f"lost_low_{lost}": drop.low if drop else None,
        f"lost_high_{lost}": drop.high if drop else None,
        "sqnr_db": parity.sqnr_db if parity else None,
        "threads": latency.threads if latency else None,
        "calls": latency.n if latency else None,
        "p50_ms": latency.p50_ms if latency else None,
        "p95_ms": latency.p95_ms if latency else None,
        "p99_ms": latency.p99_ms if latency else None,
        "cpu_ms": latency.cpu_ms if latency else None,
    }


def _in_floats(figures: Mapping[str, float | int | None]) -> dict[str, float]:
    """What was not measured as NaN, so that a column of nothing else is one of numbers too."""
    return {name: math.nan if value is None else float(value) for name, value in figures.items()}


def log_to_mlflow(report: Report, uri: str, *, experiment: str = EXPERIMENT) -> tuple[str, ...]:
    """Log every variant as a run of MLflow at ``uri``, such as file:mlruns; returns the runs' ids.

    A run is called like its variant; its figures are metrics, what it is are parameters, and the whole report
    (JSON and HTML) is an artifact of the runs that ship. What was not measured is not logged. Raises
    TargetUnavailableError if mlflow-skinny is not installed, UsageError with MLflow's words if it refuses.
    """
    mlflow = need("mlflow", extra="mlflow")
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else client.create_experiment(experiment)
        return tuple(_logged(client, place, report, row) for row in report.rows)
    except mlflow.exceptions.MlflowException as e:
        raise UsageError(f"MLflow at {uri} took no run: {' '.join(str(e).split())}") from e


def _logged(client: Any, experiment: str, report: Report, row: Measurement) -> str:
    run: str = client.create_run(experiment, run_name=row.variant).info.run_id
    state = "FAILED"
    try:
        for name, value in _named(report, row).items():
            client.log_param(run, name, value)
        for name, value in known(figures_of(row)):
            client.log_metric(run, name, value)
        client.set_tag(run, "verdict", row.drop.verdict if row.drop else "not measured")
        for what, digest in report.digests.items():
            client.set_tag(run, f"sha256 {what}", digest)
        if row.variant in report.runs:
            client.log_text(run, to_json(report), "report.json")
            client.log_text(run, to_html(report), "report.html")
        state = "FINISHED"
    finally:
        client.set_terminated(run, status=state)
    return run


def known(figures: Mapping[str, float | int | None]) -> Iterator[tuple[str, float]]:
    """Those that were measured."""
    return ((name, float(value)) for name, value in figures.items() if value is not None)
