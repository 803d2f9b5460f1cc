"""From the field back to the bundle, once: what cameras keep and a person corrects. Writes kept.json.

    python benchmarks/kept.py --data DATA --work DIR      # a quarter of an hour; DATA: see benchmarks/data.py

pv-conv-nano, trained to see fights, watches clips of ten cameras that it never saw, as `edgepv run --live`
does, with a receiver `clips:DIR`. It keeps what it takes for a fight and what it is in doubt about. Every
kept clip is moved into the folder of its true label, known here. `edgepv finetune` learns them, beside some
of the clips that the zoo's weights were trained on. What comes out, and what was fine-tuned as long without
the kept clips, is judged on other clips of the same cameras and on clips of other cameras; `edgepv export`
packs the first seed's.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import now

from edgepv import bundle as bundles
from edgepv.base.console import Console
from edgepv.base.files import write_json
from edgepv.data.calibration import in_turns
from edgepv.data.clips import Clip, as_manifest
from edgepv.data.frames import model_frames
from edgepv.finetune import run as finetuned
from edgepv.measure.answers import clip_answers
from edgepv.metrics.margins import margin_drop, margins
from edgepv.metrics.stats import accuracy
from edgepv.metrics.tasks import clip_scores
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.lower import lower
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import load
from edgepv.runtimes.engine import open_engine
from edgepv.types import Variant, encode
from edgepv.zoo import TASKS

RESULT = Path(__file__).parent / "kept.json"
MODEL = "pv-conv-nano-fight"
RULES = """
[camera]
name = "field"

[[rule]]
label = "fight"
threshold = 0.5

[[rule]]
label = "*"
doubt = "margin"
threshold = 0.6
"""
"""An alarm where a fight is the likelier answer; doubt where the two are less than 0.4 apart."""
PATIENT_MS = "5000"
"""Of a deadline: on a busy machine every frame is still answered."""
SEEDS = (0, 1)
AT_HAND = 24
"""Training clips of a label that are learned beside the kept ones, groups in turns."""


def clips_of(data: Path) -> tuple[list[Clip], list[Clip], list[Clip], list[Clip]]:
    """(training clips, those the cameras see, others of the same cameras, those of other cameras).

    A group of the test split is a camera. Of one with more clips than one every other of a label is seen.
    """
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "fight"]
    clips = [Clip(data / r["path"], r["label"], r["group"], r["split"]) for r in rows]
    test = sorted((c for c in clips if c.split == "test"), key=lambda c: (c.group, str(c.label), c.path.name))
    sizes = Counter(c.group for c in test)
    several = [c for c in test if sizes[c.group] > 1]
    train = [c for c in clips if c.split == "train"]
    train = [train[i] for i in in_turns(train)[: AT_HAND * len(TASKS["fight"])]]
    return train, several[::2], several[1::2], [c for c in test if sizes[c.group] == 1]


def edgepv(*words: object) -> None:
    """One command. Raises CalledProcessError with what it said."""
    asked = [sys.executable, "-m", "edgepv", *map(str, words)]
    subprocess.run(asked, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def watched(bundle: Path, clips: Sequence[Clip], kept: Path, rules: Path) -> None:
    """Show each clip to the bundle as its camera would, and correct what was kept of it."""
    for clip in clips:
        before = set(kept.glob("*.mp4"))
        source = f"{clip.group}={clip.path.absolute()}"
        edgepv("run", bundle, "--source", source, "--live", "--rules", rules, "--deadline-ms", PATIENT_MS,
               "--emit", f"clips:{kept}?pre_s=2&post_s=2", "--spool", kept.with_name("spool"))  # fmt: skip
        for file in set(kept.glob("*.mp4")) - before:
            corrected = kept / str(clip.label)
            corrected.mkdir(exist_ok=True)
            shutil.move(file, corrected / file.name)


def finetune(work: Path, name: str, seed: int, epochs: int, *more: object) -> Path:
    """The folder of one fine-tuning; what is there is taken."""
    out = work / f"{name}-{seed}"
    if out.is_dir():
        return out
    edgepv(
        "finetune", MODEL, *more, "--adapter", "--mirror", "--epochs", epochs, "--seed", seed, "--out", out
    )
    return out


def export(out: Path, model: str, *more: object) -> Path:
    """A bundle in float: what INT8 adds to it is another benchmark's."""
    edgepv("export", model, *more, "--target", "cpu", "--variant", "onnxruntime-fp32", "--precision", "fp32",
           "--robustness", 0, "--out", out)  # fmt: skip
    return out


def graph(tuned: Path) -> tuple[Variant, Path]:
    """The float graph of a fine-tuned model: what its bundle in float has."""
    files = {"weights": str(tuned / "weights.safetensors"), "spec": str(tuned / "spec.toml")}
    options = Options(finetuned.read(tuned).builder, **files)
    source = load(options)
    return lower(RunContext(options, Console(quiet=True)), source, source.checkpoint)


