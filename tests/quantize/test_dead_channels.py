"""A layer that died in training is named before eight bits are set on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepv.errors import UsageError
from edgepv.export.to_onnx import lower
from edgepv.quantize.dead_channels import DeadChannels, dead_channels, refuse_dead_layers
from edgepv.stream import Tensors
from edgepv.types import ModelSpec, TensorSpec, Variant

pytestmark = pytest.mark.slow

SPEC = ModelSpec("net", TensorSpec("frame", (1, 3, 16, 16)), ("a", "b"))


class Net(nn.Module):
    """Convolution, norm and ReLU; a residual around a second; a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head((x + torch.relu(self.second(x))).mean((2, 3)))


def shift(layer: nn.Conv2d, bias: float) -> None:
    assert layer.bias is not None
    layer.bias.data[:] = bias


Lowered = Callable[[Net], tuple[Variant, Path]]


@pytest.fixture
def lowered(tmp_path: Path) -> Lowered:
    return lambda net: (lower(net.eval(), SPEC, tmp_path / "m.onnx"), tmp_path)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def noise(count: int = 4) -> list[Tensors]:
    rng = np.random.default_rng(0)
    return [{"frame": rng.standard_normal((1, 3, 16, 16), dtype=np.float32)} for _ in range(count)]


def test_a_healthy_net_is_not_mentioned(net: Net, lowered: Lowered) -> None:
    assert dead_channels(*lowered(net), noise()) == refuse_dead_layers(*lowered(net), noise()) == ()


def test_channels_that_a_relu_never_lets_through_are_counted(net: Net, lowered: Lowered) -> None:
    net.norm.bias.data[:3] = -50.0
    (row,) = refuse_dead_layers(*lowered(net), noise())
    assert (row.constant, row.channels, row.dead) == (3, 8, False)


def test_channels_whose_weights_are_zero_answer_their_bias_alone(net: Net, lowered: Lowered) -> None:
    shift(net.second, 0.7)
    net.second.weight.data[2] = 0.0
    (row,) = dead_channels(*lowered(net), noise())
    assert (row.constant, row.channels) == (1, 8)


def test_a_layer_that_never_fires_is_refused_by_name(net: Net, lowered: Lowered) -> None:
    shift(net.second, -50.0)
    base, folder = lowered(net)
    (row,) = dead_channels(base, folder, noise())
    assert row == DeadChannels(row.layer, 8, 8, False)
    with pytest.raises(UsageError, match=f"layer '{row.layer}' gives the same numbers.*--precision fp32"):
        refuse_dead_layers(base, folder, noise())


def test_a_channel_that_one_input_wakes_is_alive(net: Net, lowered: Lowered) -> None:
    net.second.weight.data[:] = 0.0
    net.second.weight.data[0, :, 1, 1] = 1.0
    shift(net.second, -30.0)  # noise of size 1 does not reach it, of size 1000 does
    base, folder = lowered(net)
    loud = {"frame": noise(1)[0]["frame"] * 1000}
    assert dead_channels(base, folder, noise())[0].constant == 8
    assert dead_channels(base, folder, [*noise(), loud])[0].constant == 7


def test_a_layer_behind_a_dead_one_is_named_too(net: Net, lowered: Lowered) -> None:
    net.norm.weight.data[:] = 0.0
    net.norm.bias.data[:] = -1.0
    rows = dead_channels(*lowered(net), noise())
    assert [row.dead for row in rows] == [True, True, True]  # nothing reaches second and head
    assert [row.vector for row in rows] == [False, False, True]


class Gated(Net):
    """A convolution behind which a gate of one value per channel stands open for good."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(8, 8, 1)
        shift(self.gate, 50.0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        gate = nn.functional.hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head((x * gate).mean((2, 3)))


def test_a_gate_that_always_stands_open_is_told_and_not_refused(lowered: Lowered) -> None:
    (row,) = refuse_dead_layers(*lowered(Gated()), noise())
    assert row.dead and row.vector


def test_one_value_alone_says_nothing(lowered: Lowered) -> None:
    assert dead_channels(*lowered(Gated()), noise(1)) == ()


@pytest.mark.slow
def test_a_shipped_model_runs_as_a_stream_and_has_no_dead_layer(tmp_path: Path) -> None:
    from edgepv.measure.latency import noise_feeds
    from edgepv.model.checkpoint import build
    from edgepv.runtimes.engine import open_engine
    from edgepv.zoo import checkpoint

    source = checkpoint("pv-conv-nano")
    base = lower(build(source), source.spec, tmp_path / "m.onnx")
    feeds = [noise_feeds(open_engine(base, tmp_path).infer, base)]
    assert not any(row.dead for row in refuse_dead_layers(base, tmp_path, feeds))
