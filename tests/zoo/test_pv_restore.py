"""The restorer steps as it was trained, forgets nothing it should keep, and runs alike in every engine."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from support import assert_static_4_d
from torch import Tensor

from edgepv.errors import UsageError
from edgepv.model.checkpoint import build, from_files
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import Stepper
from edgepv.types import Checkpoint, ModelSpec, TensorSpec, Variant
from edgepv.zoo import pv_restore
from edgepv.zoo.pv_restore import Restore

Build = Callable[..., Restore]
BUILDERS: list[Build] = [pv_restore.nano, pv_restore.small, pv_restore.nano_x2, pv_restore.small_x2]
HEIGHT, WIDTH = 32, 48


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def lively(net: Restore, seed: int = 0) -> Restore:
    """The network with a last layer that does not start at 0, so that everything before it shows."""
    at = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=at))
    return net.eval()


def video(frames: int, seed: int = 1) -> Tensor:
    at = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, HEIGHT, WIDTH, generator=at)


@torch.no_grad()
def always(layer: torch.nn.Conv2d, value: float) -> None:
    """Make a convolution answer ``value`` whatever it is given."""
    layer.weight.zero_()
    assert layer.bias is not None
    layer.bias.fill_(value)


@torch.no_grad()
def streamed(net: Restore, clip: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Every frame stepped; images (1, 3, T, H, W) and the last states."""
    states, images = list(net.init_state().values()), []
    for t in range(clip.shape[2]):
        image, *states = net.step(clip[:, :, t], *states)
        images.append(image)
    return torch.stack(images, 2), states


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("recurrent", [True, False])
def test_steps_answer_what_the_training_form_answers(build: Build, recurrent: bool) -> None:
    net = lively(build(height=HEIGHT, width=WIDTH, recurrent=recurrent))
    images, states = streamed(net, video(12))
    with torch.no_grad():
        whole = net(video(12))
    assert whole.shape == (1, 3, 12, HEIGHT * net.up, WIDTH * net.up)
    assert (images - whole).abs().max() <= 1e-5
    assert len(states) == recurrent


def test_a_batch_is_restored_clip_by_clip() -> None:
    net = lively(pv_restore.nano(height=HEIGHT, width=WIDTH))
    a, b = video(5, seed=1), video(5, seed=2)
    with torch.no_grad():
        both = net(torch.cat([a, b]))
        assert (both - torch.cat([net(a), net(b)])).abs().max() <= 1e-5


def test_the_memory_starts_empty_at_half_resolution() -> None:
    states = pv_restore.small_x2(height=HEIGHT, width=WIDTH).init_state()
    assert {name: tuple(v.shape) for name, v in states.items()} == {"memory": (1, 32, 16, 24)}
    assert not states["memory"].any()


def test_the_memory_starts_as_a_mean_of_the_pixels_that_were_seen() -> None:
    net, clip = pv_restore.nano(height=HEIGHT, width=WIDTH), torch.full((1, 3, 40, HEIGHT, WIDTH), 0.25)
    always(net.keep, 0)  # hardsigmoid(0) = 1/2, so 0.475 of the memory stays at each step
    always(net.leave, 0)
    with torch.no_grad():
        out = net(clip)
    assert (out[:, :, 0] - 0.25 * 0.525).abs().max() <= 1e-6
    assert (out[:, :, 1] - 0.25 * (1 - 0.475**2)).abs().max() <= 1e-6
    assert (out[:, :, -1] - 0.25).abs().max() <= 1e-6


def test_of_a_first_frame_four_percent_are_left_after_64_however_much_the_gate_keeps() -> None:
    net, clip = pv_restore.nano(height=HEIGHT, width=WIDTH), torch.zeros(1, 3, 65, HEIGHT, WIDTH)
    clip[:, :, 0] = 1
    always(net.keep, 3)  # hardsigmoid(3) = 1: all the memory stays that may
    always(net.leave, 0)
    with torch.no_grad():
        out = net(clip)
    assert (out[:, :, 0] - 0.05).abs().max() <= 1e-6
    assert (out[:, :, 64] - 0.05 * 0.95**64).abs().max() <= 1e-6
    assert 0.035 < 0.95**64 < 0.04


