"""Nets of the literature as streams: against the clip model, one long step, and their layers on a long clip.

Nothing here was made to be streamed. Delays and receptive fields are worked out by hand from the papers, in
the comments of the table: from the last layer back, which frames does the answer to clip 0 rest on?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from support import ROOT

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.backends import mkldnn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from edgepv.model.builder import find_function  # noqa: E402
from edgepv.stream import NotStreamableError, Stepper, StreamModel, Tensors, convert, flatten  # noqa: E402
from edgepv.stream.capture import Captured, capture  # noqa: E402
from edgepv.stream.verify import against_chunk, against_clip, steps  # noqa: E402
from edgepv.types import ModelSpec, TensorSpec  # noqa: E402

pytestmark = pytest.mark.slow

WIDTH, SIZE, LONG = 0.125, 32, 304
CLOSE = 1e-5


@dataclass(frozen=True)
class Paper:
    """One net of benchmarks/clipnets.py. reads: oldest (None: all) and newest frame of the answer to the
    clip that begins with frame 0. stride: clip frames per position before the pool over time."""

    name: str
    frames: int
    reads: tuple[int | None, int]
    stride: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    exactness: str = "delayed"

    def build(self, **options: Any) -> nn.Module:
        builder = find_function(f"{ROOT / 'benchmarks' / 'clipnets.py'}:{self.name}")
        return builder(WIDTH, **{**self.options, **options})

    @property
    def spec(self) -> ModelSpec:
        clip = TensorSpec("clip", (1, 3, self.frames, SIZE, SIZE), "NCTHW")
        return ModelSpec(self.name, clip, tuple("abcdefgh"), frames=self.frames)


PAPERS = (
    # pool5 0..1, conv5 x 2 -2..3; pool4 -4..7, conv4 x 2 -6..9; pool3 -12..19, conv3 x 2 -14..21;
    # pool2 -28..43, conv2 -29..44, conv1 -30..45
    Paper("c3d", 16, (-30, 45), 16, {"size": SIZE}),
    # avg_pool 0..1, mixed -1..2; max_pool -2..5, mixed -3..6; max_pool (2p .. 2p + 2) -6..14, mixed -7..15,
    # 3x3x3 -8..16; 7x7x7 (2p - 2 .. 2p + 4) -18..36
    Paper("i3d", 16, (-18, 36), 8, {"modules": 3}),
    # positions 0..1, 3 convs -3..4, strided (2p - 1 .. 2p + 1) -7..9; 3 convs -10..12, strided -21..25;
    # 3 convs -24..28, strided -49..57; 4 convs -53..61, stem -54..62
    Paper("r3d_18", 16, (-54, 62), 8),
    Paper("r2plus1d_18", 16, (-54, 62), 8),
    # the stem and four convs look one frame to each side, all others at one frame
    Paper("mc3_18", 16, (-5, 20)),
    # 4 blocks look one frame to each side, the stem two: -6..18; four squeeze-excites look 12 frames back
    Paper("x3d_s", 13, (-6 - 4 * 12, 18), 1, {"depths": (1, 1, 1, 1)}, "approximate"),
    # fast path: 0..15, two convs -2..17, stem -4..19; slow path: positions 0, 4, 8, 12, the second lateral
    # -2..14, one fast conv -3..15, stem -5..17
    Paper("slowfast", 16, (-5, 19), 4),
    # eight shifts by one frame to each side
    Paper("tsm", 8, (-8, 15)),
    Paper("tsm_online", 8, (-8, 7), exactness="exact"),
    # kernels 5, 3, 3, 3, 3, 3, 5, 5 that look back
    Paper("causal", 16, (-22, 15), exactness="exact"),
    Paper("cnn_lstm", 16, (None, 15), exactness="exact"),
    # three layers of attention to oneself and three frames back
    Paper("timesformer_banded", 16, (-9, 15), 1, {"size": SIZE}, "exact"),
)


@dataclass(frozen=True)
class Run:
    """A net, its stream, and what that answered to every frame of a long video (N, C, H, W)."""

    paper: Paper
    net: nn.Module
    graph: Captured
    model: StreamModel
    video: np.ndarray
    answers: np.ndarray


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=PAPERS, ids=lambda paper: paper.name)
def run(request: pytest.FixtureRequest) -> Run:
    paper = request.param
    net = paper.build()
    graph = capture(net, torch.randn(paper.spec.input.shape))
    with captured_once(graph):
        model = convert(net, paper.spec)
    video = np.random.default_rng(1).standard_normal((LONG, 3, SIZE, SIZE)).astype(np.float32)
    return Run(paper, net, graph, model, video, answers(model, video))


@contextmanager
def captured_once(graph: Captured) -> Iterator[None]:
    """Conversions take this for what their net is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgepv.stream.rewrite.capture", lambda *_: graph)
        yield


