"""The Dockerfiles: parsed and linted; what a builder is given makes the wheel. No base is pulled."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib
from support import ROOT

FILES = sorted((ROOT / "containers").glob("Dockerfile.*"))
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def _steps(path: Path) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", "", text).splitlines()
    return [(head, rest.strip()) for head, _, rest in (line.partition(" ") for line in lines) if head]


def test_there_is_one_for_cpus_and_one_for_each_jetpack_line() -> None:
    assert [p.suffix[1:] for p in FILES] == ["cpu", "jetpack6", "jetpack7"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.suffix[1:])
def test_a_dockerfile_is_sound(path: Path) -> None:
    steps = _steps(path)
    assert {head for head, _ in steps} <= KNOWN
    bases = [rest.partition("=")[2] for head, rest in steps if head == "ARG"]
    assert len(bases) == 1 and re.fullmatch(r"[\w.]+\.\w+/[\w/-]+:[\w.-]+", bases[0]), (
        "one base, with its tag"
    )
    assert [rest for head, rest in steps if head == "FROM"] == ["${BASE} AS wheel", "${BASE}"]
    for head, rest in steps:
        if head == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
            assert set(re.findall(r"\[([\w,]+)\]", rest)) <= {"cpu,live", "live"}
        if head in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list)
    assert [rest for head, rest in steps if head == "USER"][-1:] == ["edgepv"], "it does not run as root"
    assert {"cpu", "live"} <= set(EXTRAS)


@pytest.mark.slow
def test_what_a_builder_is_given_makes_the_wheel(tmp_path: Path) -> None:
    """By .dockerignore nothing else goes there: neither tests nor what was built or trained here."""
    buildah = shutil.which("buildah")
    if buildah is None:
        pytest.skip("needs buildah")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /src/\n")
    where = ["--storage-driver", "vfs", "--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run")]
    out = ["--isolation", "chroot", "--output", f"type=local,dest={tmp_path / 'out'}"]
    command = [buildah, *where, "build", *out, "-f", str(tmp_path / "Dockerfile"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and re.search("permission|not permitted|user namespace|newuidmap", done.stderr):
        pytest.skip(f"buildah may not build here: {done.stderr.strip().splitlines()[-1][:100]}")
    assert done.returncode == 0, done.stderr
    source = tmp_path / "out" / "src"
    given = {p.name for p in source.iterdir()}
    assert given == {"LICENSE", "README.md", "edgepv", "export", "pyproject.toml", "quantize", "runtimes"}
    assert not list(source.rglob("__pycache__"))
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {"edgepv/targets/jetson.json", "edgepv/export/for_jetson.py", "edgepv/runtimes/lane.py"} <= names
