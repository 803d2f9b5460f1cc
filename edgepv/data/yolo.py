"""True boxes as YOLO data sets have them: ``labels/NAME.txt`` for ``images/NAME.jpg``, and names of classes.

A line of a label file is ``class cx cy w h``, the last four as shares of the picture. A file without a line,
and a picture without a file, show nothing. The classes are called as ``names`` of ``data.yaml`` says, or as
the lines of ``classes.txt``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from edgepv.base.optional import need
from edgepv.errors import UsageError

Box: TypeAlias = tuple[float, float, float, float]
IMAGES, LABELS, CLASSES = "images", "labels", "classes.txt"
YAML = (".yaml", ".yml")
NOTES = "notes.json"
"""What Label Studio puts beside them: nothing that is read here."""
BESIDE = (".txt", *YAML)
"""Suffixes of what goes with the pictures."""


def label_file(picture: Path, folder: Path) -> Path | None:
    """Where the boxes of a picture are said, whether or not a file is there; None of one in no ``images``.

    The last folder of that name on its path counts, as for YOLO's own tools.
    """
    inside = list(picture.relative_to(folder).parts)
    place = next((i for i in reversed(range(len(inside) - 1)) if inside[i] == IMAGES), None)
    if place is None:
        return None
    inside[place] = LABELS
    return folder.joinpath(*inside).with_suffix(".txt")


def label_files(folder: Path, pictures: Sequence[Path]) -> list[Path]:
    """Files that say boxes, sorted: those of the pictures, and all others in folders called ``labels``."""
    texts = (p for p in folder.rglob("*.txt") if LABELS in p.relative_to(folder).parts[:-1])
    own = (label_file(picture, folder) for picture in pictures)  # also behind links, where rglob does not go
    return sorted({*(p for p in texts if p.name != CLASSES), *(p for p in own if p and p.is_file())})


def names_file(folder: Path) -> Path:
    """The file that names the classes of a data set. Raises UsageError for none, or several that differ."""
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower() in YAML)
    usual = [p for p in tables if p.stem == "data"]
    found = usual or tables or sorted(folder.rglob(CLASSES))
    if not found:
        raise UsageError(
            f"{folder} has labels/ that say classes by number, and nothing names them. Add data.yaml with "
            f"names, or {CLASSES} with one name a line"
        )
    if len({p.read_bytes() for p in found}) > 1:
        shown = ", ".join(str(p.relative_to(folder)) for p in found)
        raise UsageError(f"{folder} names its classes in several ways: {shown}. Leave one of them")
    return found[0]


def names_of(path: Path) -> tuple[str, ...]:
    """The names of the classes, by their numbers. Raises UsageError for a file that names none."""
    return _named(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _named(path: Path, stamp: int) -> tuple[str, ...]:
    """As ``names_of``, once for a file that was written last at ``stamp``."""
    text = _text(path)
    if path.suffix.lower() not in YAML:
        names: Any = [line.strip() for line in text.rstrip().splitlines()]
    else:
        yaml = need("yaml", extra="compress")
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise UsageError(f"{path} is no YAML: {' '.join(str(e).split())}") from e
        names = data.get("names") if isinstance(data, dict) else None
        if isinstance(names, dict):
            names = [names.get(i) for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise UsageError(
            f"{path} does not name the classes. Give names: a list, or one name for each number from 0"
        )
    return tuple(names)


def boxes(path: Path, names: Sequence[str]) -> Iterator[tuple[str, str, Box]]:
    """(where it stands, label, (cx, cy, w, h)) of each line of a label file.

    Raises UsageError for a line that is no box, or of a class without a name.
    """
    for number, line in enumerate(_text(path).splitlines(), 1):
        where, values = f"{path}, line {number}", line.split()
        if not values:
            continue
        if len(values) != 5:
            raise UsageError(
                f"{where} has {len(values)} values. A box has 5, class cx cy w h: give boxes, not polygons, "
                "and leave scores out"
            )
        try:
            which, (cx, cy, w, h) = int(values[0]), map(float, values[1:])
        except ValueError as e:
            raise UsageError(f"{where}: {e}. Give the class by its number, and cx cy w h") from e
        if not 0 <= which < len(names):
            raise UsageError(
                f"{where}: class {which}; there are names for 0 to {len(names) - 1}. Name it, or mend it"
            )
        yield where, names[which], (cx, cy, w, h)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not UTF-8 ({e.reason}). Save it in UTF-8") from None
