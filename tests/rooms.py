"""The rooms, read from their files. ``python tests/rooms.py`` writes their table in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
TABLE = re.compile(r"^\| folder \|.*\n\|---\|---\|\n(\|.*\n)*", re.MULTILINE)


@dataclass(frozen=True)
class Room:
    """A package. name: as it is imported, like ``edgepv.runtimes.sinks``."""

    name: str
    folder: Path

    @cached_property
    def _face(self) -> ast.Module:
        return ast.parse((self.folder / "__init__.py").read_text(encoding="utf-8"))

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self._face) or ""

    @property
    def sentence(self) -> str:
        """The first sentence of its docstring, as one line without the full stop."""
        return re.split(r"\.(?:\s|$)", " ".join(self.docstring.split()))[0]

    @property
    def names(self) -> list[str] | None:
        """Its ``__all__``; None without one."""
        for node in self._face.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                return list(ast.literal_eval(node.value))
        return None

    @property
    def has_face(self) -> bool:
        """Whether its ``__init__`` holds more than a docstring and ``__all__``: names to import from it."""
        return len(self._face.body) > 2

    @property
    def files(self) -> list[str]:
        """Its modules and the rooms within it."""
        inside = [p.stem for p in self.folder.glob("*.py") if p.stem != "__init__"]
        return sorted(inside + [p.parent.name for p in self.folder.glob("*/__init__.py")])


def rooms() -> list[Room]:
    """Every package that pyproject lists, in the order of the import contract: importers before imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = project["importlinter"]["contracts"][0]["layers"]
    order = [name for layer in layers for name in layer.split(" | ")]
    elsewhere = project["setuptools"]["package-dir"]
    found = []
    for name in project["setuptools"]["packages"]:
        if name != "edgepv":
            found.append(Room(name, ROOT / elsewhere.get(name, name.replace(".", "/"))))
    return sorted(found, key=lambda room: (order.index(room.name.split(".")[1]), room.name))


def table() -> str:
    """The table of CONTRIBUTING: a room's folder, and the first sentence of its docstring."""
    lines = ["| folder | room |", "|---|---|"]
    lines += [f"| `{room.folder.relative_to(ROOT)}/` | {room.sentence} |" for room in rooms()]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda old: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
