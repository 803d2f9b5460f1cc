"""The third comparison: a stepped stream against its clip model, untouched, in the middle of a long video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from nets import Net  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from edgepv.errors import ParityError  # noqa: E402
from edgepv.stream import Stepper, StreamModel, convert  # noqa: E402
from edgepv.stream import verify as judge  # noqa: E402
from edgepv.stream.verify import against_video, floor, prove, steps, verify  # noqa: E402
from edgepv.types import ModelSpec, TensorSpec  # noqa: E402

SIZE, CLOSE, FAR = 4, 1e-6, 1e-3


@pytest.fixture(autouse=True)
def few_frames(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As few as will do, and one thread."""
    monkeypatch.setattr(judge, "VIDEO", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def spec(frames: int) -> ModelSpec:
    shape = TensorSpec("clip", (1, 3, frames, SIZE, SIZE), "NCTHW")
    return ModelSpec("net", shape, ("a", "b", "c"), frames=frames)


def clip(frames: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, frames, SIZE, SIZE)).astype(np.float32)


def trunk(*strides: int) -> nn.Sequential:
    """Convolutions over three frames with these strides, each with padding, and one of stride 1."""
    channels = [3, *[4] * len(strides)]
    layers = [nn.Conv3d(c, 4, 3, (s, 1, 1), 1) for c, s in zip(channels, strides)]
    return nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())], nn.Conv3d(4, 4, 3, 1, 1))


def pooled(*strides: int) -> Net:
    return Net(lambda x, body, head: head(body(x).mean((2, 3, 4))), trunk(*strides), nn.Linear(4, 3)).eval()


def differs(net: nn.Module, frames: int, every: int = 1) -> float:
    return against_video(net, convert(net, spec(frames), every=every), tolerance=CLOSE)[0]


@pytest.mark.parametrize(("frames", "every"), [(1, 1), (3, 8), (5, 1), (8, 1), (8, 8), (9, 8)])
def test_where_one_position_is_left_its_neighbours_are_as_far_as_the_stride_says(
    frames: int, every: int
) -> None:
    assert differs(pooled(2, 2, 2), frames, every) <= CLOSE


def test_one_position_left_by_strides_is_right_by_pencil_too() -> None:
    """8 frames, strides of 2, 2 and 2: position q of the net's own long features is the clip at 8 q."""
    net, frames = pooled(2, 2, 2), np.random.default_rng(1).standard_normal((96, 3, SIZE, SIZE))
    video = frames.astype(np.float32)
    model = convert(net, spec(8))
    stepper = Stepper(steps(model), model.spec, model.stream)
    got = np.concatenate([stepper.step(frame[None])["logits"] for frame in video])
    body, head = net.layers
    with torch.no_grad():
        features = body(torch.from_numpy(video).transpose(0, 1)[None]).mean((3, 4))[0].t()
        wanted = head(features).numpy()
    late = 7 + model.stream.delay
    due = {q: 8 * q + late for q in range(12) if model.stream.warmup <= 8 * q + late + 1 <= 96}
    assert len(due) >= 6 and max(np.abs(got[at] - wanted[q]).max() for q, at in due.items()) <= CLOSE


def test_frames_left_out_by_a_slice_are_left_out_of_a_clip_of_one_too() -> None:
    body = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))
    net = Net(lambda x, m, head: head(m(x[:, :, ::4]).mean((2, 3, 4))), body, nn.Linear(4, 3)).eval()
    for frames in (1, 4, 5):
        assert differs(net, frames) <= CLOSE


def two_rates(x: Tensor, slow: nn.Module, fast: nn.Module, head: nn.Module) -> Tensor:
    parts = [slow(x[:, :, ::4]).mean((2, 3, 4)), fast(x).amax((2, 3, 4))]
    return head(torch.cat(parts, 1))


def recurrent(x: Tensor, body: nn.Module, lstm: nn.Module, head: nn.Module) -> Tensor:
    return head(lstm(body(x).mean((3, 4)).transpose(1, 2))[0][:, -1])


def looped(x: Tensor, cnn: nn.Module, head: nn.Module) -> Tensor:
    frames = [cnn(x[:, :, t]).mean((2, 3)) for t in range(x.shape[2])]
    return head(torch.stack(frames, 1).mean(1))


