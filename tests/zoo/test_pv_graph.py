"""pv-graph: the step answers what training saw, particles live and die by their state, and it converts."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx
import torch
from support import assert_static_4_d

from edgepv.export.tensorrt.rules import check
from edgepv.export.to_onnx import lower
from edgepv.export.to_tflite import to_tflite
from edgepv.model.checkpoint import build, from_files
from edgepv.runtimes import open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.types import Checkpoint, ModelSpec, TensorSpec, Variant
from edgepv.zoo import pv_graph
from edgepv.zoo.pv_graph import PACE, WINDOW, Bodies, Contact, Core, Joints, PvGraph
from edgepv.zoo.training.graph import Physics, collisions, forecasts, physics, sequence
from edgepv.zoo.training.physics import World, film
from edgepv.zoo.training.steps import Schedule

SIZE, K, CLASSES = 32, 6, 3


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny(classes: int = CLASSES, *, size: int = SIZE, particles: int = K, interact: bool = True) -> PvGraph:
    """A very small pv-graph."""
    return PvGraph(
        classes,
        size=size,
        particles=particles,
        widths=(4, 8, 12),
        depths=(1, 1),
        dim=8,
        hidden=12,
        interact=interact,
    )


def lively(net: PvGraph, noise: float = 0.1) -> PvGraph:
    """The network with no parameter or norm at a value of which a mistake would not show."""
    at = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data.add_(noise * torch.randn(p.shape, generator=at))
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.3, generator=at)
            layer.running_var.uniform_(0.3, 1.5, generator=at)
    return net.eval()


def video(net: PvGraph, frames: int, n: int = 1) -> torch.Tensor:
    """Smooth moving pictures: noise at an eighth of the size, enlarged."""
    at = torch.Generator().manual_seed(1)
    small = torch.randn(n, 3, frames, net.size // 8, net.size // 8, generator=at)
    return torch.nn.functional.interpolate(small, (frames, net.size, net.size), mode="trilinear")


@torch.no_grad()
def streamed(
    net: PvGraph, x: torch.Tensor, states: dict[str, torch.Tensor] | None = None
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Logits (T, classes), particles (T, K, 7) and the last states of x (1, 3, T, H, W), step by step."""
    states = states or net.init_state()
    rows = []
    for t in range(x.shape[2]):
        logits, particles, _, *after = net.step(x[:, :, t], *states.values())
        states = dict(zip(states, after, strict=True))
        rows.append((logits, particles))
    logits, particles = (torch.cat(part) for part in zip(*rows, strict=True))
    return logits, particles, states


@pytest.mark.parametrize(("make", "noise"), [(tiny, 0.1), (pv_graph.nano, 0.02)])
def test_steps_from_zero_states_answer_what_training_saw(make: Any, noise: float) -> None:
    torch.manual_seed(0)
    net = lively(make(CLASSES), noise)
    x = video(net, WINDOW + 8)
    logits, particles, states = streamed(net, x)
    with torch.no_grad():
        _, whole, _ = net.watch(x)
        assert (logits - net.frame_logits(x)[0]).abs().max() <= 1e-5
        assert (logits[-1] - net(x)[0]).abs().max() <= 1e-5
    assert (particles - whole[0]).abs().max() <= 1e-5
    assert logits.std() > 1e-4 and particles[..., :2].std() > 1e-2
    assert all(state.abs().sum() > 0 for state in states.values())


@torch.no_grad()
def test_a_step_is_as_surprised_as_training_was() -> None:
    torch.manual_seed(0)
    net = lively(tiny())
    x = video(net, 12)
    states, surprise = net.init_state(), []
    for t in range(x.shape[2]):
        _, _, one, *after = net.step(x[:, :, t], *states.values())
        states = dict(zip(states, after, strict=True))
        surprise.append(float(one))
    wanted = net.watch(x)[2][0].sqrt() / PACE
    assert surprise == pytest.approx(wanted.tolist(), rel=1e-4, abs=1e-4)
    assert min(surprise) > 0 and len(set(surprise)) == len(surprise)


@pytest.mark.parametrize("make", [pv_graph.nano, pv_graph.small])
def test_no_weight_depends_on_the_number_of_particles(make: Any) -> None:
    shapes = [{n: w.shape for n, w in make(particles=k).state_dict().items()} for k in (8, 32)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("make", "low", "high"), [(pv_graph.nano, 60e3, 80e3), (pv_graph.small, 0.28e6, 0.34e6)]
)
def test_the_size_is_what_was_planned(make: Any, low: float, high: float) -> None:
    alone = sum(p.numel() for p in make(interact=False).parameters())
    assert low <= sum(p.numel() for p in make().parameters()) == alone <= high


