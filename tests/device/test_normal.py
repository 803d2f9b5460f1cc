"""Normal footage in, a rules file out: what it says is what a run of the same bundle goes by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import Run

from edgepv.base.console import Console
from edgepv.bundle import read
from edgepv.data.video import VideoReader
from edgepv.device import normal as normal_of
from edgepv.device.normal import Normal, NormalRequest, Scored, events_of, learn_normal, rule_for, rules_text
from edgepv.errors import InconclusiveError, UsageError
from edgepv.runtimes.events.odd import SETTLED
from edgepv.runtimes.events.rules import Rule, read_rules
from edgepv.runtimes.on_file import run_file
from edgepv.runtimes.record import Record

FPS, SIDE = 10, 96
REQUEST = NormalRequest(Path(), Path(), 60.0, Path(), smooth_s=0.1, cooldown_s=0.3)
"""Footage of a test is minutes, so alarms are asked for by the minute."""
ASKED = replace(REQUEST, per_hour=20.0, cooldown_s=10.0)
"""For scores of an hour."""


def film(path: Path, seconds: float, seed: int) -> Path:
    """A wall before which a square jumps about, of a size that grows and shrinks."""
    rng, grown = np.random.default_rng(seed), 0.0
    wall = cv2.resize(np.random.default_rng(0).integers(20, 200, (4, 4, 3), np.uint8), (SIDE, SIDE))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (SIDE, SIDE))
    for _ in range(round(seconds * FPS)):
        grown = 0.6 * grown + rng.normal(0, 1)
        side, (x, y), frame = max(1, round(4 + grown)), rng.integers(0, SIDE - 9, 2), wall.copy()
        frame[y : y + side, x : x + side] = 250
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes in three files, and a copy of one of them."""
    folder = tmp_path_factory.mktemp("footage")
    for n in range(3):
        film(folder / f"{n}.mp4", 40, n)
    (folder / "again.mp4").write_bytes((folder / "0.mp4").read_bytes())
    return folder


def request(bundle: Path, footage: Path, out: Path) -> NormalRequest:
    return replace(REQUEST, bundle=bundle, footage=footage, out=out)


@pytest.mark.parametrize(("score", "seconds"), [("margin", 120), ("background", 120 - 3 * SETTLED / FPS)])
def test_the_rule_that_is_written_raises_as_many_events_as_was_said(
    step_bundle: Path, footage: Path, tmp_path: Path, score: str, seconds: float
) -> None:
    out = tmp_path / "normal.toml"
    asked = replace(request(step_bundle, footage, out), score=score, rules=None)
    normal = learn_normal(asked, Console(quiet=True))
    assert (normal.clips, normal.repeated) == (3, 1)
    assert normal.limit.hours == pytest.approx(seconds / 3600, rel=0.02)
    config = read_rules(out)
    assert config.rules.rules == (normal.rule,)
    bundle, told = read(step_bundle), list[Record]()
    assert normal.rule.learned_on == bundle.digest
    variant = bundle.variant(normal.variant)
    for n in range(3):
        run_file(variant, step_bundle, footage / f"{n}.mp4", config=config, camera="camera", emit=told.append)
    assert sum(r["type"] == "new" for r in told) == normal.events
    assert 0 < normal.events <= 8  # two are to be expected


def test_a_rule_joins_those_that_the_camera_has_and_sees_through_their_masks(
    step_bundle: Path, footage: Path, tmp_path: Path
) -> None:
    mine, out = tmp_path / "gate.toml", tmp_path / "normal.toml"
    everything = "polygon = [[0, 0], [1, 0], [1, 1], [0, 1]]"
    alarm = '[camera]\nname = "gate"  # mine\n\n[[rule]]\nlabel = "fight"\nthreshold = 0.9\n'
    mine.write_text(alarm)
    asked = replace(request(step_bundle, footage, out), score="background", rules=mine)
    normal = learn_normal(asked, Console(quiet=True))
    assert out.read_text().startswith(alarm)
    found = read_rules(out)
    assert (found.camera, found.rules.rules) == ("gate", (Rule("fight", 0.9), normal.rule))
    with pytest.raises(UsageError, match="has an anomaly rule about 'background' already"):
        learn_normal(replace(asked, rules=out), Console(quiet=True))
    mine.write_text(f"{alarm}[[mask]]\n{everything}\n")
    with pytest.raises(InconclusiveError):  # nothing is seen, so nothing moves
        learn_normal(replace(asked, out=tmp_path / "masked.toml"), Console(quiet=True))
    assert not (tmp_path / "masked.toml").exists()


