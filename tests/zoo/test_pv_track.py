"""The tracker steps as it trains, obeys the host's states, and converts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from support import assert_static_4_d
from torch import Tensor

from edgepv.data.truth import EvalClip, Points
from edgepv.metrics.tasks import figures
from edgepv.model.checkpoint import build, from_files
from edgepv.stream import Stepper
from edgepv.types import Checkpoint, ModelSpec, TensorSpec, Variant
from edgepv.zoo import pv_track
from edgepv.zoo.particles.decompose import lattice
from edgepv.zoo.pv_track import LIMIT, PvTrack, begun, tents
from edgepv.zoo.training import track
from edgepv.zoo.training.motion import Scene, render
from edgepv.zoo.training.steps import Schedule, fit
from edgepv.zoo.training.track import Recipe, objective, per_point, track_score, tracked

SIZE, N = 32, 5


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny(*, size: int = SIZE, particles: int = N) -> PvTrack:
    return PvTrack(size=size, particles=particles, widths=(8, 8), dims=(8, 4), blocks=1, hidden=8)


def lively(net: PvTrack) -> PvTrack:
    """The network with no parameter at a value of which a mistake would not show."""
    at = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn(p.shape, generator=at))
    return net.eval()


def made(build_it: Callable[..., PvTrack] = tiny, **given: int) -> PvTrack:
    torch.manual_seed(0)
    return lively(build_it(**given))


def video(frames: int, size: int = SIZE, seed: int = 1) -> Tensor:
    """A rough picture that drifts by a pixel per frame: (1, T, 3, size, size)."""
    at = torch.Generator().manual_seed(seed)
    wide = torch.nn.functional.interpolate(
        torch.randn(1, 3, size, size, generator=at), scale_factor=2.0, mode="bilinear"
    )
    return torch.stack([wide[..., t : t + size, 2 * t : 2 * t + size] for t in range(frames)], 1)


def hosted(net: PvTrack, clip: Tensor, place: Tensor, birth: Tensor) -> Tensor:
    """Tracks (T, N, 3) of single steps, with births written as a host writes them."""
    states = net.init_state()
    states["life"] -= 1
    rows = []
    for now in range(clip.shape[1]):
        for k in torch.nonzero(birth == now).flatten().tolist():
            states["position"][0, k] = place[k]
            states["life"][0, k] = 2
        with torch.no_grad():
            tracks, *fresh = net.step(clip[:, now], *states.values())
        states = {name: value.clone() for name, value in zip(states, fresh, strict=True)}
        rows.append(tracks[0])
    return torch.stack(rows)


@pytest.mark.parametrize("build_it", [tiny, pv_track.nano])
def test_steps_equal_the_training_forward(build_it: Callable[..., PvTrack]) -> None:
    net = made(build_it, size=64, particles=N)
    clip = torch.cat([video(6, 64), video(6, 64, seed=2)])
    place = torch.rand(2, N, 2, generator=torch.Generator().manual_seed(3))
    birth = torch.tensor([[0, 0, 2, -1, 4], [0, 1, 0, 3, -1]])
    with torch.no_grad():
        paths, seen, _ = net(clip, place, birth)
    for b in range(2):
        rows = hosted(net, clip[b : b + 1], place[b], birth[b])
        for k in range(N):
            if (first := int(birth[b, k])) >= 0:
                assert torch.allclose(rows[first:, k, :2], paths[b, first:, -1, k], atol=1e-5)
                assert torch.allclose(rows[first:, k, 2], torch.sigmoid(seen[b, first:, k]), atol=1e-5)


def test_an_unused_place_is_born_on_the_lattice() -> None:
    net = made()
    with torch.no_grad():
        tracks, *states = net.step(video(1)[:, 0], *net.init_state().values())
    assert torch.equal(tracks[0, :, :2], lattice(N))
    assert states[-1].flatten().tolist() == [1.0] * N


def test_a_written_particle_is_born_where_it_was_written() -> None:
    net, clip = made(), video(3)
    place = torch.tensor([[0.3, 0.6]] * N)
    rows = hosted(net, clip, place, torch.tensor([0, 1, 0, 0, 0]))
    assert torch.equal(rows[0, 0, :2], place[0])
    assert torch.equal(rows[1, 1, :2], place[1])
    assert not torch.equal(rows[1, 0, :2], place[0])


def test_a_newborn_knows_nothing_of_the_one_before_it() -> None:
    net, clip = made(), video(4)
    with torch.no_grad():
        states = list(net.init_state().values())
        for now in range(3):
            _, *states = net.step(clip[:, now], *states)
        fresh = list(net.init_state().values())
        for these in (states, fresh):
            these[0] = torch.full_like(these[0], 0.4)
            these[-1] = torch.full_like(these[-1], 2.0)
        old, new = net.step(clip[:, 3], *states), net.step(clip[:, 3], *fresh)
    for a, b in zip(old, new, strict=True):
        assert torch.equal(a, b)


def test_an_empty_place_neither_moves_nor_is_seen() -> None:
    net, clip = made(), video(3)
    states = net.init_state()
    states["life"][0, 2], states["position"][0, 2] = -1, torch.tensor([0.25, 0.75])
    values = list(states.values())
    for now in range(3):
        with torch.no_grad():
            tracks, *values = net.step(clip[:, now], *values)
        assert tracks[0, 2].tolist() == [0.25, 0.75, 0.0]
        assert values[-1][0, 2, 0] == -1


def test_an_empty_place_changes_nothing_for_the_others() -> None:
    """Whatever it holds; and three of five places answer what a model of three places answers."""
    clip = video(4)
    five, three = made(particles=5), made(particles=3)
    three.load_state_dict(five.state_dict())
    place = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    few = hosted(three, clip, place[:3], torch.tensor([0, 0, 1]))
    many = hosted(five, clip, place, torch.tensor([0, 0, 1, -1, -1]))
    assert torch.allclose(few, many[:, :3], atol=1e-6)


def test_neighbours_are_heard() -> None:
    clip, net = video(4), made()
    place = torch.rand(N, 2, generator=torch.Generator().manual_seed(0))
    alone = hosted(net, clip, place, torch.tensor([0, -1, -1, -1, -1]))
    together = hosted(net, clip, place, torch.tensor([0, 0, 0, 0, 0]))
    assert (alone[-1, 0] - together[-1, 0]).abs().max() > 1e-5


def test_a_state_is_one_number_at_the_start() -> None:
    for name, value in made().init_state().items():
        assert not value.any(), name


def test_tents_read_between_two_cells_and_end_at_the_border() -> None:
    weights = tents(torch.tensor([1.25, -3.0, 9.0]), torch.arange(4.0))
    assert weights.tolist() == [[0, 0.75, 0.25, 0], [1, 0, 0, 0], [0, 0, 0, 1]]


def test_a_ramp_is_stepped_down_by_lucas_kanade() -> None:
    """On features that are linear in x and y, one step finds a shift of half a cell."""
    net = made()
    net.log_damp.data.fill_(-20.0)
    side, c = net.fine_side, net.dims[1]
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    fine = torch.stack([x, y, x + y, x - y], -1).reshape(1, side, side * c)
    maps = pv_track.Maps(torch.zeros(1, net.dims[0], net.side**2), fine)
    true = torch.tensor([[[0.5, 0.5]]])
    look = net.seen_at(maps, true)
    off = true + torch.tensor([0.5, -0.25]) / side
    step, fit = net.lucas_kanade(maps, net.wanted(look, look), off)
    assert torch.allclose(step[0, 0], torch.tensor([-0.25, 0.125]) / (1 + 0.3125 * 0.25) ** 0.5, atol=1e-3)
    assert fit[0, 0, 0] > 0


def test_a_velocity_has_a_limit() -> None:
    net = made()
    states = net.init_state()
    states["life"] += 1
    states["velocity"] += 5.0
    with torch.no_grad():
        _, *fresh = net.step(video(1)[:, 0], *states.values())
    assert fresh[1].abs().max() <= LIMIT


def test_births_are_written_into_the_life_of_their_frame() -> None:
    net = made()
    zero = pv_track.Motion(*net.init_state().values())
    place, birth = torch.ones(1, N, 2), torch.tensor([[0, 1, 2, -1, 1]])
    after = begun(zero, place, birth, 1)
    assert after.life.flatten().tolist() == [1, 2, -1, -1, 2]
    assert after.position[0, :, 0].tolist() == [0, 1, 0, 0, 1]


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.repeat(rng.integers(0, 255, (90, 90, 1), dtype=np.uint8), 3, -1) for _ in range(3)]


@pytest.mark.slow
def test_a_short_training_runs_and_the_loss_is_finite(tmp_path: Path) -> None:
    schedule = Schedule(3, 1e-3, log_every=1)
    recipe = Recipe(tiny, SIZE, N, schedule, ((0.5, 3, 2), (1.0, 4, 1)), train_size=SIZE, train_points=N)
    torch.manual_seed(0)
    net, log = fit(tiny(), objective(recipe, pictures()), schedule, seed=0, resume=tmp_path / "r.pt")
    assert [row["step"] for row in log] == [1, 2, 3]
    assert all(np.isfinite(row["loss"]) for row in log)
    clip = render(np.random.default_rng(0), pictures(), Scene(size=SIZE, frames=4, points=N))
    tracks = tracked(net, clip.frames, track.starts(clip), clip.birth)
    assert tracks.shape == (4, N, 3)


def test_perfect_tracks_get_a_perfect_score() -> None:
    clip = render(np.random.default_rng(0), pictures(), Scene(size=SIZE, frames=8, points=20))
    perfect = np.concatenate([clip.points, 1.0 - clip.occluded[..., None]], -1).transpose(1, 0, 2)
    got = track_score(per_point(perfect, clip.points, clip.occluded, clip.birth))
    assert (got.delta_avg, got.median_px, got.survival, got.occlusion) == (1, 0, 1, 1)


def test_a_score_counts_as_tap_vid_counts() -> None:
    """Three pixels off: within 4, 8 and 16 of the five thresholds. Sixty off: lost from there on."""
    points = np.zeros((1, 5, 2))
    tracks = np.zeros((5, 1, 3))
    tracks[:, 0, 0], tracks[:, 0, 2] = 3 / 256, 1.0
    rows = per_point(tracks, points, np.zeros((1, 5), bool), np.zeros(1, int))
    assert rows[0, :3].round(6).tolist() == [0.6, 3.0, 1.0]
    tracks[3:, 0, 0] = 60 / 256
    rows = per_point(tracks, points, np.zeros((1, 5), bool), np.zeros(1, int))
    assert rows[0, [0, 2]].round(6).tolist() == [0.3, 0.5]


def test_every_visible_position_of_a_clip_weighs_the_same() -> None:
    """One point is right in four frames, one far off in the only frame that shows it: 4 of 5 positions."""
    points, hidden = np.zeros((2, 5, 2)), np.zeros((2, 5), bool)
    tracks = np.ones((5, 2, 3))
    tracks[:, 0, :2], hidden[1, 2:] = 0.0, True
    got = track_score(per_point(tracks, points, hidden, np.zeros(2, int)))
    assert got.delta_avg == 0.8
    truth = Points(points.transpose(1, 0, 2), ~hidden.T)
    tracker = replace(track.spec("pv-track-nano"), particles=2)
    assert figures(tracker, [tracks], [EvalClip(tracks, truth)], 0)[0] == got.delta_avg


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Variant, Path]:
    """A tiny tracker as a user's checkpoint and as a float ONNX file."""
    pytest.importorskip("onnx")
    from safetensors.torch import save_file

    from edgepv.export.to_onnx import lower

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("track")
    save_file(made().state_dict(), folder / "w.safetensors")
    spec = replace(
        track.spec("pv-track-nano"),
        input=TensorSpec("frame", (1, 3, SIZE, SIZE), "NCHW"),
        outputs=(TensorSpec("tracks", (1, N, 3), "NKC"),),
        particles=N,
    )
    source = from_files(f"{__file__}:tiny", folder / "w.safetensors", spec, trust_pickle=False)
    return source, lower(build(source), spec, folder / "m.onnx"), folder


