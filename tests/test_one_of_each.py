"""What the product does in one place, so that a reader finds it and a repair reaches every use."""

from __future__ import annotations

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
        ("clips as one digest", "def clips_digest(", "edgepv/data/clips.py"),
    ],
)
def test_it_is_done_in_one_place(what: str, words: str, place: str) -> None:
    assert [name for name, text in PRODUCT.items() if words in text] == [place], what
