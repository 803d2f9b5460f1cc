"""The command ``particles``: a clip taken apart into particles, drawn, and painted of them again."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgepv.base.console import tell
from edgepv.cli.arguments import Commands
from edgepv.errors import UsageError

if TYPE_CHECKING:
    from fractions import Fraction

    import numpy as np

    from edgepv.data.video import VideoFrame

MODEL = "pv-particle-nano"
KINDS = ("pixel", "patch", "region", "frame")
COUNTED = ("patch", "region")
"""Kinds of which there may be more or fewer; the others are as many as they are."""


def add_particles(commands: Commands) -> None:
    """Add ``edgepv particles`` to the commands."""
    text = "take a clip apart into particles, draw them, and paint the clip of them again"
    c = commands.add_parser(
        "particles",
        help=text,
        description=text,
        epilog="The frame with its particles stands left, what is painted of their numbers right. See "
        "docs/particles.md for what is lost on the way.",
    )
    c.add_argument("clip", metavar="CLIP", help="video file")
    c.add_argument("--video", metavar="FILE", help="write both pictures side by side (.mp4)")
    c.add_argument("--jsonl", metavar="FILE", help="write a line of JSON for each frame: its particles")
    c.add_argument(
        "--kind",
        choices=KINDS,
        default="region",
        help="what a particle is: a cell of 4 x 4 pixels, a square patch, a region that moves, the frame "
        "(default: region)",
    )
    c.add_argument("--count", type=int, metavar="K", help="how many patches or regions (default: 48)")
    c.add_argument("--most", type=int, metavar="N", help="stop after N frames (default: the whole clip)")
    c.set_defaults(run=particles_command)


def particles_command(a: argparse.Namespace) -> int:
    """edgepv particles"""
    video, jsonl = (Path(name) if name else None for name in (a.video, a.jsonl))
    count = _checked(a, video, jsonl)
    line = open_line(a.kind, count)
    frames, squared = 0, 0.0
    with _video(video, line.fps) as show, _lines(jsonl) as write:
        for frame in _frames(Path(a.clip), line, a.most):
            step = line.step(frame.pixels)
            show(frame.pixels, step)
            write({"frame": frame.index, "time_s": round(float(frame.time_s), 3), **step.record()})
            frames, squared = frames + 1, squared + step.squared_error
    tell(line.summary(frames, squared / frames), file=sys.stderr)
    return 0


def _checked(a: argparse.Namespace, video: Path | None, jsonl: Path | None) -> int:
    """How many particles. Raises UsageError for options that do not go together."""
    from edgepv.model.spec import MOST_PARTICLES

    if video is None and jsonl is None:
        raise UsageError("nothing to write. Give --video out.mp4, --jsonl out.jsonl or both")
    if video is not None and video.suffix.lower() != ".mp4":
        raise UsageError(f"--video {video}: the video is written as .mp4. Name it so")
    for path in filter(None, (video, jsonl)):
        if path.exists() and Path(a.clip).exists() and path.samefile(a.clip):
            raise UsageError(f"{path} is the clip itself. Name another file")
    if video is not None and video == jsonl:
        raise UsageError(f"--video and --jsonl are both {video}. Name two files")
    if a.count is not None and a.kind not in COUNTED:
        raise UsageError(
            f"--count is for {' and '.join(COUNTED)}; {a.kind} leaves no choice. Leave --count out"
        )
    count = 48 if a.count is None else a.count
    if not 1 <= count <= MOST_PARTICLES:
        raise UsageError(f"--count {count}: give 1 to {MOST_PARTICLES}")
    if a.most is not None and a.most < 1:
        raise UsageError(f"--most {a.most}: give 1 or more")
    return count


@dataclass(frozen=True)
class Step:
    """One frame's particles and what is painted of them.

    particles: (K, 5 + D) of x, y, vx, vy in shares of width and height, size in heights, features. painted:
    (h, w, 3) uint8 BGR. squared_error: mean of it against the frame at that size, of [0, 1].
    """

    particles: np.ndarray
    painted: np.ndarray
    squared_error: float

    def record(self) -> dict[str, object]:
        """The JSON of a line."""
        rows = [[round(float(v), 4) for v in row] for row in self.particles]
        return {"psnr_db": round(decibel(self.squared_error), 2), "particles": rows}


class ParticleLine:
    """The trained net, decomposing frames one after the other into particles of one kind."""

    def __init__(self, kind: str, count: int) -> None:
        from edgepv.model.checkpoint import build
        from edgepv.zoo import checkpoint

        found = checkpoint(MODEL)
        self._net, self._spec, self._kind = build(found), found.spec, kind
        self._net.use(kind, count)
        self._expected = self._net.start(1)
        self.fps = found.spec.fps

    def step(self, pixels: np.ndarray) -> Step:
        """The next frame, (H, W, 3) uint8 BGR."""
        import numpy as np
        import torch

        from edgepv.data.frames import pictures, preprocess

        given = preprocess(pixels, self._spec)
        with torch.no_grad():
            frame = torch.from_numpy(given)
            crowd = self._net.decompose(frame, self._net.look(frame), self._expected)
            self._expected = self._net.expect(crowd)
            image = self._net.paint(crowd.position, crowd.scale, crowd.feature)[1].numpy()
        height, width = given.shape[-2:]
        shares = torch.tensor([height / width, 1.0])
        parts = crowd.position * shares, crowd.velocity * shares, crowd.scale.unsqueeze(-1), crowd.feature
        error = float(np.mean(np.square(np.clip(image, 0, 1) - given)))
        return Step(torch.cat(parts, -1)[0].numpy(), pictures(self._spec, image)[0], error)

    def summary(self, frames: int, squared_error: float) -> str:
        """What was done, in one line."""
        count, dim = self._expected.feature.shape[1:]
        height, width = self._spec.input.shape[-2:]
        return (
            f"{frames} frames, each {count * (5 + dim)} numbers: {count} particles ({self._kind}); painted "
            f"of them, frames of {width} x {height} have {decibel(squared_error):.1f} dB"
        )


def open_line(kind: str, count: int) -> ParticleLine:
    """The trained net for a kind and number of particles. Raises UsageError for patches that do not fit."""
    from edgepv.base.optional import need

    need("torch", extra="compress").set_num_threads(1)
    return ParticleLine(kind, count)


def decibel(squared_error: float) -> float:
    """PSNR in dB of a mean squared error of [0, 1]; at most 100, see ``edgepv.metrics.pictures.psnr_db``."""
    import math

    return min(100.0, -10 * math.log10(max(squared_error, 1e-10)))


def _frames(clip: Path, line: ParticleLine, most: int | None) -> Iterator[VideoFrame]:
    """The frames of a clip that the net takes, at its rate."""
    import itertools

    from edgepv.data.video import open_video, taken

    with open_video(clip) as video:
        yield from itertools.islice(taken(video, line.fps), most)


@contextlib.contextmanager
def _lines(path: Path | None) -> Iterator[Callable[[dict[str, object]], None]]:
    """Writes records as lines of a file, which appears whole; without a path it writes nothing."""
    if path is None:
        yield lambda record: None
        return
    from edgepv.base.files import whole_file

    with whole_file(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        yield lambda record: print(json.dumps(record), file=file)


@contextlib.contextmanager
def _video(path: Path | None, fps: Fraction) -> Iterator[Callable[[np.ndarray, Step], None]]:
    """Draws steps into a video, which appears whole; all pictures get the size of the first."""
    if path is None:
        yield lambda pixels, step: None
        return
    from edgepv.base.files import whole_file
    from edgepv.base.optional import need
    from edgepv.runtimes.sinks.video import letterbox

    cv2 = need("cv2", extra="cpu")
    with whole_file(path) as tmp:
        writer, size = cv2.VideoWriter(), (0, 0)

        def show(pixels: np.ndarray, step: Step) -> None:
            nonlocal size
            picture = drawn(pixels, step)
            if not writer.isOpened():
                size = (picture.shape[1], picture.shape[0])
                if not writer.open(str(tmp), cv2.VideoWriter.fourcc(*"mp4v"), float(fps), size):
                    raise UsageError(f"{path} cannot be written: OpenCV has no MPEG-4 encoder here")
            writer.write(letterbox(picture, size))

        try:
            yield show
        finally:
            writer.release()


def drawn(pixels: np.ndarray, step: Step) -> np.ndarray:
    """The frame with its particles left, what is painted of them right; (H, 2 W, 3) uint8 BGR, even sides.

    A circle is as large as its particle, an arrow goes where it is ``ARROW`` frames on.
    """
    import numpy as np

    from edgepv.base.optional import need
    from edgepv.runtimes.picture.drawing import ARROW, GREEN, colour, enlarged

    cv2 = need("cv2", extra="cpu")
    left = enlarged(pixels)
    height, width = left.shape[:2]
    right = cv2.resize(step.painted, (width, height), interpolation=cv2.INTER_CUBIC)
    for i, (x, y, vx, vy, size, *_) in enumerate(step.particles):
        at, ahead = (
            (round(p * width), round(q * height)) for p, q in ((x, y), (x + ARROW * vx, y + ARROW * vy))
        )
        cv2.circle(left, at, max(1, round(float(size) * height)), colour(i), 1, cv2.LINE_AA)
        if at != ahead:
            cv2.arrowedLine(left, at, ahead, GREEN, 1, cv2.LINE_AA, tipLength=0.3)
    return np.concatenate([left, right], 1)
