"""Pictures with true boxes are read from CSV and COCO JSON, and what cannot be meant is named."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectors import grid_spec

from edgepv.data.annotated import passed_over, survey_boxes, true_boxes
from edgepv.data.clips import clips_digest
from edgepv.data.frames import model_frames
from edgepv.data.truth import eval_clip
from edgepv.errors import UsageError

LABELS = ("person", "dog")
ROW = "a.png,0.5,0.5,0.2,0.4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, 40 x 20 and 20 x 40 px, in a folder below."""
    (tmp_path / "pictures").mkdir()
    for name, shape in (("a.png", (20, 40, 3)), ("b.png", (40, 20, 3))):
        cv2.imwrite(str(tmp_path / "pictures" / name), np.full(shape, 90, np.uint8))
    return tmp_path


def test_a_csv_called_like_its_label(folder: Path) -> None:
    (folder / "persons.csv").write_text(f"image,cx,cy,w,h\n{ROW}\n")
    (folder / "dog.csv").write_text("image,cx,cy,w,h,crowd\npictures/a.png,0.1,0.1,0.2,0.2,1\n")
    a, b = survey_boxes(folder).clips
    assert (a.path.name, b.path.name) == ("a.png", "b.png") and a.group == "pictures/a.png"
    said, nothing = (true_boxes(clip, [0], LABELS) for clip in (a, b))
    assert said is not None and nothing is not None
    np.testing.assert_allclose(said[0].boxes, [[0, 0, 0.2, 0.2], [0.4, 0.3, 0.6, 0.7]])
    assert said[0].labels == ("dog", "person") and said[0].crowd.tolist() == [True, False]
    assert len(nothing[0].boxes) == 0


def test_labels_groups_and_splits_are_columns(folder: Path) -> None:
    (folder / "boxes.csv").write_text(f"image,cx,cy,w,h,label,group,split\n{ROW},Dog,roof,test\n")
    a, b = survey_boxes(folder).clips
    assert (a.group, a.split, b.split) == ("roof", "test", None)
    assert [t.labels for t in true_boxes(a, [0], LABELS) or ()] == [("dog",)]


def test_a_coco_file_lists_its_pictures(folder: Path) -> None:
    data = {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 20}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 5, 20, 10], "iscrowd": 0},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 4, 4]},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(data))
    (a,) = survey_boxes(folder).clips
    said = true_boxes(a, [0], LABELS)
    assert said is not None and said[0].labels == ("person",)
    np.testing.assert_allclose(said[0].boxes, [[0.25, 0.25, 0.75, 0.75]])


def test_a_picture_is_a_clip_of_one_frame(folder: Path) -> None:
    clip = survey_boxes(folder).clips[0]
    shown = eval_clip(clip, grid_spec())
    assert shown.frames.shape == (1, 3, 64, 64) and shown.size == (20, 40) and shown.truth is None
    np.testing.assert_array_equal(shown.frames, model_frames(clip.path, grid_spec()))


def test_the_digest_of_clips_knows_their_boxes(folder: Path) -> None:
    bare = clips_digest(survey_boxes(folder).clips)
    (folder / "persons.csv").write_text(f"image,cx,cy,w,h\n{ROW}\n")
    one = clips_digest(survey_boxes(folder).clips)
    (folder / "persons.csv").write_text(f"image,cx,cy,w,h\n{ROW}1\n")
    assert len({bare, one, clips_digest(survey_boxes(folder).clips)}) == 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("persons.csv", "image,cx,cy,w\n", "column 'h' is missing"),
        ("persons.csv", "image,cx,cy,w,h\na.png,320,200,64,64\n", "row 2: the box 320, 200, 64, 64 lies"),
        ("persons.csv", "image,cx,cy,w,h\na.png,x,0,1,1\n", "row 2: could not convert"),
        ("persons.csv", "image,cx,cy,w,h,frame\na.png,0,0,1,1,-1\n", "row 2: frame -1. Give frames from 0"),
        ("persons.csv", "image,cx,cy,w,h\nc.png,0,0,1,1\n", "'c.png' is not below its folder. Give"),
        (
            "persons.csv",
            f"image,cx,cy,w,h\n{ROW}\nd.png,0,0,1,1\nc.png,0,0,1,1\n",
            "'c.png' is not below its folder, nor are 1 others of the 3 that have boxes",
        ),
        ("persons.csv", "image,cx,cy,w,h,split\na.png,0,0,1,1,tset\n", "unknown split 'tset'"),
        ("cats.csv", f"image,cx,cy,w,h\n{ROW}\n", "boxes of cats; the model's labels are person, dog"),
        ("a.json", "[]", "a.json is no COCO JSON"),
        (
            "a.json",
            '{"images": [], "annotations": [{}], "categories": []}',
            "no COCO JSON of boxes: KeyError",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        true_boxes(survey_boxes(folder).clips[0], [0], LABELS)


def test_labels_that_the_model_has_not_are_told(folder: Path) -> None:
    (folder / "boxes.csv").write_text(f"image,cx,cy,w,h,label\n{ROW},Dogs\n{ROW},persn\n{ROW},cat\n")
    assert passed_over(survey_boxes(folder).clips, LABELS) == ("cat", "persn")


def test_csv_and_json_side_by_side_are_refused(folder: Path) -> None:
    (folder / "persons.csv").write_text("image,cx,cy,w,h\n")
    (folder / "a.json").write_text("{}")
    with pytest.raises(UsageError, match="Give CSV files, or one COCO JSON"):
        survey_boxes(folder)
