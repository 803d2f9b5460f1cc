"""What every test shares: a cache of its own, tiny models on disk, and one export of each kind.

A test is slow if it exports, trains or runs commands for seconds: ``pytestmark = pytest.mark.slow`` stands in
its file, or the mark on itself. All others are unit tests, also those that ask for ``step_bundle``.
"""

from __future__ import annotations

import gc
import os
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support import (
    CLIPS,
    ROOT,
    SPEC,
    TINY,
    Run,
    Tiny,
    in_this_process,
    linked_clips,
    made_once,
    skip_lines,
)

from edgepv.base import isolated

os.environ.setdefault("OMP_NUM_THREADS", "1")
# an export compiles its model where a compiler is; the tests of that ask for it (``compiling``)
os.environ["EDGEPV_CC"] = "none"
# torch keeps compiled headers where TMPDIR was when it was imported: in a folder of a command, which goes
os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")
# Python looks for garbage after each 700 new objects; among the millions that torch and the converters hold,
# that is a good part of the time of an export.
gc.set_threshold(20_000, 10, 10)
pytest_plugins = ["core_fixtures", "live_fixtures", "trt_fixtures"]

LONGEST = ("tests/test_readme.py", "tests/pipeline/test_pipeline.py", "tests/cli/test_cli.py")
"""Files of minutes, the longest first. Workers take whole files, and one would wait for a long last one."""

IN_PROCESSES = ("edgepv.export.to_tflite.call", "edgepv.measure.memory.call")
"""What edgepv calls in a process of its own wherever an export needs it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, then those with slow tests, then the rest."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    first = {ROOT / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (first.get(item.path, len(first)), item.path not in slow))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped, and why: a line for each reason."""
    for line in skip_lines(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache; the workers of a run share one."""
    os.environ["EDGEPV_CACHE"] = str(made_once(tmp_path_factory, "cache", Path.mkdir))
    # torch.compile keeps to the first folder it is given, and that of a command goes with the command
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(made_once(tmp_path_factory, "inductor", Path.mkdir))


@pytest.fixture(scope="session", autouse=True)
def quick_exports() -> Iterator[None]:
    """Latencies from a few calls, few clips; see ``quick``."""
    from quick import quicken

    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def warm_tools() -> Iterator[None]:
    """LiteRT's converter, and the look at a variant's memory, without a process of their own.

    A worker imports the tools once rather than each conversion anew. ``apart`` takes this back.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITERT_TORCH_SHOW_PROGRESS", "n")
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        for place in IN_PROCESSES:
            patch.setattr(place, in_this_process)
        yield


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tool in a process of its own, as users have it."""
    for place in IN_PROCESSES:
        monkeypatch.setattr(place, isolated.call)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are compiled where a compiler is here, as users have it."""
    from edgepv.firmware import compiler

    monkeypatch.delenv(compiler.VARIABLE, raising=False)
    if compiler.compiler() is None:
        pytest.skip("no C compiler is here: install gcc or clang")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: (exit code, stdout, stderr) of its arguments."""

    def call(*argv: object) -> tuple[int, str, str]:
        from edgepv.cli.app import main

        code = main([str(a) for a in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _tiny(folder: Path, function: str, shape: list[int], layout: str, name: str) -> Tiny:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    module = runpy.run_path(str(TINY))[function]()
    with torch.no_grad():
        for value in module.parameters():
            value.mul_(2)
    weights = folder / f"{name}.safetensors"
    save_file(module.state_dict(), weights)
    spec = folder / f"{name}.toml"
    spec.write_text(SPEC.format(name=name, shape=shape, layout=layout))
    return Tiny(f"{TINY}:{function}", weights, spec)


@pytest.fixture(scope="session")
def tiny_step(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return _tiny(tmp_path_factory.mktemp("tiny"), "stepper", [1, 3, 32, 32], "NCHW", "tiny-step")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return _tiny(tmp_path_factory.mktemp("tiny"), "clip", [1, 3, 4, 32, 32], "NCTHW", "tiny-clip")


@pytest.fixture(scope="session")
def tiny_ceil(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return _tiny(tmp_path_factory.mktemp("tiny"), "ceil", [1, 3, 4, 32, 32], "NCTHW", "tiny-ceil")


@pytest.fixture(scope="session")
def step_bundle(tiny_step: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cpu bundle of the tiny step model, made by the command line."""
    from edgepv.cli.app import main

    def export(out: Path) -> None:
        assert main(["export", *tiny_step.arguments, "--target", "cpu", "--out", str(out)]) == 0

    return made_once(tmp_path_factory, "step", export)


@pytest.fixture(scope="session")
def few_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of the shipped clips of each label to train or calibrate on, and four to judge."""

    def link(folder: Path) -> None:
        linked_clips(folder, 4)

    return made_once(tmp_path_factory, "few", link)


@pytest.fixture(scope="session")
def a_clip() -> Path:
    """One of the shipped clips."""
    return sorted((CLIPS / "evaluation" / "fight").glob("*.mp4"))[0]


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """Writes frames of plain colours: write_video("x.mp4", [10, 20, 30], fps=10)."""

    def write(name: str, greys: list[int], fps: float = 10.0, size: int = 64) -> Path:
        import cv2

        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (size, size))
        for grey in greys:
            writer.write(np.full((size, size, 3), grey, np.uint8))
        writer.release()
        return path

    return write
