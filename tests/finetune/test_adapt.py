"""A trained model learns a user's own labels: what comes out is exported, bad input is one line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import CLIPS, TINY, Tiny
from torch import Tensor, nn

from edgepv.base.console import Console
from edgepv.base.files import sha256
from edgepv.cli import models
from edgepv.cli.arguments import seed as seed_of
from edgepv.data.clips import Clip, find_clips
from edgepv.data.frames import model_frames
from edgepv.errors import UsageError
from edgepv.finetune import card, head, lora, run
from edgepv.finetune.data import labels_of, shots, sides, tensor, window
from edgepv.finetune.request import FinetuneRequest, FinetuneResult
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import as_toml, read_spec
from edgepv.model.surgery import put
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Clips, gather
from edgepv.types import ModelSpec, TensorSpec
from edgepv.zoo import checkpoint

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
COLOURS = {"blue": (255, 0, 0), "green": (0, 255, 0), "red": (0, 0, 255)}


def write_clip(path: Path, colour: Sequence[int], rng: np.random.Generator, frames: int = 8) -> None:
    """A square of one colour that moves over noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (48, 48))
    x, y = rng.integers(2, 12, 2)
    for t in range(frames):
        frame = rng.integers(90, 130, (48, 48, 3)).astype(np.uint8)
        frame[y : y + 24, x + t : x + t + 24] = colour
        writer.write(frame)
    writer.release()


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and two test clips of each colour, a folder per label."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        for i in range(6):
            write_clip(folder / "train" / label / f"{i}.mp4", colour, rng)
        for i in range(2):
            write_clip(folder / "test" / label / f"{i}.mp4", colour, rng)
    return folder


def command(*arguments: object) -> int:
    """What ``edgepv finetune`` does with these arguments."""
    parser = argparse.ArgumentParser()
    models.add_finetune(parser.add_subparsers())
    parsed = parser.parse_args(["finetune", *map(str, arguments)])
    return int(parsed.run(parsed))


def job_of(tiny: Tiny, data: Path, out: Path, **more: object) -> FinetuneRequest:
    whole = FinetuneRequest(tiny.model, str(data), str(out), weights=str(tiny.weights), spec=str(tiny.spec))
    return replace(whole, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [["--adapter", "--rank", 2], [], ["--head-only"]])
