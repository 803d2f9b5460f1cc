"""A number at the top of a file says its unit or its reason: a comment beside it, or a docstring below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support import ROOT

ROOMS = [
    *("edgepv/base", "edgepv/bundle", "edgepv/explain", "edgepv/metrics", "edgepv/model", "edgepv/report"),
    *("edgepv/search", "quantize", "runtimes/deadline", "runtimes/health", "runtimes/sinks"),
    *("edgepv/stream", "edgepv/types", "export"),
]


def numeric(value: ast.expr | None) -> bool:
    """Whether an expression is made of a number, or of several."""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, int | float) and not isinstance(value.value, bool)
    parts = (
        ast.iter_child_nodes(value)
        if isinstance(value, ast.Tuple | ast.Dict | ast.BinOp | ast.UnaryOp)
        else ()
    )
    return any(numeric(part) for part in parts if isinstance(part, ast.expr))


def bare(path: Path) -> list[str]:
    """Lines of a file that name a number and say nothing of it."""
    text = path.read_text()
    lines, body = text.splitlines(), ast.parse(text).body
    found = []
    for one, after in zip(body, [*body[1:], None]):
        if not isinstance(one, ast.Assign | ast.AnnAssign) or not numeric(one.value):
            continue
        told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        above = lines[one.lineno - 2].startswith("#") if one.lineno > 1 else False
        beside = any("#" in line for line in lines[one.lineno - 1 : one.end_lineno])
        if not told and not above and not beside:
            found.append(f"{path.relative_to(ROOT)}:{one.lineno}: {lines[one.lineno - 1]}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_number_of_a_core_room_has_its_reason(room: str) -> None:
    assert [line for path in sorted((ROOT / room).rglob("*.py")) for line in bare(path)] == []


def test_a_number_without_a_reason_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bare.__globals__, "ROOT", tmp_path)
    file = tmp_path / "x.py"
    file.write_text('A = 5  # px\nB = 5\nC = 5\n"""Frames."""\nD = "text"\nE = (1, 2)\n')
    assert bare(file) == ["x.py:2: B = 5", "x.py:6: E = (1, 2)"]
