"""Train the particle line: ``python -m edgepv.zoo.training.particle --data DIR``.

Two stages. *Pictures*: short clips, decomposed into regions, patches, pixels or the whole frame of several
numbers of particles, and painted again; what is minimized is the logarithm of the squared error, that is the
mean PSNR. *Forecast*: all else stays, and what particles foresee is trained by the next frame: the frame that
is there, plus the picture of the expected particles less that of the seen ones. Minimized is its squared
error in shares of that of the frame as it is.

It trains on footage whose terms let weights ship: one film of DIR (``FILM``, CC BY 4.0) and the calibration
clips that come with edgepv. Crops of any place and several sizes, mirrored, with channels exchanged and
tinted.

``--compare`` trains what the line is compared with instead, into --out: an autoencoder for each number of
values (``plain-K``), and the forecast without interaction (``alone``). Kill it anywhere and run the same
command: it goes on after the last save.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgepv.base.files import digest, whole_file, write_json
from edgepv.base.optional import need
from edgepv.data.clips import find_clips
from edgepv.data.degrade import as_float
from edgepv.data.video import open_video, taken
from edgepv.errors import UsageError
from edgepv.metrics import pictures
from edgepv.model.weights import read_weights
from edgepv.types import ModelSpec, TensorSpec
from edgepv.zoo import HERE, TASKS
from edgepv.zoo.particles.reconstruct import Generator, Residual
from edgepv.zoo.pv_particle import CELL, Crowd, PvParticle, nano
from edgepv.zoo.training.command import ended, script
from edgepv.zoo.training.publish import halve, headline, publish, trained_on
from edgepv.zoo.training.steps import Loss, Net, Schedule, fit

NAME = "pv-particle-nano"
HEIGHT, WIDTH, FPS = 96, 128, Fraction(10)
FILM = "stream/one-by-one-person-detection.mp4"
TEST = (
    "stream/car-detection.mp4",
    "stream/vtest.avi",
    "clips/bikes.mp4",
    "clips/carphone_pristine.mp4",
    "vid4_lossless/city.mkv",
    "vid4_lossless/walk.mkv",
)
"""Films of DIR that only test; so do the evaluation clips that come with edgepv, each camera a film."""

MIX = (
    ("region", 12, 8, 0.17), ("region", 48, 8, 0.40), ("region", 192, 4, 0.17), ("patch", 12, 8, 0.04),
    ("patch", 48, 8, 0.10), ("patch", 192, 4, 0.05), ("pixel", 768, 1, 0.02), ("frame", 1, 8, 0.05),
)  # fmt: skip
"""Kind and number of particles, clips in a batch, and the share of the steps that are of this kind."""

NEXT = {"frames": 5, "clips": 4, "particles": 48}
"""Of a batch of the second stage."""

STILL = 1e-5
"""Squared error that counts as none in the second stage: where nothing moves there is nothing to learn."""

COUNTS = (12, 48, 192)
"""Numbers of particles that the line is compared at."""


@dataclass(frozen=True)
class Recipe:
    """Steps of both stages, and of one of the autoencoders; ``lr`` of all of them."""

    pictures: Schedule
    forecast: Schedule
    plain: Schedule


RECIPE = Recipe(
    Schedule(3000, lr=3e-3, weight_decay=1e-4),
    Schedule(600, lr=5e-3, weight_decay=1e-4),
    Schedule(1500, lr=3e-3, weight_decay=1e-4),
)


def spec_of(net: PvParticle) -> ModelSpec:
    """What the network eats and answers: the frame itself is true of its picture."""
    shape, count = (1, 3, HEIGHT, WIDTH), net.home.shape[1]
    return ModelSpec(
        name=NAME,
        input=TensorSpec("frame", shape, "NCHW"),
        fps=FPS,
        task="restoration",
        metric="psnr",
        degrade="nothing",
        particles=count,
        outputs=(TensorSpec("image", shape, "NCHW"), TensorSpec("particles", (1, count, 7), "NKC")),
    )


def read_reel(path: Path, height: int | None = None, *, most: int | None = None) -> np.ndarray:
    """Frames of a video at ``FPS``, (T, h, w, 3) uint8 RGB, made ``height`` high if it is higher.

    With None they have the network's size. Raises UsageError if the video is missing.
    """
    cv2 = need("cv2", extra="cpu")
    frames: list[np.ndarray] = []
    with open_video(path) as video:
        for frame in taken(video, FPS):
            pixels = frame.pixels
            if height is None:
                pixels = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            elif pixels.shape[0] > height:
                wide = round(pixels.shape[1] * height / pixels.shape[0])
                pixels = cv2.resize(pixels, (wide, height), interpolation=cv2.INTER_AREA)
            frames.append(np.ascontiguousarray(pixels[..., ::-1]))
            if len(frames) == most:
                break
    return np.stack(frames)


def training_reels(data: Path) -> list[np.ndarray]:
    """The film, then the calibration clips that come with edgepv."""
    clips = find_clips(HERE / "clips", TASKS["fight"])
    return [read_reel(data / FILM, 216), *(read_reel(c.path, 216) for c in clips if c.split == "calibration")]


def test_films(data: Path | None, most: int = 32) -> dict[str, list[np.ndarray]]:
    """Clips of ``most`` frames at the network's size, by film: shipped ones, and those of ``data``."""
    films: dict[str, list[np.ndarray]] = {}
    for clip in find_clips(HERE / "clips", TASKS["fight"]):
        if clip.split == "evaluation":
            films.setdefault(str(clip.group), []).append(read_reel(clip.path, most=most))
    for path in (data / p for p in TEST) if data else ():
        if path.is_file():
            films[path.name] = [read_reel(path, most=most)]
    return films


