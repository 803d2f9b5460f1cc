"""Stepping carries states, and a window repeats its first frame until it is full."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepv.data.calibration import CalibrationSet, calibration_set, rolled_feeds
from edgepv.data.clips import Clip
from edgepv.errors import UsageError
from edgepv.stream import Memory, Stepper, Tensors, roll
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec

STEP = ModelSpec("m", TensorSpec("frame", (1, 3, 2, 2)), ("a", "b"), frames=3)
CLIP = ModelSpec("m", TensorSpec("clip", (1, 3, 3, 2, 2), "NCTHW"), ("a", "b"), frames=3)
STREAM = StreamSpec((StateSpec("sum", "sum_next", (1, 1)),), warmup=3)


def _sum(inputs: Tensors) -> Tensors:
    total = inputs["sum"] + inputs["frame"][0, 0, 0, 0]
    return {"logits": total.copy(), "sum_next": total}


def _frame(value: float) -> np.ndarray:
    return np.full((1, 3, 2, 2), value, np.float32)


def test_states_go_from_output_to_input() -> None:
    stepper = Stepper(_sum, STEP, STREAM)
    assert [float(stepper.step(_frame(v))["logits"][0, 0]) for v in (1, 2, 3)] == [1, 3, 6]


def test_answers_are_valid_after_the_warm_up_and_not_before() -> None:
    stepper = Stepper(_sum, STEP, STREAM)
    seen = []
    for value in range(4):
        stepper.step(_frame(value))
        seen.append(stepper.valid)
    assert seen == [False, False, True, True]


def test_reset_forgets() -> None:
    stepper = Stepper(_sum, STEP, STREAM)
    stepper.step(_frame(5))
    stepper.reset()
    assert float(stepper.step(_frame(1))["logits"][0, 0]) == 1 and not stepper.valid


def test_a_window_holds_the_last_frames_in_order() -> None:
    windows = []

    def infer(inputs: Tensors) -> Tensors:
        windows.append(inputs["clip"][0, 0, :, 0, 0].tolist())
        return {"logits": np.zeros((1, 2), np.float32)}

    stepper = Stepper(infer, CLIP, None)
    for value in (1, 2, 3, 4):
        stepper.step(_frame(value))
    assert windows == [[1, 1, 1], [1, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_a_window_never_saw_a_frame_that_failed() -> None:
    windows = []

    def infer(inputs: Tensors) -> Tensors:
        windows.append(inputs["clip"][0, 0, :, 0, 0].tolist())
        if windows[-1][-1] == 9:
            raise ValueError
        return {"logits": np.zeros((1, 2), np.float32)}

    stepper = Stepper(infer, CLIP, None)
    for value in (9, 1, 2, 9, 3, 4):
        with contextlib.suppress(ValueError):
            stepper.step(_frame(value))
    assert windows[2:] == [[1, 1, 2], [1, 2, 9], [1, 2, 3], [2, 3, 4]] and stepper.seen == 4


def test_each_clip_starts_from_a_fresh_state() -> None:
    stepper = Stepper(_sum, STEP, STREAM)
    for _ in range(2):
        rolled = list(roll(stepper, [np.full((3, 2, 2), 1, np.float32)] * 2))
        assert [float(out["logits"][0, 0]) for _, out in rolled] == [1, 2]


def test_calibration_states_are_rolled(a_clip: object) -> None:
    from pathlib import Path

    path = Path(str(a_clip))
    feeds = rolled_feeds(Stepper(_sum, STEP, STREAM), CalibrationSet((path,), "d"), STEP)
    assert len(feeds) > 3 and all(feed["sum"].any() for feed in feeds)


def test_still_pictures_do_not_calibrate(write_video: object) -> None:
    paths = tuple(write_video(f"{grey}.mp4", [grey] * 12) for grey in (60, 100))  # type: ignore[operator]
    with pytest.raises(UsageError, match="every calibration clip shows a still picture"):
        rolled_feeds(Stepper(_sum, STEP, STREAM), CalibrationSet(paths, "d"), STEP)


def test_too_few_clips_do_not_calibrate(a_clip: object) -> None:
    from pathlib import Path

    with pytest.raises(UsageError, match="2 calibration clips; INT8 ranges need at least 4"):
        calibration_set([Clip(Path(str(a_clip)), "a", "g")] * 2, STEP)


def test_clips_of_one_label_do_not_calibrate_a_model_of_several(a_clip: object) -> None:
    from pathlib import Path

    clips, two = [Clip(Path(str(a_clip)), "a", "g")] * 4, replace(STEP, labels=("a", "b"))
    with pytest.raises(UsageError, match="all 4 calibration clips show 'a'.*Give clips of every label"):
        calibration_set(clips, two)
    assert calibration_set([replace(c, label=None) for c in clips], two).count == 4


@settings(max_examples=60, deadline=None)
@given(
    depth=st.integers(1, 5),
    fresh=st.integers(1, 7),
    period=st.integers(1, 4),
    first=st.integers(0, 3),
    replaced=st.booleans(),
)
def test_a_memory_is_the_list_of_what_was_pushed(
    depth: int, fresh: int, period: int, first: int, replaced: bool
) -> None:
    update: Literal["replace", "shift"] = "replace" if replaced else "shift"
    memory = Memory(StateSpec("s", "t", (depth, 2), update=update, fresh=fresh, period=period, first=first))
    rows = depth if replaced else fresh
    lanes = [[np.zeros(2, np.float32)] * depth for _ in range(period)]
    for step in range(25):
        pushed = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + 100 * (step + 1)
        slot = memory.slot()
        assert np.array_equal(memory.view(), np.stack(lanes[step % period][-depth:]))
        assert not np.shares_memory(slot, memory.view())
        if step % 2:  # an engine that writes in place, and one that hands over a tensor of its own
            slot[:] = pushed
            memory.push(slot)
        else:
            memory.push(pushed.copy())
        if step >= first:
            lanes[step % period] += list(pushed)


def test_a_run_that_fails_forgets_its_frame_and_not_those_before_it_in_the_chunk() -> None:
    seen: list[list[float]] = []

    def infer(inputs: Tensors) -> Tensors:
        seen.append(inputs["frame"][:, 0, 0, 0].tolist())
        if seen[-1][1] < 0:
            raise OSError("the engine is gone")
        return _sum(inputs)

    stepper = Stepper(infer, STEP, replace(STREAM, chunk=2))
    stepper.step(_frame(1))
    with pytest.raises(OSError):
        stepper.step(_frame(-1))
    stepper.step(_frame(2))
    assert seen == [[1, -1], [1, 2]] and stepper.seen == 2
