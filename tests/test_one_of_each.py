"""What the product does in one place, so that a reader finds it and a repair reaches every use."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("edgepv", "export", "quantize", "runtimes")
PRODUCT = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
    if not any(parent.is_symlink() for parent in path.parents)
}


@pytest.mark.parametrize(
    ("what", "words", "place"),
    [
        ("ONNX Runtime sessions", "InferenceSession(", "edgepv/base/optional.py"),
        ("manifest.csv read", "DictReader(", "edgepv/data/clips.py"),
        ("AdamW of all trainers", "AdamW(", "edgepv/model/training.py"),
        ("a step of any training", "zero_grad()", "edgepv/model/training.py"),
        ("what a training goes on from", "optimizer.state_dict()", "edgepv/model/training.py"),
        ("clips as one digest", "def clips_digest(", "edgepv/data/clips.py"),
    ],
)
def test_it_is_done_in_one_place(what: str, words: str, place: str) -> None:
    assert [name for name, text in PRODUCT.items() if words in text] == [place], what


def test_no_room_asks_for_a_tasks_name() -> None:
    """What a task is, it says itself: ``TaskSpec``. In zoo/training a task is a set of labelled clips."""
    asked = re.compile(r"spec\.task (==|!=) ")
    assert [name for name, text in PRODUCT.items() if asked.search(text)] == []


def names(tree: ast.AST) -> Counter[str]:
    """How often each name is used: in code, or as the end of a string such as "module:builder"."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"^[\w./]*[.:](\w+)$", node.value))
    return found


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The product, read."""
    return {name: ast.parse(text) for name, text in PRODUCT.items()}


@pytest.mark.slow
def test_what_only_tests_use_is_not_in_the_product() -> None:
    """Public functions and classes; what a decorator puts into a table is used by whoever reads that."""
    outside = [path for folder in ("benchmarks", "examples") for path in (ROOT / folder).glob("*.py")]
    used = sum((names(tree) for tree in trees().values()), Counter[str]())
    used += sum((names(ast.parse(path.read_text(encoding="utf-8"))) for path in outside), Counter[str]())
    for other in ("benchmarks/demo.sh", "edgepv/zoo/weights/index.json"):
        used.update(re.findall(r"\w+", (ROOT / other).read_text(encoding="utf-8")))
    unused = [
        f"{name}: {node.name}"
        for name, tree in trees().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not (isinstance(node, ast.FunctionDef) and node.decorator_list)
        if used[node.name] <= names(node)[node.name]
    ]
    assert not unused


MOST_ANY = 176
"""Public functions and methods of the product that say ``Any`` of an argument or their answer, or its alias
``Json``, as counted here: what torch's modules, engines and JSON files leave open. It may only fall."""


def says_any(hint: ast.expr | None) -> bool:
    """Whether an annotation has ``Any`` in it, or its alias ``Json``, written out or in quotes."""
    for part in ast.walk(hint) if hint else ():
        text = part.id if isinstance(part, ast.Name) else getattr(part, "value", None)
        if isinstance(text, str) and re.search(r"\b(Any|Json)\b", text):
            return True
    return False


def untyped(tree: ast.Module) -> list[str]:
    """The public functions and methods of a file that say ``Any``; of what has no name but _, the two that
    everybody calls."""
    found = []
    for outer in tree.body:
        if isinstance(outer, ast.ClassDef) and not outer.name.startswith("_"):
            methods = [node for node in outer.body if isinstance(node, ast.FunctionDef)]
            inner = [(f"{outer.name}.{node.name}", node) for node in methods]
        else:
            inner = [(outer.name, outer)] if isinstance(outer, ast.FunctionDef) else []
        for name, node in inner:
            if node.name.startswith("_") and node.name not in ("__init__", "__call__"):
                continue
            a = node.args
            every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
            if any(says_any(one.annotation) for one in every) or says_any(node.returns):
                found.append(name)
    return found


@pytest.mark.slow
def test_no_more_of_the_product_is_any() -> None:
    found = [f"{name}: {f}" for name, tree in trees().items() for f in untyped(tree)]
    assert len(found) <= MOST_ANY, f"{len(found)} say Any, {MOST_ANY} may: give the new ones a type"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(x: int) -> str: ...", []),
        ("def f(x: Any): ...", ["f"]),
        ("def f(*, x: dict[str, Any]): ...", ["f"]),
        ("def f() -> 'list[Any]': ...", ["f"]),
        ("def f(x: dict[str, Json]): ...", ["f"]),
        ("def _f(x: Any): ...", []),
        ("class C:\n def __init__(self, x: Any): ...\n def _f(self, x: Any): ...", ["C.__init__"]),
        ("class _C:\n def f(self, x: Any): ...", []),
    ],
)
def test_a_function_that_says_any_is_counted(code: str, found: list[str]) -> None:
    assert untyped(ast.parse(code)) == found
