"""Which inputs set the INT8 ranges, in which order, and which clips come first when only some are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgepv.calibration import calibration_set, in_turns, rolled_feeds
from edgepv.clips import Clip
from edgepv.stream import Stepper, Tensors
from edgepv.types import ModelSpec, TensorSpec

SPEC = ModelSpec("m", TensorSpec("clip", (1, 3, 3, 2, 2), "NCTHW"), ("a", "b"), frames=3)
LABELS = ("a", "a", "a", "a", "b", "b", "b", "b")


def _made(write_video: Callable[..., Path], labels: Sequence[str]) -> list[Clip]:
    """Clip i of the labels is a still picture of grey 20 + 25 * i."""
    paths = [write_video(f"{i}.mp4", [20 + 25 * i] * 12) for i in range(len(labels))]
    return [Clip(path, label, path.name) for path, label in zip(paths, labels)]


def _numbers(feeds: Sequence[Tensors]) -> list[int]:
    """Which clip each feed shows."""
    greys = [255 * (float(f["clip"].mean()) * np.mean(SPEC.std) + np.mean(SPEC.mean)) for f in feeds]
    return [round((grey - 20) / 25) for grey in greys]


def _rolled(clips: Sequence[Clip]) -> list[Tensors]:
    answer = {"logits": np.zeros((1, 2), np.float32)}
    return rolled_feeds(Stepper(lambda _: answer, SPEC, None), calibration_set(clips, SPEC), SPEC)


def test_the_last_quarter_of_the_feeds_is_of_the_last_clips_of_every_label(
    write_video: Callable[..., Path],
) -> None:
    numbers = _numbers(_rolled(_made(write_video, LABELS)))
    cut = len(numbers) * 3 // 4
    assert set(numbers[:cut]) == {0, 1, 2, 4, 5, 6}
    assert set(numbers[cut:]) == {3, 7}
    assert sorted(numbers) == sorted([*range(8)] * 6)


def test_a_label_with_a_single_clip_is_in_both_parts(write_video: Callable[..., Path]) -> None:
    numbers = _numbers(_rolled(_made(write_video, ("a", "a", "a", "b"))))
    cut = len(numbers) * 3 // 4
    assert set(numbers[:cut]) == {0, 1, 2, 3} and set(numbers[cut:]) == {2, 3}


def test_clips_without_labels_keep_their_order(write_video: Callable[..., Path]) -> None:
    clips = [replace(c, label=None) for c in _made(write_video, LABELS)]
    assert _numbers(_rolled(clips)) == sorted([*range(8)] * 6)


def test_clips_with_other_labels_are_another_set(write_video: Callable[..., Path]) -> None:
    clips = _made(write_video, LABELS)
    other = [replace(c, label="b" if c.label == "a" else "a") for c in clips]
    assert calibration_set(clips, SPEC).digest == calibration_set([*clips], SPEC).digest
    assert calibration_set(clips, SPEC).digest != calibration_set(other, SPEC).digest


def test_labels_take_turns_and_within_a_label_groups_do() -> None:
    rows = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "z"), ("b", "z")]
    clips = [Clip(Path(f"{i}.mp4"), *row) for i, row in enumerate(rows)]
    assert in_turns(clips) == [0, 3, 2, 4, 1]  # a of x, b of z, a of y, b of z, a of x
    assert in_turns([]) == []
