"""The command ``particles``: a clip taken apart into particles, drawn, and painted of them again."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgepv.base.console import tell
from edgepv.cli.arguments import Commands
from edgepv.errors import UsageError

if TYPE_CHECKING:
    from fractions import Fraction

    import numpy as np

    from edgepv.data.video import VideoFrame
    from edgepv.zoo.decomposed import Decomposition, Step

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
    line = _opened(a.kind, count)
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


def _opened(kind: str, count: int) -> Decomposition:
    """The trained net for a kind and number of particles."""
    from edgepv.base.optional import need

    need("torch", extra="compress").set_num_threads(1)
    from edgepv.zoo.decomposed import Decomposition

    return Decomposition(kind, count)


def _frames(clip: Path, line: Decomposition, most: int | None) -> Iterator[VideoFrame]:
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
    from edgepv.runtimes.picture.drawing import decomposed
    from edgepv.runtimes.sinks.video import letterbox

    cv2 = need("cv2", extra="cpu")
    with whole_file(path) as tmp:
        writer, size = cv2.VideoWriter(), (0, 0)

        def show(pixels: np.ndarray, step: Step) -> None:
            nonlocal size
            picture = decomposed(pixels, step.particles, step.painted)
            if not writer.isOpened():
                size = (picture.shape[1], picture.shape[0])
                if not writer.open(str(tmp), cv2.VideoWriter.fourcc(*"mp4v"), float(fps), size):
                    raise UsageError(f"{path} cannot be written: OpenCV has no MPEG-4 encoder here")
            writer.write(letterbox(picture, size))

        try:
            yield show
        finally:
            writer.release()
