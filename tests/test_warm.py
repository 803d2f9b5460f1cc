"""The ``edgepv`` of tests that run many commands: a fork is a command in all that a shell sees of it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shim() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, warm.commands(Path(folder)) as text:
        script = Path(folder) / "edgepv"
        script.write_text(text)
        script.chmod(0o755)
        yield script


def test_a_command_has_its_folder_its_outputs_and_its_exit_code(shim: Path, tmp_path: Path) -> None:
    made = subprocess.run(
        [shim, "keygen", "k.pem"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0 and made.stdout.startswith("private: k.pem")
    assert (tmp_path / "k.pem").is_file()
    wrong = subprocess.run([shim, "verify", "no"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "") and wrong.stderr.startswith(
        "edgepv: no does not exist"
    )


def test_a_command_has_the_environment_of_who_starts_it(shim: Path, tmp_path: Path) -> None:
    env = {**os.environ, "EDGEPV_CC": "/no/such/compiler"}
    told = subprocess.run([shim, "doctor"], env=env, capture_output=True, text=True, check=True).stdout
    assert "/no/such/compiler" in told


def test_two_commands_at_once_are_two(shim: Path) -> None:
    both = subprocess.run(f"{shim} targets | {shim} bogus", shell=True, capture_output=True, check=False)
    assert both.returncode == 2
