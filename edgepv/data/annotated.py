"""Pictures and videos with true boxes: what lies in a folder, and the CSV or COCO JSON that says where.

A CSV has a row for each box: ``image`` (a file below the folder, by its path or its name alone), ``cx, cy, w,
h`` as shares of the picture, and, where they are needed, ``label``, ``frame`` (of a video, from 0), ``crowd``
(1: boxes there are neither right nor wrong), ``group`` and ``split``. Without a column ``label`` the file is
called like its label: persons.csv, person.csv. COCO JSON is that of the data set (Lin et al. 2014); labels of
YOLO are read by ``yolo``.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.data import yolo
from edgepv.data.clips import SPLITS, Clip, Survey, spelling, table_rows, told_by_reason, videos_below
from edgepv.data.video import PICTURES, SUFFIXES
from edgepv.errors import UsageError, unknown

COLUMNS = ("image", "cx", "cy", "w", "h")
MOST_BYTES = 1 << 30  # of an annotation file; COCO's own largest is half of that


@dataclass(frozen=True)
class TrueBoxes:
    """True boxes of one frame. boxes: (N, 4) x1, y1, x2, y2 as shares of the picture. labels: their names.

    crowd: (N,) bool, a box around several things: what is found there is neither right nor wrong.
    """

    boxes: np.ndarray
    labels: tuple[str, ...]
    crowd: np.ndarray


NONE = TrueBoxes(np.zeros((0, 4)), (), np.zeros(0, bool))


@dataclass(frozen=True)
class _Row:
    """One true box. box: cx, cy, w, h as shares of the picture."""

    image: str
    label: str
    box: tuple[float, float, float, float]
    frame: int = 0
    crowd: bool = False
    group: str = ""
    split: str = ""


def survey_boxes(folder: Path) -> Survey:
    """Every picture and video below a folder, sorted by path, with the files that annotate them.

    Annotations are the CSV and JSON files in the folder itself, or the folders ``labels`` of a YOLO data set
    (``edgepv.data.yolo``); of a COCO JSON only the pictures that it lists are taken, of a YOLO data set those
    below ``images``. A picture that a CSV does not name shows nothing. The group is the file itself where no
    row says another. Raises UsageError for a folder without a picture or video, and for annotations that
    cannot be read or name a file that is not there.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. --clips wants a folder of pictures or video clips")
    paths, left_out = videos_below(folder, (*SUFFIXES, *PICTURES), beside=(".csv", ".json", *yolo.BESIDE))
    if not paths:
        told = told_by_reason(left_out)
        raise UsageError(
            f"{folder} holds no picture and no clip. It wants files like .jpg, .png or .mp4"
            + (f". Left out: {told}" if told else "")
        )
    if labels := yolo.label_files(folder, paths):
        pictures = _of_yolo(folder, paths, labels, left_out)
        return Survey(pictures, told_by_reason(left_out))
    notes = annotation_files(folder)
    listed = _listed(notes)
    known = _finder(folder, paths)
    _refuse_absent(folder, paths, notes)
    taken = paths if listed is None else sorted({known(name, notes[0]) for name in listed})
    said: dict[Path, _Row] = {known(row.image, notes[0]): row for row in _rows(notes)}
    clips = tuple(_clip(path, folder, notes, said.get(path)) for path in taken)
    return Survey(clips, told_by_reason(left_out))


def _of_yolo(
    folder: Path, paths: Sequence[Path], labels: Sequence[Path], left_out: dict[str, list[str]]
) -> tuple[Clip, ...]:
    """The pictures of a YOLO data set, each with the file that names classes and, if it has one, its own."""
    tables = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".csv", ".json"))
    if others := [name for name in tables if name != yolo.NOTES]:
        raise UsageError(f"{folder} has {others[0]} and labels/ as YOLO has them. Leave one of them")
    names = yolo.names_file(folder)
    of = {path: yolo.label_file(path, folder) for path in paths}
    if absent := sorted(set(labels) - set(of.values())):
        more = f", nor have {len(absent) - 1} others of the {len(labels)} label files" if absent[1:] else ""
        raise UsageError(
            f"{absent[0]} has no picture of its name in {yolo.IMAGES}/{more}. Add the picture, or remove the "
            "file"
        )
    clips, bare, films = list[Clip](), list[str](), list[str]()
    for path, label in sorted(of.items()):
        if label is None:
            bare.append(str(path.relative_to(folder)))
        elif path.suffix.lower() not in PICTURES:
            films.append(str(path.relative_to(folder)))
        else:
            clips.append(_clip(path, folder, (names, label) if label.is_file() else (names,), None))
    left_out |= {"in no folder images": bare, "of video, for which YOLO has no labels": films}
    for clip in clips:
        list(_rows(clip.truth))  # what is wrong with one is said before any work
    return tuple(clips)


