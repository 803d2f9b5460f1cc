"""Places and small values that several tests name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "tiny.py"
CLIPS = ROOT / "edgepv" / "zoo" / "clips"

SPEC = """
name = "{name}"
labels = ["fight", "no_fight"]
frames = 4
fps = 10
mean = [0.45, 0.45, 0.45]
std = [0.225, 0.225, 0.225]

[input]
name = "frame"
shape = {shape}
layout = "{layout}"
"""


@dataclass(frozen=True)
class Tiny:
    """Arguments of the command line that name a tiny model."""

    model: str
    weights: Path
    spec: Path

    @property
    def arguments(self) -> list[str]:
        return [self.model, "--weights", str(self.weights), "--spec", str(self.spec)]
