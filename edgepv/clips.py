"""Clips: what of a video a model sees, and labelled videos in a folder."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepv.base.optional import need
from edgepv.degrade import SIGMA, noisy, rounded, smaller
from edgepv.errors import UsageError, unknown
from edgepv.types import ModelSpec
from edgepv.video import SUFFIXES, open_video, taken

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

    group: clips of one group share footage, so they never stand on two sides of a split.
    """

    path: Path
    label: str | None
    group: str
    split: str | None = None


def check_frame(frame: np.ndarray) -> None:
    """Raise UsageError unless ``frame`` is (H, W, 3) uint8 with at least one pixel."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise UsageError(
            f"a frame must be (H, W, 3) uint8 BGR, got {frame.shape} {frame.dtype}. Convert it first"
        )


def preprocess(frame: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """One camera frame as the model wants it.

    frame: (H, W, 3) uint8 BGR. Returns (1, C, h, w) float32: the whole frame resized with area
    interpolation (aspect is not kept), colour order or grey (OpenCV's BGR2GRAY) and (x / 255 - mean) / std
    from the spec.
    """
    frame = at_model_size(frame, spec)
    if spec.colour == "rgb":
        frame = frame[:, :, ::-1]
    elif spec.colour == "grey":
        frame = in_grey(frame)[:, :, :1]
    scale = np.float32(1 / 255) / np.asarray(spec.std, np.float32)
    shift = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray((frame * scale - shift).transpose(2, 0, 1)[None], np.float32)


def at_model_size(frame: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """A camera frame (H, W, 3) uint8 resized to what the model takes, (h, w, 3) uint8."""
    cv2 = need("cv2", extra="cpu")
    height, width = spec.input.shape[-2:]
    check_frame(frame)
    if frame.shape[:2] == (height, width):
        return frame
    resized: np.ndarray = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return resized


def in_grey(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 BGR without its colour: three equal channels."""
    cv2 = need("cv2", extra="cpu")
    grey: np.ndarray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return np.repeat(grey[:, :, None], 3, 2)


def pictures(spec: ModelSpec, rows: np.ndarray) -> np.ndarray:
    """A restorer's answers (T, C, H, W) as pictures (T, H, W, 3), uint8 BGR; grey ones in three channels."""
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (spec.mean, spec.std))
    plain = np.rint(np.clip(rows * std + mean, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    if spec.colour == "grey":
        return np.repeat(plain, 3, -1)
    return plain[..., ::-1] if spec.colour == "rgb" else plain


def model_frames(path: Path, spec: ModelSpec, most: int | None = None) -> np.ndarray:
    """A clip as the model sees it: (T, C, h, w) float32, at its frame rate, degraded for a restorer."""
    frames = degraded(clean_frames(path, spec, most), spec)
    return np.concatenate([preprocess(frame, spec) for frame in frames])


def clean_frames(
    path: Path,
    spec: ModelSpec,
    most: int | None = None,
    *,
    doubt: Callable[[str], None] = lambda why: None,
) -> list[np.ndarray]:
    """Frames (h, w, 3) uint8 BGR at the model's rate, of the size that it takes; for a restorer of the size
    of its answer, and as colourless as that, where it is known what it undoes. Nothing else of the video is
    held in memory, and after ``most`` frames no more is read. doubt: is told of a video that may not be whole
    or whose rate is not known.

    Raises UsageError like ``edgepv.video.open_video``.
    """
    cv2 = need("cv2", extra="cpu")
    height, width = (spec.input if spec.degrade is None else spec.answer).shape[-2:]
    found: list[np.ndarray] = []
    before, small = -1, np.empty(0, np.uint8)
    with open_video(path) as video:
        for frame in taken(video, spec.fps):
            if frame.index != before:
                small = cv2.resize(frame.pixels, (width, height), interpolation=cv2.INTER_AREA)
            before = frame.index
            found.append(small)
            if len(found) == most:
                break
    if video.doubt:
        doubt(video.doubt[1])
    return [in_grey(f) for f in found] if spec.degrade and spec.colour == "grey" else found


def shrunk(frame: np.ndarray, spec: ModelSpec, most: int) -> np.ndarray:
    """A camera frame as it is, or at the model's size if it has more than ``most`` times its pixels."""
    height, width = spec.input.shape[-2:]
    if frame.shape[0] * frame.shape[1] <= most * height * width:
        return frame
    return at_model_size(frame, spec)


def within(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame (H, W, 3) whose longer side is at most so many px."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return frame
    cv2 = need("cv2", extra="cpu")
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    small: np.ndarray = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return small


def degraded(frames: list[np.ndarray], spec: ModelSpec) -> list[np.ndarray]:
    """Clean frames as a camera with the spec's fault would deliver them, uint8; the same at every call."""
    if spec.degrade in ("half", "downscale"):
        factor = spec.answer.shape[-1] // spec.input.shape[-1]
        return [smaller(frame, factor) for frame in frames]
    if spec.degrade == "noise-25":
        rng = np.random.default_rng(0)
        return [np.rint(255 * rounded(noisy(f, SIGMA, rng))).astype(np.uint8) for f in frames]
    return frames


@dataclass(frozen=True)
class Survey:
    """What a folder holds. left_out: how many of its files are no clips and why, the first by name, as
    "2 hidden (the first: ._a.mp4); 1 ..."; "" for none.
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
    found = _from_manifest(manifest, labels) if manifest.is_file() else _from_tree(folder, labels)
    if not found.clips:
        told = f" Left out: {found.left_out}" if found.left_out else ""
        raise UsageError(
            f"{folder} holds no clip for the labels {', '.join(labels)}. Put clips into one "
            f"sub-folder per label, or list them in manifest.csv.{told}"
            if labels
            else f"{folder} holds no clip. It wants video files: {', '.join(SUFFIXES)}.{told}"
        )
    for clip in found.clips:
        if not clip.path.is_file() and (clip.path.exists() or clip.path.is_symlink()):
            raise UsageError(f"{clip.path} is no plain file, or a link to nothing. Remove it from the clips")
        if _surrogates(str(clip.path)):
            raise UsageError(f"{os.fsencode(clip.path)!r}: the name is not UTF-8. Rename it")
    return Survey(tuple(sorted(found.clips, key=lambda c: str(c.path))), found.left_out)


def _surrogates(text: str) -> bool:
    """Whether a file's name had bytes that are not UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)


COLUMNS = ("path", "label", "split", "group")


def manifest_rows(manifest: Path) -> list[dict[str, str]]:
    """The rows of a manifest.csv, ``COLUMNS`` without blanks around them; a group left out is the path.

    Raises UsageError for a file that is no UTF-8 CSV, a missing column, a row without a path, and a path that
    stands there twice: it could train and test at once.
    """
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"{manifest} is not UTF-8 ({e.reason}). Save it as CSV in UTF-8") from None
    table = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    named = [(name or "").strip().lower() for name in table.fieldnames or ()]
    if missing := [c for c in COLUMNS if c not in named]:
        raise UsageError(
            f"{manifest}: column '{missing[0]}' is missing. It needs {', '.join(COLUMNS)}, with commas "
            f"between; found: {', '.join(named) or 'nothing'}"
        )
    table.fieldnames = named
    rows = [{c: (row[c] or "").strip() for c in COLUMNS} for row in table]
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        path = os.path.normpath(row["path"])
        if not row["path"] or path in seen:
            what = f"'{row['path']}' stands there twice" if row["path"] else "no path"
            raise UsageError(f"{manifest}, row {number}: {what}. Give every clip one row")
        seen.add(path)
    return [row | {"group": row["group"] or row["path"]} for row in rows]


def _from_manifest(manifest: Path, labels: tuple[str, ...]) -> Survey:
    known = label_finder(labels)
    clips, others = [], []
    for row in manifest_rows(manifest):
        label = known(row["label"]) if labels else row["label"] or None
        if labels and label is None and row["label"] not in labels:
            others.append(f"{row['path']}, '{row['label']}'")
            continue
        path = _as_on_disk(manifest.parent, row["path"])
        clips.append(Clip(path, label, row["group"], _split(row["split"], manifest)))
    return Survey(tuple(clips), _told({"of a label that the model does not have": others}))


def _as_on_disk(folder: Path, name: str) -> Path:
    """A file as its name is spelt there; another system may compose accents or write backslashes."""
    spelt = [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    spelt += [text.replace("\\", "/") for text in spelt]
    return next((folder / text for text in spelt if (folder / text).exists()), folder / name)


def label_finder(labels: Iterable[str]) -> Callable[[str], str | None]:
    """A function from the name of a folder to the label that it means: the same text, else the same but for
    case and for how accents are composed (macOS takes them apart), where that is one label alone."""
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


def _told(reasons: dict[str, list[str]]) -> str:
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


def _split(name: str, manifest: Path) -> str | None:
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
    return Survey(tuple(clips), _told(left_out))


def _meant(folders: Sequence[str], known: Callable[[str], str | None]) -> tuple[str | None, str | None]:
    """(label, split) of a clip in these folders, outermost first."""
    places = [i for i, name in enumerate(folders) if known(name) is not None]
    others = [name.lower() for i, name in enumerate(folders) if i not in places[-1:]]
    split = next((SPLITS[name] for name in others if name in SPLITS), None)
    return (known(folders[places[-1]]) if places else None), split


def videos_below(folder: Path) -> tuple[list[Path], dict[str, list[str]]]:
    """(videos in a folder and all below it, what else lies there by reason). Linked folders are entered,
    after all others, so that none is read twice."""
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
            elif path.suffix.lower() in SUFFIXES:
                videos.append(path)
            elif not _beside(path):
                others.append(name)
    return videos, reasons


def _beside(path: Path) -> bool:
    """Whether a file goes with a video of its name, as true points do."""
    return path.suffix == ".npz" and any(path.with_suffix(s).exists() for s in SUFFIXES)


def split_clips(clips: list[Clip], *, calibration: int) -> tuple[list[Clip], list[Clip]]:
    """(calibration clips, evaluation clips), disjoint by group, the same on every machine.

    Splits the folder names are kept: calibration clips come out of calibration/train, evaluation clips out
    of evaluation/validation/test. Where only the latter are named, clips without a split calibrate. Without
    named splits a quarter of the groups, chosen by the hash of their name, calibrates, but never all of a
    label: see ``unheld`` for labels that cannot be shared out. At most ``calibration`` clips calibrate,
    spread over labels and groups.
    Raises UsageError if a side would be empty, or a group stands on both sides.
    """
    if any(c.split for c in clips):
        held = [c for c in clips if c.split in ("evaluation", "validation", "test")]
        named = [c for c in clips if c.split in ("calibration", "train")]
        train = named or [c for c in clips if c.split is None]
    else:
        train, held = _drawn(clips)
    shared = {c.group for c in train} & {c.group for c in held}
    if shared:
        raise UsageError(
            f"group '{min(shared)}' is in both the calibration and the evaluation clips; "
            "accuracy would be flattered. Put each group on one side"
        )
    if not train or not held:
        side = "calibration" if not train else "evaluation"
        raise UsageError(
            f"no clip is left for {side} among {len(clips)}. Give more clips, or name the splits: "
            "sub-folders calibration/ and evaluation/"
        )
    return _spread(train, calibration), held


def _drawn(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """(calibration, evaluation) clips by the hash of their groups; a label that would have none to be judged
    by gives its last group to that side, where it has two."""
    drawn = {c.group for c in clips if _bucket(c.group) == 0}
    for label in sorted({c.label for c in clips if c.label}):
        groups = {c.group for c in clips if c.label == label}
        if groups <= drawn and len(groups) > 1:
            drawn.remove(max(groups, key=lambda g: hashlib.sha256(g.encode()).digest()))
    return [c for c in clips if c.group in drawn], [c for c in clips if c.group not in drawn]


def unheld(held: Iterable[Clip], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that no held-out clip carries, while others have some: nothing shows what those lost."""
    there = {c.label for c in held if c.label}
    return tuple(label for label in labels if label not in there) if there else ()


def unlabelled_told(clips: Sequence[Clip]) -> str:
    """ "3 clips lie in no folder of a label (the first: a/1.mp4)"; "" where all or none have one."""
    bare = [str(c.path) for c in clips if c.label is None]
    if not bare or len(bare) == len(clips):
        return ""
    return f"{len(bare)} of {len(clips)} clips lie in no folder of a label (the first: {min(bare)})"


def unheld_told(held: Iterable[Clip], labels: Sequence[str], what: str = "held-out") -> str:
    """ "no held-out clip shows 'a' (1 of 2 labels)"; "" where ``unheld`` finds none."""
    bare = unheld(held, labels)
    shown = ", ".join(f"'{label}'" for label in bare[:SHOWN_LABELS])
    more = f" and {len(bare) - SHOWN_LABELS} more" if len(bare) > SHOWN_LABELS else ""
    return f"no {what} clip shows {shown}{more} ({len(bare)} of {len(labels)} labels)" if bare else ""


def halves(clips: list[Clip]) -> tuple[list[Clip], list[Clip], tuple[str, ...]]:
    """(one half, the other half, labels that stand on both only by tearing a group), equal on every machine.

    Whole groups go, the largest first, to the side that has fewer clips of their labels. A label that is then
    on one side only was filmed in one piece: its clips are divided all the same, and it is named.
    """
    groups: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=_order):
        groups.setdefault(clip.group, []).append(clip)
    counts: tuple[dict[str | None, int], dict[str | None, int]] = ({}, {})
    side_of: dict[Path, int] = {}
    for name in sorted(groups, key=lambda g: (-len(groups[g]), hashlib.sha256(g.encode()).digest())):
        cost = [sum(side.get(c.label, 0) for c in groups[name]) for side in counts]
        least = min((cost[i], sum(counts[i].values()), i) for i in (0, 1))[-1]
        for clip in groups[name]:
            side_of[clip.path] = least
            counts[least][clip.label] = counts[least].get(clip.label, 0) + 1
    torn = []
    for label in sorted({c.label for c in clips}, key=str):
        mine = sorted((c for c in clips if c.label == label), key=_order)
        if len(mine) > 1 and len({side_of[c.path] for c in mine}) == 1:
            torn.append(str(label))
            side_of |= {c.path: 1 - side_of[c.path] for c in mine[1::2]}
    ordered = sorted(clips, key=lambda c: str(c.path))
    first, second = ([c for c in ordered if side_of[c.path] == i] for i in (0, 1))
    return first, second, tuple(torn)


def _order(clip: Clip) -> bytes:
    """A shuffle that is the same everywhere."""
    return hashlib.sha256(clip.path.name.encode()).digest()


def _bucket(group: str) -> int:
    return hashlib.sha256(group.encode()).digest()[0] % 4


def _spread(clips: list[Clip], limit: int) -> list[Clip]:
    """Up to ``limit`` clips, taking turns between labels, and within a label between groups."""
    queues: dict[str | None, list[Clip]] = {}
    for label in sorted({c.label for c in clips}, key=str):
        mine = [c for c in clips if c.label == label]
        seen: dict[str, int] = {}
        turn: list[tuple[int, int, Clip]] = []
        for clip in sorted(mine, key=lambda c: hashlib.sha256(c.path.name.encode()).digest()):
            seen[clip.group] = seen.get(clip.group, 0) + 1
            turn.append((seen[clip.group], len(turn), clip))
        queues[label] = [clip for _, _, clip in sorted(turn, key=lambda t: t[:2])]
    chosen: list[Clip] = []
    while len(chosen) < limit and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < limit:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=lambda c: str(c.path))


def hold_last(frames: np.ndarray, count: int) -> np.ndarray:
    """A clip (T, ...) with its last frame repeated until it has ``count`` frames; longer: unchanged."""
    missing = count - len(frames)
    return frames if missing <= 0 else np.concatenate([frames, frames[-1:].repeat(missing, 0)])


