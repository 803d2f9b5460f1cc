"""Grouped cross-validation: ``python -m edgepv.zoo.training.crossval pv-conv-small --data DIR``.

All clips of train and test together are dealt into folds by group. For each fold the whole training is
done on the other folds only, joint pre-training included, with a shorter schedule than the shipped
weights had and a fixed number of epochs, so nothing is selected. The answers on the held-out folds are
pooled: every clip is scored once, by a network that never saw its group.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgepv.base.console import tell
from edgepv.base.files import digest, read_json, write_json
from edgepv.data.split import Sample, folds
from edgepv.errors import EdgepvError
from edgepv.metrics.stats import accuracy
from edgepv.types import encode
from edgepv.zoo import HERE, TASKS, spec
from edgepv.zoo.training.classifiers import PRETRAIN, Recipe, finetune, line, pretrain
from edgepv.zoo.training.command import default_cache
from edgepv.zoo.training.data import load, read_manifest
from edgepv.zoo.training.epochs import Plan
from edgepv.zoo.training.score import frames_of, scores

SHORT = {
    "pv-conv-small": Recipe(
        Plan("pretrain", ((12, 64),), lr=2e-3),
        None,
        Plan("finetune", ((6, 128),), lr=2e-3, weight_decay=0.05, mix=0.2, still=0.5),
        share=0,
    ),
    "pv-conv-nano": Recipe(
        Plan("pretrain", ((18, 64),), lr=3e-3),
        None,
        Plan("finetune", ((12, 96),), lr=2e-3, weight_decay=0.05, mix=0.2, still=0.5),
        share=0,
    ),
}


def one_fold(
    model: str,
    samples: Sequence[Sample],
    held_out: set[Path],
    recipe: Recipe,
    *,
    seed: int,
    cache: Path,
) -> dict[str, list[list[float]]]:
    """Scores of the held-out clips: task -> one row per held clip, in the order of ``samples``."""
    footage = load(s for s in samples if s.path not in held_out)

    def say(row: dict[str, Any]) -> None:
        print(line(row), flush=True)

    joint, _ = pretrain(model, footage, recipe, seed=seed, cache=cache, tick=say)
    answers = {}
    for task in _present(samples):
        mine = [f for f in footage if f.sample.task == task]
        net, _, _ = finetune(model, task, joint, mine, recipe.finetune, seed=seed, cache=cache, tick=say)
        asked = [s for s in samples if s.path in held_out and s.task == task]
        table = scores(net, [frames_of(s.path, spec(model, task)) for s in asked])
        answers[task] = [[round(float(v), 4) for v in row] for row in table]
    return answers


def crossval(model: str, data: Path, *, count: int, seed: int, cache: Path) -> dict[str, Any]:
    """Pooled accuracy per task; folds already scored are read from the cache."""
    start = time.perf_counter()
    recipe = SHORT[model]
    samples = read_manifest(data)
    sides = folds(samples, count)
    rows = []
    for i, held_out in enumerate(sides):
        key = digest([model, recipe, seed, sorted(p.name for p in held_out)])[:12]
        done = cache / f"{model}-fold-{key}.json"
        if not done.is_file():
            print(f"fold {i + 1} of {count}: {len(samples) - len(held_out)} clips to learn from", flush=True)
            write_json(done, one_fold(model, samples, held_out, recipe, seed=seed, cache=cache))
        rows.append(read_json(done))
    return {
        "model": model,
        "folds": count,
        "seed": seed,
        "recipe": encode(recipe),
        "tasks": {task: _pooled(task, samples, sides, rows) for task in _present(samples)},
        "seconds": round(time.perf_counter() - start),
    }


def _present(samples: Sequence[Sample]) -> list[str]:
    """The tasks that have clips, in the order of the zoo."""
    return [task for task in TASKS if any(s.task == task for s in samples)]


def _pooled(
    task: str,
    samples: Sequence[Sample],
    sides: Sequence[set[Path]],
    rows: Sequence[dict[str, list[list[float]]]],
) -> dict[str, Any]:
    """Accuracy over all folds, and top-1 per fold (None where a fold holds no clip of the task)."""
    tested = [[s for s in samples if s.path in held_out and s.task == task] for held_out in sides]
    truth = [[s.label for s in fold] for fold in tested]
    groups = [s.group for fold in tested for s in fold]
    tables = [np.array(row[task]).reshape(-1, len(TASKS[task])) for row in rows]
    per_fold = [
        float((t.argmax(1) == np.array(y)).mean()) if y else None for t, y in zip(tables, truth, strict=True)
    ]
    row = accuracy([y for ys in truth for y in ys], np.concatenate(tables), TASKS[task], groups)
    return {"accuracy": encode(row), "per_fold": per_fold}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the folds of one model and write its JSON."""
    parser = argparse.ArgumentParser(prog="python -m edgepv.zoo.training.crossval", description=__doc__)
    parser.add_argument("model", choices=sorted(PRETRAIN), metavar="MODEL", help=", ".join(PRETRAIN))
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and clips")
    parser.add_argument("--out", type=Path, help="default: the cards folder of the package")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="unfinished trainings")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = args.out or HERE / "cards" / f"crossval-{args.model}.json"
    try:
        result = crossval(args.model, args.data, count=args.folds, seed=args.seed, cache=args.cache)
    except EdgepvError as e:
        tell(f"edgepv: {e}", file=sys.stderr)
        return e.exit_code
    write_json(out, result)
    for task, row in result["tasks"].items():
        a = row["accuracy"]
        print(
            f"{args.model} {task}: {100 * a['value']:.1f} % "
            f"({100 * a['low']:.1f} to {100 * a['high']:.1f}), n = {a['n']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