def test_the_running_picture_has_its_pixels_in_their_places() -> None:
    net, clip = pv_restore.nano(height=HEIGHT, width=WIDTH), video(1)
    always(net.keep, -3)  # hardsigmoid(-3) = 0: nothing of the memory stays
    always(net.leave, 0)
    with torch.no_grad():
        assert torch.equal(net(clip), clip)


def test_twice_the_size_starts_from_the_bilinear_frame() -> None:
    net = pv_restore.nano_x2(height=HEIGHT, width=WIDTH)
    always(net.leave, 0)
    image, _ = net.step(torch.full((1, 3, HEIGHT, WIDTH), 0.25), *net.init_state().values())
    assert image.shape == (1, 3, 2 * HEIGHT, 2 * WIDTH)
    assert (image - 0.25).abs().max() <= 1e-6


def test_the_memory_stays_in_the_range_of_what_frames_show_for_1000_frames() -> None:
    net = Restore(8, 8)
    for weight in net.parameters():
        weight.data.mul_(8)  # an untrained, badly scaled network
    states, at, largest = list(net.init_state().values()), torch.Generator().manual_seed(0), 0.0
    with torch.no_grad():
        for _ in range(1000):
            frame = 5 * torch.randn(1, 3, 8, 8, generator=at)
            largest = max(largest, float(net.look(frame).abs().max()))
            _, *states = net.step(frame, *states)
    assert 0 < float(states[0].abs().max()) <= 1.001 * largest


def test_only_a_recurrent_network_uses_the_frames_before() -> None:
    seen = {}
    for recurrent in (True, False):
        net = lively(Restore(HEIGHT, WIDTH, recurrent=recurrent))
        other = video(3)
        other[:, :, 0] = 0
        with torch.no_grad():
            seen[recurrent] = float((net(video(3)) - net(other))[:, :, -1].abs().max())
    assert seen[True] > 1e-4
    assert seen[False] == 0


def test_the_answer_does_not_depend_on_the_size_it_was_built_for() -> None:
    large, small = lively(Restore(64, 64)), Restore(HEIGHT, WIDTH)
    small.load_state_dict(large.state_dict())
    with torch.no_grad():
        assert torch.equal(large(video(2)), small(video(2)))


@pytest.mark.parametrize(("height", "up"), [(31, 1), (32, 3)])
def test_an_odd_size_or_another_factor_is_refused(height: int, up: int) -> None:
    with pytest.raises(UsageError, match="even height and width, and up 1 or 2"):
        Restore(height, WIDTH, up=up)


@pytest.mark.parametrize(("build", "thousands"), list(zip(BUILDERS, (23.0, 125.8, 28.2, 136.2), strict=True)))
def test_the_size_is_what_the_summary_says(build: Build, thousands: float) -> None:
    assert sum(p.numel() for p in build().parameters()) / 1000 == pytest.approx(thousands, abs=0.05)


def plain() -> Restore:
    return lively(Restore(HEIGHT, WIDTH))


def enlarger() -> Restore:
    return lively(Restore(HEIGHT, WIDTH, up=2))


@pytest.fixture(scope="module", params=[plain, enlarger])
def lowered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Variant, Path]:
    """A restorer as a checkpoint, and as a float ONNX file."""
    pytest.importorskip("onnx")
    from safetensors.torch import save_file

    from edgepv.export.to_onnx import lower

    torch.manual_seed(0)
    net: Restore = request.param()
    folder = tmp_path_factory.mktemp("restore")
    save_file(net.state_dict(), folder / "w.safetensors")
    spec = ModelSpec(
        name="restore",
        input=TensorSpec("frame", (1, 3, HEIGHT, WIDTH), "NCHW"),
        fps=Fraction(25),
        task="restoration",
        metric="psnr",
        outputs=(TensorSpec("image", (1, 3, HEIGHT * net.up, WIDTH * net.up), "NCHW"),),
    )
    source = from_files(
        f"{__file__}:{request.param.__name__}", folder / "w.safetensors", spec, trust_pickle=False
    )
    return source, lower(build(source), spec, folder / "m.onnx"), folder


