"""A segmenter's spec is read, written again, and refused where its masks could not be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from segmenters import TOML, spec_of

from edgepv.errors import UsageError
from edgepv.model.spec import as_toml, check_spec, read_spec
from edgepv.types import MaskSpec, ModelSpec, TensorSpec


def test_a_spec_is_read_and_written_again(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(TOML)
    spec = read_spec(file)
    assert spec.metric == "miou" and spec.masks == MaskSpec(background=True)
    file.write_text(as_toml(spec))
    assert read_spec(file) == spec


def test_masks_may_be_left_out_and_a_clip_may_come_in(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    text = TOML.split("[masks]")[0].replace("fps = 10", "fps = 10\nframes = 3")
    file.write_text(text.replace("[1, 3, 32, 32]", '[1, 3, 3, 32, 32]\nlayout = "NCTHW"'))
    spec = read_spec(file)
    assert spec.masks is None and spec.input.layout == "NCTHW"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (spec_of(("car", "car")), "labels must name what may stand at a place"),
        (spec_of(()), "labels must name what may stand at a place"),
        (spec_of(tuple(map(str, range(256)))), "256 labels; a mask can hold 255"),
        (spec_of(score=1.5), "masks: score is 1.5; give 0 to 1"),
        (spec_of(pad=256), "masks: pad is 256; give 0 to 255"),
        (spec_of(("car",), background=True), "masks.background with one label"),
        (replace(spec_of(), metric="top1"), "segmentation is judged by miou, not by top1"),
        (
            replace(spec_of(), outputs=(TensorSpec("scores", (1, 2, 16, 16)),)),
            r"answers first with 'scores' \(1, 3, 16, 16\)",
        ),
        (
            replace(spec_of(), task="restoration", metric="psnr"),
            r"\[masks\] is for segmentation, the task is restoration",
        ),
    ],
)
def test_what_no_mask_could_come_of_is_refused(spec: ModelSpec, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_spec(spec, "spec")


def test_masks_without_a_task_are_told_which_line_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(TOML.replace('task = "segmentation"\n', ""))
    with pytest.raises(UsageError) as e:
        read_spec(file)
    said = 'spec.toml has [masks] and no task. Write task = "segmentation" above its first table'
    assert str(e.value) == said
