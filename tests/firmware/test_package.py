"""``edgepv firmware``: a folder that anything compiles, and whose self-test reproduces the golden answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from building import ARM64, ARMV7, CLANG, CORTEX_M7, GCC, Machine
from null_bundle import write_null_bundle
from support import Run, made_once

from edgepv import bundle
from edgepv.bundle import golden
from edgepv.errors import ParityError
from edgepv.firmware import package
from edgepv.firmware.package import Golden, write_firmware

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(step_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The firmware folder of the tiny step model."""
    from edgepv.cli.app import main

    def write(out: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("EDGEPV_CC", raising=False)
            assert main(["firmware", str(step_bundle), "--out", str(out)]) == 0

    return made_once(tmp_path_factory, "firmware", write)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "fw")


def sources(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.c"))


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match[1]


def rmse_of(said: str) -> float:
    return float(found(r"rmse (\S+), limit", said))


def test_the_folder_holds_what_a_firmware_engineer_looks_for(folder: Path) -> None:
    wanted = {"model.c", "model.h", "edgepv.h", "edgepv_model.h", "edgepv_core.c", "golden.c", "golden.h"}
    wanted |= {"CMakeLists.txt", "edgepv.pc.in", "README.md", "sizes.json"}
    assert wanted <= {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("machine", [GCC, CLANG, ARM64, ARMV7, CORTEX_M7], ids=lambda m: m.name)
def test_the_self_test_reproduces_the_golden_answers(folder: Path, machine: Machine, tmp_path: Path) -> None:
    """Without one warning, by a plain call of the compiler; rmse of float32 sums, far below the limit."""
    program = machine.build(tmp_path / "selftest", sources(folder), f"-I{folder}")
    assert rmse_of(machine.run(program, folder=tmp_path)) < 1e-5


def test_the_self_test_ends_with_5_where_answers_differ(copied: Path, tmp_path: Path) -> None:
    header = copied / "golden.h"
    changed = header.read_text().replace("golden_answers[GOLDEN_FRAMES][GOLDEN_VALUES] = {\n{", "&1", 1)
    header.write_text(changed.replace("&1", "golden_answers[GOLDEN_FRAMES][GOLDEN_VALUES] = {\n{1"))
    program = GCC.build(tmp_path / "selftest", sources(copied), f"-I{copied}")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert rmse_of(done.stdout) > float(found(r"limit (\S+)", done.stdout))


def call(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


USER_C = """
#include <stdio.h>
#include "model.h"
int main(void)
{
    edgepv_info info = {sizeof info, 0};
    edgepv_inform(&SYMBOL, &info);
    puts(info.name);
    return 0;
}
"""
USER_CMAKE = """
cmake_minimum_required(VERSION 3.13)
project(user LANGUAGES C)
find_package(edgepv REQUIRED)
add_executable(user user.c)
target_link_libraries(user PRIVATE edgepv::edgepv)
"""


def test_cmake_builds_tests_and_installs_it_for_find_package_and_pkg_config(
    folder: Path, tmp_path: Path
) -> None:
    for program in ("cmake", "ctest", "pkg-config", "gcc"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    build, there = tmp_path / "build", tmp_path / "there"
    call("cmake", "-S", folder, "-B", build, f"-DCMAKE_INSTALL_PREFIX={there}", "-DCMAKE_INSTALL_LIBDIR=lib")
    call("cmake", "--build", build)
    assert "100% tests passed" in call("ctest", "--test-dir", build)
    call("cmake", "--install", build)

    user = tmp_path / "user"
    user.mkdir()
    symbol = found(r"const edgepv_model (\w+);", (folder / "model.h").read_text())
    (user / "user.c").write_text(USER_C.replace("SYMBOL", symbol))
    (user / "CMakeLists.txt").write_text(USER_CMAKE)
    call("cmake", "-S", user, "-B", user / "build", f"-DCMAKE_PREFIX_PATH={there}")
    call("cmake", "--build", user / "build")
    assert call(user / "build" / "user") == "tiny-step\n"

    flags = call("env", f"PKG_CONFIG_PATH={there}/lib/pkgconfig", "pkg-config", "--static", "--cflags",
                 "--libs", "edgepv").split()  # fmt: skip
    call("gcc", user / "user.c", "-o", user / "plain", *flags)
    assert call(user / "plain") == "tiny-step\n"


def test_large_weights_are_a_file_that_cmake_and_plain_compilers_find(
    step_bundle: Path, tmp_path: Path, run: Run, compiling: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("cmake"):
        pytest.skip("cmake is not installed")
    monkeypatch.setattr(package, "compiler_for", lambda processor: None)  # no size is looked at here
    monkeypatch.setattr("edgepv.firmware.emission.MOST_TEXT_FLOATS", 100)
    folder, build = tmp_path / "fw", tmp_path / "build"
    assert run("firmware", step_bundle, "--out", folder)[0] == 0
    (weights,) = folder.glob("*.weights")
    assert weights.stat().st_size == json.loads((folder / "sizes.json").read_text())["weights_bytes"]
    call("cmake", "-S", folder, "-B", build)
    call("cmake", "--build", build)
    assert rmse_of(call(build / "selftest")) < 1e-5
    plain = found(r"\n    (gcc .*) && ./selftest\n", (folder / "README.md").read_text())
    call("sh", "-c", f"cd {folder} && {plain}")
    assert rmse_of(call(folder / "selftest")) < 1e-5


def test_sizes_are_those_of_the_model(folder: Path, step_bundle: Path) -> None:
    sizes = json.loads((folder / "sizes.json").read_text())
    weights = 4 * (3 * 8 * 9 + 8 + 8 * 2 + 8 + 8 * 8 * 9 + 8 + 8 * 2 + 2)
    assert weights <= sizes["weights_bytes"] < 3 * weights  # padded to whole vectors, and to aligned rows
    ram = sizes["ram"]
    assert ram["arena_lower_bound_bytes"] <= ram["arena_bytes"]
    stream = bundle.read(step_bundle).content.stream
    assert stream and stream.state_bytes <= ram["state_bytes"]
    least = ram["state_bytes"] + ram["arena_bytes"]
    assert all(least < told < least + 100_000 for told in ram["session_bytes"].values())
    assert sizes["selftest_rmse"] < 1e-5
    own = sizes["flash"]["x86-64-v3"] or sizes["flash"]["arm64"]
    assert own["code"] > 1000
    assert own["code"] + own["constants"] + own["data"] > sizes["weights_bytes"]
    readme = (folder / "README.md").read_text()
    assert f"| arena, used within a step | {ram['arena_bytes']} |" in readme


def test_without_a_compiler_sizes_of_code_are_not_measured(
    step_bundle: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, said = run("firmware", step_bundle, "--out", tmp_path / "fw")
    assert code == 0 and "x86-64-v3: not measured" in said and "self-test was not run" in said
    sizes = json.loads((tmp_path / "fw" / "sizes.json").read_text())
    assert set(sizes["flash"].values()) == {None} and sizes["selftest_rmse"] is None
    assert set(sizes["ram"]["session_bytes"].values()) == {None}
    assert "not measured" in (tmp_path / "fw" / "README.md").read_text()


def test_other_answers_than_recorded_are_refused_and_nothing_is_left(
    step_bundle: Path, tmp_path: Path, compiling: None
) -> None:
    opened = bundle.read(step_bundle)
    variant = opened.variant("onnxruntime-fp32")
    recorded = golden.of_variant(golden.load(opened), variant.name)
    wrong = Golden(recorded["frames"], recorded[variant.name] + np.float32(0.01), variant.name, 0.001)
    with pytest.raises(ParityError, match=r"rmse 0\.01, limit 0\.001"):
        write_firmware(tmp_path, variant, opened.checked(variant.path), opened.digest, wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "onnxruntime-int9"], "unknown variant 'onnxruntime-int9'"),
        (["--out", "{taken}"], "already exists"),
        (["--key", "nobody.pem"], "nobody.pem"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(
    step_bundle: Path, tmp_path: Path, run: Run, arguments: list[str], message: str
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    given = [a.format(taken=taken) for a in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "fw")]
    code, _, said = run("firmware", step_bundle, *given)
    assert code in (2, 9) and message in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [taken] and list(taken.iterdir()) == []


def test_equal_bundles_give_equal_folders(step_bundle: Path, folder: Path, tmp_path: Path, run: Run,
                                          compiling: None) -> None:  # fmt: skip
    assert run("firmware", step_bundle, "--out", tmp_path / "fw")[0] == 0
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "fw" / path.name).read_bytes(), path.name


def test_names_of_the_model_are_words_in_the_readme() -> None:
    assert package._plain("a|b <script> `x`\n") == "a_b _script_ _x__"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "holds no float step as ONNX to make C of. Export the model with --target cpu"),
        (["--variant", "null"], "null is models/delays.json, and C is generated of ONNX files only"),
    ],
)
def test_a_bundle_without_a_step_in_onnx_is_refused(
    tmp_path: Path, run: Run, arguments: list[str], message: str
) -> None:
    folder = write_null_bundle(tmp_path / "b")
    code, _, said = run("firmware", folder, "--out", tmp_path / "fw", *arguments)
    assert code == 2 and message in said and not (tmp_path / "fw").exists()
