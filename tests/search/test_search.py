"""The whole command on real clips and real engines: answer, picture, commands that work, exit codes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support import CLIPS, Tiny

from edgepv import bundle
from edgepv.base.console import Console
from edgepv.cli.app import main
from edgepv.data import before
from edgepv.data.clips import Clip
from edgepv.pipeline.options import Options
from edgepv.search import finals
from edgepv.search.trial import SearchRequest, TrialRunner
from edgepv.types import Variant

pytestmark = pytest.mark.slow

LIMIT = ("--percentile", "50", "--multiple", "4", "--tune-epochs", "1", "--precision", "int8")


@pytest.fixture(autouse=True)
def soon_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finalists are timed in as many calls as trials are."""
    monkeypatch.setattr(finals, "SURE_BUDGET_S", 0.0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training and four test clips of each label."""
    folder = tmp_path_factory.mktemp("clips")
    for label in ("fight", "no_fight"):
        found = sorted((CLIPS / "evaluation" / label).glob("*.mp4"))[:9]
        for i, clip in enumerate(found):
            place = folder / ("train" if i < 5 else "test") / label
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, place)
    return folder


def asked(tiny: Tiny, clips: Path, out: Path, *more: str) -> list[str]:
    return ["search", *tiny.arguments, "--clips", str(clips), "--out", str(out), *LIMIT, *more]


def test_the_answer_can_be_read_looked_at_pasted_and_asked_for_again(
    tiny_clip: Tiny, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    command = ("--latency-ms", "100", "--max-drop", "100", "--trials", "5")
    assert main(asked(tiny_clip, clips, first, *command)) == 0
    said = capsys.readouterr()
    assert "winner: " in said.out and "(winner)" in (first / "search.md").read_text()
    assert (first / "pareto.svg").read_text().count("<path") > 5
    answer = json.loads((first / "search.json").read_text())
    assert answer["looks"] == 1 and answer["search_clips"] == 4 and answer["final_drop"]["n"] == 4
    assert answer["failures"] == []
    assert (
        "quant" in answer["winner"]["methods"]
    )  # against the float original, though INT8 alone was searched

    assert main(asked(tiny_clip, clips, again, *command)) == 0
    repeated = json.loads((again / "search.json").read_text())
    assert repeated["winner"] == answer["winner"] and repeated["looks"] == 1
    assert "trial 1" not in capsys.readouterr().err

    pasted = next(line for line in said.err.splitlines() if "edgepv export" in line).split()
    out = tmp_path / "bundle"
    words = shlex.split(" ".join(pasted))[1:]
    words[words.index("--out") + 1] = str(out)
    assert main(words) == 0
    found = bundle.read(out)
    assert found.variant().name.removesuffix("-r4") == answer["winner"]["found"]["candidate"]["variant"]


def test_a_budget_nothing_meets_is_exit_4_with_the_nearest(
    tiny_clip: Tiny, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = asked(tiny_clip, clips, tmp_path / "s", "--latency-ms", "0.0001", "--trials", "2")
    assert main(command) == 4
    said = capsys.readouterr().err.splitlines()[-1]
    assert "no candidate answers within 0.0001 ms (p50); the nearest of those tried is" in said
    assert not (tmp_path / "s").exists()


def test_a_stream_that_loses_too_much_in_float_is_left_out(
    tiny_clip: Tiny, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, spec = str(tiny_clip.weights), str(tiny_clip.spec)
    question = SearchRequest(
        Options(tiny_clip.model, weights=weights, spec=spec, clips=str(clips), steps={"multiple": 4}), 100.0
    )
    assert TrialRunner(question, Console()).space.forms == ("clip", "flat", "stream")

    def answers(self: TrialRunner, variant: Variant, folder: Path, judged: Sequence[Clip]) -> np.ndarray:
        return np.full(len(judged), 1.0 if variant.stream is None else -1.0)  # wrong about every clip

    monkeypatch.setattr(TrialRunner, "margins", answers)
    trials = TrialRunner(question, Console())
    assert trials.space.forms == ("clip", "flat")
    said = f"not searched as a stream: that loses 100 points of {len(trials.search)} clips"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pv-conv-nano-handwash", "--latency-ms", "5"], "has no labelled clips. Give them: --clips"),
        (["pv-conv-nano"], "search wants a MODEL and --latency-ms"),
        (["pv-conv-nano", "--latency-ms", "0"], "must be above 0"),
        (
            ["pv-track-nano", "--latency-ms", "5"],
            "the search knows classifiers; pv-track-nano is for tracking",
        ),
        (["pv-conv-nano", "--latency-ms", "5", "--budget", "soon"], "--budget soon: give a time like 30m"),
        (["pv-conv-nano", "--latency-ms", "5", "--budget", "inf"], "--budget inf: give a time like 30m"),
        (["pv-conv-nano", "--latency-ms", "5", "--out", "link"], "--out link is a link that leads nowhere"),
        (["pv-conv-nano", "--latency-ms", "5", "--target", "jetson"], "cannot measure jetson on this"),
        (["--worker"], "--worker needs the --storage URL"),
    ],
)
def test_bad_questions_are_named(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    assert main(["search", *arguments, "--multiple", "8"]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_worker_without_a_search_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--worker", "--storage", f"sqlite:///{tmp_path / 's.db'}"]) == 2
    assert "holds 0 studies to join (none)" in capsys.readouterr().err


def test_what_comes_before_the_model_is_in_every_time(
    tiny_clip: Tiny,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A chain of 2 ms before a model of less than one."""

    def slowly(picture: np.ndarray) -> np.ndarray:
        time.sleep(0.002)
        return picture

    monkeypatch.setitem(cast(dict[str, Any], before.CHAIN), "clahe", slowly)
    spec, out = tmp_path / "spec.toml", tmp_path / "s"
    spec.write_text(f'before = ["clahe"]\n{tiny_clip.spec.read_text()}')
    chained = Tiny(tiny_clip.model, tiny_clip.weights, spec)
    asked_of = ("--max-drop", "100", "--trials", "2")
    assert main(asked(chained, clips, out, "--latency-ms", "1.5", *asked_of)) == 4
    near = re.search(r"the nearest of those tried is .* with ([\d.]+) ms", capsys.readouterr().err)
    assert near and float(near[1]) > 2
    assert main(asked(chained, clips, out, "--latency-ms", "100", *asked_of)) == 0
    answer = json.loads((out / "search.json").read_text())
    assert answer["before"] == ["clahe"] and answer["reference"]["p50_ms"] > 2
    assert all(row["ms"] > 2 for row in answer["trials"]) and answer["winner"]["latency"]["p50_ms"] > 2
    assert "in turns on one thread with clahe before the model, n = " in (out / "search.md").read_text()
