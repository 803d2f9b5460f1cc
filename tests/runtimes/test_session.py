"""A session answers camera frames, forgets on reset, and never passes off a broken answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepv import bundle
from edgepv.errors import UsageError
from edgepv.runtimes import Session, open_session
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Lane
from edgepv.stream import Tensors
from edgepv.types import ModelSpec, Variant, decode, encode


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


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [("logits", (0.69, 0.31)), ("probabilities", (0.91, 0.09))],
)
def test_probabilities_are_scores_as_they_are(
    variant: Variant, scores: Any, wanted: tuple[float, ...]
) -> None:
    class Sure:
        def infer(self, inputs: Tensors) -> Tensors:
            states = {f"{name}_next": inputs[name] for name in ("before", "pool")}
            return {"logits": np.array([[0.91, 0.09]], np.float32), **states}

        def close(self) -> None:
            pass

    told = replace(variant, spec=replace(variant.spec, scores=scores))
    with Session(Ladder([Lane(Sure(), told)])) as session:
        answer = session.step(np.zeros((8, 8, 3), np.uint8))
    assert answer.label == "fight" and answer.score == pytest.approx(wanted[0], abs=0.005)
    assert answer.scores == pytest.approx(wanted, abs=0.005)


class Sum:
    """Adds frames up in its one state; answers NaN of a frame that is white all over."""

    def infer(self, inputs: Tensors) -> Tensors:
        level = float(inputs["frame"].mean())
        total = inputs["pool"] + level
        logits = np.array([[np.nan if level > 0.99 else total.flat[0], 0]], np.float32)
        return {"logits": logits, "pool_next": total, "before_next": inputs["before"]}

    def close(self) -> None:
        pass


class SumInPlace(Sum):
    """The same, writing new states where it is told to."""

    def infer_into(self, inputs: Tensors, slots: Tensors) -> Tensors:
        outputs = self.infer(inputs)
        for name, slot in slots.items():
            slot[:] = outputs[name]
        return outputs | slots


@pytest.mark.parametrize("engine", [Sum, SumInPlace])
def test_a_frame_without_a_finite_answer_was_never_there(variant: Variant, engine: type[Sum]) -> None:
    """Its states, which may be as broken, are not taken over."""
    told = replace(variant, spec=replace(variant.spec, mean=(0, 0, 0), std=(1, 1, 1)))
    grey, white = (np.full((8, 8, 3), level, np.uint8) for level in (51, 255))
    with Session(Ladder([Lane(engine(), told)])) as session, Session(Ladder([Lane(engine(), told)])) as whole:
        for i, picture in enumerate([grey] * 6):
            if i in (0, 3):
                with pytest.raises(UsageError, match=f"not finite at frame {i}"):
                    session.step(white)
            got, wanted = session.step(picture), whole.step(picture)
            assert (got.scores, got.index, got.valid) == (wanted.scores, wanted.index, wanted.valid)


def test_a_bundle_that_says_nothing_of_scores_has_logits(variant: Variant) -> None:
    data = encode(variant.spec)
    del data["scores"]
    assert decode(ModelSpec, data).scores == "logits"


def test_a_nan_answer_is_an_error_not_a_label(variant: Variant) -> None:
    class Broken:
        def infer(self, inputs: Tensors) -> Tensors:
            return {"logits": np.array([[np.nan, 1.0]], np.float32), "before_next": inputs["before"],
                    "pool_next": inputs["pool"]}  # fmt: skip

        def close(self) -> None:
            pass

    with (
        Session(Ladder([Lane(Broken(), variant)])) as session,
        pytest.raises(UsageError, match="run edgepv verify"),
    ):
        session.step(np.zeros((8, 8, 3), np.uint8))
