"""What a model remembers is kept, dropped or built up anew when the camera's stream is not one piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import CLIPS

from edgepv import bundle
from edgepv.data.clips import find_clips
from edgepv.data.video import read_video
from edgepv.errors import UsageError
from edgepv.runtimes import Session, open_session
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.ladder import open_ladder
from edgepv.runtimes.lane import Lane
from edgepv.runtimes.scene_cuts import SceneCuts
from edgepv.stream import Stepper, Tensors
from edgepv.types import StreamSpec, Variant

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 255, (12, 40, 60, 3)).astype(np.uint8)
EVALUATION = [c for c in find_clips(CLIPS, ("fight", "no_fight")) if c.split == "evaluation"]


@pytest.fixture
def variant(step_bundle: Path) -> Variant:
    return bundle.read(step_bundle).variant()


@pytest.fixture
def opened(step_bundle: Path, variant: Variant) -> Iterator[Session]:
    with open_session(variant, step_bundle) as session:
        yield session


def test_a_held_gap_keeps_the_states_and_says_what_is_missing(opened: Session) -> None:
    answers = [opened.step(f, missed=2 if i == 5 else 0) for i, f in enumerate(FRAMES)]
    assert [a.index for a in answers] == list(range(12))
    assert [a.missed for a in answers] == [0] * 5 + [2] * 4 + [0] * 3  # the tiny model looks back on 4
    assert not any(a.restarted for a in answers)


def test_a_gap_longer_than_the_look_back_forgets_in_any_case(opened: Session) -> None:
    answers = [opened.step(f, missed=4 if i == 5 else 0) for i, f in enumerate(FRAMES)]
    assert [i for i, a in enumerate(answers) if a.restarted] == [5]
    assert [a.valid for a in answers[5:9]] == [False, False, False, True]


def test_a_gap_forgets_under_the_reset_policy(step_bundle: Path, variant: Variant) -> None:
    with open_session(variant, step_bundle, gap="reset") as session:
        whole = [session.step(f) for f in FRAMES[5:]]
        session.reset()
        torn = [session.step(f, missed=1 if i == 5 else 0) for i, f in enumerate(FRAMES)]
    assert [a.scores for a in torn[5:]] == [a.scores for a in whole]
    assert torn[5].restarted and torn[5].index == 0


def test_a_scene_cut_forgets_and_the_answers_are_those_of_the_new_scene_alone(
    step_bundle: Path, variant: Variant
) -> None:
    one, other = (read_video(c.path).frames[:10] for c in (EVALUATION[0], EVALUATION[-1]))
    with open_session(variant, step_bundle, cuts=True) as session:
        alone = [session.step(f).scores for f in other]
        session.reset()
        joined = [session.step(f) for f in (*one, *other)]
    assert [i for i, a in enumerate(joined) if a.restarted and i] == [10]
    assert [a.scores for a in joined[10:]] == alone


def test_no_shipped_clip_holds_a_cut_and_most_joints_between_them_are_one() -> None:
    def last_and_first(path: Path) -> tuple[np.ndarray, np.ndarray]:
        frames = read_video(path).frames
        cuts = SceneCuts()
        assert not any(cuts(f) for f in frames[::3]), path
        return frames[-1], frames[0]

    ends = [last_and_first(c.path) for c in EVALUATION]
    found = 0
    for (last, _), (_, first) in zip(ends, ends[12:] + ends[:12]):  # of another label
        cuts = SceneCuts()
        cuts(last)
        found += cuts(first)
    assert found >= 22


def test_a_light_that_is_switched_on_is_no_cut_and_a_dark_picture_is() -> None:
    frame = cv2.GaussianBlur(RNG.integers(0, 120, (48, 64, 3)).astype(np.uint8), (9, 9), 0)
    cuts = SceneCuts()
    dark = np.zeros_like(frame)
    assert [cuts(f) for f in (frame, frame * 2, dark, dark, frame)] == [False, False, True, False, True]


def test_another_engine_takes_over_in_the_middle_and_answers_as_if_it_had_always_run(
    step_bundle: Path, variant: Variant
) -> None:
    other = next(v for v in bundle.read(step_bundle).content.variants if v.name == "openvino-fp32")
    with open_session(other, step_bundle) as session:
        alone = [session.step(f) for f in FRAMES]
    ladder = open_ladder([variant, other], step_bundle)
    answers = []
    for i, frame in enumerate(FRAMES):
        if i == 5:
            ladder.aim(1)
        answers.append((ladder.step(frame), ladder.name))
    ladder.close()
    assert [name for _, name in answers] == [variant.name] * 5 + ["openvino-fp32"] * 7
    assert [a.valid for a, _ in answers] == [a.valid for a in alone]
    assert np.allclose([a.scores for a, _ in answers], [a.scores for a in alone], atol=1e-5)


def test_a_variant_with_other_labels_cannot_take_over_and_nothing_stays_open(
    step_bundle: Path, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Lane, "close", lambda lane: closed.append(lane.variant.name))
    other = replace(variant, name="other", spec=replace(variant.spec, labels=("a", "b")))
    with pytest.raises(UsageError, match="other labels"):
        open_ladder([variant, other], step_bundle)
    assert sorted(closed) == sorted([variant.name, "other"])


def test_states_written_in_place_are_the_states_that_were_copied(step_bundle: Path, variant: Variant) -> None:
    engine = open_engine(variant, step_bundle)
    into = getattr(engine, "infer_into", None)
    assert into is not None
    copies = Stepper(engine.infer, variant.spec, variant.stream)
    places = Stepper(engine.infer, variant.spec, variant.stream, into=into)
    for _ in range(50):
        frame = RNG.standard_normal((1, 3, 32, 32)).astype(np.float32)
        a, b = copies.step(frame), places.step(frame)
        assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_state_of_one_tensor_is_handed_over_without_a_copy(step_bundle: Path, variant: Variant) -> None:
    engine = open_engine(variant, step_bundle)
    seen: list[tuple[Tensors, Tensors]] = []

    def spy(feeds: Tensors, into: Tensors) -> Tensors:
        seen.append((dict(feeds), dict(into)))
        return engine.infer_into(feeds, into)  # type: ignore[attr-defined]

    assert isinstance(variant.stream, StreamSpec)
    stepper = Stepper(engine.infer, variant.spec, variant.stream, into=spy)
    for _ in range(3):
        stepper.step(RNG.standard_normal((1, 3, 32, 32)).astype(np.float32))
    for (_, into), (feeds, _) in pairwise(seen):
        for state in variant.stream.states:
            assert np.shares_memory(into[state.output], feeds[state.name])