def rolled(source: Checkpoint, variant: Variant, folder: Path, *, steps: int) -> float:
    """Largest difference of any image from torch's over ``steps`` frames, each engine on its own memory."""
    assert variant.stream
    eager, other = EagerEngine(build(source), variant.spec, variant.stream), open_engine(variant, folder)
    mine, theirs = (Stepper(e.infer, variant.spec, variant.stream) for e in (eager, other))
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(steps):
        frame = rng.random((1, 3, HEIGHT, WIDTH), dtype=np.float32)
        a, b = mine.step(frame), theirs.step(frame)
        assert "image" in a
        worst = max(worst, *(float(np.abs(a[name] - b[name]).max()) for name in a))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_30_steps_agree_with_torch(lowered: tuple[Checkpoint, Variant, Path], engine: str) -> None:
    pytest.importorskip(engine)
    source, variant, folder = lowered
    assert rolled(source, replace(variant, engine=engine), folder, steps=30) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("lowered", [enlarger], indirect=True)  # has every operator of the plain one
def test_30_steps_agree_with_torch_on_a_phone(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    pytest.importorskip("litert_torch")
    from edgepv.export.to_tflite import to_tflite

    source, variant, folder = lowered
    lite = to_tflite(source, variant, folder / "m.tflite")
    assert rolled(source, lite, folder, steps=30) < 1e-4


@pytest.mark.slow
def test_the_graph_is_static_at_most_4_d_and_breaks_no_rule_of_tensorrt(
    lowered: tuple[Checkpoint, Variant, Path],
) -> None:
    import onnx

    from edgepv.export.tensorrt.rules import check

    _, variant, folder = lowered
    assert [f for f in check(onnx.load(folder / variant.path), opset_limit=18) if f.severity != "info"] == []
    assert_static_4_d(folder / variant.path)


def noisy_frames(count: int) -> np.ndarray:
    """One still picture under fresh noise, (count, 1, 3, H, W)."""
    rng = np.random.default_rng(0)
    still = rng.random((1, 1, 3, HEIGHT, WIDTH))
    return (still + 0.1 * rng.standard_normal((count, 1, 3, HEIGHT, WIDTH))).astype(np.float32)


def fed_and_kept(variant: Variant, folder: Path) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """(what the graph was fed, its last memory) over 40 frames."""
    assert variant.stream
    engine, fed = open_engine(variant, folder), []
    memory = np.zeros(variant.stream.states[0].shape, np.float32)
    for frame in noisy_frames(40):
        fed.append({"frame": frame, "memory": memory})
        memory = engine.infer(fed[-1])["memory_next"].copy()
    return fed, memory


@pytest.mark.slow
@pytest.mark.parametrize("lowered", [plain], indirect=True)
@pytest.mark.parametrize(
    ("tool", "file", "better"), [("int8_onnx", "q.onnx", 4), ("int8_openvino", "q.xml", 1.2)]
)
def test_int8_leaves_the_arithmetic_of_the_memory_in_float(
    lowered: tuple[Checkpoint, Variant, Path],
    tool: str,
    file: str,
    better: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("nncf")
    _, variant, folder = lowered
    feeds, memory = fed_and_kept(variant, folder)
    module = importlib.import_module(f"edgepv.quantize.{tool}")
    shutil.copy(folder / variant.path, tmp_path)

    def error() -> float:
        eight = module.Step()(variant, tmp_path / file, Calibration(tmp_path, feeds[5:], "digest"))
        return float(np.square(fed_and_kept(eight, tmp_path)[1] - memory).mean())

    kept = error()
    monkeypatch.setattr(module, "blends", lambda *_: [])
    assert kept * better < error()  # NNCF rounds the picture before the memory too
