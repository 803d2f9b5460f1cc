"""A user's detector is exported as any model: judged by AP50, in INT8, from torch and from ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_models import as_onnx, for_mobile_in_int8, rows
from support import Run
from tiny_detector import SIDE, as_yolo, build, files, pictures

import edgepv

pytestmark = pytest.mark.slow


def check_found(folder: Path) -> None:
    """A bundle finds the green square of ``picture``, to a tenth of its side."""
    with edgepv.open(folder) as session:
        said = session.step(picture()).detections
    assert said is not None and said.labels.tolist() == [1]
    np.testing.assert_allclose(said.boxes, [[5 / 8, 1 / 4, 6 / 8, 2 / 4]], atol=0.0125)


def picture() -> np.ndarray:
    """A green square in the second row of cells, the sixth column of 8."""
    image = np.full((64, 128, 3), 20, np.uint8)
    image[16:32, 80:96] = (30, 230, 30)
    return image


def test_a_torch_detector_for_cpu_in_int8(run: Run, tmp_path: Path) -> None:
    builder, weights, spec = files(tmp_path)
    clips, out = pictures(tmp_path / "p"), tmp_path / "b"
    footage = pictures(tmp_path / "f", 12, seed=1)
    code, said, err = run("export", builder, "--weights", weights, "--spec", spec, "--clips", clips,
                          "--footage", footage, "--variant", "onnxruntime-int8", "--max-drop", 40,
                          "--out", out)  # fmt: skip
    assert code == 0, err + said
    row = rows(out)["onnxruntime-int8"]
    assert row.accuracy and row.accuracy.value == 1.0 and row.accuracy.metric == "ap50"
    assert row.drop and row.drop.verdict == "pass" and row.drop.unit == "points"
    assert row.drop.points == 0 and row.drop.high > 1  # so few pictures do not prove it of the next
    assert row.parity and row.parity.boxes and row.parity.boxes[0] == 1.0 and row.parity.boxes[1] < 0.02
    assert row.audit and row.audit.int8 > 0
    assert row.flips and row.flips.of == "boxes" and row.flips.n > 0 and row.flips.changed == 0
    assert "changes 0.0 (0.0 to " in said and "of 1,000 boxes on footage" in said
    check_found(out)
    assert "AP50" in (out / "report.md").read_text()


def test_an_onnx_detector_for_mobile_in_int8(run: Run, tmp_path: Path) -> None:
    _, _, spec = files(tmp_path)
    file, clips = as_onnx(build(), SIDE, tmp_path / "net.onnx"), pictures(tmp_path / "p")
    check_found(for_mobile_in_int8(run, file, spec, clips, tmp_path / "b"))


def test_pictures_without_a_box_judge_nothing(run: Run, tmp_path: Path) -> None:
    """An AP of 0 % that loses 0 points is no figure: nobody said what could have been found."""
    builder, weights, spec = files(tmp_path)
    clips, out = pictures(tmp_path / "p", 24), tmp_path / "b"
    (clips / "boxes.csv").write_text("image,cx,cy,w,h,label\n")
    code, said, err = run("export", builder, "--weights", weights, "--spec", spec, "--clips", clips,
                          "--variant", "onnxruntime-fp32", "--out", out)  # fmt: skip
    assert code == 0, err + said
    row = rows(out)["onnxruntime-fp32"]
    assert row.accuracy is None and row.drop is None
    assert "accuracy is not judged: no true box of a label of the model" in said


def test_labels_of_yolo_judge_as_a_csv_does(run: Run, tmp_path: Path) -> None:
    builder, weights, spec = files(tmp_path)
    found = []
    for name in ("csv", "yolo"):
        clips, out = pictures(tmp_path / name, 24), tmp_path / f"bundle-{name}"
        if name == "yolo":
            as_yolo(clips, ("green", "red"))
        code, said, err = run("export", builder, "--weights", weights, "--spec", spec, "--clips", clips,
                              "--variant", "onnxruntime-fp32", "--out", out)  # fmt: skip
        assert code == 0, err + said
        accuracy = rows(out)["onnxruntime-fp32"].accuracy
        assert accuracy
        found.append((accuracy.value, accuracy.n))
    assert found[0] == found[1] and found[0][1] > 5
