"""The C of every net of the zoo answers as its graph does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from generated import Generated, answers, any_compiler, compiled, reference

from edgepv.export import to_onnx
from edgepv.firmware import Firmware, generate
from edgepv.firmware.exact import ExactEngine
from edgepv.model.checkpoint import build
from edgepv.quantize import int8_onnx
from edgepv.quantize.step import Calibration
from edgepv.stream import Stepper, convert
from edgepv.types import Variant
from edgepv.zoo import MODELS, checkpoint

pytestmark = pytest.mark.slow
FRAMES = 40
CLOSE = 1e-5  # of the largest answer: sums of float32 in another order
TRACKERS_CLOSE = 5e-5  # with its rewrites ONNX Runtime is 6e-6 from itself: a softmax of large numbers
CODES_CLOSE = 5e-3  # a sum in float may end on the other side of a half, which is another code
LEAST_ARENA = 1.1  # times what lives at one time
LARGE = ("pv-restore-small", "pv-track-small")  # as the nano ones, for minutes
NETS = [name for name in (*MODELS, "pv-restore-nano-x2") if name not in LARGE and "track" not in name]
Lower = Callable[[str], tuple[Variant, bytes]]


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lower:
    """(variant, file) of a net of the zoo as it steps."""
    known: dict[str, tuple[Variant, bytes]] = {}

    def lower(name: str) -> tuple[Variant, bytes]:
        if name not in known:
            saved = checkpoint(name)
            module, spec = build(saved), saved.spec
            if spec.input.layout == "NCTHW":
                module = convert(module, spec)
                spec = module.spec
            path = tmp_path_factory.mktemp("zoo") / "model.onnx"
            known[name] = to_onnx.lower(module, spec, path), path.read_bytes()
        return known[name]

    return lower


def built(variant: Variant, data: bytes, folder: Path) -> tuple[Firmware, Generated]:
    firmware = generate(variant, data, "0" * 64)
    return firmware, Generated(compiled(firmware, folder, any_compiler()))


def frames_of(variant: Variant, count: int) -> np.ndarray:
    """A picture that changes, (count, C, H, W)."""
    rng = np.random.default_rng(0)
    shape = variant.spec.input.shape[1:]
    still = rng.standard_normal(shape)
    return np.stack([0.5 * still + rng.standard_normal(shape) for _ in range(count)]).astype(np.float32)


@pytest.mark.parametrize("name", NETS)
def test_c_answers_as_the_graph_does(name: str, lowered: Lower, tmp_path: Path) -> None:
    variant, data = lowered(name)
    firmware, net = built(variant, data, tmp_path)
    stepper = reference(variant, data)
    for frame in frames_of(variant, FRAMES):
        expected = answers(variant, stepper.step(frame[None]))
        got = net.step(frame[None])
        assert np.abs(got - expected).max() <= CLOSE * np.abs(expected).max()
    assert firmware.liveness_bound <= firmware.arena_bytes <= LEAST_ARENA * firmware.liveness_bound


def test_a_tracker_answers_as_the_graph_does_from_the_same_states(lowered: Lower, tmp_path: Path) -> None:
    """A tracker that sees noise is chaotic: the last bit of a sum is another track some frames later."""
    variant, data = lowered("pv-track-nano")
    _, net = built(variant, data, tmp_path)
    stepper = reference(variant, data)
    assert variant.stream is not None
    for frame in frames_of(variant, FRAMES):
        feeds = stepper.feeds(frame[None])
        assert feeds is not None
        for index, state in enumerate(variant.stream.states):
            net.write(index, feeds[state.name])
        expected = answers(variant, stepper.run(feeds))
        assert np.abs(net.step(frame[None]) - expected).max() <= TRACKERS_CLOSE * np.abs(expected).max()


def test_the_int8_step_of_pv_conv_nano_is_exact_and_needs_a_third_of_a_mebibyte(
    lowered: Lower, tmp_path: Path
) -> None:
    """States and arena; a session fed 1280 x 720 NV12 has tables of 12 kB beside them."""
    variant, data = lowered("pv-conv-nano")
    (tmp_path / variant.path).write_bytes(data)
    stepper, feeds = reference(variant, data), []
    for frame in frames_of(variant, 6):
        feeds.append(stepper.feeds(frame[None]) or {})
        stepper.run(feeds[-1])
    quantized = int8_onnx.Step()(variant, tmp_path / "int8.onnx", Calibration(tmp_path, feeds[2:], "feeds"))
    coded = (tmp_path / "int8.onnx").read_bytes()
    made = generate(quantized, coded, "0")
    assert (made.state_bytes, made.arena_bytes) == (185_408, 138_880)
    assert made.state_bytes + made.arena_bytes + 12_000 <= 0.35 * 2**20
    exact = Stepper(ExactEngine(quantized, coded).infer, variant.spec, variant.stream)
    theirs = reference(quantized, coded)
    for frame in frames_of(variant, 3):
        got, expected = answers(variant, exact.step(frame[None])), answers(variant, theirs.step(frame[None]))
        assert np.abs(got - expected).max() <= CODES_CLOSE * np.abs(expected).max()


def test_the_same_graph_gives_the_same_bytes(lowered: Lower) -> None:
    variant, data = lowered("pv-conv-nano")
    assert generate(variant, data, "1") == generate(variant, data, "1")


def test_a_large_net_has_its_weights_in_a_file_of_their_own(lowered: Lower) -> None:
    made = generate(*lowered("pv-c3d"), "0")
    name = f"{made.symbol}.weights"
    assert len(made.sources[name]) == made.weight_bytes
    assert len(made.sources["model.c"]) < 200_000
