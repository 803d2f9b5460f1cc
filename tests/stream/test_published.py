"""Nets as their authors publish them: old spellings, loops over frames, cumulative means, frames in channels.

Small ones of each kind, written anew. Each must become a step that is proven against the net itself, or stay
a window for the right reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from nets import Net  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.autograd import Variable  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgepv.stream import NotStreamableError, Stepper, StreamModel, convert, flatten  # noqa: E402
from edgepv.stream import verify as judge  # noqa: E402
from edgepv.stream.account import of_streams, table_of  # noqa: E402
from edgepv.stream.verify import against_chunk, prove, steps, verify  # noqa: E402
from edgepv.types import ModelSpec, TensorSpec  # noqa: E402

pytestmark = pytest.mark.slow

SIZE, FRAMES = 8, 6


@pytest.fixture(autouse=True)
def few_frames(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Videos as short as will do, and one thread."""
    monkeypatch.setattr(judge, "VIDEO", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def loud(run: Callable[..., Tensor], *layers: nn.Module) -> Net:
    """A net with weights large enough to be noticed."""
    net = Net(run, *layers)
    for weight in net.parameters():
        weight.data *= 2
    return net.eval()


def spec(frames: int = FRAMES, task: str = "classification") -> ModelSpec:
    clip = TensorSpec("clip", (1, 3, frames, SIZE, SIZE), "NCTHW")
    if task == "restoration":
        image = TensorSpec("image", (1, 3, SIZE, SIZE))
        return ModelSpec(
            "net",
            clip,
            (),
            frames=frames,
            task="restoration",
            metric="psnr",
            outputs=(image,),
            lag=frames // 2,
        )
    return ModelSpec("net", clip, ("a", "b", "c"), frames=frames)


def clip(frames: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, frames, SIZE, SIZE)).astype(np.float32)


