"""Clips are split by group: footage that shares a camera, a take or a film never stands on two sides.

Whoever splits clips does it here, by the rule that its committed figures rest on. Groups are ordered by the
hash of their names, so a split is the same on every machine.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgepv.base.files import sha256
from edgepv.data.clips import Clip
from edgepv.errors import UsageError

KEEP = 0.6
"""Least share of a label's clips that stays for training; else its groups do not validate."""


@dataclass(frozen=True)
class Sample:
    """One labelled clip of a task. group: clips that share footage, never split over two sides."""

    path: Path
    task: str
    label: int
    split: str | None
    group: str


AnyClip = TypeVar("AnyClip", bound=Clip | Sample)


def apart(**sides: Sequence[Clip | Sample]) -> None:
    """The law: raises UsageError if a group stands on two of the sides, each called by its name."""
    for (one, first), (other, second) in itertools.combinations(sides.items(), 2):
        if shared := {c.group for c in first} & {c.group for c in second}:
            raise UsageError(
                f"group '{min(shared)}' is in both the {one} and the {other} clips; accuracy would be "
                "flattered. Put each group on one side"
            )


def refuse_shared(seen: Sequence[Clip], held_out: Sequence[Clip]) -> None:
    """Raise UsageError if a clip that calibrates or trains judges too, under whatever name."""
    known = {sha256(c.path): c.path for c in seen} if held_out else {}
    for clip in held_out:
        twin = known.get(sha256(clip.path))
        if twin:
            raise UsageError(
                f"{clip.path} is the same video as {twin}, which calibrates or trains, so its "
                "score would flatter. Take one of them out"
            )


def named(clips: Sequence[AnyClip]) -> tuple[list[AnyClip], list[AnyClip], list[AnyClip]]:
    """(training, validation, test) clips by the splits that folders or a manifest name, else training ones.

    A split called evaluation is a test. Raises UsageError if a group stands on two sides.
    """
    test = [c for c in clips if c.split in ("evaluation", "test")]
    validation = [c for c in clips if c.split == "validation"]
    train = [c for c in clips if c.split not in ("evaluation", "test", "validation")]
    apart(training=train, validation=validation, test=test)
    return train, validation, test


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
        held_out = [c for c in clips if c.split in ("evaluation", "validation", "test")]
        train = [c for c in clips if c.split in ("calibration", "train")]
        train = train or [c for c in clips if c.split is None]
    else:
        train, held_out = _drawn(clips)
    apart(calibration=train, evaluation=held_out)
    if not train or not held_out:
        side = "calibration" if not train else "evaluation"
        raise UsageError(
            f"no clip is left for {side} among {len(clips)}. Give more clips, or name the splits: "
            "sub-folders calibration/ and evaluation/"
        )
    return _spread(train, calibration), held_out


def _drawn(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """(calibration, evaluation) clips by the hash of their groups.

    A label that would have none to be judged by gives its last group to that side, where it has two.
    """
    drawn = {c.group for c in clips if _hash(c.group)[0] % 4 == 0}
    for label in sorted({c.label for c in clips if c.label}):
        groups = {c.group for c in clips if c.label == label}
        if groups <= drawn and len(groups) > 1:
            drawn.remove(max(groups, key=_hash))
    return [c for c in clips if c.group in drawn], [c for c in clips if c.group not in drawn]


def _spread(clips: list[Clip], limit: int) -> list[Clip]:
    """Up to ``limit`` clips, taking turns between labels, and within a label between groups."""
    queues: dict[str | None, list[Clip]] = {}
    for label in sorted({c.label for c in clips}, key=str):
        mine = [c for c in clips if c.label == label]
        seen: dict[str, int] = {}
        turn: list[tuple[int, int, Clip]] = []
        for clip in sorted(mine, key=_order):
            seen[clip.group] = seen.get(clip.group, 0) + 1
            turn.append((seen[clip.group], len(turn), clip))
        queues[label] = [clip for _, _, clip in sorted(turn, key=lambda t: t[:2])]
    chosen: list[Clip] = []
    while len(chosen) < limit and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < limit:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=lambda c: str(c.path))


def search_and_final(held_out: list[Clip]) -> tuple[list[Clip], list[Clip], tuple[str, ...]]:
    """(clips that compare candidates, clips that judge the winner, labels torn): see ``split_in_two``.

    Splits called validation and test are taken as they are where both are named. Raises UsageError if a group
    stands in both of those.
    """
    if not {"validation", "test"} <= {c.split for c in held_out}:
        return split_in_two(held_out)
    final = [c for c in held_out if c.split == "test"]
    search = [c for c in held_out if c.split != "test"]
    apart(search=search, final=final)
    return search, final, ()


