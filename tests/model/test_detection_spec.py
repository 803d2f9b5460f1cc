"""A detector's spec is read, written again, and refused where its boxes could not be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from detectors import ROWS, grid_spec

from edgepv.errors import UsageError
from edgepv.model.spec import as_toml, check_spec, read_spec
from edgepv.types import ModelSpec, TensorSpec

TOML = """
name = "yolox"
task = "detection"
labels = ["person", "traffic light"]
colour = "bgr"
std = [0.00392156862745098, 0.00392156862745098, 0.00392156862745098]

[input]
name = "images"
shape = [1, 3, 64, 64]

[[outputs]]
name = "output"
shape = [1, 80, 7]
layout = "NKC"

[boxes]
coding = "grid"
strides = [8, 16]

[boxes.score_of]
"traffic light" = 0.5
"""


def test_a_spec_is_read_and_written_again(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(TOML)
    spec = read_spec(file)
    assert spec.metric == "ap50" and spec.boxes is not None and spec.boxes.score_of == {"traffic light": 0.5}
    file.write_text(as_toml(spec))
    assert read_spec(file) == spec


def shaped(*shapes: tuple[int, ...], **boxes: Any) -> ModelSpec:
    spec = grid_spec(**boxes)
    return replace(spec, outputs=tuple(TensorSpec(f"o{i}", s, "NKC") for i, s in enumerate(shapes)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(grid_spec(), boxes=None), r"\[boxes\] is missing"),
        (replace(grid_spec(), task="tracking"), r"\[boxes\] is for detection"),
        (replace(grid_spec(), labels=("a", "a")), "all different"),
        (grid_spec(score_of={"cat": 0.5}), "unknown label 'cat'"),
        (grid_spec(strides=()), "grid wants strides"),
        (grid_spec(anchors=(((8.0, 8.0),), ((16.0, 16.0),))), "grid wants strides"),
        (grid_spec(coding="anchors", anchors=(((8.0, 8.0),),)), "2 strides and anchors for 1"),
        (grid_spec(variances=(0.1, 0.2)), "boxes.variances are for"),
        (grid_spec(pad=256), "pad is 256; give 0 to 255"),
        (grid_spec(nms=1.5), "nms is 1.5; give 0 to 1"),
        (grid_spec(strides=(8, 8)), "has 80 rows; strides 8, 8 of an input of 64 x 64 have 128"),
        (shaped((1, ROWS, 8)), "a detector of 2 labels answers"),
        (shaped((1, ROWS, 4), (1, ROWS - 1, 2)), "a detector of 2 labels answers"),
        (shaped((1, 9, 9), coding="decoded", strides=()), "a detector of 2 labels answers"),
    ],
)
def test_a_spec_that_cannot_be_read_is_refused(spec: ModelSpec, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_spec(spec, "spec.toml")


@pytest.mark.parametrize("shapes", [((1, 7, ROWS),), ((1, ROWS, 6),), ((1, ROWS, 4), (1, 2, ROWS))])
def test_rows_may_be_columns_and_objectness_may_be_missing(shapes: tuple[tuple[int, ...], ...]) -> None:
    check_spec(shaped(*shapes), "spec.toml")


def test_boxes_without_a_task_are_told_which_line_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(TOML.replace('task = "detection"\n', ""))
    with pytest.raises(UsageError, match=r'\[boxes\] and no task. Write task = "detection" above'):
        read_spec(file)
