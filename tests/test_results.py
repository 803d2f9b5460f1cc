"""Every committed result says the commit and the CPU it was measured with, or that one was not noted.

``measured_at.now()`` of benchmarks/ writes both. A stamp is an object with a ``commit``; its CPU stands in
it, or in a ``device`` of it or of what it lies in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from edgepv.base.files import read_json

NOT_NOTED = {
    "adapt": {"commit"},
    "graph": {"commit", "cpu"},
    "restore": {"commit", "cpu"},
    "stream": {"commit"},
    "stream_tune": {"cpu"},
    "track": {"commit", "cpu"},
}
"""What files older than their scripts' stamps do not say. An entry goes when its file is measured anew."""

RESULTS = sorted(p for p in ROOT.glob("benchmarks/*.json"))


def stamps(part: Any, device: Mapping[str, Any] | None = None) -> Iterator[tuple[str | None, str | None]]:
    """(commit, CPU) of every stamp in ``part``, which lies in what ``device`` measured; None: not noted."""
    if isinstance(part, list):
        part = dict(enumerate(part))
    if isinstance(part, dict):
        device = part.get("device", device)
        if "commit" in part:
            at = part if "cpu" in part else device or {}
            yield part["commit"], at.get("cpu") if "flags" in at else None
        for value in part.values():
            yield from stamps(value, device)


def missing(result: dict[str, Any]) -> set[str]:
    """Which of "stamp", "commit" and "cpu" a result lacks somewhere."""
    parts = [result] if "measured_at" in result else [p for p in result.values() if isinstance(p, dict)]
    if not parts or not all(any(stamps(part)) for part in parts):
        return {"stamp"}
    found = list(stamps(result))
    return {name for name, values in zip(("commit", "cpu"), zip(*found)) if None in values}


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_a_result_says_the_commit_and_the_cpu_it_was_measured_with(path: Path) -> None:
    assert missing(read_json(path)) == NOT_NOTED.get(path.stem, set()), (
        "write measured_at.now() into it; what is not noted in an old one stands in NOT_NOTED"
    )


def test_what_was_not_noted_is_of_files_that_are_there() -> None:
    assert set(NOT_NOTED) <= {p.stem for p in RESULTS}


STAMP = {"commit": "1234567", "cpu": "a CPU", "flags": ["avx2"]}


@pytest.mark.parametrize(
    ("result", "lacks"),
    [
        ({"measured_at": STAMP, "rows": []}, set()),
        ({"net": {"measured_at": STAMP}}, set()),
        ({"net": {"measured_at": {"commit": "1234567"}, "device": {"cpu": "a CPU", "flags": []}}}, set()),
        ({"rows": {}}, {"stamp"}),
        ({"net": {"measured_at": STAMP}, "other": {"n": 1}}, {"stamp"}),
        ({"measured_at": {"commit": "1234567", "cpu": "a CPU"}}, {"cpu"}),
        ({"measured_at": {"commit": None} | {"cpu": "a CPU", "flags": []}}, {"commit"}),
        ({"measured_at": STAMP, "rows": [{"commit": "1234567"}]}, {"cpu"}),
    ],
)
def test_a_result_without_its_stamp_is_found(result: dict[str, Any], lacks: set[str]) -> None:
    assert missing(result) == lacks
