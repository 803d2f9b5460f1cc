"""Sessions, ladders and the deadline runtime on TensorRT's engines; TensorRT and CUDA are LABELLED FAKES."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgepv.bundle import golden, manifest
from edgepv.runtimes.deadline import DeadlineRunner, profile
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.ladder import open_ladder
from edgepv.runtimes.lane import Lane
from edgepv.runtimes.trt import bundle, kit, measure
from edgepv.types import Deadline

pytestmark = pytest.mark.slow
OnJetson = Callable[..., ModuleType]


@pytest.fixture
def whole(jetson_bundle: Path, on_jetson: OnJetson, monkeypatch: pytest.MonkeyPatch) -> manifest.Bundle:
    """The bundle on a device that built both of its engines."""
    monkeypatch.setattr(measure, "WARMUP", 5)
    on_jetson()
    kit.build(bundle.Bundle(jetson_bundle), lambda line: None, calls=2)
    return manifest.read(jetson_bundle)


def test_another_engine_takes_over_once_it_has_seen_what_it_looks_back_on(whole: manifest.Bundle) -> None:
    """States on the device cannot be handed over: the one that takes over is shown the last frames."""
    frames = np.tile(golden.load(whole)["frames"], (3, 1, 1, 1))
    variants = [whole.variant("tensorrt-fp32"), whole.variant("tensorrt-int8")]
    with_one = Lane(open_engine(variants[1], whole.checked), variants[1])
    wanted = [with_one.step(frame)[0]["logits"] for frame in frames]
    ladder = open_ladder(variants, whole.checked)
    for index, frame in enumerate(frames):
        if index == 6:
            ladder.aim(1)
            assert ladder.behind > 0
            while ladder.behind:
                ladder.catch_up()
        answer = ladder.step(frame)
        assert ladder.name == ("tensorrt-int8" if index >= 6 else "tensorrt-fp32")
        if index >= 6:
            assert np.allclose(answer.outputs["logits"], wanted[index], atol=1e-5), index
    ladder.close()
    with_one.close()


def test_the_deadline_runtime_answers_every_frame(whole: manifest.Bundle) -> None:
    frames = golden.load(whole)["frames"]
    ladder = open_ladder([whole.variant("tensorrt-int8")], whole.checked)
    with DeadlineRunner(ladder, profile(ladder), Deadline(2000.0)) as runner:
        replies = [runner.ask(frame) for frame in frames]
    assert [r.answer is not None and not r.stale for r in replies] == [True] * len(frames)


def test_births_of_a_tracker_are_written_into_states_on_the_device(whole: manifest.Bundle) -> None:
    """The host bears particles by writing states: a lane's write reaches the engine's own."""
    variant = whole.variant("tensorrt-int8")
    lane = Lane(open_engine(variant, whole.checked), variant)
    host = whole.variant("tensorrt-int8", engine="onnxruntime")
    other = Lane(open_engine(host, whole.checked), host)
    assert variant.stream
    state = variant.stream.states[0]
    for frame in golden.load(whole)["frames"]:
        value = np.full(state.shape, 0.25, np.float32)
        lane.stepper.write(state.name, value)
        other.stepper.write(state.name, value)
        assert np.allclose(lane.step(frame)[0]["logits"], other.step(frame)[0]["logits"], atol=1e-5)
    lane.close()
