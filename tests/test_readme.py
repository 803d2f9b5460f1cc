"""README commands are run, in order, as a reader would paste them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
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
)
MAKE = ("make demo", "make test", "pip install", "git clone", "cd ")


def commands(page: Path = README) -> list[str]:
    """Every command line of the sh blocks, but those that set up what runs this test."""
    lines = [
        line.split("  #")[0].strip()
        for block in BLOCK.findall(page.read_text())
        for line in block.splitlines()
    ]
    return [line for line in lines if line and not line.startswith(("#", *MAKE))]


def test_the_readme_names_the_two_commands() -> None:
    text = README.read_text()
    assert "make demo" in text and "make test" in text and len(commands()) >= 6


def pasted(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command as a reader runs it, in ``folder``."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_readme_commands_run_as_written(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in commands():
        done = pasted(command, tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


def test_the_search_of_the_docs_runs_as_written_and_cannot_tell(tmp_path: Path) -> None:
    (command,) = commands(ROOT / "docs" / "compress.md")
    done = pasted(command, tmp_path)
    assert done.returncode == 6, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
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


@pytest.mark.parametrize("command", COMMANDS)
def test_docs_name_only_flags_that_exist(command: str) -> None:
    """Every --flag that a docs line, or the lines that continue it, give to a command is in its --help."""
    from edgepv.cli import parser

    texts = [p.read_text() for p in (README, *ROOT.glob("docs/*.md"))]
    sub = next(a for a in parser()._actions if hasattr(a, "choices") and a.choices)
    assert sub.choices
    known = sub.choices[command].format_help()  # type: ignore[index]
    for text in texts:
        for line in re.findall(rf"^\s*edgepv {command}\b.*$", text.replace("\\\n", ""), re.MULTILINE):
            for flag in re.findall(r"(?<![\w-])(--[a-z-]+)", line):
                assert flag in known, line
