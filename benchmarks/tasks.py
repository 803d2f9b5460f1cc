"""What INT8 costs in every task on every target: one table, from results that are there already.

``python benchmarks/tasks.py [BUNDLE ...]`` takes the models of ``SHOWN`` from models.json, gate.json and
detection.json, and of every bundle that is named what its own report says; of each target the INT8 file that
loses least. Writes tasks.json, where a row says when it was measured and stays until its model is named
again, and docs/tasks.md's table.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from detection import IN_VIEWS
from gate import both
from measured_at import now

from edgepv import bundle
from edgepv.base.files import read_json, write_json, write_text
from edgepv.metrics.stats import metric_name, worded
from edgepv.types import Measurement, PairedDrop, Report, decode, encode

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "tasks.json", HERE.parent / "docs" / "tasks.md"
SHOWN = {
    "pv-conv-small-fight": "classification",
    "pv-track-nano": "tracking",
    "pv-restore-nano-denoise": "restoration",
}
"""Built-in models whose rows of models.json stand for a task."""
DETECTORS = ("yolox-nano", "person-detector")
TARGETS = ("cpu", "mobile", "jetson")
Row = dict[str, Any]
"""task, model, target, variant, metric, value, drop as ``PairedDrop``, p50_ms or None, measured_at."""


def least_lost(task: str, model: str, rows: list[Row]) -> Iterator[Row]:
    """Of each target the file that passes, else whose interval ends lowest."""
    for target in TARGETS:
        mine = [row for row in rows if row["target"] == target]
        if mine:
            best = min(mine, key=lambda row: (row["drop"]["verdict"] != "pass", row["drop"]["high"]))
            yield {"task": task, "model": model, **best}


def of_measurements(rows: Iterable[Measurement], measured_at: Any) -> list[Row]:
    """INT8 files of a report."""
    return [
        {
            "target": r.target,
            "variant": r.variant,
            "metric": r.accuracy.metric,
            "value": r.accuracy.value,
            "drop": encode(r.drop),
            "p50_ms": r.latency[0].p50_ms if r.latency else None,
            "measured_at": measured_at,
        }
        for r in rows
        if r.precision == "int8" and r.accuracy and r.drop
    ]


def by_margins(rows: list[Row], real: dict[str, Any]) -> list[Row]:
    """The same files of a classifier, by what gate.json has of their margins, where it has them."""
    before = np.array(real["before"])
    told = []
    for row in rows:
        after = real["variants"].get(f"{row['target']} {row['variant']}")
        if after is not None:
            drop, _ = both(before, np.array(after), real["groups"])
            right = float((np.array(after) > 0).mean())
            row = row | {"value": right, "drop": encode(drop), "measured_at": real["measured_at"]}
        told.append(row)
    return told


def committed() -> Iterator[Row]:
    """Rows of models.json, gate.json and detection.json."""
    models, detection, gate = (read_json(HERE / f"{n}.json") for n in ("models", "detection", "gate"))
    for model, task in SHOWN.items():
        measured = (decode(Measurement, row) for row in models[model]["rows"])
        rows = of_measurements(measured, models[model]["measured_at"])
        if model in gate["real"]:
            rows = by_margins(rows, gate["real"][model])
        yield from least_lost(task, model, rows)
    for model in DETECTORS:
        rows = [
            {
                "target": name.split()[0],
                "variant": name.split()[-1],
                "metric": "ap50",
                "value": file.get("views", file)["ap50"],
                "drop": file.get("views", file)["drop"],
                "p50_ms": None,
                "measured_at": file.get("measured_at", detection["measured_at"]),
            }
            for name, file in detection[model]["files"].items()
            if name in IN_VIEWS
        ]
        yield from least_lost("detection", model, rows)


def of_bundle(folder: Path) -> Iterator[Row]:
    """Rows of a bundle: what measured.json in it says."""
    report = decode(Report, read_json(folder / "measured.json"))
    spec = bundle.read(folder).content.variants[0].spec
    yield from least_lost(spec.task, spec.name, of_measurements(report.rows, now()))


def table(found: dict[str, Any]) -> str:
    """The rows of docs/tasks.md."""
    lines = [
        "| task | model | target | INT8 file | metric | lost | verdict | CPU p50 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        drop = decode(PairedDrop, row["drop"])
        points, low, high = drop.figures()
        time = "not measured" if row["p50_ms"] is None else f"{row['p50_ms']:.2f} ms"
        lines.append(
            f"| {row['task']} | {row['model']} | {row['target']} | {row['variant']} "
            f"| {metric_name(row['metric'])} {worded(row['value'], row['metric'])} "
            f"| {points} {drop.unit} ({low} to {high}) | {drop.verdict} | {time} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Put the rows together and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE")
    named = [row for folder in parser.parse_args().bundles for row in of_bundle(folder)]
    before = read_json(OUT)["rows"] if OUT.is_file() else []
    rows = {(row["model"], row["target"]): row for row in (*before, *committed(), *named)}
    found = {"measured_at": now(), "rows": list(rows.values())}
    write_json(OUT, found)
    place = r"(<!-- table: benchmarks/tasks\.py -->\n\n)(?:\|.*\n)+"
    write_text(PAGE, re.sub(place, lambda m: m[1] + table(found), PAGE.read_text()))


if __name__ == "__main__":
    main()
