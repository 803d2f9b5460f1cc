"""Where a label is: real models of the zoo, and something that moves inside a zone, or beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import CLIPS

from edgepv import zoo
from edgepv.data.frames import preprocess
from edgepv.data.video import open_video, taken
from edgepv.device.cameras import LiveOptions
from edgepv.errors import UsageError
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.runtimes.events.rules import Rule, Rules, Zone
from edgepv.runtimes.events.watch import Events
from edgepv.runtimes.lane import Lane
from edgepv.runtimes.places import MovingPoints, ZoneSearch, alone, check_rules, holding
from edgepv.runtimes.player import Player
from edgepv.stream import Tensors
from edgepv.types import ModelSpec, StreamSpec, TensorSpec, Variant

torch = pytest.importorskip("torch")
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
RIGHT = Zone("right", ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))
FIGHT = CLIPS / "calibration" / "fight" / "fs_fi013.mp4"
CALM = CLIPS / "calibration" / "no_fight" / "fs_nofi051.mp4"


def opened(name: str) -> tuple[EagerEngine, Variant]:
    """A model of the zoo in torch, as it was trained."""
    from edgepv.export.to_onnx import stream_spec
    from edgepv.model.checkpoint import build

    found = zoo.checkpoint(name)
    module = build(found).eval()
    stream = stream_spec(module, found.spec)
    engine = EagerEngine(module, found.spec, stream)
    return engine, Variant(name, "torch", "fp32", "step", "", "", found.spec, stream, {}, {})


def side_by_side(left: Path, right: Path, spec: ModelSpec, count: int) -> list[np.ndarray]:
    """Frames at the model's rate of two videos beside each other."""
    played = []
    for path in (left, right):
        with open_video(path) as video:
            frames = [frame.pixels for frame in taken(video, spec.fps)]
        played.append([cv2.resize(f, (160, 240)) for f in frames[:count]])
    return [np.concatenate(pair, 1) for pair in zip(*played)]


@pytest.mark.parametrize("name", ["pv-conv-nano-fight", "pv-graph-nano-fight"])
@pytest.mark.parametrize("where", ["left", "right"])
def test_a_fight_is_in_the_half_of_the_picture_where_it_is(name: str, where: str) -> None:
    engine, variant = opened(name)
    pair = (FIGHT, CALM) if where == "left" else (CALM, FIGHT)
    frames = side_by_side(*pair, variant.spec, 20)[4:]
    clip = np.concatenate([preprocess(f, variant.spec) for f in frames])
    assert holding(Player(engine, variant), clip, 0, [LEFT, RIGHT]) == {where}


@pytest.mark.parametrize("where", ["left", "right"])
def test_a_tracker_says_in_which_half_something_moves(where: str) -> None:
    """A square with a pattern crosses its half of a picture in which the same squares stand still."""
    engine, variant = opened("pv-track-nano")
    lane, moving = Lane(engine, variant), MovingPoints(variant.spec)
    events = Events(Rules((Rule("moving", 0.5, zones=("left",)),), (LEFT,)), "cam")
    rng = np.random.default_rng(0)
    square = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    told = []
    for n in range(14):
        frame = np.full((128, 256, 3), 90, np.uint8)
        for x, y in ((20, 90), (200, 90)):
            frame[y : y + 24, x : x + 24] = square
        at = 20 + 4 * n + (0 if where == "left" else 128)
        frame[20:44, at : at + 24] = square
        outputs, _, _ = lane.step(frame)
        positions = moving(n / 10, outputs["tracks"], lane.ids)
        scores = {"moving": max((s for *_, s in positions["moving"]), default=0.0)}
        told += events.step(n / 10, n / 10, scores, valid=n > 0, stale=False, positions=positions)
    assert [r["after"]["zones"] for r in told if r["type"] == "new"] == (
        [["left"]] if where == "left" else []
    )


def test_what_is_not_shown_stands_still_and_is_blurred() -> None:
    frames = np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)
    shown = alone(frames, [LEFT.polygon])
    assert np.array_equal(shown[..., :8], frames[..., :8])
    assert np.ptp(shown[..., 9:], axis=0).max() == 0 and shown[..., 9:].std() < frames.std() / 3
    assert np.array_equal(alone(frames, [LEFT.polygon], rest=True)[..., 9:], frames[..., 9:])


class Bright:
    """A classifier that says "day" the surer, the brighter the brightest pixel is."""

    def __init__(self) -> None:
        self.calls = 0
        self.raises = False

    def infer(self, inputs: Tensors) -> Tensors:
        self.calls += 1
        if self.raises:
            raise RuntimeError("out of memory")
        brightest = inputs["clip"].mean((1, 2)).max((1, 2))
        return {"logits": np.stack([10 * brightest - 3, 0 * brightest], 1).astype(np.float32)}

    def close(self) -> None:
        pass


