"""What a camera's records say, whoever listens, and what a run says of itself at its end."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest

from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.events.rules import LiveConfig, Rule, Rules, Zone
from edgepv.runtimes.faults import Faults, error_of
from edgepv.runtimes.health.state import Health
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.output import NO_RULES, Output, WallClock
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks.jsonl import JsonLines
from edgepv.types import ModelSpec, TensorSpec

SPEC = ModelSpec("net", TensorSpec("clip", (1, 3, 2, 8, 8), "NCTHW"), ("fight", "no_fight"), frames=2)
POINTS = ModelSpec(
    "points",
    TensorSpec("clip", (1, 3, 8, 16), "NCHW"),
    task="tracking",
    outputs=(TensorSpec("tracks", (1, 2, 3), "NKC"),),
)
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))


class Ear:
    """A receiver that keeps what it hears, or raises."""

    pixels = False

    def __init__(self, raises: bool = False) -> None:
        self.heard: list[Record] = []
        self._raises = raises

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        if self._raises:
            raise KeyError("label")
        self.heard.append(record)

    def counts(self) -> dict[str, int]:
        return {"taken": 0, "sent": 0, "queued": 0, "lost": 0}

    def close(self) -> None:
        pass


def reply(number: int, time_s: float, answer: Answer | None) -> Reply:
    return Reply(number, time_s, answer, answer is None, "" if answer else "dropped", 5.0, 5.0, 1.0, "null")


def fight(score: float) -> Answer:
    return Answer(0, "fight", score, (score, 1 - score), True, 1.0, 2.0)


def points(*rows: tuple[float, float, float]) -> Answer:
    return Answer(0, None, None, (), True, 1.0, 2.0, outputs={"tracks": np.array(rows, np.float32)})


def test_a_miss_of_which_nothing_is_said_is_counted_all_the_same() -> None:
    ear = Ear()
    output = Output("cam1", SPEC, [ear], NO_RULES, Health("cam1"), deadline_ms=50, quiet_misses=True)
    output.reply(reply(0, 0.0, fight(0.9)))
    output.reply(reply(1, 0.1, None))
    output.close()
    assert [r["number"] for r in ear.heard if r["type"] == "answer"] == [0]
    summary = output.summary()
    assert (summary["frames_answered"], summary["missed"], summary["drops"]) == (1, 1, 1)


def test_the_summary_counts_the_records_that_no_receiver_got() -> None:
    read, write = os.pipe()
    os.close(read)
    takes_all = os.open(os.devnull, os.O_WRONLY)
    sinks = [JsonLines(write, "nobody", print), JsonLines(takes_all, "null", print)]
    output = Output("cam1", SPEC, sinks, NO_RULES, Health("cam1"))
    output.status("restarted", "x")
    output.status("stale", "x")
    output.close()
    assert output.summary()["lost"] == 3  # two statuses and the summary


def test_a_receiver_that_raises_costs_no_other_its_records_and_is_named() -> None:
    ear, health = Ear(), Health("cam1")
    faults = Faults(health.fault)
    output = Output("cam1", SPEC, [Ear(raises=True), ear], NO_RULES, health, faults=faults)
    for n in range(30):
        output.reply(reply(n, n / 10, fight(0.9)))
    output.close()
    assert [r["number"] for r in ear.heard if r["type"] == "answer"] == list(range(30))
    found = output.summary()["faults"]
    assert found == {"receiver Ear": {"count": 31, "first": "KeyError: 'label'"}}
    error = error_of(found)
    assert error and error.exit_code == 11 and "Ear raised 31 times" in str(error)
    assert "receiver Ear raised KeyError: 'label'" in (health.trouble() or "")
    assert ear.heard[-1]["type"] == "summary" and ear.heard[-1]["faults"]


def test_every_record_of_a_run_has_the_same_keys_before_and_after_the_first_answer() -> None:
    ear = Ear()
    output = Output("cam1", SPEC, [ear], NO_RULES, Health("cam1"))
    output.reply(reply(0, 0.0, None), index=3)
    output.reply(reply(1, 0.1, fight(0.9)), index=6)
    first, second = ear.heard
    assert list(first) == list(second) and (first["frame"], second["frame"]) == (3, 6)
    assert (first["valid"], first["label"], first["pre_ms"], second["pre_ms"]) == (False, None, None, 1.0)
    assert first["version"] == 1


class Clock:
    """A wall clock that can be set, and a monotonic one that cannot."""

    def __init__(self) -> None:
        self.wall = self.monotonic = 100.0

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_a_clock_that_is_set_while_an_event_runs_moves_it_and_is_told() -> None:
    clock, ear = Clock(), Ear()
    config = LiveConfig("cam1", Rules((Rule("fight", 0.8),)))
    wall = WallClock(lambda: clock.wall, lambda: clock.monotonic)
    output = Output("cam1", SPEC, [ear], config, Health("cam1"), clock=wall)
    output.reply(reply(0, 0.0, fight(0.9)))
    clock.pass_s(10)
    clock.wall += 1_700_000_000
    output.reply(reply(1, 10.0, fight(0.1)))
    new, set_, end = (r for r in ear.heard if r["type"] != "answer")
    assert new["after"]["start_time"] == pytest.approx(100, abs=0.01)
    assert set_["what"] == "clock_set" and "+1700000000.0 s" in set_["why"]
    assert end["after"]["end_time"] - end["after"]["start_time"] == pytest.approx(10)
    assert end["after"]["end_time"] == pytest.approx(1_700_000_110, abs=0.1)
    clock.pass_s(5)
    clock.wall += 0.001  # drift is no setting
    output.reply(reply(2, 15.0, fight(0.1)))
    assert output.counts["clock_set"] == 1


@pytest.mark.parametrize(
    ("walk", "starts"),
    [
        pytest.param([(0.4, 0.5), (0.5, 0.5), (0.6, 0.5)], True, id="moves in the left half"),
        pytest.param([(1.4, 0.5), (1.5, 0.5), (1.6, 0.5)], False, id="moves in the right half"),
        pytest.param([(0.4, 0.5), (0.4, 0.5), (0.41, 0.5)], False, id="stands in the left half"),
    ],
)
def test_a_trackers_points_raise_the_alarm_where_they_move(
    walk: list[tuple[float, float]], starts: bool
) -> None:
    """The picture is two heights wide; another point moves on the right all the time, unseen."""
    ear = Ear()
    config = LiveConfig("cam1", Rules((Rule("moving", 0.5, zones=("left",)),), (LEFT,)))
    output = Output("cam1", POINTS, [ear], config, Health("cam1"))
    for n, (x, y) in enumerate(walk):
        output.reply(reply(n, n / 10, points((x, y, 0.9), (1.2 + n / 10, 0.5, 0.1))))
    told: list[Any] = [r["after"]["zones"] for r in ear.heard if r["type"] == "new"]
    assert told == ([["left"]] if starts else [])
    json.dumps(ear.heard)


def test_a_point_that_crawls_further_than_the_limit_in_more_than_a_second_does_not_move() -> None:
    ear = Ear()
    config = LiveConfig("cam1", Rules((Rule("moving", 0.5),)))
    output = Output("cam1", POINTS, [ear], config, Health("cam1"))
    for n in range(60):
        output.reply(reply(n, n / 10, points((0.1 + n * 0.002, 0.5, 0.9), (0, 0, 0))))
    assert not [r for r in ear.heard if r["type"] == "new"]
