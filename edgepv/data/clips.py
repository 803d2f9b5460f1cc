"""Clips: what of a video a model sees, and labelled videos in a folder."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepv.base.files import digest, sha256
from edgepv.data.video import SUFFIXES
from edgepv.errors import UsageError, unknown

SPLITS = {
    "train": "train",
    "training": "train",
    "calibration": "calibration",
    "calib": "calibration",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "evaluation": "evaluation",
    "eval": "evaluation",
    "test": "test",
    "testing": "test",
}
"""What people call the parts of a data set, and what they are here."""
_LITTER = ("thumbs.db", "desktop.ini")
SHOWN_LABELS = 5
"""Labels that a message names."""


@dataclass(frozen=True)
class Clip:
    """One video file on disk. ``label`` is None where nobody labelled it.

    group: clips of one group share footage, so they never stand on two sides of a split. truth: the files
    that say what boxes are in it, see ``edgepv.data.annotated``, or its masks, see ``edgepv.data.masked``.
    """

    path: Path
    label: str | None
    group: str
    split: str | None = None
    truth: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What a folder holds.

    left_out: how many of its files are no clips and why, the first by name, as "2 hidden (the first:
    ._a.mp4); 1 ..."; "" for none.
    """

    clips: tuple[Clip, ...]
    left_out: str = ""


def find_clips(folder: Path, labels: tuple[str, ...]) -> list[Clip]:
    """The clips that ``survey`` finds, for folders of which nothing has to be said."""
    return list(survey(folder, labels).clips)


def survey(folder: Path, labels: tuple[str, ...]) -> Survey:
    """Every clip of a folder, sorted by path, and what else lies there.

    With a ``manifest.csv`` (columns path, label, split, group) its rows whose label is in ``labels``, or all
    rows without labels. Otherwise the videos below the folder and below folders that are linked there: the
    label is the nearest folder above that is called like one of ``labels``, in whatever case, the split is
    the first other one of ``SPLITS`` on the path, the group is the file itself.
    Raises UsageError if the folder is missing or holds no clip.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. --clips wants a folder of video clips")
    manifest = folder / "manifest.csv"
    listing = _from_manifest(manifest, labels) if manifest.is_file() else _from_tree(folder, labels)
    if not listing.clips:
        told = f" Left out: {listing.left_out}" if listing.left_out else ""
        raise UsageError(
            f"{folder} holds no clip for the labels {', '.join(labels)}. Put clips into one "
            f"sub-folder per label, or list them in manifest.csv.{told}"
            if labels
            else f"{folder} holds no clip. It wants video files: {', '.join(SUFFIXES)}.{told}"
        )
    for clip in listing.clips:
        if not clip.path.is_file() and (clip.path.exists() or clip.path.is_symlink()):
            raise UsageError(f"{clip.path} is no plain file, or a link to nothing. Remove it from the clips")
        if _surrogates(str(clip.path)):
            raise UsageError(f"{os.fsencode(clip.path)!r}: the name is not UTF-8. Rename it")
    return Survey(tuple(sorted(listing.clips, key=lambda c: str(c.path))), listing.left_out)


def _surrogates(text: str) -> bool:
    """Whether a file's name had bytes that are not UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)


COLUMNS = ("path", "label", "split", "group")