def test_six_places_of_which_four_live_compute_what_four_places_compute() -> None:
    torch.manual_seed(0)
    net = lively(tiny())
    x = video(net, 6)
    states = net.init_state()
    states["life"][:, 4:] = -1
    logits, particles, after = streamed(net, x, states)
    net.particles = 4
    fewer, seen, _ = streamed(net, x)
    assert (logits - fewer).abs().max() <= 1e-5
    assert (particles[:, :4] - seen).abs().max() <= 1e-5
    assert after["life"].flatten().tolist() == [1, 1, 1, 1, -1, -1]


def test_the_host_bears_a_particle_where_it_says_and_nothing_of_the_old_one_is_left() -> None:
    torch.manual_seed(0)
    net = lively(tiny())
    x = video(net, 1)
    first, second = warm(net), warm(net)
    for states, old in ((first, 0.3), (second, -0.3)):
        states["life"][0, 2] = 2
        states["position"][0, 2] = torch.tensor([0.8, 0.2])
        states["velocity"][0, 2], states["feature"][0, 2] = old, old
    ours, theirs = streamed(net, x, first)[1], streamed(net, x, second)[1]
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        net.trust.weight.zero_()
        net.trust.bias.fill_(-20.0)  # a particle that never believes what it sees stays where it was put
    assert streamed(net, x, first)[1][0, 2, :2].tolist() == pytest.approx([0.8, 0.2], abs=1e-6)


def test_a_particle_the_host_killed_is_neither_seen_nor_moved_nor_felt() -> None:
    torch.manual_seed(0)
    net = lively(tiny())
    x = video(net, 3)
    one, other = warm(net), warm(net)
    one["life"][0, 1] = other["life"][0, 1] = -1
    other["feature"][0, 1], other["velocity"][0, 1] = 3.0, 0.1
    logits, seen, after = streamed(net, x, one)
    again, _, _ = streamed(net, x, other)
    assert torch.equal(logits, again)
    assert torch.equal(seen[:, 1, :2], one["position"][:, 1].expand(3, 2))
    assert not seen[:, 1, 2:].any()
    assert after["life"][0, 1] == -1


def test_a_scene_without_a_living_particle_still_has_an_answer() -> None:
    net = lively(tiny())
    states = net.init_state()
    states["life"].fill_(-1.0)
    logits, particles, after = streamed(net, video(net, 3), states)
    assert logits.isfinite().all() and particles.isfinite().all()
    assert all(state.isfinite().all() for state in after.values())


def warm(net: PvGraph) -> dict[str, torch.Tensor]:
    """States after three frames, as tensors that may be written to."""
    states = streamed(net, video(net, 3))[2]
    return {name: state.clone() for name, state in states.items()}


def world(count: int = 5) -> list[torch.Tensor]:
    """Position, velocity, feature and visibility of particles that differ in everything."""
    at = torch.Generator().manual_seed(2)
    where = torch.rand(1, count, 2, generator=at)
    speed = 0.02 * torch.randn(1, count, 2, generator=at)
    return [where, speed, torch.randn(1, count, 8, generator=at), torch.ones(1, count)]


@pytest.mark.parametrize("interact", [True, False])
def test_a_core_hears_others_only_if_it_interacts(interact: bool) -> None:
    torch.manual_seed(0)
    core = Core(8, 12, interact=interact)
    there = world()
    gone = [x.clone() for x in there]
    gone[0][0, 4] += 0.2
    a, b = core(*there), core(*gone)
    moved = (a.acceleration - b.acceleration)[0, :4].abs().max() > 1e-7
    assert bool(moved) == interact


def test_contact_keeps_the_total_momentum() -> None:
    torch.manual_seed(0)
    pull, late, _ = Contact(8, 12)(*world())
    assert min(pull.abs().max(), late.abs().max()) > 1e-3
    assert max(pull.sum(1).abs().max(), late.sum(1).abs().max()) < 1e-6


def test_body_points_are_classified_whatever_their_number_of_frames() -> None:
    net = Joints(4, points=15, dim=8, hidden=12).eval()
    assert net(torch.randn(2, 7, 15, 2)).shape == net(torch.randn(2, 12, 15, 2)).shape == (2, 4)


def test_a_sequence_is_stretched_between_its_own_frames() -> None:
    track = np.full((10, 2, 2), np.nan)
    track[:4] = np.arange(4.0).reshape(4, 1, 1)
    got = sequence(track, 4)
    assert got[:, 0, 0].tolist() == pytest.approx(np.linspace(0, 3, len(got)).tolist())
    assert np.isfinite(sequence(track, 4, np.random.default_rng(0))).all()


