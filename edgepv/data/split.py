"""Clips are split by group: footage that shares a camera, a take or a film never stands on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepv.data.clips import Clip
from edgepv.errors import UsageError


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
    """(calibration, evaluation) clips by the hash of their groups.

    A label that would have none to be judged by gives its last group to that side, where it has two.
    """
    drawn = {c.group for c in clips if _bucket(c.group) == 0}
    for label in sorted({c.label for c in clips if c.label}):
        groups = {c.group for c in clips if c.label == label}
        if groups <= drawn and len(groups) > 1:
            drawn.remove(max(groups, key=lambda g: hashlib.sha256(g.encode()).digest()))
    return [c for c in clips if c.group in drawn], [c for c in clips if c.group not in drawn]


def split_in_two(clips: list[Clip]) -> tuple[list[Clip], list[Clip], tuple[str, ...]]:
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


@dataclass(frozen=True)
class Sample:
    """One labelled clip of a task. group: clips that share footage, never split over two sides."""

    path: Path
    task: str
    label: int
    split: str
    group: str


def carve(samples: Sequence[Sample], share: float, *, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """(training, validation): whole groups are moved to validation until it has about ``share``.

    A group is moved only if every label in it keeps at least 60 % of its clips for training; a label
    filmed as a single group therefore stays out of validation. The order is the hash of the names.
    """
    total, left = _counts(samples), _counts(samples)
    wanted = {task: share * n for task, n in samples_by_task(samples).items()}
    held: set[tuple[str, str]] = set()
    for key in sorted({(s.task, s.group) for s in samples}, key=lambda k: _hash(k, seed)):
        inside = _counts([s for s in samples if (s.task, s.group) == key])
        moved = sum(inside.values())
        keeps = all(left[k] - n >= 0.6 * total[k] for k, n in inside.items())
        if keeps and moved <= wanted[key[0]] * 1.2:
            held.add(key)
            wanted[key[0]] -= moved
            for k, n in inside.items():
                left[k] -= n
    train = [s for s in samples if (s.task, s.group) not in held]
    return train, [s for s in samples if (s.task, s.group) in held]


def folds(samples: Sequence[Sample], count: int) -> list[set[Path]]:
    """Disjoint sets of clips, grouped and balanced: the held-out side of a cross-validation.

    Greedy: groups in order of size go, each, to the fold that has the fewest clips of its labels.
    """
    sides: list[list[Sample]] = [[] for _ in range(count)]
    groups: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        groups.setdefault((s.task, s.group), []).append(s)
    for key in sorted(groups, key=lambda k: (-len(groups[k]), _hash(k, 0))):
        inside = _counts(groups[key])
        load = [sum(_counts(side).get(k, 0) * n for k, n in inside.items()) for side in sides]
        sides[int(np.argmin(load))].extend(groups[key])
    return [{s.path for s in side} for side in sides]


def _counts(samples: Iterable[Sample]) -> dict[tuple[str, int], int]:
    found: dict[tuple[str, int], int] = {}
    for s in samples:
        found[s.task, s.label] = found.get((s.task, s.label), 0) + 1
    return found


def samples_by_task(samples: Iterable[Sample]) -> dict[str, int]:
    """Samples of each task."""
    found: dict[str, int] = {}
    for s in samples:
        found[s.task] = found.get(s.task, 0) + 1
    return found


def _hash(key: tuple[str, str], seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{key[0]}/{key[1]}".encode()).digest()
