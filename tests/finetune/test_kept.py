"""From the field back to the bundle: what cameras kept and a person corrected trains, nothing else does."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import Tiny

from edgepv import bundle
from edgepv.base.console import Console
from edgepv.data.clips import Clip, find_clips
from edgepv.device import cameras
from edgepv.device.cameras import LiveOptions
from edgepv.errors import UsageError
from edgepv.finetune import run
from edgepv.finetune.card import rows
from edgepv.finetune.data import shots
from edgepv.finetune.kept import APART_S, kept_clips
from edgepv.finetune.request import FinetuneRequest
from edgepv.model.spec import read_spec
from edgepv.runtimes.events.rules import LiveConfig, Rule, Rules

QUIET = Console(quiet=True)
LABELS = ("fight", "no_fight")


def write_clip(path: Path, greys: list[int]) -> Path:
    """One frame a grey, at ten a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (48, 48))
    for grey in greys:
        writer.write(np.full((48, 48, 3), grey, np.uint8))
    writer.release()
    return path


def keep(
    folder: Path,
    name: str,
    *,
    moved: str = "",
    camera: str = "door",
    at_s: float = 1e9,
    greys: list[int] | None = None,
    said: Mapping[str, int] | None = None,
    **more: object,
) -> Path:
    """A clip as the receiver leaves it, moved by a person into ``moved``; its record stays where it was."""
    about = {
        "events": [{"camera": camera, "start_time": at_s, "end_time": at_s + 5}],
        "said": said or {"fight": 3, "no_fight": 1},
        **more,
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(about))
    return write_clip(folder / moved / f"{name}.mp4", greys or [10, 20, 30])


def test_only_what_a_person_moved_is_truth_and_the_rest_is_counted(tmp_path: Path) -> None:
    keep(tmp_path, "a", moved="fight")
    keep(tmp_path, "b", moved="No_Fight", redacted=True)
    keep(tmp_path, "c")
    keep(tmp_path, "d")
    keep(tmp_path, "e", moved="unsure")
    (tmp_path / "fight" / "f.mp4").write_bytes(b"no video at all")
    kept = kept_clips(tmp_path, LABELS)
    assert {c.path.stem: c.label for c in kept.clips} == {"a": "fight", "b": "no_fight"}
    assert kept.told == (
        "2 of 6 kept clips are corrected: 1 fight, 1 no_fight; the model had called 1 of them otherwise; 1 "
        "are redacted, and what is covered is learned as it looks; left out: 2 not corrected "
        "(the first: c.mp4); 1 in a folder that is no label (fight, no_fight) (the first: unsure/e.mp4); "
        "1 that cannot be read (the first: fight/f.mp4)"
    )


def test_cameras_may_have_folders_of_their_own_but_not_the_name_of_a_label(tmp_path: Path) -> None:
    keep(tmp_path / "door", "a", moved="fight")
    keep(tmp_path / "door", "b")
    keep(tmp_path / "fight", "c", camera="fight")
    kept = kept_clips(tmp_path, LABELS)
    assert [(c.path.stem, c.label, c.group) for c in kept.clips] == [("a", "fight", "kept door 1000000000")]
    assert "1 not corrected (the first: door/b.mp4)" in kept.told
    assert "1 of a camera that is called like a label (the first: fight/c.mp4)" in kept.told


def test_clips_of_one_camera_and_time_share_a_group(tmp_path: Path) -> None:
    near, far = 1e9 + 5 + APART_S - 1, 1e9 + 5 + 3 * APART_S
    keep(tmp_path, "first", moved="fight")
    keep(tmp_path, "soon after", moved="no_fight", at_s=near)
    keep(tmp_path, "later", moved="fight", at_s=far)
    keep(tmp_path, "elsewhere", moved="fight", camera="gate")
    bare = [write_clip(tmp_path / "fight" / f"{k}.mp4", [1, 2]) for k in range(2)]
    (tmp_path / "1.json").write_text('{"events": [{"camera": "x", "start_time": "NaN", "end_time": 2}]}')
    group = {c.path.stem: c.group for c in kept_clips(tmp_path, LABELS).clips}
    assert group["first"] == group["soon after"] == "kept door 1000000000"
    assert len({group[name] for name in ("first", "later", "elsewhere", "0")}) == 4
    assert group[bare[0].stem] == group[bare[1].stem]  # nobody knows what they share: they stay together


def test_a_label_is_learned_from_its_event_and_what_the_answer_looked_back_on(
    tmp_path: Path, tiny_clip: Tiny
) -> None:
    spec = read_spec(tiny_clip.spec)
    keep(tmp_path, "a", moved="fight", greys=[4 * k for k in range(40)], from_s=2.0, to_s=2.5)
    kept = kept_clips(tmp_path, LABELS)
    clip = Clip(kept.clips[0].path, spec.labels[0], "g")
    assert spec.frames == 4 and spec.fps == 10
    greys = [round(float(f.mean()) / 4) for f in shots([clip], spec, QUIET, kept.parts_s)[0].frames]
    assert [abs(a - b) <= 1 for a, b in zip(greys, range(17, 25), strict=True)] == [True] * 8
    assert len(shots([clip], spec, QUIET)[0].frames) == 40


