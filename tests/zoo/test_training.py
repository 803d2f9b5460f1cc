"""Training on films drawn by the test: it learns, resumes exactly, and leaves loadable weights."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edgepv import zoo
from edgepv.base.files import read_json, sha256
from edgepv.data.split import Sample, carve, folds
from edgepv.errors import UsageError
from edgepv.metrics.stats import cross_entropy
from edgepv.zoo import pv_conv
from edgepv.zoo.training import crossval
from edgepv.zoo.training.baselines import PlainNet, features
from edgepv.zoo.training.classifiers import ClassifierRun, Recipe, main, train
from edgepv.zoo.training.data import SIDE, Footage, augmented, balanced, read_manifest
from edgepv.zoo.training.epochs import Plan, _soft, fit

pytestmark = pytest.mark.slow

FIGHT = {"fight": slice(0, 2)}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def film(label: int, seed: int, frames: int = 24, side: int = SIDE) -> np.ndarray:
    """Label 0: a white square that runs to the right. Label 1: the same square, standing."""
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 40, (frames, side, side, 3), np.uint8)
    for t in range(frames):
        x = (t * 5 if label == 0 else 40) % (side - 30)
        video[t, 50:80, x : x + 30] = 230
    return video


def footage(task: str = "fight", clips: int = 8) -> list[Footage]:
    return [
        Footage(
            Sample(Path(f"{i}.mp4"), task, i % 2, "train", f"g{i}"),
            film(i % 2, i),
            Fraction(10),
        )
        for i in range(clips)
    ]


def weights(net: pv_conv.PvConv) -> torch.Tensor:
    return torch.cat([p.detach().flatten().double() for p in net.state_dict().values()])


def fresh() -> pv_conv.PvConv:
    torch.manual_seed(0)
    return pv_conv.nano(2)


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    plan = Plan("smoke", ((2, 32),), lr=1e-3, batch=4)
    whole, log, _ = fit(fresh(), footage(), FIGHT, plan, resume=tmp_path / "whole.pt")
    killed = tmp_path / "killed.pt"
    fit(fresh(), footage(), FIGHT, plan, resume=killed, stop_after=1)
    resumed, log_after, _ = fit(fresh(), footage(), FIGHT, plan, resume=killed)
    assert torch.equal(weights(whole), weights(resumed))
    assert not torch.equal(weights(whole), weights(fresh()))
    assert [r["train_loss"] for r in log_after] == [r["train_loss"] for r in log]


def test_the_epoch_with_the_lowest_validation_loss_is_kept() -> None:
    losses = iter([0.5, 0.3, 0.4, 0.6, 0.7])
    seen: list[torch.Tensor] = []

    def judge(net: pv_conv.PvConv) -> dict[str, Any]:
        seen.append(weights(net).clone())
        return {"loss": next(losses)}

    plan = Plan("smoke", ((5, 32),), lr=1e-3, batch=4, patience=1)
    best, log, epoch = fit(fresh(), footage(clips=4), FIGHT, plan, judge=judge)
    assert (epoch, len(log)) == (1, 3)
    assert torch.equal(weights(best), seen[1])


def write_film(path: Path, video: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (video.shape[2], video.shape[1])
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, size)
    for frame in video:
        out.write(frame)
    out.release()


@pytest.fixture
def actions(tmp_path: Path) -> Path:
    folder = tmp_path / "actions"
    rows = []
    for i in range(12):
        path = Path("clips") / f"{i}.mp4"
        write_film(folder / path, film(i % 2, i, frames=18, side=64 + 32))
        split = "test" if i >= 10 else "train"
        rows.append([path, "fight", zoo.TASKS["fight"][i % 2], split, f"g{i}"])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(["path", "task", "label", "split", "group"])
        table.writerows(rows)
    return folder


def test_training_from_a_folder_leaves_weights_index_and_result(actions: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        Plan("pretrain", ((1, 32),), lr=1e-3),
        Plan("adapt", ((1, 32),), lr=1e-3, still=0.5, final=64),
        Plan("finetune", ((1, 32),), lr=1e-3),
        share=0.2,
    )
    job = ClassifierRun("pv-conv-nano", "fight", actions, tmp_path / "out", tmp_path / "cache", 0, recipe)
    rows: list[dict[str, Any]] = []
    result = train(job, rows.append)
    assert [r["stage"] for r in result["log"]] == ["pretrain", "adapt", "finetune", "refit"]
    assert [r["stage"] for r in rows] == ["pretrain", "adapt", "finetune", "finetune"]
    assert (result["clips"]["refit"], result["test"]["accuracy"]["n"]) == (10, 2)
    row = read_json(job.out / "weights" / "index.json")["pv-conv-nano-fight"]
    assert sha256(job.out / row["weights"]) == row["sha256"]
    again = train(job, rows.append)
    assert again["test"] == result["test"]
    assert len(rows) == 4, "a finished training is read from the cache"


def test_cross_validation_scores_every_clip_once_and_reuses_finished_folds(
    actions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Plan("tiny", ((1, 32),), lr=1e-3)
    monkeypatch.setitem(crossval.SHORT, "pv-conv-nano", Recipe(tiny, None, tiny))
    options: dict[str, Any] = {"count": 3, "seed": 0, "cache": tmp_path / "cache"}
    result = crossval.crossval("pv-conv-nano", actions, **options)
    row = result["tasks"]["fight"]
    assert list(result["tasks"]) == ["fight"]
    assert (row["accuracy"]["n"], len(row["per_fold"])) == (12, 3)
    monkeypatch.setattr(crossval, "one_fold", None)
    assert crossval.crossval("pv-conv-nano", actions, **options)["tasks"] == result["tasks"]


def test_a_folder_without_a_manifest_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pv-conv-nano", "--data", str(tmp_path), "--cache", str(tmp_path)]) == 2
    assert "manifest.csv does not exist" in capsys.readouterr().err


def test_an_unknown_label_in_the_manifest_is_named(actions: Path) -> None:
    text = (actions / "manifest.csv").read_text()
    (actions / "manifest.csv").write_text(text.replace("no_fight", "dance"))
    with pytest.raises(UsageError, match="unknown label 'dance'"):
        read_manifest(actions)


def test_a_clip_that_is_listed_twice_could_train_and_test_and_is_refused(actions: Path) -> None:
    first = (actions / "manifest.csv").read_text().splitlines()[1]
    with (actions / "manifest.csv").open("a") as f:
        f.write(first.replace("train", "test") + "\n")
    with pytest.raises(UsageError, match="stands there twice"):
        read_manifest(actions)


def test_training_clips_need_a_column_that_says_the_task(actions: Path) -> None:
    text = (actions / "manifest.csv").read_text()
    (actions / "manifest.csv").write_text(text.replace("task", "what", 1))
    with pytest.raises(UsageError, match="column 'task' is missing"):
        read_manifest(actions)


def sample(i: int, task: str, label: int, group: str) -> Sample:
    return Sample(Path(f"{task}{i}.mp4"), task, label, "train", group)


def test_validation_takes_whole_groups_and_never_a_label_with_one_group() -> None:
    many = [sample(i, "fight", i % 2, f"g{i // 4}") for i in range(40)]
    single = [sample(i, "handwash", 3, "only") for i in range(10)]
    train_side, held = carve(many + single, 0.2)
    assert 4 <= len(held) <= 10
    assert {s.task for s in held} == {"fight"}
    assert not {s.group for s in train_side} & {s.group for s in held}


def test_folds_hold_every_clip_once_and_split_no_group() -> None:
    clips = [sample(i, "fight", i % 2, f"g{i // 3}") for i in range(60)]
    sides = folds(clips, 3)
    assert sorted(len(s) for s in sides) == [18, 21, 21]
    assert len(set().union(*sides)) == 60
    homes = [{c.group for c in clips if c.path in side} for side in sides]
    assert not homes[0] & homes[1] and not homes[1] & homes[2] and not homes[0] & homes[2]


def test_small_tasks_are_repeated_until_tasks_are_about_equal() -> None:
    both = footage("fight", 8) + footage("interact", 3)
    tasks = [f.sample.task for f in balanced(both)]
    assert (tasks.count("fight"), tasks.count("interact")) == (8, 9)


def test_a_view_keeps_its_shape_and_depends_only_on_the_seed() -> None:
    clip = footage()[0]
    one, two, other = (augmented(clip, np.random.default_rng(s), frames=16, size=48) for s in (1, 1, 2))
    assert one.shape == (16, 48, 48, 3) and one.dtype == np.uint8
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_hand_washing_is_never_mirrored() -> None:
    # a bright left half stays left in 40 views; a fight clip is mirrored in about half of them
    video = np.zeros((20, SIDE, SIDE, 3), np.uint8)
    video[:, :, : SIDE // 2] = 200
    left = {"handwash": 0, "fight": 0}
    for task in left:
        clip = Footage(sample(0, task, 0, "g"), video, Fraction(10))
        for seed in range(40):
            view = augmented(clip, np.random.default_rng(seed), frames=16, size=32).astype(int)
            left[task] += int(view[:, :, :8].mean() > view[:, :, -8:].mean())
    assert left["handwash"] == 40
    assert 8 <= left["fight"] <= 32


def test_a_still_picture_over_a_clip_is_the_same_in_every_frame() -> None:
    black = Footage(sample(0, "fight", 0, "g"), np.zeros((20, SIDE, SIDE, 3), np.uint8), Fraction(10))
    still = film(0, 0)[0]
    view = augmented(black, np.random.default_rng(0), frames=16, size=48, still=still)
    assert view[0].std() > 1
    assert (view == view[0]).all()


def test_cross_entropy_of_even_scores_is_log_2() -> None:
    assert cross_entropy(np.zeros((3, 2)), [0, 1, 0]) == pytest.approx(np.log(2))


def test_the_plain_network_answers_each_window_as_if_alone() -> None:
    net = PlainNet(3).eval()
    x = torch.randn(1, 3, 18, 32, 32)
    with torch.no_grad():
        rows = net.frame_logits(x)[0]
        assert torch.allclose(rows[16], net(x[:, :, 1:17])[0], atol=1e-6)
    assert rows.shape == (18, 3) and not rows[:15].any()


def test_hand_made_features_tell_moving_from_standing(tmp_path: Path) -> None:
    values = []
    for label in (0, 1):
        write_film(tmp_path / f"{label}.mp4", film(label, 0, side=96))
        values.append(features(tmp_path / f"{label}.mp4", "fight"))
    assert values[0].shape == (24 + 32 + 50,)
    assert values[0][-2] > 2 * values[1][-2], "mean frame difference"


def test_what_a_class_is_to_be_stands_where_the_logits_do() -> None:
    logits = torch.empty(3, device="meta")
    assert _soft(1, logits, 0.1).device == logits.device
    assert _soft(1, torch.zeros(4), 0.2).tolist() == pytest.approx([0.05, 0.85, 0.05, 0.05])