HEADS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "a mean": (8, lambda: pooled(2)),
    "a linear layer of all positions": (
        6,
        lambda: Net(lambda x, m, h: h(torch.relu(m(x).flatten(1))), trunk(1), nn.Linear(4 * 6 * SIZE**2, 3)),
    ),
    "two rates": (8, lambda: Net(two_rates, trunk(1), trunk(1), nn.Linear(8, 3))),
    "the last position of a recurrence": (
        6,
        lambda: Net(recurrent, trunk(1), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)),
    ),
    "a loop over frames": (5, lambda: Net(looped, nn.Conv2d(3, 4, 3), nn.Linear(4, 3))),
    "an answer per frame": (5, lambda: Net(lambda x, m: m(x).mean((3, 4)), trunk(1))),
    "an answer per second frame": (8, lambda: Net(lambda x, m: m(x).mean((3, 4)), trunk(2))),
    "a pool as long as the clip": (
        6,
        lambda: Net(
            lambda x, m, p, h: h(p(m(x)).flatten(1)), trunk(1), nn.AvgPool3d((6, SIZE, SIZE)), nn.Linear(4, 3)
        ),
    ),
    "no padding, and a length of its own": (
        4,
        lambda: Net(lambda x, m: m(x.reshape(1, 12, SIZE, SIZE)).mean((2, 3)), nn.Conv2d(12, 3, 3)),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_long_video_shows_it_whatever_the_head_is(name: str) -> None:
    frames, build = HEADS[name]
    net = build().eval()
    proof = prove(net, convert(net, spec(frames)), [clip(frames)])
    assert proof.video is not None, proof.why
    assert proof.video <= proof.tolerance and proof.frames > frames


def shifted(x: Tensor, m: nn.Module) -> Tensor:
    y = x[0].transpose(0, 1).reshape(-1, 4, 3, SIZE, SIZE)
    y = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1) + y
    return m(y.flatten(0, 1)).mean((2, 3)).mean(0, keepdim=True)


def gated(x: Tensor, body: nn.Module) -> Tensor:
    y = body(x)
    return (y * torch.sigmoid(y.mean((2, 3, 4), keepdim=True))).mean((2, 3, 4))


@pytest.mark.parametrize(
    ("frames", "net", "why"),
    [
        (4, Net(shifted, nn.Conv2d(3, 3, 3)), "does not take a longer video"),
        (1, Net(gated, nn.Conv3d(3, 3, 3, 1, 1)), "depends on when the video began"),
        (4, Net(lambda x, m: m((1 - x).sqrt()).mean((2, 3, 4)), nn.Conv3d(3, 3, 3, 1, 1)), "noise with NaN"),
    ],
    ids=["clips cut by itself", "a gate by all frames", "roots of noise"],
)
def test_what_cannot_be_asked_is_by_construction_and_says_why(frames: int, net: nn.Module, why: str) -> None:
    proof = prove(net.eval(), convert(net.eval(), spec(frames)), [clip(frames) / 10])
    assert proof.video is None and why in proof.why and proof.clip <= proof.tolerance


def test_a_hidden_state_is_compared_with_the_net_on_everything_since_the_video_began() -> None:
    """Its head looks around in time, so it cannot be asked about clips inside of the video."""
    net = Net(lambda x, g: g(x.mean((3, 4)).transpose(1, 2))[1][-1], nn.GRU(3, 3, batch_first=True)).eval()
    model = convert(net, spec(4))
    proof = prove(net, model, [clip(4)])
    assert proof.video is not None and proof.video <= proof.tolerance
    broken = respelt(model, delay=1)
    assert prove(net, broken, [clip(4)]).video is None


def respelt(model: StreamModel, **change: int) -> StreamModel:
    model.stream = replace(model.stream, **change)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize(("delay", "warmup"), [(1, 0), (-1, 0), (0, -2)])
def test_a_delay_or_warm_up_that_is_declared_wrongly_is_seen(delay: int, warmup: int) -> None:
    net = pooled(1)
    model = convert(net, spec(6))
    stream = model.stream
    broken = respelt(model, delay=stream.delay + delay, warmup=stream.warmup + warmup)
    with pytest.raises(ParityError, match=r"untouched model on a video of \d+ frames"):
        prove(net, broken, [clip(6)])


