"""Against the one library that streams Conv3d too, by replacing modules: pip install continual-inference."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
co = pytest.importorskip("continual")
from torch import Tensor, nn  # noqa: E402

from edgepv.stream import Stepper, convert  # noqa: E402
from edgepv.stream.verify import steps  # noqa: E402
from edgepv.types import ModelSpec, TensorSpec  # noqa: E402

FRAMES, SIZE = 8, 16


class Net(nn.Module):
    """Two temporal convolutions, the second inside a residual or not, and a mean over the clip."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.a, self.b = nn.Conv3d(3, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm3d(8), nn.Linear(8, 4)
        self.norm.running_mean = torch.rand(8) - 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        y = torch.relu(self.b(x))
        return self.head((x + y if self.residual else y).mean((2, 3, 4)))


def theirs(net: Net) -> Any:
    """The same layers as that library's, which turns a net's own layers into its kind."""
    inner = co.Sequential(co.Conv3d.build_from(net.b), co.forward_stepping(nn.ReLU()))
    return co.Sequential(
        co.Conv3d.build_from(net.a),
        co.forward_stepping(net.norm),
        co.forward_stepping(nn.ReLU()),
        co.Residual(inner) if net.residual else inner,
        co.AvgPool3d((FRAMES, SIZE, SIZE), stride=(1, 1, 1)),
        co.Lambda(lambda x: net.head(x.flatten(1))),
    ).eval()


@pytest.mark.parametrize("residual", [False, True])
def test_over_300_frames_both_answer_alike(residual: bool) -> None:
    torch.manual_seed(0)
    net = Net(residual).eval()
    clip = TensorSpec("clip", (1, 3, FRAMES, SIZE, SIZE), "NCTHW")
    model = convert(deepcopy(net), ModelSpec("net", clip, tuple("abcd"), frames=FRAMES))
    stepper, other, compared = Stepper(steps(model), model.spec, model.stream), theirs(net), 0
    assert other.receptive_field == model.stream.receptive_field == 2 + FRAMES + 2
    for frame in np.random.default_rng(0).standard_normal((320, 1, 3, SIZE, SIZE)).astype(np.float32):
        ours = stepper.step(frame)["logits"]
        with torch.no_grad():
            answer = other.forward_step(torch.from_numpy(frame))
        if stepper.valid:
            assert np.abs(ours - answer.numpy()).max() <= 1e-5
            compared += 1
    assert compared >= 300
