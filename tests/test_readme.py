"""README commands are run, in order, as a reader would paste them."""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm
from support import ROOT

README = ROOT / "README.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = (
    "export",
    "run",
    "report",
    "verify",
    "inspect",
    "stream",
    "bench",
    "ladder",
    "keygen",
    "sign",
    "update",
    "finetune",
    "explain",
    "firmware",
    "import",
)
ACTIVATE = ". .venv/bin/activate"
MAKE = ("make demo", "make test", "make check", ACTIVATE, "pip install", "git clone", "cd ")


def commands(page: Path = README) -> list[str]:
    """Every command line of the sh blocks, but those that set up what runs this test."""
    lines = [
        line.split("  #")[0].strip()
        for block in BLOCK.findall(page.read_text())
        for line in block.splitlines()
    ]
    return [line for line in lines if line and not line.startswith(("#", *MAKE))]


def test_the_readme_names_the_three_commands() -> None:
    text = README.read_text()
    assert all(f"make {name}" in text for name in ("demo", "test", "check")) and len(commands()) >= 6


def test_make_demo_ends_with_the_line_that_puts_edgepv_on_the_path() -> None:
    assert README.read_text().count(ACTIVATE) == 1
    assert made("-n", "demo").stdout.splitlines()[-1].endswith(f'{ACTIVATE}"')


def test_make_takes_a_python_that_fits_and_can_make_an_environment(tmp_path: Path) -> None:
    name = f"python3.{sys.version_info.minor}"
    (tmp_path / name).symlink_to(sys.executable)
    planned = made("-n", "install", f"VENV={tmp_path / 'venv'}", PATH=str(tmp_path))
    assert f"\n{name} -m venv {tmp_path / 'venv'}\n" in planned.stdout


def test_make_says_in_one_line_that_no_python_fits(tmp_path: Path) -> None:
    refused = made("install", f"VENV={tmp_path / 'venv'}", PATH=str(tmp_path))
    assert refused.returncode == 2 and refused.stdout.startswith("no Python 3.11, 3.12 or 3.13 ")
    assert refused.stdout.count("\n") == 1 and not (tmp_path / "venv").exists()


def test_what_make_starts_may_keep_what_python_compiled() -> None:
    told = made("--eval", "told:\n\t@echo [$$PYTHONDONTWRITEBYTECODE]", "told", PYTHONDONTWRITEBYTECODE="1")
    assert told.stdout == "[]\n", told.stderr


def made(*arguments: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """make in this repository, as one who sets nothing runs it."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    env = {**{k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PYTHON"))}, **chosen}
    return subprocess.run([make, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def shim() -> Iterator[str]:
    """``edgepv`` as it is installed, but each command a fork of one process, and quick: see tests/warm.py.

    How fast, how large and how good a result is, is not what is looked at here.
    """
    with tempfile.TemporaryDirectory() as folder, warm.commands(Path(folder)) as text:
        yield text


def pasted(command: str, folder: Path, shim: str) -> subprocess.CompletedProcess[str]:
    """The command as a reader runs it, in ``folder``."""
    quick = folder / ".bin" / "edgepv"
    quick.parent.mkdir(exist_ok=True)
    quick.write_text(shim)
    quick.chmod(0o755)
    env = {**os.environ, "PATH": f"{quick.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
def test_readme_commands_run_as_written(tmp_path: Path, shim: str) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in commands():
        done = pasted(command, tmp_path, shim)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.slow
def test_the_search_of_the_docs_runs_as_written(tmp_path: Path, shim: str) -> None:
    (command,) = commands(ROOT / "docs" / "compress.md")
    done = pasted(command, tmp_path, shim)
    (verdict,) = re.findall(r"^on the final clips it loses .*: ([a-z ]+)", done.stdout, re.MULTILINE)
    assert done.returncode == {"pass": 0, "inconclusive": 6}[verdict], f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / "fight-search" / "pareto.svg").is_file() and "winner: " in done.stdout


def examples() -> list[str]:
    """The Python examples of docs/live.md."""
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "live.md").read_text(), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("example", examples(), ids=["runner", "session"])
def test_python_examples_run_as_written_without_torch(
    example: str, step_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "fight-alarm").symlink_to(step_bundle)
    check = "import sys\nassert 'torch' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", example + check], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and ("fight" in done.stdout), done.stderr


@pytest.mark.parametrize("page", sorted([README, *ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md"]), ids=str)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@functools.cache
def helps() -> dict[str, str]:
    """The help of every command."""
    from edgepv.cli.app import parser

    sub = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {name: one.format_help() for name, one in sub.choices.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_docs_name_only_flags_that_exist(command: str) -> None:
    """Every --flag that a docs line, or the lines that continue it, give to a command is in its --help."""
    texts = [p.read_text() for p in (README, *ROOT.glob("docs/*.md"))]
    known = helps()[command]
    for text in texts:
        for line in re.findall(rf"^\s*edgepv {command}\b.*$", text.replace("\\\n", ""), re.MULTILINE):
            for flag in re.findall(r"(?<![\w-])(--[a-z-]+)", line):
                assert flag in known, line
