"""The rooms keep their promises: a sentence in CONTRIBUTING, a face that is whole, tests of their own."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import PAGE, ROOT, TABLE, Room, rooms, table

ROOMS = rooms()
TESTED_ELSEWHERE: dict[str, str] = {"targets": "each is a few lines of data; tests/export packs for all"}

OF_NO_ROOM = {"hardware"}
"""Tests that need a device walk through several rooms."""


def test_the_table_of_contributing_is_what_the_rooms_say() -> None:
    found = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found and found[0] == table(), "write it anew: python tests/rooms.py"


def test_every_file_that_contributing_names_is_there() -> None:
    places = ("edgepv", "export", "quantize", "runtimes", "benchmarks", "tests")
    there = [f"/{p.relative_to(ROOT)}" for place in places for p in (ROOT / place).rglob("*.py")]
    named = re.findall(r"`([\w/]+\.py)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 30
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in there)] == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_rooms_all_is_its_face_or_its_files(room: Room) -> None:
    assert room.names is not None, f"{room.name} has no __all__"
    assert len(set(room.names)) == len(room.names)
    if room.has_face:
        module = importlib.import_module(room.name)
        assert [name for name in room.names if not hasattr(module, name)] == []
        assert sorted(_asked_of(room) - set(room.names)) == []
    else:
        assert sorted(room.names) == room.files


def _asked_of(room: Room) -> set[str]:
    """What the other rooms import from this one's face."""
    own = room.folder.resolve()
    outside = [(name, path) for name, path in _IMPORTED.get(room.name, ()) if own not in path.parents]
    return {name for name, _ in outside} - set(room.files)


def _imports() -> Iterator[tuple[str, str, Path]]:
    """(module, name, file) of every ``from module import name`` in the package."""
    for folder in ("edgepv", "export", "quantize", "runtimes"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    yield from ((node.module, alias.name, path.resolve()) for alias in node.names)


_IMPORTED: dict[str, list[tuple[str, Path]]] = {}
for _module, _name, _path in _imports():
    _IMPORTED.setdefault(_module, []).append((_name, _path))


def test_every_room_has_tests_of_its_own() -> None:
    tops = {room.name.split(".")[1] for room in ROOMS} - set(TESTED_ELSEWHERE)
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests).parts[0] for path in tests.glob("*/**/test_*.py")}
    assert folders - OF_NO_ROOM == tops
