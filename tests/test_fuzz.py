"""The first cases of the fuzzer (benchmarks/fuzz.py): whatever is damaged, the exit code is in the table."""

from __future__ import annotations

import importlib
import random
from collections import Counter
from pathlib import Path

import pytest
from support import ROOT

pytest.importorskip("cryptography")
CASES = 120


def test_no_mutation_ends_in_an_internal_error_or_is_taken_for_the_honest_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    fuzz = importlib.import_module("fuzz")
    monkeypatch.setattr("os.fsync", lambda fd: None)
    with fuzz.in_one_process():
        bench = fuzz.Bench(tmp_path / "bench")
        came = [(n, *fuzz.try_case(bench, 1, n)) for n in range(CASES)]
    assert [one for one in came if one[2] not in ("refused", "accepted")] == []
    kinds = Counter((kind, what) for _, kind, what in came)
    assert {kind for kind, _ in kinds} == set(fuzz.KINDS)
    assert kinds["manifest", "refused"] > 20 and kinds["file", "accepted"] > 0


def test_a_case_is_the_same_whatever_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that went into one manifest is not what the next mutation of that manifest changes."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    fuzz = importlib.import_module("fuzz")
    known, rng = repr(fuzz.VALUES), random.Random(0)
    for _ in range(50):
        data: dict[str, list[int]] = {"a": [1, 2]}
        for _ in range(6):
            if len(fuzz.places(data)) > 1:
                fuzz.mutate_data(data, rng)
    assert repr(fuzz.VALUES) == known
