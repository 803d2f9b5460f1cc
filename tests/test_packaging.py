"""The wheel holds edgepv and nothing else; the rooms import in one direction; no trace of this machine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import tomllib
from support import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """File names in the wheel, built from the tracked files alone."""
    import shutil

    source = tmp_path_factory.mktemp("source")
    for path in _tracked():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(path.readlink())
        elif path.is_file():
            shutil.copyfile(path, target)
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return archive.namelist()


@pytest.mark.slow
def test_the_wheel_holds_edgepv_and_nothing_else(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"edgepv"}


@pytest.mark.slow
def test_every_module_of_the_rooms_is_in_the_wheel(wheel: list[str]) -> None:
    rooms = {
        "edgepv": "edgepv",
        "export": "edgepv/export",
        "quantize": "edgepv/quantize",
        "runtimes": "edgepv/runtimes",
    }
    missing = []
    for path in _tracked():
        parts = path.relative_to(ROOT).parts
        if parts[0] in rooms and not path.is_symlink():
            name = "/".join([rooms[parts[0]], *parts[1:]])
            missing += [name] if name not in wheel else []
    assert missing == [] and "edgepv/importers/kinetics400.txt" in wheel


def test_every_package_is_listed() -> None:
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    inside = ROOT / "edgepv"
    files = [*inside.glob("*/__init__.py"), *inside.glob("*/*/__init__.py")]
    found = {"edgepv"} | {".".join(("edgepv", *p.parent.relative_to(inside).parts)) for p in files}
    assert listed == found


def test_the_versions_of_python_that_are_declared_are_those_of_readme_and_makefile() -> None:
    named = "Programming Language :: Python :: 3."
    minors = [c.removeprefix(named) for c in PYPROJECT["project"]["classifiers"] if c.startswith(named)]
    device, oldest, newest = minors[0], minors[1], minors[-1]  # a device may be older than what packs for it
    first = ", ".join(f"3.{minor}" for minor in minors[1:-1])
    assert f"Python {first} or 3.{newest} " in (ROOT / "README.md").read_text()
    assert f"(3, {oldest}) <= sys.version_info[:2] <= (3, {newest})" in (ROOT / "Makefile").read_text()
    assert PYPROJECT["project"]["requires-python"] == f">=3.{device}"


def test_the_package_is_a_program_too() -> None:
    asked = [sys.executable, "-m", "edgepv", "export", "--target", "toaster"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("edgepv: unknown target 'toaster'")


def test_the_core_and_the_device_extras_stay_free_of_torch() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    device = [*project["dependencies"], *extras["cpu"], *extras["mobile"], *extras["jetson"]]
    heavy = ("torch", "nncf", "litert-torch", "onnx=", "jax")
    assert not [d for d in device if d.startswith(heavy)]
    assert "torch==2.13.*" in extras["compress"]


def test_imports_go_down_only() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_rooms_are_linked_into_the_package() -> None:
    for room in ("export", "quantize", "runtimes"):
        assert (ROOT / "edgepv" / room).readlink() == Path("..") / room


def test_shipped_data_stays_small() -> None:
    zoo = ROOT / "edgepv" / "zoo"
    weights = [p.read_bytes() for p in zoo.glob("weights/*.safetensors")]
    assert sum(len(zlib.compress(w)) for w in weights) < 19e6  # in a wheel; each pv-c3d is 7 MB of it
    assert sum(map(len, weights)) < 21e6
    assert sum(p.stat().st_size for p in zoo.rglob("*.mp4")) < 4.5e6


def test_no_file_speaks_of_this_machine() -> None:
    words = ["/" + "work/", "/" + "root/", "pypi" + ".org", "files.python" + "hosted"]
    found = []
    for path in _tracked():
        if path.is_symlink() or path.suffix in {".mp4", ".png", ".safetensors"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words if word in text]
    assert found == []
