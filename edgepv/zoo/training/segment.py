"""Train a segmenter: ``python -m edgepv.zoo.training.segment pv-seg-nano``.

It learns from scenes rendered anew for every step (see ``scenes``) over pictures of the clips and the film
that ship for calibration, so no other data is needed; it is measured on scenes over those that ship for
evaluation, of other cameras and another film, with things of other shapes. Kill it anywhere and run the same
command: it goes on.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgepv.base.files import digest, whole_file
from edgepv.base.optional import need
from edgepv.data.clips import manifest_rows
from edgepv.data.truth import EvalClip, Masks
from edgepv.data.video import open_video
from edgepv.metrics.segmentation import confusions, jackknife, mean_iou
from edgepv.types import MaskSpec, ModelSpec, TensorSpec, encode
from edgepv.zoo import HERE, SCENES, pv_seg
from edgepv.zoo.pv_seg import Segment
from edgepv.zoo.training.command import ended, script
from edgepv.zoo.training.publish import halve, headline, publish, trained_on
from edgepv.zoo.training.scenes import MOVING, SHADOW, Drawn, Scene, render
from edgepv.zoo.training.steps import Schedule, fit

MEAN, STD = 0.45, 0.225
"""Normalisation of the frames, all channels alike."""
EVERY = 8
"""Of the frames of a clip, every so many serves as a picture; those between are much alike."""
HEIGHT, WIDTH = 128, 192
SHOWN = 3
"""Held-out clips in the picture of the card."""
CLIPS, FRAMES = 38, 32
"""Held-out clips, two over each camera or film, and frames of each."""
MIXTURE = 16.0
"""OpenCV's own threshold of the mixture, where none is chosen."""
THRESHOLDS, RATES = (4, 8, 16, 24, 32, 48, 64), (-1.0, 0.02, 0.005)
"""That the methods without a network are tried at."""
WEIGHTS = (1.0, 2.0, 2.0)
"""Of each label in the cross-entropy: nine places of ten are background."""


@dataclass(frozen=True)
class Recipe:
    """How a segmenter is trained. stages: (share of the steps at which it ends, frames per clip, clips)."""

    schedule: Schedule
    stages: tuple[tuple[float, int, int], ...]
    bf16: bool = False


RECIPES = {"pv-seg-nano": Recipe(Schedule(2400, 3e-3), ((0.6, 10, 4), (1.0, 20, 2)))}


def read_pictures(split: str) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB of the shipped clips and film of "calibration" or "evaluation"."""
    paths = sorted([*HERE.glob(f"clips/{split}/*/*.mp4"), *HERE.glob(f"film/{split}/*.mp4")])
    return [one for path in paths for one in _pictures_of(path)]


def _pictures_of(path: Path) -> list[np.ndarray]:
    with open_video(path) as video:
        return [f.pixels[..., ::-1].copy() for f in video if f.index % EVERY == 0]


def normalised(frames: np.ndarray) -> Tensor:
    """Clips (N, T, H, W, 3) uint8 RGB as the network's (N, 3, T, H, W)."""
    x = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 4, 1, 2, 3))).float()
    return (x / 255 - MEAN) / STD