def bundled(folder: Path) -> tuple[Variant, Callable[[str], bytes]]:
    """The one variant of a bundle."""
    opened = bundles.read(folder)
    return opened.variant("onnxruntime-fp32"), opened.checked


def scores(
    made: tuple[Variant, Path] | tuple[Variant, Callable[[str], bytes]], clips: Sequence[Clip]
) -> np.ndarray:
    """(clips, labels): the mean of what a model answers to each, as an export judges it."""
    variant = made[0]
    engine = open_engine(*made)
    shown = [model_frames(c.path, variant.spec) for c in clips]
    answers = clip_answers(engine.infer, variant, shown, [{}] * len(shown))
    engine.close()
    warmup = variant.stream.warmup if variant.stream else variant.spec.frames
    order = [variant.spec.labels.index(label) for label in TASKS["fight"]]
    return np.stack([clip_scores(rows, warmup)[order] for rows in answers])


def judged(found: np.ndarray, clips: Sequence[Clip], than: dict[str, np.ndarray]) -> dict[str, Any]:
    """Top-1, and what is gained against others, in points, from margins on the same clips."""
    truth = [TASKS["fight"].index(str(c.label)) for c in clips]
    groups = [c.group for c in clips]
    gained = {}
    for name, before in than.items():
        drop = margin_drop(margins(before, truth), margins(found, truth), max_drop=0.0, groups=groups)
        gained[name] = {"points": -drop.points, "low": -drop.high, "high": -drop.low, "why": drop.why}
    top1 = accuracy(truth, found, TASKS["fight"], groups)
    return {"top1": encode(top1), "gained": gained}


def measured(data: Path, work: Path, epochs: int, seeds: Sequence[int]) -> dict[str, Any]:
    """All of it, in a folder; what an earlier run left there is taken."""
    train, seen, same, other = clips_of(data)
    (work / "data").mkdir(parents=True, exist_ok=True)
    (work / "data" / "manifest.csv").write_text(as_manifest([*train, *same, *other]))
    (work / "rules.toml").write_text(RULES)
    kept = work / "kept"
    first = work / "first"
    if not kept.is_dir():
        kept.mkdir()
        watched(export(first, MODEL), seen, kept, work / "rules.toml")
    labelled = ["--data", work / "data"]
    ways = {
        "without": labelled,
        "with": [*labelled, "--from-kept", kept],
    }
    sides = {"same": same, "other": other, "both": [*same, *other]}
    before = {side: scores(bundled(first), clips) for side, clips in sides.items()}
    rows, said = [], ""
    for seed in seeds:
        control: dict[str, np.ndarray] = {}
        for way, more in ways.items():
            tuned = finetune(work, way, seed, epochs, *more)
            said = finetuned.read(tuned).kept or said
            made = graph(tuned)
            for side, clips in sides.items():
                found = scores(made, clips)
                than = {"deployed": before[side]} | ({"without": control[side]} if side in control else {})
                rows.append({"way": way, "seed": seed, "side": side, **judged(found, clips, than)})
                if way == "without":
                    control[side] = found
    out = work / f"with-{seeds[0]}"
    files = ["--weights", out / "weights.safetensors", "--spec", out / "spec.toml", "--clips", out]
    again = work / "again"
    if not again.is_dir():
        export(again, finetuned.read(out).builder, *files)
    return {
        "measured_at": now(),
        "model": MODEL,
        "epochs": epochs,
        "clips": {"train": len(train), "seen": len(seen), "same": len(same), "other": len(other)},
        "cameras": {"same": len({c.group for c in seen}), "other": len({c.group for c in other})},
        "kept": {"said": said, "labels": {n: len(list((kept / n).glob("*.mp4"))) for n in TASKS["fight"]}},
        "deployed": {side: judged(before[side], clips, {}) for side, clips in sides.items()},
        "runs": rows,
        "bundle": judged(scores(bundled(again), sides["both"]), sides["both"], {"deployed": before["both"]}),
    }


def table(found: dict[str, Any]) -> str:
    """The rows of docs/adapt.md."""
    counts = found["clips"]
    head = f"| model | seed | same cameras, {counts['same']} clips | others, {counts['other']} clips | all |"
    lines = [head, "|---|---|---|---|---|", _row("as it was deployed", "", found["deployed"])]
    for seed in dict.fromkeys(run["seed"] for run in found["runs"]):
        for way in ("without", "with"):
            of = {r["side"]: r for r in found["runs"] if (r["seed"], r["way"]) == (seed, way)}
            lines.append(_row(f"fine-tuned, {way} kept clips", str(seed), of))
    return "\n".join(lines) + "\n"


def _row(name: str, seed: str, of: dict[str, Any]) -> str:
    shares = (f"{100 * of[side]['top1']['value']:.1f} %" for side in ("same", "other", "both"))
    return f"| {name} | {seed} | {' | '.join(shares)} |"


def main() -> None:
    """Run all and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=RESULT)
    a = parser.parse_args()
    write_json(a.out, measured(a.data, a.work, a.epochs, a.seeds))


if __name__ == "__main__":
    main()
