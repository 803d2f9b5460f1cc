"""Training under rounding repairs what INT8 breaks, and leaves float weights of the same shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import TINY, Tiny

from edgepv.errors import UsageError
from edgepv.export.to_onnx import lower
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.model.weights import save
from edgepv.quantize import finetune, int8_onnx, qat
from edgepv.quantize.sensitivity import answers_of
from edgepv.quantize.step import Calibration, Training
from edgepv.stream import Tensors, by_file_names
from edgepv.types import Checkpoint, ModelSpec, Rewrite, TensorSpec

pytestmark = pytest.mark.slow


def _clips(count: int, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Noise with faint stripes that lie (label 0) or stand (label 1), each at its own phase; never blue."""
    rng = np.random.default_rng(seed)
    stripes = np.sin(np.arange(32, dtype=np.float32)[None] * 1.5 + rng.uniform(0, 6, (count, 1)))
    clips = [rng.standard_normal((4, 3, 32, 32)).astype(np.float32) for _ in range(count)]
    for i, clip in enumerate(clips):
        clip[:, :2] += 0.7 * (stripes[i][:, None] if i % 2 == 0 else stripes[i][None])
        clip[:, 2] = 0
    return clips, [i % 2 for i in range(count)]


TRAINING = _clips(64, 1)
STEP = qat.Step(epochs=8, learning_rate=3e-3)


