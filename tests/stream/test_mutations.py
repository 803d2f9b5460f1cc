"""The verifier is only worth what it catches: faults are planted, one by one, and each must be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepv.errors import ParityError
from edgepv.stream import Memory, StreamModel, convert, times
from edgepv.stream.times import Stream
from edgepv.stream.verify import against_chunk, against_clip, prove, steps, verify
from edgepv.types import ModelSpec, StateSpec, TensorSpec

SPEC = ModelSpec("net", TensorSpec("clip", (1, 3, 8, 12, 12), "NCTHW"), ("a", "b", "c"), frames=8)
RNG = np.random.default_rng(0)
CLIPS = [RNG.standard_normal((3, 8, 12, 12)).astype(np.float32) for _ in range(2)]
VIDEO = RNG.standard_normal((48, 3, 12, 12)).astype(np.float32)


class Net(nn.Module):
    """Two residual blocks of equal shape that look one frame to either side, then a mean over the clip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.a = nn.Conv3d(8, 8, 3, padding=1)
        self.b = nn.Conv3d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + torch.relu(self.a(x))
        x = x + torch.relu(self.norm(self.b(x)))
        return self.head(x.mean((2, 3, 4)))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    made = Net()
    made.norm.running_mean = torch.randn(8) * 0.2
    made.norm.running_var = torch.rand(8) + 0.5
    return made.eval()


@pytest.fixture
def model(net: Net) -> StreamModel:
    return convert(net, SPEC)


def test_an_honest_stream_passes_both(net: Net, model: StreamModel) -> None:
    assert verify(net, model, CLIPS) <= 1e-6
    assert against_chunk(model, steps(model), VIDEO) <= 1e-6


@pytest.mark.parametrize("every", [1, 2, 4])
def test_it_passes_for_every_step_length(net: Net, every: int) -> None:
    model = convert(net, SPEC, every=every)
    assert verify(net, model, CLIPS) <= 1e-6


def _aligned(change: Callable[[list[int]], list[int]]) -> Callable[..., Any]:
    """Stream.align with other delays: ``change`` maps the lags of the joined values."""
    honest = Stream.align

    def align(self: Stream, values: Any) -> Any:
        if len(values) < 2:
            return honest(self, values)
        clock = honest(self, values)[1]
        lags = change([clock.ready - v.clock.ready for v in values])
        return [self._at(v, clock, [lag]).each()[0] for v, lag in zip(values, lags)], clock

    return align


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("a residual that is not delayed", lambda lags: [0 for _ in lags]),
        ("a delay one frame too long", lambda lags: [lag + 1 if lag else 0 for lag in lags]),
        ("both branches swapped", lambda lags: lags[::-1]),
    ],
)
def test_a_wrong_delay_is_seen_and_its_operator_named(
    net: Net, monkeypatch: pytest.MonkeyPatch, fault: str, change: Callable[[list[int]], list[int]]
) -> None:
    monkeypatch.setattr(Stream, "align", _aligned(change))
    model = convert(net, SPEC)
    with pytest.raises(ParityError, match=r"First to differ: aten.add \(test_mutations.py:\d+\)"):
        verify(net, model, CLIPS)


def _respelt(model: StreamModel, states: tuple[StateSpec, ...]) -> StreamModel:
    model.stream = replace(model.stream, states=states)
    return model


def test_swapped_states_are_seen(net: Net, model: StreamModel) -> None:
    one, two = (s for s in model.stream.states if s.shape == (2, 8, 6, 6))
    swap = {one.name: two.output, two.name: one.output}
    states = tuple(replace(s, output=swap.get(s.name, s.output)) for s in model.stream.states)
    # the order of the outputs stays, only who is fed from which changes
    honest = steps(model)
    broken = _respelt(model, states)
    assert against_chunk(broken, honest, VIDEO) > 1e-3