def bent(model: StreamModel, by: float) -> StreamModel:
    """The same with its bias a little off; the net's own stays as it is."""
    name = next(n for n, b in model.named_buffers() if b.shape == (3,))
    setattr(model, name, model.get_buffer(name) + by)
    return model


def test_what_is_allowed_is_some_roundings_of_the_clip_model_itself() -> None:
    """Adding 3,000 and taking it away rounds to 2^-12: an error of 2e-4 is no more than that."""
    rough = Net(lambda x, m: ((m(x) + 3000) - 3000).amax((2, 3, 4)), nn.Conv3d(3, 3, 3, 1, 1)).eval()
    fine = Net(lambda x, m: m(x).amax((2, 3, 4)), rough.layers[0]).eval()
    found = floor(rough, [clip(6)])
    assert found is not None and 1e-5 < found < 2**-12 and (floor(fine, [clip(6)]) or 1) < 1e-6
    assert 1e-5 < verify(rough, bent(convert(rough, spec(6)), 2e-4), [clip(6)]) <= 8 * found
    with pytest.raises(ParityError, match=r"allowed 1e-06"):
        verify(fine, bent(convert(fine, spec(6)), 2e-4), [clip(6)])


def test_where_double_does_not_run_a_fixed_tolerance_is_said() -> None:
    single = Net(lambda x, m: m(x.float()).mean((2, 3, 4)), nn.Conv3d(3, 3, 1)).eval()
    proof = prove(single, convert(single, spec(4)), [clip(4)])
    assert (proof.floor, proof.tolerance) == (None, 1e-5)


class Layered(nn.Module):
    """Temporal layers, one after the other, then a head."""

    def __init__(self, layers: list[nn.Module], head: str, frames: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*layers), head
        made = self.body(torch.zeros(1, 3, frames, SIZE, SIZE)).mean((3, 4))
        self.last = nn.Linear(made.numel() if head == "flat" else made.shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).mean((3, 4))
        seen = {"mean": lambda: y.mean(2), "last": lambda: y[:, :, -1], "flat": lambda: y.flatten(1)}
        out = self.last(seen[self.head]())
        assert isinstance(out, Tensor)
        return out


def layer(kind: str, channels: int, kernel: int, stride: int, dilation: int, pad: int) -> nn.Module:
    """One temporal layer; pad: positions at either end, less where a pool does not allow them."""
    size, step, sides = (kernel, 1, 1), (stride, 1, 1), (min(pad, kernel // 2), 0, 0)
    if kind == "max":
        return nn.MaxPool3d(size, step, sides)
    if kind == "mean":
        return nn.AvgPool3d(size, step, sides)
    groups, out = (channels, channels) if kind == "grouped" else (1, 4)
    return nn.Conv3d(channels, out, size, step, (pad * dilation, 0, 0), (dilation, 1, 1), groups)


@st.composite
def nets(draw: st.DrawFn) -> tuple[Layered, int]:
    """(a net whose layers leave at least one position, frames of its clips)."""
    frames, channels = draw(st.integers(1, 9)), 3
    torch.manual_seed(draw(st.integers(0, 99)))
    layers: list[nn.Module] = []
    kinds = st.sampled_from(["dense", "grouped", "max", "mean"])
    for _ in range(draw(st.integers(2, 4))):
        kind, kernel, stride = draw(kinds), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        made = layer(
            kind, channels, kernel, stride, draw(st.integers(1, 2)), draw(st.integers(0, kernel // 2))
        )
        try:
            channels = nn.Sequential(*layers, made)(torch.zeros(1, 3, frames, SIZE, SIZE)).shape[1]
        except RuntimeError:  # no position would be left
            continue
        layers += [made, nn.Softsign()]
    return Layered(layers, draw(st.sampled_from(["mean", "last", "flat"])), frames).eval(), frames


@pytest.mark.slow
@settings(
    max_examples=12, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(nets(), st.booleans())
def test_any_stack_of_temporal_layers_is_the_net_on_a_long_video(
    made: tuple[Layered, int], seldom: bool
) -> None:
    net, frames = made
    model = convert(net, spec(frames))
    if seldom:
        model = convert(net, spec(frames), every=model.explanation.stride)
    proof = prove(net, model, [clip(frames)])
    assert proof.video is not None, proof.why
