"""Train pv-graph and its core: ``python -m edgepv.zoo.training.graph NAME --data DIR``.

NAME is one of

    physics-nano, physics-small   the interaction core on simulated discs (needs no data)
    points                        the core on tracked body points, 14 actions
    pv-graph-nano, pv-graph-small the video network: what makes tokens on all tasks, then a net for each

A video network starts from the core of its size that learned physics. The schedules of the video networks
were fixed before a test score was seen. That of points was made longer, with less dropout, after a first one
had ended at 77 % on its own training sequences and 63 % on the test split. All training clips are used.
Weights and results are written by the video names only; --alone trains the same without interaction and
writes nothing.

Kill it anywhere and run the same command: it goes on after the last save.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv import zoo
from edgepv.base.files import digest
from edgepv.data.split import Sample, named
from edgepv.errors import UsageError
from edgepv.metrics.stats import roc_auc
from edgepv.types import ModelSpec, TensorSpec, encode
from edgepv.zoo import TASKS
from edgepv.zoo.pv_graph import PACE, WINDOW, Bodies, Joints, PvGraph, Tokens, nano, small
from edgepv.zoo.training.classifiers import columns
from edgepv.zoo.training.command import ended, script
from edgepv.zoo.training.data import MIRRORED, Footage, augmented, load, read_manifest
from edgepv.zoo.training.epochs import to_input
from edgepv.zoo.training.physics import Film, World, film
from edgepv.zoo.training.publish import counted, halve, publish, trained_on
from edgepv.zoo.training.score import frames_of, of_test, scores
from edgepv.zoo.training.steps import Loss, Schedule, fit

Tick = Callable[[dict[str, Any]], None]
Rows = list[dict[str, Any]]

SIDES = {"nano": 96, "small": 128}
"""Height and width of the frames, by the size of the network."""

CORES = {"nano": (32, 48), "small": (64, 96)}
"""Length of a feature and of a message, by the size of the network."""

COUNTS = (8, 16, 32)
"""Numbers of particles a video network is trained and measured with."""

TOUCHES = 4.0
"""Weight of a pair that collides against one that does not, in the loss: collisions are rare."""

GUESS = 0.05
"""Weight of log(1 + surprise) in the loss of a video network; the surprise in units of ``PACE`` squared."""


@dataclass(frozen=True)
class Physics:
    """How a core learns physics. films, frames: of training data. roll: frames the loss looks ahead."""

    schedule: Schedule
    world: World
    films: int = 1500
    frames: int = 20
    batch: int = 48
    roll: int = 3


PHYSICS = Physics(Schedule(steps=2500, lr=2e-3, average=0.999, log_every=250, save_every=250), World())
"""How the cores in the zoo learned physics."""


@dataclass(frozen=True)
class Stage:
    """One part of the training of a video network.

    size: height and width of the frames. frames: per clip; the loss is on the mean answer from frame 16 on,
    or on the answer from all of a shorter clip.
    mix: chance that two clips of a task are blended, labels too. still: chance that a clip of a task told
    by motion gets a still picture of another clip over it. area: share of the frame that a crop covers.
    """

    schedule: Schedule
    size: int
    frames: int = 16
    batch: int = 16
    mix: float = 0.0
    still: float = 0.0
    smoothing: float = 0.1
    area: tuple[float, float] = (0.6, 1.0)


@dataclass(frozen=True)
class Video:
    """The parts of a video network's training: what makes tokens, on all tasks; then the whole, by task."""

    trunk: Stage
    tasks: dict[str, Stage]


def recipe_of(size: str) -> Video:
    """The schedule of pv-graph ``size``. Long for interact, short and blurred for fight, as for pv-conv."""
    side = SIDES[size]
    return Video(
        Stage(_steps(800, 4e-3), 64, frames=12, batch=32, area=(0.4, 1.0)),
        {
            "interact": Stage(_steps(160, 2e-3), side, mix=0.2, still=0.5),
            "fight": Stage(_steps(60, 1e-3, 0.1), side, mix=0.8, still=0.8, smoothing=0.2),
        },
    )


