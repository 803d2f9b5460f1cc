"""The channels that matter are found by cutting each group alone; lost top-1 comes with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import prunable
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from support import Tiny
from torch import Tensor, nn

from edgepv.base.files import sha256
from edgepv.cli import show
from edgepv.errors import UsageError
from edgepv.model.checkpoint import from_files
from edgepv.model.spec import read_spec
from edgepv.quantize.sensitivity import per_group, per_layer
from edgepv.types import Checkpoint, LayerSensitivity, ModelSpec, TensorSpec, Variant, decode, encode

SPEC = ModelSpec("net", TensorSpec("clip", (1, 3, 4, 8, 8), "NCTHW"), ("dark", "bright"), frames=4)


class Net(nn.Module):
    """The answer is the mean of the frame; ``spare`` runs beside it and is not listened to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 1)
        self.body = nn.Conv3d(8, 8, 1)
        self.side = nn.Conv3d(3, 8, 1)
        self.spare = nn.Conv3d(3, 4, 1)
        self.read = nn.Conv3d(4, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x)) + self.side(x) + self.read(self.spare(x))
        return self.head(y.mean((2, 3, 4)))


def net() -> Net:
    return Net()


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    """Brightness goes through the two weakest of the stem's channels, which are the first to be cut."""
    made = net()
    with torch.no_grad():
        for value in made.parameters():
            value.zero_()
        made.stem.weight[:] = torch.arange(8.0).reshape(8, 1, 1, 1, 1) + 1
        made.body.weight[0, :2] = 1.0
        made.body.weight[1, 2:] = 10.0  # loud, and the head looks elsewhere
        made.spare.weight[:] = 1.0
        made.head.weight[:, 0] = torch.tensor([-1.0, 1.0])
        made.head.bias[0] = 0.01  # what shows nothing is dark
    path = tmp_path / "w.safetensors"
    save_file(made.state_dict(), path)
    return Checkpoint(str(path), sha256(path), f"{__file__}:net", SPEC)


def clips() -> tuple[list[np.ndarray], list[int]]:
    """20 clips of noise, every other one bright."""
    rng = np.random.default_rng(0)
    made = [rng.standard_normal((6, 3, 8, 8)).astype(np.float32) + (2 * (i % 2) - 1) for i in range(20)]
    return made, [i % 2 for i in range(20)]


def test_the_group_the_answer_hangs_on_costs_all_bright_clips(source: Checkpoint) -> None:
    found = {row.layer: row for row in per_group(source, *clips(), ratio=0.25)}
    assert set(found) == {"stem", "body + side + read", "spare"}
    assert found["spare"].sqnr_db == 200 and found["spare"].changed == 0
    stem = found["stem"]
    assert (stem.change, stem.n, stem.changed) == ("cut by 25%", 20, 0.5)
    assert stem.drop and stem.drop.points == 50.0 and (stem.drop.lost, stem.drop.won) == (10, 0)
    assert 0 < stem.drop.low < 50 < stem.drop.high


def test_the_most_sensitive_group_comes_first_and_each_is_cut_alone(source: Checkpoint) -> None:
    rows = per_group(source, clips()[0], ratio=0.25)
    assert rows[0].layer == "stem" and [r.sqnr_db for r in rows] == sorted(r.sqnr_db for r in rows)
    assert all(row.drop is None for row in rows)
    assert per_group(source, clips()[0], ratio=0.25) == rows


@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0])
def test_a_share_outside_its_range_is_refused(source: Checkpoint, ratio: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        per_group(source, clips()[0], ratio=ratio)


def test_a_model_without_a_clip_form_is_named(tiny_step: Tiny) -> None:
    step = from_files(tiny_step.model, tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)
    with pytest.raises(UsageError, match="tiny-step cannot be cut group by group"):
        per_group(step, clips()[0])


@pytest.fixture(scope="module")
def threshold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, Path]:
    """One 1x1 convolution; its two outputs are the logits."""
    folder = tmp_path_factory.mktemp("threshold")
    weight = np.array([[1, 0, 0], [0, 1, 0]], np.float32).reshape(2, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["frame", "w"], ["a"], "only"),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
        helper.make_node("Flatten", ["b"], ["logits"], "flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, folder / "m.onnx")
    spec = ModelSpec("threshold", TensorSpec("frame", (1, 3, 4, 4)), ("a", "b"))
    names = {"frame": "frame"}, {"logits": "logits"}
    return Variant("onnx-fp32", "onnxruntime", "fp32", "window", "m.onnx", "", spec, None, *names), folder


def flat_frame(*channels: float) -> dict[str, np.ndarray]:
    return {"frame": np.broadcast_to(np.array(channels, np.float32).reshape(1, 3, 1, 1), (1, 3, 4, 4)).copy()}


def test_answers_that_int8_rounds_away_are_counted_against_their_labels(
    threshold: tuple[Variant, Path],
) -> None:
    """Steps are 255 / 255 = 1: 10.2 and 10.4 are one code, and a tie is answered with the first label."""
    feeds = [flat_frame(0, 0, 0), flat_frame(255, 255, 255)]
    pairs = [(10.2, 10.4), (10.4, 10.2), (20, 90), (90, 20)]
    probes = [flat_frame(*pair, 0) for pair in pairs]
    (row,) = per_layer(*threshold, feeds, probes, truth=[1, 0, 1, 1])
    assert row.drop and row.change == "in INT8"
    assert (row.drop.lost, row.drop.won, row.drop.n, row.drop.points) == (1, 0, 4, 25.0)
    assert per_layer(*threshold, feeds, probes)[0].drop is None


def test_rows_are_printed_with_and_without_labels(
    source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = per_group(source, *clips(), ratio=0.25)
    show.sensitivity(rows)
    said = capsys.readouterr().out
    assert "layer alone cut by 25%" in said and "+50.0 points (+" in said
    show.sensitivity([LayerSensitivity("conv", 30.0, 0.0, 8)])
    assert "not measured" in capsys.readouterr().out
    show.sensitivity_picture("net", rows, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"


def test_rows_come_back_from_the_cache_as_they_were(source: Checkpoint) -> None:
    rows = per_group(source, *clips(), ratio=0.25)
    assert tuple(decode(LayerSensitivity, encode(row)) for row in rows) == rows
    assert decode(LayerSensitivity, {"layer": "a", "sqnr_db": 1.0, "changed": 0.0, "n": 1}).drop is None


def test_progress_names_each_group(source: Checkpoint) -> None:
    seen: list[str] = []

    def track(names: Sequence[str], what: str) -> Iterable[str]:
        seen.extend(names)
        return names

    rows = per_group(source, clips()[0], ratio=0.25, track=track)
    assert set(seen) == {row.layer for row in rows}


def test_a_temporal_shift_by_channel_number_has_no_groups_to_cut(tmp_path: Path) -> None:
    """Without the first channels another quarter would be shifted, and the loss be that of another net."""
    torch.manual_seed(0)
    save_file(prunable.shift().state_dict(), tmp_path / "w.safetensors")
    source = from_files(f"{prunable.__file__}:shift", tmp_path / "w.safetensors", SPEC, trust_pickle=False)
    with pytest.raises(UsageError, match=r"cutting channels changed what the others compute.*temporal shift"):
        per_group(source, [np.ones((4, 3, 8, 8), np.float32)])
