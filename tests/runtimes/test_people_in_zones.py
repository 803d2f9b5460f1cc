"""From a detector's file to events: boxes get numbers, zones act on them, in a film and on a camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bright_detector import SPEC, bright_detector, film, picture
from support import ROOT

from edgepv.errors import UsageError
from edgepv.export.from_onnx import read_onnx
from edgepv.model.spec import read_spec
from edgepv.runtimes import open_session
from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.events.rules import LiveConfig, Rule, Rules, TrackRule, Zone, read_rules
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.on_file import run_file
from edgepv.runtimes.output import Output
from edgepv.runtimes.record import Record
from edgepv.zoo import DETECTORS

LEFT = Zone("left", ((0.0, 0.0), (0.45, 0.0), (0.45, 1.0), (0.0, 1.0)))
WALK = [picture((8 + 2 * abs(24 - k), 32)) for k in range(49)]
"""From x = 56 px to 8 and back, at 20 px a second: nearer to 24 px than to 32 from 1.4 s to 3.4 s."""


def config(*tracks: TrackRule, rules: tuple[Rule, ...] = ()) -> LiveConfig:
    return LiveConfig("cam1", Rules(rules, (LEFT,), tracks))


def test_a_film_gives_a_person_one_number_and_events_by_its_own_time(tmp_path: Path) -> None:
    variant = bright_detector(tmp_path)
    told: list[Record] = []
    source = film(tmp_path / "walk.avi", WALK)
    summary = run_file(
        variant, tmp_path, source, config=config(TrackRule("person", ("left",))), emit=told.append
    )
    answers = [r for r in told if r["type"] == "answer"]
    assert [box["id"] for r in answers for box in r["boxes"]] == [None, *[0] * (len(answers) - 1)]
    enters, leaves = [r for r in told if "what" in r]
    assert (enters["what"], leaves["what"], summary["events"]) == ("enters", "leaves", 1)
    assert enters["after"]["start_time"] == pytest.approx(1.4, abs=0.11)
    assert leaves["after"]["end_time"] == pytest.approx(3.6, abs=0.11)
    again: list[Record] = []
    run_file(variant, tmp_path, source, config=config(TrackRule("person", ("left",))), emit=again.append)
    assert [r["boxes"] for r in again if r["type"] == "answer"] == [r["boxes"] for r in answers]


def test_a_rule_about_scores_goes_by_where_a_box_stands(tmp_path: Path) -> None:
    told: list[Record] = []
    rules = (Rule("person", 0.5, zones=("left",)),)
    run_file(
        bright_detector(tmp_path), tmp_path, film(tmp_path / "walk.avi", WALK), config=config(rules=rules),
        emit=told.append,
    )  # fmt: skip
    new, end = [r for r in told if r["type"] in ("new", "end")]
    assert new["after"]["zones"] == ["left"] and new["after"]["start_time"] == pytest.approx(1.4, abs=0.11)
    assert end["after"]["end_time"] == pytest.approx(3.4, abs=0.11)


def test_rules_that_a_model_cannot_go_by_are_refused(tmp_path: Path) -> None:
    variant, source = bright_detector(tmp_path), film(tmp_path / "walk.avi", WALK[:2])
    sees = replace(variant, spec=replace(SPEC, task="classification", boxes=None))

    def run(chosen: Any, given: LiveConfig) -> None:
        run_file(chosen, tmp_path, source, config=given)

    with pytest.raises(UsageError, match="finds no boxes"):
        run(sees, config(TrackRule("person", ("left",))))
    with pytest.raises(UsageError, match="add --live"):
        run(sees, config(rules=(Rule("person", 0.5, zones=("left",)),)))
    with pytest.raises(UsageError, match="unknown label 'dog'"):
        run(variant, config(TrackRule("dog", ("left",))))
    with pytest.raises(UsageError, match="a model for detection like bright has no labels to be in doubt"):
        run(variant, config(rules=(Rule("*", 0.5),)))
    with pytest.raises(UsageError, match="unknown camera 'gate'"):
        run(variant, config(TrackRule("person", ("left",), camera="gate")))


class Ear:
    """A receiver that keeps what it hears."""

    pixels = False

    def __init__(self) -> None:
        self.heard: list[Record] = []

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        self.heard.append(record)

    def counts(self) -> dict[str, int]:
        return {"taken": 0, "sent": 0, "queued": 0, "lost": 0}

    def close(self) -> None:
        pass


def test_a_stale_reply_repeats_the_numbers_of_its_answer_and_moves_no_track(tmp_path: Path) -> None:
    ear = Ear()
    output = Output("cam1", SPEC, [ear], config(), None)

    def reply(number: int, answer: Answer, *, stale: bool = False) -> Reply:
        why: Any = "overrun" if stale else ""
        return Reply(number, number / 10, answer, stale, why, 5.0, 5.0, 1.0, "bright")

    with open_session(bright_detector(tmp_path), tmp_path) as session:
        for number, frame in enumerate(WALK[:6]):
            answer = session.step(frame)
            output.reply(reply(2 * number, answer))
            output.reply(reply(2 * number + 1, answer, stale=True))
        output.status("camera_lost", "gone")
        output.reply(reply(12, session.step(WALK[6])))
        output.reply(reply(13, session.step(WALK[7])))
    ids = [record["boxes"][0]["id"] for record in ear.heard if record["type"] == "answer"]
    assert ids == [None, None, *[0] * 10, None, 1]


@pytest.mark.slow
def test_the_example_tells_what_two_persons_do_on_the_video_that_comes_with_it(tmp_path: Path) -> None:
    """Each walks to the table, stays, and leaves over the line to the right."""
    spec = read_spec(DETECTORS / "person-detector.toml")
    variant, _ = read_onnx(DETECTORS / "person.onnx", spec, tmp_path / "person.onnx")
    told: list[Record] = []
    run_file(
        variant, tmp_path, ROOT / "examples" / "video" / "persons.mp4", camera="shop",
        config=read_rules(ROOT / "examples" / "person-zone.toml"), emit=told.append,
    )  # fmt: skip
    happened = [(r["what"], r["after"]["track"], r["after"]["count"]) for r in told if "what" in r]
    first, second = dict.fromkeys(track for _, track, _ in happened)
    whole_visit = [("enters", 1), ("dwells", 1), ("leaves", 0)]
    for track, crossings in ((first, 1), (second, 2)):
        mine = [(what, count) for what, number, count in happened if number == track]
        assert sorted(mine) == sorted([*whole_visit, ("crosses", crossings)])
    crossed = [r["after"]["direction"] for r in told if r.get("what") == "crosses"]
    assert crossed == ["out", "out"]