SPEC = ModelSpec("day", TensorSpec("clip", (1, 3, 2, 8, 8), "NCTHW"), ("day", "night"), frames=2)
WINDOW = Variant("day", "bright", "fp32", "window", "", "", SPEC, None, {}, {})


def lit(x: int) -> np.ndarray:
    """A dark frame with one bright pixel."""
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[2, x] = 255
    return frame


@pytest.fixture
def search() -> Iterator[Callable[..., ZoneSearch]]:
    made: list[ZoneSearch] = []

    def make(engine: Bright, *rules: Rule, fault: Callable[[Exception], None] = lambda e: None) -> ZoneSearch:
        made.append(ZoneSearch(engine, WINDOW, rules, (LEFT, RIGHT), fault))
        return made[-1]

    yield make
    for one in made:
        one.close()


def found(search: ZoneSearch, scores: dict[str, float], wanted: Callable[[Any], bool]) -> Any:
    """What the search says once that is as ``wanted``."""
    from live_support import until

    return until(lambda: (said := search.within(scores, {"day": 0.5})) and wanted(said["day"]) and said)


def test_the_zone_is_searched_while_the_label_is_there_and_follows_it(
    search: Callable[..., ZoneSearch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepv.runtimes.places.AGAIN_S", 0.01)
    engine = Bright()
    one = search(engine, Rule("day", 0.5, zones=("left",)), Rule("day", 0.5, zones=("right",)))
    assert one.cost == 8  # nothing, all, each zone and its rest, both zones and their rest
    for _ in range(2):
        one.see(lit(1))
    assert one.within({"day": 0.4}, {"day": 0.5}) == {"day": frozenset()} and engine.calls == 0
    assert found(one, {"day": 0.9}, bool) == {"day": {"left"}}
    for _ in range(2):
        one.see(lit(6))
    assert found(one, {"day": 0.9}, lambda zones: zones == {"right"})
    assert one.within({"day": 0.4}, {"day": 0.5}) == {"day": frozenset()}


def test_an_engine_that_fails_in_the_search_is_told_and_the_label_is_nowhere(
    search: Callable[..., ZoneSearch],
) -> None:
    from live_support import until

    faults: list[Exception] = []
    engine = Bright()
    engine.raises = True
    one = search(engine, Rule("day", 0.5, zones=("left",)), fault=faults.append)
    for _ in range(2):
        one.see(lit(1))
    one.within({"day": 0.9}, {"day": 0.5})
    until(lambda: faults)
    assert one.within({"day": 0.9}, {"day": 0.5}) == {"day": frozenset()}


RESTORER = ModelSpec("clean", TensorSpec("clip", (1, 3, 8, 8)), task="restoration")
TRACKER = ModelSpec("points", TensorSpec("clip", (1, 3, 8, 8)), task="tracking")


@pytest.mark.parametrize(
    ("rule", "spec", "engine", "says"),
    [
        (Rule("*", 0.5), TRACKER, "ort", "rule for '\\*': a model for tracking like points has no labels"),
        (Rule("fight", 0.5), TRACKER, "ort", "unknown label 'fight'. Known: moving"),
        (Rule("noise", 0.5), RESTORER, "ort", "clean is for restoration and gives no label"),
        (
            Rule("day", 0.5, zones=("left",)),
            SPEC,
            "null",
            "rule for 'day': it has a zone, and day cannot say",
        ),
        (Rule("dya", 0.5), SPEC, "ort", "Did you mean 'day'"),
    ],
)
def test_a_rule_that_could_never_fire_is_refused_by_name(
    rule: Rule, spec: ModelSpec, engine: str, says: str
) -> None:
    variant = Variant("v", engine, "fp32", "step", "", "", spec, None, {}, {})
    with pytest.raises(UsageError, match=says):
        check_rules(Rules((rule,), (LEFT,)), variant)


def test_a_rule_for_a_camera_that_is_not_here_is_refused(tmp_path: Path) -> None:
    from null_bundle import write_null_bundle

    from edgepv.base.console import Console
    from edgepv.device import cameras
    from edgepv.runtimes.events.rules import LiveConfig

    options = LiveOptions(
        bundle=write_null_bundle(tmp_path / "b"),
        sources={"gate": "nothing.mp4"},
        config=LiveConfig("gate", Rules((Rule("fight", 0.5, camera="gaet"),))),
        spool=tmp_path,
    )
    with pytest.raises(UsageError, match="unknown camera 'gaet'.*Did you mean 'gate'"):
        cameras.run(options, Console(quiet=True), threading.Event())


def test_a_stream_that_answers_every_few_frames_is_searched_over_whole_chunks() -> None:
    stream = StreamSpec((), warmup=5, chunk=4)
    one = ZoneSearch(Bright(), Variant("v", "b", "fp32", "step", "", "", SPEC, stream, {}, {}), (), (), print)
    assert one._frames.maxlen == 8
    one.close()
