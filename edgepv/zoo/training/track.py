"""Train a point tracker: ``python -m edgepv.zoo.training.track pv-track-nano --data DIR``.

Every batch is rendered anew (see ``motion``) from the training pictures in DIR, the folder of natural video.
Clips are short at first and grow, so that the tracker learns to go on. Afterwards it is measured on clips
rendered from pictures it has not seen. Kill it anywhere and run the same command: it goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgepv.base.files import digest
from edgepv.types import ModelSpec, TensorSpec, encode
from edgepv.zoo import pv_track
from edgepv.zoo.pv_track import PvTrack
from edgepv.zoo.training.command import ended, script
from edgepv.zoo.training.motion import Rendered, Scene, batch, read_pictures, render
from edgepv.zoo.training.publish import halve, headline, publish, trained_on
from edgepv.zoo.training.steps import Schedule, fit

MEAN, STD = 0.45, 0.225
"""Normalisation of the frames, all channels alike."""

PIXELS = 256
"""Errors are reported in pixels of a frame of this height, as in TAP-Vid."""

HIDDEN = 2.0
"""Weight of a hidden point in the loss of being seen; there are five times as many seen ones."""

TRAINING_PIXELS = 128
"""Errors in the training log are in pixels of a frame of this height."""

THRESHOLDS = (1, 2, 4, 8, 16)
"""Pixels (of 256) within which a point counts as found; their mean is delta-avg."""

LOST = 50
"""Pixels (of 256) beyond which a track counts as lost for good."""


@dataclass(frozen=True)
class Recipe:
    """How a tracker is trained.

    size: pixels of the rendered frames. schedule: of the optimizer. stages: (share of the steps at which a
    stage ends, frames per clip, clips per step).
    """

    builder: Callable[..., PvTrack]
    size: int
    particles: int
    schedule: Schedule
    stages: tuple[tuple[float, int, int], ...]
    train_size: int = 96
    train_points: int = 24


SPEED = (0.003, 0.07)
"""Of the planes in training, image heights per frame: fast, so that its cells per frame fit bigger frames."""

STAGES = ((0.4, 8, 6), (0.7, 16, 3), (1.0, 32, 2))

LEAN = ((0.4, 8, 4), (0.7, 16, 2), (1.0, 32, 1))
"""The same with two thirds of the frames per step."""

RECIPES = {
    "pv-track-nano": Recipe(pv_track.nano, 128, 32, Schedule(6000, 2e-3), STAGES),
    "pv-track-small": Recipe(pv_track.small, 192, 64, Schedule(5000, 2e-3), LEAN),
}


def spec(name: str) -> ModelSpec:
    """What the tracker ``name`` eats and answers: RGB frames, and (x, y, visibility) of every particle."""
    recipe = RECIPES[name]
    return ModelSpec(
        name=name,
        input=TensorSpec("frame", (1, 3, recipe.size, recipe.size), "NCHW"),
        labels=(),
        frames=1,
        fps=Fraction(25),
        metric="delta_avg",
        colour="rgb",
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        task="tracking",
        outputs=(TensorSpec("tracks", (1, recipe.particles, 3), "NKC"),),
        particles=recipe.particles,
    )


def normalised(frames: np.ndarray) -> Tensor:
    """(..., H, W, 3) uint8 RGB as the model's input (..., 3, H, W)."""
    x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3))).float()
    return (x / 255 - MEAN) / STD


def frames_at(recipe: Recipe, step: int) -> tuple[int, int]:
    """(frames per clip, clips) of a training step."""
    done = step / recipe.schedule.steps
    return next((frames, clips) for end, frames, clips in recipe.stages if done < end)


