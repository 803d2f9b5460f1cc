"""Boxes are read from every coding, without doubles, and lie where the camera's picture has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from detectors import SIDE, grid_answer, grid_spec

from edgepv.data.boxes import Detections, detections, in_picture, placed, without_doubles
from edgepv.data.frames import at_model_size, preprocess
from edgepv.types import BoxSpec, ModelSpec, TensorSpec

SQUARE = (SIDE, SIDE)


def said(spec: ModelSpec, *values: np.ndarray, size: tuple[int, int] = SQUARE) -> Detections:
    return detections(spec, {a.name: v for a, v in zip(spec.answers, values, strict=True)}, size)


def other(spec: ModelSpec, how: BoxSpec, *shapes: tuple[int, ...]) -> ModelSpec:
    names = ("boxes", "scores", "classes")
    return replace(spec, boxes=how, outputs=tuple(TensorSpec(n, s) for n, s in zip(names, shapes)))


def test_a_grid_says_where_its_box_is() -> None:
    spec = grid_spec()
    found = said(spec, grid_answer(spec, [(20, 36, 16, 32, 1, 0.75)]))
    np.testing.assert_allclose(found.boxes, [[12 / 64, 20 / 64, 28 / 64, 52 / 64]], atol=1e-6)
    assert found.labels.tolist() == [1] and found.ids.tolist() == [-1]
    np.testing.assert_allclose(found.scores, [0.75])


def test_the_second_stride_follows_the_first_row_by_row() -> None:
    spec = grid_spec()
    rows = np.zeros((80, 7), np.float32)
    rows[64 + 4 * 2 + 1] = 0.5, 0.5, 0, 0, 1, 0, 0.9  # row 2, column 1 of 16 px: centre (24, 40), 16 x 16
    np.testing.assert_allclose(said(spec, rows).boxes, [[16 / 64, 32 / 64, 32 / 64, 48 / 64]], atol=1e-6)


@pytest.mark.parametrize("place", ["corner", "centre"])
@pytest.mark.parametrize("size", [(48, 96), (96, 48), (64, 64), (30, 31)])
def test_a_letterbox_is_undone(size: tuple[int, int], place: Any) -> None:
    """A white block in a black picture is found where it was, whatever the padding."""
    spec = grid_spec(place=place, pad=0)
    picture = np.zeros((*size, 3), np.uint8)
    top, left = size[0] // 4, size[1] // 4
    picture[top : 3 * size[0] // 4, left : 3 * size[1] // 4] = 255
    seen = at_model_size(picture, spec)
    assert seen.shape == (SIDE, SIDE, 3)
    rows, columns = np.nonzero(seen[:, :, 0] > 127)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], float)
    wanted = [left / size[1], top / size[0], (3 * size[1] // 4) / size[1], (3 * size[0] // 4) / size[0]]
    np.testing.assert_allclose(in_picture(box, spec, size), [wanted], atol=1.1 / min(placed(spec, size)[2:]))


def test_the_padding_is_grey_and_in_its_place() -> None:
    picture = np.full((32, 64, 3), 255, np.uint8)
    corner = at_model_size(picture, grid_spec())
    assert (corner[:32] == 255).all() and (corner[32:] == 114).all()
    centre = at_model_size(picture, grid_spec(place="centre", pad=0))
    assert (centre[16:48] == 255).all() and (centre[:16] == 0).all() and (centre[48:] == 0).all()
    assert (at_model_size(picture, grid_spec(fit="stretch")) == 255).all()


def test_pixels_of_0_to_255_reach_the_model() -> None:
    spec = replace(grid_spec(), std=(1 / 255,) * 3)
    np.testing.assert_allclose(preprocess(np.full((8, 8, 3), 200, np.uint8), spec), 200, rtol=1e-5)


def test_a_box_in_the_padding_is_nowhere_and_others_are_clipped() -> None:
    spec = grid_spec()
    answer = grid_answer(spec, [(20, 60, 8, 8, 0, 0.9), (4, 4, 16, 16, 0, 0.8)])
    found = said(spec, answer, size=(32, 64))
    np.testing.assert_allclose(found.boxes, [[0, 0, 12 / 64, 12 / 32]], atol=1e-6)


def test_doubles_go_label_by_label_and_each_label_has_its_limit() -> None:
    spec = grid_spec(score_of={"dog": 0.7})
    boxes = [
        (20, 20, 16, 16, 0, 0.9),
        (28, 20, 30, 16, 0, 0.8),
        (22, 28, 16, 16, 1, 0.6),
        (50, 50, 8, 8, 1, 0.7),
    ]
    found = said(spec, grid_answer(spec, boxes))
    assert found.labels.tolist() == [0, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert len(said(grid_spec(nms=0.2), grid_answer(spec, boxes))) == 3  # 0.9 takes 0.8; both dogs stay
    assert len(said(grid_spec(most=1), grid_answer(spec, boxes))) == 1


def test_the_surer_of_two_stays_at_any_scale() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], float)
    scores, labels = np.array([0.5, 0.6, 0.4]), np.array([0, 0, 0])
    for scale in (1, 1 / 640):
        assert without_doubles(scale * boxes, scores, labels, 0.5).tolist() == [1, 2]
    assert without_doubles(boxes, scores, np.array([0, 1, 0]), 0.5).tolist() == [1, 0, 2]
    assert without_doubles(boxes[:0], scores[:0], labels[:0], 0.5).tolist() == []


def test_anchors_of_yolo_v3() -> None:
    how = BoxSpec("anchors", strides=(32,), anchors=(((10.0, 20.0), (30.0, 40.0)),), scores="sigmoid")
    rows = np.full((8, 7), -9, np.float32)
    rows[2 * 1 + 1] = 0, 0, 0, np.log(0.5), 9, 9, -9  # row 0, column 1, second anchor
    found = said(other(grid_spec(), how, (1, 8, 7)), rows)
    np.testing.assert_allclose(found.boxes, [[33 / 64, 6 / 64, 63 / 64, 26 / 64]], atol=1e-5)
    assert found.labels.tolist() == [0]


def test_anchors_of_ssd_with_a_background() -> None:
    how = BoxSpec("anchors", strides=(32,), anchors=(((20.0, 10.0),),), variances=(0.1, 0.2),
                  scores="softmax", background="first")  # fmt: skip
    boxes = np.zeros((4, 4), np.float32)
    boxes[3] = 1, -1, 5 * np.log(2), 0
    scores = np.tile(np.array([9, 0, 0], np.float32), (4, 1))
    scores[3] = 0, 0, 9
    spec = other(grid_spec(), how, (1, 4, 4), (1, 4, 3))
    found = said(spec, boxes, scores)
    np.testing.assert_allclose(found.boxes, [[30 / 64, 42 / 64, 1, 52 / 64]], atol=1e-5)
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize(("form", "unit"), [("xyxy", "px"), ("cxcywh", "shares")])
def test_decoded_boxes_in_columns_or_with_classes(form: Any, unit: Any) -> None:
    how = BoxSpec("decoded", form=form, unit=unit)
    box = np.array([[16, 8, 48, 24]] if form == "xyxy" else [[0.5, 0.25, 0.5, 0.25]], np.float32)
    scores = np.array([[0.2, 0.9]], np.float32)
    columns = said(other(grid_spec(), how, (1, 6, 1)), np.concatenate([box, scores], 1).T)
    two = said(other(grid_spec(), how, (1, 1, 4), (1, 1, 2)), box, scores)
    three = said(other(grid_spec(), how, (1, 1, 4), (1, 1), (1, 1)), box, scores[0, 1:], np.ones(1))
    for found in (columns, two, three):
        np.testing.assert_allclose(found.boxes, [[0.25, 0.125, 0.75, 0.375]])
        assert found.labels.tolist() == [1] and found.scores.tolist() == pytest.approx([0.9])
