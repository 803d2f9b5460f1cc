"""A bundle run from C answers as the engine in Python does, bit for bit: both are the same engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from building import CORE, GCC
from engine_bundle import HEIGHT, KINDS, WIDTH, write_bundle, write_tracker
from engine_replay import ENGINE, SOURCES, Replay, build, in_python, library
from support import ROOT, Tiny, made_once

from edgepv import bundle
from edgepv.bundle import golden
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.lane import Lane
from edgepv.types import StateSpec

pytestmark = pytest.mark.slow
FRAMES = np.random.default_rng(0).integers(0, 256, (17, 9, 11, 3), np.uint8)
"""Camera frames, larger than a tiny net takes, and more than any of its rings has places."""


@pytest.fixture(scope="session", params=["gcc", "clang", "sanitized", "counted"])
def any_build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    return build(request.param, tmp_path_factory)


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    return build("sanitized", tmp_path_factory)


@pytest.fixture(scope="session")
def mobile_bundle(tiny_step: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny step model for LiteRT, made by the command line."""
    from edgepv.cli.app import main

    pytest.importorskip("litert_torch")

    def export(out: Path) -> None:
        assert main(["export", *tiny_step.arguments, "--target", "mobile", "--out", str(out)]) == 0

    return made_once(tmp_path_factory, "step-mobile", export)


def check_exported(replay: Replay, place: Path) -> int:
    """That each variant of LiteRT and ONNX Runtime gives its golden answers as in Python; how many do.

    Not to the last bit: engines add up in another order where memory is aligned otherwise, and an INT8 answer
    then differs by a step.
    """
    found = bundle.read(place)
    everything = golden.load(found)
    variants = [v for v in found.content.variants if v.engine in ("litert", "onnxruntime")]
    for variant in variants:
        recorded = golden.of_variant(everything, variant.name)
        frames, own = recorded["frames"], recorded[variant.name]
        limit = 1e-6 * golden.rmse(own, 0.0)
        if variant.precision == "int8":
            limit = golden.tolerance("int8", own, recorded["torch"])
        for got in replay.answers(place, variant, frames):
            assert golden.rmse(got, in_python(place, variant, frames)) <= limit
            assert golden.rmse(got, own) <= golden.tolerance(variant.precision, own, recorded["torch"])
    return len(variants)


def check_equal(replay: Replay, place: Path) -> None:
    """That a bundle of a tiny net, whose sums are exact, answers bit for bit as in Python.

    Also where steps fail in between: they leave the states as they were.
    """
    (variant,) = bundle.read(place).content.variants
    wanted = in_python(place, variant, FRAMES)
    assert np.isfinite(wanted).all() and np.ptp(wanted) > 0
    for got in replay.answers(place, variant, FRAMES, broken=True):
        np.testing.assert_array_equal(got, wanted)


def test_every_variant_of_a_cpu_bundle_answers_as_in_python(any_build: Replay, step_bundle: Path) -> None:
    assert check_exported(any_build, step_bundle) >= 1


def test_every_variant_of_a_mobile_bundle_answers_as_in_python(
    any_build: Replay, mobile_bundle: Path
) -> None:
    assert check_exported(any_build, mobile_bundle) >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_kept_as_in_python(kind: str, sanitized: Replay, tmp_path: Path) -> None:
    state = StateSpec("s", "t", **KINDS[kind])
    check_equal(sanitized, write_bundle(tmp_path / "b", (state,)))


def test_states_of_every_kind_side_by_side(any_build: Replay, tmp_path: Path) -> None:
    states = [StateSpec(f"s{i}", f"t{i}", **kind) for i, kind in enumerate(KINDS.values())]
    check_equal(any_build, write_bundle(tmp_path / "b", states))


def test_two_states_may_come_of_one_output_and_one_of_the_frames(sanitized: Replay, tmp_path: Path) -> None:
    states = [
        StateSpec("long", "t", (4, 16), update="shift"),
        StateSpec("short", "t", (1, 16)),
        StateSpec("before", "clip", (2, 3, HEIGHT, WIDTH), update="shift"),
    ]
    check_equal(sanitized, write_bundle(tmp_path / "b", states))


