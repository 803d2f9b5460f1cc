"""libedgepv-engine as a program, built and run for the tests, and the same bundles in Python."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from building import CLANG, CORE, GCC, OWN, SANITIZED, Machine
from support import ROOT, made_once

from edgepv import bundle
from edgepv.data.frames import preprocess
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Stepper
from edgepv.types import Variant

ENGINE = ROOT / "edgepv" / "firmware" / "engine"
SOURCES = [CORE / "edgepv_core.c", *sorted(ENGINE.glob("*.c"))]
COUNTED = ("malloc", "calloc", "realloc")
BUILDS: dict[str, tuple[Machine, tuple[str, ...]]] = {
    "gcc": (GCC, ("-g",)),
    "clang": (CLANG, ()),
    "sanitized": (SANITIZED, ()),
    "counted": (GCC, ("-DCOUNTED", *(f"-Wl,--wrap={name}" for name in COUNTED))),
}
LONGEST_S = 120.0


@dataclass(frozen=True)
class Replay:
    """The program of tests/firmware/c/engine_replay.c. before: what starts it, like valgrind."""

    program: Path
    before: tuple[str, ...] = ()

    def open(
        self, folder: Path, variant: str = "-", library: object = "-", key: object = "-", *more: object
    ) -> subprocess.CompletedProcess[str]:
        """Its output and exit code: the status."""
        return self.call(folder, variant, library, key, *more)

    def call(self, *words: object) -> subprocess.CompletedProcess[str]:
        """The same with any arguments."""
        command = [*self.before, str(self.program), *map(str, words)]
        suppress = ROOT / "tests" / "firmware" / "engines.lsan"
        environment = {
            "LSAN_OPTIONS": f"suppressions={suppress}:print_suppressions=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "HOME": str(self.program.parent),
            "PATH": "/usr/bin:/bin",
        }
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_S,
            check=False,
        )

    def answers(
        self, folder: Path, variant: Variant, frames: np.ndarray, *, broken: bool = False
    ) -> np.ndarray:
        """Answers (2, N, values) to camera frames (N, H, W, 3) uint8; it was reset before the second time.

        broken: then a frame that is not finite comes before each, and its step has to fail.
        """
        count, height, width, _ = frames.shape
        with tempfile.TemporaryDirectory() as scratch:
            fed, read = Path(scratch) / "frames", Path(scratch) / "answers"
            fed.write_bytes(frames.tobytes())
            rest = (fed, width, height, count, read, *(("broken",) if broken else ()))
            done = self.open(folder, variant.name, library(variant.engine), "-", *rest)
            assert done.returncode == 0, done.stderr
            return np.fromfile(read, np.float32).reshape(2, count, -1)


def build(
    name: str,
    factory: pytest.TempPathFactory,
    extra: Sequence[Path] = (),
    *,
    program: str = "engine_replay.c",
) -> Replay:
    """A program, built as BUILDS says, the engine and each program once in a run.

    Skips the test if a compiler or libsodium is not installed.
    """
    machine, options = BUILDS[name]
    if not shutil.which("pkg-config") or subprocess.run(["pkg-config", "libsodium"], check=False).returncode:
        pytest.skip("libsodium-dev is not installed")
    machine.need()
    own = [OWN / program, *([OWN / "malloc_count.c"] if name == "counted" else []), *extra]
    linked = replace(machine, extra=("-lsodium", "-ldl", "-lpthread"))

    def compile_engine(folder: Path) -> None:
        folder.mkdir()
        for source in SOURCES:
            machine.build(folder / f"{source.stem}.o", [source], "-c", *options)

    def link(folder: Path) -> None:
        folder.mkdir()
        objects = sorted(made_once(factory, f"engine-{name}", compile_engine).glob("*.o"))
        linked.build(folder / "program", [*own, *objects], *options)

    called = "-".join((name, *(source.stem for source in own)))
    return Replay(made_once(factory, called, link) / "program")


def library(engine: str) -> Path:
    """The shared library of an engine, in its own package. Skips the test if it is not there."""
    patterns = {
        "litert": "ai_edge_litert/libLiteRt.so",
        "onnxruntime": "onnxruntime/capi/libonnxruntime.so.*",
    }
    found = [
        path
        for key in ("platlib", "purelib")
        for path in sorted(Path(sysconfig.get_path(key)).glob(patterns[engine]))
    ]
    if not found:
        import importlib.util

        spec = importlib.util.find_spec(patterns[engine].split("/")[0])
        above = Path(spec.origin).parent.parent if spec and spec.origin else Path("/nowhere")
        found = sorted(above.glob(patterns[engine]))
    if not found:
        pytest.skip(f"the package of {engine} holds no shared library of it here")
    return found[0]


def in_python(folder: Path, variant: Variant, frames: np.ndarray) -> np.ndarray:
    """The same answers (N, values) by the engine in Python."""
    engine = open_engine(variant, bundle.read(folder).checked)
    stepper = Stepper(engine.infer, variant.spec, variant.stream)
    rows = []
    for frame in frames:
        outputs = stepper.step(preprocess(frame, variant.spec))
        rows.append(np.concatenate([np.ravel(outputs[a.name]) for a in variant.spec.answers]))
    engine.close()
    return np.stack(rows)
