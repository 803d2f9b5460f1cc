"""Video in: decoding, frame rates, preprocessing, and splits that do not leak."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from edgepv.data.clips import Clip, as_manifest, find_clips, survey, unheld, unlabelled_told
from edgepv.data.frames import hold_last, model_frames, preprocess
from edgepv.data.split import split_clips, split_in_two
from edgepv.data.video import read_video
from edgepv.errors import UsageError
from edgepv.metrics.tasks import clip_scores
from edgepv.types import ModelSpec, TensorSpec

SPEC = ModelSpec("m", TensorSpec("frame", (1, 3, 4, 6)), ("a", "b"), mean=(0.5,) * 3, std=(0.25,) * 3)


def test_preprocessing_by_hand() -> None:
    frame = np.zeros((4, 6, 3), np.uint8)
    frame[:, :, 0] = 255  # blue, in OpenCV's order
    out = preprocess(frame, SPEC)
    assert out.shape == (1, 3, 4, 6) and out.dtype == np.float32
    assert np.allclose(out[0, 2], (1 - 0.5) / 0.25)  # blue is the last of RGB
    assert np.allclose(out[0, 0], -0.5 / 0.25)
    assert np.allclose(preprocess(frame, replace(SPEC, colour="bgr"))[0, 0], 2.0)


@pytest.mark.parametrize("bad", [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.float32)])
def test_a_frame_of_another_kind_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="uint8 BGR"):
        preprocess(bad, SPEC)


def test_a_written_video_comes_back(write_video: Callable[..., Path]) -> None:
    video = read_video(write_video("x.mp4", [10, 120, 230], fps=12.5))
    assert len(video.frames) == 3 and video.fps == Fraction(25, 2)
    assert [int(f.mean()) for f in video.frames] == pytest.approx([10, 120, 230], abs=4)


def test_model_frames_follow_the_models_rate(write_video: Callable[..., Path]) -> None:
    assert model_frames(write_video("x.mp4", [50] * 8, fps=20), SPEC).shape == (4, 3, 4, 6)


def test_bad_files_are_named(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_video(tmp_path / "none.mp4")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(UsageError, match="not a video suffix"):
        read_video(tmp_path / "x.txt")
    (tmp_path / "x.mp4").write_bytes(b"not a video at all" * 100)
    with pytest.raises(UsageError, match="cannot be opened|no video frame"):
        read_video(tmp_path / "x.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be opened|no video frame"):
        read_video(tmp_path / "empty.mp4")


def test_a_video_without_frames_is_refused(write_video: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="no video frame|cannot be opened"):
        read_video(write_video("none.mp4", []))


def test_a_truncated_video_is_refused(a_clip: Path, tmp_path: Path) -> None:
    whole = a_clip.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="truncated|cannot be opened|no video frame"):
        read_video(cut)


def test_short_clips_are_held_on_their_last_frame() -> None:
    held = hold_last(np.arange(3)[:, None], 5)
    assert held[:, 0].tolist() == [0, 1, 2, 2, 2] and len(hold_last(np.zeros((7, 1)), 5)) == 7


def test_a_clips_answer_is_the_mean_of_valid_frames() -> None:
    logits = np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    assert clip_scores(logits, 3).tolist() == [0.0, 2.0]


def _clips(groups: str, splits: Sequence[str | None]) -> list[Clip]:
    return [
        Clip(Path(f"{i}.mp4"), "ab"[i % 2], group, split)
        for i, (group, split) in enumerate(zip(groups, splits))
    ]


def test_calibration_and_evaluation_share_no_clip_and_no_group() -> None:
    clips = _clips("ABCDEFGHIJKLMNOP", [None] * 16)
    calibration, held = split_clips(clips, calibration=8)
    assert calibration and held
    assert not {c.group for c in calibration} & {c.group for c in held}


def test_a_leaking_group_is_refused() -> None:
    clips = _clips("AABB", ["train", "train", "test", "test"])
    leaking = [*clips, Clip(Path("9.mp4"), "a", "A", "test")]
    assert len(split_clips(clips, calibration=4)[0]) == 2
    with pytest.raises(UsageError, match="group 'A' is in both"):
        split_clips(leaking, calibration=4)


def test_a_group_leaks_across_labels_too() -> None:
    clips = [Clip(Path("1.mp4"), "a", "cam1", "train"), Clip(Path("2.mp4"), "b", "cam1", "test")]
    with pytest.raises(UsageError, match="group 'cam1' is in both"):
        split_clips(clips, calibration=4)


def test_calibration_takes_turns_between_labels() -> None:
    clips = _clips("ABCDEFGH", ["train"] * 7 + ["test"])
    chosen, _ = split_clips(clips, calibration=4)
    assert sorted(str(c.label) for c in chosen) == ["a", "a", "b", "b"]


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(UsageError, match="no clip is left for evaluation"):
        split_clips(_clips("AB", ["train", "train"]), calibration=4)


@pytest.mark.parametrize("held", ["test", "evaluation", "validation"])
def test_clips_without_a_split_calibrate_where_others_are_held_out_by_name(held: str) -> None:
    calibration, evaluation = split_clips(_clips("ABCDEF", [None] * 4 + [held] * 2), calibration=4)
    assert [c.group for c in calibration] == ["A", "B", "C", "D"]
    assert [c.group for c in evaluation] == ["E", "F"]


def test_clips_without_a_split_are_left_out_where_a_train_split_is_named() -> None:
    calibration, held = split_clips(_clips("ABC", [None, "train", "test"]), calibration=4)
    assert [c.group for c in (*calibration, *held)] == ["B", "C"]


def test_labels_come_from_folders(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    for place in ("train/a", "train/b", "test/a", "other"):
        folder = tmp_path / "set" / place
        folder.mkdir(parents=True)
        write_video("x.mp4", [1, 2]).rename(folder / "x.mp4")
    found = find_clips(tmp_path / "set", ("a", "b"))
    assert [(c.label, c.split) for c in found] == [
        (None, None),
        ("a", "test"),
        ("a", "train"),
        ("b", "train"),
    ]


def test_what_is_no_plain_file_among_clips_is_refused_by_name(
    tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    folder = tmp_path / "set"
    (folder / "folder.mp4").mkdir(parents=True)
    write_video("x.mp4", [1, 2]).rename(folder / "x.mp4")
    assert len(find_clips(folder, ())) == 1
    os.mkfifo(folder / "pipe.mp4")
    with pytest.raises(UsageError, match=r"pipe\.mp4 is no plain file"):
        find_clips(folder, ())
    (folder / "manifest.csv").write_text("path,label,split,group\nx.mp4,a,,\npipe.mp4,a,,\n")
    with pytest.raises(UsageError, match=r"pipe\.mp4 is no plain file"):
        find_clips(folder, ("a",))


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no clip for the labels a, b"):
        find_clips(tmp_path, ("a", "b"))
    with pytest.raises(UsageError, match="not a folder"):
        find_clips(tmp_path / "none", ("a", "b"))
    (tmp_path / "manifest.csv").write_text("path,label\nx.mp4,a\n")
    with pytest.raises(UsageError, match="column 'split' is missing"):
        find_clips(tmp_path, ("a", "b"))


def test_halves_keep_groups_together_and_name_what_they_cannot() -> None:
    many = [Clip(Path(f"a{i}.mp4"), "a", f"g{i // 3}") for i in range(12)]  # 4 groups of 3
    single = [Clip(Path(f"b{i}.mp4"), "b", "g9") for i in range(5)]
    first, second, torn = split_in_two([*many, *single])
    assert torn == ("b",)
    assert not {c.group for c in first if c.label == "a"} & {c.group for c in second if c.label == "a"}
    assert [sum(c.label == "a" for c in side) for side in (first, second)] == [6, 6]
    assert sorted(sum(c.label == "b" for c in side) for side in (first, second)) == [2, 3]
    assert split_in_two([*single, *many]) == (first, second, torn)


def test_a_recording_of_several_labels_stays_in_one_half() -> None:
    counts = {("P1", "a"): 5, ("P2", "a"): 3, ("P3", "a"): 2, ("P1", "b"): 1, ("P2", "b"): 4, ("P3", "b"): 2}
    clips = [Clip(Path(f"{g}{la}{i}.mp4"), la, g) for (g, la), n in counts.items() for i in range(n)]
    first, second, torn = split_in_two(clips)
    assert torn == () and not {c.group for c in first} & {c.group for c in second}


def test_common_names_of_splits_are_understood(write_video: Callable[..., Path], tmp_path: Path) -> None:
    for split in ("training", "Validation", "test"):
        write_video("x.mp4", [1, 2])
        place = tmp_path / "set" / split / "fight"
        place.mkdir(parents=True)
        (tmp_path / "x.mp4").rename(place / f"{split}.mp4")
    found = {c.path.stem: c.split for c in find_clips(tmp_path / "set", ("fight",))}
    assert found == {"training": "train", "Validation": "validation", "test": "test"}


def test_a_split_nobody_knows_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,label,split,group\nx.mp4,fight,trian,g\n")
    with pytest.raises(UsageError, match="unknown split 'trian'.*Did you mean 'train'"):
        find_clips(tmp_path, ("fight",))


def listed(folder: Path, text: str | bytes) -> list[Clip]:
    data = text.encode() if isinstance(text, str) else text
    (folder / "manifest.csv").write_bytes(data)
    return find_clips(folder, ("fight", "no_fight"))


def test_a_manifest_as_a_spreadsheet_saves_it_is_read(tmp_path: Path) -> None:
    found = listed(tmp_path, "\ufeffpath, label, split ,group\r\nx.mp4, fight, train ,\r\ny.mp4,no_fight\r\n")
    assert [(c.path.name, c.label, c.split, c.group) for c in found] == [
        ("x.mp4", "fight", "train", "x.mp4"),  # a clip without a group is one of its own
        ("y.mp4", "no_fight", None, "y.mp4"),
    ]


def test_a_manifest_that_was_written_gives_the_same_clips(tmp_path: Path) -> None:
    films = tmp_path / "films"
    clips = [
        Clip(films / 'a, "b".mp4', "fight", "cam 1, left", "train"),
        Clip(films / "läuft.mp4", "no_fight", "läuft.mp4", "test"),
    ]
    assert listed(tmp_path, as_manifest(clips)) == clips


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "path,label,split,group\nx.mp4,fight,train,1\n./x.mp4,fight,test,2\n",
            "row 3: './x.mp4' stands there twice",
        ),
        ("path,label,split,group\n,fight,train,1\n", "row 2: no path"),
        ("path;label;split;group\nx.mp4;fight;train;1\n", "found: path;label;split;group"),
        ("path,label,split,group\nx.mp4,schläge,train,1\n".encode("latin-1"), "is not UTF-8"),
        ("", "found: nothing"),
    ],
)
def test_a_manifest_that_would_mislead_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        listed(tmp_path, text)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fight").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "fight") + b"/x\xff.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(UsageError, match="the name is not UTF-8. Rename it"):
        find_clips(tmp_path, ("fight",))


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def named(folder: Path, labels: tuple[str, ...]) -> dict[str, tuple[str | None, str | None]]:
    """Path in the folder -> (label, split) of every clip."""
    return {str(c.path.relative_to(folder)): (c.label, c.split) for c in survey(folder, labels).clips}


def test_what_is_no_clip_is_left_out_and_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.mp4", "a/._1.mp4", "a/.DS_Store", "Thumbs.db", ".git/x.mp4", "a/readme.txt", "a/1.npz")
    put(tmp_path, "b/2.MTS", "b/3.h264", "other/4.mp4")
    found = survey(tmp_path, ("a", "b"))
    assert [c.path.name for c in found.clips] == ["1.mp4", "2.MTS", "3.h264", "4.mp4"]
    assert found.left_out == ("4 hidden (the first: .git); 1 no video by the name (the first: a/readme.txt)")


def test_a_folder_of_other_files_alone_says_what_lies_there(tmp_path: Path) -> None:
    put(tmp_path, "a/frame0.jpg", "a/frame1.jpg")
    with pytest.raises(UsageError, match=r"Left out: 2 no video by the name \(the first: a/frame0.jpg\)"):
        find_clips(tmp_path, ("a", "b"))


def test_linked_folders_are_entered_once_and_loops_end(tmp_path: Path) -> None:
    put(tmp_path, "store/a/1.mp4", "set/b/2.mp4")
    (tmp_path / "set" / "a").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "set" / "b" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "test").symlink_to(tmp_path / "set" / "b")
    found = survey(tmp_path / "set", ("a", "b"))
    assert [(c.path.name, c.label) for c in found.clips] == [("1.mp4", "a"), ("2.mp4", "b")]
    assert found.left_out == "2 linked to a folder that is read already (the first: b/loop)"


def test_the_nearest_folder_that_is_called_like_a_label_is_it(tmp_path: Path) -> None:
    put(tmp_path, "train/Fight/session1/x.mp4", "test/cam 2, left/NO_FIGHT/y.mp4", "fight/no_fight/z.mp4")
    assert named(tmp_path, ("fight", "no_fight")) == {
        "train/Fight/session1/x.mp4": ("fight", "train"),
        "test/cam 2, left/NO_FIGHT/y.mp4": ("no_fight", "test"),
        "fight/no_fight/z.mp4": ("no_fight", None),
    }


def test_labels_may_be_called_train_and_test(tmp_path: Path) -> None:
    put(tmp_path, "train/train/a.mp4", "test/train/b.mp4", "train/bus/c.mp4", "test/bus/d.mp4")
    put(tmp_path, "val/test/e.mp4")
    assert named(tmp_path, ("train", "bus", "test")) == {
        "test/bus/d.mp4": ("bus", "test"),
        "test/train/b.mp4": ("train", "test"),
        "train/bus/c.mp4": ("bus", "train"),
        "train/train/a.mp4": ("train", "train"),
        "val/test/e.mp4": ("test", "validation"),
    }


def test_accents_are_one_label_however_they_are_composed(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "schläge")
    put(tmp_path, f"{apart}/1.mp4", '50 % "off", really/2.mp4', "line\nbreak/3.mp4")
    labels = (unicodedata.normalize("NFC", apart), '50 % "off", really', "line\nbreak")
    assert [c.label for c in find_clips(tmp_path, labels)] == [labels[1], labels[2], labels[0]]


def test_labels_that_differ_in_case_alone_stay_apart(tmp_path: Path) -> None:
    put(tmp_path, "a/1.mp4", "A/2.mp4")
    assert named(tmp_path, ("a", "A")) == {"A/2.mp4": ("A", None), "a/1.mp4": ("a", None)}


def test_rows_of_other_labels_and_names_of_other_systems(tmp_path: Path) -> None:
    put(tmp_path, unicodedata.normalize("NFD", "fight/läuft.mp4"))
    text = "Path,Label,Split,Group\nfight\\läuft.mp4,Fight,train,\nw.mp4,wave,train,\n"
    (tmp_path / "manifest.csv").write_text(unicodedata.normalize("NFC", text), encoding="utf-8")
    found = survey(tmp_path, ("fight", "no_fight"))
    assert [(c.path.is_file(), c.label) for c in found.clips] == [(True, "fight")]
    assert found.left_out == "1 of a label that the model does not have (the first: w.mp4, 'wave')"


def test_every_label_that_has_two_groups_is_held_out() -> None:
    drawn = [f"g{i}" for i in range(200) if hashlib.sha256(f"g{i}".encode()).digest()[0] % 4 == 0]
    many = [Clip(Path(f"a{i}.mp4"), "a", f"x{i}") for i in range(12)]
    few = [Clip(Path(f"b{i}.mp4"), "b", group) for i, group in enumerate(drawn[:2])]
    train, held = split_clips([*many, *few], calibration=9)
    assert [sum(c.label == "b" for c in side) for side in (train, held)] == [1, 1]
    assert unheld(held, ("a", "b")) == ()


def test_a_label_without_held_out_clips_is_told() -> None:
    clips = [Clip(Path("1.mp4"), "a", "1", "test"), Clip(Path("2.mp4"), "b", "2", "train")]
    _, held = split_clips(clips, calibration=4)
    assert unheld(held, ("a", "b")) == ("b",)
    assert unheld([replace(c, label=None) for c in held], ("a", "b")) == ()  # nobody judges by labels


def test_clips_in_no_folder_of_a_label_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a/1.mp4", "fihgt/2.mp4", "fihgt/3.mp4")
    clips = survey(tmp_path, ("a", "fight")).clips
    assert unlabelled_told(clips) == (
        f"2 of 3 clips lie in no folder of a label (the first: {tmp_path}/fihgt/2.mp4)"
    )
    assert unlabelled_told(clips[1:]) == ""  # plain video


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "It is empty"),
        (b"version https://git-lfs/spec/v1\noid sha256:1\n", "run git lfs pull"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "download it again"),
        (b"\0\1\2 no video" * 99, "may be truncated or not a video"),
    ],
)
def test_what_is_no_video_is_told_from_its_first_bytes(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(UsageError, match=said):
        read_video(tmp_path / "x.mp4")