def _refuse_absent(folder: Path, paths: Sequence[Path], notes: tuple[Path, ...]) -> None:
    """Raise UsageError if boxes are said of files that are not there, with how many such files there are."""
    there = {path.name for path in paths}
    named = {Path(row.image).name: row.image for row in _rows(notes)}
    if absent := sorted(named.keys() - there):
        others = (
            f", nor are {len(absent) - 1} others of the {len(named)} that have boxes" if absent[1:] else ""
        )
        raise UsageError(
            f"{notes[0]}: '{named[absent[0]]}' is not below its folder{others}. Give paths from {folder}, or "
            "take out their rows"
        )


def _clip(path: Path, folder: Path, notes: tuple[Path, ...], row: _Row | None) -> Clip:
    inside = path.relative_to(folder)
    by_folder = next((SPLITS[p.lower()] for p in inside.parts[:-1] if p.lower() in SPLITS), None)
    group, split = (row.group, row.split) if row else ("", "")
    if split and split.lower() not in SPLITS:
        raise UsageError(f"{notes[0]}: {unknown('split', split, sorted(SPLITS))}")
    return Clip(path, None, group or str(inside), SPLITS[split.lower()] if split else by_folder, notes)


def annotation_files(folder: Path) -> tuple[Path, ...]:
    """The CSV and JSON files of a folder itself. Raises UsageError for several JSON files, or both kinds."""
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".csv" and not p.name.startswith("."))
    others = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".json" and not p.name.startswith("."))
    if len(others) > 1 or (others and tables):
        names = ", ".join(p.name for p in (*tables, *others))
        raise UsageError(f"{folder} has the annotations {names}. Give CSV files, or one COCO JSON")
    return (*tables, *others)


def true_boxes(clip: Clip, frames: Sequence[int], labels: Sequence[str]) -> tuple[TrueBoxes, ...] | None:
    """What is true of these frames of a clip's file; None where nothing annotates it.

    labels: of the model; boxes of others are passed over. Raises UsageError for annotations of which none has
    a label of the model.
    """
    if not clip.truth:
        return None
    if _is_yolo(clip.truth):
        return tuple(_of_picture(clip.truth, tuple(labels)) for _ in frames)
    by_frame = _by_place(clip.truth, _stamp(clip.truth), tuple(labels)).get(_key(clip.path), {})
    return tuple(by_frame.get(frame, NONE) for frame in frames)


def passed_over(clips: Sequence[Clip], labels: Sequence[str]) -> tuple[str, ...]:
    """Labels of the clips' true boxes that the model has not, by name: it is not judged by those boxes."""
    wanted = {spelling(label): label for label in labels}
    rows = (row for notes in {clip.truth for clip in clips} for row in _rows(notes))
    return tuple(sorted({row.label for row in rows if _label(row.label, wanted) is None}))


def _stamp(notes: tuple[Path, ...]) -> tuple[int, ...]:
    """When the files were written last: what was read of them holds for that."""
    return tuple(path.stat().st_mtime_ns for path in notes)


@functools.lru_cache(maxsize=4)
def _by_place(
    notes: tuple[Path, ...], stamp: tuple[int, ...], labels: tuple[str, ...]
) -> Mapping[Path, Mapping[int, TrueBoxes]]:
    """File -> frame -> its true boxes."""
    folder = notes[0].parent
    known = _finder(folder, videos_below(folder, (*SUFFIXES, *PICTURES))[0])
    wanted = {spelling(label): label for label in labels}
    table: dict[Path, dict[int, list[_Row]]] = defaultdict(lambda: defaultdict(list))
    others: set[str] = set()
    for row in _rows(notes):
        label = _label(row.label, wanted)
        if label is None:
            others.add(row.label)
        else:
            table[_key(known(row.image, notes[0]))][row.frame].append(replace(row, label=label))
    if others and not table:
        raise UsageError(
            f"{notes[0]}: boxes of {', '.join(sorted(others)[:5])}; the model's labels are "
            f"{', '.join(labels[:5])}. Give a column label, or call the file like its label: {labels[0]}.csv"
        )
    return {path: {f: _together(rows) for f, rows in frames.items()} for path, frames in table.items()}


def _of_picture(truth: tuple[Path, ...], labels: tuple[str, ...]) -> TrueBoxes:
    """What the label file of a YOLO data set says of its picture."""
    wanted = {spelling(label): label for label in labels}
    named = [(row, _label(row.label, wanted)) for row in _rows(truth)]
    rows = [replace(row, label=label) for row, label in named if label is not None]
    return _together(rows) if rows else NONE


def _key(path: Path) -> Path:
    return path.resolve()