@dataclass(frozen=True)
class Footage:
    """What samples are cut from: reels (T, h, w, 3) uint8. Half of the samples come from the first."""

    reels: Sequence[np.ndarray]

    def batch(self, clips: int, frames: int, rng: np.random.Generator) -> Tensor:
        """(clips, 3, frames, HEIGHT, WIDTH) float32 in [0, 1]."""
        made = np.stack([self.sample(frames, rng) for _ in range(clips)])
        return torch.from_numpy(made.astype(np.float32) / 255).permute(0, 4, 1, 2, 3).contiguous()

    def sample(self, frames: int, rng: np.random.Generator) -> np.ndarray:
        """A crop of a reel, (frames, HEIGHT, WIDTH, 3) uint8, some of its colours exchanged."""
        cv2 = need("cv2", extra="cpu")
        one = 0 if len(self.reels) == 1 or rng.random() < 0.5 else int(rng.integers(1, len(self.reels)))
        reel = self.reels[one]
        tall, wide = reel.shape[1:3]
        least = min(1.0, HEIGHT / tall)
        high = rng.uniform(least, 1) * min(tall, wide * HEIGHT / WIDTH)
        h, w = round(high), round(high * WIDTH / HEIGHT)
        t, y, x = (int(rng.integers(n)) for n in (len(reel) - frames + 1, tall - h + 1, wide - w + 1))
        cut = reel[t : t + frames, y : y + h, x : x + w]
        clip = np.stack([cv2.resize(f, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for f in cut])
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        level = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.4, 0.4, 3))
        table = np.rint(255 * level * rng.uniform(0.7, 1, 3)).astype(np.uint8)
        return np.stack([table[clip[..., c], i] for i, c in enumerate(rng.permutation(3))], -1)


def log_error(got: Tensor, truth: Tensor) -> Tensor:
    """Mean over pictures of the logarithm of their mean squared error; 1e-5 of it is as good as none."""
    return ((got - truth).square().mean((1, 3, 4)) + 1e-5).log().mean()


def psnr_of(error: Tensor) -> float:
    """Mean PSNR in dB that a ``log_error`` amounts to."""
    return float(error.detach()) * -10 / float(np.log(10))


