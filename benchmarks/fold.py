"""What folding keeps and what it saves, without labels and without training, beside cutting by magnitude.

``python benchmarks/fold.py --data DIR`` folds built-in classifiers at several promises, and judges one window
of every held-out clip: SQNR against the original, points expected to be lost. The same share cut by magnitude
and not trained after, stands beside it. Writes fold.json; without --data only fold.md, from it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import now, stamp

from edgepv.base.files import read_json, write_json, write_text
from edgepv.base.optional import need
from edgepv.data.frames import hold_last, model_frames
from edgepv.errors import UsageError
from edgepv.metrics.margins import margin_drop, margins
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build
from edgepv.model.surgery import parameters
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Clips, gather, load
from edgepv.quantize import fold, prune
from edgepv.quantize.low_rank import multiplications
from edgepv.quantize.step import Training
from edgepv.types import Checkpoint, encode

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "fold.json", HERE / "fold.md"
MODELS = (
    "pv-c3d-valid-fight",
    "pv-c3d-handwash",
    "pv-conv-small-fight",
    "pv-conv-small-handwash",
    "pv-conv-nano-handwash",
)
PROMISES_DB = (50.0, 40.0, 30.0, 20.0)
FRAMES = 64  # of each calibration clip


def measure(name: str, data: Path) -> dict[str, Any]:
    """Every promise, and for each the cut by magnitude that leaves about as many weights."""
    source = load(Options(name))
    original = source.checkpoint
    assert original
    clips = gather(Options(name, clips=str(data)), source.spec)
    footage = [model_frames(c.path, source.spec, FRAMES) for c in clips.calibration]
    exam = _Exam(original, clips)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for db in PROMISES_DB:
            out = Path(scratch) / f"{db:g}.safetensors"
            try:
                made = fold.Step(db)(original, out, Training(footage=footage))
            except UsageError as e:
                rows.append({"promised_db": db, "why": str(e)})
                continue
            row = {"promised_db": db, **made.steps[-1].options, **exam.of(made)}
            rows.append(row | {"magnitude": _magnitude(original, row["weights"], exam, Path(scratch))})
            print(name, rows[-1], flush=True)
    return {"clips": len(clips.held_out), "rows": rows, "measured_at": now()}


def _magnitude(original: Checkpoint, weights: float, exam: _Exam, scratch: Path) -> dict[str, Any] | None:
    """The uniform cut that leaves about this share of the weights: of s cut, (1 - s) squared is left."""
    try:
        ratio = 1 - float(np.sqrt(weights))
        return exam.of(prune.Step(ratio)(original, scratch / "magnitude.safetensors"))
    except UsageError:
        return None


class _Exam:
    """One window of every held-out clip, and what the original answers."""

    def __init__(self, original: Checkpoint, clips: Clips) -> None:
        spec = original.spec
        frames = [model_frames(c.path, spec) for c in clips.held_out]
        middles = [max(0, (len(f) - spec.frames) // 2) for f in frames]
        windows = [hold_last(f[m : m + spec.frames], spec.frames) for f, m in zip(frames, middles)]
        self.windows = [np.ascontiguousarray(w.transpose(1, 0, 2, 3)) for w in windows]
        self.truth = [spec.labels.index(str(c.label)) for c in clips.held_out]
        self.groups = [c.group for c in clips.held_out]
        self.original = original
        self.wanted = self._answers(original)

    def _answers(self, checkpoint: Checkpoint) -> np.ndarray:
        torch = need("torch", extra="compress")
        module = build(checkpoint)
        with torch.no_grad():
            return np.concatenate([module(torch.from_numpy(w[None])).numpy() for w in self.windows])

    def of(self, made: Checkpoint) -> dict[str, Any]:
        """What a checkpoint keeps of the original's answers, and of its size."""
        got = self._answers(made)
        both = [margins(rows, self.truth) for rows in (self.wanted, got)]
        sizes = [_sizes(c) for c in (self.original, made)]
        return {
            "weights": sizes[1][0] / sizes[0][0],
            "multiplications": sizes[1][1] / sizes[0][1],
            "held_out_db": sqnr_db(self.wanted, got),
            "drop": encode(margin_drop(*both, max_drop=1.0, groups=self.groups)),
        }


def _sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    """(weights, multiplications) of a checkpoint."""
    module = build(checkpoint)
    work = multiplications(module, checkpoint.spec)
    return parameters(module), sum(work.values())


def page(results: dict[str, Any]) -> str:
    """fold.md."""
    lines = [
        "# Folding: narrower without labels and without training",
        "",
        "Made by `python benchmarks/fold.py` from benchmarks/fold.json. Widths are chosen on 24 calibration "
        "clips, whose labels are not used; one window of every held-out clip judges. Cut: the same share of "
        "weights cut by magnitude, without fine-tuning.",
        "",
        "| model | promised dB | weights | multiplications | dB on held-out clips | expected points lost "
        "| verdict | cut: dB | cut: points lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        lines += [_line(name, row) for row in result["rows"]]
        lines += [""] if name == list(results)[-1] else []
    lines += [f"{name}: {stamp(result.get('measured_at'))}" for name, result in results.items()]
    return "\n".join(lines) + "\n"


def _line(name: str, row: dict[str, Any]) -> str:
    if "why" in row:
        return f"| {name} | {row['promised_db']:g} | nothing is folded | | | | | | |"
    cut = row["magnitude"]
    beside = f"{cut['held_out_db']:.1f} | {_lost(cut['drop'])}" if cut else "not cut | "
    return (
        f"| {name} | {row['promised_db']:g} | {row['weights']:.0%} | {row['multiplications']:.0%} "
        f"| {row['held_out_db']:.1f} | {_lost(row['drop'])} | {row['drop']['verdict']} | {beside} |"
    )


def _lost(drop: dict[str, Any]) -> str:
    return f"{drop['points']:+.2f} ({drop['low']:.2f} to {drop['high']:.2f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv and clips")
    parser.add_argument("--only", nargs="+", default=MODELS)
    args = parser.parse_args(argv)
    results = read_json(OUT) if OUT.exists() else {}
    for name in args.only if args.data else ():
        results[name] = measure(name, args.data)
        write_json(OUT, {n: results[n] for n in MODELS if n in results})
    write_text(PAGE, page(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
