"""Memory that reading long clips takes: ``python benchmarks/clip_memory.py``.

Writes two synthetic videos, 30 s of 720p and 1 min of 1080p at 30 fps, and lets each reader of the package
read each, in a process of its own. Peak resident memory above that of the same process just before it reads
goes into clip_memory.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import measured_at
import numpy as np

from edgepv.base.files import write_json
from edgepv.base.optional import need
from edgepv.data import truth
from edgepv.data.clips import Clip
from edgepv.data.frames import model_frames
from edgepv.finetune import data

OUT = Path(__file__).resolve().with_suffix(".json")
VIDEOS = {"720p 30 s": (1280, 720, 30), "1080p 60 s": (1920, 1080, 60)}
FPS = 30


def film(path: Path, width: int, height: int, seconds: int) -> None:
    """A bright square on a ground of noise; another place in every frame."""
    cv2 = need("cv2", extra="cpu")
    ground = np.random.default_rng(0).integers(0, 120, (height // 8, width // 8, 3), np.uint8)
    ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    for i in range(FPS * seconds):
        frame = ground.copy()
        x = i * 7 % (width - 100)
        frame[100:200, x : x + 100] = 250
        writer.write(frame)
    writer.release()


def _shown(path: Path) -> object:

    return truth.eval_clip(_clip(path), _spec())


def _finetune(path: Path) -> object:
    from edgepv.base.console import Console

    return data.shots([_clip(path)], _spec(), Console(quiet=True))


def _explain(path: Path) -> object:
    from edgepv import explain

    return explain.first_frames(path, _spec())


def _replay(path: Path) -> object:
    from edgepv.measure import replay

    return replay.shots([_clip(path)], _spec())


def _thumbnails(path: Path) -> object:
    from edgepv.pipeline.prepare import clip_name
    from edgepv.pipeline.write import thumbnails

    row: Any = SimpleNamespace(
        parity=SimpleNamespace(worst=[SimpleNamespace(clip=clip_name(_clip(path)), agreement=0.5)])
    )
    return thumbnails([row], [_clip(path)])


def _zoo(path: Path) -> object:
    from edgepv.data.split import Sample
    from edgepv.zoo.training.data import load

    return load([Sample(path, "handwash", 0, "train", "g")])


READERS: dict[str, Callable[[Path], object]] = {
    "model frames": lambda path: model_frames(path, _spec()),
    "held-out clip": _shown,
    "finetune": _finetune,
    "explain": _explain,
    "replay": _replay,
    "thumbnail": _thumbnails,
    "training": _zoo,
}


def _spec() -> Any:
    from edgepv.zoo import spec

    return spec("pv-conv-nano", "handwash")


def _clip(path: Path) -> Clip:
    return Clip(path, _spec().labels[0], path.name)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(reader: str, path: Path) -> dict[str, float]:
    """MiB before a reader reads, and how far the peak rose. A first, short video brings the libraries in."""
    read = READERS[reader]
    read(path.with_name("short.mp4"))
    before = _peak_mib()
    kept = read(path)
    return {
        "before_mib": round(before, 1),
        "rise_mib": round(_peak_mib() - before, 1),
        "kept": kept is not None,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child[0], Path(args.child[1]))))
        return 0
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as tmp:
        film(Path(tmp) / "short.mp4", 320, 180, 3)
        for name, size in VIDEOS.items():
            path = Path(tmp) / f"{name.replace(' ', '_')}.mp4"
            film(path, *size)
            rows[name] = {}
            for reader in READERS:
                command = [sys.executable, __file__, "--child", reader, str(path)]
                ended = subprocess.run(command, capture_output=True, text=True, check=True)
                rows[name][reader] = json.loads(ended.stdout)["rise_mib"]
                print(f"{name}: {reader}: {rows[name][reader]} MiB", flush=True)
            path.unlink()
    write_json(OUT, {"measured_at": measured_at.now(), "rise_mib": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