def pictures_loss(footage: Footage) -> Loss[PvParticle]:
    """The loss of ``steps.fit`` for the first stage; a third as much for what the features paint alone."""
    shares = np.array([share for *_, share in MIX])

    def loss(net: PvParticle, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        kind, count, clips, _ = MIX[int(rng.choice(len(MIX), p=shares / shares.sum()))]
        net.use(kind, count)
        truth = footage.batch(clips, 2, rng)
        plain, image = net(truth)
        error = log_error(image, truth)
        figures = {f"psnr {kind} {count}": psnr_of(error)} if kind == "region" else {}
        return error + 0.3 * log_error(plain, truth), figures

    return loss


def forecast_loss(footage: Footage) -> Loss[PvParticle]:
    """The loss of ``steps.fit`` for the second stage, of regions."""

    def loss(net: PvParticle, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        net.use("region", NEXT["particles"])
        clip = footage.batch(NEXT["clips"], NEXT["frames"], rng)
        error, copied = (
            (guess - clip[:, :, 2:]).square().mean() for guess in (foreseen(net, clip), clip[:, :, 1:-1])
        )
        gained = ((error + STILL) / (copied + STILL)).log()
        return gained, {"dB over the last frame": psnr_of(gained)}

    return loss


def foreseen(net: PvParticle, clip: Tensor, *, whole: bool = False) -> Tensor:
    """Frames 2 to T - 1 of clips (N, 3, T, H, W), each foreseen from the one before it; (N, 3, T - 2, H, W).

    The frame that is there plus the change that the particles foresee; ``whole``: the picture of the expected
    particles alone. Frame 1 is foreseen by none: after one frame nothing is known of velocities.
    """
    n, t = len(clip), clip.shape[2] - 2
    with torch.no_grad():
        crowds = net.follow(clip)[1:-1]
        crowd = Crowd(*(torch.stack(x, 1).flatten(0, 1) for x in zip(*crowds, strict=True)))
        now = net.paint(crowd.position, crowd.scale, crowd.feature)[1]
    after = net.expect(crowd)
    later = net.paint(after.position, crowd.scale, after.feature)[1]
    shown = (later if whole else later - now).unflatten(0, (n, t)).transpose(1, 2)
    return shown if whole else clip[:, :, 1:-1] + shown


class Plain(nn.Module):
    """An autoencoder of the same layers that knows no particles, with as many values between its halves.

    The map at stride 4 goes through a convolution as wide as its stride into ``values`` channels on a grid,
    and back through one that fills the blocks again. side: cells along a block of the grid.
    """

    def __init__(self, side: int, values: int = 17, tokens: int = 32, hidden: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, tokens // 2, 3, 2, 1)
        self.down = nn.Conv2d(tokens // 2, tokens, 3, 2, 1)
        self.block = Residual(tokens)
        self.narrow = nn.Conv2d(tokens, 16, 1)
        self.code = nn.Conv2d(16, values, side, side)
        self.fill = nn.Conv2d(values, 16 * side * side, 1)
        self.shuffle = nn.PixelShuffle(side)
        self.generator = Generator(16, 3, up=CELL, hidden=hidden)

    def forward(self, clip: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W), frame by frame, as they come out again."""
        n, _, t, _, _ = clip.shape
        x = clip.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.narrow(torch.relu(self.block(torch.relu(self.down(torch.relu(self.enter(x)))))))
        image = self.generator(self.shuffle(self.fill(self.code(x))))
        return image.unflatten(0, (n, t)).transpose(1, 2)


def plain_loss(footage: Footage) -> Loss[Plain]:
    """The loss of ``steps.fit`` for an autoencoder."""

    def loss(net: Plain, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        truth = footage.batch(8, 2, rng)
        error = log_error(net(truth), truth)
        return error, {"psnr": psnr_of(error)}

    return loss


Log: TypeAlias = list[dict[str, object]]
"""Rows of a training: stage, step, loss and figures."""


@dataclass(frozen=True)
class FilmScore:
    """Mean PSNR in dB and SSIM of a film's painted frames."""

    clip: str
    frames: int
    psnr_restored: float
    ssim_restored: float


@dataclass(frozen=True)
class Scores:
    """Of every film, and the means over them."""

    clips: tuple[FilmScore, ...]
    psnr_restored: float
    ssim_restored: float


@dataclass(frozen=True)
class ParticleRun:
    """What is trained from which footage, to where."""

    footage: Footage
    out: Path
    cache: Path
    seed: int = 0
    recipe: Recipe = RECIPE

    def stage(self, name: str, net: Net, loss: Loss[Net], schedule: Schedule) -> tuple[Net, Log]:
        """(network trained by ``loss``, log) of one stage; it goes on from what was saved."""
        what = digest([name, asdict(schedule), self.seed, [r.shape for r in self.footage.reels]])
        resume = self.cache / f"{NAME}-{name}-{what[:12]}.pt"

        def tick(row: dict[str, Any]) -> None:
            print(name, {k: round(v, 2) for k, v in row.items()}, flush=True)

        net, log = fit(net, loss, schedule, seed=self.seed, resume=resume, tick=tick)
        return net, [{"stage": name} | {k: v for k, v in row.items() if k != "seconds"} for row in log]

    def painting(self) -> tuple[PvParticle, Log]:
        """The network after the first stage, and its log."""
        torch.manual_seed(self.seed)
        net = nano()
        net.forecast.requires_grad_(False)
        return self.stage("pictures", net, pictures_loss(self.footage), self.recipe.pictures)

    def foreseeing(self, painting: PvParticle, *, interact: bool = True) -> tuple[PvParticle, Log]:
        """The same network with a forecast trained anew, and the log of that."""
        torch.manual_seed(self.seed)
        net, fresh = nano(interact=interact), nano(interact=interact).forecast
        net.load_state_dict(painting.state_dict())
        net.forecast = fresh
        net.requires_grad_(False)
        net.forecast.requires_grad_(True)
        stage = "forecast" if interact else "forecast alone"
        net, log = self.stage(stage, net, forecast_loss(self.footage), self.recipe.forecast)
        net.use("region", NEXT["particles"])
        return net.cpu().requires_grad_(False), log


@torch.no_grad()
def painted(net: PvParticle, clip: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 through the network in order: pictures of the same shape, float32."""
    return to_frames(net(to_clip(clip))[1])


def to_clip(frames: np.ndarray) -> Tensor:
    """(1, 3, T, H, W) in [0, 1] of frames (T, H, W, 3) uint8."""
    return torch.from_numpy(as_float(frames)).permute(3, 0, 1, 2).unsqueeze(0).contiguous()


def to_frames(clip: Tensor) -> np.ndarray:
    """(T, H, W, 3) float32 of (1, 3, T, H, W)."""
    frames: np.ndarray = clip[0].permute(1, 2, 3, 0).numpy()
    return frames


def scored(name: str, net: PvParticle, clips: Sequence[np.ndarray]) -> FilmScore:
    """How near the painted frames of a film's clips come to them."""
    pairs = [pair for clip in clips for pair in zip(clip, painted(net, clip), strict=True)]
    psnr = round(float(np.mean([pictures.psnr_db(a, b) for a, b in pairs])), 3)
    return FilmScore(
        name, len(pairs), psnr, round(float(np.mean([pictures.ssim(a, b) for a, b in pairs])), 4)
    )


def scores_of(net: PvParticle, films: Mapping[str, Sequence[np.ndarray]]) -> Scores:
    """Every film's score, of the number of particles that ships."""
    rows = tuple(scored(name, net, clips) for name, clips in films.items())
    psnr, ssim = (
        float(np.mean(v)) for v in zip(*((r.psnr_restored, r.ssim_restored) for r in rows), strict=True)
    )
    return Scores(rows, round(psnr, 4), round(ssim, 4))


def train(job: ParticleRun, data: Path) -> Scores:
    """Train, score the test films, publish weights and result; returns the scores."""
    return finish(job, data, *job.painting())


def finish(job: ParticleRun, data: Path, painting: PvParticle, log: Log) -> Scores:
    """The second stage of ``train`` and what comes after it."""
    net, more = job.foreseeing(painting)
    halve(net)
    test = scores_of(net, test_films(data))
    result = {
        "name": NAME,
        "seed": job.seed,
        "recipe": asdict(job.recipe),
        "footage": {"train": [FILM, "edgepv/zoo/clips/calibration"]},
        "test": asdict(test),
        "seconds": None,
        "trained_on": trained_on(),
        "log": log + more,
    }
    metrics = {"test": headline([row.psnr_restored for row in test.clips], "psnr")}
    publish(job.out, NAME, net, "edgepv.zoo.pv_particle:nano", spec_of(net), metrics, result)
    return test


def compare(job: ParticleRun) -> None:
    """Train what the line is compared with; weights and logs go into ``job.out``."""
    shipped = nano()
    shipped.load_state_dict(read_weights(HERE / "weights" / f"{NAME}.safetensors"))
    keep(job.out, "alone", *job.foreseeing(shipped, interact=False))
    for count, side in zip(COUNTS, (8, 4, 2), strict=True):
        torch.manual_seed(job.seed)
        keep(
            job.out,
            f"plain-{count}",
            *job.stage(f"plain-{count}", Plain(side), plain_loss(job.footage), job.recipe.plain),
        )


def keep(out: Path, name: str, net: nn.Module, log: Log) -> None:
    """Write a network that does not ship, and its log."""
    with whole_file(out / f"{name}.safetensors") as tmp:
        save_file({k: v.detach().contiguous() for k, v in net.state_dict().items()}, tmp)
    write_json(out / f"{name}.json", log)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit code."""
    parser = script("particle", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with natural video")
    parser.add_argument("--compare", action="store_true", help="train what it is compared with; wants --out")
    args = parser.parse_args(argv)

    def work() -> str:
        if args.compare and args.out == HERE:
            raise UsageError("--compare wants a folder of its own: --out DIR")
        job = ParticleRun(Footage(training_reels(args.data)), args.out, args.cache, args.seed)
        if args.compare:
            compare(job)
            return ""
        test = train(job, args.data)
        return f"{NAME}: test {test.psnr_restored} dB, SSIM {test.ssim_restored}"

    return ended(args, work)


if __name__ == "__main__":
    sys.exit(main())
