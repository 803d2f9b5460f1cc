"""2:4 is judged along input channels, the axis that TensorRT reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgepv.base.files import sha256
from edgepv.model.checkpoint import build
from edgepv.quantize.sparsity import LayerSparsity, check
from edgepv.stream import convert
from edgepv.types import Checkpoint, ModelSpec, Rewrite, TensorSpec

SPEC = ModelSpec("net", TensorSpec("clip", (1, 3, 4, 8, 8), "NCTHW"), ("a", "b"), frames=4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, 1, 1)
        self.body = nn.Conv3d(8, 8, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm3d(8)
        self.pairs = nn.Conv3d(8, 8, 1, groups=2)
        self.depth = nn.Conv3d(8, 8, 1, groups=8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.body(torch.relu(self.stem(x))))
        return self.head(self.depth(self.pairs(x)).mean((2, 3, 4)))


def net() -> Net:
    return Net()


@pytest.fixture
def checked(tmp_path: Path) -> Callable[[Net], dict[str, LayerSparsity]]:
    def run(made: Net) -> dict[str, LayerSparsity]:
        return {row.layer: row for row in check(saved(made, tmp_path))}

    return run


def saved(made: Net, folder: Path) -> Checkpoint:
    path = folder / "w.safetensors"
    save_file(made.state_dict(), path)
    return Checkpoint(str(path), sha256(path), f"{__file__}:net", SPEC)


Check = Callable[[Net], dict[str, LayerSparsity]]


def test_groups_are_four_input_channels_at_one_place_of_the_kernel(checked: Check) -> None:
    made = net()
    made.body.weight.data[:] = 0
    made.body.weight.data[5, 4:6] = 1.0  # two of channels 4 to 7, everywhere in the kernel
    assert checked(made)["body"] == LayerSparsity("body", 8 * 8 * 27, 8 * 2 * 27, 0, 1.0)
    made.body.weight.data[5, 6, 1, 1, 1] = 0.5  # a third, at one place: 54 ones and a quarter
    row = checked(made)["body"]
    assert (row.broken, row.sparse) == (1, False)
    assert row.kept == pytest.approx(54 / 54.25)


def test_zeros_in_fours_along_the_kernel_are_not_the_pattern(checked: Check) -> None:
    made = net()
    made.body.weight.data[:] = 1.0
    made.body.weight.data.reshape(64, 27)[:, ::2] = 0  # half of each kernel, the same half in each channel
    assert checked(made)["body"].broken == 8 * 2 * 13


def test_a_pattern_across_two_groups_of_four_does_not_count(checked: Check) -> None:
    made = net()
    made.head.weight.data[:] = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0.0])
    row = checked(made)["head"]
    assert (row.groups, row.broken, row.kept) == (4, 2, 0.75)


@pytest.mark.parametrize(
    ("layer", "groups"),
    [
        pytest.param("stem", 0, id="three input channels are no multiple of four"),
        pytest.param("depth", 0, id="a depthwise layer has one input channel per group"),
        pytest.param("pairs", 8, id="a grouped layer is read group by group"),
    ],
)
def test_a_layer_is_eligible_by_its_input_channels(checked: Check, layer: str, groups: int) -> None:
    row = checked(net())[layer]
    assert row.groups == groups and row.sparse is False and (row.kept is None) == (groups == 0)


def test_random_weights_keep_what_the_two_larger_of_four_hold(checked: Check) -> None:
    made = net()
    nn.init.normal_(made.body.weight, generator=torch.Generator().manual_seed(0))
    row = checked(made)["body"]
    fours = np.abs(np.random.default_rng(1).standard_normal((200_000, 4)))
    wanted = (np.sort(fours**2, 1)[:, 2:].sum() / (fours**2).sum()).item()
    assert row.broken == row.groups and row.kept == pytest.approx(wanted, abs=0.02)


def test_the_pattern_is_still_there_in_the_streamed_net(tmp_path: Path) -> None:
    made = net().eval()
    nn.init.uniform_(made.norm.weight, 0.5, 2.0)
    made.body.weight.data[:, 1::2] = 0
    source = saved(made, tmp_path)
    tensors = convert(build(source), SPEC).state_dict().values()
    (folded,) = (t for t in tensors if tuple(t.shape) == (8, 24, 3, 3))  # three frames of eight channels
    assert int((folded.movedim(1, -1).reshape(-1, 4) != 0).sum(1).max()) == 2
    streamed = replace(source, rewrite=Rewrite("stream", SPEC.input))
    assert check(streamed) == check(source)