def split_in_two(clips: list[Clip]) -> tuple[list[Clip], list[Clip], tuple[str, ...]]:
    """(one half, the other half, labels that stand on both only by tearing a group), equal on every machine.

    Whole groups go, the largest first, to the side that has fewer clips of their labels. A label that is then
    on one side only was filmed in one piece: its clips are divided all the same, and it is named, which is
    the one exception to the law.
    """
    groups = _groups(clips)
    dealt = _dealt(groups, 2, _hash, even=True)
    side_of = {c.path: dealt[c.group] for c in clips}
    torn = []
    for label in sorted({c.label for c in clips}, key=str):
        mine = sorted((c for c in clips if c.label == label), key=_order)
        if len(mine) > 1 and len({side_of[c.path] for c in mine}) == 1:
            torn.append(str(label))
            side_of |= {c.path: 1 - side_of[c.path] for c in mine[1::2]}
    ordered = sorted(clips, key=lambda c: str(c.path))
    first, second = ([c for c in ordered if side_of[c.path] == i] for i in (0, 1))
    return first, second, tuple(torn)


def hold_out(clips: list[Clip], share: float, *, seed: int = 0) -> tuple[list[Clip], list[Clip]]:
    """(training, validation) clips: of as many folds as ``share`` says, one of those nearest to it in size.

    Without the groups of a label that would keep less than ``KEEP`` of its clips for training.
    """
    parts = folds(clips, round(1 / share))
    ordered = sorted(parts, key=lambda part: abs(len(part) - share * len(clips)))
    fitting = [part for part in ordered if abs(len(part) - len(ordered[0])) <= 1]
    chosen = fitting[seed % len(fitting)]
    validation = [c for c in clips if c.path in chosen]
    for label in sorted({c.label for c in clips}, key=str):
        total = sum(c.label == label for c in clips)
        if sum(c.label == label for c in validation) > (1 - KEEP) * total:
            back = {c.group for c in validation if c.label == label}
            validation = [c for c in validation if c.group not in back]
    apart_from = set(validation)
    return [c for c in clips if c not in apart_from], validation


def carve(samples: Sequence[Sample], share: float, *, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """(training, validation): whole groups are moved to validation until it has about ``share`` of each task.

    A group is moved only if every label in it keeps ``KEEP`` of its clips for training; a label filmed as a
    single group therefore stays out of validation.
    """
    groups = _groups(samples)
    total = _count(samples)
    left = total.copy()
    wanted = {task: share * n for task, n in samples_by_task(samples).items()}
    moved: set[str] = set()
    for name in sorted(groups, key=lambda g: _hash(f"{seed}/{_task(groups[g])}/{g}")):
        task, inside = _task(groups[name]), _count(groups[name])
        keeps = all(left[k] - n >= KEEP * total[k] for k, n in inside.items())
        if keeps and len(groups[name]) <= wanted[task] * 1.2:
            moved.add(name)
            wanted[task] -= len(groups[name])
            left -= inside
    train = [s for s in samples if s.group not in moved]
    return train, [s for s in samples if s.group in moved]


def folds(clips: Sequence[Clip | Sample], count: int) -> list[set[Path]]:
    """Disjoint sets of clips, grouped and balanced: the held-out side of a cross-validation.

    Greedy: groups in order of size go, each, to the fold that has the fewest clips of its labels.
    """
    groups = _groups(clips)
    dealt = _dealt(groups, count, lambda g: _hash(f"0/{_task(groups[g])}/{g}"), even=False)
    return [{c.path for c in clips if dealt[c.group] == i} for i in range(count)]


def samples_by_task(samples: Iterable[Sample]) -> dict[str, int]:
    """How many there are of each task."""
    return dict(Counter(s.task for s in samples))


def _groups(clips: Iterable[AnyClip]) -> dict[str, list[AnyClip]]:
    groups: dict[str, list[AnyClip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    return groups


def _dealt(
    groups: Mapping[str, Sequence[Clip | Sample]],
    count: int,
    order: Callable[[str], bytes],
    *,
    even: bool,
) -> dict[str, int]:
    """Group -> which of ``count`` sides it goes to: the largest first, to where its labels have fewest clips.

    order: of groups of one size. even: of sides alike in that the one with fewest clips, else the first.
    """
    sides: list[Counter[Hashable]] = [Counter() for _ in range(count)]
    place = {}
    for name in sorted(groups, key=lambda g: (-len(groups[g]), order(g))):
        inside = _count(groups[name])
        load = [sum(side[k] * n for k, n in inside.items()) for side in sides]
        place[name] = min(range(count), key=lambda i: (load[i], even and sides[i].total(), i))
        sides[place[name]] += inside
    return place


def _count(clips: Iterable[Clip | Sample]) -> Counter[Hashable]:
    """Label, or task and label, -> clips."""
    return Counter((c.task, c.label) if isinstance(c, Sample) else c.label for c in clips)


def _task(group: Sequence[Clip | Sample]) -> str:
    """The task of a group, that of its first clip; "" for clips of no task."""
    return group[0].task if isinstance(group[0], Sample) else ""


def _order(clip: Clip) -> bytes:
    """A shuffle that is the same everywhere."""
    return _hash(clip.path.name)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
