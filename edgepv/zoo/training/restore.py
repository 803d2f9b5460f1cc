"""Train a restorer: ``python -m edgepv.zoo.training.restore pv-restore-nano-denoise --data DIR``.

DIR holds natural video and stills (``SPLIT`` says which). Each sample is a short clean video: a crop of real
video, or one or two stills that drift smoothly, one before the other. It is spoilt by ``data.degrade``:
for a denoiser by noise, for an enlarger by halving its size. Unrolls grow from 8 over 16 to 32 frames
during the training; a net trained on short unrolls alone gets worse the longer it runs.

Compressed video is halved before it serves as truth, for training and for tests, which removes most of the
marks of compression. Clips of the test side are never trained on, not even other parts of them.

``--gan W`` goes on from the weights of NAME, in --out or else in the zoo, with a discriminator whose
judgement counts W. That makes pictures sharper and further from the truth; the result is called NAME-gan.
``--more STEPS`` goes on from them as well, on long unrolls and at half the learning rate.
``--single`` trains the same layers without a memory, to compare with: NAME-single.

Kill it anywhere and run the same command: it goes on after the last save.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgepv.base.files import digest, read_json, sha256
from edgepv.base.optional import need
from edgepv.data import degrade
from edgepv.data.video import open_video
from edgepv.errors import UsageError
from edgepv.metrics import pictures
from edgepv.model.builder import find_function
from edgepv.model.weights import read_weights
from edgepv.types import ModelSpec, TensorSpec
from edgepv.zoo import HERE
from edgepv.zoo.particles.reconstruct import Discriminator, hinge
from edgepv.zoo.pv_restore import Restore
from edgepv.zoo.training.command import ended, script
from edgepv.zoo.training.publish import halve, headline, publish, trained_on
from edgepv.zoo.training.steps import Schedule, fit


@dataclass(frozen=True)
class Source:
    """One video, or folder of pictures, of the data folder.

    halved: read at half size, because it was compressed. frames: how many of its first frames to read.
    """

    path: str
    halved: bool = True
    frames: int | None = None


STILLS = "stills/train400_gray180"
SPLIT: dict[str, tuple[Source, ...]] = {
    "train": (
        Source("clips/bikes.mp4"),
        Source("clips/carphone_pristine.mp4", halved=False),
        Source("stream/one-by-one-person-detection.mp4", frames=600),
        Source("vid4_lossless/walk.mkv", halved=False),
    ),
    "test": (
        Source("vid4_lossless/city.mkv", halved=False),
        Source("davis_car-shadow/JPEGImages"),
        Source("stream/car-detection.mp4"),
        Source("stream/vtest.avi", frames=377),
    ),
}
"""Which footage trains and which tests; the stills of ``STILLS`` train as well."""


@dataclass(frozen=True)
class Recipe:
    """How a restorer is trained. builder: in ``pv_restore``. recurrent: False for the single-frame net.

    unrolls: (share of the steps, frames) in order; a step sees ``frames`` frames in all, so longer unrolls
    come in smaller batches. crop: height and width of the input. bf16: convolutions in bfloat16, which a
    CPU with AVX512-BF16 does about 1.8 times faster. gan: weight of the discriminator's judgement.
    more: whether to go on from weights there are, as ``gan`` does too.
    """

    builder: str
    schedule: Schedule
    unrolls: tuple[tuple[float, int], ...] = ((0.3, 8), (0.3, 16), (0.4, 32))
    frames: int = 64
    crop: int = 64
    recurrent: bool = True
    bf16: bool = True
    gan: float = 0.0
    more: bool = False

    def unroll(self, step: int) -> int:
        """Frames per clip at a step, counted from 0."""
        share = step / self.schedule.steps
        for part, frames in self.unrolls:
            share -= part
            if share < -1e-9:
                return frames
        return self.unrolls[-1][1]


def _schedule(steps: int, lr: float) -> Schedule:
    """The last weights count, not an average: they move too far in so few steps, and the rate ends at 0."""
    return Schedule(steps, lr=lr, average=0.0)


RECIPES = {
    "pv-restore-nano-denoise": Recipe("nano", _schedule(2000, 2e-3)),
    "pv-restore-nano-x2": Recipe("nano_x2", _schedule(1500, 2e-3), crop=48),
    "pv-restore-small-denoise": Recipe("small", _schedule(2500, 2e-3)),
    "pv-restore-small-x2": Recipe("small_x2", _schedule(2000, 2e-3), crop=48),
}


def builder_of(recipe: Recipe) -> str:
    """Dotted name of the function that builds the recipe's network."""
    return f"edgepv.zoo.pv_restore:{recipe.builder}"