def objective(
    recipe: Recipe, pictures: Sequence[np.ndarray]
) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """The loss of one step, over clips rendered for it."""

    def loss(net: Segment, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        done = step / recipe.schedule.steps
        frames, clips = next((f, c) for end, f, c in recipe.stages if done < end)
        drawn = [render(rng, pictures, Scene(frames=frames), "train") for _ in range(clips)]
        x = normalised(np.stack([d.frames for d in drawn]))
        masks = torch.from_numpy(np.stack([d.masks for d in drawn])).long()
        device = next(net.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            scores = net(x.to(device))
        return penalty(scores.float(), masks.to(device))

    return loss


def penalty(scores: Tensor, masks: Tensor) -> tuple[Tensor, dict[str, float]]:
    """How wrong scores (N, C, T, H, W) are about masks (N, T, H, W), and figures for the log.

    Cross-entropy and 1 - Dice of what moves and of shadows (Milletari et al. 2016, "V-Net"), over the frames
    after the warm-up.
    """
    first = Segment.warmup - 1
    scores, masks = scores[:, :, first:], masks[:, first:]
    entropy = F.cross_entropy(scores, masks, scores.new_tensor(WEIGHTS))
    shares, dice = scores.softmax(1), []
    for label in (MOVING, SHADOW):
        true, said = (masks == label).float(), shares[:, label]
        dice.append(1 - (2 * (true * said).sum() + 1) / (true.sum() + said.sum() + 1))
    said = scores.argmax(1)
    figures = {}
    for label in (MOVING, SHADOW):
        one, other = said == label, masks == label
        if other.any():
            figures[f"iou_{SCENES[label]}"] = float((one & other).sum() / (one | other).sum())
    return entropy + dice[0] + 0.5 * dice[1], figures


def footage(split: str) -> dict[str, list[np.ndarray]]:
    """Pictures of a split by the camera or film that they are of, as the manifests group them."""
    groups: dict[str, list[np.ndarray]] = {}
    for folder in (HERE / "clips", HERE / "film"):
        for row in manifest_rows(folder / "manifest.csv"):
            if row["split"] == split:
                groups.setdefault(row["group"], []).extend(_pictures_of(folder / row["path"]))
    return groups


def held_out(count: int, frames: int, *, seed: int = 1) -> list[tuple[str, Drawn]]:
    """(camera or film behind, clip) of ``count`` clips over footage and of shapes that no training has seen.

    Always the same.
    """
    groups = footage("evaluation")
    pictures = [one for group in groups.values() for one in group]
    scene = Scene(HEIGHT, WIDTH, frames)
    names = list(itertools.islice(itertools.cycle(sorted(groups)), count))
    return [
        (name, render(np.random.default_rng((seed, i)), pictures, scene, "test", groups[name]))
        for i, name in enumerate(names)
    ]


def spec(name: str) -> ModelSpec:
    """What the segmenter ``name`` eats and answers: RGB at 10 fps, a score for each label at each px."""
    return ModelSpec(
        name=name,
        input=TensorSpec("frame", (1, 3, HEIGHT, WIDTH), "NCHW"),
        labels=SCENES,
        fps=Fraction(10),
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        task="segmentation",
        metric="miou",
        outputs=(TensorSpec("scores", (1, len(SCENES), HEIGHT, WIDTH), "NCHW"),),
        masks=MaskSpec(background=True),
    )


Row = dict[str, float]
"""One row of the training log."""
Say = Callable[[Row], None]
Method = Callable[[np.ndarray], np.ndarray]
"""Frames (T, H, W, 3) uint8 RGB -> scores (T, labels, H, W)."""


def by_net(net: Segment) -> Method:
    """The network, stepped frame by frame as a camera does."""

    @torch.no_grad()
    def told(frames: np.ndarray) -> np.ndarray:
        memory, rows = net.init_state()["memory"], []
        for frame in normalised(frames[None])[0].transpose(0, 1):
            scores, memory = net.step(frame[None], memory)
            rows.append(scores[0].numpy())
        return np.stack(rows)

    return told


def by_mixture(threshold: float, rate: float = -1) -> Method:
    """OpenCV's mixture of Gaussians with shadows: Zivkovic 2004, "Improved adaptive Gaussian mixture".

    rate: at which it learns; -1 as OpenCV chooses: fast at first, so what moves slowly becomes background.
    """

    def told(frames: np.ndarray) -> np.ndarray:
        cv2 = need("cv2", extra="cpu")
        mixture = cv2.createBackgroundSubtractorMOG2(history=100, varThreshold=threshold, detectShadows=True)
        said = [cv2.medianBlur(mixture.apply(frame[..., ::-1], learningRate=rate), 3) for frame in frames]
        return _as_scores(np.select([np.stack(said) == 255, np.stack(said) == 127], [MOVING, SHADOW], 0))

    return told


def by_difference(threshold: float) -> Method:
    """What differs from the frame before by so many grey levels moves; there are no shadows."""

    def told(frames: np.ndarray) -> np.ndarray:
        cv2 = need("cv2", extra="cpu")
        before = np.concatenate([frames[:1], frames[:-1]])
        apart = np.abs(frames.astype(np.int16) - before).max(-1)
        return _as_scores(np.stack([cv2.medianBlur((one > threshold).astype(np.uint8), 5) for one in apart]))

    return told


def _as_scores(labels: np.ndarray) -> np.ndarray:
    """(T, labels, H, W) of masks (T, H, W)."""
    return np.moveaxis(np.eye(len(SCENES), dtype=np.float32)[labels], -1, 1)


@dataclass(frozen=True)
class Score:
    """mIoU over clips and each label's own, fractions of 1.

    threshold, rate: of a method without a network.
    """

    miou: float
    labels: dict[str, float]
    threshold: float | None = None
    rate: float | None = None


def measured(method: Method, clips: Sequence[tuple[str, Drawn]]) -> tuple[Score, np.ndarray]:
    """(score over the frames after the warm-up; the clips' figures, see ``iou_figures``)."""
    told = spec("")
    shown = [
        EvalClip(np.zeros((len(one.masks), 0)), Masks(tuple(one.masks)), size=one.masks.shape[1:])
        for _, one in clips
    ]
    answers = [method(one.frames) for _, one in clips]
    tables = confusions(told, answers, shown, first=Segment.warmup - 1)
    total = tables.sum(0)
    by_label = {name: round(iou, 4) for name, iou in zip(SCENES, ious(total), strict=True)}
    return Score(round(mean_iou(told, total), 4), by_label), jackknife(told, tables)


def ious(table: np.ndarray) -> list[float]:
    """Intersection over union of every label of a confusion; one that nothing has and nobody says has 0."""
    hits = np.diag(table)
    unions = table.sum(0) + table.sum(1) - hits
    return [float(hit / union) if union else 0.0 for hit, union in zip(hits, unions, strict=True)]


def baselines(clips: Sequence[tuple[str, Drawn]]) -> dict[str, Score]:
    """Methods without a network on the same clips, with settings that are best on training scenes."""
    pictures, scene = read_pictures("calibration"), Scene(HEIGHT, WIDTH, 32)
    seen = [("", render(np.random.default_rng((2, i)), pictures, scene, "train")) for i in range(12)]
    ways: dict[str, list[tuple[Method, float, float | None]]] = {
        "mixture": [(by_mixture(t, r), t, r) for t in THRESHOLDS for r in RATES],
        "difference": [(by_difference(t), t, None) for t in THRESHOLDS],
    }
    found = {}
    for name, tried in ways.items():
        method, threshold, rate = max(tried, key=lambda way: measured(way[0], seen)[0].miou)
        found[name] = replace(measured(method, clips)[0], threshold=threshold, rate=rate)
    return found


def davis(folder: Path) -> Drawn:
    """A film of DAVIS at the model's size, in which the camera moves too: JPEGImages and Annotations, 255."""
    cv2 = need("cv2", extra="cpu")
    frames = [cv2.imread(str(p)) for p in sorted((folder / "JPEGImages").rglob("*.jpg"))]
    masks = [
        cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in sorted((folder / "Annotations").rglob("*.png"))
    ]
    small = [cv2.resize(f, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)[..., ::-1] for f in frames]
    true = [cv2.resize(m, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT) > 127 for m in masks]
    return Drawn(np.stack(small), np.stack(true).astype(np.uint8) * MOVING)


@dataclass(frozen=True)
class SegmenterRun:
    """What to train and to where.

    steps: None, or fewer than the recipe's. davis: a film to be measured on too, or None.
    """

    name: str
    out: Path
    cache: Path
    seed: int = 0
    steps: int | None = None
    davis: Path | None = None


def train(job: SegmenterRun, say: Say) -> Mapping[str, object]:
    """Train, measure on held-out renders, publish to ``job.out``; returns what goes to the card."""
    net, log, recipe = learned(job, say)
    halve(net)
    clips = held_out(CLIPS, FRAMES)
    score, each = measured(by_net(net), clips)
    groups = [group for group, _ in clips]
    row = headline(each.tolist(), "miou", groups)
    result: dict[str, Any] = {
        "name": job.name,
        "seed": job.seed,
        "recipe": asdict(recipe),
        "pictures": {split: len(read_pictures(split)) for split in ("calibration", "evaluation")},
        "test": encode(score)
        | {"low": row["low"], "high": row["high"], "frames": FRAMES, "groups": row["groups"]}
        | {"clips": [{"group": g, "figure": v} for g, v in zip(groups, each.tolist(), strict=True)]},
        "baselines": encode(baselines(clips)),
        "davis": encode(_on_davis(net, job.davis)),
        "seconds": round(sum(row["seconds"] for row in log)),
        "trained_on": trained_on(),
        "log": log,
    }
    write_strip(job.out / "cards" / f"{job.name}.png", net, clips)
    metrics = {"test": row}
    publish(job.out, job.name, net, "edgepv.zoo.pv_seg:nano", spec(job.name), metrics, result)
    return result


def write_strip(path: Path, net: Segment, clips: Sequence[tuple[str, Drawn]]) -> None:
    """Rows of a held-out frame, its true mask, and what the network and the mixture say of it, as a PNG."""
    cv2 = need("cv2", extra="cpu")
    hues = np.array([(0, 0, 0), (80, 200, 120), (60, 60, 230)], np.uint8)
    rows = []
    for _, one in clips[:SHOWN]:
        said = [method(one.frames)[-1].argmax(0) for method in (by_net(net), by_mixture(MIXTURE))]
        rows.append(np.concatenate([one.frames[-1][..., ::-1], *hues[np.stack([one.masks[-1], *said])]], 1))
    small = cv2.resize(np.concatenate(rows), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as tmp:
        cv2.imwrite(str(tmp), small, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _on_davis(net: Segment, folder: Path | None) -> dict[str, Score] | None:
    """The network and the mixture on that film; None where it was not given."""
    if folder is None:
        return None
    clip = [("davis", davis(folder))]
    return {"net": measured(by_net(net), clip)[0], "mixture": measured(by_mixture(MIXTURE), clip)[0]}


def learned(job: SegmenterRun, say: Say) -> tuple[Segment, list[Row], Recipe]:
    """(trained network on the CPU, log of the training, what it was trained by)."""
    recipe = RECIPES[job.name]
    if job.steps is not None:
        recipe = replace(recipe, schedule=replace(recipe.schedule, steps=job.steps))
    pictures = read_pictures("calibration")
    torch.manual_seed(job.seed)
    net = pv_seg.nano(len(SCENES))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as a CPU's kernels want it
    what = [asdict(recipe), job.seed, [p.shape for p in pictures]]
    resume = job.cache / f"{job.name}-{digest(what)[:12]}.pt"
    net, log = fit(net, objective(recipe, pictures), recipe.schedule, seed=job.seed, resume=resume, tick=say)
    return net.cpu(), log, recipe


def line(row: Row) -> str:
    """One row of the training log as a line of text."""
    ious = "  ".join(f"{k.removeprefix('iou_')} {v:.3f}" for k, v in row.items() if k.startswith("iou_"))
    return (
        f"step {row['step']}  loss {row['loss']:.3f}  intersection over union: {ious}  {row['seconds']:.0f} s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit code."""
    parser = script("segment", __doc__)
    parser.add_argument("name", choices=sorted(RECIPES), metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--steps", type=int, help="fewer steps than the recipe has")
    parser.add_argument("--davis", type=Path, help="film with JPEGImages and Annotations, measured too")
    args = parser.parse_args(argv)
    job = SegmenterRun(args.name, args.out, args.cache, args.seed, args.steps, args.davis)

    def work() -> str:
        result = train(job, lambda row: print(line(row), flush=True))
        return f"{job.name}: {result['test']}, {result['seconds']} s"

    return ended(args, work)


if __name__ == "__main__":
    sys.exit(main())