def answers(model: StreamModel, video: np.ndarray) -> np.ndarray:
    """(N, classes) of a stream that starts with the video."""
    stepper = Stepper(steps(model), model.spec, model.stream)
    return np.concatenate([stepper.step(frame[None])["logits"] for frame in video])


def replayed(run: Run) -> Callable[[Tensors], Tensors]:
    """An engine that says again what it said to the long video."""
    said = iter(run.answers)
    fresh = {s.output: np.zeros((s.fresh, *s.shape[1:]), np.float32) for s in run.model.stream.states}
    return lambda _: {**fresh, "logits": next(said)[None]}


def clip(paper: Paper) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((3, paper.frames, SIZE, SIZE)).astype(np.float32)


def test_the_stream_is_the_clip_model(run: Run) -> None:
    error = against_clip(run.net, run.model, [clip(run.paper)])
    if run.paper.exactness == "approximate":
        assert 1e-3 < error < 0.2
    else:
        assert error <= CLOSE


def test_over_300_frames_it_is_one_long_step(run: Run) -> None:
    assert len(run.video) >= 300
    assert against_chunk(run.model, replayed(run), run.video) <= CLOSE
    assert float(np.ptp(run.answers[run.model.stream.warmup :], 0).min()) > 1e-3, "it answers always the same"


def test_what_is_recorded_is_the_step(run: Run) -> None:
    shapes = [run.model.spec.input.shape, *(s.shape for s in run.model.stream.states)]
    given = [torch.randn(shape) for shape in shapes]
    recorded, walked = run.model.recorded()(*given), run.model.step(*given)
    assert len(recorded) == len(walked)
    assert max(float((a - b).abs().max()) for a, b in zip(recorded, walked)) <= 1e-6


def test_it_declares_what_a_pencil_says(run: Run) -> None:
    (oldest, newest), frames, stream = run.paper.reads, run.paper.frames, run.model.stream
    assert stream.delay == newest - (frames - 1)
    assert stream.receptive_field == (None if oldest is None else newest - oldest + 1)
    assert stream.exactness == run.paper.exactness
    assert [b.split(" ")[0] for b in stream.because] == ["aten.mul"] * (stream.exactness == "approximate")


def test_the_warm_up_is_all_a_stream_must_see(run: Run) -> None:
    if run.model.stream.receptive_field is None:
        pytest.skip("rests on every frame since a reset")
    last = run.video[-run.model.stream.warmup :]
    assert np.abs(answers(run.model, last)[-1] - run.answers[-1]).max() <= 1e-6


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_flops_are_those_that_torch_counts(run: Run) -> None:
    made = run.model.explanation
    states = run.model.init_state().values()
    with mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):  # of fused layers it counts nothing
        with FlopCounterMode(display=False) as of_clip:
            run.net(torch.zeros(run.paper.spec.input.shape))
        with FlopCounterMode(display=False) as of_frame:
            run.model.step(torch.zeros(run.model.spec.input.shape), *states)
    assert made.flops_clip == pytest.approx(of_clip.get_total_flops(), rel=0.05)
    assert made.flops_frame == pytest.approx(of_frame.get_total_flops(), rel=0.05)


def test_flat_it_is_the_clip_model(run: Run) -> None:
    x = torch.from_numpy(clip(run.paper))[None]
    with captured_once(run.graph):
        flat = flatten(run.net, run.paper.spec)
    assert float((flat(x) - run.net(x)).abs().max()) <= CLOSE


def averaged(rows: Tensor, count: int) -> Tensor:
    """Means of ``count`` neighbours along the first dimension."""
    return rows.unfold(0, count, 1).mean(-1)


def c3d(net: Any, x: Tensor) -> Tensor:
    pools: dict[int, Any] = {0: ((1, 2, 2), 0), 1: (2, 0), 3: (2, 0), 5: (2, 0), 7: (2, (0, 1, 1))}
    for i, conv in enumerate(net.convs):
        x = F.relu(conv(x))
        if i in pools:
            x = F.max_pool3d(x, pools[i][0], pools[i][0], pools[i][1])
    x = F.relu(net.fc6(x[0].transpose(0, 1).flatten(1)))
    return net.fc8(F.relu(net.fc7(x)))


