"""What edgepv is told of a board it knows nothing of: a target, its engine, a source and a sink.

Light to import: the engine itself is in ``board_engine``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from edgepv.base.files import sha256
from edgepv.export.request import BuildRequest, BuildResult
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Setup
from edgepv.runtimes.sources import Frame, OnStatus, SourceKind
from edgepv.types import EngineSpec, Target

TARGET = Target(
    name="board",
    summary="a board that only its maker knows",
    precisions=("fp32",),
    engines=("board-npu",),
    builder="board:build",
    min_sqnr_db={"fp32": 80.0},
)
ENGINE = EngineSpec(
    opener="board_engine:open",
    packages=("edgepv-board",),
    audit="board_engine:audit",
    beside=(".note",),
)
FRAMES = SourceKind("board:open_frames", live=False)
FPS = 10


def build(request: BuildRequest) -> BuildResult:
    """One file in a format of the board's own, and a note beside it."""
    out = request.folder / "model.board"
    out.write_bytes(b"BOARD" + (request.folder / request.base.path).read_bytes())
    out.with_suffix(".note").write_text("made by the board's own builder\n")
    made = replace(request.base, name="board-npu-fp32", engine="board-npu", path=out.name, sha256=sha256(out))
    return BuildResult((made,), notes=("packed by edgepv-board",))


class Frames:
    """Pictures of an .npy file, (N, H, W, 3) uint8 BGR, ten a second."""

    fps, live = Fraction(FPS), False

    def __init__(self, path: Path) -> None:
        self._frames = enumerate(np.load(path))

    def read(self) -> Frame | None:
        """The next picture; None at the end."""
        index, pixels = next(self._frames, (0, None))
        return None if pixels is None else Frame(pixels, index / FPS, time.monotonic(), index == 0)

    def close(self) -> None:
        """Nothing to let go."""


def open_frames(text: str, on_status: OnStatus) -> Frames:
    """The pictures of "frames:FILE.npy"."""
    return Frames(Path(text.removeprefix("frames:")))


class Tally:
    """Counts records by their type, and writes the counts at the end."""

    pixels = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Counter[str] = Counter()

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Count one."""
        self._seen[record["type"]] += 1

    def counts(self) -> dict[str, int]:
        """Nothing waits and nothing is lost."""
        return {"taken": self._seen.total(), "sent": self._seen.total(), "queued": 0, "lost": 0}

    def close(self) -> None:
        """Write the counts."""
        self._path.write_text(json.dumps(self._seen))


def open_tally(url: str, setup: Setup) -> Tally:
    """The receiver that "tally:FILE.json" names."""
    return Tally(Path(url.removeprefix("tally:")))