def objective(
    recipe: Recipe, pictures: Sequence[np.ndarray]
) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """The loss of one step, over clips rendered for it; about one place in eight stays empty."""

    def loss(net: PvTrack, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        frames, clips = frames_at(recipe, step)
        scene = Scene(size=recipe.train_size, frames=frames, points=recipe.train_points, speed=SPEED)
        truth = batch(render(rng, pictures, scene) for _ in range(clips))
        device = next(net.parameters()).device
        birth = np.where(rng.random(truth["birth"].shape) < 0.125, -1, truth["birth"])
        points = torch.from_numpy(truth["points"]).to(device)
        hidden = torch.from_numpy(truth["occluded"]).to(device)
        born = torch.from_numpy(birth).to(device)
        start = points[np.arange(clips)[:, None], np.arange(scene.points)[None], born.clamp(min=0)]
        answer = net(normalised(truth["frames"]).to(device), start, born)
        return penalty(answer, points, hidden, born)

    return loss


def penalty(
    answer: tuple[Tensor, Tensor, Tensor], points: Tensor, hidden: Tensor, birth: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """How wrong ``PvTrack.forward`` was, and figures for the log.

    points: (B, N, T, 2), image heights. hidden: (B, N, T) bool. birth: (B, N), -1 for empty places, which do
    not count. Huber on positions (1 pixel of 128; hidden points count 1/5, far outside 1/50; earlier rounds
    less), cross-entropy on being seen (hidden points count ``HIDDEN`` times), and on the cell a visible point
    is in.
    """
    paths, seen, scores = answer
    points, hidden = points.transpose(1, 2), hidden.transpose(1, 2)
    now = torch.arange(points.shape[1], device=points.device).reshape(1, -1, 1)
    alive = (birth >= 0).unsqueeze(1) & (now >= birth.unsqueeze(1))
    moving = alive & (now > birth.unsqueeze(1))
    far = ((points - 0.5).abs() > 0.7).any(-1)
    weight = moving * torch.where(far, 0.02, torch.where(hidden, 0.2, 1.0))
    miss = TRAINING_PIXELS * (paths - points.unsqueeze(2))
    rounds = F.huber_loss(miss, torch.zeros_like(miss), reduction="none").sum(-1)
    share = torch.linspace(0.4, 1.0, paths.shape[2], device=points.device).reshape(1, 1, -1, 1)
    place = (rounds * share * weight.unsqueeze(2)).sum() / weight.sum().clamp(min=1)
    wrong = F.binary_cross_entropy_with_logits(seen, (~hidden).float(), reduction="none")
    heed = alive * torch.where(hidden, HIDDEN, 1.0)
    sight = (wrong * heed).sum() / heed.sum().clamp(min=1)
    visible = moving & ~hidden
    side = round(scores.shape[-1] ** 0.5)
    cell = (points * side).long().clamp(0, side - 1)
    guess = F.cross_entropy(scores[visible], (cell[..., 1] * side + cell[..., 0])[visible])
    error = torch.linalg.vector_norm(miss[:, :, -1], dim=-1)[visible]
    figures = {
        "px": float(error.detach().median()),
        "within": float((error.detach() < 2).float().mean()),
        "seen": float((seen > 0)[visible].float().mean()),
        "cell": float(guess.detach()),
    }
    if (alive & hidden).any():
        figures["hidden"] = float((seen < 0)[alive & hidden].float().mean())
    return 0.3 * place + 2 * sight + 0.3 * guess, figures


@dataclass(frozen=True)
class Score:
    """How well tracks follow the truth; each value is over the points of the clips given.

    delta_avg: share of visible positions within 1, 2, 4, 8 and 16 px, averaged (TAP-Vid). median_px: median
    error of visible positions. survival: share of the clip's frames before a visible point is first more
    than 50 px off (PointOdyssey). occlusion: share of positions where seen or hidden is told right.
    Pixels are of a frame 256 high. The frame of birth does not count.
    """

    delta_avg: float
    median_px: float
    survival: float
    occlusion: float


def per_point(tracks: np.ndarray, points: np.ndarray, occluded: np.ndarray, birth: np.ndarray) -> np.ndarray:
    """Figures of each of N tracks, (N, 5): delta_avg, median px, survival, occlusion; NaN where undefined.

    The fifth is the number of visible positions.

    tracks: (T, N, 3). points: (N, T, 2), image heights. occluded: (N, T). birth: (N,).
    """
    rows = []
    for k, first in enumerate(birth):
        error = PIXELS * np.linalg.norm(tracks[first + 1 :, k, :2] - points[k, first + 1 :], axis=-1)
        shown = ~occluded[k, first + 1 :]
        told = (tracks[first + 1 :, k, 2] > 0.5) == shown
        lost = np.flatnonzero(shown & (error > LOST))
        lasted = (lost[0] if len(lost) else len(error)) / max(1, len(error))
        shares = [(error[shown] < limit).mean() for limit in THRESHOLDS] if shown.any() else [np.nan]
        median = float(np.median(error[shown])) if shown.any() else np.nan
        right = float(told.mean()) if len(told) else np.nan
        rows.append((float(np.mean(shares)), median, lasted, right, float(shown.sum())))
    return np.array(rows)


def track_score(rows: np.ndarray) -> Score:
    """Means over the points of ``per_point``; delta-avg over visible positions, of the medians the median."""
    shown = rows[:, 4]
    delta = float(np.nansum(rows[:, 0] * shown) / shown.sum()) if shown.any() else np.nan
    return Score(
        delta_avg=round(delta, 4),
        median_px=round(float(np.nanmedian(rows[:, 1])), 3),
        survival=round(float(np.nanmean(rows[:, 2])), 4),
        occlusion=round(float(np.nanmean(rows[:, 3])), 4),
    )


@torch.no_grad()
def tracked(net: PvTrack, frames: np.ndarray, start: np.ndarray, birth: np.ndarray) -> np.ndarray:
    """Tracks (T, N, 3) of points through frames (T, S, S, 3) uint8 RGB, stepped one by one as a host does.

    start: (N, 2), image heights. birth: (N,). N may be less than the particles of the net.
    """
    states = dict(net.init_state())
    x = normalised(frames)
    count = len(start)
    states["life"] = states["life"] - 1
    rows = []
    for now, frame in enumerate(x):
        new = np.flatnonzero(birth == now)
        states["position"][0, new] = torch.from_numpy(start[new]).float()
        states["life"][0, new] = 2.0
        tracks, *fresh = net.step(frame.unsqueeze(0), *states.values())
        states = {name: value.clone() for name, value in zip(states, fresh, strict=True)}
        rows.append(tracks[0, :count].numpy())
    return np.stack(rows)


def held_out(data: Path, scene: Scene, count: int, *, seed: int = 1) -> list[Rendered]:
    """``count`` clips rendered from the pictures that no training has seen, always the same."""
    pictures = read_pictures(data, "test")
    return [render(np.random.default_rng((seed, i)), pictures, scene) for i in range(count)]


def starts(clip: Rendered) -> np.ndarray:
    """(N, 2): where each point is in the frame of its birth, in image heights."""
    return np.asarray(clip.points[np.arange(len(clip.birth)), clip.birth])


def measured(net: PvTrack, clips: Sequence[Rendered]) -> tuple[Score, list[float]]:
    """(the score of ``net`` over all points of all clips, delta-avg of each clip)."""
    rows = [
        per_point(tracked(net, c.frames, starts(c), c.birth), c.points, c.occluded, c.birth) for c in clips
    ]
    return track_score(np.concatenate(rows)), [track_score(row).delta_avg for row in rows]


@dataclass(frozen=True)
class TrackerRun:
    """What to train, from where, to where. steps: None, or fewer than the recipe's."""

    name: str
    data: Path
    out: Path
    cache: Path
    seed: int = 0
    steps: int | None = None


def train(job: TrackerRun, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train, measure on held-out renders, publish to ``job.out``; returns what goes to the card."""
    recipe = RECIPES[job.name]
    if job.steps is not None:
        recipe = replace(recipe, schedule=replace(recipe.schedule, steps=job.steps))
    pictures = read_pictures(job.data, "train")
    torch.manual_seed(job.seed)
    net = recipe.builder(size=recipe.train_size, particles=recipe.train_points)
    told = asdict(recipe) | {"builder": recipe.builder.__name__}
    what = [told, SPEED, job.seed, [p.shape for p in pictures]]
    resume = job.cache / f"{job.name}-{digest(what)[:12]}.pt"
    net, log = fit(net, objective(recipe, pictures), recipe.schedule, seed=job.seed, resume=resume, tick=say)
    final = recipe.builder(size=recipe.size, particles=recipe.particles).eval()
    final.load_state_dict(net.cpu().state_dict())
    halve(final)
    scene = Scene(size=recipe.size, frames=48, points=recipe.particles)
    score, each = measured(final, held_out(job.data, scene, 20))
    result = {
        "name": job.name,
        "seed": job.seed,
        "recipe": encode({"schedule": recipe.schedule, "stages": recipe.stages, "size": recipe.train_size}),
        "pictures": {"train": len(pictures), "test": len(read_pictures(job.data, "test"))},
        "test": encode(score) | {"clips": each, "frames": scene.frames, "points": 20 * recipe.particles},
        "seconds": round(sum(row["seconds"] for row in log)),
        "trained_on": trained_on(),
        "log": log,
    }
    builder = f"edgepv.zoo.pv_track:{recipe.builder.__name__}"
    metrics = {"test": headline(each, "delta_avg")}
    publish(job.out, job.name, final, builder, spec(job.name), metrics, result)
    return result


def line(row: dict[str, Any]) -> str:
    """One row of the training log as a line of text."""
    told = row.get("hidden", float("nan"))
    return (
        f"step {row['step']}  loss {row['loss']:.3f}  median {row['px']:.2f} px of 128  within 2 px "
        f"{row['within']:.3f}  told seen {row['seen']:.3f} hidden {told:.3f}  {row['seconds']:.0f} s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit code."""
    parser = script("track", __doc__)
    parser.add_argument("name", choices=sorted(RECIPES), metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of natural video")
    parser.add_argument("--steps", type=int, help="fewer steps than the recipe has")
    args = parser.parse_args(argv)
    job = TrackerRun(args.name, args.data, args.out, args.cache, args.seed, args.steps)

    def work() -> str:
        result = train(job, lambda row: print(line(row), flush=True))
        return f"{job.name}: {result['test']}, {result['seconds']} s"

    return ended(args, work)


if __name__ == "__main__":
    sys.exit(main())