def test_three_colours_are_learned_and_the_result_is_a_model_to_export(
    tiny_clip: Tiny, colours: Path, tmp_path: Path, how: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [*how, "--epochs", 40, "--learning-rate", 0.05, "--out", out]
    assert command(*tiny_clip.arguments, "--data", colours, *options) == 0
    printed = capsys.readouterr()
    assert "test top-1        100.0 % (61.0 to 100.0, 6 clips)" in printed.out
    next_line = f"edgepv export {tiny_clip.model} --weights {out / 'weights.safetensors'} --spec "
    assert next_line in printed.err
    spec = read_spec(out / "spec.toml")
    assert spec.labels == ("blue", "green", "red")
    model = build(from_files(tiny_clip.model, out / "weights.safetensors", spec, trust_pickle=False))
    shot = shots([Clip(colours / "test" / "red" / "0.mp4", "red", "0")], spec, QUIET)[0]
    answer = model(tensor(shot.frames[:4], spec)[None])
    assert answer.shape == (1, 3) and int(answer.argmax()) == 2
    assert (out / "adapter.safetensors").exists() == ("--adapter" in how)
    assert "6 clips" in (out / "card.md").read_text()


def test_the_adapter_alone_turns_the_base_into_the_result(
    tiny_clip: Tiny, colours: Path, tmp_path: Path
) -> None:
    made = run.finetune(job_of(tiny_clip, colours, tmp_path / "o", how="adapter", rank=2, epochs=2), QUIET)
    base = build(
        from_files(tiny_clip.model, tiny_clip.weights, read_spec(tiny_clip.spec), trust_pickle=False)
    )
    mine = lora.load(base, tmp_path / "o" / "adapter.safetensors")
    theirs = build(
        from_files(tiny_clip.model, tmp_path / "o" / "weights.safetensors", made.spec, trust_pickle=False)
    )
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.allclose(mine(x), theirs(x), atol=1e-6)
    assert run.read(tmp_path / "o") == made


def test_the_same_seed_gives_the_same_weights(tiny_clip: Tiny, colours: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run.finetune(job_of(tiny_clip, colours, tmp_path / name, epochs=1, seed=seed), QUIET)
    a, b, c = (sha256(tmp_path / name / "weights.safetensors") for name in "abc")
    assert a == b != c


def test_a_model_that_only_steps_is_trained_through_its_steps(
    tiny_step: Tiny, colours: Path, tmp_path: Path
) -> None:
    job = job_of(tiny_step, colours, tmp_path / "o", how="adapter", rank=2, epochs=12, learning_rate=0.05)
    made = run.finetune(job, QUIET)
    assert made.test is not None and made.test.value == 1
    assert made.spec.input.layout == "NCHW"


def test_a_zoo_model_is_adapted_to_renamed_labels(tmp_path: Path) -> None:
    data = tmp_path / "clips"
    for label, renamed in (("fight", "alarm"), ("no_fight", "calm")):
        (data / renamed).mkdir(parents=True)
        for path in sorted((CLIPS / "calibration" / label).glob("*.mp4"))[:4]:
            (data / renamed / path.name).symlink_to(path)
    made = run.finetune(
        FinetuneRequest("pv-conv-nano", str(data), str(tmp_path / "o"), how="adapter", rank=4, epochs=1),
        QUIET,
    )
    assert made.spec.labels == ("alarm", "calm") and made.test is None
    assert made.spec.name == "pv-conv-nano-fight-clips"
    assert made.clips[0] + made.clips[1] == 8
    model = build(
        from_files(made.builder, tmp_path / "o" / "weights.safetensors", made.spec, trust_pickle=False)
    )
    logits, *_ = model.step(torch.zeros(1, 3, 96, 96), *model.init_state().values())
    assert logits.shape == (1, 2)


def test_frames_are_those_that_a_bundle_will_see(colours: Path) -> None:
    spec = checkpoint("pv-conv-nano").spec
    clip = Clip(colours / "test" / "red" / "0.mp4", spec.labels[0], "0")
    seen = tensor(shots([clip], spec, QUIET)[0].frames, spec)
    assert np.array_equal(seen.numpy().transpose(1, 0, 2, 3), model_frames(clip.path, spec))


def test_rows_of_labels_the_model_knows_are_kept() -> None:
    known = checkpoint("pv-conv-nano")
    model = build(known)
    before = model.head.weight.clone()
    assert head.new_head(model, known.spec, ("calm", "fight", "no_fight")) == "head"
    assert model.head.weight.shape == (3, before.shape[1])
    assert torch.equal(model.head.weight[1:], before)


class TwoHeads(nn.Module):
    """The logits come from the first linear layer that is called, another of their width comes after."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(3, 2)
        self.answer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = x.mean((2, 3, 4))
        return self.answer(pooled), self.other(pooled)


def tiny_spec(**more: object) -> ModelSpec:
    spec = ModelSpec("x", TensorSpec("clip", (1, 3, 4, 8, 8), "NCTHW"), ("a", "b"), frames=4)
    return replace(spec, **more)  # type: ignore[arg-type]


def test_the_head_is_the_layer_whose_answer_the_logits_are() -> None:
    assert head.find_head(TwoHeads(), tiny_spec()) == "answer"
    model = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 2))
    assert head.find_head(model, tiny_spec()) == "3"
    put(model, "3", nn.Unflatten(1, (2, 2)))
    with pytest.raises(UsageError, match="no linear layer gives its 2 logits"):
        head.find_head(model, tiny_spec())


def clips_of(groups: str, label: str, split: str | None = None) -> list[Clip]:
    """One clip per letter; the letter is its group."""
    return [Clip(Path(f"{label}/{i}{g}.mp4"), label, g, split) for i, g in enumerate(groups)]


def test_validation_takes_whole_groups_and_leaves_every_label_its_clips() -> None:
    clips = clips_of("aabbccddee", "x") + clips_of("aabbccddee", "y") + clips_of("zzzz", "filmed once")
    train, validation, test = sides(clips, ("filmed once", "x", "y"))
    assert not test and len(train) + len(validation) == 24
    assert not {c.group for c in train} & {c.group for c in validation}
    counts = {label: sum(c.label == label for c in validation) for label in ("filmed once", "x", "y")}
    assert counts == {"filmed once": 0, "x": 2, "y": 2}


def test_named_splits_are_taken_as_they_are() -> None:
    clips = [c for s in ("train", "validation", "test") for c in clips_of(s[:1] * 4, "x", s)]
    clips += [c for s in ("train", "validation", "test") for c in clips_of(s[:1] * 4, "y", s)]
    with pytest.raises(UsageError, match="group 't' is in both the training and the test clips"):
        sides(clips, ("x", "y"))
    clips = [replace(c, group=str(c.split)) for c in clips]
    train, validation, test = sides(clips, ("x", "y"))
    assert [{c.split for c in side} for side in (train, validation, test)] == [
        {"train"},
        {"validation"},
        {"test"},
    ]


def test_labels_come_from_folders_or_from_a_manifest(colours: Path, tmp_path: Path) -> None:
    assert labels_of(colours) == ("blue", "green", "red")
    assert labels_of(colours, ("red", "blue")) == ("blue", "red")
    (tmp_path / "manifest.csv").write_text("path,label,split,group\nx.mp4,b,train,1\ny.mp4,a,train,2\n")
    assert labels_of(tmp_path) == ("a", "b")


def test_a_spec_survives_being_written(tmp_path: Path) -> None:
    spec = tiny_spec(labels=('quo"te\\', "läuft weg #1", "x y"), fps=Fraction(30000, 1001))
    (tmp_path / "spec.toml").write_text(as_toml(spec))
    assert read_spec(tmp_path / "spec.toml") == spec


def test_bad_input_is_one_clear_line(tiny_clip: Tiny, colours: Path, tmp_path: Path) -> None:
    def refused(words: str, **more: object) -> None:
        with pytest.raises(UsageError, match=words) as error:
            run.finetune(replace(good, **more), QUIET)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
        assert not (tmp_path / "o").exists()

    good = job_of(tiny_clip, colours, tmp_path / "o")
    (tmp_path / "empty").mkdir()
    refused("is not a folder", data=str(tmp_path / "none"))
    refused("holds no labelled clip", data=str(tmp_path / "empty"))
    refused("is one label only", labels=("red",))
    refused("has no label 'pink'", labels=("red", "pink"))
    refused("cannot be trained", model="model.onnx")
    refused("at least 1", epochs=0)
    refused("above 0", learning_rate=-1.0)
    refused("unknown model", model="pv-conv-smal", weights=None, spec=None)
    (tmp_path / "blank" / "red ").mkdir(parents=True)
    (tmp_path / "blank" / "red " / "0.mp4").touch()
    refused("label 'red ' begins or ends with a blank", data=str(tmp_path / "blank"))
    few = tmp_path / "few"
    write_clip(few / "a" / "0.mp4", (0, 0, 0), np.random.default_rng(0))
    write_clip(few / "b" / "0.mp4", (0, 0, 0), np.random.default_rng(0))
    refused("label 'a' has 1 training clips; at least 4", data=str(few))
    refused("diverged", how="full", learning_rate=1e30, epochs=1, batch=64)  # seen by its validation only
    (tmp_path / "file").touch()
    refused("nothing can be written into", out=str(tmp_path / "file" / "x"))
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 0"):
        seed_of("-1")
    with pytest.raises(UsageError, match="give one of"):
        command(TINY, "--data", colours, "--adapter", "--head-only")


def test_only_an_earlier_result_is_replaced(tiny_clip: Tiny, colours: Path, tmp_path: Path) -> None:
    job = job_of(tiny_clip, colours, tmp_path, epochs=1, how="head")
    with pytest.raises(UsageError, match="already exists"):
        run.finetune(job, QUIET)
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="no earlier finetune"):
        run.finetune(replace(job, force=True), QUIET)
    assert (tmp_path / "thesis.txt").is_file()
    job = replace(job, out=str(tmp_path / "o"))
    first = run.finetune(job, QUIET)
    assert run.finetune(replace(job, force=True), QUIET).spec == first.spec
    (tmp_path / "o" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"also holds notes.txt"):
        run.finetune(replace(job, force=True), QUIET)
    assert (tmp_path / "o" / "notes.txt").is_file()


def test_the_next_command_survives_blanks(tiny_clip: Tiny, colours: Path, tmp_path: Path) -> None:
    job = job_of(tiny_clip, colours, tmp_path / "sp ace", epochs=1, how="head")
    words = shlex.split(card.export_command(run.finetune(job, QUIET), job))
    assert words[words.index("--weights") + 1] == str(tmp_path / "sp ace" / "weights.safetensors")


def exported(made: FinetuneResult, job: FinetuneRequest) -> Clips:
    """The clips that the next command calibrates on and judges, run where finetune was."""
    words = shlex.split(card.export_command(made, job))
    return gather(Options(words[2], clips=words[words.index("--clips") + 1]), made.spec)


def seen(clips: Sequence[Clip]) -> set[Path]:
    """Which files of ``colours`` these are."""
    return {c.path.resolve() for c in clips}


@pytest.mark.parametrize(
    "places",
    [
        {"train": "train", "test": "test"},
        {"train": "train/train", "validation": "train/val", "test": "test"},
        {"train": ".", "test": "test"},
    ],
    ids=["a fifth is held back", "validation is named", "the rest trains"],
)
def test_export_judges_no_clip_that_trained_or_chose_the_epoch(
    tiny_clip: Tiny,
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: dict[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for side, place in places.items():
        for label in COLOURS:
            found = sorted((colours / ("test" if side == "test" else "train") / label).iterdir())
            chosen = found[4:] if side == "validation" else found
            chosen = found[:4] if side == "train" and "validation" in places else chosen
            (tmp_path / "my, clips" / place / label).mkdir(parents=True)
            for path in chosen:
                (tmp_path / "my, clips" / place / label / path.name).symlink_to(path)
    job = job_of(tiny_clip, Path("my, clips"), Path("adapted"), epochs=1, how="head")
    made = run.finetune(job, QUIET)
    clips = exported(made, job)
    assert seen(clips.held_out) == {p.resolve() for p in (colours / "test").rglob("*.mp4")}
    assert made.clips[1] and len(clips.train) == made.clips[0] == 18 - made.clips[1]
    assert seen(clips.calibration) <= seen(clips.train)
    assert {c.label for c in clips.held_out} == set(COLOURS)


def test_without_test_clips_the_next_command_judges_none_of_them(
    tiny_clip: Tiny, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert command(*tiny_clip.arguments, "--data", colours / "train", "--epochs", 1, "--out", out) == 0
    printed = capsys.readouterr()
    assert "no clip is left to judge on" in printed.err and "--clips" not in printed.err
    assert "--clips" not in (out / "card.md").read_text()
    assert {c.split for c in find_clips(out, tuple(COLOURS))} == {"train"}


def test_an_earlier_result_is_replaced_with_its_list_of_clips(
    tiny_clip: Tiny, colours: Path, tmp_path: Path
) -> None:
    job = job_of(tiny_clip, colours, tmp_path / "o", epochs=1, how="head")
    run.finetune(job, QUIET)
    assert run.FILES - {"adapter.safetensors"} == {p.name for p in (tmp_path / "o").iterdir()}
    again = replace(job, force=True, labels=("blue", "red"))
    assert {c.label for c in exported(run.finetune(again, QUIET), again).held_out} == {"blue", "red"}


def test_ctrl_c_leaves_nothing_half_written(
    tiny_clip: Tiny, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "card", stop)
    with pytest.raises(KeyboardInterrupt):
        run.finetune(job_of(tiny_clip, colours, tmp_path / "o", epochs=1), QUIET)
    assert not list(tmp_path.iterdir())


def test_a_short_clip_is_held_on_its_last_frame() -> None:
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    cut = window(frames, 6, np.random.default_rng(0))
    assert len(cut) == 6 and cut[-1].max() == 2


def test_folders_that_might_be_labels_are_asked_for(tmp_path: Path) -> None:
    for name in ("train/wave/monday/1.mp4", "train/Still/2.mp4", "test/still/3.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="its label might be 'train' or 'wave' or 'monday'. Say which"):
        labels_of(tmp_path)
    assert labels_of(tmp_path, ("wave", "still")) == ("still", "wave")
    (tmp_path / "train/wave/monday/1.mp4").rename(tmp_path / "train/wave/1.mp4")
    assert labels_of(tmp_path) == ("Still", "wave")
    (tmp_path / "train/train").mkdir()
    (tmp_path / "train/train/x.mp4").touch()
    with pytest.raises(UsageError, match="its label might be 'train'. Say which"):
        labels_of(tmp_path)