def test_an_answer_may_be_a_states_output_too(sanitized: Replay, tmp_path: Path) -> None:
    states = [StateSpec("s", "t", (3, 16), update="shift")]
    check_equal(sanitized, write_bundle(tmp_path / "b", states, extra="t"))


@pytest.mark.parametrize("chunk", [2, 3])
def test_a_step_may_take_several_frames(chunk: int, sanitized: Replay, tmp_path: Path) -> None:
    states = [
        StateSpec("s", "t", (5, 3), update="shift", fresh=2),
        StateSpec("before", "clip", (4, 3, HEIGHT, WIDTH), update="shift", fresh=chunk),
    ]
    place = write_bundle(tmp_path / "b", states, chunk=chunk)
    (variant,) = bundle.read(place).content.variants
    got, wanted = sanitized.answers(place, variant, FRAMES), in_python(place, variant, FRAMES)
    np.testing.assert_array_equal(got[0][chunk - 1 :], wanted[chunk - 1 :])
    assert not got[0][: chunk - 1].any()


@pytest.mark.parametrize("frames", [1, 4])
def test_a_clip_model_sees_the_last_frames(frames: int, sanitized: Replay, tmp_path: Path) -> None:
    check_equal(sanitized, write_bundle(tmp_path / "b", frames=frames))


@pytest.mark.parametrize("colour", ["bgr", "grey"])
def test_colours_are_ordered_as_the_model_was_trained(colour: str, sanitized: Replay, tmp_path: Path) -> None:
    check_equal(sanitized, write_bundle(tmp_path / "b", colour=colour))


def test_a_tracker_bears_its_particles_as_in_python(sanitized: Replay, tmp_path: Path) -> None:
    place = write_tracker(tmp_path / "b")
    (variant,) = bundle.read(place).content.variants
    frames = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8), (5, 5), 0)
    clip = np.stack([np.roll(frames, 3 * t, 1) for t in range(12)])
    lane = Lane(open_engine(variant, place), variant)
    wanted = np.stack([lane.step(frame)[0]["tracks"].ravel() for frame in clip])
    assert len(np.unique(wanted[:, 2::3].sum(1))) > 1, "particles should begin and end"
    for got in sanitized.answers(place, variant, clip):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_sessions_of_one_model_do_not_disturb_each_other(
    engine: str, tmp_path_factory: pytest.TempPathFactory, step_bundle: Path, mobile_bundle: Path
) -> None:
    threads = build("sanitized", tmp_path_factory, program="engine_threads.c")
    done = threads.call({"litert": mobile_bundle, "onnxruntime": step_bundle}[engine], library(engine))
    assert done.returncode == 0, done.stderr


def test_what_the_manifest_says_is_told(sanitized: Replay, tmp_path: Path) -> None:
    place = write_bundle(tmp_path / "b", (StateSpec("s", "t", (1, 2)),))
    said = sanitized.open(place, "-", library("onnxruntime"))
    assert said.returncode == 0 and not said.stderr
    assert said.stdout.splitlines() == [
        f"name tiny variant onnxruntime-fp32 task classification digest {bundle.read(place).digest}",
        "labels 3 outputs 1 states 1 warmup 2 chunk 1 delay 0 size 3x4x6 fps 10/1",
        "label left",
        "label right",
        "label häuschen",
    ]


