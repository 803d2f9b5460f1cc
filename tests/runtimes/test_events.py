"""Scores become events by the rules: one new, some updates, one end, and no flicker."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT

from edgepv.errors import UsageError
from edgepv.runtimes.events.rules import LiveConfig, Rule, Rules, Zone, read_rules
from edgepv.runtimes.events.watch import Events
from edgepv.runtimes.record import Record

WALL = 1_700_000_000.0
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
DOOR = Zone("door", ((0.8, 0.0), (1.0, 0.0), (0.9, 1.0)))


def _events(rule: Rule, *zones: Zone, camera: str = "cam") -> Events:
    count = itertools.count()
    return Events(Rules((rule,), zones), camera, suffix=lambda: f"{next(count):06d}")


def _run(
    events: Events, script: list[Any], within: dict[str, frozenset[str]] | None = None
) -> list[tuple[float, str]]:
    """(time, what happened) of a script of (time, score), or (time, score, "stale" or "invalid")."""
    happened = []
    for time_s, score, *how in script:
        records = events.step(
            time_s,
            WALL + time_s,
            {"fight": score, "no_fight": 1 - score},
            valid="invalid" not in how,
            stale="stale" in how,
            within=within,
        )
        happened += [(time_s, r["type"]) for r in records]
    return happened


def _at(fps: float, *spans: tuple[float, float]) -> list[tuple[float, float]]:
    """Frames at ``fps`` for spans of (seconds, score)."""
    scores = [score for seconds, score in spans for _ in range(round(seconds * fps))]
    return [(n / fps, score) for n, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("rule", "script", "wanted"),
    [
        pytest.param(
            Rule("fight", 0.8), [(0, 0.79), (1, 0.8), (2, 0.79)], [(1, "new"), (2, "end")],
            id="the threshold itself counts; without a release the same line ends it",
        ),
        pytest.param(
            Rule("fight", 0.8, release=0.5), [(0, 0.9), (1, 0.6), (2, 0.85), (3, 0.5), (4, 0.49)],
            [(0, "new"), (4, "end")],
            id="hysteresis: between release and threshold nothing changes",
        ),
        pytest.param(
            Rule("fight", 0.8, min_s=1.0), [(0, 0.9), (0.5, 0.9), (0.9, 0.1), (1, 0.9), (1.9, 0.9), (2, 0.9)],
            [(2, "new")],
            id="held for min_s without a break, counted in time and not in frames",
        ),
        pytest.param(
            Rule("fight", 0.8, cooldown_s=5), [(0, 0.9), (1, 0.1), (2, 0.9), (4, 0.1), (5, 0.9), (6, 0.9)],
            [(0, "new"), (1, "end"), (6, "new")],
            id="the cooldown runs from the end at 1 to 6",
        ),
        pytest.param(
            Rule("fight", 0.5, smooth_s=1.0), [(0, 0.0), (0.69, 1.0), (1, 1.0)], [(1, "new")],
            id="smoothing: 1 - exp(-0.69) = 0.498 is not yet 0.5",
        ),
        pytest.param(
            Rule("fight", 0.5, smooth_s=1.0), [(0, 0.0), (0.7, 1.0)], [(0.7, "new")],
            id="smoothing: 1 - exp(-0.70) = 0.503 is",
        ),
        pytest.param(
            Rule("fight", 0.8), [(0, 0.9, "stale"), (1, 0.9, "invalid"), (2, math.nan), (3, 0.1)], [],
            id="answers that are stale, not valid or not finite start nothing",
        ),
        pytest.param(
            Rule("fight", 0.8, hold_s=2), [(0, 0.9), (1, 0.1, "stale"), (1.9, 0.1, "invalid"), (2, 0.9)],
            [(0, "new")],
            id="they keep a running event alive, whatever they say",
        ),
        pytest.param(
            Rule("fight", 0.8, hold_s=2), [(0, 0.9), (2, 0.9, "stale"), (2.1, 0.9, "stale"), (3, 0.9)],
            [(0, "new"), (2.1, "end"), (3, "new")],
            id="but no longer than hold_s",
        ),
        pytest.param(
            Rule("fight", 0.8, hold_s=2), [(0, 0.9), (9, 0.9)], [(0, "new"), (9, "end"), (9, "new")],
            id="no answer at all for longer than hold_s is two events, not one",
        ),
        pytest.param(
            Rule("fight", 0.8, min_s=1, hold_s=2), [(0, 0.9), (9, 0.9), (9.5, 0.9), (10, 0.9)], [(10, "new")],
            id="nor does time without answers count as held",
        ),
        pytest.param(
            Rule("fight", 0.5), [(0, 0.6), (0.5, 0.9), (1, 0.6), (1.5, 0.95), (2, 0.6), (3, 0.99)],
            [(0, "new"), (1, "update"), (2, "update")],
            id="updates: a top score 0.05 higher than the last one told, at most one a second",
        ),
        pytest.param(
            Rule("fight", 0.8, min_s=1), [(5, 0.9), (1, 0.9), (1.9, 0.9), (2, 0.9)], [(2, "new")],
            id="a source clock that jumps back is no time at all",
        ),
        pytest.param(
            Rule("fight", 0.8, camera="other"), [(0, 0.9)], [],
            id="a rule for another camera is not ours",
        ),
    ],
)  # fmt: skip
def test_when_events_start_and_end(rule: Rule, script: list[Any], wanted: list[tuple[float, str]]) -> None:
    assert _run(_events(rule), script) == wanted


def test_smoothing_is_the_same_at_every_frame_rate() -> None:
    """A step from 0 to 1 passes 0.63 after one second, whether it is sampled 50 or 5 times a second."""
    rule = Rule("fight", 0.63, smooth_s=1.0)
    starts = [_run(_events(rule), _at(fps, (2, 0.0), (3, 1.0)))[0][0] for fps in (50, 5)]
    assert starts == [pytest.approx(2.98, abs=0.03), pytest.approx(2.8, abs=0.03)]  # first frame at 1.98, 1.8


def test_smoothing_rides_out_what_comes_at_uneven_times() -> None:
    one, two = _events(Rule("fight", 0.9, smooth_s=2.0)), _events(Rule("fight", 0.9, smooth_s=2.0))
    _run(one, [(0, 0.2), (0.1, 1.0), (0.15, 1.0), (1.3, 1.0)])
    _run(two, [(0, 0.2), (1.3, 1.0)])
    expected = 1 - 0.8 * math.exp(-1.3 / 2)
    assert [e._watches[0]._score for e in (one, two)] == [pytest.approx(expected)] * 2


def test_a_record_shows_the_event_before_and_after() -> None:
    events = _events(Rule("fight", 0.5, min_s=1.0), camera="yard")
    events.step(10, WALL, {"fight": 0.6}, valid=True, stale=False)
    (new,) = events.step(11, WALL + 1, {"fight": 0.7}, valid=True, stale=False)
    (update,) = events.step(12, WALL + 2, {"fight": 0.9}, valid=True, stale=False)
    (end,) = events.step(13, WALL + 3, {"fight": 0.1}, valid=True, stale=False)
    first = {
        "id": "1700000000.000000-000000",
        "camera": "yard",
        "label": "fight",
        "score": 0.7,
        "top_score": 0.7,
        "start_time": WALL,  # since when it was held, not when that was long enough
        "end_time": None,
        "zones": [],
    }
    assert new == {"type": "new", "before": None, "after": first}
    second = first | {"score": 0.9, "top_score": 0.9}
    assert update == {"type": "update", "before": first, "after": second}
    third = second | {"score": 0.1, "end_time": WALL + 3}
    assert end == {"type": "end", "before": second, "after": third, "why": "the score fell below 0.5"}


@pytest.mark.parametrize(
    ("zones", "positions", "starts", "entered"),
    [
        pytest.param(("left",), {"fight": [(0.2, 0.5, 0.9)]}, True, ["left"], id="inside"),
        pytest.param(("left",), {"fight": [(0.5, 0.5, 0.9)]}, True, ["left"], id="on the edge"),
        pytest.param(("left",), {"fight": [(0.6, 0.5, 0.9)]}, False, None, id="outside"),
        pytest.param(("left",), {"fight": []}, False, None, id="nowhere"),
        pytest.param(("left",), {"fight": [(0.6, 0.5, 0.9), (0.2, 0.5, 0.7)]}, False, None, id="weak inside"),
        pytest.param(("left",), None, False, None, id="no places at all: nowhere, not the whole picture"),
        pytest.param(("left",), {"no_fight": [(0.2, 0.5, 1.0)]}, False, None, id="places of another label"),
        pytest.param(("left", "door"), {"fight": [(0.9, 0.5, 0.9)]}, True, ["door"], id="one of two"),
        pytest.param(("left",), {"fight": [(0.2, 0.5, 0.9), (0.9, 0.5, 0.9)]}, True, ["left"], id="its own"),
        pytest.param((), {"fight": [(0.9, 0.5, 0.9)]}, True, ["door"], id="no zones asked for: only told"),
    ],
)
def test_where_a_label_must_be(
    zones: tuple[str, ...], positions: Any, starts: bool, entered: list[str] | None
) -> None:
    events = _events(Rule("fight", 0.8, zones=zones), LEFT, DOOR)
    records = events.step(0, WALL, {"fight": 0.9}, valid=True, stale=False, positions=positions)
    assert [r["after"]["zones"] for r in records] == ([entered] if starts else [])


@pytest.mark.parametrize(
    ("zones", "within", "starts"),
    [
        (("left",), {"fight": {"left"}}, ["left"]),
        (("left",), {"fight": {"door"}}, None),
        (("left", "door"), {"fight": {"door"}}, ["door"]),
        (("left",), {"fight": set()}, None),
        (("left",), {"no_fight": {"left"}}, None),
        ((), {"fight": {"door"}}, ["door"]),
        ((), {}, []),
    ],
)
def test_where_a_label_was_found_to_be(
    zones: tuple[str, ...], within: dict[str, set[str]], starts: list[str] | None
) -> None:
    events = _events(Rule("fight", 0.8, zones=zones), LEFT, DOOR)
    found = {label: frozenset(names) for label, names in within.items()}
    records = events.step(0, WALL, {"fight": 0.9}, valid=True, stale=False, within=found)
    assert [r["after"]["zones"] for r in records] == ([] if starts is None else [starts])


def test_an_event_follows_a_wall_clock_that_is_set_and_keeps_its_duration() -> None:
    """The camera booted in 1970; after 10 s of an event its clock is set; the event lasts 15 s."""
    events = _events(Rule("fight", 0.8, cooldown_s=60, hold_s=20))
    sure, calm = {"fight": 0.9}, {"fight": 0.1}
    (new,) = events.step(0, 40.0, sure, valid=True, stale=False)
    assert new["after"]["start_time"] == 40.0
    events.step(10, 50.0, sure, valid=True, stale=False)
    events.shift(WALL)
    (end,) = events.step(15, WALL + 55, calm, valid=True, stale=False)
    assert end["before"]["start_time"] == 40.0
    assert (end["after"]["start_time"], end["after"]["end_time"]) == (WALL + 40, WALL + 55)


def test_a_cooldown_is_not_cut_short_by_a_clock_that_is_set_while_the_camera_is_away() -> None:
    events = _events(Rule("fight", 0.8, cooldown_s=60))
    sure = {"fight": 0.9}
    events.step(0, 40.0, sure, valid=True, stale=False)
    assert len(events.restart(50.0)) == 1
    events.shift(WALL)
    assert events.step(0, WALL + 55, sure, valid=True, stale=False) == []
    assert len(events.step(56, WALL + 111, sure, valid=True, stale=False)) == 1


def test_entering_a_zone_is_an_update_and_is_remembered() -> None:
    events = _events(Rule("fight", 0.8), LEFT, DOOR)
    told: list[Any] = []
    for time_s, x in [(0, 0.2), (0.5, 0.9), (1.2, 0.6), (2.4, 0.6), (3, 0.2)]:
        at = {"fight": [(x, 0.5, 0.9)]}
        records = events.step(time_s, WALL, {"fight": 0.9}, valid=True, stale=False, positions=at)
        told += [(time_s, r["type"], r["after"]["zones"]) for r in records]
    assert told == [(0, "new", ["left"]), (1.2, "update", ["left", "door"])]


@pytest.mark.parametrize(
    ("doubt", "scores", "starts"),
    [
        ("entropy", (0.5, 0.5), True),  # 1: as unsure as can be
        ("entropy", (0.9, 0.1), False),  # 0.469
        ("entropy", (1.0, 0.0), False),  # 0, and no logarithm of 0
        ("rest", (0.25, 0.25, 0.25, 0.25), True),  # 1 - 0.25 = 0.75
        ("rest", (0.5, 0.5), False),  # 0.5
        ("margin", (0.4, 0.2, 0.2, 0.2), True),  # 1 - 0.2 = 0.8
        ("margin", (0.66, 0.34), False),  # 0.68
    ],
)
def test_the_anomaly_rule_fires_when_the_model_is_unsure(
    doubt: Any, scores: tuple[float, ...], starts: bool
) -> None:
    events = _events(Rule("*", 0.7, doubt=doubt))
    answer = {str(n): s for n, s in enumerate(scores)}
    records = events.step(0, WALL, answer, valid=True, stale=False)
    assert [r["after"]["label"] for r in records] == (["anomaly"] if starts else [])


def test_a_restart_ends_what_runs_and_cooldowns_go_on_by_the_wall_clock() -> None:
    events = _events(Rule("fight", 0.8, cooldown_s=60))
    sure = {"fight": 0.9}
    assert len(events.step(1000, WALL, sure, valid=True, stale=False)) == 1
    (end,) = events.restart(WALL + 10)
    assert (end["type"], end["why"], end["after"]["end_time"]) == ("end", "the camera was gone", WALL + 10)
    assert events.restart(WALL + 11) == []
    assert events.step(0, WALL + 60, sure, valid=True, stale=False) == []  # 50 s after the end, new clock
    assert events.step(9, WALL + 69, sure, valid=True, stale=False) == []
    (new,) = events.step(10, WALL + 70, sure, valid=True, stale=False)
    assert new["type"] == "new" and new["after"]["id"] != end["after"]["id"]
    assert [r["why"] for r in events.close(WALL + 71)] == ["shutdown"]


def test_smoothing_starts_anew_after_a_restart() -> None:
    events = _events(Rule("fight", 0.5, smooth_s=10))
    _run(events, [(0, 0.0), (1, 0.0)])
    events.restart(WALL + 2)
    assert _run(events, [(0, 0.9)]) == [(0, "new")]


def test_no_event_ends_before_it_starts_when_the_wall_clock_is_set_back() -> None:
    events = _events(Rule("fight", 0.8))
    events.step(0, WALL, {"fight": 0.9}, valid=True, stale=False)
    (end,) = events.step(1, WALL - 3600, {"fight": 0.1}, valid=True, stale=False)
    assert end["after"]["end_time"] == end["after"]["start_time"] == WALL


def test_ids_differ_by_themselves() -> None:
    rules = Rules(tuple(Rule("fight", 0.5) for _ in range(50)))
    records = Events(rules, "cam").step(0, WALL, {"fight": 1.0}, valid=True, stale=False)
    assert len({r["after"]["id"] for r in records}) == 50
    assert all(r["after"]["id"].startswith("1700000000.000000-") for r in records)


STEPS = st.tuples(
    st.sampled_from([-1.0, 0.0, 0.04, 0.1, 0.5, 3.0]),
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0, math.nan]),
    st.sampled_from(["good", "good", "good", "stale", "invalid", "restart"]),
)
RULES = st.builds(
    Rule,
    label=st.just("fight"),
    threshold=st.sampled_from([0.5, 0.8]),
    release=st.sampled_from([None, 0.2, 0.5]),
    smooth_s=st.sampled_from([0.0, 0.5]),
    min_s=st.sampled_from([0.0, 0.3]),
    cooldown_s=st.sampled_from([0.0, 2.0]),
    hold_s=st.sampled_from([0.2, 1.0, 5.0]),
)


@settings(max_examples=300, deadline=None)
@given(rule=RULES, steps=st.lists(STEPS, max_size=60))
def test_every_event_has_one_beginning_one_end_and_its_distance(rule: Rule, steps: list[Any]) -> None:
    events = _events(rule)
    time_s = clock = 0.0  # the source's, and what really went by
    records: list[tuple[float, bool, Record]] = []
    for gap, score, how in steps:
        time_s, clock = time_s + gap, clock + max(gap, 0.0)
        good = how == "good" and math.isfinite(score)
        if how == "restart":
            found, time_s = events.restart(WALL + clock), 0.0
        else:
            found = events.step(
                time_s, WALL + clock, {"fight": score}, valid=how != "invalid", stale=how == "stale"
            )
        records += [(clock, good, r) for r in found]
    records += [(clock, False, r) for r in events.close(WALL + clock)]
    assert events.close(WALL + clock) == []

    lives: dict[str, list[str]] = {}
    free_at = told = -math.inf
    before = None
    for at, good, r in records:
        after = r["after"]
        lives.setdefault(after["id"], []).append(r["type"])
        assert r["before"] == (None if r["type"] == "new" else before)
        assert (after["end_time"] is not None) is (r["type"] == "end")
        assert after["top_score"] >= after["score"] or r["type"] == "end"
        if r["type"] == "new":
            assert good and at >= free_at - 1e-6 and after["score"] >= rule.threshold
        if r["type"] == "update":
            assert good and at - told >= 1.0 - 1e-6
        if r["type"] == "end":
            free_at = at + rule.cooldown_s
            assert after["end_time"] >= after["start_time"]
        told, before = at, after
    for life in lives.values():
        assert life == ["new", *["update"] * (len(life) - 2), "end"]
    order = [r["after"]["id"] for _, _, r in records]
    assert [i for i, _ in itertools.groupby(order)] == list(lives)  # one after the other, never mixed


# The file.


def test_the_example_is_read() -> None:
    found = read_rules(ROOT / "examples" / "alarm.toml")
    assert isinstance(found, LiveConfig) and found.camera == "entrance"
    assert [(r.label, r.threshold, r.low, r.cooldown_s) for r in found.rules.rules] == [
        ("fight", 0.8, 0.6, 30.0),
        ("*", 0.98, 0.98, 300.0),
    ]
    assert [z.name for z in found.rules.zones] == ["yard"]
    assert (len(found.masks), len(found.masks[0]), len(found.redact), len(found.redact[0])) == (1, 4, 1, 4)
    found.rules.check_labels(("fight", "no_fight"))


def test_the_example_raises_one_alarm_for_a_fight_of_ten_seconds() -> None:
    found = read_rules(ROOT / "examples" / "alarm.toml")
    script = _at(10, (5, 0.05), (10, 0.95), (10, 0.05))
    assert _run(Events(found.rules, found.camera), script) == []  # not in the yard
    in_yard = {"fight": frozenset({"yard"})}
    happened = _run(Events(found.rules, found.camera), script, in_yard)
    assert [what for _, what in happened] == ["new", "update", "end"]
    assert happened[0][0] == pytest.approx(
        7.3, abs=0.11
    )  # ln(0.9 / 0.15) = 1.8 s to pass 0.8, held for 0.5 s


HEAD = '[camera]\nname = "c"\n'
RULE = '[[rule]]\nlabel = "fight"\nthreshold = 0.5\n'
MASK = "[[mask]]\npolygon = [{}]\n"
REDACT = "[redact]\nregions = [[{}]]\n"
ZONE = '[[zone]]\nname = "z"\npolygon = [{}]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(RULE, r"Add \[camera\] with name", id="no camera"),
        pytest.param(HEAD, "asks for nothing", id="no rule"),
        pytest.param(HEAD + RULE.replace("[[rule]]", "[rule]"), r"Write \[\[rule\]\]", id="one bracket"),
        pytest.param("\ufeff" + HEAD, "asks for nothing", id="a mark by Windows before it"),
        pytest.param(HEAD + RULE + "treshold = 1\n", "unknown key 'treshold'.*'threshold'", id="typo"),
        pytest.param(HEAD + RULE + "[[zones]]\n", "unknown key 'zones'.*'zone'", id="section"),
        pytest.param(HEAD + "colour = 1\n" + RULE, r"live\.toml\.camera: unknown key 'colour'", id="camera"),
        pytest.param(HEAD + RULE + 'min_s = "1"\n', r"rule\[0\]\.min_s: expected a float", id="a string"),
        pytest.param(HEAD + RULE + "min_s = -1\n", "min_s = -1 is not a number of seconds", id="negative"),
        pytest.param(HEAD + RULE + "min_s = nan\n", "min_s = nan is not a number of seconds", id="nan"),
        pytest.param(HEAD + RULE + "hold_s = 0\n", "would end every event", id="no hold"),
        pytest.param(HEAD + RULE + "release = 0.6\n", "release 0.6 is not above 0", id="release above"),
        pytest.param(HEAD + RULE.replace("0.5", "1.5"), "threshold 1.5 is not above 0", id="threshold"),
        pytest.param(HEAD + RULE + 'zones = ["dor"]\n', "unknown zone 'dor'. Known: none", id="zone"),
        pytest.param(HEAD + RULE + 'doubt = "x"\n', "unknown value 'x'", id="doubt"),
        pytest.param(HEAD + RULE + MASK.format("[0, 0], [1, 1]"), r"mask\[0\]: .* has 2", id="two"),
        pytest.param(HEAD + RULE + MASK.format("[0, 0], [1, 0], [1, 1.1]"), r"\(1, 1.1\) is", id="out"),
        pytest.param(HEAD + RULE + REDACT.format("[0, 0], [1, 0], [nan, 1]"), r"\(nan, 1\) is", id="nan"),
        pytest.param(HEAD + RULE + ZONE.format("[0, 0], [0.5, 0.5], [1, 1]"), "no area", id="a line"),
        pytest.param(
            HEAD + RULE + ZONE.format("[0, 0], [1, 1], [1, 0], [0, 1]"),
            "edge from corner 1 crosses the one from corner 3", id="a bow tie",
        ),
        pytest.param(
            HEAD + RULE + ZONE.format("[64, 0], [640, 0], [640, 480]"), "divide pixels by", id="pixels"
        ),
        pytest.param(HEAD + RULE + ZONE.format("[0, 0], [1, 0], [1, 1]") * 2, "'z' is .*twice", id="twice"),
        pytest.param(HEAD.replace('"c"', '"../c"') + RULE, "camera.name is '../c'", id="a path as a name"),
        pytest.param("x = " + "[" * 5000, "is not valid TOML", id="too deep"),
        pytest.param("x = " + "9" * 5000, "is not valid TOML", id="too long a number"),
        pytest.param("camera = [", "is not valid TOML", id="not TOML"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "live.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_rules(path)
    assert "live.toml" in str(caught.value)


def test_a_missing_file_and_an_anomaly_rule_with_a_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_rules(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="has no place"):
        Rules((Rule("*", 0.5, zones=("left",)),), (LEFT,))


def test_what_a_model_does_not_have_is_named_with_the_file_that_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text('[camera]\nname = "gate"\n[[rule]]\nlabel = "figth"\nthreshold = 0.5\n')
    with pytest.raises(UsageError, match="^gate.toml: rule for 'figth': unknown label 'figth'. Known: "):
        read_rules(path).rules.check_labels(("fight", "no_fight"))


def test_a_label_the_model_does_not_have_is_named() -> None:
    rules = Rules((Rule("figth", 0.5), Rule("*", 0.5)))
    with pytest.raises(UsageError, match="unknown label 'figth'.*Did you mean 'fight'"):
        rules.check_labels(("fight", "no_fight"))
    with pytest.raises(UsageError, match="unknown label 'figth'"):
        Events(rules, "cam").step(0, WALL, {"fight": 1.0}, valid=True, stale=False)
