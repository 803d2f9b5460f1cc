"""Who enters a zone, stays, leaves, and crosses a line: each told once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepv.data.boxes import Detections
from edgepv.errors import UsageError
from edgepv.runtimes.events.rules import Line, Rules, TrackRule, Zone, read_rules
from edgepv.runtimes.events.tracks import LOST_S
from edgepv.runtimes.events.watch import Events

WALL = 1_700_000_000.0
FPS = 10.0
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
BOTTOM = Zone("bottom", ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0)))
GATE = Line("gate", (0.2, 0.5), (0.8, 0.5))
SCORES = {"person": 0.9, "dog": 0.0}
Person = tuple[int, float, float]
"""A track's number and where it stands."""


def found(*people: Person, score: float = 0.9, label: int = 0, tall: float = 0.2) -> Detections:
    boxes = [(x - 0.05, y - tall, x + 0.05, y) for _, x, y in people]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(boxes), score, np.float32),
        np.full(len(boxes), label),
        np.array([number for number, *_ in people], np.int64),
    )


def events(rule: TrackRule, zones: tuple[Zone, ...] = (LEFT, BOTTOM)) -> Events:
    count = itertools.count()
    return Events(Rules((), zones, (rule,), (GATE,)), "cam", suffix=lambda: f"{next(count):06d}")


def told(watched: Events, frames: Iterable[Detections | None], since_s: float = 0.0) -> list[dict[str, Any]]:
    """The records of these answers, ten a second; None: a stale one."""
    records = []
    for k, frame in enumerate(frames):
        time_s = since_s + k / FPS
        records += watched.step(time_s, WALL + time_s, SCORES, valid=True, stale=frame is None, found=frame)
    return records


def whats(records: list[dict[str, Any]]) -> list[str]:
    return [record["what"] for record in records if "what" in record]


def test_a_visit_is_one_event_from_its_first_answer_inside_to_the_third_outside() -> None:
    """It starts when it was first inside, although that counts only once it was so three times."""
    watched = events(TrackRule("person", zones=("left",)))
    inside, outside = found((7, 0.3, 0.8)), found((7, 0.7, 0.8))
    enters, leaves = told(watched, [outside] * 2 + [inside] * 10 + [outside] * 3)
    assert (enters["type"], enters["what"], enters["before"]) == ("new", "enters", None)
    assert enters["after"]["start_time"] == pytest.approx(WALL + 0.2)
    assert {k: enters["after"][k] for k in ("label", "zones", "zone", "track", "count")} == {
        "label": "person", "zones": ["left"], "zone": "left", "track": 7, "count": 1
    }  # fmt: skip
    assert (leaves["type"], leaves["what"], leaves["why"]) == ("end", "leaves", "it left the zone")
    assert leaves["after"]["id"] == enters["after"]["id"] and leaves["after"]["count"] == 0
    assert leaves["after"]["end_time"] == pytest.approx(WALL + 1.4)


def test_where_the_feet_are_counts_not_where_the_head_is() -> None:
    tall = found((1, 0.3, 0.6), tall=0.55)
    low = found((2, 0.3, 0.45))
    assert [r["after"]["track"] for r in told(events(TrackRule("person", ("bottom",))), [tall] * 3)] == [1]
    assert told(events(TrackRule("person", ("bottom",))), [low] * 3) == []


def test_who_trembles_on_the_edge_enters_once_at_most() -> None:
    trembling = [found((1, 0.49 + 0.02 * (k % 2), 0.8)) for k in range(40)]
    assert told(events(TrackRule("person", ("left",))), trembling) == []
    settled = [found((1, 0.3, 0.8))] * 3
    assert whats(told(events(TrackRule("person", ("left",))), settled + trembling)) == ["enters"]


def test_a_long_stay_is_told_once_and_goes_by_time_not_by_answers() -> None:
    rule = TrackRule("person", ("left",), dwell_s=5.0, inertia=1)
    inside = found((1, 0.3, 0.8))
    watched = events(rule)
    records = told(watched, [inside] * 50)
    assert whats(records) == ["enters"]
    records = told(watched, [inside] * 50, since_s=5.0)
    assert whats(records) == ["dwells"] and records[0]["type"] == "update"
    slow = events(rule)
    few = [
        slow.step(time_s, WALL + time_s, SCORES, valid=True, stale=False, found=inside)
        for time_s in (0.0, 1.4, 2.8, 4.2, 5.6)
    ]
    assert [whats(records) for records in few] == [["enters"], [], [], [], ["dwells"]]


def test_everyone_in_a_zone_is_counted() -> None:
    watched = events(TrackRule("person", ("left",), inertia=1))
    one, two = found((1, 0.3, 0.8)), found((1, 0.3, 0.8), (2, 0.2, 0.6))
    leaving = found((1, 0.7, 0.8), (2, 0.2, 0.6))
    records = told(watched, [one, two, leaving])
    assert [(r["what"], r["after"]["track"], r["after"]["count"]) for r in records] == [
        ("enters", 1, 1),
        ("enters", 2, 2),
        ("leaves", 1, 1),
    ]


def test_who_is_not_seen_any_more_has_left() -> None:
    watched = events(TrackRule("person", ("left",), inertia=1))
    gone = round(LOST_S * FPS) + 2
    records = told(watched, [found((1, 0.3, 0.8)), *[found()] * gone])
    assert whats(records) == ["enters", "leaves"] and records[1]["why"] == "not seen for 1.5 s"


def test_stale_answers_say_nothing_and_end_a_visit_in_time() -> None:
    watched = events(TrackRule("person", ("left",)))
    inside = found((1, 0.3, 0.8))
    assert whats(told(watched, [inside] * 3 + [None] * 10 + [inside])) == ["enters"]
    assert whats(told(watched, [None] * 20, since_s=1.4)) == ["leaves"]


