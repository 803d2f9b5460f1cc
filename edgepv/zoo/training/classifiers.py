"""Train a zoo model: ``python -m edgepv.zoo.training.classifiers pv-conv-small --task fight --data DIR``.

``pretrain``: one trunk on the training clips of all tasks together, on small frames. ``adapt`` (not
for every task): the same at the final scale, with motion made the only clue where it should be.
``finetune``: one task, stopped where a validation set carved out of the training split by group is
best. ``refit``: the same fine-tuning for as many epochs as were best, now on all training clips. Then
the test split is scored once. Nothing is ever chosen by a test score.

Kill it anywhere and run the same command: it goes on after the last finished epoch. On a CPU, set
MALLOC_MMAP_THRESHOLD_=8000000000 and MALLOC_TRIM_THRESHOLD_=16000000000 for glibc: big buffers are
then reused instead of mapped anew, which made an epoch 1.5 to 2 times faster here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgepv.base.files import digest
from edgepv.data.clips import find_clips
from edgepv.data.split import Sample, carve, named
from edgepv.errors import UsageError
from edgepv.model.builder import find_function
from edgepv.types import encode
from edgepv.zoo import HERE, MODELS, TASKS, spec
from edgepv.zoo.pv_conv import PvConv
from edgepv.zoo.training import parallel
from edgepv.zoo.training.command import ended, script
from edgepv.zoo.training.data import Footage, balanced, load, read_manifest
from edgepv.zoo.training.epochs import Columns, Judge, Plan, fit
from edgepv.zoo.training.publish import counted, halve, publish, trained_on
from edgepv.zoo.training.score import (
    alarm,
    footage_s,
    frames_of,
    of_test,
    operating_point,
    scores,
    verdict,
)

SHARE = 0.15
"""Share of the training clips that pre-training leaves for validation."""


@dataclass(frozen=True)
class Recipe:
    """The plans of a model; ``share`` of the training clips validates the fine-tuning.

    share 0: no validation. The number of epochs is fixed beforehand and all training clips are used;
    a validation set of a dozen groups chooses by noise.
    """

    pretrain: Plan
    adapt: Plan | None
    finetune: Plan
    share: float = SHARE


EPOCH_CLIPS = 160
"""A task with fewer clips shows each of them more often in an epoch of fine-tuning."""

PRETRAIN = {
    "pv-conv-small": Plan("pretrain", ((30, 64), (8, 96), (2, 128)), lr=2e-3),
    "pv-conv-nano": Plan("pretrain", ((24, 64),), lr=3e-3),
    "pv-c3d": Plan("pretrain", ((20, 64),), lr=1e-3),
    "pv-c3d-valid": Plan("pretrain", ((20, 64), (4, 112)), lr=1e-3),
}


def _calm(size: int) -> Plan:
    """Fine-tuning that keeps the network from being sure: blended labels, still pictures, decay."""
    return Plan(
        "finetune",
        ((6, size),),
        lr=1e-3,
        weight_decay=0.1,
        smoothing=0.2,
        mix=0.8,
        still=0.8,
    )


def _long(size: int) -> Plan:
    """Long fine-tuning at the size the network runs at: a trunk that learned on 64 px has to learn again."""
    return Plan("finetune", ((40, size),), lr=2e-3, weight_decay=0.05, mix=0.2, still=0.5)


def recipe_of(model: str, task: str) -> Recipe:
    """The plans the shipped weights of ``model`` for ``task`` were made with.

    fight has few clips from very many cameras: it is stopped early, by validation loss. The other two
    are filmed by few cameras, where a long training at the final size pays.
    """
    size = MODELS[model].size
    if model == "pv-c3d-valid":
        plan = Plan("finetune", ((12, size),), lr=7e-4, weight_decay=0.05, mix=0.5, still=0.5, average=0.99)
        return Recipe(PRETRAIN[model], None, plan)
    if model == "pv-c3d":
        plan = Plan("finetune", ((36, size),), lr=1e-3, weight_decay=0.05, mix=0.2, average=0.99)
        return Recipe(PRETRAIN[model], None, plan, share=0)
    if task == "fight":
        return Recipe(PRETRAIN[model], None, _calm(size))
    return Recipe(PRETRAIN[model], None, _long(size), share=0)


def columns() -> dict[str, slice]:
    """Where the classes of each task stand in the joint head."""
    places: dict[str, slice] = {}
    at = 0
    for task, labels in TASKS.items():
        places[task] = slice(at, at + len(labels))
        at += len(labels)
    return places


def builder(model: str) -> Callable[[int], PvConv]:
    """The function that builds ``model`` for a number of classes."""
    return find_function(MODELS[model].builder)


def pretrain(
    model: str,
    footage: Sequence[Footage],
    recipe: Recipe,
    *,
    seed: int,
    cache: Path,
    tick: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[PvConv, list[dict[str, Any]]]:
    """A network with the classes of all tasks, trained on ``footage``; read from the cache if done.

    First on whole frames shrunk to a small size, which is quick; then ``recipe.adapt`` at the scale
    the network will see, with still pictures over the clips of the motion tasks.
    """
    places = columns()
    torch.manual_seed(seed)
    net = builder(model)(max(p.stop for p in places.values())).to(parallel.start())
    rows: list[dict[str, Any]] = []
    origin = ""
    for plan in filter(None, (recipe.pretrain, recipe.adapt)):
        resume = cache / f"{model}-{_key(plan, footage, seed, origin)}.pt"
        net, log, _ = fit(net, balanced(footage), places, plan, seed=seed, resume=resume, tick=tick)
        rows += log
        origin = _fingerprint(net)
    return net, rows


def _key(plan: Plan, footage: Sequence[Footage], seed: int, extra: str = "") -> str:
    """A name that changes with everything that changes the result."""
    what = [plan, seed, extra, sorted(f.sample.path.name for f in footage)]
    return f"{plan.name}-{digest(what)[:12]}"


def _fingerprint(net: PvConv) -> str:
    """Digest of the network's first and last weights: another start gives another name."""
    ends = [net.stem.weight, net.head.weight]
    return digest([[float(v) for v in w.detach().flatten()] for w in ends])


