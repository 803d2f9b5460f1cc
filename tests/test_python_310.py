"""What runs on a device runs on JetPack 6's Python 3.10: the rooms of a device hold nothing that is newer."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

ROOMS = (
    *(
        "base",
        "bundle",
        "cli",
        "data",
        "device",
        "explain",
        "measure",
        "metrics",
        "model",
        "report",
        "runtimes",
    ),
    *("targets", "types", "export", "quantize", "firmware"),
)
"""Those that a device needs, and those that ``edgepv doctor`` and ``edgepv run`` import by the way."""
NEWER = {
    *(
        "tomllib",
        "Self",
        "NotRequired",
        "Required",
        "Never",
        "LiteralString",
        "assert_never",
        "StrEnum",
        "UTC",
    ),
    *("TaskGroup", "ExceptionGroup", "BaseExceptionGroup", "file_digest", "chdir", "add_note", "batched"),
    *("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_CORRUPT", "walk_up", "override"),
}
"""Names of Python's own library that came after 3.10."""


def files() -> list[Path]:
    inside = [path for room in ROOMS for path in sorted((ROOT / "edgepv" / room).rglob("*.py"))]
    return [*(ROOT / "edgepv").glob("*.py"), *inside]


def newer(tree: ast.AST) -> Iterator[str]:
    """Names that came after 3.10, but for those behind a question for the version or for type checkers."""
    if isinstance(tree, ast.If) and {"version_info", "TYPE_CHECKING"} & {
        getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(tree.test)
    }:
        return
    if isinstance(tree, ast.Attribute) and tree.attr in NEWER:
        yield tree.attr
    if isinstance(tree, ast.ImportFrom) and tree.module in ("typing", "enum", "datetime", "itertools"):
        yield from (alias.name for alias in tree.names if alias.name in NEWER)
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names if alias.name in NEWER)
    for child in ast.iter_child_nodes(tree):
        yield from newer(child)


def test_every_file_is_python_310() -> None:
    assert len(files()) > 150
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))
        assert list(newer(tree)) == [], path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import tomllib", ["tomllib"]),
        ("import sys\nif sys.version_info >= (3, 11):\n import tomllib", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n from typing import Self", []),
        ("import hashlib\nhashlib.file_digest(f, 'sha256')", ["file_digest"]),
    ],
)
def test_a_newer_name_is_found_unless_it_is_asked_for(text: str, found: list[str]) -> None:
    assert list(newer(ast.parse(text))) == found


@pytest.mark.slow
def test_python_310_compiles_them_all_and_shows_its_help(tmp_path: Path) -> None:
    """No package is installed for it: its own syntax, and the command line as far as it needs none."""
    candidates = [shutil.which("python3.10"), *Path.home().glob(".pyenv/versions/3.10*/bin/python")]
    works = [p for p in candidates if p and not subprocess.run([p, "-c", ""], capture_output=True).returncode]
    if not works:
        pytest.skip("no Python 3.10 is here: the rooms of a device were read for it, and not run by it")
    order = [str(works[0]), "-m", "edgepv", "--help"]
    got = subprocess.run(order, capture_output=True, text=True, cwd=ROOT, check=False)
    assert got.returncode == 0, got.stderr
    text = "import sys\nfor name in sys.argv[1:]: compile(open(name, 'rb').read(), name, 'exec')"
    got = subprocess.run([str(works[0]), "-c", text, *map(str, files())], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    assert sys.version_info >= (3, 11), "the tests themselves run on a newer one"
