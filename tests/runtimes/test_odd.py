"""What is odd about a whole picture: a model's own number, the background, and the rule about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepv.errors import UsageError
from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.events.odd import SETTLED, Background, known
from edgepv.runtimes.events.rules import LiveConfig, Rule, Rules, read_rules
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.output import NO_RULES, Output
from edgepv.runtimes.places import check_rules
from edgepv.runtimes.record import Record
from edgepv.types import ModelSpec, TensorSpec, Variant

FRAME = TensorSpec("frame", (1, 3, 8, 8), "NCHW")
SPEC = ModelSpec(
    "graph",
    FRAME,
    ("fight", "no_fight"),
    outputs=(TensorSpec("logits", (1, 2), "NC"), TensorSpec("surprise", (1, 1), "NC")),
)
PICTURES = ModelSpec(
    "restore", FRAME, task="restoration", outputs=(TensorSpec("image", (1, 3, 8, 8), "NCHW"),)
)


class Ear:
    """A receiver that keeps what it hears, and the pictures that came with it."""

    pixels = False

    def __init__(self) -> None:
        self.heard: list[Record] = []

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        assert frame is None
        self.heard.append(record)

    def counts(self) -> dict[str, int]:
        return {"taken": 0, "sent": 0, "queued": 0, "lost": 0}

    def close(self) -> None:
        pass

    def events(self) -> list[str]:
        return [r["type"] for r in self.heard if r["type"] in ("new", "end")]


def answer(surprise: float, *, restarted: bool = False) -> Answer:
    outputs = {"logits": np.zeros(2, np.float32), "surprise": np.array([surprise], np.float32)}
    return Answer(0, "fight", 0.5, (0.5, 0.5), True, 1.0, 2.0, restarted, outputs=outputs)


def reply(number: int, said: Answer | None) -> Reply:
    return Reply(number, number / 10, said, said is None, "" if said else "dropped", 5.0, 5.0, 1.0, "null")


def output(rule: Rule, spec: ModelSpec = SPEC) -> tuple[Output, Ear]:
    ear = Ear()
    return Output("cam1", spec, [ear], LiveConfig("cam1", Rules((rule,))), None), ear


def variant(spec: ModelSpec) -> Variant:
    return Variant("net", "onnxruntime", "fp32", "step", "m.onnx", "", spec, None, {}, {})


def test_a_models_number_is_in_its_records_and_starts_and_ends_an_event() -> None:
    told, ear = output(Rule("*", 1.5, release=1.2, what="surprise"))
    for n, surprise in enumerate((0.5, 1.4, 1.6, 1.3, 1.1)):
        told.reply(reply(n, answer(surprise)))
    assert [r["surprise"] for r in ear.heard if r["type"] == "answer"] == [0.5, 1.4, 1.6, 1.3, 1.1]
    new, end = (next(r for r in ear.heard if r["type"] == kind) for kind in ("new", "end"))
    assert (new["after"]["label"], new["after"]["score"]) == ("anomaly", pytest.approx(1.6))
    assert (end["after"]["top_score"], end["after"]["end_time"] > new["after"]["start_time"]) == (
        pytest.approx(1.6),
        True,
    )


def test_a_number_that_is_nan_starts_nothing_and_spoils_no_later_one() -> None:
    told, ear = output(Rule("*", 1.5, release=1.2, smooth_s=1.0, what="surprise"))
    for n, surprise in enumerate((0.5, float("nan"), 0.5)):
        told.reply(reply(n, answer(surprise)))
    assert ear.events() == []
    for n in range(3, 60):
        told.reply(reply(n, answer(2.0)))
    assert ear.events() == ["new"]


def test_before_an_answer_the_number_is_not_known() -> None:
    ear = Ear()
    Output("cam1", SPEC, [ear], NO_RULES, None).reply(reply(0, None))
    assert ear.heard[0]["surprise"] is None


def test_a_number_called_like_a_key_of_the_record_leaves_that_key_alone() -> None:
    from edgepv.runtimes.records import answer_fields

    spec = ModelSpec("n", FRAME, ("a", "b"), outputs=(SPEC.answer, TensorSpec("score", (1, 1), "NC")))
    said = Answer(0, "a", 0.75, (0.75, 0.25), True, 1.0, 2.0, outputs={"score": np.array([9.0])})
    assert answer_fields(said, spec)["score"] == 0.75


def scene(seed: int, square: bool) -> np.ndarray:
    """One still wall with a little noise, and a bright square in a sixteenth of it."""
    still = np.random.default_rng(0).integers(60, 120, (64, 64, 3))
    wall = still + np.random.default_rng(seed).normal(0, 2, still.shape)
    if square:
        wall[16:32, 16:32] = 240
    return np.clip(wall, 0, 255).astype(np.uint8)


def test_the_background_is_the_share_of_the_picture_that_is_new() -> None:
    background = Background()
    quiet = [background(scene(n, square=False)) for n in range(SETTLED + 20)]
    assert max(quiet[:SETTLED]) == 0
    assert max(quiet) < 0.01
    assert background(scene(999, square=True)) == pytest.approx(1 / 16, abs=0.01)


def test_a_rung_that_has_not_the_number_tells_none_and_starts_nothing() -> None:
    told, ear = output(Rule("*", 1.5, release=1.2, what="surprise"))
    smaller = Answer(0, "fight", 0.5, (0.5, 0.5), True, 1.0, 2.0, outputs={"logits": np.zeros(2, np.float32)})
    told.reply(reply(0, smaller))
    assert ear.heard[0]["surprise"] is None and ear.events() == []
    told.reply(reply(1, answer(1.6)))
    assert ear.events() == ["new"]


def test_a_picture_that_is_gone_blinds_the_rule_about_the_background_alone() -> None:
    ear = Ear()
    rules = Rules((Rule("*", 0.2, what="background"), Rule("fight", 0.4)))
    told = Output("cam1", SPEC, [ear], LiveConfig("cam1", rules), None)
    told.reply(reply(0, answer(0.0)))
    assert [r["after"]["label"] for r in ear.heard if r["type"] == "new"] == ["fight"]


def test_a_rule_about_the_background_sees_pictures_that_no_receiver_wants_and_forgets_them_at_a_cut() -> None:
    told, ear = output(Rule("*", 0.03, what="background"))
    assert told.wants_pixels
    for n in range(SETTLED + 10):
        told.reply(reply(n, answer(0.0)), scene(n, square=False))
    told.reply(reply(89, answer(0.0)))  # its picture is gone
    assert ear.events() == []
    told.reply(reply(90, answer(0.0)), scene(90, square=True))
    assert ear.events() == ["new"]
    told.reply(reply(91, answer(0.0, restarted=True)), scene(91, square=True))
    assert ear.events() == ["new", "end"]
    told.reply(reply(92, answer(0.0)), scene(92, square=False))
    assert ear.events() == ["new", "end"]


@pytest.mark.parametrize(
    ("spec", "what"), [(SPEC, "surprise"), (SPEC, "background"), (PICTURES, "background")]
)
def test_a_rule_may_be_about_any_score_that_the_model_has(spec: ModelSpec, what: str) -> None:
    assert what in known(spec)
    check_rules(Rules((Rule("*", 0.5, what=what),)), variant(spec))


def test_a_score_that_the_model_has_not_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="unknown score 'surprise'"):
        check_rules(Rules((Rule("*", 0.5, what="surprise"),)), variant(PICTURES))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"label": "fight", "what": "surprise"}, "is about the whole picture"),
        ({"what": "entropy"}, 'write doubt = "entropy"'),
        ({"what": "background", "threshold": 1.5}, "up to 1"),
        ({"what": "surprise", "threshold": float("inf")}, "is not above 0"),
        ({"what": "surprise", "zones": ("yard",)}, "zone"),
        ({"what": "surprise", "learned_on": "c4e4"}, "learned_on is no digest of a bundle. Leave it as"),
    ],
)
def test_rules_that_make_no_sense_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Rules((Rule(**{"label": "*", "threshold": 0.5, **given}),))


def test_a_file_may_ask_for_a_surprise_above_one(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text('[camera]\nname = "gate"\n[[rule]]\nlabel = "*"\nwhat = "surprise"\nthreshold = 2.5\n')
    assert read_rules(path).rules.rules == (Rule("*", 2.5, what="surprise"),)


def test_a_threshold_of_another_bundle_is_told(tmp_path: Path) -> None:
    path, here, there = tmp_path / "odd.toml", "a" * 64, "b" * 64
    rule = f'[[rule]]\nlabel = "*"\nwhat = "surprise"\nthreshold = 2.5\nlearned_on = "{there}"\n'
    path.write_text(f'[camera]\nname = "gate"\n{rule}{rule}camera = "yard"\n')
    rules = read_rules(path).rules
    (line,) = rules.learned_elsewhere(here, ("gate",))
    assert line.startswith(
        "odd.toml: the threshold 2.5 for surprise was learned with bundle bbbbbbbbbbbbbbbb"
    )
    assert ", this is aaaaaaaaaaaaaaaa: " in line and line.endswith("Learn it again: edgepv calibrate-normal")
    assert len(rules.learned_elsewhere(here, ("gate", "yard"))) == 2
    assert not rules.learned_elsewhere(there, ("gate", "yard"))