def test_constant_velocity_is_exact_where_nothing_acts() -> None:
    free = World(count=2, radius=0.0, strength=0.0, walls=False)
    far, _ = forecasts(None, film(free, np.random.default_rng(0), films=4, frames=11), frames=10)
    assert far.shape == (4, 10, 2) and far.max() < 1e-12


def test_foretold_collisions_are_counted_once_per_pair() -> None:
    real = np.zeros((1, 3, 3), bool)
    real[0, 0, 1] = real[0, 1, 0] = real[0, 1, 2] = real[0, 2, 1] = True
    said = np.where(np.eye(3)[[1, 0, 2]][None] > 0, 1.0, -1.0)  # only 0 and 1 are foretold
    row = collisions(said, real)
    assert (row["precision"], row["recall"], row["f1"]) == (1.0, 0.5, 0.6667)
    assert (row["collisions"], row["pairs"]) == (2, 3)


@pytest.mark.slow
def test_a_short_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    plan = Physics(Schedule(3, 1e-3, save_every=1), World(count=3, substeps=2), films=4, frames=5, batch=2)
    rows: list[dict[str, Any]] = []
    first, _ = physics("nano", plan=plan, cache=tmp_path, tick=rows.append)
    again, _ = physics("nano", plan=plan, cache=tmp_path, tick=rows.append)
    assert isinstance(first, Bodies) and len(rows) == 1 and rows[0]["step"] == 3
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Variant, Path]:
    """A small pv-graph as a checkpoint, and as a float ONNX file."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("graph")
    save_file(lively(tiny()).state_dict(), folder / "w.safetensors")
    answers = (
        TensorSpec("logits", (1, CLASSES), "NC"),
        TensorSpec("particles", (1, K, 7), "NKC"),
        TensorSpec("surprise", (1, 1), "NC"),
    )
    spec = ModelSpec(
        name="graph",
        input=TensorSpec("frame", (1, 3, SIZE, SIZE), "NCHW"),
        labels=("a", "b", "c"),
        frames=WINDOW,
        fps=Fraction(10),
        outputs=answers,
        particles=K,
    )
    source = from_files(f"{__file__}:tiny", folder / "w.safetensors", spec, trust_pickle=False)
    return source, lower(build(source), spec, folder / "m.onnx"), folder


def worst(source: Checkpoint, variant: Variant, folder: Path, *, rounds: int = 20) -> float:
    """Largest difference of any output from torch's, from states that differ and where particles are born.

    Each engine goes on from its own states; every fifth round the host bears one and kills one.
    """
    assert variant.stream
    mine = EagerEngine(build(source), variant.spec, variant.stream)
    theirs = open_engine(variant, folder)
    rng, found = np.random.default_rng(0), 0.0
    start = {s.name: rng.random(s.shape, np.float32) * 0.5 for s in variant.stream.states}
    start["life"] = np.array([0, 1, 2, -1, 1, 0], np.float32).reshape(1, K, 1)
    a, b = dict(start), dict(start)
    for i in range(rounds):
        frame = rng.standard_normal((1, 3, SIZE, SIZE), dtype=np.float32)
        ours, other = (e.infer({"frame": frame, **s}) for e, s in ((mine, a), (theirs, b)))
        found = max(found, *(float(np.abs(ours[name] - other[name]).max()) for name in ours))
        a, b = ({n: np.array(got[f"{n}_next"]) for n in start} for got in (ours, other))
        for states in (a, b) if i % 5 == 4 else ():
            states["life"][0, i % K], states["life"][0, (i + 1) % K] = 2, -1
            states["position"][0, i % K] = 0.5
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_steps_like_torch(lowered: tuple[Checkpoint, Variant, Path], engine: str) -> None:
    pytest.importorskip(engine)
    source, variant, folder = lowered
    assert worst(source, replace(variant, engine=engine), folder) < 1e-4


@pytest.mark.slow
def test_it_steps_like_torch_on_a_phone(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    pytest.importorskip("litert_torch")
    source, variant, folder = lowered
    assert worst(source, to_tflite(source, variant, folder / "m.tflite"), folder) < 1e-4


@pytest.mark.slow
def test_it_breaks_no_rule_of_tensorrt(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    _, variant, folder = lowered
    assert [f for f in check(onnx.load(folder / variant.path), opset_limit=18) if f.severity != "info"] == []


@pytest.mark.slow
def test_it_is_static_and_at_most_4_d(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    _, variant, folder = lowered
    assert_static_4_d(folder / variant.path)


@pytest.mark.slow
def test_an_answer_is_never_the_input_itself(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    _, variant, folder = lowered
    model = onnx.load(folder / variant.path)
    made = {name for node in model.graph.node if node.op_type != "Identity" for name in node.output}
    assert {output.name for output in model.graph.output} <= made