def worst(source: Checkpoint, variant: Variant, folder: Path, spec: ModelSpec) -> float:
    """Largest difference of any output from torch's over 12 frames, each engine on its own states.

    Two particles are written by the host in between, and one place is emptied.
    """
    from edgepv.runtimes import open_engine
    from edgepv.runtimes.engines.eager import EagerEngine

    assert variant.stream
    steppers = [
        Stepper(engine.infer, spec, variant.stream)
        for engine in (EagerEngine(build(source), spec, variant.stream), open_engine(variant, folder))
    ]
    found = 0.0
    for now, frame in enumerate(video(12)[0]):
        if now == 5:
            for stepper in steppers:
                stepper.write("position", np.full((1, N, 2), 0.37, np.float32))
                life = np.array([1, 2, 1, -1, 2], np.float32).reshape(1, N, 1)
                stepper.write("life", life)
        a, b = (stepper.step(frame[None].numpy()) for stepper in steppers)
        found = max(found, *(float(np.abs(a[name] - b[name]).max()) for name in a))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_step_like_torch(lowered: tuple[Checkpoint, Variant, Path], engine: str) -> None:
    pytest.importorskip(engine)
    source, variant, folder = lowered
    assert worst(source, replace(variant, engine=engine), folder, variant.spec) < 1e-4