def manifest_rows(manifest: Path, more: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a manifest.csv, ``COLUMNS`` without blanks around them; a group left out is the path.

    more: further columns that are wanted. Raises UsageError for a file that is no UTF-8 CSV, a missing
    column, a row without a path, and a path that stands there twice: it could train and test at once.
    """
    rows = table_rows(manifest, (*COLUMNS, *more))
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        path = os.path.normpath(row["path"])
        if not row["path"] or path in seen:
            what = f"'{row['path']}' stands there twice" if row["path"] else "no path"
            raise UsageError(f"{manifest}, row {number}: {what}. Give every clip one row")
        seen.add(path)
    return [row | {"group": row["group"] or row["path"]} for row in rows]


def table_rows(path: Path, columns: Sequence[str], more: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file, its columns without blanks around them; "" where one of ``more`` is not there.

    Raises UsageError for a file that is no UTF-8, and for one of ``columns`` that is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not UTF-8 ({e.reason}). Save it as CSV in UTF-8") from None
    table = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    named = [(name or "").strip().lower() for name in table.fieldnames or ()]
    if missing := [c for c in columns if c not in named]:
        raise UsageError(
            f"{path}: column '{missing[0]}' is missing. It needs {', '.join(columns)}, with commas "
            f"between; found: {', '.join(named) or 'nothing'}"
        )
    table.fieldnames = named
    return [{c: (row.get(c) or "").strip() for c in (*columns, *more)} for row in table]


def _from_manifest(manifest: Path, labels: tuple[str, ...]) -> Survey:
    known = label_finder(labels)
    clips, others = [], []
    for row in manifest_rows(manifest):
        label = known(row["label"]) if labels else row["label"] or None
        if labels and label is None and row["label"] not in labels:
            others.append(f"{row['path']}, '{row['label']}'")
            continue
        path = _as_on_disk(manifest.parent, row["path"])
        clips.append(Clip(path, label, row["group"], split_named(row["split"], manifest)))
    return Survey(tuple(clips), told_by_reason({"of a label that the model does not have": others}))


def _as_on_disk(folder: Path, name: str) -> Path:
    """A file as its name is spelt there; another system may compose accents or write backslashes."""
    spelt = [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    spelt += [text.replace("\\", "/") for text in spelt]
    return next((folder / text for text in spelt if (folder / text).exists()), folder / name)


def label_finder(labels: Iterable[str]) -> Callable[[str], str | None]:
    """A function from the name of a folder to the label that it means.

    The same text, else the same but for case and for how accents are composed (macOS takes them apart), where
    that is one label alone; None for no label.
    """
    exact = set(labels)
    alike: dict[str, list[str]] = {}
    for label in sorted(exact):
        alike.setdefault(spelling(label), []).append(label)

    def known(name: str) -> str | None:
        near = alike.get(spelling(name), [])
        return name if name in exact else near[0] if len(near) == 1 else None

    return known


def spelling(name: str) -> str:
    """The same for names that differ in case or in how accents are composed only."""
    return unicodedata.normalize("NFC", name).casefold()


def told_by_reason(reasons: dict[str, list[str]]) -> str:
    """ "3 hidden (the first: fight/._a.mp4)", and so on for every reason that something has."""
    there = {what: names for what, names in reasons.items() if names}
    return "; ".join(f"{len(names)} {what} (the first: {min(names)})" for what, names in there.items())


def as_manifest(clips: Sequence[Clip]) -> str:
    """The manifest.csv that ``find_clips`` reads as these clips; its paths are absolute, for any folder."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows((c.path.absolute(), c.label, c.split, c.group) for c in clips)
    return text.getvalue()


def split_named(name: str, manifest: Path) -> str | None:
    """The split a manifest names, None for none. Raises UsageError for a name nobody knows."""
    if name and name.lower() not in SPLITS:
        raise UsageError(f"{manifest}: {unknown('split', name, sorted(SPLITS))}")
    return SPLITS[name.lower()] if name else None


def _from_tree(folder: Path, labels: tuple[str, ...]) -> Survey:
    known = label_finder(labels)
    paths, left_out = videos_below(folder)
    clips = []
    for path in paths:
        inside = path.relative_to(folder)
        label, split = _meant(inside.parts[:-1], known)
        clips.append(Clip(path, label, str(inside), split))
    return Survey(tuple(clips), told_by_reason(left_out))


def _meant(folders: Sequence[str], known: Callable[[str], str | None]) -> tuple[str | None, str | None]:
    """(label, split) of a clip in these folders, outermost first."""
    places = [i for i, name in enumerate(folders) if known(name) is not None]
    others = [name.lower() for i, name in enumerate(folders) if i not in places[-1:]]
    split = next((SPLITS[name] for name in others if name in SPLITS), None)
    return (known(folders[places[-1]]) if places else None), split


def videos_below(
    folder: Path, suffixes: Sequence[str] = SUFFIXES, beside: Sequence[str] = ()
) -> tuple[list[Path], dict[str, list[str]]]:
    """(videos in a folder and all below it, what else lies there by reason).

    suffixes: of what is taken. beside: of what goes with it, and is not told. Linked folders are entered,
    after all others, so that none is read twice.
    """
    videos: list[Path] = []
    reasons: dict[str, list[str]] = {
        "hidden": [],
        "no video by the name": [],
        "linked to a folder that is read already": [],
        "not readable": [],
    }
    hidden, others, twice, closed = reasons.values()
    seen: set[tuple[int, int]] = set()
    waiting: list[Path] = [folder]
    linked: list[Path] = []
    while waiting or linked:
        here = waiting.pop() if waiting else linked.pop(0)
        facts = here.stat()
        if (facts.st_dev, facts.st_ino) in seen:
            twice.append(str(here.relative_to(folder)))
            continue
        seen.add((facts.st_dev, facts.st_ino))
        try:
            inside = sorted(here.iterdir())
        except OSError:
            closed.append(str(here.relative_to(folder)))
            continue
        for path in inside:
            name = str(path.relative_to(folder))
            if path.name.startswith(".") or path.name.lower() in _LITTER:
                hidden.append(name)
            elif path.is_dir():
                (linked if path.is_symlink() else waiting).append(path)
            elif path.suffix.lower() in suffixes:
                videos.append(path)
            elif path.suffix.lower() not in beside and not _beside(path):
                others.append(name)
    return videos, reasons


def _beside(path: Path) -> bool:
    """Whether a file goes with a video of its name, as true points do."""
    return path.suffix == ".npz" and any(path.with_suffix(s).exists() for s in SUFFIXES)


def unheld(held_out: Iterable[Clip], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that no held-out clip carries, while others have some: nothing shows what those lost."""
    there = {c.label for c in held_out if c.label}
    return tuple(label for label in labels if label not in there) if there else ()


def unlabelled_told(clips: Sequence[Clip]) -> str:
    """ "3 clips lie in no folder of a label (the first: a/1.mp4)"; "" where all or none have one."""
    bare = [str(c.path) for c in clips if c.label is None]
    if not bare or len(bare) == len(clips):
        return ""
    return f"{len(bare)} of {len(clips)} clips lie in no folder of a label (the first: {min(bare)})"


def unheld_told(held_out: Iterable[Clip], labels: Sequence[str], what: str = "held-out") -> str:
    """ "no held-out clip shows 'a' (1 of 2 labels)"; "" where ``unheld`` finds none."""
    bare = unheld(held_out, labels)
    shown = ", ".join(f"'{label}'" for label in bare[:SHOWN_LABELS])
    more = f" and {len(bare) - SHOWN_LABELS} more" if len(bare) > SHOWN_LABELS else ""
    return f"no {what} clip shows {shown}{more} ({len(bare)} of {len(labels)} labels)" if bare else ""


def clips_digest(clips: Sequence[Clip], *, ordered: bool = False) -> str:
    """SHA-256 of the clips' bytes and labels, wherever they lie; the same in any order unless ``ordered``.

    Order counts where something goes through the clips one after the other: training, ranges, answers.
    """
    rows = [(sha256(clip.path), clip.label, *map(sha256, clip.truth)) for clip in clips]
    return digest(rows if ordered else sorted((data, label or "", *truth) for data, label, *truth in rows))
