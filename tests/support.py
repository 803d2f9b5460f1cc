"""Places and small values that several tests name."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgepv.errors import EdgepvError, EngineError

Run = Callable[..., tuple[int, str, str]]
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


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` fills once in a run: other workers of pytest-xdist wait for it and take it."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, whole = shared / name, shared / f"{name}.whole"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            make(folder)
            whole.touch()
    return folder


def linked_clips(folder: Path, count: int) -> Path:
    """So many of the shipped clips of each label to train or calibrate on, and so many to judge."""
    for split, source in (("train", "calibration"), ("test", "evaluation")):
        for label in ("fight", "no_fight"):
            place = folder / split / label
            place.mkdir(parents=True)
            for path in sorted((CLIPS / source / label).glob("*.mp4"))[:count]:
                (place / path.name).symlink_to(path)
    return folder


def skip_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """Of skipped tests: how many there are of each reason, the most first."""
    reasons: Counter[str] = Counter()
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    return [f"skipped {count}: {reason}" for reason, count in reasons.most_common()]


def in_this_process(function: str, *, timeout_s: float = 0, tool: str = "", **arguments: Any) -> Any:
    """What ``isolated.call`` does, without the seconds in which a process of its own imports its tools."""
    module, _, name = function.partition(":")
    given = json.loads(json.dumps(arguments))
    try:
        return json.loads(json.dumps(getattr(importlib.import_module(module), name)(**given)))
    except EdgepvError:
        raise
    except Exception as e:
        raise EngineError(f"{tool or name} failed: {type(e).__name__}: {e}") from e


def drifts(folder: Path, labels: tuple[str, str], side: int = 32) -> Path:
    """12 clips of 6 frames in train and test: textures that drift to the left (first label) or the right."""
    import cv2
    import numpy as np

    for number in range(12):
        path = folder / ("train" if number < 6 else "test") / labels[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        ground = cv2.resize(rng.integers(0, 256, (8, 16, 3), np.uint8), (2 * side, side))
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (side, side))
        for i in range(6):
            at = side - 2 * i if number % 2 else 2 * i
            writer.write(np.ascontiguousarray(ground[:, at : at + side]))
        writer.release()
    return folder


def assert_static_4_d(path: Path) -> None:
    """Every tensor that a node of an ONNX file makes has a known shape, no empty axis, and at most four."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.value_info, *graph.output)
    }
    made = {name for node in graph.node for name in node.output if name}
    assert made <= set(shapes)
    assert all(min(shape, default=1) > 0 for shape in shapes.values())
    assert max(len(shape) for shape in shapes.values()) <= 4
