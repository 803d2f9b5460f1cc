"""Clips that a camera kept (``--emit clips:DIR``) as training clips, once a person said what is true.

To correct a clip is to move it into a sub-folder called like its true label: ``DIR/no_fight/ID.mp4``, or
``DIR/CAMERA/no_fight/ID.mp4`` of several cameras. Its record ``ID.json`` may stay where it was. What was not
moved is never used: the model's own word is no truth.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgepv.data.clips import Clip, label_finder, told_by_reason, videos_below
from edgepv.data.video import open_video
from edgepv.errors import UsageError
from edgepv.runtimes.record import Record

APART_S = 600.0
"""Clips of one camera that begin within ten minutes after the end of another share its group: the same
people, the same light. A group trains or chooses the epoch, never both."""


@dataclass(frozen=True)
class Kept:
    """Corrected clips of the field. parts_s: of each, from when to when it shows what its event was about.

    told: how many were corrected, and what was left out and why, in one line.
    """

    clips: tuple[Clip, ...] = ()
    parts_s: Mapping[Path, tuple[float, float]] = field(default_factory=dict)
    told: str = ""


def kept_clips(folder: Path, labels: Sequence[str]) -> Kept:
    """The corrected clips of a folder that cameras kept clips in.

    Clips of one camera and time share a group, see ``APART_S``; so do all without a record. Clips that
    cannot be read are left out and named. Raises UsageError if no clip is corrected.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. --from-kept wants the DIR of --emit clips:DIR")
    good, there, left_out = _corrected(folder, labels)
    if not there:
        raise UsageError(f"{folder} holds no clip. --from-kept wants the DIR of --emit clips:DIR")
    if not good:
        more = f"; left out: {left_out}" if left_out else ""
        raise UsageError(
            f"{folder}: none of its {there} clips is corrected. Move each that you have looked at into a "
            f"sub-folder called like its true label, such as {folder / labels[0]}{more}"
        )
    records = {path: _record(folder, path) for path in good}
    groups = _groups(records)
    return Kept(
        tuple(Clip(path, label, groups[path], "train") for path, label in sorted(good.items())),
        {path: (float(r["from_s"]), float(r["to_s"])) for path, r in records.items() if "to_s" in r},
        _told(good, records, there, left_out),
    )


def _corrected(folder: Path, labels: Sequence[str]) -> tuple[dict[Path, str], int, str]:
    """(clip -> its true label, how many clips there are, what was left out and why)."""
    paths, others = videos_below(folder, beside=(".json",))
    known = label_finder(labels)
    good: dict[Path, str] = {}
    bare: list[str] = []
    astray: list[str] = []
    broken: list[str] = []
    unclear: list[str] = []
    for path in paths:
        inside = path.relative_to(folder)
        found = [label for part in inside.parts[-2::-1] if (label := known(part)) is not None]
        if not found:
            where_it_was = path.parent == folder or path.with_suffix(".json").exists()
            (bare if where_it_was else astray).append(str(inside))
        elif (record := _record(folder, path)) and known(_times(record)[0]) is not None:
            unclear.append(str(inside))
        elif _readable(path):
            good[path] = found[0]
        else:
            broken.append(str(inside))
    reasons = {
        "not corrected": bare,
        f"in a folder that is no label ({', '.join(labels)})": astray,
        "of a camera that is called like a label": unclear,
        "that cannot be read": broken,
        **others,
    }
    return good, len(paths), told_by_reason(reasons)


def _told(good: Mapping[Path, str], records: Mapping[Path, Record], there: int, left_out: str) -> str:
    """What a person should know of the clips, in one line."""
    by_label = ", ".join(f"{count} {label}" for label, count in sorted(Counter(good.values()).items()))
    said = [(label, records[path].get("said", {})) for path, label in good.items()]
    otherwise = sum(max(answers, key=answers.__getitem__) != label for label, answers in said if answers)
    hidden = sum(bool(record.get("redacted")) for record in records.values())
    unknown = sum(not record for record in records.values())
    parts = [f"{len(good)} of {there} kept clips are corrected: {by_label}"]
    parts += [f"the model had called {otherwise} of them otherwise"] if otherwise else []
    parts += [f"{hidden} are redacted, and what is covered is learned as it looks"] if hidden else []
    parts += [f"{unknown} have no record and share one group"] if unknown else []
    return "; ".join(parts + ([f"left out: {left_out}"] if left_out else []))


def _readable(path: Path) -> bool:
    """Whether a clip can be decoded to its end, and has a frame."""
    try:
        with open_video(path) as video:
            return sum(1 for _ in video) > 0
    except UsageError:
        return False


def _record(folder: Path, clip: Path) -> Record:
    """What was written when a clip was kept, beside it or above; {} without, or if it is damaged."""
    for place in (above for above in clip.parents if above.is_relative_to(folder)):
        try:
            found = json.loads((place / f"{clip.stem}.json").read_text(encoding="utf-8"))
            numbers = (*_times(found)[1:], *(float(found.get(key, 0)) for key in ("from_s", "to_s")))
            if all(map(math.isfinite, numbers)):
                return {**found, "said": {str(k): int(n) for k, n in found.get("said", {}).items()}}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
            continue
    return {}


def _times(record: Record) -> tuple[str, float, float]:
    """(camera, beginning, end) of the events of a record, in seconds since 1970."""
    events = record["events"]
    start = min(float(event["start_time"]) for event in events)
    end = max(float(event["end_time"] or event["start_time"]) for event in events)
    return str(events[0]["camera"]), start, end


def _groups(records: Mapping[Path, Record]) -> dict[Path, str]:
    """Clip -> its camera and the time at which its episode began."""
    placed = sorted((*_times(record), path) for path, record in records.items() if record)
    groups = dict.fromkeys((path for path, record in records.items() if not record), "kept without a record")
    before, name, over_s = "", "", 0.0
    for camera, start, end, path in placed:
        if camera != before or start - over_s > APART_S:
            before, name, over_s = camera, f"kept {camera} {start:.0f}", end
        over_s = max(over_s, end)
        groups[path] = name
    return groups
