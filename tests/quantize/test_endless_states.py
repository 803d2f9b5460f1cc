"""States that grow for ever and whole numbers: every engine counts on, and a sum never runs into a range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import in_this_process
from torch import Tensor, nn

from edgepv.base import isolated
from edgepv.data.calibration import grown, to_and_fro
from edgepv.export.islands import optimised
from edgepv.export.parity import saturation
from edgepv.export.to_onnx import lower
from edgepv.export.to_tflite import to_tflite
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build, from_files
from edgepv.quantize import int8_litert, int8_onnx
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import Stepper, Tensors, by_file_names, copied, roll
from edgepv.types import Checkpoint, ModelSpec, TensorSpec, Variant

pytestmark = pytest.mark.slow

SPEC = ModelSpec("mean", TensorSpec("frame", (1, 3, 16, 16)), ("a", "b"), frames=4)
LONG = 1500


class Mean(nn.Module):
    """The mean over all frames so far of what two convolutions see: a sum of pictures, and how many."""

    warmup = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 2)

    def init_state(self) -> dict[str, Tensor]:
        zeros = torch.zeros(1, 8, 8, 8)
        return {"sum": zeros, "slow": zeros, "count": torch.zeros(1, 1, dtype=torch.int64)}

    def step(self, frame: Tensor, total: Tensor, slow: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        seen = torch.relu(self.one(frame))
        total, count, slow = total + seen, count + 1, 0.98 * slow + 0.02 * seen
        mean = self.two(total / count.reshape(1, 1, 1, 1))
        return self.head(mean.mean((2, 3))), total, slow, count


def mean() -> Mean:
    return Mean()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Variant, Path]:
    folder = tmp_path_factory.mktemp("mean")
    save_file(mean().state_dict(), folder / "w.safetensors")
    source = from_files(f"{__file__}:mean", folder / "w.safetensors", SPEC, trust_pickle=False)
    return source, lower(build(source), SPEC, folder / "model.onnx"), folder


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    rng = np.random.default_rng(0)
    return 0.3 + rng.standard_normal((12, 3, 16, 16)).astype(np.float32)


def _feeds(made: tuple[Checkpoint, Variant, Path], clip: np.ndarray) -> list[Tensors]:
    _, base, folder = made
    stepper = Stepper(open_engine(base, folder).infer, SPEC, base.stream)
    return [copied(feeds) for feeds, _ in roll(stepper, clip) if feeds][2:]


def _answers(infer: object, base: Variant, clip: np.ndarray) -> np.ndarray:
    stepper = Stepper(infer, SPEC, base.stream)  # type: ignore[arg-type]
    return np.concatenate([out["logits"] for _, out in roll(stepper, to_and_fro(clip, LONG))])[-100:]


def test_a_sum_and_a_count_grow_and_a_slow_mean_does_not(
    made: tuple[Checkpoint, Variant, Path], clip: np.ndarray
) -> None:
    _, base, folder = made
    stepper = Stepper(open_engine(base, folder).infer, SPEC, base.stream)
    assert grown(stepper, clip, ["sum", "slow", "count"]) == ("sum", "count")
    assert grown(stepper, clip, []) == ()


def test_int8_onnx_counts_on_where_its_clips_ended(
    made: tuple[Checkpoint, Variant, Path], clip: np.ndarray
) -> None:
    source, base, folder = made
    wanted = _answers(EagerEngine(build(source), SPEC, base.stream).infer, base, clip)
    feeds = _feeds(made, clip)
    int8 = int8_onnx.Step()(base, folder / "int8.onnx", Calibration(folder, feeds, ""))
    assert sqnr_db(wanted, _answers(open_engine(int8, folder).infer, base, clip)) > 25
    assert saturation(folder / "int8.onnx", by_file_names(int8, feeds)) is not None
    assert optimised(folder / "int8.onnx", folder, timed=True)[1]


def test_int8_litert_counts_on_where_its_clips_ended(
    made: tuple[Checkpoint, Variant, Path], clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("litert_torch")
    monkeypatch.setattr(isolated, "call", in_this_process)
    source, base, folder = made
    wanted = _answers(EagerEngine(build(source), SPEC, base.stream).infer, base, clip)
    real, feeds = to_tflite(source, base, folder / "model.tflite"), _feeds(made, clip)
    assert sqnr_db(wanted, _answers(open_engine(real, folder).infer, base, clip)) > 80
    reached = []
    for names in ((), ("sum", "count")):
        step = int8_litert.Step("full", grown=names)
        int8 = step(real, folder / f"int8{len(names)}.tflite", Calibration(folder, feeds, ""))
        reached.append(sqnr_db(wanted, _answers(open_engine(int8, folder).infer, base, clip)))
        assert saturation(folder / int8.path, by_file_names(int8, feeds)) is not None
    assert reached[0] < 10 and reached[1] > 25  # a range that clips set ends the sum after a few more frames
