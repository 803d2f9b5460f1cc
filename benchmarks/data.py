"""The labelled clips that the benchmarks are judged on: made from their public sources, and checked.

    python benchmarks/data.py build DIR --source fight-surv=CHECKOUT --source ut-interaction=CHECKOUT ...
    python benchmarks/data.py check DIR

data.csv lists every clip: its label, split and group, the video it is cut from, the frames, and the SHA-256
of the file that committed results were measured with. A CHECKOUT is a git repository, bare or not, that has
the source's commit, whose name vouches for the video. ``build`` cuts the clips of the sources that are given
and says which are not; an encoder of another version writes the same pictures in other bytes, which ``check``
counts. The sources are others' work under their own terms (benchmarks/data.py names them): nothing of them is
in this repository.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edgepv.base.files import sha256, whole_file

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "data.csv"
SOURCES = {
    "handwash": ("github.com/huiwen99/HandWash", "41787e5"),
    "ut-interaction": ("github.com/deliangWu/Video-Interaction-Recognition-and-Detection-", "0b70375"),
    "fight-surv": ("github.com/seymanurakti/fight-detection-surv-dataset", "ff83b7c"),
}
"""First part of ``source_file`` -> where the repository is, and the commit that has the videos."""
ENCODE = ("-c:v", "libx264", "-preset", "slow", "-crf", "20", "-g", "15", "-bf", "0", "-pix_fmt", "yuv420p")
Row = dict[str, str]


def rows() -> list[Row]:
    """The committed manifest."""
    with MANIFEST.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def source_of(row: Row) -> tuple[str, str]:
    """(name of the source, path in its repository)."""
    name, _, path = row["source_file"].partition("/")
    return name, path


def video(repository: Path, commit: str, path: str) -> list[np.ndarray]:
    """Every frame of a video of a repository, (H, W, 3) BGR. Raises LookupError if it is not there."""
    asked = ("git", "-C", str(repository), "cat-file", "blob", f"{commit}:{path}")
    found = subprocess.run(asked, capture_output=True)
    if found.returncode:
        raise LookupError(f"{path} is not in {repository} at {commit}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        file.write_bytes(found.stdout)
        reader, frames = cv2.VideoCapture(str(file)), []
        while (read := reader.read())[0]:
            frames.append(read[1])
    return frames


def cut(frames: Sequence[np.ndarray], row: Row) -> np.ndarray:
    """The frames of a clip at its size, (T, H, W, 3). Raises LookupError if the video has too few."""
    start, count, step = (int(row[f"source_{key}"]) for key in ("start_frame", "frame_count", "step"))
    size = (int(row["width"]), int(row["height"]))
    chosen = frames[start : start + count : step]
    if len(chosen) != int(row["frames"]):
        raise LookupError(f"{row['source_file']} has {len(frames)} frames, too few for {row['path']}")
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in chosen])


def encode(clip: np.ndarray, fps: str, out: Path) -> None:
    """Write a clip as H.264 with ffmpeg, without sound."""
    _, height, width, _ = clip.shape
    given = ("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", fps, "-i", "-")
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as tmp:
        command = ("ffmpeg", "-v", "error", "-y", *given, *ENCODE, "-f", "mp4", str(tmp))
        subprocess.run(command, input=clip.tobytes(), check=True)


def build(folder: Path, sources: dict[str, Path]) -> list[str]:
    """Cut every clip whose source is given and write manifest.csv; returns what is missing, and why."""
    left = [
        f"{name}: not given. git clone https://{url}, check out {commit}, then --source {name}=CHECKOUT"
        for name, (url, commit) in SOURCES.items()
        if name not in sources
    ]
    kept: list[Row] = []
    held: tuple[str, list[np.ndarray]] = ("", [])
    for row in sorted(rows(), key=lambda r: r["source_file"]):
        name, path = source_of(row)
        if name not in sources:
            continue
        try:
            if held[0] != row["source_file"]:
                held = (row["source_file"], video(sources[name], SOURCES[name][1], path))
            encode(cut(held[1], row), row["fps"], folder / row["path"])
        except LookupError as e:
            left.append(str(e))
            continue
        kept.append(row | {"sha256": sha256(folder / row["path"])})
    if kept:
        with whole_file(folder / "manifest.csv") as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(kept[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(kept, key=lambda r: r["path"]))
    return left


def check(folder: Path) -> dict[str, dict[str, int]]:
    """By task, how many clips are the "same" bytes as those of the results, "other" bytes, or "missing"."""
    found: dict[str, dict[str, int]] = {}
    for row in rows():
        counts = found.setdefault(row["task"], {"same": 0, "other": 0, "missing": 0})
        path = folder / row["path"]
        kind = "missing" if not path.is_file() else "same" if sha256(path) == row["sha256"] else "other"
        counts[kind] += 1
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: 0, or 6 where clips are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("build", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", action="append", default=[], metavar="NAME=CHECKOUT")
    args = parser.parse_args(argv)
    sources = dict(one.split("=", 1) for one in args.source)
    if unknown := sorted(set(sources) - set(SOURCES)):
        parser.error(f"no source is called {unknown[0]}. Known: {', '.join(SOURCES)}")
    if args.what == "build":
        for why in build(args.folder, {name: Path(path) for name, path in sources.items()}):
            print(why)
    found = check(args.folder)
    for task, counts in found.items():
        print(
            f"{task}: {counts['same']} as measured, {counts['other']} in other bytes, "
            f"{counts['missing']} missing"
        )
    return 6 if any(counts["missing"] for counts in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