def test_a_state_that_is_never_updated_is_seen(model: StreamModel, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = next(s.name for s in model.stream.states if s.shape == (2, 8, 6, 6))
    push = Memory.push
    monkeypatch.setattr(
        Memory, "push", lambda self, fresh: None if self.spec.name == victim else push(self, fresh)
    )
    assert against_chunk(model, steps(model), VIDEO) > 1e-3


def test_rows_in_the_wrong_order_are_seen(model: StreamModel, monkeypatch: pytest.MonkeyPatch) -> None:
    view = Memory.view
    monkeypatch.setattr(Memory, "view", lambda self: np.ascontiguousarray(view(self)[::-1]))
    assert against_chunk(model, steps(model), VIDEO) > 1e-3


def test_a_zero_state_check_would_have_missed_what_this_one_sees(net: Net, model: StreamModel) -> None:
    """With zeros in every state swapped states answer alike; so the comparison runs on rolled states."""
    names = [s.name for s in model.stream.states]
    swapped = [names.index(s.name) for s in model.stream.states if s.shape == (2, 8, 6, 6)]
    frame = torch.from_numpy(VIDEO[:1])
    zeros = [torch.zeros(s.shape) for s in model.stream.states]
    order = list(range(len(zeros)))
    order[swapped[0]], order[swapped[1]] = order[swapped[1]], order[swapped[0]]
    with torch.no_grad():
        assert torch.equal(model.step(frame, *zeros)[0], model.step(frame, *[zeros[i] for i in order])[0])
        rolled = [torch.randn(s.shape) for s in model.stream.states]
        a, b = model.step(frame, *rolled)[0], model.step(frame, *[rolled[i] for i in order])[0]
    assert not torch.allclose(a, b, atol=1e-3)


def test_a_weight_folded_wrongly_is_seen(net: Net, model: StreamModel) -> None:
    name = next(n for n, b in model.named_buffers() if n.startswith("folded") and b.shape[1:2] == (24,))
    with torch.no_grad():
        buffer = model.get_buffer(name)
        buffer[:, :8], buffer[:, -8:] = buffer[:, -8:].clone(), buffer[:, :8].clone()  # first and last tap
    assert against_clip(net, model, CLIPS) > 1e-3


def test_a_recurrent_state_that_starts_too_early_is_seen() -> None:
    class Late(nn.Module):
        """A convolution that needs three frames, then an LSTM."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 4, (3, 12, 12))
            self.lstm = nn.LSTM(4, 4, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).squeeze(4).squeeze(3).transpose(1, 2)
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    late = Late().eval()
    model = convert(late, SPEC)
    held = [s for s in model.stream.states if s.update == "replace"]
    assert [s.first for s in held] == [2, 2]
    assert verify(late, model, CLIPS) <= 1e-6
    assert against_chunk(model, steps(model), VIDEO) <= 1e-6
    early = tuple(replace(s, first=0) for s in model.stream.states)
    assert against_chunk(model, steps(_respelt(model, early)), VIDEO[:12]) > 1e-6


def test_a_stride_that_is_dropped_where_one_position_is_left_is_seen_on_a_long_video_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock is read by the plan, by the padding put back in and by one long step alike."""

    class Deep(nn.Module):
        """Four frames become two, become one; then a convolution looks at its neighbours."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv3d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv3d(4, 4, 3, 2, 1), nn.Conv3d(4, 4, 3, 1, 1)
            )
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).mean((2, 3, 4)))

    honest = times.clock_of

    def dropped(v: Any, offsets: Any, stride: int, first: int, n: int) -> Any:
        made = honest(v, offsets, stride, first, n)
        return replace(made, period=v.clock.period) if n == 1 else made

    torch.manual_seed(0)
    deep = Deep().eval()
    short = replace(SPEC, input=TensorSpec("clip", (1, 3, 4, 12, 12), "NCTHW"), frames=4)
    clips = [clip[:, :4] for clip in CLIPS]
    proof = prove(deep, convert(deep, short), clips)
    assert proof.video is not None and proof.video <= 1e-6
    monkeypatch.setattr(times, "clock_of", dropped)
    model = convert(deep, short)
    assert verify(deep, model, clips) <= 1e-6
    assert against_chunk(model, steps(model), VIDEO) <= 1e-6
    with pytest.raises(ParityError, match=r"untouched model on a video of \d+ frames by 0\.\d"):
        prove(deep, model, clips)
