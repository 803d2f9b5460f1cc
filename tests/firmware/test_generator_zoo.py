"""The C of every net of the zoo answers as its graph does."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from generated import Generated, answers, any_compiler, compiled, lowered_net, reference
from support import ROOT

from edgepv.firmware import Firmware, generate
from edgepv.firmware.compiler import needed
from edgepv.firmware.exact import ExactEngine
from edgepv.quantize import int8_onnx
from edgepv.quantize.step import Calibration
from edgepv.stream import Stepper, Tensors
from edgepv.types import Variant
from edgepv.zoo import MODELS

pytestmark = pytest.mark.slow
FRAMES = 40
CLOSE = 1e-5  # of the largest answer: sums of float32 in another order
TRACKERS_CLOSE = 5e-5  # with its rewrites ONNX Runtime is 6e-6 from itself: a softmax of large numbers
CODES_CLOSE = 5e-3  # a sum in float may end on the other side of a half, which is another code
LEAST_ARENA = 1.1  # times what lives at one time
LARGE_FRAMES = 3
LARGE = ("pv-conv-small", "pv-graph-small", "pv-restore-small", "pv-track-small")
"""Of the same operators as the nano ones; clang takes half as long for their C as GCC."""
TRACKERS = [name for name in MODELS if "track" in name or "particle" in name]
NETS = [name for name in (*MODELS, "pv-restore-nano-x2") if name not in TRACKERS]
SOAKED = 5_000  # frames; once it was a million, see benchmarks/firmware_soak.json
ORACLE_FRAMES = 12  # plain loops, several times as slow as ours
ORACLE_CLOSE = 2e-6  # of the largest answer; seen: 4e-7 and less, but of the tracker
Lower = Callable[[str], tuple[Variant, bytes]]
Build = Callable[[str], tuple[Firmware, Generated]]


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lower:
    """(variant, file) of a net of the zoo as it steps."""
    known: dict[str, tuple[Variant, bytes]] = {}

    def lower(name: str) -> tuple[Variant, bytes]:
        if name not in known:
            variant, folder = lowered_net(name, tmp_path_factory)
            known[name] = variant, (folder / variant.path).read_bytes()
        return known[name]

    return lower


@pytest.fixture(scope="module")
def built(lowered: Lower, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """(C, a session of it that has seen nothing) of a net."""
    known: dict[str, tuple[Firmware, Path]] = {}

    def build_once(name: str) -> tuple[Firmware, Generated]:
        if name not in known:
            firmware = generate(*lowered(name), "0" * 64)
            compiler = "clang" if name in LARGE and shutil.which("clang") else any_compiler()
            known[name] = firmware, compiled(firmware, tmp_path_factory.mktemp("c"), compiler)
        firmware, library = known[name]
        return firmware, Generated(library)

    return build_once


def frames_of(variant: Variant, count: int) -> np.ndarray:
    """A picture that changes, (count, C, H, W)."""
    rng = np.random.default_rng(0)
    shape = variant.spec.input.shape[1:]
    still = rng.standard_normal(shape)
    return np.stack([0.5 * still + rng.standard_normal(shape) for _ in range(count)]).astype(np.float32)


@pytest.mark.parametrize("name", NETS)
def test_c_answers_as_the_graph_does(name: str, lowered: Lower, built: Build) -> None:
    variant, data = lowered(name)
    firmware, net = built(name)
    stepper = reference(variant, data)
    for frame in frames_of(variant, LARGE_FRAMES if name in LARGE else FRAMES):
        expected = answers(variant, stepper.step(frame[None]))
        got = net.step(frame[None])
        assert np.abs(got - expected).max() <= CLOSE * np.abs(expected).max()
    assert firmware.liveness_bound <= firmware.arena_bytes <= LEAST_ARENA * firmware.liveness_bound


def step_from_the_same_states(
    variant: Variant, stepper: Stepper, net: Generated, frame: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(what C answers, what the other one does) to a frame.

    A tracker that sees noise is chaotic: the last bit of a sum is another track some frames later.
    """
    feeds = stepper.feeds(frame[None])
    assert feeds is not None and variant.stream is not None
    for index, state in enumerate(variant.stream.states):
        net.write(index, feeds[state.name])
    return net.step(frame[None]), answers(variant, stepper.run(feeds))


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_answers_as_the_graph_does_from_the_same_states(
    name: str, lowered: Lower, built: Build
) -> None:
    variant, data = lowered(name)
    _, net = built(name)
    stepper = reference(variant, data)
    for frame in frames_of(variant, LARGE_FRAMES if name in LARGE else FRAMES):
        got, expected = step_from_the_same_states(variant, stepper, net, frame)
        assert np.abs(got - expected).max() <= TRACKERS_CLOSE * np.abs(expected).max()