def test_a_folder_without_corrections_says_how_to_correct(tmp_path: Path) -> None:
    keep(tmp_path, "a")
    with pytest.raises(
        UsageError, match=r"none of its 1 clips is corrected. Move each .*/fight; left out: 1 "
    ):
        kept_clips(tmp_path, LABELS)
    with pytest.raises(UsageError, match="is not a folder"):
        kept_clips(tmp_path / "none", LABELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no clip"):
        kept_clips(tmp_path / "empty", LABELS)


def test_a_kept_clip_that_is_among_the_labelled_ones_too_is_refused(tmp_path: Path) -> None:
    kept = keep(tmp_path / "kept", "a", moved="fight")
    for label in LABELS:
        write_clip(tmp_path / "data" / label / "b.mp4", [90, 95])
    copy = tmp_path / "data" / "fight" / "c.mp4"
    copy.write_bytes(kept.read_bytes())
    job = FinetuneRequest(
        "pv-conv-nano", str(tmp_path / "data"), str(tmp_path / "o"), kept=str(tmp_path / "kept")
    )
    with pytest.raises(UsageError, match=f"same video as {copy} of --data"):
        run.finetune(job, QUIET)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("kept", ["data", "data/kept", "."])
def test_kept_clips_do_not_lie_among_the_labelled_ones(tmp_path: Path, kept: str) -> None:
    """As data a clip has a group of its own, as a kept one that of its camera: no split would see it."""
    keep(tmp_path / "data", "a", moved="fight")
    job = FinetuneRequest(
        "pv-conv-nano", str(tmp_path / "data"), str(tmp_path / "o"), kept=str(tmp_path / kept)
    )
    with pytest.raises(UsageError, match="same clips, which would stand on two sides"):
        run.finetune(job, QUIET)


def test_there_must_be_something_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --data DIR, --from-kept DIR, or both"):
        run.finetune(FinetuneRequest("pv-conv-nano", None, str(tmp_path / "o")), QUIET)


def test_a_segmenter_is_refused_by_its_task(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pv-seg-nano is for segmentation; finetune is for classifiers"):
        run.finetune(FinetuneRequest("pv-seg-nano", str(tmp_path), str(tmp_path / "o")), QUIET)


@pytest.mark.slow
def test_corrected_clips_train_beside_the_labelled_ones_and_none_stands_on_two_sides(
    tmp_path: Path, tiny_clip: Tiny
) -> None:
    labels = read_spec(tiny_clip.spec).labels
    for row, label in enumerate(labels):
        for k in range(4):
            write_clip(tmp_path / "data" / label / f"{k}.mp4", [60 * row + 10 * k + i for i in range(8)])
        for k in range(3):
            at_s = 1e9 + 1e5 * k
            keep(
                tmp_path / "kept",
                f"{label}{k}",
                moved=label,
                at_s=at_s,
                greys=[60 * row + 5 * k + i for i in range(9)],
            )
    keep(tmp_path / "kept", "untouched")
    job = FinetuneRequest(
        tiny_clip.model, str(tmp_path / "data"), str(tmp_path / "o"), weights=str(tiny_clip.weights),
        spec=str(tiny_clip.spec), kept=str(tmp_path / "kept"), how="head", epochs=1,
    )  # fmt: skip
    made = run.finetune(job, QUIET)
    count = 7 * len(labels)
    assert made.clips[0] + made.clips[1] == count and made.spec.labels == tuple(sorted(labels))
    assert made.kept.startswith(f"{3 * len(labels)} of {3 * len(labels) + 1} kept clips are corrected")
    assert ("from the field", made.kept) in rows(made)
    listed = (tmp_path / "o" / "manifest.csv").read_text()
    assert "kept door" in listed and "untouched" not in listed
    assert run.read(tmp_path / "o") == made


@pytest.mark.slow
def test_from_a_camera_to_a_model_that_learned_what_it_kept(
    step_bundle: Path, tiny_step: Tiny, few_clips: Path, a_clip: Path, tmp_path: Path
) -> None:
    """The loop in small: a running bundle keeps clips, a person moves one, what is made is to be exported."""
    kept = tmp_path / "kept"
    options = LiveOptions(
        bundle=step_bundle,
        sources={"door": str(a_clip), "gate": str(a_clip)},
        deadline_ms=60_000,
        emit=(f"clips:{kept}/{{camera}}?pre_s=0.5&post_s=0.1&most_s=1",),
        config=LiveConfig("", Rules((Rule("*", 0.001, doubt="margin"),))),
        spool=tmp_path / "spool",
    )
    cameras.run(options, QUIET, threading.Event())
    records = {p: json.loads(p.with_suffix(".json").read_text()) for p in kept.glob("*/*.mp4")}
    assert sorted(r["camera"] for r in records.values()) == ["door", "gate"]
    for record in records.values():
        assert record["model"] == bundle.read(step_bundle).digest and record["from_s"] < record["to_s"]
        assert record["said"] and 0 <= record["margin"] < 1 and not record["redacted"]
    clip = min(records)
    (clip.parent / "no_fight").mkdir()
    clip.rename(clip.parent / "no_fight" / clip.name)
    job = FinetuneRequest(
        tiny_step.model, str(few_clips), str(tmp_path / "o"), weights=str(tiny_step.weights),
        spec=str(tiny_step.spec), kept=str(kept), how="head", epochs=1,
    )  # fmt: skip
    made = run.finetune(job, QUIET)
    assert made.kept.startswith("1 of 2 kept clips are corrected: 1 no_fight")
    assert "left out: 1 not corrected" in made.kept
    assert made.clips[0] + made.clips[1] == 8 + 1 and made.clips[2] == 8
    listed = find_clips(tmp_path / "o", LABELS)
    assert (made.clips[0], 8) == (
        sum(c.split == "train" for c in listed),
        sum(c.split == "test" for c in listed),
    )
