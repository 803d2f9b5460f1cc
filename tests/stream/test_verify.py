"""Each fault is planted alone, and it is known beforehand which of the two comparisons must see it.

``against_clip`` trusts nothing of the plan. ``against_chunk`` compares a stream with the same plan in one
step: it sees what carries states wrongly, and cannot see a plan that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

from edgepv.errors import ParityError  # noqa: E402
from edgepv.stream import Memory, StreamModel, convert  # noqa: E402
from edgepv.stream import verify as judge  # noqa: E402
from edgepv.stream.times import Stream, Taps  # noqa: E402
from edgepv.stream.values import Clock, TimedTensor  # noqa: E402
from edgepv.stream.verify import against_chunk, against_clip, steps, verify  # noqa: E402
from edgepv.types import ModelSpec, StateSpec, TensorSpec  # noqa: E402

pytestmark = pytest.mark.slow

FRAMES, SIZE = 6, 8
SPEC = ModelSpec(
    "net", TensorSpec("clip", (1, 3, FRAMES, SIZE, SIZE), "NCTHW"), ("a", "b", "c"), frames=FRAMES
)
CLOSE, FAR = 1e-5, 1e-3


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


CLIPS, VIDEO = [noise(3, FRAMES, SIZE, SIZE)], noise(40, 3, SIZE, SIZE)


class Net(nn.Module):
    """A residual around a temporal convolution, a recurrence, and a mean over the clip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 3, 3, padding=1), nn.BatchNorm3d(3)
        self.twin = nn.Conv3d(3, 3, 3, padding=1)
        self.gru, self.head = nn.GRU(3, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = x + torch.relu(self.norm(self.conv(x)))
        y = torch.relu(self.twin(y))
        z, _ = self.gru(y.mean((3, 4)).transpose(1, 2))
        return self.head(z.mean(1) + y.amax((2, 3, 4)))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    made = Net()
    for weight in made.parameters():
        weight.data *= 2
    nn.init.uniform_(made.norm.weight, 0.5, 1.5)
    return made.eval()


def lags(change: Callable[[int], int]) -> Callable[[Any], None]:
    """Values that are joined wait another number of frames for each other."""
    honest = Stream.align

    def align(self: Stream, values: Sequence[TimedTensor]) -> tuple[list[Tensor], Clock]:
        rows, clock = honest(self, values)
        if len(values) == 1 or len({v.clock.ready for v in values}) == 1:
            return rows, clock
        return [self._at(v, clock, [change(clock.ready - v.clock.ready)]).each()[0] for v in values], clock

    return lambda patch: patch.setattr(Stream, "align", align)


def late_window(patch: Any) -> None:
    """The mean over the clip is taken one frame too early."""
    honest = Stream._at

    def at(self: Stream, v: TimedTensor, clock: Clock, lags: Sequence[int], fill: float = 0.0) -> Taps:
        late = 1 if len(lags) == FRAMES else 0
        return honest(self, v, clock, [lag + late for lag in lags], fill)

    patch.setattr(Stream, "_at", at)


def frozen(shape: tuple[int, ...]) -> Callable[[Any], None]:
    """States of this shape are never updated."""
    push = Memory.push

    def kept(self: Memory, fresh: np.ndarray) -> None:
        if self.spec.shape != shape:
            push(self, fresh)

    return lambda patch: patch.setattr(Memory, "push", kept)


def a_step_late(patch: Any) -> None:
    """The host feeds every state one step too late."""
    push = Memory.push
    waiting: dict[Memory, np.ndarray] = {}

    def delayed(self: Memory, fresh: np.ndarray) -> None:
        push(self, waiting.get(self, fresh))
        waiting[self] = fresh.copy()

    patch.setattr(Memory, "push", delayed)


def nothing(patch: Any) -> None:
    pass


def honest(model: StreamModel) -> None:
    pass


def respelt(model: StreamModel, change: Callable[[StateSpec], StateSpec]) -> None:
    model.stream = replace(model.stream, states=tuple(change(s) for s in model.stream.states))


def fold_off(model: StreamModel) -> None:
    """One number of a folded batch norm."""
    name = next(n for n, b in model.named_buffers() if n.startswith("folded") and b.shape == (3,))
    model.get_buffer(name)[0] += 0.5


def taps_swapped(model: StreamModel) -> None:
    """Frames of a folded temporal kernel in the wrong order."""
    name = next(n for n, b in model.named_buffers() if n.startswith("folded") and b.shape == (3, 9, 3, 3))
    model.get_buffer(name).copy_(model.get_buffer(name).roll(3, 1))


def exchanged(model: StreamModel) -> None:
    """Two states of the same shape are fed from each other's output."""
    one, two = (s for s in model.stream.states if s.shape == (2, 3, SIZE, SIZE))
    outputs = {one.name: two.output, two.name: one.output}
    order = model.outputs
    respelt(model, lambda s: replace(s, output=outputs.get(s.name, s.output)))
    assert sorted(model.outputs) == sorted(order)


@dataclass(frozen=True)
class Fault:
    """plant: before converting; break_: the converted model. clip, chunk: who must see it.
    names: the operator that the verdict names."""

    name: str
    clip: bool
    chunk: bool
    names: str = ""
    plant: Callable[[Any], None] = nothing
    break_: Callable[[StreamModel], None] = honest


NORM = "aten._native_batch_norm_legit_no_training"  # the convolution before it is folded with it
FAULTS = (
    Fault("no fault", False, False),
    Fault("a delay one frame too long", True, False, "aten.add", lags(lambda lag: lag + 1 if lag else 0)),
    Fault("a residual that does not wait", True, False, "aten.add", lags(lambda lag: 0)),
    Fault("a mean over other frames", True, False, "aten.mean", late_window),
    Fault("a batch norm folded wrongly", True, False, NORM, break_=fold_off),
    Fault("frames of a kernel exchanged", True, False, NORM, break_=taps_swapped),
    Fault("a convolution's state never updated", True, True, NORM, frozen((2, 3, SIZE, SIZE))),
    Fault("a hidden state never updated", True, True, "aten.gru", frozen((1, 3))),
    Fault("all states a step late", True, True, NORM, a_step_late),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_seen_and_its_operator_named(
    net: Net, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault.plant(monkeypatch)
    model = convert(net, SPEC)
    fault.break_(model)
    clip, chunk = against_clip(net, model, CLIPS), against_chunk(model, steps(model), VIDEO)
    assert clip > FAR if fault.clip else clip <= CLOSE
    assert chunk > FAR if fault.chunk else chunk <= CLOSE
    if not fault.clip:
        assert verify(net, model, CLIPS) == clip
        return
    place = rf"First to differ: {fault.names} \(test_verify.py:\d+\) differs by"
    with pytest.raises(ParityError, match=place):
        verify(net, model, CLIPS)


def test_exchanged_states_of_one_shape_are_seen_by_both(net: Net) -> None:
    """Shapes and names fit, and with zeros in all states the answers are the same."""
    model = convert(net, SPEC)
    engine = steps(model)
    exchanged(model)
    assert against_chunk(model, engine, VIDEO) > FAR
    assert against_clip(net, model, CLIPS) > FAR


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_clip_begins_when_all_states_are_full_of_something_else(
    net: Net, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So padding that a stream does not put back, or a recurrence that goes on, cannot pass for zeros."""
    model, step = convert(net, SPEC, every=every), judge._masked_step
    seen: list[float] = []

    def watched(model: StreamModel, feeds: Any, now: int, keep: Any) -> Any:
        if now <= 0 < now + every:
            seen.extend(float(np.abs(row).max()) for s in model.stream.states for row in feeds[s.name])
        return step(model, feeds, now, keep)

    monkeypatch.setattr(judge, "_masked_step", watched)
    assert against_clip(net, model, CLIPS) <= CLOSE
    assert len(seen) == sum(s.shape[0] for s in model.stream.states) and min(seen) > 0


def test_padding_that_is_not_put_back_is_seen(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge.Masked, "_shown", lambda self, v, taps, lags, fill: taps)
    assert against_clip(net, convert(net, SPEC), CLIPS) > FAR


def test_a_recurrence_that_goes_on_is_seen(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge.Masked, "resumed", lambda self, held, row, clock: held)
    assert against_clip(net, convert(net, SPEC), CLIPS) > FAR


def test_an_answer_that_is_no_number_is_not_within_the_tolerance(net: Net) -> None:
    model = convert(net, SPEC)
    model.get_buffer(next(n for n, b in model.named_buffers() if b.shape == (3, 9, 3, 3)))[0] = np.nan
    assert np.isnan(against_clip(net, model, CLIPS))
    with pytest.raises(
        ParityError, match=r"differs from the clip model by nan.*First to differ: aten\._native_batch"
    ):
        verify(net, model, CLIPS)
    good, bad = convert(net, SPEC), steps(model)
    assert np.isnan(against_chunk(good, bad, VIDEO))


def test_an_approximate_stream_is_measured_not_refused() -> None:
    class Gated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.sigmoid(4 * x.mean((2, 3, 4), keepdim=True))).mean((2, 3, 4))

    model = convert(Gated().eval(), SPEC)
    bright = [CLIPS[0] + np.linspace(0, 2, FRAMES, dtype=np.float32)[:, None, None]]
    assert model.stream.exactness == "approximate"
    assert 0.01 < verify(Gated().eval(), model, bright) < 1