def narrowed(model: str, task: str, joint: PvConv) -> PvConv:
    """A copy of a jointly trained network that keeps only the classes of one task."""
    net = builder(model)(len(TASKS[task])).to(parallel.start())
    place = columns()[task]
    kept = dict(joint.state_dict())
    for name in ("head.weight", "head.bias"):
        kept[name] = kept[name][place]
    net.load_state_dict(kept)
    return net


def finetune(
    model: str,
    task: str,
    joint: PvConv,
    footage: Sequence[Footage],
    plan: Plan,
    *,
    seed: int,
    cache: Path,
    judge: Judge | None = None,
    stop_after: int | None = None,
    tick: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[PvConv, list[dict[str, Any]], int]:
    """Continue a jointly trained network on one task. Returns (network, log, best epoch)."""
    net = narrowed(model, task, joint)
    origin = f"{stop_after} {_fingerprint(joint)}"
    resume = cache / f"{model}-{task}-{_key(plan, footage, seed, origin)}.pt"
    places: Columns = {task: slice(0, len(TASKS[task]))}
    return fit(
        net,
        [f for f in footage for _ in range(max(1, round(EPOCH_CLIPS / len(footage))))],
        places,
        plan,
        seed=seed,
        resume=resume,
        judge=judge,
        stop_after=stop_after,
        tick=tick,
    )


def judge_of(model: str, task: str, validation: Sequence[Sample]) -> Judge:
    """A judge that scores a network on validation clips, decoded once."""
    if not validation:
        raise UsageError(
            f"no group of the {task} training clips can be spared for validation. Give more groups"
        )
    clips = [frames_of(s.path, spec(model, task)) for s in validation]
    truth = [s.label for s in validation]
    return lambda net: verdict(scores(net, clips), truth)


@dataclass(frozen=True)
class ClassifierRun:
    """What to train, from where, to where."""

    model: str
    task: str
    data: Path
    out: Path
    cache: Path
    seed: int = 0
    recipe: Recipe | None = None


def train(job: ClassifierRun, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All three parts, the weights written to ``job.out``/weights, the result to ``job.out``/cards."""
    recipe = job.recipe or recipe_of(job.model, job.task)
    everything = read_manifest(job.data)
    learning, _, tests = named(everything)
    kept, validation = carve(learning, recipe.share or SHARE)
    footage = load(learning)
    paths = {s.path for s in kept}
    fitting = [f for f in footage if f.sample.path in paths]
    joint, log = pretrain(job.model, fitting, recipe, seed=job.seed, cache=job.cache, tick=say)
    net, steps, best, threshold = _one_task(job, recipe, joint, footage, paths, validation, say)
    halve(net)
    test = [s for s in tests if s.task == job.task]
    tested = test_result(job.model, job.task, net, test)
    if threshold is not None:
        tested["alarm"] = alarm(tested["clips"], footage_s(test), TASKS[job.task], threshold)
    result = {
        "name": f"{job.model}-{job.task}",
        "seed": job.seed,
        "recipe": encode(recipe),
        "clips": {
            "pretrain": len(fitting),
            "finetune": sum(f.sample.task == job.task for f in fitting),
            "validation": sum(s.task == job.task for s in validation),
            "refit": sum(s.task == job.task for s in learning),
            "test": len(test),
        },
        "best_epoch": best,
        "validation": next((r for r in steps if r["epoch"] == best and "loss" in r), None),
        "test": tested,
        "seconds": round(sum(row["seconds"] for row in log + steps)),
        "trained_on": trained_on(),
        "log": log + steps,
    }
    publish(
        job.out,
        result["name"],
        net,
        MODELS[job.model].builder,
        spec(job.model, job.task),
        {"test": counted(result["test"]["accuracy"]), "shipped": shipped(job, net)},
        result,
    )
    return result


def _one_task(
    job: ClassifierRun,
    recipe: Recipe,
    joint: PvConv,
    footage: Sequence[Footage],
    kept: set[Path],
    validation: Sequence[Sample],
    say: Callable[[dict[str, Any]], None],
) -> tuple[PvConv, list[dict[str, Any]], int, float | None]:
    """Find the best number of epochs on the validation clips, then refit on all training clips.

    The last is the score at which an alarm of the first label pays, chosen on the validation clips with the
    net that had not seen them; None without them, and for more than two labels.
    """
    mine = [f for f in footage if f.sample.task == job.task]
    if not recipe.share:
        return *finetune(
            job.model, job.task, joint, mine, recipe.finetune, seed=job.seed, cache=job.cache, tick=say
        ), None
    fitting = [f for f in mine if f.sample.path in kept]
    judging = [s for s in validation if s.task == job.task]
    judge = judge_of(job.model, job.task, judging)
    args = (job.model, job.task, joint)
    found, log, best = finetune(
        *args, fitting, recipe.finetune, seed=job.seed, cache=job.cache, judge=judge, tick=say
    )
    threshold = None
    if len(TASKS[job.task]) == 2:
        clips = (frames_of(s.path, spec(job.model, job.task)) for s in judging)
        threshold = operating_point(scores(found, clips), [s.label for s in judging])
    net, more, _ = finetune(
        *args,
        mine,
        recipe.finetune,
        seed=job.seed,
        cache=job.cache,
        stop_after=best + 1,
        tick=say,
    )
    return net, log + [row | {"stage": "refit"} for row in more], best, threshold


def test_result(model: str, task: str, net: PvConv, test: Sequence[Sample]) -> dict[str, Any]:
    """Accuracy on the test split, and the scores of every clip so that it can be recomputed."""
    clips = (frames_of(s.path, spec(model, task)) for s in test)
    return of_test(test, scores(net, clips), TASKS[task])


def shipped(job: ClassifierRun, net: PvConv) -> dict[str, int] | None:
    """Right answers on the evaluation clips that come with the package; None without such clips."""
    if job.task != "fight":
        return None
    what = spec(job.model, job.task)
    clips = [c for c in find_clips(HERE / "clips", what.labels) if c.split == "evaluation"]
    table = scores(net, [frames_of(c.path, what) for c in clips])
    truth = np.array([what.labels.index(str(c.label)) for c in clips])
    return {"hits": int((table.argmax(1) == truth).sum()), "n": len(clips)}


def line(row: dict[str, Any]) -> str:
    """One row of the training log as a line of text."""
    validation = f"  validation loss {row['loss']:.3f} top-1 {row['top1']:.3f}" if "loss" in row else ""
    return (
        f"{row['stage']} epoch {row['epoch'] + 1} ({row['size']} px)  loss {row['train_loss']:.3f}  "
        f"top-1 {row['train_top1']:.3f}{validation}  {row['seconds']:.0f} s"
    )


def run_with_progress(job: ClassifierRun, total: int) -> dict[str, Any]:
    """Train with a progress bar on a terminal, one line per epoch in a pipe."""
    if not sys.stdout.isatty():
        return train(job, lambda row: print(line(row), flush=True))
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task(f"{job.model} {job.task}", total=total)

        def say(row: dict[str, Any]) -> None:
            bar.update(task, advance=1, description=line(row))

        return train(job, say)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit code."""
    parser = script("classifiers", __doc__)
    parser.add_argument("model", choices=sorted(PRETRAIN), metavar="MODEL", help=", ".join(PRETRAIN))
    parser.add_argument("--task", choices=list(TASKS), default="fight", help="default: fight")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and clips")
    args = parser.parse_args(argv)
    job = ClassifierRun(args.model, args.task, args.data, args.out, args.cache, args.seed)
    recipe = recipe_of(args.model, args.task)
    plans = [recipe.pretrain, recipe.adapt, recipe.finetune, recipe.finetune]

    def work() -> str:
        result = run_with_progress(job, sum(p.epochs for p in plans if p))
        row = result["test"]["accuracy"]
        return (
            f"{result['name']}: test top-1 {100 * row['value']:.1f} % "
            f"({100 * row['low']:.1f} to {100 * row['high']:.1f}), n = {row['n']}, "
            f"{result['seconds']} s"
        )

    return ended(args, work)


if __name__ == "__main__":
    sys.exit(main())
