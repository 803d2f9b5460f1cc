"""Which inputs set the INT8 ranges, in which order, and which clips come first when only some are used."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepv.data.calibration import CalibrationSet, calibration_set, in_turns, rolled_feeds
from edgepv.data.clips import Clip
from edgepv.errors import UsageError
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import gather
from edgepv.stream import Stepper, Tensors
from edgepv.types import ModelSpec, TensorSpec

SPEC = ModelSpec("m", TensorSpec("clip", (1, 3, 3, 2, 2), "NCTHW"), ("a", "b"), frames=3)
LABELS = ("a", "a", "a", "a", "b", "b", "b", "b")


def _made(write_video: Callable[..., Path], labels: Sequence[str]) -> list[Clip]:
    """Clip i of the labels flickers around a grey of 20 + 25 * i."""
    greys = [[20 + 25 * i + 4 * (frame % 2) for frame in range(12)] for i in range(len(labels))]
    paths = [write_video(f"{i}.mp4", grey) for i, grey in enumerate(greys)]
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


def test_the_last_clips_are_a_quarter_of_every_label_and_one_at_least() -> None:
    labels = ("a", "b") * 3 + ("a",) * 5
    chosen = CalibrationSet(tuple(Path(str(i)) for i in range(11)), "digest", labels=labels)
    assert [clip.name for clip in chosen.last] == ["5", "9", "10"]
    assert [clip.name for clip in replace(chosen, labels=()).last] == ["9", "10"]


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


@pytest.mark.parametrize("how", ["copied", "linked"])
def test_one_video_under_two_names_may_not_train_and_be_judged(
    write_video: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / place).mkdir(parents=True)
        write_video(f"{place}/clip{number}.mp4", [20 + 25 * number, 30, 40])
    options = Options("m", clips=str(tmp_path))
    assert len(gather(options, SPEC).held_out) == 2
    seen, again = tmp_path / "train/a/clip0.mp4", tmp_path / "test/a/again.mp4"
    again.symlink_to(seen) if how == "linked" else shutil.copy(seen, again)
    with pytest.raises(UsageError, match=r"again.mp4 is the same video as .*clip0.mp4, which calibrates"):
        gather(options, SPEC)
