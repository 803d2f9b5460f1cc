"""Clips answered right by every variant of a streamed zoo model, against its clip model's card:

    edgepv export pv-c3d --target cpu,mobile --clips DIR --out runs
    python benchmarks/stream_accuracy.py pv-c3d-handwash --data DIR runs/cpu runs/mobile

Every variant is stepped over the whole test split; the clip model's answers are those of its card, made by
sliding it over the same clips. Writes stream_accuracy.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import now

from edgepv import bundle, zoo
from edgepv.base.files import read_json, write_json
from edgepv.measure.answers import clip_answers, scores
from edgepv.metrics.stats import paired_drop
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Stepper
from edgepv.types import Variant, encode
from edgepv.zoo.training.data import read_manifest
from edgepv.zoo.training.score import frames_of

OUT = Path(__file__).resolve().with_suffix(".json")


def right(variant: Variant, folder: Path, clips: Sequence[np.ndarray], truth: Sequence[int]) -> list[bool]:
    """Whether the variant answers each clip right."""
    engine = open_engine(variant, folder)
    warmup = Stepper(engine.infer, variant.spec, variant.stream).warmup
    found = scores(clip_answers(engine.infer, variant, clips), warmup).argmax(1)
    engine.close()
    return [bool(a == b) for a, b in zip(found, truth)]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a zoo model of one task, like pv-c3d-handwash")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and clips")
    args = parser.parse_args()
    model, task = zoo.parse(args.name)
    test = [s for s in read_manifest(args.data) if s.split == "test" and s.task == task]
    clips, truth = [frames_of(s.path, zoo.spec(model, task)) for s in test], [s.label for s in test]
    card = read_json(zoo.HERE / "cards" / f"{args.name}.json")["test"]["clips"]
    original = [int(np.argmax(c["scores"])) == t for c, t in zip(card, truth)]
    rows: dict[str, Any] = {"torch clip": {"right": sum(original), "n": len(truth)}}
    for opened in map(bundle.read, args.bundles):
        for variant in opened.content.variants:
            got = right(variant, opened.folder, clips, truth)
            drop = paired_drop(original, got, max_drop=1.0)
            rows[variant.name] = {"right": sum(got), "n": len(got), "drop": encode(drop)}
            print(f"{variant.name}: {sum(got)} of {len(got)}", flush=True)
    write_json(OUT, {"model": args.name, "variants": rows, "measured_at": now()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
