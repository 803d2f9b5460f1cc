"""Labels as YOLO data sets have them are read as boxes, and what cannot be meant is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_detector import as_yolo, pictures

from edgepv.data.annotated import passed_over, survey_boxes, true_boxes
from edgepv.data.clips import clips_digest
from edgepv.errors import UsageError

LABELS = ("person", "dog")
LIST = "path: .\ntrain: images/train\nnc: 3\nnames: ['Person', cat, 'dog']\n"
NUMBERED = "names:\n  0: person\n  1: cat\n  2: dogs\n"
LINES = "person\ncat\ndog\n\n"


def written(folder: Path, name: str, label: str | None) -> None:
    """A picture of 40 x 20 px in a folder ``images``, with its labels where those of YOLO are looked for."""
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(place), np.full((20, 40, 3), 90, np.uint8))
    text = folder / name.replace("images", "labels").replace(".png", ".txt")
    text.parent.mkdir(parents=True, exist_ok=True)
    if label is not None:
        text.write_text(label)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures: with two boxes and one of a cat; with no line; with no file."""
    written(tmp_path, "images/a.b.png", "0 0.5 0.5 0.2 0.4\n2 0.1 0.1 0.2 0.2\n\n1 0.5 0.5 1 1\n")
    written(tmp_path, "images/empty.png", "")
    written(tmp_path, "images/none.png", None)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("data.yaml", LIST),
        ("coco.yml", NUMBERED),
        ("classes.txt", LINES),
        ("labels/classes.txt", LINES),
    ],
)
def test_classes_are_named_by_a_file_and_boxes_by_those_names(folder: Path, file: str, names: str) -> None:
    (folder / file).write_text(names)
    survey = survey_boxes(folder)
    first, *others = survey.clips
    assert [clip.path.name for clip in survey.clips] == ["a.b.png", "empty.png", "none.png"]
    assert first.group == "images/a.b.png" and not survey.left_out
    (said,) = true_boxes(first, [0], LABELS) or ()
    np.testing.assert_allclose(said.boxes, [[0.4, 0.3, 0.6, 0.7], [0, 0, 0.2, 0.2]])
    assert said.labels == ("person", "dog") and not said.crowd.any()
    for clip in others:
        (nothing,) = true_boxes(clip, [0], LABELS) or ()
        assert len(nothing.boxes) == 0
    assert passed_over(survey.clips, LABELS) == ("cat",)


@pytest.mark.parametrize("place", ["images/{}/a.png", "{}/images/a.png", "set/images/{}/images/a.png"])
def test_folders_say_the_split(tmp_path: Path, place: str) -> None:
    (tmp_path / "data.yaml").write_text(LIST)
    for name in ("train", "valid"):
        image = place.format(name)
        text = "/labels/".join(f"/{image}".rsplit("/images/", 1)).removeprefix("/").replace(".png", ".txt")
        for file in (image, text):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / image), np.full((20, 40, 3), 90, np.uint8))
        (tmp_path / text).write_text("0 0.5 0.5 0.2 0.4\n")
    clips = survey_boxes(tmp_path).clips
    assert sorted(str(clip.split) for clip in clips) == ["train", "validation"]
    assert all(len((true_boxes(clip, [0], LABELS) or ())[0].boxes) == 1 for clip in clips)


def test_they_say_the_same_as_a_csv_of_the_same_boxes(tmp_path: Path) -> None:
    table = pictures(tmp_path / "csv", 12)
    numbers = as_yolo(pictures(tmp_path / "yolo", 12), ("green", "red"))
    pairs = list(zip(survey_boxes(table).clips, survey_boxes(numbers).clips, strict=True))
    boxes = 0
    for one, other in pairs:
        (mine,), (theirs,) = ((true_boxes(c, [0], ("red", "green")) or ()) for c in (one, other))
        assert mine.labels == theirs.labels
        np.testing.assert_array_equal(mine.boxes, theirs.boxes)
        boxes += len(mine.boxes)
    assert len(pairs) == 12 and boxes > 6


def test_a_changed_label_or_name_is_another_data_set(folder: Path) -> None:
    digests = []
    for names in (LINES, LINES, "person\ncat\ncow\n"):
        (folder / "classes.txt").write_text(names)
        digests.append(clips_digest(survey_boxes(folder).clips))
    (folder / "labels" / "empty.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    digests.append(clips_digest(survey_boxes(folder).clips))
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_what_has_no_labels_by_its_place_is_told_and_left_out(folder: Path) -> None:
    (folder / "data.yaml").write_text(LIST)
    (folder / "notes.json").write_text("{}")  # Label Studio's
    cv2.imwrite(str(folder / "plot.png"), np.zeros((4, 4, 3), np.uint8))
    (folder / "images" / "film.mp4").write_bytes(b"")
    told = survey_boxes(folder).left_out
    assert "1 in no folder images (the first: plot.png)" in told
    assert "1 of video, for which YOLO has no labels (the first: images/film.mp4)" in told


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels/empty.txt", "0 0.5 0.5 0.2\n", r"empty.txt, line 1 has 4 values. A box has 5"),
        ("labels/empty.txt", "0 0 0 1 0 1 1\n", r"line 1 has 7 values. .*not polygons"),
        ("labels/empty.txt", "0 320 200 64 64\n", r"line 1: the box 320, 200, 64, 64 lies outside"),
        ("labels/empty.txt", "0 nan 0 nan 0\n", r"line 1: the box nan"),
        ("labels/empty.txt", "\nperson 0 0 1 1\n", r"line 2: invalid literal .*Give the class by its number"),
        ("labels/empty.txt", "3 0 0 1 1\n", r"line 1: class 3; there are names for 0 to 2"),
        ("labels/gone.txt", "", r"gone.txt has no picture of its name in images/. Add the picture"),
        ("data.yaml", "names: [a, [b]]\n", r"data.yaml does not name the classes"),
        ("data.yaml", "names: {0: a, 2: b}\n", r"one name for each number from 0"),
        ("data.yaml", "names: [a\n", r"data.yaml is no YAML: .*expected"),
        ("labels/classes.txt", "dog\n", r"classes in several ways: classes.txt, labels/classes.txt"),
        ("persons.csv", "", r"has persons.csv and labels/ as YOLO has them. Leave one"),
    ],
)
def test_what_cannot_be_meant_is_named_before_any_work(
    folder: Path, file: str, text: str, message: str
) -> None:
    (folder / "classes.txt").write_text(LINES)
    (folder / file).write_text(text)
    with pytest.raises(UsageError, match=message) as e:
        survey_boxes(folder)
    assert "\n" not in str(e.value)


def test_numbers_without_names_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing names them. Add data.yaml with names, or classes.txt"):
        survey_boxes(folder)