def _label(name: str, wanted: Mapping[str, str]) -> str | None:
    """The model's label that a name means: itself, or its plural by an s; None for none."""
    spelt = spelling(name)
    return wanted.get(spelt) or wanted.get(spelt.removesuffix("s"))


def _together(rows: Sequence[_Row]) -> TrueBoxes:
    boxes = np.array([row.box for row in rows])
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    return TrueBoxes(corners, tuple(row.label for row in rows), np.array([row.crowd for row in rows]))


def _finder(folder: Path, paths: Sequence[Path]) -> Any:
    """A function from how an annotation calls a file, and its own path, to the file."""
    by_path = {str(path.relative_to(folder)): path for path in paths}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_name[path.name].append(path)

    def known(name: str, where: Path) -> Path:
        there = by_path.get(name)
        alike = by_name.get(Path(name).name, [])
        if there is None and len(alike) != 1:
            what = f"{len(alike)} files are called so" if alike else "is not below its folder"
            raise UsageError(f"{where}: '{name}' {what}. Give its path from {folder}")
        return there or alike[0]

    return known


def _is_yolo(notes: Sequence[Path]) -> bool:
    """Whether these are the names of classes and the label file of a picture."""
    return bool(notes) and notes[0].suffix.lower() in yolo.BESIDE


def _rows(notes: tuple[Path, ...]) -> Iterator[_Row]:
    if _is_yolo(notes):
        yield from _yolo_rows(notes[0], notes[1:])
        return
    for path in notes:
        yield from _coco_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)


def _listed(notes: tuple[Path, ...]) -> list[str] | None:
    """The pictures that a COCO JSON lists; None for CSV files, which stand for all there are."""
    if not notes or notes[0].suffix.lower() == ".csv":
        return None
    return [str(image["file_name"]) for image in _coco(notes[0])["images"]]


def _csv_rows(path: Path) -> Iterator[_Row]:
    for number, row in enumerate(table_rows(path, COLUMNS, ("label", "frame", "crowd", "group", "split")), 2):
        try:
            cx, cy, w, h = (float(row[name]) for name in COLUMNS[1:])
            frame = int(row["frame"] or 0)
        except ValueError as e:
            raise UsageError(f"{path}, row {number}: {e}. Give cx, cy, w, h as numbers") from e
        _refuse_outside((cx, cy, w, h), f"{path}, row {number}")
        if frame < 0:
            raise UsageError(f"{path}, row {number}: frame {frame}. Give frames from 0 on")
        label, crowd = row["label"] or path.stem, row["crowd"] == "1"
        yield _Row(row["image"], label, (cx, cy, w, h), frame, crowd, row["group"], row["split"])


def _yolo_rows(names: Path, labels: Sequence[Path]) -> Iterator[_Row]:
    called = yolo.names_of(names) if labels else ()
    for path in labels:
        for where, label, box in yolo.boxes(path, called):
            _refuse_outside(box, where)
            yield _Row("", label, box)


def _refuse_outside(box: yolo.Box, where: str) -> None:
    """Raise UsageError for a box that has no size or lies far from the picture."""
    cx, cy, w, h = box
    if not (0 < w <= 2 and 0 < h <= 2 and -1 <= cx <= 2 and -1 <= cy <= 2):
        raise UsageError(
            f"{where}: the box {cx:g}, {cy:g}, {w:g}, {h:g} lies outside of the picture. "
            "Give the centre and the sides as shares of its width and height, 0 to 1"
        )


def _coco_rows(path: Path) -> Iterator[_Row]:
    data = _coco(path)
    try:
        images = {image["id"]: image for image in data["images"]}
        names = {one["id"]: str(one["name"]) for one in data["categories"]}
        for one in data["annotations"]:
            image = images[one["image_id"]]
            x, y, w, h = (float(v) for v in one["bbox"])
            wide, tall = float(image["width"]), float(image["height"])
            box = ((x + w / 2) / wide, (y + h / 2) / tall, w / wide, h / tall)
            yield _Row(str(image["file_name"]), names[one["category_id"]], box, 0, bool(one.get("iscrowd")))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as e:
        raise UsageError(f"{path} is no COCO JSON of boxes: {type(e).__name__} {e}") from e


def _coco(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_text(path))
        if isinstance(data["images"], list) and isinstance(data["annotations"], list):
            return dict(data)
    except (KeyError, TypeError, ValueError) as e:
        raise UsageError(f"{path} is no COCO JSON: {type(e).__name__} {e}") from e
    raise UsageError(f"{path} is no COCO JSON: images and annotations are lists there")


def _text(path: Path) -> str:
    """Raises UsageError for what is no UTF-8, or larger than any annotation."""
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES >> 30} GiB. Give the boxes of fewer pictures")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not UTF-8 ({e.reason}). Save it in UTF-8") from None
