"""A package that edgepv knows nothing of brings a target, an engine, a source, a sink and a task."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import warm
from support import ROOT, TINY, Run, Tiny, drifts

from edgepv.data.video import read_video

pytestmark = pytest.mark.slow

LEVEL = """
name = "level"
task = "brightness"
fps = 10
input = { name = "frame", shape = [1, 3, 32, 32], layout = "NCHW" }
outputs = [{ name = "level", shape = [1, 1], layout = "NC" }]
"""
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def edgepv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Commands as tests/warm.py runs them, which find the package of tests/plugin, installed by pip."""
    source, place = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "tests" / "plugin", source)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(place), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shim = place.parent / "edgepv"

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(shim), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=place.parent, check=False)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(place), str(TINY.parent))))
        with warm.commands(Path(folder)) as text:
            shim.write_text(text)
            shim.chmod(0o755)
            yield run


@pytest.fixture(scope="module")
def board_bundle(edgepv: Command, tiny_step: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    clips = drifts(folder / "clips", ("fight", "no_fight"))
    arguments = [*tiny_step.arguments, "--clips", clips, "--precision", "fp32", "--out", folder / "bundle"]
    done = edgepv("export", *arguments, "--target", "board")
    assert done.returncode == 0, done.stderr
    return folder / "bundle"


def test_the_target_is_listed_beside_ours(edgepv: Command) -> None:
    done = edgepv("targets", "--json")
    assert done.returncode == 0 and not done.stderr
    found = {row["name"]: row["engines"] for row in json.loads(done.stdout)}
    assert found["board"] == ["board-npu"] and set(found) == {
        "board",
        "cpu",
        "firmware",
        "jetson",
        "mobile",
        "null",
    }


def test_its_engine_is_examined_timed_and_asked_what_it_ran(board_bundle: Path) -> None:
    (row,) = json.loads((board_bundle / "measured.json").read_text())["rows"][1:]
    assert (row["variant"], row["engine"], row["target"]) == ("board-npu-fp32", "board-npu", "board")
    assert row["parity"]["verdict"] == "pass" and row["latency"][0]["n"] > 0 and row["rss_mib"] > 0
    assert row["audit"]["source"] == "the board's own word"
    files = {p.name: p.stat().st_size for p in (board_bundle / "models").iterdir()}
    assert set(files) == {"model.board", "model.note"} and row["bytes"] == sum(files.values())
    manifest = json.loads((board_bundle / "manifest.json").read_text())
    assert manifest["measured"]["proven"]["board-npu-fp32"]["engine"] == "board-npu 1.2"


def test_its_bundle_verifies_and_runs_on_its_source_into_its_receiver(
    edgepv: Command, board_bundle: Path, tmp_path: Path
) -> None:
    done = edgepv("verify", board_bundle)
    assert done.returncode == 0 and "board-npu-fp32: golden answers reproduced" in done.stdout, done.stderr
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8))
    tally = tmp_path / "tally.json"
    run = ["run", board_bundle, "--source", f"frames:{tmp_path}/clip.npy", "--deadline-ms", "2000"]
    done = edgepv(*run, "--emit", f"tally:{tally}", "--emit", "jsonl:-")
    assert done.returncode == 0, done.stderr
    answers = [r for r in map(json.loads, done.stdout.splitlines()) if r["type"] == "answer"]
    assert len(answers) == json.loads(tally.read_text())["answer"] == 12
    assert answers[-1]["label"] in ("fight", "no_fight") and answers[-1]["variant"] == "board-npu-fp32"


@pytest.fixture(scope="module")
def level_bundle(edgepv: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model for the task that the package brings, on clips whose truth only the package can read."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("level")
    clips = drifts(folder / "clips", ("a", "b"))
    for clip in clips.rglob("*.mp4"):
        clip.with_suffix(".txt").write_text(f"{np.mean(read_video(clip).frames) / 255 + 0.02:.4f}")
    weights = {"see.weight": np.full((4, 3, 3, 3), 1 / 27, np.float32), "see.bias": np.zeros(4, np.float32)}
    save_file(weights, folder / "w.safetensors")
    (folder / "spec.toml").write_text(LEVEL)
    model = ["level:build", "--weights", folder / "w.safetensors", "--spec", folder / "spec.toml"]
    done = edgepv("export", *model, "--clips", clips, "--out", folder / "bundle", "--target", "board")
    assert done.returncode == 0, done.stderr
    return folder / "bundle"


def test_its_task_is_judged_by_its_own_figure(level_bundle: Path, edgepv: Command) -> None:
    (row,) = json.loads((level_bundle / "measured.json").read_text())["rows"][1:]
    assert row["accuracy"]["metric"] == "level_nearness" and 0.9 < row["accuracy"]["value"] < 0.99
    assert row["drop"]["verdict"] == "pass" and row["parity"]["verdict"] == "pass"
    assert "nearness" in (level_bundle / "report.md").read_text()
    assert json.loads((level_bundle / "manifest.json").read_text())["content"]["postprocessing"].startswith(
        "0 is"
    )
    assert edgepv("verify", level_bundle).returncode == 0


def test_the_answer_of_its_task_is_in_the_records(
    edgepv: Command, level_bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "grey.npy", np.full((4, 48, 64, 3), 51, np.uint8))
    run = ["run", level_bundle, "--source", f"frames:{tmp_path}/grey.npy", "--deadline-ms", "2000"]
    done = edgepv(*run)
    answers = [r for r in map(json.loads, done.stdout.splitlines()) if r["type"] == "answer"]
    assert len(answers) == 4 and answers[-1]["level"] == [pytest.approx(0.2, abs=0.02)]


def test_without_the_package_its_task_is_unknown(level_bundle: Path, run: Run) -> None:
    code, _, err = run("inspect", level_bundle)
    assert (
        code == 2
        and "unknown task 'brightness'. Known: classification, detection, restoration, segmentation, tracking"
        in err
    )


def test_without_the_package_its_bundle_names_the_engine_that_is_missing(
    board_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgepv.cli.app import main

    assert main(["run", str(board_bundle), "--source", "0"]) == 7
    assert "unknown engine 'board-npu'. Known: litert, native, null, onnxruntime" in capsys.readouterr().err
