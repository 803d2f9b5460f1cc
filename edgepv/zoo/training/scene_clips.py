"""The rendered scenes that ship with edgepv: ``python -m edgepv.zoo.training.scene_clips``.

Those for calibration are over pictures, and of shapes, that segmenters train with; those for evaluation are
over other footage and of other shapes. A few frames of each of the latter have masks: those between are much
like them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgepv.base.files import write_text
from edgepv.base.optional import need
from edgepv.data.clips import COLUMNS
from edgepv.zoo import HERE
from edgepv.zoo.training.scenes import Drawn, Scene, render
from edgepv.zoo.training.segment import HEIGHT, WIDTH, footage, held_out, read_pictures

CALIBRATION, EVALUATION = (6, 12), (19, 20)
"""(clips, frames of each); those that evaluate are one over each camera or film."""
JUDGED = slice(7, None, 4)
"""Frames that have a mask: after the warm-up, every fourth."""
SEED = 3


def write(folder: Path) -> None:
    """Clips, masks, and the manifest that says over which footage each is."""
    pictures = read_pictures("calibration")
    count, frames = CALIBRATION
    rows = [",".join(COLUMNS)]
    for i in range(count):
        drawn = render(np.random.default_rng((SEED, i)), pictures, Scene(HEIGHT, WIDTH, frames), "train")
        rows.append(f"{_film(folder, f'calibration/images/scene{i}.mp4', drawn)},,calibration,calibration")
    assert EVALUATION[0] == len(footage("evaluation")), "one over each camera or film"
    for i, (group, drawn) in enumerate(held_out(*EVALUATION, seed=SEED)):
        name = _film(folder, f"evaluation/images/scene{i:02}.mp4", drawn)
        _masks(folder / f"evaluation/masks/scene{i:02}", drawn)
        rows.append(f"{name},,evaluation,{group}")
    write_text(folder / "manifest.csv", "\n".join(rows) + "\n")


def _film(folder: Path, name: str, drawn: Drawn) -> str:
    """The clip as MPEG-4 of ten frames a second; returns its name."""
    cv2 = need("cv2", extra="cpu")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (WIDTH, HEIGHT))
    for frame in drawn.frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return name


def _masks(folder: Path, drawn: Drawn) -> None:
    """Index PNGs, grey, called by the number of their frame."""
    cv2 = need("cv2", extra="cpu")
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(drawn.masks))[JUDGED]:
        cv2.imwrite(str(folder / f"{i:05}.png"), drawn.masks[i])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgepv.zoo.training.scene_clips", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "scenes", help="folder of the clips")
    write(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