def test_numbers_have_a_point_whatever_the_users_locale_has(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A mean of 0.485 read with a decimal comma would be 0."""
    source = tmp_path / "locale.c"
    source.write_text(
        "#include <locale.h>\n__attribute__((constructor)) static void set(void)"
        ' { setlocale(LC_ALL, ""); setlocale(LC_NUMERIC, "de_DE.UTF-8"); }\n'
    )
    replay = build("gcc", tmp_path_factory, [source])
    check_equal(replay, write_bundle(tmp_path / "b"))


def faults_of_ours(log: str) -> list[str]:
    """Errors and losses that valgrind found in a file of ours: what engines do inside is theirs."""
    found = []
    for block in re.sub(r"(?m)^==\d+== ?", "", log).split("\n\n"):
        frames = [line for line in block.splitlines() if re.match(r"\s+(at|by) 0x", line)]
        inner = next((line for line in frames if "valgrind" not in line and "vg_replace" not in line), "")
        if any(f"({path.name}:" in inner for path in SOURCES) and "still reachable" not in block:
            found.append(block)
    return found


def test_a_fault_of_ours_is_told_from_one_of_an_engine() -> None:
    ours = "Invalid read\n   at 0x1: memcpy (vg_replace_strmem.c:9)\n   by 0x2: run (session.c:3)\n\n"
    theirs = "Invalid read\n   at 0x1: ??? (in /x/libLiteRt.so)\n   by 0x2: run (litert.c:3)\n\n"
    assert len(faults_of_ours(ours + theirs)) == 1 and not faults_of_ours(theirs)


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_valgrind_finds_no_error_and_no_loss_of_ours(
    engine: str,
    step_bundle: Path,
    mobile_bundle: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if not shutil.which("valgrind"):
        pytest.skip("valgrind is not installed")
    log = tmp_path / "log"
    program = build("gcc", tmp_path_factory).program
    replay = Replay(program, ("valgrind", "--leak-check=full", f"--log-file={log}"))
    place = mobile_bundle if engine == "litert" else step_bundle
    found = bundle.read(place)
    variant = next(v for v in found.content.variants if v.engine == engine)
    frames = golden.of_variant(golden.load(found), variant.name)["frames"][:3]
    replay.answers(place, variant, frames)
    assert "ERROR SUMMARY" in log.read_text()
    assert faults_of_ours(log.read_text()) == []


@pytest.mark.parametrize("name", ["aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc"])
def test_it_compiles_for_arm(name: str, tmp_path: Path) -> None:
    """Objects only: no libsodium for Arm is asked for. Its headers are the same for all machines."""
    compiler, headers = shutil.which(name), Path("/usr/include")
    if not compiler or not (headers / "sodium.h").exists():
        pytest.skip(f"{name} or libsodium-dev is not installed")
    for header in ("sodium.h", "sodium"):
        (tmp_path / header).symlink_to(headers / header)
    options = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-O2", f"-I{CORE}")
    for source in SOURCES:
        command = [compiler, *options, f"-isystem{tmp_path}", "-c", str(source), "-o", str(tmp_path / "o")]
        assert subprocess.run(command, check=False).returncode == 0, source.name


def test_the_program_of_the_page_compiles(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "firmware-engine.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"(?s)```c\n(.*?)```", page)
    (tmp_path / "page.c").write_text(program)
    GCC.build(tmp_path / "page.o", [tmp_path / "page.c"], "-c", "-D_POSIX_C_SOURCE=200809L")


def test_cmake_builds_installs_and_is_found(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not shutil.which("cmake") or not shutil.which("pkg-config"):
        pytest.skip("cmake or pkg-config is not installed")
    build("gcc", tmp_path_factory)  # skips where libsodium is not installed
    made, place, user = tmp_path / "made", tmp_path / "place", tmp_path / "user"
    user.mkdir()
    (user / "main.c").write_text(
        '#include "edgepv_engine.h"\nint main(void) { return edgepv_abi() != EDGEPV_ABI; }\n'
    )
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(user C)\nfind_package(edgepv-engine REQUIRED)\n"
        "add_executable(user main.c)\ntarget_link_libraries(user edgepv::edgepv-engine)\n"
    )
    for words in (
        ("-S", ENGINE, "-B", made, f"-DCMAKE_INSTALL_PREFIX={place}"),
        ("--build", made),
        ("--install", made),
        ("-S", user, "-B", user / "made", f"-DCMAKE_PREFIX_PATH={place}"),
        ("--build", user / "made"),
    ):
        done = subprocess.run(["cmake", *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run([str(user / "made" / "user")], check=False).returncode == 0
    (shared,) = place.rglob("libedgepv-engine.so.1")
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", str(shared)], capture_output=True, text=True, check=True
    )
    named = {line.split()[2].split("@")[0] for line in symbols.stdout.splitlines() if " T " in line}
    listed = (ENGINE / "edgepv-engine.map").read_text().split("global:")[1].split("local:")[0]
    headers = "".join((CORE / name).read_text() for name in ("edgepv.h", "edgepv_engine.h"))
    assert named == set(listed.replace(";", "").split())
    assert named == set(re.findall(r"(edgepv_\w+)\(", re.sub(r"(?s)/\*.*?\*/", "", headers)))
