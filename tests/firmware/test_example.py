"""examples/firmware: a C++ program that finds an installed model by CMake, with the events of Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building import CORE, CORE_WITH_TOY, OWN
from support import ROOT
from toy_core import LABELS, Toy, picture, python_session

pytestmark = pytest.mark.slow

TOY = Toy(9, 6)
WIDTH, HEIGHT, COUNT = 20, 14, 60
STEADY, LABEL, THRESHOLD = 3, "left", 0.3

PACKAGE = """
cmake_minimum_required(VERSION 3.13)
project(edgepv LANGUAGES C)
add_library(edgepv edgepv_core.c toy.c toy_tracker.c model.c)
set_target_properties(edgepv PROPERTIES PUBLIC_HEADER edgepv.h)
target_include_directories(edgepv PUBLIC $<INSTALL_INTERFACE:include>)
target_link_libraries(edgepv PUBLIC m)
install(TARGETS edgepv EXPORT all ARCHIVE DESTINATION lib PUBLIC_HEADER DESTINATION include)
install(EXPORT all FILE edgepvConfig.cmake NAMESPACE edgepv:: DESTINATION lib/cmake/edgepv)
"""
"""A folder that installs as those of ``edgepv firmware`` do."""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for program in ("cmake", "g++"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("example")
    package = folder / "package"
    package.mkdir()
    for path in (*CORE.glob("*.h"), *CORE_WITH_TOY, *OWN.glob("*.h")):
        shutil.copy(path, package)
    (package / "CMakeLists.txt").write_text(PACKAGE)
    (package / "model.c").write_text(_constant_toy())
    installed, built = folder / "installed", folder / "built"
    _cmake(package, folder / "model", f"-DCMAKE_INSTALL_PREFIX={installed}")
    subprocess.run(["cmake", "--install", str(folder / "model")], check=True, capture_output=True)
    options = (
        f"-DCMAKE_PREFIX_PATH={installed}",
        "-DEDGEPV_MODEL=edgepv_model_toy",
        "-DCMAKE_CXX_FLAGS=-Werror -Wall",
    )
    _cmake(ROOT / "examples" / "firmware", built, *options)
    return built / "watch"


def _cmake(source: Path, build: Path, *options: str) -> None:
    for command in (
        ["cmake", "-S", str(source), "-B", str(build), *options],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def _constant_toy() -> str:
    """The toy is made when the program starts, into what everybody else takes for a constant."""
    return (
        f'#include "toy.h"\nedgepv_model edgepv_model_toy;\nstatic toy made;\n'
        f"static const toy_options options = {{{TOY.c_options()}}};\n"
        "__attribute__((constructor)) static void make(void) "
        "{ toy_make(&made, &options); edgepv_model_toy = made.model; }\n"
    )


def frames() -> list[tuple[list[np.ndarray], np.ndarray]]:
    rng = np.random.default_rng(0)
    return [picture(rng, WIDTH, HEIGHT, "nv12", padded=False) for _ in range(COUNT)]


def events(threshold: float) -> list[dict[str, Any]]:
    """What the example's rule makes of the answers of edgepv's own session."""
    session, on, in_a_row = python_session(TOY), False, 0
    found: list[dict[str, Any]] = []
    for _, bgr in frames():
        answer = session.step(bgr)
        score = answer.scores[LABELS.index(LABEL)]
        in_a_row = in_a_row + 1 if answer.valid and (score >= threshold) != on else 0
        if in_a_row == STEADY:
            on, in_a_row = not on, 0
            found.append(
                {"event": "begin" if on else "end", "label": LABEL, "frame": answer.index, "score": score}
            )
    return found


def test_its_events_are_those_of_python(watch: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.nv12").write_bytes(b"".join(p.tobytes() for planes, _ in frames() for p in planes))
    command = [str(watch), str(tmp_path / "clip.nv12"), str(WIDTH), str(HEIGHT), LABEL, str(THRESHOLD)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told, wanted = [json.loads(line) for line in done.stdout.splitlines()], events(THRESHOLD)
    assert [{**one, "score": 0} for one in told] == [{**one, "score": 0} for one in wanted]
    assert len(wanted) >= 3
    np.testing.assert_allclose([one["score"] for one in told], [one["score"] for one in wanted], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["clip", "20", "14", "up", "0.5"], "toy has no label up"),
        (["clip", "21", "14", "left", "0.5"], "compare with edgepv.h"),
        (["absent", "20", "14", "left", "0.5"], "cannot read absent"),
        (["/dev/null", "20", "14", "left", "0.5"], "no camera at /dev/null"),
        ([], "usage"),
    ],
)
def test_it_says_what_is_wrong(watch: Path, arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "clip").touch()
    done = subprocess.run([str(watch), *arguments], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and words in done.stderr
