"""A variant that takes over knows what it would have known, had it run all the time."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import variant

from edgepv.errors import UsageError
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Lane
from edgepv.stream import Tensors
from edgepv.types import Variant

LOOKS_BACK = 4
FRAMES = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3)).astype(np.uint8)


class Remembers:
    """logits = (the sum of the last four frames' means, 0); keeps three means, each ``width`` times."""

    def __init__(self, variant: Variant) -> None:
        assert variant.stream
        self.kept = variant.stream.states[0].shape
        self.calls = 0

    def infer(self, inputs: Tensors) -> Tensors:
        self.calls += 1
        before = inputs["s"].reshape(3, -1)
        now = inputs["frame"].mean(dtype=np.float64)
        after = np.concatenate([before[1:], np.full((1, before.shape[1]), now)]).astype(np.float32)
        logits = np.array([[before[:, 0].sum() + now, 0.0]], np.float32)
        return {"logits": logits, "s_out": after.reshape(self.kept)}

    def close(self) -> None:
        """Nothing to free."""


def lane(name: str, width: int) -> Lane:
    made = variant(name, looks_back=LOOKS_BACK, width=3 * width)
    return Lane(Remembers(made), made)


def always(frames: np.ndarray) -> list[tuple[float, ...]]:
    """The scores of a variant that never stopped."""
    alone = Ladder([lane("alone", 1)])
    return [alone.step(f).scores for f in frames]


def test_a_variant_with_other_states_is_shown_the_last_frames_and_then_answers_as_if_it_had_always_run() -> (
    None
):
    ladder = Ladder([lane("large", 1), lane("small", 2)])
    got = []
    for i, frame in enumerate(FRAMES):
        if i == 10:
            ladder.aim(1)
            assert ladder.behind == LOOKS_BACK
        got.append(ladder.step(frame))
        if i >= 12:  # one step of catching up between two frames; each frame adds one until it is level
            while ladder.behind:
                ladder.catch_up()
    assert ladder.name == "small" and ladder.active == 1
    assert np.allclose([a.scores for a in got], always(FRAMES), atol=1e-6)
    assert all(a.valid for a in got[3:])


def test_a_variant_with_the_same_states_takes_them_over_at_once() -> None:
    ladder = Ladder([lane("fp32", 1), lane("int8", 1)])
    got = []
    for i, frame in enumerate(FRAMES):
        if i == 10:
            ladder.aim(1)
            assert ladder.behind == 0
        got.append(ladder.step(frame).scores)
        assert ladder.name == ("fp32" if i < 10 else "int8")
    assert got == always(FRAMES)


def test_handed_over_states_are_copies() -> None:
    ladder = Ladder([lane("fp32", 1), lane("int8", 1)])
    for frame in FRAMES[:6]:
        ladder.step(frame)
    ladder.aim(1)
    ladder.step(FRAMES[6])
    mine, theirs = (x.stepper._states[0]._lanes[0] for x in ladder.lanes)
    assert not np.shares_memory(mine, theirs)


def test_taking_the_aim_back_costs_nothing_and_loses_nothing() -> None:
    ladder = Ladder([lane("large", 1), lane("small", 2)])
    got = []
    for i, frame in enumerate(FRAMES):
        ladder.aim(1 if i == 10 else 0)
        got.append(ladder.step(frame).scores)
    assert ladder.active == 0 and got == always(FRAMES)


def test_what_was_before_a_restart_is_not_shown_to_the_next_variant() -> None:
    ladder = Ladder([lane("large", 1), lane("small", 2)])
    for frame in FRAMES[:10]:
        ladder.step(frame)
    first = ladder.step(FRAMES[10], restarted=True)
    assert first.restarted and not first.valid
    ladder.aim(1)
    assert ladder.behind == 1
    ladder.catch_up()
    rest = [ladder.step(f) for f in FRAMES[11:]]
    assert ladder.name == "small"
    assert np.allclose([a.scores for a in rest], always(FRAMES[10:])[1:])


def test_the_next_variant_does_not_inherit_from_one_that_is_broken() -> None:
    ladder = Ladder([lane("fp32", 1), lane("int8", 1)])
    for frame in FRAMES[:6]:
        ladder.step(frame)
    ladder.lanes[0].stepper._states[0]._lanes[0][:] = np.nan
    ladder.leave(0, 1)
    assert ladder.step(FRAMES[6]).scores == pytest.approx(always(FRAMES)[6])


def test_variants_with_other_labels_are_no_ladder() -> None:
    from dataclasses import replace

    one, other = lane("one", 1), lane("other", 1)
    other.variant = replace(other.variant, spec=replace(other.variant.spec, labels=("cat", "dog")))
    with pytest.raises(UsageError, match="they cannot stand in for each other"):
        Ladder([one, other])
