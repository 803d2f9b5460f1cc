"""``edgepv completion bash`` prints a script; a real bash completes with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import Run

ASK = """
source "$1"; shift
COMP_WORDS=(edgepv "$@"); COMP_CWORD=$#
_shtab_edgepv
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(run: Run, tmp_path: Path) -> Path:
    code, out, err = run("completion", "bash")
    assert code == 0 and err == ""  # a shell that starts evaluates it, so it adds no line of news
    path = tmp_path / "edgepv.bash"
    path.write_text(out)
    return path


def _bash(*arguments: object, cwd: Path) -> list[str]:
    done = subprocess.run(
        ["bash", "--norc", "-c", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def _offered(script: Path, *words: str) -> list[str]:
    return _bash(ASK, "bash", script, *words, cwd=script.parent)


def test_bash_asks_the_script_about_edgepv(script: Path) -> None:
    assert _bash('source "$1"; complete -p edgepv', "bash", script, cwd=script.parent)[-1] == "edgepv"


def test_commands_and_options_are_offered(script: Path) -> None:
    assert _offered(script, "ex") == ["export", "explain"]
    assert _offered(script, "export", "--ta") == ["--target"]
    assert _offered(script, "stream", "--pool", "r") == ["running"]


def test_paths_are_offered_where_a_path_belongs(script: Path) -> None:
    (script.parent / "made").mkdir()
    (script.parent / "made.zip").touch()
    assert sorted(_offered(script, "verify", "ma")) == ["made", "made.zip"]
    assert _offered(script, "export", "--out", "ma") == ["made"]
    assert _offered(script, "export", "--every", "ma") == []


def test_zsh_gets_a_script_of_its_own(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("completion", "zsh")
    assert code == 0 and out.startswith("#compdef edgepv") and "--target" in out
    if shutil.which("zsh"):
        (tmp_path / "_edgepv").write_text(out)
        subprocess.run(["zsh", "-n", str(tmp_path / "_edgepv")], check=True)


def test_another_shell_is_refused(run: Run) -> None:
    code, _, err = run("completion", "csh")
    assert code == 2 and "invalid choice: 'csh'" in err
