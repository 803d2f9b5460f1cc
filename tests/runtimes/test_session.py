"""A session answers camera frames, forgets on reset, and never passes off a broken answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepv import bundle
from edgepv.errors import UsageError
from edgepv.runtimes import Session, open_session
from edgepv.stream import Tensors
from edgepv.types import Variant


@pytest.fixture
def variant(step_bundle: Path) -> Variant:
    return bundle.read(step_bundle).variant()


def test_reset_starts_over(step_bundle: Path, variant: Variant) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (5, 40, 60, 3)).astype(np.uint8)
    with open_session(variant, step_bundle) as session:
        first = [session.step(f) for f in frames]
        session.reset()
        again = [session.step(f) for f in frames]
    assert [a.scores for a in first] == [a.scores for a in again]
    assert [a.index for a in again] == [0, 1, 2, 3, 4]
    assert all(abs(sum(a.scores) - 1) < 1e-5 for a in first)


def test_a_nan_answer_is_an_error_not_a_label(variant: Variant) -> None:
    class Broken:
        def infer(self, inputs: Tensors) -> Tensors:
            return {"logits": np.array([[np.nan, 1.0]], np.float32), "before_next": inputs["before"],
                    "pool_next": inputs["pool"]}  # fmt: skip

        def close(self) -> None:
            pass

    with Session(Broken(), variant) as session, pytest.raises(UsageError, match="run edgepv verify"):
        session.step(np.zeros((8, 8, 3), np.uint8))