def spec_of(name: str, net: Restore) -> ModelSpec:
    """What the network of a recipe eats and answers."""
    return ModelSpec(
        name=name,
        input=TensorSpec("frame", (1, 3, net.height, net.width), "NCHW"),
        fps=Fraction(25),
        task="restoration",
        metric="psnr",
        degrade="half" if net.up == 2 else "noise-25",
        outputs=(TensorSpec("image", (1, 3, net.height * net.up, net.width * net.up), "NCHW"),),
    )


def read_source(folder: Path, source: Source) -> np.ndarray:
    """Clean frames of a source, (T, H, W, 3) uint8 RGB of even size. Raises UsageError if it is missing."""
    cv2 = need("cv2", extra="cpu")
    path = folder / source.path
    if path.is_dir():
        frames = [cv2.imread(str(p)) for p in sorted(path.iterdir())]
    else:
        with open_video(path) as video:
            frames = [frame.pixels for frame in itertools.islice(video, source.frames)]
    clip = np.stack(frames[: source.frames])[..., ::-1]
    cell = 4 if source.halved else 2
    clip = clip[:, : clip.shape[1] // cell * cell, : clip.shape[2] // cell * cell]
    return degrade.smaller(np.ascontiguousarray(clip), 2) if source.halved else np.ascontiguousarray(clip)


def read_stills(folder: Path) -> list[np.ndarray]:
    """The stills, each (H, W) uint8. Raises UsageError if there is none."""
    cv2 = need("cv2", extra="cpu")
    files = sorted(folder.glob("*.png"))
    if not files:
        raise UsageError(f"{folder} holds no PNG. --data wants the folder with {STILLS}")
    return [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in files]


@dataclass(frozen=True)
class Footage:
    """What samples are cut from. reels: (T, H, W, 3) uint8 each. stills: (H, W) uint8 each."""

    reels: Sequence[np.ndarray]
    stills: Sequence[np.ndarray]

    def sample(self, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """A clean clip (frames, size, size, 3) uint8, mirrored and turned at random."""
        drift = not self.reels or rng.random() < 0.5
        clip = self._drift(frames, size, rng) if drift else self._crop(frames, size, rng)
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        return clip.transpose(0, 2, 1, 3) if rng.random() < 0.5 else clip

    def _crop(self, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """A crop of a reel, forwards or backwards, every frame or every second; to and fro if too short."""
        reel = self.reels[int(rng.integers(len(self.reels)))]
        last = len(reel) - 1
        at = rng.integers(2 * last) + np.arange(frames) * int(rng.integers(1, 3))
        times = last - np.abs(last - at % (2 * last))
        y, x = (int(rng.integers(side - size + 1)) for side in reel.shape[1:3])
        return reel[times, y : y + size, x : x + size]

    def _drift(self, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """A still that drifts; half the time an ellipse of a second still passes before it."""
        behind = _drifting(self._tinted(rng), frames, size, rng)
        if rng.random() < 0.5:
            return behind
        before = _drifting(self._tinted(rng), frames, size, rng)
        return np.where(_ellipses(frames, size, rng)[..., None], before, behind)

    def _tinted(self, rng: np.random.Generator) -> np.ndarray:
        """A random still given colours: a gain and a gamma of its own for each channel."""
        still = self.stills[int(rng.integers(len(self.stills)))]
        level = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.4, 0.4, 3))
        table = np.rint(255 * level * rng.uniform(0.6, 1, 3)).astype(np.uint8)
        return table[still]


def _path(frames: int, fastest: float, rng: np.random.Generator) -> np.ndarray:
    """Places (frames, 2) of something that moves evenly, in pixels; a third of the time it stands still.

    Half the time places are whole pixels: those pictures stay as sharp as they were.
    """
    angle, speed = rng.uniform(0, 2 * np.pi), fastest * rng.random() * (rng.random() < 2 / 3)
    step = speed * np.array([np.cos(angle), np.sin(angle)])
    path = np.arange(frames)[:, None] * step
    return np.rint(path) if rng.random() < 0.5 else path


def _drifting(still: np.ndarray, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(frames, size, size, 3): a window that moves evenly over a still, which is mirrored at its edges."""
    cv2 = need("cv2", extra="cpu")
    start = [int(rng.integers(max(1, side - size))) for side in still.shape[1::-1]]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    windows = [np.array([[1, 0, x], [0, 1, y]], np.float64) for x, y in _path(frames, 3, rng) + start]
    return np.stack(
        [
            cv2.warpAffine(still, w, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
            for w in windows
        ]
    )


def _ellipses(frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(frames, size, size) bool: an ellipse that moves evenly through the window."""
    centre = rng.uniform(0, size, 2) + _path(frames, 3, rng)
    radius = rng.uniform(0.15, 0.4, 2) * size
    place = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    return (((place - centre[:, None, None]) / radius) ** 2).sum(-1) < 1


def batch_of(
    footage: Footage, recipe: Recipe, up: int, step: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(input, truth) of a step, (N, 3, T, H, W) float32 in [0, 1]; noise may leave that range."""
    unroll = recipe.unroll(step)
    count = max(1, recipe.frames // unroll)
    clean = [footage.sample(unroll, recipe.crop * up, rng) for _ in range(count)]
    given = [spoilt(clip, up, rng) for clip in clean]
    return to_input(given), to_input([degrade.as_float(clip) for clip in clean])


def spoilt(clean: np.ndarray, up: int, rng: np.random.Generator) -> np.ndarray:
    """What a restorer is given: float32 (T, h, w, 3), noisy for ``up`` 1, half the size for ``up`` 2."""
    if up == 2:
        return degrade.as_float(degrade.smaller(clean, 2))
    return degrade.noisy(clean, degrade.SIGMA, rng)


def to_input(clips: Sequence[np.ndarray]) -> Tensor:
    """(N, 3, T, H, W) from float32 clips (T, H, W, 3)."""
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).contiguous()


def charbonnier(got: Tensor, truth: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + 1e-6): an absolute error that is smooth at 0. Source: Charbonnier et al. 1994."""
    error = got - truth
    return (error * error + 1e-6).sqrt().mean()


def pixel_loss(footage: Footage, recipe: Recipe) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """The loss of ``steps.fit`` for a plain restorer."""

    def loss(net: Restore, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        given, truth = (x.to(net.leave.weight.device) for x in batch_of(footage, recipe, net.up, step, rng))
        with torch.autocast(given.device.type, torch.bfloat16, enabled=recipe.bf16):
            got = net(given)
        return charbonnier(got, truth), {"psnr": mean_psnr(got, truth)}

    return loss


@torch.no_grad()
def mean_psnr(got: Tensor, truth: Tensor) -> float:
    """PSNR in dB of a batch, from its mean squared error."""
    return float(-10 * torch.log10((got.clamp(0, 1) - truth).square().mean()))


class Adversary(nn.Module):
    """A restorer and the discriminator it is trained against; for training only."""

    def __init__(self, net: Restore) -> None:
        super().__init__()
        self.net = net
        self.critic = Discriminator()

    def judged(self, frames: Tensor, *, learn: bool) -> Tensor:
        """Scores of clips (N, 3, T, H, W), frame by frame; ``learn``: whether the critic gets gradients."""
        self.critic.requires_grad_(learn)
        scores = self.critic(frames.transpose(1, 2).flatten(0, 1))
        self.critic.requires_grad_(True)
        return scores


def gan_loss(footage: Footage, recipe: Recipe) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """The loss of ``steps.fit`` for an ``Adversary``: pixels, judgement, and the critic's own hinge.

    One optimizer serves both: the critic gets no gradient from the judgement, the restorer none from the
    hinge, whose frames are detached.
    """

    def loss(pair: Adversary, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        device = pair.net.leave.weight.device
        given, truth = (x.to(device) for x in batch_of(footage, recipe, pair.net.up, step, rng))
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            got = pair.net(given)
        pixels = charbonnier(got, truth)
        judgement = -pair.judged(got, learn=False).mean()
        critic = hinge(pair.judged(truth, learn=True), pair.judged(got.detach(), learn=True))
        figures = {
            "psnr": mean_psnr(got, truth),
            "judgement": float(judgement.detach()),
            "critic": float(critic.detach()),
        }
        return pixels + recipe.gan * judgement + critic, figures

    return loss


@dataclass(frozen=True)
class RestorerRun:
    """What to train, from which footage, to where. name: what the result is called."""

    name: str
    recipe: Recipe
    data: Path
    out: Path
    cache: Path
    seed: int = 0


def train(job: RestorerRun, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train, score the test clips, publish weights and result; returns the result."""
    there = [s for s in SPLIT["train"] if (job.data / s.path).exists()]
    footage = Footage([read_source(job.data, s) for s in there], read_stills(job.data / STILLS))
    before = job.out / "cards" / f"{job.name}.json"
    earlier = read_json(before) if job.recipe.more and before.is_file() else None
    net, log = learned(job, footage, say)
    halve(net)
    result = {
        "name": job.name,
        "seed": job.seed,
        "recipe": asdict(job.recipe),
        "footage": {"train": [*(s.path for s in there), STILLS], "stills": len(footage.stills)},
        "test": test_result(net, job.data),
        "seconds": round(sum(row["seconds"] for row in log)),
        "trained_on": trained_on(),
        "log": log,
        "went_on_from": earlier,
    }
    metrics = {"test": headline([row["psnr_restored"] for row in result["test"]["clips"]], "psnr")}
    publish(job.out, job.name, net, builder_of(job.recipe), spec_of(job.name, net), metrics, result)
    return result


def learned(
    job: RestorerRun, footage: Footage, say: Callable[[dict[str, Any]], None]
) -> tuple[Restore, list[dict[str, Any]]]:
    """(trained network on the CPU, log of the training)."""
    recipe = job.recipe
    torch.manual_seed(job.seed)
    net: Restore = find_function(builder_of(recipe))(recurrent=recipe.recurrent)
    what = [asdict(recipe), job.seed, [r.shape for r in footage.reels], len(footage.stills)]
    if recipe.gan or recipe.more:
        net.load_state_dict(read_weights(_trained(job)))
        what.append(sha256(_trained(job)))
    resume = job.cache / f"{job.name}-{digest(what)[:12]}.pt"
    if not recipe.gan:
        plain = pixel_loss(footage, recipe)
        net, log = fit(net, plain, recipe.schedule, seed=job.seed, resume=resume, tick=say)
        return net.cpu(), log
    against = gan_loss(footage, recipe)
    pair, log = fit(Adversary(net), against, recipe.schedule, seed=job.seed, resume=resume, tick=say)
    return pair.net.cpu(), log


def _trained(job: RestorerRun) -> Path:
    """The weights to go on from. Raises UsageError if there are none."""
    name = f"{job.name.removesuffix('-gan')}.safetensors"
    for folder in (job.out, HERE):
        if (folder / "weights" / name).is_file():
            return folder / "weights" / name
    raise UsageError(f"there is no {name} to go on from. Train it first, without --gan or --more")


@torch.no_grad()
def restored(net: Restore, frames: np.ndarray) -> np.ndarray:
    """Frames stepped through ``net`` in order: (T, H, W, 3) float32 -> (T, H * up, W * up, 3) float32."""
    net = copy.copy(net)
    net.height, net.width = frames.shape[1:3]
    states, images = list(net.init_state().values()), []
    for frame in frames:
        image, *states = net.step(to_input([frame[None]])[:, :, 0], *states)
        images.append(image[0].permute(1, 2, 0).numpy())
    return np.stack(images)


def test_result(net: Restore, data: Path, *, frames: int = 34, seed: int = 0) -> dict[str, Any]:
    """PSNR and SSIM of the first frames of each test clip that is there, as given and as restored.

    The middle 288 x 384 pixels, mean of the frames. As given: the noisy frames, or the small ones enlarged
    bicubically.
    """
    rows = []
    for i, source in enumerate(s for s in SPLIT["test"] if (data / s.path).exists()):
        clean = middle(read_source(data, replace(source, frames=frames)), 288, 384)
        given = spoilt(clean, net.up, np.random.default_rng((seed, i)))
        before = enlarged(given) if net.up == 2 else given
        after = restored(net, given)
        rows.append({"clip": source.path, "frames": len(clean)} | {
            f"{what}_{when}": round(float(np.mean([score(a, b) for a, b in zip(clean, got)])), digits)
            for what, score, digits in (("psnr", pictures.psnr, 3), ("ssim", pictures.ssim, 4))
            for when, got in (("given", before), ("restored", after))
        })  # fmt: skip
    return {"clips": rows} | {
        name: round(float(np.mean([row[name] for row in rows])), 4) if rows else None
        for name in ("psnr_given", "psnr_restored", "ssim_given", "ssim_restored")
    }


def middle(clip: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of every frame, at most ``height`` x ``width``, both cut to multiples of 4."""
    sides = [min(side, most) // 4 * 4 for side, most in zip(clip.shape[1:3], (height, width))]
    y, x = ((whole - part) // 2 for whole, part in zip(clip.shape[1:3], sides))
    return clip[:, y : y + sides[0], x : x + sides[1]]


def enlarged(frames: np.ndarray) -> np.ndarray:
    """Twice the height and width, bicubic as OpenCV does it; (T, h, w, 3) float32."""
    cv2 = need("cv2", extra="cpu")
    size = (2 * frames.shape[2], 2 * frames.shape[1])
    return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_CUBIC) for f in frames])


def line(row: dict[str, Any]) -> str:
    """One row of the training log as a line of text."""
    more = "".join(f"  {name} {row[name]:.3f}" for name in ("judgement", "critic") if name in row)
    return (
        f"step {row['step']}  loss {row['loss']:.4f}  psnr {row['psnr']:.2f} dB{more}  {row['seconds']:.0f} s"
    )


def recipe_for(args: argparse.Namespace) -> tuple[str, Recipe]:
    """(name of the result, recipe) that the command line asks for."""
    recipe, name = RECIPES[args.name], args.name
    if args.single:
        recipe, name = replace(recipe, recurrent=False), f"{name}-single"
    if args.more:
        longer = replace(recipe.schedule, steps=args.more, lr=recipe.schedule.lr / 2)
        longest = ((0.3, 16), (0.7, 32))
        recipe = replace(recipe, more=True, schedule=longer, unrolls=longest)
    if args.gan:
        tuning = replace(recipe.schedule, steps=200, lr=2e-4)
        recipe = replace(recipe, gan=args.gan, schedule=tuning, unrolls=((1.0, 8),))
        name = f"{name}-gan"
    if args.steps:
        recipe = replace(recipe, schedule=replace(recipe.schedule, steps=args.steps))
    return name, recipe


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit code."""
    parser = script("restore", __doc__)
    parser.add_argument("name", choices=sorted(RECIPES), metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder with natural video and stills")
    parser.add_argument("--single", action="store_true", help="the same layers without a memory: NAME-single")
    parser.add_argument("--gan", type=float, default=0.0, metavar="W", help="weight of a discriminator")
    parser.add_argument(
        "--more", type=int, metavar="STEPS", help="go on from the weights there are; use another --seed"
    )
    parser.add_argument("--steps", type=int, help="of the optimizer, instead of the recipe's")
    args = parser.parse_args(argv)
    name, recipe = recipe_for(args)
    job = RestorerRun(name, recipe, args.data, args.out, args.cache, args.seed)

    def work() -> str:
        result = train(job, lambda row: print(line(row), flush=True))
        test = result["test"]
        return f"{name}: test {test['psnr_given']} -> {test['psnr_restored']} dB, {result['seconds']} s"

    return ended(args, work)


if __name__ == "__main__":
    sys.exit(main())