def oracle(variant: Variant, data: bytes, folder: Path) -> Stepper:
    """The same graph as C by emx-onnx-cgen, another generator, which shares no code with ours."""
    pytest.importorskip("emx_onnx_cgen", reason="emx-onnx-cgen is not installed")
    (folder / "model.onnx").write_bytes(data)
    command = [sys.executable, "-m", "emx_onnx_cgen", "compile", "--model-name", "oracle"]
    inside = ["--large-weight-threshold", "0"]
    subprocess.run([*command, *inside, "model.onnx", "oracle.c"], cwd=folder, check=True, capture_output=True)
    flags = ["-O1", "-w", "-shared", "-fPIC"]
    subprocess.run([any_compiler(), *flags, "oracle.c", "-o", "oracle.so", "-lm"], cwd=folder, check=True)
    library, graph = ctypes.CDLL(str(folder / "oracle.so")), onnx.load_from_string(data).graph
    sizes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in graph.output}

    def infer(feeds: Tensors) -> Tensors:
        named = {variant.inputs[name]: np.ascontiguousarray(value) for name, value in feeds.items()}
        made = {name: np.empty(size, np.float32) for name, size in sizes.items()}
        given = [*(named[v.name] for v in graph.input), *made.values()]
        library.oracle(*(ctypes.c_void_p(array.ctypes.data) for array in given))
        return {name: made[file] for name, file in variant.outputs.items()}

    return Stepper(infer, variant.spec, variant.stream)


def test_another_generator_answers_the_same(lowered: Lower, built: Build, tmp_path: Path) -> None:
    variant, data = lowered("pv-conv-nano")
    (_, net), stepper = built("pv-conv-nano"), oracle(variant, data, tmp_path)
    for frame in frames_of(variant, ORACLE_FRAMES):
        got, expected = net.step(frame[None]), answers(variant, stepper.step(frame[None]))
        assert np.abs(got - expected).max() <= ORACLE_CLOSE * np.abs(expected).max()


def test_another_generators_tracker_answers_the_same(lowered: Lower, built: Build, tmp_path: Path) -> None:
    variant, data = lowered("pv-track-nano")
    (_, net), stepper = built("pv-track-nano"), oracle(variant, data, tmp_path)
    for frame in frames_of(variant, ORACLE_FRAMES):
        got, expected = step_from_the_same_states(variant, stepper, net, frame)
        assert np.abs(got - expected).max() <= TRACKERS_CLOSE * np.abs(expected).max()


def test_many_frames_change_nothing(
    lowered: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiling: None
) -> None:
    """Equal frames have equal answers to the bit; no malloc, no growth, no byte beside the memory."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.import_module("firmware").soak(*lowered("pv-conv-nano"), SOAKED, tmp_path, needed())
    assert found["frames"] == SOAKED and found["guards_whole"]
    assert (found["different"], found["different_after_reset"], found["mallocs"]) == (0, 0, 0)
    before, after = found["resident_kib"]
    assert before == after


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