@pytest.mark.slow
def test_a_phone_steps_like_torch(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    pytest.importorskip("litert_torch")
    from edgepv.export.to_tflite import to_tflite

    source, variant, folder = lowered
    lite = to_tflite(source, variant, folder / "m.tflite")
    assert worst(source, lite, folder, variant.spec) < 1e-4
    _no_product_of_probabilities_is_int8(folder / lite.path)


def _no_product_of_probabilities_is_int8(path: Path) -> None:
    """Behind the encoder matrix products turn scores into places: all of them stay in float."""
    from edgepv.base.optional import litert_interpreter
    from edgepv.quantize.int8_litert import float_scopes

    interpreter = litert_interpreter()(str(path), num_threads=1)
    names = {d["index"]: d["name"] for d in interpreter.get_tensor_details()}
    scopes = float_scopes(str(path))
    products = [op for op in interpreter._get_ops_details() if op["op_name"] == "FULLY_CONNECTED"]
    made = [f"{names[int(op['outputs'][0])]};" for op in products]
    assert len(made) > 4 and all(any(re.match(scope, name) for scope in scopes) for name in made)
    assert not any(re.match(scope, "edgepv.zoo.pv_track.Encoder_encoder") for scope in scopes)


@pytest.mark.slow
def test_the_step_is_static_at_most_4_d_and_breaks_no_rule_of_tensorrt(
    lowered: tuple[Checkpoint, Variant, Path],
) -> None:
    import onnx

    from edgepv.export.tensorrt.rules import check

    _, variant, folder = lowered
    model = onnx.load(folder / variant.path)
    assert [f for f in check(model, opset_limit=18) if f.severity != "info"] == []
    assert_static_4_d(folder / variant.path)
    unwanted = {"GridSample", "GatherND", "GatherElements", "ScatterND", "NonZero", "OneHot", "Einsum"}
    assert not {node.op_type for node in model.graph.node} & unwanted


def test_the_shipped_trackers_are_what_the_index_says() -> None:
    index = json.loads((Path(pv_track.__file__).parent / "weights" / "index.json").read_text())
    names = [name for name in track.RECIPES if name in index]
    for name in names:
        assert index[name]["spec"]["task"] == "tracking"
        assert index[name]["spec"]["particles"] == track.RECIPES[name].particles
