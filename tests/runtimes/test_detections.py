"""A detector's answers reach sessions and records as boxes of the camera's picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from detectors import constant_net, grid_answer, grid_spec

from edgepv.export.from_onnx import read_onnx
from edgepv.runtimes import open_session
from edgepv.runtimes.records import answer_fields, record

FRAME = np.zeros((36, 64, 3), np.uint8)
"""Fills the upper 36 lines of the 64 that the model sees."""


def test_a_session_finds_boxes_in_shares_of_the_picture(tmp_path: Path) -> None:
    spec = grid_spec()
    answer = grid_answer(spec, [(20, 18, 16, 18, 1, 0.75), (52, 18, 8, 8, 0, 0.9)])
    variant, _ = read_onnx(constant_net(tmp_path / "net.onnx", spec, answer), spec, tmp_path / "float.onnx")
    with open_session(variant, tmp_path) as session:
        said = session.step(FRAME)
    assert said.label is None and said.valid and said.detections is not None
    np.testing.assert_allclose(said.detections.boxes[1], [12 / 64, 9 / 36, 28 / 64, 27 / 36], atol=1e-6)
    assert answer_fields(said, spec) == {
        "boxes": [
            {"label": "person", "score": 0.9, "box": [0.75, 0.3889, 0.875, 0.6111], "id": None},
            {"label": "dog", "score": 0.75, "box": [0.1875, 0.25, 0.4375, 0.75], "id": None},
        ]
    }
    followed = replace(said, detections=replace(said.detections, ids=np.array([7, -1])))
    assert [box["id"] for box in answer_fields(followed, spec)["boxes"]] == [7, None]


def test_a_record_before_the_first_answer_has_no_boxes() -> None:
    said = record(
        None, grid_spec(), camera="c", number=0, frame=0, time_s=0.0, latency_ms=0.0, variant="v", stale=True
    )
    assert said["boxes"] == [] and "label" not in said
