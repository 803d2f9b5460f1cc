"""Models that follow points or restore pictures, from the checkpoint to the drawn video."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from edgepv import bundle
from edgepv.cli.app import main
from edgepv.data.video import read_video
from edgepv.errors import UsageError
from edgepv.model.spec import read_spec, with_particles
from edgepv.types import Report, decode

pytestmark = pytest.mark.slow

BUILDERS = Path(__file__).parents[1] / "tiny_tasks.py"
TRACKER = """
name = "tiny-tracker"
task = "tracking"
fps = 10
particles = 4
input = { name = "frame", shape = [1, 3, 32, 32], layout = "NCHW" }
outputs = [{ name = "tracks", shape = [1, 4, 3], layout = "NKC" }]
"""
RESTORER = """
name = "tiny-restorer"
task = "restoration"
fps = 10
degrade = "half"
input = { name = "frame", shape = [1, 3, 16, 24], layout = "NCHW" }
outputs = [{ name = "image", shape = [1, 3, 32, 48], layout = "NCHW" }]
"""


FIVE = """
name = "five-frames"
task = "restoration"
fps = 10
frames = 5
lag = 2
degrade = "noise-25"
input = { name = "clip", shape = [1, 3, 5, 32, 32], layout = "NCTHW" }
outputs = [{ name = "image", shape = [1, 3, 32, 32], layout = "NCHW" }]
"""


def model(folder: Path, name: str, spec: str) -> list[str]:
    """The arguments that name a model of tiny_tasks.py."""
    torch.manual_seed(0)
    save_file(runpy.run_path(str(BUILDERS))[name]().state_dict(), folder / "w.safetensors")
    (folder / "spec.toml").write_text(spec)
    files = ["--weights", f"{folder / 'w.safetensors'}", "--spec", f"{folder / 'spec.toml'}"]
    return [f"{BUILDERS}:{name}", *files]


def square(path: Path, frames: int = 14, start: int = 4) -> Path:
    """A bright square that moves to the right over a dark ground, one px a frame, and where its middle is."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 32))
    for i in range(frames):
        frame = np.full((32, 32, 3), 30, np.uint8)
        frame[12:20, start + i : start + i + 8] = 220
        writer.write(frame)
    writer.release()
    middle = np.array([[[start + 4 + i, 16] for i in range(frames)]], float)
    np.savez(path.with_suffix(".npz"), points=middle, occluded=np.zeros((1, frames), bool))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    for side, count, first in (("calibration", 4, 8), ("evaluation", 5, 2)):
        (folder / side).mkdir()
        for i in range(count):
            square(folder / side / f"{i}.mp4", start=first + i)
    return folder


