"""kit.pyz itself, on the oldest Python that it promises; TensorRT and CUDA are LABELLED FAKES."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import vermin
from support import ROOT

from edgepv.base.files import sha256
from edgepv.export.tensorrt.kit import KIT, write_kit
from edgepv.runtimes.trt import bundle

OLDEST = (3, 8)
FAKE = Path(__file__).parent / "fake"
Done = subprocess.CompletedProcess[str]
BROUGHT = {"numpy", "tensorrt", "cv2", "jtop"}
"""What the kit imports that is neither Python's nor its own: numpy, and what a JetPack may have."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kit") / KIT
    write_kit(path)
    return path


def test_equal_code_is_an_equal_file(kit: Path, tmp_path: Path) -> None:
    write_kit(tmp_path / KIT)
    assert sha256(tmp_path / KIT) == sha256(kit)


def test_it_holds_the_projects_own_files_and_needs_no_others(kit: Path) -> None:
    root = Path(bundle.__file__).parents[2]
    with zipfile.ZipFile(kit) as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    code = {name for name in texts if not name.endswith("__init__.py") and name != "__main__.py"}
    assert {"edgepv/errors.py", "edgepv/runtimes/trt/kit.py", "edgepv/targets/jetson.json"} <= code
    assert all(texts[name] == (root.parent / name).read_bytes() for name in code), "no file is a fork"
    for name in texts:
        code_of = texts[name] if name.endswith(".py") else b""
        for node in ast.walk(ast.parse(code_of, name, feature_version=OLDEST)):
            asked = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            asked += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for module in asked:
                top, place = module.split(".")[0], module.replace(".", "/")
                inside = f"{place}.py" in texts or f"{place}/__init__.py" in texts
                assert inside or top in sys.stdlib_module_names | BROUGHT, f"{name} imports {module}"


def test_its_code_needs_no_newer_python(kit: Path) -> None:
    """Calls of a newer standard library, which syntax does not tell."""
    config = vermin.Config()
    with zipfile.ZipFile(kit) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert {"edgepv/base/vet.py", "edgepv/runtimes/trt/builder.py"} <= set(texts)
    for name, text in texts.items():
        newest = max((v for v in vermin.visit(text, config).minimum_versions() if v), default=OLDEST)
        assert newest <= OLDEST, name


def python_38() -> str | None:
    """A Python 3.8 that runs: pyenv's name on the PATH may be one that it has not."""
    for path in (shutil.which("python3.8"), *Path.home().glob(".pyenv/versions/3.8*/bin/python")):
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(Python 3.8, folder with a numpy for it or "")."""
    python = python_38()
    if python is None:
        pytest.skip("no Python 3.8 is here: the kit was compiled for it, and not run by it")
    if subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False).returncode == 0:
        return python, ""
    folder = tmp_path_factory.mktemp("numpy")
    order = [python, "-m", "pip", "install", "-q", "--target", str(folder), "numpy<1.25"]
    if subprocess.run(order, capture_output=True, check=False, timeout=300).returncode:
        pytest.skip("Python 3.8 is here without numpy, and pip cannot fetch one")
    return python, str(folder)


def called(
    python: str, paths: list[str], *arguments: str, cache: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "EDGEPV_CACHE": str(cache),
        "FAKE_PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        **more,
    }
    return subprocess.run([python, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_without_a_gpu_it_says_so_in_one_line(kit: Path, jetson_bundle: Path, tmp_path: Path) -> None:
    """No fake here: this is what the machine of the tests is, unless it has a GPU."""
    if Path("/dev/nvidia0").exists() or Path("/etc/nv_tegra_release").exists():
        pytest.skip("this machine may have a GPU")
    for command in (["build"], ["run", "-"]):
        got = called(sys.executable, [], str(kit), *command, "--bundle", str(jetson_bundle), cache=tmp_path)
        assert got.returncode == 7 and got.stderr.count("\n") == 1
        assert got.stderr.startswith("kit.pyz: no GPU for TensorRT on this machine: no libcuda.so.1")
        shown = " ".join((ROOT / "docs" / "jetson-kit.md").read_text(encoding="utf-8").split())
        assert " ".join(got.stderr.split()) in shown, "the page shows what is said"


@pytest.mark.slow
def test_python_38_builds_proves_and_runs_a_bundle(
    old_python: tuple[str, str], jetson_bundle: Path, tmp_path: Path
) -> None:
    python, numpy_for_it = old_python
    kit = str(next(jetson_bundle.rglob(KIT)))  # as it lies in the bundle, which it finds by itself
    paths = [str(FAKE), numpy_for_it]
    got = called(python, paths, kit, "build", "--calls", "2", cache=tmp_path, FAKE_TENSORRT="8.5.2")
    assert got.returncode == 0, got.stderr
    assert "software: JetPack not known, TensorRT 8.5.2, Python 3.8" in got.stdout
    assert got.stdout.splitlines()[-1].startswith("kept: tensorrt-")
    assert got.stdout.count("self-tested") == got.stdout.count("benchmarked") == 2
    clip = tmp_path / "clip.npy"
    frames = bundle.Bundle(jetson_bundle).recorded(bundle.Bundle(jetson_bundle).models[0])["frames"]
    np.save(clip, frames)
    got = called(python, paths, kit, "run", str(clip), cache=tmp_path, FAKE_TENSORRT="8.5.2")
    assert got.returncode == 0 and got.stdout.count('"label"') == len(frames), got.stderr
    got = called(python, paths, kit, "verify", cache=tmp_path, FAKE_TENSORRT="8.6.2")
    assert (got.returncode, got.stderr.count("\n")) == (2, 1), "another TensorRT has no engine here"