def i3d(net: Any, x: Tensor) -> Tensor:
    x = F.max_pool3d(F.pad(net.stem(x), (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))
    x = F.max_pool3d(F.pad(net.two(net.one(x)), (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))
    x = net.mixed[1](F.max_pool3d(F.pad(net.mixed[0](x), (0, 1) * 3), 3, 2))
    x = net.mixed[2](F.max_pool3d(x, 2, 2))
    x = net.logits(F.avg_pool3d(x, (2, *x.shape[3:]), 1))
    return x[0, :, :, 0, 0].t()


def resnet(net: Any, x: Tensor, count: int) -> Tensor:
    return net.fc(averaged(net.layers(net.stem(x)).mean((3, 4))[0].t(), count))


def slowfast(net: Any, x: Tensor) -> Tensor:
    slow, fast = F.relu(net.slow_bn(net.slow_stem(x[:, :, ::4]))), F.relu(net.fast_bn(net.fast_stem(x)))
    slow, fast = (F.max_pool3d(v, (1, 3, 3), (1, 2, 2), (0, 1, 1)) for v in (slow, fast))
    for lateral, s, f in zip(net.lateral, net.slow, net.fast):
        slow, fast = s(torch.cat([slow, lateral(fast)], 1)), f(fast)
    slow, fast = (v.mean((3, 4))[0].t() for v in (slow, fast))
    slow, fast = averaged(slow, 4), averaged(fast, 16)[::4]
    return net.fc(torch.cat([slow[: len(fast)], fast], 1))


def shifted(net: Any, x: Tensor) -> Tensor:
    for block in net.blocks:
        block.frames = x.shape[2]
    x = F.max_pool2d(F.relu(net.bn(net.stem(x[0].transpose(0, 1)))), 3, 2, 1)
    return averaged(net.fc(net.blocks(x).mean((2, 3))), 8)


def x3d(net: Any, x: Tensor) -> Tensor:
    """Each squeeze takes the clip that ends now, as benchmarks/stream_tune.py tunes it."""
    net = find_function(f"{ROOT / 'benchmarks' / 'train_clipnets.py'}:squeezing_now")(net, 13)
    x = F.relu(net.stem_bn(net.stem_t(net.stem_xy(x))))
    x = F.relu(net.bn5(net.conv5(net.blocks(x))))
    pooled = averaged(x[0].mean((2, 3)).t(), 13)
    return net.fc(F.relu(F.linear(pooled, net.lin5.weight.flatten(1))))


def causal(net: Any, x: Tensor) -> Tensor:
    x = net.blocks(F.hardswish(net.bn(net.stem(x))))
    x = F.hardswish(net.head(x.mean((3, 4), keepdim=True)))
    return net.fc(averaged(x[0, :, :, 0, 0].t(), 16))


def cnn_lstm(net: Any, x: Tensor) -> Tensor:
    out, _ = net.lstm(net.cnn(x[0].transpose(0, 1)).mean((2, 3))[None])
    return net.fc(out[0, 15:])


def banded(net: Any, x: Tensor) -> Tensor:
    age = torch.arange(x.shape[2])[:, None] - torch.arange(x.shape[2])[None]
    for block in net.blocks:
        block.mask = (age >= 0) & (age < 4)
    x = net.patch(x[0].transpose(0, 1)).flatten(2).transpose(1, 2) + net.place
    return net.fc(averaged(net.norm(net.blocks(x)).mean(1), 16))


ORACLES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "c3d": c3d,
    "i3d": i3d,
    "r3d_18": lambda net, x: resnet(net, x, 2),
    "r2plus1d_18": lambda net, x: resnet(net, x, 2),
    "mc3_18": lambda net, x: resnet(net, x, 16),
    "x3d_s": x3d,
    "slowfast": slowfast,
    "tsm": shifted,
    "tsm_online": shifted,
    "causal": causal,
    "cnn_lstm": cnn_lstm,
    "timesformer_banded": banded,
}


def test_it_is_the_nets_own_layers_on_one_long_clip(run: Run) -> None:
    """Position p of the oracle is the clip that begins with frame p * stride + phase of the video."""
    compared = 0
    for phase in {0, run.paper.stride - 1}:
        net = deepcopy(run.net)  # an oracle may set it to more frames
        x = torch.from_numpy(run.video[phase:]).transpose(0, 1)[None]
        wanted = ORACLES[run.paper.name](net, x).numpy()
        for p, row in enumerate(wanted):
            begin = p * run.paper.stride + phase
            oldest, newest = (begin + (r or 0) for r in run.paper.reads)
            if oldest >= phase and newest < LONG:
                assert np.abs(row - run.answers[newest]).max() <= CLOSE, (
                    f"clip that begins with frame {begin}"
                )
                compared += 1
    assert compared >= 20


def test_a_learned_place_in_time_is_refused() -> None:
    paper = Paper("timesformer", 8, (0, 7), 1, {"size": SIZE})
    with pytest.raises(
        NotStreamableError, match=r"timesformer: aten.add \(clipnets.py:\d+\) .* positional embedding"
    ):
        convert(paper.build(), paper.spec)
