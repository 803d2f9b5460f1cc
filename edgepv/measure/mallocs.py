"""How often a step of generated C asks the heap for memory, counted by a program with its own malloc."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from edgepv.base.registry import resolve
from edgepv.errors import EngineError, TargetUnavailableError
from edgepv.firmware.compiled import C
from edgepv.firmware.compiler import Compiler, compile_objects, compiler, link
from edgepv.measure.artifacts.artifact import Artifact

SOURCE = Path(__file__).with_name("mallocs.c")
LONGEST_S = 120.0
"""Seconds for its 36 steps: the largest built-in model takes a few."""


def mallocs(artifact: Artifact) -> int | None:
    """Calls of malloc and its kind in a step; None for what is no generated C, or cannot be counted here.

    Of what was counted over several steps, the mean, rounded up: a call in any of them is told.
    """
    chosen = compiler() if artifact.library else None
    if chosen is None or artifact.library is None:
        return None
    try:
        return _counted(chosen, resolve(artifact.library)(**artifact.arguments))
    except (EngineError, TargetUnavailableError, subprocess.TimeoutExpired):
        return None  # another C library than glibc, or a tracker, which takes no tensors


def _counted(chosen: Compiler, library: Path) -> int | None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for path in (SOURCE, C / "edgepv.h"):
            (place / path.name).write_bytes(path.read_bytes())
        objects = compile_objects(chosen, [SOURCE.name], (), place)
        link(chosen, ["-rdynamic", *objects, "-o", "mallocs", "-ldl"], place)
        program = [place / "mallocs", library]
        done = subprocess.run(program, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    if done.returncode:
        return None
    calls, steps = map(int, done.stdout.split())
    return -(-calls // steps)