@pytest.fixture(scope="module")
def tracked(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracker")
    named = model(folder, "tracker", TRACKER)
    assert main(["export", *named, "--clips", f"{clips}", "--target", "cpu", "--out", f"{folder / 'b'}"]) == 0
    return folder / "b"


@pytest.fixture(scope="module")
def restored(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restorer")
    named = model(folder, "restorer", RESTORER)
    out = folder / "b"
    assert main(["export", *named, "--clips", f"{clips}", "--target", "cpu", "--out", f"{out}"]) == 0
    return out


def report(folder: Path) -> Report:
    return decode(Report, json.loads((folder / "measured.json").read_text()))


def test_a_tracker_is_judged_by_its_points(tracked: Path) -> None:
    rows = {row.variant: row for row in report(tracked).rows}
    original, same = rows["torch-fp32"].accuracy, rows["onnxruntime-fp32"]
    assert original and original.metric == "delta_avg" and original.n == 5
    assert 0.2 < original.value <= 1
    assert same.accuracy == replace(original) and same.drop and same.drop.points == 0
    assert same.parity and same.parity.agreement is None and same.parity.sqnr_db > 80
    assert same.parity.track_px and max(same.parity.track_px) < 0.01
    assert "delta-avg" in (tracked / "report.html").read_text()
    still = report(tracked).baselines[0]
    assert still.name == "standing still" and 0 < still.accuracy.value < 1
    assert {one.n for one in report(tracked).robustness} == {5} and len(report(tracked).robustness) == 5
    assert main(["verify", str(tracked)]) == 0


def test_a_tracker_follows_what_the_host_bears(
    tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = square(tmp_path / "a.mp4"), tmp_path / "drawn.mp4"
    capsys.readouterr()
    assert main(["run", str(tracked), "--source", str(clip), "--video", str(out)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    answers = [row for row in rows if row.get("type") == "answer"]
    assert len(answers) == 14 and all("label" not in row for row in answers)
    ids = {track[0] for row in answers for track in row["tracks"]}
    assert ids and all(0 <= track[1] <= 1 for row in answers for track in row["tracks"])
    assert int(cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FRAME_COUNT)) == 14


def test_fewer_particles_from_the_same_weights(clips: Path, tmp_path: Path) -> None:
    named = model(tmp_path, "tracker", TRACKER)
    out = ["--target", "cpu", "--out", f"{tmp_path / 'b'}", "--precision", "fp32", "--particles", "2"]
    assert main(["export", *named, "--clips", f"{clips}", *out]) == 0
    spec = bundle.read(tmp_path / "b").content.spec
    assert spec.particles == 2 and spec.answer.shape == (1, 2, 3)
    with pytest.raises(UsageError, match="follows no particles"):
        with_particles(replace(spec, particles=None), 2)


def test_a_restorer_is_judged_by_the_clean_pictures(restored: Path) -> None:
    rows = {row.variant: row for row in report(restored).rows}
    original, same = rows["torch-fp32"].accuracy, rows["onnxruntime-fp32"]
    assert original and original.metric == "psnr" and 10 < original.value < 60
    assert same.drop and same.drop.unit == "dB" and abs(same.drop.points) < 0.001
    assert same.parity and same.parity.psnr_db and same.parity.psnr_db > 60
    assert report(restored).baselines[0].accuracy.metric == "psnr"
    spoilt = report(restored).robustness
    assert spoilt[0].before.value > max(one.before.value for one in spoilt[1:] if one.corruption != "blur")
    assert (restored / "golden.safetensors").stat().st_size < 2_000_000
    assert main(["verify", str(restored)]) == 0


def test_run_writes_the_restored_video(restored: Path, tmp_path: Path) -> None:
    clip, out = square(tmp_path / "a.mp4"), tmp_path / "large.mp4"
    assert main(["run", str(restored), "--source", str(clip), "--video", str(out)]) == 0
    video = cv2.VideoCapture(str(out))
    assert (int(video.get(3)), int(video.get(4))) == (48, 32)
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 14


@pytest.fixture(scope="module")
def five(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("five")
    named, out = model(folder, "neighbours", FIVE), folder / "b"
    wanted = ["--clips", f"{clips}", "--target", "cpu", "--precision", "fp32", "--out", f"{out}"]
    assert main(["export", *named, *wanted]) == 0
    return out


def test_a_restorer_of_five_frames_becomes_a_step_and_is_judged_at_the_middle_one(five: Path) -> None:
    found = report(five)
    rows = {row.variant: row for row in found.rows}
    assert found.stream and (found.stream.exactness, found.stream.delay) == ("exact", 0)
    assert found.stream.proof and found.stream.proof.video is not None
    for name in ("torch-stream", "onnxruntime-fp32"):
        drop = rows[name].drop
        assert drop and drop.unit == "dB" and abs(drop.points) < 0.001
    original = rows["torch-fp32"].accuracy
    assert original and 18 < original.value < 25  # noise of 25/255 alone: 20 dB
    assert main(["verify", str(five)]) == 0


def test_its_video_shows_each_picture_at_its_own_frame(five: Path, tmp_path: Path) -> None:
    clip, out = square(tmp_path / "a.mp4"), tmp_path / "clean.mp4"
    assert main(["run", str(five), "--source", str(clip), "--video", str(out)]) == 0
    both = [read_video(path).frames for path in (clip, out)]
    assert len(both[1]) == 14
    for given, made in list(zip(*both))[:12]:
        assert abs(_left_edge(given) - _left_edge(made)) <= 0.5


def _left_edge(picture: np.ndarray) -> float:
    """Where the bright square begins, px."""
    return float(np.flatnonzero(picture[16, :, 0] > 120)[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("lag = 2", "lag = 0"), "dB nearer to the frame 2 before the newest than to the frame 0"),
        (("lag = 2", "lag = 5"), "lag is 5; of 5 frames give 0 (the picture shows the newest) to 4"),
        (('[1, 3, 5, 32, 32], layout = "NCTHW"', "[1, 15, 32, 32]"), "stack them in the builder's forward()"),
    ],
)
def test_a_restorer_whose_spec_is_wrong_about_time_is_told_the_cure(
    clips: Path, tmp_path: Path, change: tuple[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named, out = model(tmp_path, "neighbours", FIVE.replace(*change)), f"{tmp_path / 'b'}"
    assert main(["export", *named, "--clips", f"{clips}", "--target", "cpu", "--out", out]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('metric = "psnr"', "tracking is judged by delta_avg"),
        ("particles = 5", "answers first with 'tracks' (1, 5, 3)"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(tmp_path: Path, change: str, says: str) -> None:
    key = change.split()[0]
    kept = [line for line in TRACKER.splitlines() if line.split()[:1] != [key]]
    (tmp_path / "spec.toml").write_text("\n".join([change, *kept]))
    with pytest.raises(UsageError) as caught:
        read_spec(tmp_path / "spec.toml")
    assert says in str(caught.value)


@pytest.mark.parametrize("command", [["search", "--latency-ms", "5"], ["export", "--prune", "0.5"]])
def test_what_needs_a_classifier_says_so(
    clips: Path, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    named = model(tmp_path, "restorer", RESTORER)
    code = main([command[0], *named, "--clips", f"{clips}", *command[1:]])
    assert code == 2 and "classif" in capsys.readouterr().err
