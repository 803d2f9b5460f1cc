"""A user's detector is exported as any model: judged by AP50, in INT8, from torch and from ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import Run
from tiny_detector import build, files, pictures

import edgepv
from edgepv.types import Measurement, Report, decode

pytestmark = pytest.mark.slow


def rows(folder: Path) -> dict[str, Measurement]:
    return {r.variant: r for r in decode(Report, json.loads((folder / "measured.json").read_text())).rows}


def found(folder: Path, picture: np.ndarray) -> list[tuple[str, list[float]]]:
    with edgepv.open(folder) as session:
        said = session.step(picture).detections
        labels = session.variant.spec.labels
    assert said is not None
    return [(labels[i], box.round(2).tolist()) for i, box in zip(said.labels, said.boxes)]


def picture() -> np.ndarray:
    """A green square in the second row of cells, the sixth column of 8."""
    image = np.full((64, 128, 3), 20, np.uint8)
    image[16:32, 80:96] = (30, 230, 30)
    return image


def test_a_torch_detector_for_cpu_in_int8(run: Run, tmp_path: Path) -> None:
    builder, weights, spec = files(tmp_path)
    clips, out = pictures(tmp_path / "p"), tmp_path / "b"
    code, said, err = run("export", builder, "--weights", weights, "--spec", spec, "--clips", clips,
                          "--variant", "onnxruntime-int8", "--max-drop", 1, "--out", out)  # fmt: skip
    assert code == 0, err + said
    row = rows(out)["onnxruntime-int8"]
    assert row.accuracy and row.accuracy.value == 1.0 and row.accuracy.metric == "ap50"
    assert row.drop and row.drop.verdict == "pass" and row.drop.unit == "points"
    assert row.parity and row.parity.boxes and row.parity.boxes[0] == 1.0 and row.parity.boxes[1] < 0.02
    assert row.audit and row.audit.int8 > 0
    assert found(out, picture()) == [("green", [0.62, 0.25, 0.75, 0.5])]
    assert "AP50" in (out / "report.md").read_text()
    cv2.imwrite(str(tmp_path / "one.png"), picture())
    code, said, err = run("run", out, "--source", tmp_path / "one.png", "--jsonl", "-")
    assert code == 0, err


def test_an_onnx_detector_for_mobile_in_int8(run: Run, tmp_path: Path) -> None:
    _, _, spec = files(tmp_path)
    file, out = tmp_path / "net.onnx", tmp_path / "b"
    torch.onnx.export(build().eval(), (torch.rand(1, 3, 64, 64),), file, input_names=["picture"],
                      output_names=["y"], dynamo=False, opset_version=13)  # fmt: skip
    code, said, err = run("export", file, "--spec", spec, "--clips", pictures(tmp_path / "p"),
                          "--target", "mobile", "--precision", "int8", "--out", out)  # fmt: skip
    assert code == 0, err + said
    row = rows(out)["litert-int8-conv"]
    assert row.accuracy and row.accuracy.value == 1.0
    assert found(out, picture()) == [("green", [0.62, 0.25, 0.75, 0.5])]
