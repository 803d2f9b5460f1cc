"""What the product does in one place, so that a reader finds it and a repair reaches every use."""

from __future__ import annotations

import ast
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


@pytest.mark.slow
def test_what_only_tests_use_is_not_in_the_product() -> None:
    """Public functions and classes; what a decorator puts into a table is used by whoever reads that."""
    trees = {name: ast.parse(text) for name, text in PRODUCT.items()}
    outside = [path for folder in ("benchmarks", "examples") for path in (ROOT / folder).glob("*.py")]
    used = sum((names(tree) for tree in trees.values()), Counter[str]())
    used += sum((names(ast.parse(path.read_text(encoding="utf-8"))) for path in outside), Counter[str]())
    for other in ("benchmarks/demo.sh", "edgepv/zoo/weights/index.json"):
        used.update(re.findall(r"\w+", (ROOT / other).read_text(encoding="utf-8")))
    unused = [
        f"{name}: {node.name}"
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not (isinstance(node, ast.FunctionDef) and node.decorator_list)
        if used[node.name] <= names(node)[node.name]
    ]
    assert not unused
