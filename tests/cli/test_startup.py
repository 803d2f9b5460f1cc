"""``edgepv --help`` answers at once: from a table, which says what the commands say of themselves."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from edgepv.cli import app

WHOLE = functools.cache(app.parser)
"""The parser with every command, made once for all tests here."""
NAMES = [name for helps in app.COMMANDS.values() for name in helps]


def test_the_tables_helps_are_the_commands_own() -> None:
    assert app.parser("").format_help() == app.parser().format_help()


@pytest.mark.parametrize("name", NAMES)
def test_an_asked_command_is_whole(name: str) -> None:
    def of(top: object) -> str:
        sub = next(a for a in top._actions if getattr(a, "choices", None))  # type: ignore[attr-defined]
        return str(sub.choices[name].format_help())

    asked = of(app.parser(name))
    assert asked == of(WHOLE())
    assert "show this help message" in asked


def test_every_function_that_adds_commands_is_in_the_table() -> None:
    written = [
        f"edgepv.cli.{path.stem}:{line.removeprefix('def ').partition('(')[0]}"
        for path in (ROOT / "edgepv" / "cli").glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def add_")
    ]
    assert sorted(written) == sorted(app.COMMANDS)


def _imported(*argv: str) -> set[str]:
    """Modules that a command imports, beside those that Python itself and an editable install do."""
    code = (
        "import sys; from edgepv.cli import main\n"
        f"try: main({list(argv)!r})\n"
        "except SystemExit: pass\n"
        "print('MODULES', *sys.modules)"
    )
    return _modules(code) - _modules("import sys; print('MODULES', *sys.modules)")


def _modules(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_help_imports_no_command_and_nothing_heavy() -> None:
    modules = _imported("--help")
    ours = {m for m in modules if m.startswith("edgepv")}
    assert {m for m in ours if m.startswith("edgepv.cli.")} == {"edgepv.cli.app", "edgepv.cli.arguments"}
    assert "edgepv.types" not in ours
    assert not modules & {"dataclasses", "difflib", "inspect", "logging", "pathlib", "torch", "numpy", "rich"}


def test_a_command_imports_its_own_file_alone() -> None:
    ours = {m for m in _imported("verify", "--help") if m.startswith("edgepv.cli.")}
    assert ours == {"edgepv.cli.app", "edgepv.cli.arguments", "edgepv.cli.bundles"}


def test_the_options_of_every_step_are_told_without_numpy_or_what_makes_firmware() -> None:
    modules = _imported("export", "--help")
    assert "edgepv.quantize.fold" in modules and "edgepv.types.spec" in modules
    assert not modules & {"numpy", "pickle", "tomllib", "logging", "torch", "onnx"}
    unneeded = (
        "edgepv.bundle",
        "edgepv.export",
        "edgepv.firmware",
        "edgepv.metrics",
        "edgepv.types.measured",
    )
    assert [m for m in modules if m.startswith(unneeded)] == []


def test_a_wrong_command_is_held_against_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["exprt"]) == 2
    said = capsys.readouterr().err
    assert "invalid choice: 'exprt'" in said and all(f"'{name}'" in said for name in NAMES)


HELP_STARTS = 8
"""Bare starts of Python that ``edgepv --help`` may cost in CPU time: about twice what it does, since the two
may meet another load; with one library like numpy in it, it costs more than these."""


def _cpu_s(*command: str) -> float:
    """CPU time of a process."""
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=silent)
    _, status, used = os.wait4(process, 0)
    assert status == 0
    return used.ru_utime + used.ru_stime


def test_help_costs_a_few_starts_of_python() -> None:
    """In turns, and the least of each: other programs on this machine only add to it."""
    turns = [
        (_cpu_s(sys.executable, "-c", ""), _cpu_s(str(Path(sys.executable).with_name("edgepv")), "--help"))
        for _ in range(5)
    ]
    python, edgepv = map(min, zip(*turns))
    assert edgepv < HELP_STARTS * python