def test_a_lost_camera_ends_visits_and_a_clock_that_is_set_moves_them() -> None:
    watched = events(TrackRule("person", ("left",), inertia=1))
    told(watched, [found((1, 0.3, 0.8))])
    watched.shift(100.0)
    (leaves,) = watched.restart(WALL + 101.0)
    assert leaves["what"] == "leaves" and leaves["why"] == "the camera was gone"
    assert leaves["after"]["start_time"] == pytest.approx(WALL + 100.0)


@pytest.mark.parametrize(
    ("rule", "seen"),
    [
        (TrackRule("dog", ("left",), inertia=1), found((1, 0.3, 0.8))),
        (TrackRule("person", ("left",), inertia=1), found((-1, 0.3, 0.8))),
        (TrackRule("person", ("left",), inertia=1, min_score=0.6), found((1, 0.3, 0.8), score=0.55)),
        (TrackRule("person", ("left",), inertia=1, min_area=0.03), found((1, 0.3, 0.8))),
        (TrackRule("person", ("left",), inertia=1, max_area=0.01), found((1, 0.3, 0.8))),
        (TrackRule("person", ("left",), inertia=1, camera="other"), found((1, 0.3, 0.8))),
    ],
    ids=["label", "no track yet", "score", "too small", "too large", "camera"],
)
def test_what_a_rule_is_not_about_is_not_told(rule: TrackRule, seen: Detections) -> None:
    assert told(events(rule), [seen] * 5) == []


def test_who_was_sure_once_is_still_there_when_half_hidden() -> None:
    watched = events(TrackRule("person", ("left",), inertia=1, min_score=0.6))
    weak, sure = found((1, 0.3, 0.8), score=0.2), found((1, 0.3, 0.8), score=0.7)
    assert whats(told(watched, [weak] * 3)) == []
    assert whats(told(watched, [sure] + [weak] * 30, since_s=0.3)) == ["enters"]
    assert whats(told(watched, [found()] * 20 + [weak] * 3, since_s=3.4)) == ["leaves"]


WALKS = {
    "up": ([(0.5, 0.8 - 0.02 * k) for k in range(30)], ["in"]),
    "down": ([(0.5, 0.2 + 0.02 * k) for k in range(30)], ["out"]),
    "up and back": ([(0.5, 0.5 + 0.3 * abs(1 - k / 20) - 0.1) for k in range(41)], ["in", "out"]),
    "past its end": ([(0.9, 0.8 - 0.02 * k) for k in range(30)], []),
    "round its end": (
        [(0.5 + 0.02 * k, 0.6) for k in range(20)] + [(0.9, 0.6 - 0.01 * k) for k in range(20)]
        + [(0.9 - 0.02 * k, 0.4) for k in range(20)], [],
    ),
    "to it and back": ([(0.5, 0.51 + 0.01 * abs(10 - k)) for k in range(20)], []),
    "trembling on it": ([(0.5, 0.49 + 0.02 * (k % 2)) for k in range(40)], []),
}  # fmt: skip


@pytest.mark.parametrize("walk", WALKS)
def test_a_line_is_crossed_by_who_goes_over_it(walk: str) -> None:
    places, directions = WALKS[walk]
    records = told(events(TrackRule("person", lines=("gate",))), [found((3, x, y)) for x, y in places])
    assert [r["after"]["direction"] for r in records if r.get("what") == "crosses"] == directions
    assert [r["type"] for r in records] == ["new", "end"] * len(directions)


def test_crossings_are_counted_by_direction() -> None:
    watched = events(TrackRule("person", lines=("gate",), inertia=1))
    up, down = [found((1, 0.5, 0.6)), found((1, 0.5, 0.4))], [found((2, 0.5, 0.4)), found((2, 0.5, 0.6))]
    crossed = [r["after"] for r in told(watched, [*up, *down, found((2, 0.5, 0.4))]) if r["type"] == "new"]
    assert [(a["direction"], a["count"], a["line"]) for a in crossed] == [
        ("in", 1, "gate"),
        ("out", 1, "gate"),
        ("in", 2, "gate"),
    ]


TOML = """
[camera]
name = "shop"
[[zone]]
name = "till"
polygon = [[0.1, 0.4], [0.9, 0.4], [1.0, 1.0], [0.0, 1.0]]
[[line]]
name = "door"
start = [0.2, 0.5]
end = [0.8, 0.5]
[[track]]
label = "person"
"""


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("", "neither zones nor lines"),
        ('zones = ["tilt"]', "unknown zone 'tilt'.*till"),
        ('lines = ["dor"]', "unknown line 'dor'.*door"),
        ('zones = ["till"]\ninertia = 0', "inertia = 0 is not a number of answers"),
        ('zones = ["till"]\ndwell_s = -1.0', "dwell_s = -1 is not a number of seconds"),
        ('zones = ["till"]\nmin_score = nan', "min_score nan is not 0 to 1"),
        ('zones = ["till"]\nmin_area = 0.5\nmax_area = 0.2', "areas from 0.5 to 0.2"),
        ('zones = ["till"]\nloiter = 3', "loiter"),
    ],
)
def test_a_rule_that_cannot_be_right_is_named(more: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(TOML + more)
    with pytest.raises(UsageError, match=says):
        read_rules(file)


def test_a_line_has_two_ends_in_the_picture() -> None:
    with pytest.raises(UsageError, match="line 'a' begins where it ends"):
        Rules((), lines=(Line("a", (0.5, 0.5), (0.5, 0.5)),))
    with pytest.raises(UsageError, match=r"line 'a': corner \(100, 0\) is outside"):
        Rules((), lines=(Line("a", (0.5, 0.5), (100, 0)),))
