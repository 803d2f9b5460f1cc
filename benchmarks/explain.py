"""Do the cells and particles that ``edgepv explain`` ranks first matter more than others drawn by lot?

Writes explain.json.

    python benchmarks/explain.py --data DATA     # about ten minutes on one core

Each model as float ONNX in ONNX Runtime, as it lies in a cpu bundle. Clips are drawn from the test split,
the labels taking turns; the label explained is the model's own answer. Every clip gives one difference, AUC
of the ranking minus the mean AUC of random orders on it; the interval is a bootstrap over clips.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import now

from edgepv.base.console import Console
from edgepv.base.files import write_json
from edgepv.base.machine import device_facts
from edgepv.data.clips import find_clips
from edgepv.data.frames import model_frames
from edgepv.explain.clip import LONGEST, explain
from edgepv.explain.deletion import Deletion
from edgepv.explain.picture import Explanation
from edgepv.measure.replay import drawn
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import lowered
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Clips, load
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.player import Player
from edgepv.types import encode

RESULT = Path(__file__).parent / "explain.json"
MODELS = (
    "pv-conv-small-fight",
    "pv-conv-small-interact",
    "pv-conv-small-handwash",
    "pv-graph-nano-fight",
    "pv-graph-nano-interact",
)
DRAWS = 10_000


def opened(name: str) -> Player:
    """A zoo model in ONNX Runtime."""
    options = Options(name, precision="fp32")
    model = lowered(RunContext(options, Console(quiet=True)), load(options), Clips((), (), (), ""))
    return Player(open_engine(model.base, model.base_folder), model.base)


def interval(differences: list[float]) -> tuple[float, float]:
    """95 % of the means of clips drawn anew."""
    rng = np.random.default_rng(0)
    values = np.array(differences)
    means = rng.choice(values, (DRAWS, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def row(name: str, made: Explanation, right: bool, of: str, found: Deletion) -> dict[str, Any]:
    """What one clip adds; of: "cells" or "particles"."""
    return {
        "of": of,
        "model": name,
        "clip": made.source,
        "frames": made.frames,
        "label": made.label,
        "right": right,
        "chance": made.chance,
        "auc": found.auc,
        "random": found.random,
        "low": found.low,
        "high": found.high,
        "verdict": found.verdict,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over clips, and the interval of the difference."""
    differences = [r["auc"] - r["random"] for r in rows]
    low, high = interval(differences)
    return {
        "clips": len(rows),
        "auc": statistics.fmean(r["auc"] for r in rows),
        "random": statistics.fmean(r["random"] for r in rows),
        "difference": statistics.fmean(differences),
        "low": low,
        "high": high,
        "better_than_random": sum(r["verdict"] == "better than random" for r in rows),
    }


def summaries(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all clips, and by model."""
    models = dict.fromkeys(r["model"] for r in rows)
    return {
        "all": summary(rows),
        "models": {name: summary([r for r in rows if r["model"] == name]) for name in models},
    }


def table(found: dict[str, Any]) -> str:
    """The rows of docs/explain.md."""
    head = "| model | parts | by contribution | random | difference | clips better than random |"
    rows = [_cells(name, "cells", r, 3) for name, r in found["cells"]["models"].items()]
    rows.append(_cells("all", "cells", found["cells"]["all"], 3))
    rows += [_cells(name, "particles", r, 4) for name, r in found["particles"]["models"].items()]
    return "\n".join([head, "|---|---|---|---|---|---|", *rows]) + "\n"


def _cells(name: str, parts: str, r: dict[str, Any], digits: int) -> str:
    d = digits - 1
    return (
        f"| {name} | {parts} | {r['auc']:.{digits}f} | {r['random']:.{digits}f} | {r['difference']:.{d}f} "
        f"({r['low']:.{d}f} to {r['high']:+.{d}f}) | {r['better_than_random']} of {r['clips']} |"
    )


def main() -> None:
    """Explain clips of every model and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--clips", type=int, default=6, help="test clips per model (default: 6)")
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULT)
    a = parser.parse_args()
    rows: list[dict[str, Any]] = []
    start = time.process_time()
    for name in a.models:
        player = opened(name)
        spec = player.variant.spec
        test = [c for c in find_clips(a.data, spec.labels) if c.split == "test"]
        for clip in drawn(test, spec.labels, 0, a.clips):
            frames = model_frames(clip.path, spec)[:LONGEST]
            made = explain(
                player, frames, Console(quiet=True), label=None, grid=a.grid, source=clip.path.name
            )
            right = made.label == clip.label
            rows.append(row(name, made, right, "cells", made.cell_deletion))
            if made.particle_deletion:
                rows.append(row(name, made, right, "particles", made.particle_deletion))
            print(rows[-1], flush=True)
    write_json(
        a.out,
        {
            "measured_at": now(),
            "grid": a.grid,
            "cpu_minutes": (time.process_time() - start) / 60,
            "device": encode(device_facts()),
            **{
                of: summaries([r for r in rows if r["of"] == of])
                for of in dict.fromkeys(r["of"] for r in rows)
            },
            "clips": rows,
        },
    )


if __name__ == "__main__":
    main()