@pytest.fixture(scope="module")
def teacher(tiny_clip: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The tiny Conv3d net, trained on the clips."""
    start = from_files(f"{TINY}:clip", tiny_clip.weights, read_spec(tiny_clip.spec), trust_pickle=False)
    out = tmp_path_factory.mktemp("teacher") / "t.safetensors"
    return finetune.Step(epochs=30, learning_rate=0.02)(start, out, Training(*TRAINING, start))


@pytest.fixture(scope="module")
def outlier(teacher: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The same answers, but each filter has a weight for blue 230 times its loudest other."""
    module = build(teacher)
    with torch.no_grad():
        module.conv.weight[:, 2] = 0
        module.conv.weight[:, 2, 1, 1, 1] = 230 * module.conv.weight.abs().amax((1, 2, 3, 4))
    out = tmp_path_factory.mktemp("outlier") / "o.safetensors"
    return replace(teacher, weights=str(out), sha256=save(module, out))


@pytest.fixture(scope="module")
def learned(outlier: Checkpoint, teacher: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    out = tmp_path_factory.mktemp("qat") / "q.safetensors"
    return STEP(outlier, out, Training(*TRAINING, teacher))


def _inputs(clips: list[np.ndarray]) -> list[Tensors]:
    return [{"frame": np.ascontiguousarray(c.transpose(1, 0, 2, 3)[None])} for c in clips]


def _int8_logits(checkpoint: Checkpoint, feeds: list[Tensors], folder: Path) -> np.ndarray:
    base = lower(build(checkpoint), checkpoint.spec, folder / "m.onnx")
    made = int8_onnx.Step()(base, folder / "q.onnx", Calibration(folder, _inputs(TRAINING[0]), "d"))
    return answers_of(folder / made.path, made, by_file_names(made, feeds))


def _float_logits(checkpoint: Checkpoint, feeds: list[Tensors]) -> np.ndarray:
    with torch.no_grad():
        rows = [build(checkpoint)(torch.from_numpy(f["frame"])).numpy() for f in feeds]
    return np.concatenate(rows)


def test_int8_of_the_trained_net_is_right_where_int8_of_the_original_is_not(
    outlier: Checkpoint, learned: Checkpoint, teacher: Checkpoint, tmp_path: Path
) -> None:
    clips, truth = _clips(64, 2)
    feeds = _inputs(clips)
    wanted = _float_logits(teacher, feeds)
    assert np.allclose(_float_logits(outlier, feeds), wanted, atol=1e-5)

    def score(checkpoint: Checkpoint) -> tuple[float, float]:
        got = _int8_logits(checkpoint, feeds, tmp_path)
        margin, given = wanted[:, 1] - wanted[:, 0], got[:, 1] - got[:, 0]
        return sqnr_db(margin, given), float((got.argmax(1) == truth).mean())

    (noise, right), (noise_after, right_after) = score(outlier), score(learned)
    assert right < 0.8 and right_after > 0.95
    assert noise_after > noise + 6


def test_what_is_saved_are_float_weights_of_the_same_names_and_shapes(
    outlier: Checkpoint, learned: Checkpoint
) -> None:
    was, now = build(outlier).state_dict(), build(learned).state_dict()
    assert {k: v.shape for k, v in was.items()} == {k: v.shape for k, v in now.items()}
    assert not torch.equal(was["conv.weight"], now["conv.weight"])
    assert len(now["conv.weight"][0].unique()) > 27
    assert [s.name for s in learned.steps] == ["finetune", "qat"]
    assert learned.steps[-1].options["epochs"] == STEP.epochs


def test_statistics_of_batch_norm_are_those_of_the_student(outlier: Checkpoint, learned: Checkpoint) -> None:
    was, now = build(outlier).norm, build(learned).norm
    assert torch.equal(was.running_mean, now.running_mean) and torch.equal(was.running_var, now.running_var)
    assert not torch.equal(was.weight, now.weight)


def test_training_repeats_and_leaves_teacher_and_student_alone(
    outlier: Checkpoint, teacher: Checkpoint, learned: Checkpoint, tmp_path: Path
) -> None:
    files = [Path(outlier.weights), Path(teacher.weights)]
    before = [f.read_bytes() for f in files]
    again = STEP(outlier, tmp_path / "again.safetensors", Training(*TRAINING, teacher))
    other = replace(STEP, seed=1)(outlier, tmp_path / "other.safetensors", Training(*TRAINING, teacher))
    assert again.sha256 == learned.sha256 != other.sha256
    assert [f.read_bytes() for f in files] == before


def test_under_rounding_a_layer_computes_what_integers_would() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(2, 3, 3, bias=False)
    x = torch.rand(1, 2, 5, 5) * 2.55 - 0.55
    x[0, 0, 0, 0], x[0, 0, 0, 1] = -0.55, 2.0  # 255 steps of 0.01
    step = layer.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    integers = (layer.weight.detach() / step).round()
    wanted = torch.nn.functional.conv2d((x / 0.01).round() * 0.01, integers * step)
    with qat.rounded([layer]), torch.no_grad():
        assert torch.allclose(layer(x), wanted, atol=1e-4)
    plain = torch.nn.functional.conv2d(x, layer.weight)
    assert torch.equal(layer(x), plain) and not torch.allclose(plain, wanted, atol=1e-4)
    assert list(layer.state_dict()) == ["weight"]


def test_an_error_while_training_leaves_no_rounding_behind() -> None:
    layer = torch.nn.Conv2d(2, 3, 3)
    with pytest.raises(RuntimeError, match="stop"), qat.rounded([layer]):
        raise RuntimeError("stop")
    assert type(layer) is torch.nn.Conv2d and not layer._forward_pre_hooks


def test_a_transposed_convolution_has_a_step_for_each_channel_it_makes() -> None:
    layer = torch.nn.ConvTranspose2d(2, 3, 2, bias=False)
    with torch.no_grad():
        layer.weight[:, 1] *= 100
        kept = layer.weight[:, 0].clone()
    with qat.rounded([layer]):
        assert torch.allclose(layer.weight[:, 0], kept, atol=float(kept.abs().max()) / 250)


def test_layers_of_one_value_per_channel_are_not_rounded() -> None:
    class Gated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate = torch.nn.Conv3d(3, 4, 3), torch.nn.Conv3d(4, 4, 1)
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            x = self.body(x)
            return self.head((x * self.gate(x.mean((2, 3, 4), keepdim=True))).mean((2, 3, 4)))

    model = Gated()
    spec = ModelSpec("gated", TensorSpec("clip", (1, 3, 4, 8, 8), "NCTHW"), ("a", "b"), frames=4)
    assert qat.picture_convolutions(model, spec, np.ones((4, 3, 8, 8), np.float32)) == [model.body]


def test_training_that_diverges_is_named(outlier: Checkpoint, teacher: Checkpoint, tmp_path: Path) -> None:
    clips = [np.full_like(c, np.inf) for c in TRAINING[0]]
    with pytest.raises(UsageError, match="not finite.*Lower the learning rate"):
        STEP(outlier, tmp_path / "x.safetensors", Training(clips, TRAINING[1], teacher))
    assert not (tmp_path / "x.safetensors").exists()


def test_what_cannot_be_trained_is_refused(teacher: Checkpoint, tiny_step: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    steps = from_files(tiny_step.model, tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)
    with pytest.raises(UsageError, match="no forward over clips"):
        STEP(steps, out, Training(*TRAINING, steps))
    laid_out = replace(teacher, rewrite=Rewrite("stream", teacher.spec.input))
    with pytest.raises(UsageError, match="already made to step"):
        STEP(laid_out, out, Training(*TRAINING, teacher))
    with pytest.raises(UsageError, match="needs labelled clips"):
        STEP(teacher, out, Training(teacher=teacher))


def test_probabilities_are_trained_as_the_logits_they_came_from() -> None:
    logits, teacher = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 0.0]])
    spec = ModelSpec("net", TensorSpec("clip", (1, 3, 1, 4, 4), "NCTHW"), ("a", "b"), scores="probabilities")
    mine, theirs = (finetune.as_logits(x.softmax(1), spec) for x in (logits, teacher))
    truth = torch.tensor([1])
    assert torch.allclose(finetune.distilled(mine, theirs, truth), finetune.distilled(logits, teacher, truth))