def video(frames: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((frames, 3, SIZE, SIZE)).astype(np.float32)


def proven(net: nn.Module, made: StreamModel | None = None) -> StreamModel:
    """A stream that is exact and was shown to be on a long video."""
    model = made or convert(net, spec())
    proof = prove(net, model, [clip()])
    assert model.stream.exactness in ("exact", "delayed")
    assert proof.video is not None and proof.video <= proof.tolerance, proof.why
    return model


def saving(model: StreamModel) -> float:
    return model.explanation.flops_clip / model.explanation.flops_frame


# cumulative means


def cumulative(x: Tensor) -> Tensor:
    """The mean of all frames so far, at each frame."""
    n = x.shape[2]
    count = torch.arange(1, n + 1, device=x.device)[None, None, :, None, None].expand(x.shape)
    return torch.cumsum(x, dim=2) / count


def causal(x: Tensor, stem: nn.Module, gate: nn.Module, mix: nn.Module, head: nn.Module) -> Tensor:
    """A causal net with buffers of zeros, squeeze-and-excite on cumulative means, and one at its end."""
    y = torch.relu(stem(F.pad(x, (0, 0, 0, 0, 2, 0))))
    seen = y.mean([3, 4], keepdim=True)
    y = y * torch.sigmoid(gate(torch.cat((cumulative(seen), seen), 1)))
    b, c, t, h, w = y.shape
    buffer = torch.zeros(b, c, 2, h, w, device=x.device)
    z = mix(torch.cat((buffer, y), 2).reshape(b, c, t + 2, h * w)).reshape(b, c, t, h, w)
    y = F.adaptive_avg_pool3d(y + torch.relu(z), (t, 1, 1))
    return head(cumulative(y)[:, :, -1:].flatten(1))


def causal_net() -> Net:
    layers = (nn.Conv3d(3, 6, 3, (1, 2, 2), (0, 1, 1)), nn.Conv3d(12, 6, 1), nn.Conv2d(6, 6, (3, 1)))
    return loud(causal, *layers, nn.Linear(6, 3))


def test_a_causal_net_with_cumulative_means_is_a_stream_that_never_forgets() -> None:
    net = causal_net()
    model = proven(net)
    assert (model.stream.delay, model.stream.receptive_field) == (0, None)
    assert saving(model) == pytest.approx(FRAMES, rel=0.01)
    assert any("stem" in e or "pad" in e or "layers" in e for e in model.stream.edges)
    x = torch.from_numpy(clip())[None]
    assert float((flatten(net, spec())(x) - net(x)).detach().abs().max()) <= 1e-5


@pytest.mark.parametrize(
    "mean",
    [
        lambda y: (y.cumsum(1) / torch.arange(1, FRAMES + 1)[:, None])[:, -1],
        lambda y: (y.cumsum(1) * (1 / torch.arange(1.0, FRAMES + 1))[:, None])[:, -1],
        lambda y: (torch.arange(1.0, FRAMES + 1).reciprocal()[:, None] * y.cumsum(1))[:, -1],
        lambda y: (y.cumsum(1) / (3 * torch.arange(1, FRAMES + 1)[:, None]))[:, -1],
        lambda y: torch.cumsum(y, 1).div(torch.cumsum(torch.ones_like(y), 1))[:, -1],
        lambda y: y.cummax(1)[0][:, -1] - y.cummin(1).values[:, -1],
    ],
    ids=["by range", "by its inverse", "inverse first", "by a multiple", "by a sum of ones", "extremes"],
)
def test_however_it_is_spelled_what_is_gathered_is_that_of_all_frames_so_far(mean: Any) -> None:
    net = loud(lambda x, head: head(mean(x.mean((3, 4)).transpose(1, 2))), nn.Linear(3, 3))
    model = convert(net, spec())
    assert verify(net, model, [clip()]) <= 1e-6
    many, got = video(40), stepped(model, video(40))
    for count in (1, 7, 40):
        y = torch.from_numpy(many[:count]).mean((2, 3))[None]
        so_far = {1: y, 7: y, 40: y}[count]
        sums = [so_far.mean(1), so_far.mean(1) / 3, so_far.amax(1) - so_far.amin(1)]
        wanted = [net.layers[0](s)[0].detach().numpy() for s in sums]
        assert min(float(np.abs(got[count - 1] - w).max()) for w in wanted) <= 1e-5


def stepped(model: StreamModel, frames: np.ndarray) -> np.ndarray:
    """(N, values) of a stream that starts with the video."""
    stepper, name = Stepper(steps(model), model.spec, model.stream), model.spec.answer.name
    return np.concatenate([stepper.step(frame[None])[name].reshape(1, -1) for frame in frames])


def test_after_five_thousand_frames_a_cumulative_mean_is_still_torchs() -> None:
    """Brightness about 100 with a little noise: a sum in float32 would have lost the noise by then."""
    net = loud(lambda x, head: head(cumulative(x)[:, :, -1].mean((2, 3)) - 100), nn.Linear(3, 3))
    model = convert(net, spec())
    count = 5000
    frames = 100 + np.random.default_rng(2).standard_normal((count, 3, 1, 1)).astype(np.float32)
    states = list(model.init_state().values())
    with torch.no_grad():
        for frame in torch.from_numpy(frames).expand(-1, 3, SIZE, SIZE).split(1):
            answer, *states = model.step(frame, *states)
        head: Any = net.layers[0]
        wanted = head(torch.from_numpy(frames[:, :, 0, 0].astype(np.float64).mean(0) - 100).float())
    assert float((answer[0] - wanted).abs().max()) < 1e-4
    assert max(float(s.abs().max()) for s in states) <= count


def test_a_stream_with_a_cumulative_mean_is_told_to_be_reset() -> None:
    model = convert(causal_net(), spec())
    says = of_streams([table_of(model.explanation, model.stream, spec())], spec(), None).says
    assert "the longer a stream runs, the less a new frame moves it" in says["mean"]


# loops over frames


class Cell(nn.Module):
    """A convolutional LSTM's."""

    def __init__(self, given: int, held: int) -> None:
        super().__init__()
        self.gates, self.held = nn.Conv2d(given + held, 4 * held, 3, 1, 1), held

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = torch.split(self.gates(torch.cat([x, h], 1)), self.held, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


def layer_by_layer(x: Tensor, one: Cell, two: Cell, head: nn.Module) -> Tensor:
    for cell in (one, two):
        h = c = torch.zeros(1, cell.held, SIZE, SIZE)
        found = []
        for t in range(x.shape[2]):
            h, c = cell(x[:, :, t], h, c)
            found.append(h)
        x = torch.stack(found, 2)
    return head(x.mean((2, 3, 4)))


def frame_by_frame(x: Tensor, one: Cell, two: Cell, head: nn.Module) -> Tensor:
    states = [x.new_zeros(1, cell.held, SIZE, SIZE) for cell in (one, one, two, two)]
    for frame in x.unbind(2):
        states[0], states[1] = one(frame, states[0], states[1])
        states[2], states[3] = two(states[0], states[2], states[3])
    return head(states[2].mean((2, 3)))


def gated(x: Tensor, of_x: nn.Module, of_h: nn.Module, head: nn.Module) -> Tensor:
    h = None
    for t in range(x.shape[2]):
        frame = x[:, :, t]
        h = torch.zeros(frame.size(0), 4, SIZE, SIZE) if h is None else h
        z, n = (of_x(frame) + of_h(h)).chunk(2, 1)
        h = (1 - torch.sigmoid(z)) * h + torch.sigmoid(z) * torch.tanh(n)
    assert h is not None
    return head(h.mean((2, 3)))


def faded(x: Tensor, head: nn.Module) -> Tensor:
    m = torch.zeros(1, 3)
    for t in range(x.shape[2]):
        m = 0.8 * m + 0.2 * x[:, :, t].mean((2, 3))
    return head(m)


def kept_dimension(x: Tensor, body: nn.Module, head: nn.Module) -> Tensor:
    h = torch.zeros(1, 4, 1, SIZE, SIZE)
    for t in range(x.shape[2]):
        h = torch.tanh(body(torch.cat([x[:, :, t : t + 1], h], 1)))
    return head(h.mean((2, 3, 4)))


LOOPS: dict[str, Callable[[], Net]] = {
    "an LSTM of two layers, layer by layer": lambda: loud(
        layer_by_layer, Cell(3, 4), Cell(4, 4), nn.Linear(4, 3)
    ),
    "gates of frame and state apart": lambda: loud(
        gated, nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(4, 8, 3, 1, 1), nn.Linear(4, 3)
    ),
    "an exponential mean": lambda: loud(faded, nn.Linear(3, 3)),
    "frames that keep their dimension": lambda: loud(kept_dimension, nn.Conv3d(7, 4, 1), nn.Linear(4, 3)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_over_frames_is_one_round_a_frame(name: str) -> None:
    net = LOOPS[name]()
    model = proven(net)
    assert (model.stream.delay, model.stream.receptive_field) == (0, None)
    assert len(model.stream.states) <= 5
    assert name == "an exponential mean" or saving(model) >= 0.9 * FRAMES
    assert model.stream.edges, "a clip starts it afresh"
    once = convert(net, spec(), every=2)
    assert verify(net, once, [clip()]) <= 1e-5
    for one in (model, once):
        assert against_chunk(one, steps(one), video(40)) <= 1e-5


def test_a_loop_of_two_layers_frame_by_frame_stays_unrolled_and_says_what_it_saves() -> None:
    net = loud(frame_by_frame, Cell(3, 4), Cell(4, 4), nn.Linear(4, 3))
    model = proven(net)
    assert model.stream.exactness == "exact" and saving(model) == 1.0


def leaves_out(x: Tensor, body: nn.Module, head: nn.Module) -> Tensor:
    h = torch.zeros(1, 4, SIZE, SIZE)
    for t in (0, 1, 3, 5):
        h = torch.tanh(body(torch.cat([x[:, :, t], h], 1)))
    return head(h.mean((2, 3)))


def both_ways(x: Tensor, ahead: nn.Module, back: nn.Module, head: nn.Module) -> Tensor:
    h = g = torch.zeros(1, 4, SIZE, SIZE)
    for t in range(x.shape[2]):
        h = torch.tanh(ahead(torch.cat([x[:, :, t], h], 1)))
    for t in reversed(range(x.shape[2])):
        g = torch.tanh(back(torch.cat([x[:, :, t], g], 1)))
    return head((h + g).mean((2, 3)))


def over_channels(x: Tensor, body: nn.Module, head: nn.Module) -> Tensor:
    y = x.mean(2)
    h = torch.zeros(1, 1, SIZE, SIZE)
    for c in range(3):
        h = torch.tanh(body(torch.cat([y[:, c : c + 1], h], 1)))
    return head(h.mean((2, 3)))


def from_the_first(x: Tensor, body: nn.Module, head: nn.Module) -> Tensor:
    h = x[:, :, 0]
    for t in range(1, x.shape[2]):
        h = torch.tanh(body(torch.cat([x[:, :, t], h], 1)))
    return head(h.mean((2, 3)))


OTHERS: dict[str, Callable[[], Net]] = {
    "leaves out frames": lambda: loud(leaves_out, nn.Conv2d(7, 4, 3, 1, 1), nn.Linear(4, 3)),
    "runs both ways": lambda: loud(
        both_ways, nn.Conv2d(7, 4, 3, 1, 1), nn.Conv2d(7, 4, 3, 1, 1), nn.Linear(4, 3)
    ),
    "runs over channels": lambda: loud(over_channels, nn.Conv2d(2, 1, 3, 1, 1), nn.Linear(1, 3)),
    "begins with a frame": lambda: loud(from_the_first, nn.Conv2d(6, 3, 3, 1, 1), nn.Linear(3, 3)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_loop_stays_what_it_is_and_says_what_it_saves(name: str) -> None:
    net = OTHERS[name]()
    model = proven(net)
    assert model.stream.receptive_field == FRAMES and not model.stream.edges
    if name != "runs over channels":
        assert saving(model) == pytest.approx(1, abs=0.2)
        says = of_streams([table_of(model.explanation, model.stream, spec())], spec(), None).says
        assert "give it init_state() and step(frame, *states)" in says["saving"]


# old spellings


def shortcut(out: Tensor, kind: str) -> Tensor:
    """Zero channels behind what strides leave: a shortcut without weights."""
    shape = (out.size(0), 4, *out.shape[2:])
    if kind == "Tensor":
        zeros = torch.Tensor(*shape).zero_()
        if isinstance(out.data, torch.cuda.FloatTensor):
            zeros = zeros.cuda()
        return Variable(torch.cat([out.data, zeros], dim=1))
    zeros = Variable(torch.zeros(*shape))
    return torch.cat([out, zeros.type_as(out)], dim=1)


@pytest.mark.parametrize("kind", ["Tensor", "Variable"])
def test_a_shortcut_of_zero_channels_in_an_old_spelling_is_captured(kind: str) -> None:
    def run(x: Tensor, one: nn.Module, two: nn.Module, head: nn.Module) -> Tensor:
        y = torch.relu(one(x))
        y = torch.relu(two(y) + shortcut(F.avg_pool3d(y, 1, 2), kind))
        return head(y.mean((2, 3, 4)))

    net = loud(run, nn.Conv3d(3, 4, 3, 1, 1), nn.Conv3d(4, 8, 3, 2, 1), nn.Linear(8, 3))
    model = convert(net, spec())
    assert verify(net, model, [clip()]) <= 1e-6 and model.stream.exactness == "delayed"
    assert against_chunk(model, steps(model), video(40)) <= 1e-5


def two_rates(x: Tensor, slow: nn.Module, fast: nn.Module, head: nn.Module) -> Tensor:
    places = torch.linspace(0, x.shape[2] - 1, x.shape[2] // 3).long()
    parts = [slow(torch.index_select(x, 2, places)), fast(x)]
    return head(torch.cat([p.mean((2, 3, 4)) for p in parts], 1))


def test_a_slow_path_picked_by_linspace_streams_where_its_frames_are_evenly_spaced() -> None:
    net = loud(
        two_rates, nn.Conv3d(3, 4, (1, 3, 3)), nn.Conv3d(3, 4, (3, 1, 1), 1, (1, 0, 0)), nn.Linear(8, 3)
    )
    model = convert(net, spec())  # frames 0 and 5 of 6
    proof = prove(net, model, [clip()])
    assert proof.clip <= proof.tolerance and proof.video is None
    assert "picks frames by the length of the video" in proof.why
    assert against_chunk(model, steps(model), video(40)) <= 1e-5


def by_frames(x: Tensor, cnn: Any, block: Any, token: Any, head: Any) -> Tensor:
    """A transformer on each frame by itself with a class token and casts, then a mean over the frames."""
    b, c, t, h, w = x.shape
    y = cnn(x.permute(0, 2, 1, 3, 4).contiguous().view(b * t, c, h, w)).flatten(2).transpose(1, 2)
    first = token.weight.to(y.dtype)[None] + torch.zeros(y.shape[0], 1, y.shape[-1], dtype=y.dtype)
    y = torch.cat([first.type_as(y), y], 1)
    y = y + block(y)
    return head(y[:, 0].view(b, t, -1).mean(1).float())


def test_a_class_token_of_each_frame_streams() -> None:
    net = loud(
        by_frames,
        nn.Conv2d(3, 8, 4, 4),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=F.gelu),
        nn.Embedding(1, 8),
        nn.Linear(8, 3),
    )
    model = convert(net, spec())
    assert verify(net, model, [clip()]) <= 1e-5 and saving(model) == pytest.approx(FRAMES, rel=0.01)


# frames in channels


def stacked(x: Tensor, how: str) -> Tensor:
    if how == "reshape":
        return x.transpose(1, 2).reshape(1, -1, *x.shape[3:])
    return torch.cat([x[:, :, t] for t in range(x.shape[2])] if how == "cat" else x.unbind(2), 1)


def denoised(x: Tensor, how: str, one: nn.Module, two: nn.Module) -> Tensor:
    """Two stages on three neighbours each, with a map of the noise; groups of a frame and its map."""
    y = stacked(x, how)
    frames = [y[:, 3 * i : 3 * i + 3] for i in range(5)]
    noise = torch.full((1, 1, *y.shape[2:]), 0.1)

    def stage(layer: nn.Module, parts: Sequence[Tensor]) -> Tensor:
        return parts[1] - layer(torch.cat([p for part in parts for p in (part, noise)], 1))

    first = [stage(one, frames[i : i + 3]) for i in range(3)]
    return stage(two, first)


@pytest.mark.parametrize("how", ["reshape", "cat", "unbind"])
def test_frames_stacked_in_channels_are_cut_between_frames(how: str) -> None:
    layers = [nn.Sequential(nn.Conv2d(12, 9, 3, 1, 1, groups=3), nn.Conv2d(9, 3, 3, 1, 1)) for _ in range(2)]
    net = loud(lambda x, *two: denoised(x, how, *two), *layers)
    model = convert(net, spec(5, "restoration"))
    proof = prove(net, model, [clip(5)])
    assert proof.video is not None and proof.video <= proof.tolerance
    assert (model.stream.delay, model.stream.receptive_field, model.spec.lag) == (0, 5, 2)
    assert saving(model) == pytest.approx(2)  # four stages a clip, two a frame
    assert sum(state.shape[0] for state in model.stream.states) == 4  # two frames and two of the first stage


def test_a_picture_that_needs_no_later_frame_is_not_held_back() -> None:
    """The middle of five frames, and those before it: in a stream it is the newest."""
    net = loud(lambda x, m: m(x[:, :, :3])[:, :, 0], nn.Conv3d(3, 3, (3, 3, 3), 1, (0, 1, 1)))
    model = convert(net, spec(5, "restoration"))
    assert verify(net, model, [clip(5)]) <= 1e-6
    assert model.spec.lag == 0 and model.stream.delay == 0


def test_planes_whose_channels_are_frames_are_pooled_and_enlarged_one_by_one() -> None:
    def run(x: Tensor, body: nn.Module) -> Tensor:
        f = x.unbind(2)
        moved = torch.cat([b - a for a, b in pairwise(f)], 1)
        small = F.avg_pool2d(moved, 2)
        return body(F.interpolate(small, scale_factor=2, mode="bilinear")).mean((2, 3))

    net = loud(run, nn.Conv2d(15, 3, 3, 1, 1))
    proven(net)


# heads that need all frames


class Temporal(nn.Module):
    """A transformer over the frames with a class token and learned positions, in the usual way."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.places = nn.Embedding(1, 8), nn.Embedding(FRAMES + 1, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, y: Tensor) -> Tensor:
        y = torch.cat([self.token.weight[None].type_as(y), y], 1)
        out: Tensor = self.block(y + self.places(torch.arange(y.shape[1]))[None])[:, 0]
        return out


class Both(nn.Module):
    """The mean of a recurrence that reads both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 4, batch_first=True, bidirectional=True)

    def forward(self, y: Tensor) -> Tensor:
        out: Tensor = self.rnn(y)[0].mean(1)
        return out


class Best(nn.Module):
    """The mean of the three largest values of a channel."""

    def forward(self, y: Tensor) -> Tensor:
        return y.topk(3, dim=1)[0].mean(1)


def headed(x: Tensor, cnn: nn.Module, temporal: nn.Module, head: nn.Module) -> Tensor:
    b, c, t, h, w = x.shape
    y = cnn(x.transpose(1, 2).reshape(b * t, c, h, w)).mean((2, 3)).view(b, t, -1)
    return head(temporal(y))


def headed_net(temporal: nn.Module) -> Net:
    cnn = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 8, 3, 1, 1))
    return loud(headed, cnn, temporal, nn.Linear(8, 3))


@pytest.mark.parametrize("temporal", [Temporal, Both, Best])
def test_under_a_head_that_needs_all_frames_the_rest_still_streams(temporal: Callable[[], nn.Module]) -> None:
    net = headed_net(temporal())
    model = proven(net)
    assert model.stream.exactness == "exact" and model.stream.receptive_field == FRAMES
    assert saving(model) > 4 and {s.shape[0] for s in model.stream.states} == {FRAMES - 1}
    says = of_streams([table_of(model.explanation, model.stream, spec())], spec(), None).says
    assert says["window"].startswith("its last part computes all frames of the clip at every step: aten.")
    assert against_chunk(model, steps(model), video(20)) <= 1e-5
    assert verify(net, convert(net, spec(), every=2), [clip()]) <= 1e-5


def test_a_head_that_is_most_of_the_net_leaves_it_a_window() -> None:
    layers = (nn.Linear(3, 8), Both(), nn.Linear(8, 3))
    net = loud(lambda x, m, both, head: head(both(m(x.mean((3, 4)).transpose(1, 2)))), *layers)
    with pytest.raises(NotStreamableError, match=r"aten.gru .* reads the clip backwards as well"):
        convert(net, spec())
