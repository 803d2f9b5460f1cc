"""The law of splits: a group never stands on two sides. And they stay what committed figures rest on."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from edgepv import zoo
from edgepv.base.files import digest
from edgepv.data.clips import Clip, find_clips
from edgepv.data.split import (
    Sample,
    carve,
    folds,
    hold_out,
    named,
    search_and_final,
    split_clips,
    split_in_two,
)
from edgepv.errors import UsageError


def clips_of(seed: int) -> list[Clip]:
    """Up to 120 clips of three labels in up to 30 groups; a group holds several labels."""
    rng = random.Random(seed)
    groups = [f"g{i}" for i in range(rng.randint(4, 30))]
    count = rng.randint(20, 120)
    return [Clip(Path(f"{i}.mp4"), rng.choice("abc"), rng.choice(groups)) for i in range(count)]


def samples_of(seed: int) -> list[Sample]:
    """The same clips in two tasks that share groups."""
    labelled = ((clip, "abc".index(str(clip.label))) for clip in clips_of(seed))
    return [Sample(c.path, "ht"[i % 2], label, "train", c.group) for i, (c, label) in enumerate(labelled)]


def groups(clips: Iterable[Clip | Sample]) -> set[str]:
    return {c.group for c in clips}


@pytest.mark.parametrize("seed", range(20))
def test_a_group_never_stands_on_two_sides(seed: int) -> None:
    clips, samples = clips_of(seed), samples_of(seed)
    first, second, torn = split_in_two(clips)
    pairs: list[tuple[Iterable[Clip | Sample], Iterable[Clip | Sample]]] = [
        split_clips(clips, calibration=len(clips)),
        hold_out(clips, 0.2, seed=seed),
        carve(samples, 0.2, seed=seed),
        ([c for c in first if c.label not in torn], [c for c in second if c.label not in torn]),
    ]
    for one, other in pairs:
        assert not groups(one) & groups(other)
    homes = [groups(s for s in samples if s.path in side) for side in folds(samples, 4)]
    assert sum(map(len, homes)) == len(groups(samples))


def test_named_splits_that_share_a_group_are_refused_by_all_who_take_them() -> None:
    def leaking(*splits: str) -> list[Clip]:
        return [Clip(Path(f"{i}.mp4"), "a", "one take", split) for i, split in enumerate(splits)]

    with pytest.raises(UsageError, match="'one take' is in both the search and the final clips"):
        search_and_final(leaking("validation", "test"))
    with pytest.raises(UsageError, match="'one take' is in both the calibration and the evaluation clips"):
        split_clips(leaking("train", "validation"), calibration=4)
    for splits, sides in {
        ("train", "test"): "training and the test",
        ("validation", "test"): "validation and the test",
    }.items():
        with pytest.raises(UsageError, match=f"'one take' is in both the {sides}"):
            named(leaking(*splits))


def test_what_has_no_split_trains_and_an_evaluation_is_a_test() -> None:
    splits = (None, "calibration", "train", "validation", "evaluation", "test")
    sides = named([Clip(Path(f"{i}.mp4"), "a", f"g{i}", split) for i, split in enumerate(splits)])
    assert [[c.split for c in side] for side in sides] == [
        [None, "calibration", "train"],
        ["validation"],
        ["evaluation", "test"],
    ]


def test_the_splits_that_committed_figures_rest_on_are_the_same() -> None:
    """Digests of the sides as they were when cards and benchmarks were measured."""

    def names(*sides: Iterable[Clip | Sample | Path]) -> str:
        shown = [[(c if isinstance(c, Path) else c.path).name for c in side] for side in sides]
        return digest([sorted(side) for side in shown])[:8]

    clips = clips_of(0)
    samples = [Sample(c.path, "t", "abc".index(str(c.label)), "train", c.group) for c in clips]
    shipped = find_clips(zoo.HERE / "clips", zoo.TASKS["fight"])
    assert [
        names(*split_clips(shipped, calibration=12)),
        names(*split_clips(clips, calibration=12)),
        names(*split_in_two(clips)[:2]),
        names(*hold_out(clips, 0.2, seed=1)),
        names(*carve(samples, 0.15)),
        names(*folds(samples, 3)),
    ] == ["4b5658c6", "bbaf4f9a", "ebd85446", "938b9323", "a41abd96", "b96719e7"]
