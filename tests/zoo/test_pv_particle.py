"""The particle line: a picture of the particles' numbers alone, stepped as it was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from support import assert_static_4_d

from edgepv.data.clips import Clip
from edgepv.data.frames import pictures
from edgepv.data.truth import eval_clip
from edgepv.errors import UsageError
from edgepv.export.to_onnx import lower
from edgepv.model.spec import check_spec
from edgepv.runtimes import open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import Stepper
from edgepv.types import Variant
from edgepv.zoo.particles.decompose import Grid
from edgepv.zoo.particles.reconstruct import Splat
from edgepv.zoo.pv_particle import FASTEST, KINDS, Crowd, Forecast, PvParticle
from edgepv.zoo.training.particle import Footage, Plain, foreseen, log_error, psnr_of, spec_of

HEIGHT, WIDTH, K = 32, 48, 6


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small(kind: str = "region", *, interact: bool = True) -> PvParticle:
    return PvParticle(
        height=HEIGHT, width=WIDTH, particles=K, kind=kind, hidden=8, tokens=8, interact=interact
    )


def lively(net: PvParticle) -> PvParticle:
    """The network with no parameter at a value of which a mistake would not show."""
    for p in net.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    return net.eval().requires_grad_(False)


def video(frames: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_answer_what_the_training_form_answers(kind: str) -> None:
    net, clip = lively(small(kind)), video(6)
    states, images = list(net.init_state().values()), []
    for t in range(6):
        image, particles, *states = net.step(clip[:, :, t], *states)
        images.append(image)
        assert particles.shape == (1, net.home.shape[1], 7)
    assert (torch.stack(images, 2) - net(clip)[1]).abs().max() <= 1e-5
    assert len(states) == (4 if kind == "region" else 0)


def test_the_picture_is_made_of_the_numbers_alone() -> None:
    net, clip = lively(small()), video(3)
    crowd = net.follow(clip)[-1]
    assert sum(x[0].numel() for x in crowd[:4]) == K * (2 + 2 + 1 + net.dim)
    _, image = net.paint(crowd.position, crowd.scale, crowd.feature)
    assert torch.allclose(image, net(clip)[1][:, :, -1], atol=1e-5)


def test_particles_share_the_frame_and_stay_in_it_for_300_frames() -> None:
    net, clip = lively(small()), video(4)
    expected = net.start(1)
    for t in range(300):
        frame = clip[:, :, t % 4]
        crowd = net.decompose(frame, net.look(frame), expected)
        expected = net.expect(crowd)
    assert all(torch.isfinite(x).all() for x in crowd)
    assert crowd.position.min() >= 0 and crowd.position[..., 0].max() <= WIDTH / HEIGHT
    assert crowd.position[..., 1].max() <= 1 and crowd.velocity.abs().max() <= FASTEST


def test_a_velocity_and_a_rate_are_from_the_last_frame_to_this_one_and_none_in_the_first() -> None:
    net = lively(small())
    net.forecast.change.weight.data.zero_()  # what is expected goes on or stops; what is seen is seen
    net.forecast.change.bias.data.zero_()
    first, second, third = net.follow(video(3))
    assert not first.velocity.any() and not first.rate.any()
    for before, after in ((first, second), (second, third)):
        moved = (after.position - before.position).clamp(-FASTEST, FASTEST)
        assert torch.allclose(after.velocity, moved, atol=1e-4)
        assert torch.allclose(after.rate, after.feature - before.feature, atol=1e-4)


def test_pixels_are_painted_as_they_were() -> None:
    cells, splat = Grid(4, 6, 4, 6), Splat(3, 3, height=4, width=6)
    splat.log_width.data.fill_(-2.0)
    splat.coefficients.weight.data.zero_()
    splat.coefficients.bias.data.zero_()
    splat.coefficients.weight.data[:3] = torch.eye(3)
    picture = torch.rand(1, 3, 4, 6)
    scale = torch.full((1, 24), 1 / (6**0.5 * 4))
    assert torch.allclose(
        splat(cells.position, scale, picture.flatten(2).transpose(1, 2)), picture, atol=1e-5
    )


def crowd(k: int) -> Crowd:
    moving = torch.rand(1, k, 2), 0.02 * torch.randn(1, k, 2)
    return Crowd(*moving, torch.rand(1, k), torch.randn(1, k, 12), torch.randn(1, k, 12))


def test_an_untrained_forecast_changes_nothing() -> None:
    now = crowd(5)
    after = Forecast(12, 8)(now)
    assert torch.allclose(after.position, now.position, atol=1e-6) and not after.velocity.abs().max() > 1e-8
    assert torch.allclose(after.feature, now.feature, atol=1e-6) and not after.rate.abs().max() > 1e-6


@pytest.mark.parametrize("interact", [True, False])
def test_only_with_interaction_do_others_matter(interact: bool) -> None:
    net = Forecast(12, 8, interact=interact)
    for p in net.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.3)
    now = crowd(5)
    other = now.feature.clone()
    other[:, 4, 0] += 1
    before, after = net(now), net(now._replace(feature=other))
    assert torch.allclose(before.feature[:, :4], after.feature[:, :4], atol=1e-6) is not interact


def test_what_an_untrained_net_foresees_is_the_last_frame() -> None:
    net, clip = small(), video(4)
    with torch.no_grad():
        assert torch.allclose(foreseen(net, clip), clip[:, :, 1:3], atol=1e-5)


def test_the_same_weights_serve_any_kind_and_number() -> None:
    net, clip = lively(small()), video(2)
    for kind, count, k in (
        ("region", 1, 1),
        ("region", 40, 40),
        ("patch", 24, 24),
        ("pixel", 0, 96),
        ("frame", 9, 1),
    ):
        net.use(kind, count)
        assert net.follow(clip)[-1].feature.shape == (1, k, 12)
        assert torch.isfinite(net(clip)[1]).all()


def test_patches_that_are_no_squares_are_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="7 patches do not fill the frame with squares. Choose one of 6, 24"):
        small().use("patch", 7)


def test_an_odd_size_is_refused() -> None:
    with pytest.raises(UsageError, match="frames of 30 x 48: height and width must be multiples of 4"):
        PvParticle(height=30, width=48)


def test_the_autoencoder_has_as_many_values_between_its_halves() -> None:
    net = Plain(2, tokens=8, hidden=8)
    clip = video(3)
    assert net(clip).shape == clip.shape
    code = net.code(net.narrow(torch.zeros(1, 8, HEIGHT // 4, WIDTH // 4)))
    assert code.numel() == 24 * 17  # as 24 particles of 5 + 12


def test_the_loss_is_the_psnr() -> None:
    truth = torch.zeros(2, 3, 1, 4, 4)
    assert psnr_of(log_error(truth + 0.1, truth)) == pytest.approx(20, abs=0.01)


def test_samples_are_crops_of_reels_with_exchanged_colours() -> None:
    reel = np.zeros((9, 200, 300, 3), np.uint8)
    reel[..., 0] = 200
    batch = Footage([reel]).batch(3, 4, np.random.default_rng(0))
    assert batch.shape == (3, 3, 4, 96, 128)
    assert sorted((batch.amax((2, 3, 4)) > 0).sum(1).tolist()) == [1, 1, 1]


def test_what_is_true_of_a_painted_frame_is_the_frame_itself(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8))
    spec = spec_of(PvParticle())
    check_spec(spec, "spec")
    seen = eval_clip(Clip(tmp_path / "a.png", None, "one"), spec)
    assert isinstance(seen.truth, np.ndarray) and np.array_equal(pictures(spec, seen.frames), seen.truth)
    larger = replace(spec, outputs=(replace(spec.outputs[0], shape=(1, 3, 192, 256)), spec.outputs[1]))
    with pytest.raises(UsageError, match="degrade = 'nothing' wants an image of the size of the input"):
        check_spec(larger, "spec")


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> tuple[PvParticle, Variant, Path]:
    """The untrained net, and its float ONNX file in a folder."""
    torch.manual_seed(0)
    net, folder = lively(PvParticle()), tmp_path_factory.mktemp("particle")
    return net, lower(net, spec_of(net), folder / "m.onnx"), folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_untrained_net_steps_like_torch(engine: str, lowered: tuple[PvParticle, Variant, Path]) -> None:
    pytest.importorskip(engine)
    net, variant, folder = lowered
    assert_static_4_d(folder / variant.path)
    assert variant.stream
    mine, theirs = (
        Stepper(one.infer, variant.spec, variant.stream)
        for one in (
            EagerEngine(net, variant.spec, variant.stream),
            open_engine(replace(variant, engine=engine), folder),
        )
    )
    rng = np.random.default_rng(0)
    for _ in range(12):
        frame = rng.random((1, 3, 96, 128), dtype=np.float32)
        a, b = mine.step(frame), theirs.step(frame)
        assert max(float(np.abs(a[name] - b[name]).max()) for name in a) < 1e-4