def _steps(steps: int, lr: float, weight_decay: float = 0.05) -> Schedule:
    return Schedule(steps, lr, weight_decay=weight_decay, clip=2.0, average=0.98, log_every=20, save_every=20)


# physics


def physics(
    size: str, *, interact: bool = True, plan: Physics = PHYSICS, seed: int = 0, cache: Path, tick: Tick
) -> tuple[Bodies, Rows]:
    """A core of ``size`` ("nano", "small") that learned how discs move."""
    torch.manual_seed(seed)
    net = Bodies(*CORES[size], interact=interact)
    tape = film(plan.world, np.random.default_rng((seed, 1)), films=plan.films, frames=plan.frames)
    resume = cache / f"physics-{size}-{_key(plan, seed, interact)}.pt"
    return fit(net, _physics_loss(tape, plan), plan.schedule, seed=seed, resume=resume, tick=tick)


def _physics_loss(tape: Film, plan: Physics) -> Loss[Bodies]:
    """Errors of position and velocity over a short roll-out, and of foretold collisions."""

    def loss(net: Bodies, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        at = next(net.parameters()).device
        where, speeds, charge, touched = (t.to(at) for t in _cut(tape, plan, rng))
        p, v, touch = net.roll(where[:, 0], speeds[:, 0], charge, plan.roll)
        far = F.smooth_l1_loss(p / PACE, where[:, 1:] / PACE)
        fast = F.smooth_l1_loss(v / PACE, speeds[:, 1:] / PACE)
        total, figures = far + fast, {"position": float(far.detach()), "velocity": float(fast.detach())}
        if net.core.interact:
            weight = 1 + (TOUCHES - 1) * touched[:, 1:]
            hits = F.binary_cross_entropy_with_logits(touch, touched[:, 1:], weight)
            total, figures["touch"] = total + hits, float(hits.detach())
        return total, figures

    return loss


def _cut(tape: Film, plan: Physics, rng: np.random.Generator) -> list[Tensor]:
    """Random pieces of ``plan.roll`` + 1 frames, mirrored and turned: the box looks the same from 8 sides."""
    rows = rng.integers(len(tape.position), size=(plan.batch, 1))
    begin = rng.integers(tape.position.shape[1] - plan.roll, size=(plan.batch, 1))
    times = begin + np.arange(plan.roll + 1)
    where, speeds = tape.position[rows, times] - 0.5, tape.velocity[rows, times]
    sign = rng.choice([-1.0, 1.0], (plan.batch, 1, 1, 2))
    where, speeds = where * sign, speeds * sign
    if rng.random() < 0.5:
        where, speeds = where[..., ::-1], speeds[..., ::-1]
    parts = (where + 0.5, speeds, tape.charge[rows[:, 0]], tape.touched[rows, times])
    return [torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts]


@torch.no_grad()
def forecasts(net: Bodies | None, tape: Film, *, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the truth (B, frames, K), image heights, of a forecast from the first frame of films.

    net None: every disc keeps its velocity. Also foretold collisions in the first frame, (B, K, K): log
    odds of the net, or for None the closest approach below two radii on straight lines (0 is as far).
    """
    where, speeds = tape.position[:, 0], tape.velocity[:, 0]
    if net is None:
        ahead = np.arange(1, frames + 1).reshape(1, -1, 1, 1)
        positions = where[:, None] + ahead * speeds[:, None]
        touch = 2 * World().radius - _closest(where, speeds)
    else:
        p, v, q = (torch.from_numpy(np.asarray(x, np.float32)) for x in (where, speeds, tape.charge))
        p, _, logits = net.roll(p, v, q, frames)
        positions, touch = p.numpy().astype(np.float64), logits[:, 0].numpy()
    return np.linalg.norm(positions - tape.position[:, 1 : frames + 1], axis=-1), touch


def _closest(where: np.ndarray, speeds: np.ndarray) -> np.ndarray:
    """Smallest distance of each pair within a frame if nothing turns: (B, K, K), image heights."""
    d = where[:, :, None] - where[:, None]
    u = speeds[:, :, None] - speeds[:, None]
    when = np.clip(-(d * u).sum(-1) / ((u * u).sum(-1) + 1e-12), 0, 1)
    return np.linalg.norm(d + when[..., None] * u, axis=-1)


def collisions(touch: np.ndarray, touched: np.ndarray) -> dict[str, object]:
    """Precision, recall and F1 of foretold collisions, each pair once. touch: above 0 says yes."""
    i, j = np.triu_indices(touched.shape[1], 1)
    said, real = touch[:, i, j] > 0, touched[:, i, j]
    both, n = int((said & real).sum()), int(real.sum())
    return {
        "f1": round(2 * both / max(1, int(said.sum()) + n), 4),
        "precision": round(both / max(1, int(said.sum())), 4),
        "recall": round(both / max(1, n), 4),
        "collisions": n,
        "pairs": int(real.size),
        "roc_auc": roc_auc(real.ravel(), touch[:, i, j].ravel()),
    }


# points


@dataclass(frozen=True)
class Points:
    """Labelled sequences of body points.

    points: (n, T, K, 2), NaN where nothing was seen or the clip has ended. length: (n,), frames. label: (n,).
    names: of the classes. train: (n,) bool.
    """

    points: np.ndarray
    length: np.ndarray
    label: np.ndarray
    names: tuple[str, ...]
    train: np.ndarray


def read_points(folder: Path) -> Points:
    """The labelled point sequences in ``folder``/points. Raises UsageError if they are not there."""
    path = folder / "points" / "jhmdb_points.npz"
    if not path.is_file():
        raise UsageError(f"{path} does not exist. --data wants the folder with manifest.csv and points/")
    data = np.load(path, allow_pickle=False)
    names = tuple(str(n) for n in data["class_names"])
    return Points(data["points"], data["length"], data["label"].astype(int), names, data["split"] == "train")


POINT_FRAMES = 16


def sequence(points: np.ndarray, length: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """One sequence (T, K, 2) stretched to ``POINT_FRAMES`` frames, linearly between its own.

    rng: for training, a random piece of it, turned a little, scaled, sometimes mirrored, with noise.
    """
    points = np.nan_to_num(points[:length])
    begin, end = 0.0, length - 1.0
    if rng is not None:
        span = (length - 1) * rng.uniform(0.7, 1.0)
        begin = rng.uniform(0, length - 1 - span)
        end = begin + span
    when = np.linspace(begin, end, POINT_FRAMES)
    low = np.minimum(when.astype(int), length - 2)
    part = (when - low).reshape(-1, 1, 1)
    x = points[low] * (1 - part) + points[low + 1] * part
    return x if rng is None else _shaken(x, rng)


def _shaken(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sequence turned by up to 15 degrees, scaled, moved, sometimes mirrored, with a little noise."""
    turn = rng.uniform(-0.26, 0.26)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix * rng.uniform(0.85, 1.15, (2, 1))
    if rng.random() < 0.5:
        matrix[0] *= -1
    x = x @ matrix.T + rng.normal(0, 0.03, 2) + rng.normal(0, 0.015, (1, x.shape[1], 2))
    return x + rng.normal(0, 0.004, x.shape)


POINT_PLAN = Schedule(steps=800, lr=4e-3, weight_decay=0.05, average=0.98, log_every=100, save_every=100)


def points(
    data: Points,
    *,
    interact: bool = True,
    schedule: Schedule = POINT_PLAN,
    batch: int = 24,
    seed: int = 0,
    cache: Path,
    tick: Tick,
) -> tuple[Joints, np.ndarray, Rows]:
    """The core and a head on body points; (network, test scores (n, classes), log)."""
    torch.manual_seed(seed)
    net = Joints(len(data.names), points=data.points.shape[2], dim=32, hidden=48, interact=interact)
    mine = np.flatnonzero(data.train)

    def loss(net: Joints, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = rng.choice(mine, batch)
        x = np.stack([sequence(data.points[i], data.length[i], rng) for i in chosen])
        at = next(net.parameters()).device
        logits = net(torch.from_numpy(x).float().to(at))
        goal = torch.from_numpy(data.label[chosen]).to(at)
        right = float((logits.argmax(1) == goal).float().mean())
        return F.cross_entropy(logits, goal, label_smoothing=0.1), {"top1": right}

    resume = cache / f"points-{_key(schedule, batch, seed, interact, data.names, data.points.shape)}.pt"
    net, log = fit(net, loss, schedule, seed=seed, resume=resume, tick=tick)
    tests = np.flatnonzero(~data.train)
    x = np.stack([sequence(data.points[i], data.length[i]) for i in tests])
    with torch.no_grad():
        at = next(net.parameters()).device
        return net, net(torch.from_numpy(x).float().to(at)).cpu().numpy(), log


# video


def build(size: str, classes: int, side: int, interact: bool) -> PvGraph:
    """pv-graph ``size`` for frames of ``side`` x ``side``."""
    return {"nano": nano, "small": small}[size](classes, size=side, interact=interact)


def spec(size: str, task: str, *, particles: int = 16) -> ModelSpec:
    """What pv-graph ``size`` trained for ``task`` eats and answers: RGB frames at 10 fps, 16 per answer."""
    plain = zoo.spec(f"pv-graph-{size}", task)
    table = TensorSpec("particles", (1, particles, 7), "NKC")
    surprise = TensorSpec("surprise", (1, 1), "NC")
    return replace(plain, outputs=(plain.answer, table, surprise), particles=particles)


class Trunk(nn.Module):
    """What makes tokens, with a head on their mean over map and clip: a network without particles."""

    def __init__(self, tokens: Tokens, classes: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.head = nn.Linear(2 * tokens.down.conv.out_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, T, H, W). Returns logits (N, classes)."""
        seen = self.tokens.clip(x)
        return self.head(torch.cat([seen.mean((1, 3, 4)), seen.amax((3, 4)).mean(1)], -1))


def trunk(
    size: str, footage: Sequence[Footage], recipe: Video, *, seed: int, cache: Path, tick: Tick
) -> tuple[Trunk, Rows]:
    """What makes tokens, trained on the clips of all tasks: every pv-graph ``size`` starts from it."""
    places = columns()
    torch.manual_seed(seed)
    net = Trunk(build(size, 2, 64, True).tokens, max(p.stop for p in places.values()))
    resume = cache / f"pv-graph-{size}-trunk-{_key(recipe.trunk, seed, _names(footage))}.pt"
    loss = _trunk_loss(footage, places, recipe.trunk)
    net, log = fit(net, loss, recipe.trunk.schedule, seed=seed, resume=resume, tick=tick)
    return net, [{"stage": "trunk", **row} for row in log]


def one_task(
    size: str,
    task: str,
    footage: Sequence[Footage],
    recipe: Video,
    *,
    start: Trunk,
    core: Bodies,
    interact: bool,
    seed: int,
    cache: Path,
    tick: Tick,
) -> tuple[PvGraph, Rows]:
    """A network for one task, from a trunk that knows clips and a core that knows physics."""
    stage = recipe.tasks[task]
    torch.manual_seed(seed)
    net = build(size, len(TASKS[task]), stage.size, interact)
    net.tokens.load_state_dict(start.tokens.state_dict())
    net.core.load_state_dict(core.core.state_dict())
    place = columns()[task]
    net.context.load_state_dict({name: w[place] for name, w in start.head.state_dict().items()})
    mine = [f for f in footage if f.sample.task == task]
    resume = cache / f"pv-graph-{size}-{task}-{_key(stage, seed, interact, _print(net), _names(mine))}.pt"
    loss = _video_loss(mine, {task: slice(0, len(TASKS[task]))}, stage)
    net, log = fit(net, loss, stage.schedule, seed=seed, resume=resume, tick=tick)
    return net, [{"stage": task, **row} for row in log]


def _video_loss(footage: Sequence[Footage], places: dict[str, slice], stage: Stage) -> Loss[PvGraph]:
    """Cross-entropy of the mean valid answer, and the surprise of the particles.

    The number of particles changes from step to step.
    """
    draw = _drawn(footage, places, stage)

    def loss(net: PvGraph, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = draw(rng)
        count = COUNTS[int(rng.integers(len(COUNTS)))]
        pooled, _, surprise = net.watch(batch.x.to(next(net.parameters()).device), count)
        wrong, right = batch.judge(_answer(net, pooled))
        missed = torch.log1p(surprise * (1 / PACE**2)).mean()
        return wrong + GUESS * missed, {"top1": right, "surprise": float(missed.detach())}

    return loss


def _trunk_loss(footage: Sequence[Footage], places: dict[str, slice], stage: Stage) -> Loss[Trunk]:
    draw = _drawn(footage, places, stage)

    def loss(net: Trunk, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = draw(rng)
        wrong, right = batch.judge(net(batch.x.to(next(net.parameters()).device)))
        return wrong, {"top1": right}

    return loss


@dataclass(frozen=True)
class Batch:
    """Random views of clips.

    x: (N, 3, T, S, S). goals: (N, classes), soft labels. closed: (N, classes), 0 for
    the classes of a clip's task, -10^4 for others. labels: (N,), columns of the right answers.
    """

    x: Tensor
    goals: Tensor
    closed: Tensor
    labels: Tensor

    def judge(self, logits: Tensor) -> tuple[Tensor, float]:
        """Mean cross-entropy of logits (N, classes), each among the classes of its task, and top-1."""
        goals, closed, labels = (t.to(logits.device) for t in (self.goals, self.closed, self.labels))
        logits = logits + closed
        wrong = -(goals * torch.log_softmax(logits, 1)).sum(1).mean()
        return wrong, float((logits.argmax(1) == labels).float().mean())


def _drawn(
    footage: Sequence[Footage], places: dict[str, slice], stage: Stage
) -> Callable[[np.random.Generator], Batch]:
    """Draws batches in which all tasks are equally likely."""
    by_task = {t: [f for f in footage if f.sample.task == t] for t in places}
    width = max(p.stop for p in places.values())

    def draw(rng: np.random.Generator) -> Batch:
        tasks = [str(t) for t in rng.choice(list(by_task), stage.batch)]
        clips = [by_task[t][int(rng.integers(len(by_task[t])))] for t in tasks]
        x, goals = _blended(clips, places, stage, rng)
        closed = torch.stack([_mask(places[t], width) for t in tasks])
        labels = torch.tensor([places[c.sample.task].start + c.sample.label for c in clips])
        return Batch(x, goals, closed, labels)

    return draw


def _answer(net: PvGraph, pooled: Tensor) -> Tensor:
    """Logits a camera would give for clips (N, T, P): the mean of the valid ones, (N, classes)."""
    if pooled.shape[1] <= WINDOW:
        return net.classify(pooled.mean(1))
    return net.windowed(pooled)[:, WINDOW - 1 :].mean(1)


def _mask(place: slice, classes: int) -> Tensor:
    """0 for the classes of a task, -10^4 for all others, (classes,)."""
    closed = torch.full((classes,), -1e4)
    closed[place] = 0.0
    return closed


def _blended(
    clips: Sequence[Footage], places: dict[str, slice], stage: Stage, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Random views of the clips, some of them blended: (N, 3, T, S, S) and soft labels (N, classes)."""
    x = to_input([_view(c, clips, stage, rng) for c in clips])
    width = max(p.stop for p in places.values())
    goals = torch.stack([_goal(c.sample, places[c.sample.task], width, stage.smoothing) for c in clips])
    mixed, shared = x.clone(), goals.clone()
    for i, clip in enumerate(clips):
        partners = [j for j, c in enumerate(clips) if c.sample.task == clip.sample.task]
        if rng.random() < stage.mix:
            j, keep = int(rng.choice(partners)), float(rng.beta(0.4, 0.4))
            keep = max(keep, 1 - keep)
            mixed[i], shared[i] = torch.lerp(x[j], x[i], keep), torch.lerp(goals[j], goals[i], keep)
    return mixed, shared


def _goal(sample: Sample, place: slice, width: int, smoothing: float) -> Tensor:
    goal = torch.zeros(width)
    goal[place] = smoothing / (place.stop - place.start)
    goal[place.start + sample.label] += 1 - smoothing
    return goal


def _view(clip: Footage, batch: Sequence[Footage], stage: Stage, rng: np.random.Generator) -> np.ndarray:
    """A random view of one clip, maybe with a still of its batch over it."""
    if clip.sample.task not in MIRRORED or not stage.still:
        return augmented(clip, rng, frames=stage.frames, size=stage.size, area=stage.area)
    still = None
    if rng.random() < stage.still:
        other = batch[int(rng.integers(len(batch)))].frames
        still = other[int(rng.integers(len(other)))]
    return augmented(clip, rng, frames=stage.frames, size=stage.size, still=still, grey=0.4, area=stage.area)


def _print(net: nn.Module) -> str:
    """Digest of all weights: another start gives another name."""
    return digest([[float(v) for v in p.detach().flatten()[:64]] for p in net.parameters()])


def _key(*what: Any) -> str:
    """A name that changes with everything that changes the result."""
    return digest([encode(w) if hasattr(w, "__dataclass_fields__") else repr(w) for w in what])[:12]


def _names(footage: Sequence[Footage]) -> list[str]:
    """Which clips a network is trained on."""
    return sorted(f.sample.path.name for f in footage)


@cache
def decoded(data: Path) -> tuple[Footage, ...]:
    """The training clips of all tasks in memory, read once."""
    return tuple(load(named(read_manifest(data))[0]))


@cache
def held_clips(data: Path, size: str, task: str) -> tuple[list[Sample], list[np.ndarray]]:
    """The test clips of a task as pv-graph ``size`` sees them, (T, 3, H, W) each, read once."""
    samples = [s for s in named(read_manifest(data))[2] if s.task == task]
    return samples, [frames_of(s.path, spec(size, task)) for s in samples]


def tested(net: PvGraph, data: Path, size: str, task: str, *, particles: int = 16) -> dict[str, Any]:
    """Accuracy on the test split with K particles, and the scores of every clip."""
    samples, clips = held_clips(data, size, task)
    before, net.particles = net.particles, particles
    table = scores(cast(Any, net), clips)
    net.particles = before
    return of_test(samples, table, TASKS[task])


def video(
    size: str,
    data: Path,
    *,
    interact: bool = True,
    recipe: Video | None = None,
    plan: Physics = PHYSICS,
    seed: int = 0,
    cache: Path,
    tick: Tick,
) -> dict[str, tuple[PvGraph, Rows]]:
    """pv-graph ``size`` for each task: the core on physics, the trunk on all clips, then the whole."""
    recipe = recipe or recipe_of(size)
    core, _ = physics(size, interact=interact, plan=plan, seed=seed, cache=cache, tick=tick)
    footage = decoded(data)
    start, log = trunk(size, footage, recipe, seed=seed, cache=cache, tick=tick)
    same: dict[str, Any] = {
        "start": start, "core": core, "interact": interact, "seed": seed, "cache": cache, "tick": tick
    }  # fmt: skip
    nets = {}
    for task in recipe.tasks:
        net, more = one_task(size, task, footage, recipe, **same)
        nets[task] = (net, log + more)
    return nets


def release(
    size: str, task: str, net: PvGraph, log: Rows, data: Path, out: Path, *, seed: int, recipe: Video
) -> dict[str, Any]:
    """Score ``net`` on the test split and write its weights, its index row and its result.

    "particles" has the accuracy of the same weights with other numbers of particles.
    """
    halve(net)
    tests = {k: tested(net, data, size, task, particles=k) for k in COUNTS}
    test = tests[16]
    footage = decoded(data)
    result = {
        "name": f"pv-graph-{size}-{task}",
        "seed": seed,
        "recipe": encode(recipe),
        "particles": {str(k): row["accuracy"] for k, row in tests.items()},
        "clips": {
            "trunk": len(footage),
            "task": sum(f.sample.task == task for f in footage),
            "test": len(test["clips"]),
        },
        "test": test,
        "seconds": round(sum(row["seconds"] for row in log)),
        "trained_on": trained_on(),
        "log": log,
    }
    metrics = {"test": counted(test["accuracy"]), "shipped": None}
    publish(out, result["name"], net, f"edgepv.zoo.pv_graph:{size}", spec(size, task), metrics, result)
    return result


def line(row: dict[str, Any]) -> str:
    """One row of the training log as a line of text."""
    return "  ".join(f"{name} {value}" for name, value in row.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit code."""
    names = ("physics-nano", "physics-small", "points", "pv-graph-nano", "pv-graph-small")
    parser = script("graph", __doc__)
    parser.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--data", type=Path, help="folder with manifest.csv, clips and points")
    parser.add_argument("--alone", action="store_true", help="without interaction; writes only the cache")
    parser.add_argument("--steps", type=int, help="at most so many steps in each part, to try it out")
    args = parser.parse_args(argv)

    def work() -> str:
        run(args, lambda row: print(line(row), flush=True))
        return ""

    return ended(args, work)


def run(args: argparse.Namespace, tick: Tick) -> None:
    """Do what the command line asked for. Raises UsageError if a name needs data and none was given."""
    size, plan = args.name.rpartition("-")[2], replace(PHYSICS, schedule=_short(PHYSICS.schedule, args.steps))
    same: dict[str, Any] = {
        "interact": not args.alone, "seed": args.seed, "cache": args.cache, "tick": tick
    }  # fmt: skip
    args.cache.mkdir(parents=True, exist_ok=True)
    if args.name.startswith("physics"):
        physics(size, plan=plan, **same)
        return
    if args.data is None:
        raise UsageError(f"{args.name} learns from clips. Give --data, the folder with manifest.csv")
    if args.name == "points":
        data = read_points(args.data)
        _, table, _ = points(data, schedule=_short(POINT_PLAN, args.steps), **same)
        tick({"test_top1": round(float((table.argmax(1) == data.label[~data.train]).mean()), 4)})
        return
    recipe = shortened(recipe_of(size), args.steps)
    for task, (net, log) in video(size, args.data, recipe=recipe, plan=plan, **same).items():
        if args.alone:
            row = tested(net, args.data, size, task)["accuracy"]
        else:
            result = release(size, task, net, log, args.data, args.out, seed=args.seed, recipe=recipe)
            row = result["test"]["accuracy"]
        tick({"task": task, **{k: row[k] for k in ("value", "low", "high", "n")}})


def _short(schedule: Schedule, steps: int | None) -> Schedule:
    return schedule if steps is None else replace(schedule, steps=min(steps, schedule.steps))


def shortened(recipe: Video, steps: int | None) -> Video:
    """The recipe with at most ``steps`` steps in each part."""
    stages = {name: replace(s, schedule=_short(s.schedule, steps)) for name, s in recipe.tasks.items()}
    return Video(replace(recipe.trunk, schedule=_short(recipe.trunk.schedule, steps)), stages)


if __name__ == "__main__":
    sys.exit(main())