@pytest.mark.slow
def test_the_command_says_what_it_learned_and_refuses_what_it_cannot(
    run: Run, step_bundle: Path, footage: Path, tmp_path: Path
) -> None:
    out = tmp_path / "normal.toml"
    words = ["calibrate-normal", step_bundle, "--footage", footage, "--out", out]
    quick = [*words, "--score", "background", "--smooth-s", "0.1", "--cooldown-s", "0.3"]
    code, said, news = run(*quick, "--per-hour", "60")
    assert code == 0 and "for 60 false alarms an hour (95 %:" in said and "--rules" in news
    assert "extrapolated" not in said
    code, said, _ = run(*quick, "--per-hour", "20", "--force")
    assert code == 0 and "extrapolated: once in 0.05 hours was asked of 0.029" in said
    code, said, _ = run(*quick, "--per-hour", "60", "--force", "--json")
    assert json.loads(said)["rule"]["what"] == "background"
    for more, exit_code, why in (
        ([], 2, "exists. Name another file"),
        (["--force", "--per-hour", "0.1"], 6, "that wants 2.5 hours or more"),
        (["--force", "--score", "surprise"], 2, "unknown score 'surprise'. Known: "),
        (["--force", "--per-hour", "0"], 2, "give above 0, and with alarms"),
    ):
        code, _, news = run(*quick, *more)
        *copies, line = news.splitlines()
        assert (code, len(copies) <= 1) == (exit_code, True) and why in line


def walk(seed: int, scale: Callable[[np.ndarray], np.ndarray] = lambda x: x + 10) -> Scored:
    """Ten minutes of a score, by default about 10."""
    fresh, values = np.random.default_rng(seed).standard_normal(6000), [0.0]
    for one in fresh[1:].tolist():
        values.append(0.9 * values[-1] + one)
    return Scored(np.arange(6000) / FPS, scale(np.array(values)))


def test_the_rule_counts_as_its_peaks_were_counted() -> None:
    runs = [walk(seed) for seed in range(6)]
    rule, found = rule_for("surprise", runs, 1 / FPS, ASKED)
    assert rule.threshold > 10 and rule.low == pytest.approx(found.release, rel=1e-4)
    assert events_of(rule, runs) == pytest.approx(20, abs=8)


def test_a_score_that_cannot_get_so_high_is_refused() -> None:
    runs = [walk(seed, scale=lambda x: 1 + 0.001 * x) for seed in range(6)]
    with pytest.raises(InconclusiveError, match="is never above 1"):
        rule_for("entropy", runs, 1 / FPS, ASKED)


def test_names_in_the_file_cannot_leave_their_comment() -> None:
    runs = [walk(seed) for seed in range(6)]
    rule, found = rule_for("surprise", runs, 1 / FPS, ASKED)
    text = rules_text(Normal("surprise", rule, found, 3, 6, 0, "a" * 64, 'evil"\n[[mask]]', "v", "b" * 64))
    assert all(line.startswith("#") for line in text.splitlines() if "evil" in line)
    assert "\n[[mask]]" not in text


def test_footage_that_is_too_short_is_refused_before_it_is_played(
    step_bundle: Path, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normal_of, "play", lambda *_: 1 / 0)
    asked = replace(request(step_bundle, footage, tmp_path / "normal.toml"), score="margin")
    with pytest.raises(InconclusiveError, match=r"0\.035 hours cannot .* 0\.1 times .* wants 2\.5 hours"):
        learn_normal(replace(asked, per_hour=0.1), Console(quiet=True))
    room = "0.035 hours have room for 27 peaks that are 5 s apart, a threshold wants 30"
    with pytest.raises(InconclusiveError, match=room):  # 9 in each of 3 films of 40 s
        learn_normal(replace(asked, cooldown_s=5.0), Console(quiet=True))
    monkeypatch.setattr(VideoReader, "most_s", None)
    with pytest.raises(ZeroDivisionError):  # it is played: nobody knows how long it is
        learn_normal(replace(asked, per_hour=0.1), Console(quiet=True))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), 61.0])
def test_a_rate_that_no_footage_could_support_is_refused_before_any_work(tmp_path: Path, rate: float) -> None:
    asked = NormalRequest(tmp_path / "none", tmp_path, rate, tmp_path / "out.toml", cooldown_s=30.0)
    with pytest.raises(UsageError, match=f"--per-hour {rate:g}: .* 30 s apart at most 60"):
        learn_normal(asked, Console(quiet=True))


def test_a_folder_in_place_of_the_file_is_refused_before_hours_are_played(tmp_path: Path) -> None:
    asked = NormalRequest(tmp_path / "none", tmp_path, 1.0, tmp_path)
    with pytest.raises(UsageError, match="is a folder. Give the name of a file"):
        learn_normal(asked, Console(quiet=True))


def test_a_file_in_place_of_the_footage_is_refused_by_the_name_of_its_option(tmp_path: Path) -> None:
    asked = NormalRequest(tmp_path / "none", tmp_path / "a.mp4", 1.0, tmp_path / "out.toml")
    with pytest.raises(UsageError, match="--footage wants a folder"):
        learn_normal(asked, Console(quiet=True))
