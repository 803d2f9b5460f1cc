"""What installed packages bring by entry points, and what is said of those that are broken or in the way."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import Run

from edgepv.base import registry
from edgepv.base.engines import ENGINES
from edgepv.base.registry import Registry, resolve
from edgepv.base.tasks import TASKS
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.model.spec import check_spec
from edgepv.types import ModelSpec, TensorSpec, Variant

BOARD = """
from edgepv.types import Target
TARGET = Target("{name}", "a board", ("fp32",), (), "{module}:build", {{}})
"""
Install = Callable[[str, str, str, str], str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package on the path: its name, the group and name of its entry point, the code of its module."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules: list[str] = []

    def made(package: str, group: str, name: str, code: str) -> str:
        module = package.replace("-", "_")
        modules.append(module)
        info = tmp_path / f"{module}-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:TARGET\n")
        (tmp_path / f"{module}.py").write_text(code)
        registry._installed.cache_clear()
        return module

    yield made
    registry._installed.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


def test_a_package_that_cannot_be_imported_is_a_line_and_the_others_work(install: Install, run: Run) -> None:
    install("torn-board", "edgepv.targets", "torn", "import a_library_that_is_not_there")
    line = (
        "edgepv: the target 'torn' of torn-board 0.3 cannot be loaded: ModuleNotFoundError: "
        "No module named 'a_library_that_is_not_there'. Update or remove it\n"
    )
    code, out, err = run("targets", "--json")
    assert code == 0 and err == line
    assert [row["name"] for row in json.loads(out)] == ["cpu", "firmware", "jetson", "mobile", "null"]
    assert run("export", "--target", "torn", "--dry-run") == (7, "", line)
    assert run("export", "--target", "null", "--precision", "fp32", "--dry-run")[0] == 0
    code, out, err = run("doctor", "--json")
    assert code == 0 and json.loads(out)["broken"] == [line.removeprefix("edgepv: ").strip()]


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "def (", "TARGET = 'no target'", ""])
def test_whatever_a_package_does_when_it_is_loaded_names_it(install: Install, code: str) -> None:
    from edgepv.targets import target

    install("odd-board", "edgepv.targets", "odd", code)
    with pytest.raises(TargetUnavailableError, match=r"the target 'odd' of odd-board 0\.3 cannot be"):
        target("odd")


def test_two_packages_of_one_name_are_both_named_and_only_that_name_is_lost(install: Install) -> None:
    from edgepv.targets import TARGETS, target

    install("one-board", "edgepv.targets", "board", BOARD.format(name="board", module="one_board"))
    assert target("board").builder == "one_board:build"
    install("other-board", "edgepv.targets", "board", BOARD.format(name="board", module="other_board"))
    install("own-cpu", "edgepv.targets", "cpu", BOARD.format(name="cpu", module="own_cpu"))
    with pytest.raises(UsageError, match="offered by o[a-z]*-board 0.3 and by o[a-z]*-board 0.3. Remove one"):
        target("board")
    with pytest.raises(UsageError, match=r"the target 'cpu' is offered by edgepv and by own-cpu 0\.3"):
        target("cpu")
    found, faults = TARGETS.every()
    assert sorted(found) == ["firmware", "jetson", "mobile", "null"] and len(faults) == 2


def test_a_target_has_one_name(install: Install) -> None:
    from edgepv.targets import target

    install("a-board", "edgepv.targets", "board", BOARD.format(name="bored", module="a_board"))
    with pytest.raises(UsageError, match="the target 'board' calls itself 'bored'"):
        target("board")


def test_a_target_whose_builder_is_missing_is_refused_before_work_begins(install: Install, run: Run) -> None:
    install("half-board", "edgepv.targets", "half", BOARD.format(name="half", module="not_there"))
    code, _, err = run("export", "--target", "half", "--dry-run")
    assert code == 7
    assert err == (
        "edgepv: not_there cannot be loaded: ModuleNotFoundError: No module named 'not_there'. "
        "Update or remove it\n"
    )


def test_a_name_imports_nothing_before_it_is_asked_for(install: Install) -> None:
    from edgepv.targets import TARGETS

    module = install("late-board", "edgepv.targets", "late", BOARD.format(name="late", module="x"))
    assert "late" in TARGETS.names() and module not in sys.modules
    TARGETS.find("late")
    assert module in sys.modules


def test_an_engine_of_a_package_may_have_ours_run_its_files_where_they_are_packed(install: Install) -> None:
    from edgepv.base.engines import files_of
    from edgepv.runtimes.engine import on_this_host

    code = "from edgepv.types import EngineSpec\n"
    code += "TARGET = EngineSpec('afar:open', stand_in='onnxruntime', beside=('.scales',))"
    install("far-board", "edgepv.engines", "far", code)
    spec = ModelSpec("m", TensorSpec("frame", (1, 3, 8, 8)), ("a", "b"))
    variant = Variant("far-fp32", "far", "fp32", "window", "models/m.onnx", "", spec, None, {}, {})
    assert on_this_host(variant) == replace(variant, engine="onnxruntime")
    assert files_of(variant) == ("models/m.onnx", "models/m.scales")
    assert ENGINES.find("far").audit is None


def test_an_unknown_name_lists_what_is_known_and_the_nearest() -> None:
    letters = Registry("letter", "edgepv.letters", int, {"alpha": 1, "beta": 2})
    assert letters.find("beta") == 2
    with pytest.raises(UsageError, match=r"unknown letter 'bata'\. Known: alpha, beta\. Did you mean 'beta'"):
        letters.find("bata")


def test_a_function_that_is_not_there_is_one_line() -> None:
    with pytest.raises(TargetUnavailableError, match="edgepv.errors:nothing cannot be loaded: AttributeErr"):
        resolve("edgepv.errors:nothing")


def test_what_is_asked_of_classifiers_is_asked_of_every_task_that_classifies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what the task says of itself, not by the name of ours."""
    twice = ModelSpec("wave", TensorSpec("frame", (1, 3, 32, 32)), ("left", "left"), task="gesture")
    for classifies in (True, False):
        gesture = replace(TASKS.find("classification"), classifies=classifies)
        monkeypatch.setitem(TASKS.own, "gesture", gesture)
        refused = pytest.raises(UsageError, match="at least two different names")
        with refused if classifies else contextlib.nullcontext():
            check_spec(twice, "spec.toml")
