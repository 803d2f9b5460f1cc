"""A float .tflite takes the equalised weights of the ONNX file of the same model, and answers as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import Tiny

from edgepv.errors import ParityError, UsageError
from edgepv.export.to_onnx import lower
from edgepv.export.to_tflite import to_tflite
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.quantize import equalise, equalise_litert, int8_litert
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.stream import Stepper, copied, roll
from edgepv.types import Variant

pytestmark = pytest.mark.slow

LOUDNESS = 2.0 ** -np.arange(8)
FRAMES = np.broadcast_to(np.random.default_rng(0).random((40, 3, 1, 1)), (40, 3, 32, 32)).astype(np.float32)
"""Of one colour each, so that no mean over places takes the rounding out."""


class Unequal:
    """The tiny step with channels from loud to 1/128 of it, for which their reader makes up."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        weights = load_file(tiny.weights)
        for name in ("stem.weight", "stem.bias"):
            weights[name] *= LOUDNESS.reshape(-1, *(1,) * (weights[name].ndim - 1)).astype(np.float32)
        weights["mix.weight"] /= LOUDNESS.reshape(-1, 1, 1, 1).astype(np.float32)
        save_file(weights, folder / "unequal.safetensors")
        source = from_files(
            tiny.model, folder / "unequal.safetensors", read_spec(tiny.spec), trust_pickle=False
        )
        self.folder = folder
        self.onnx = lower(build(source), source.spec, folder / "model.onnx")
        self.float = to_tflite(source, self.onnx, folder / "model.tflite")
        stepper = self.stepper(self.onnx)
        feeds = []
        for met, _ in roll(stepper, FRAMES[:20]):
            assert met is not None
            feeds.append(copied(met))
        self.aid = Calibration(folder, feeds[1:], "digest")
        self.even = equalise.Step()(self.onnx, folder / "even.onnx", self.aid)

    def stepper(self, variant: Variant) -> Stepper:
        return Stepper(open_engine(variant, self.folder).infer, variant.spec, variant.stream)

    def logits(self, variant: Variant) -> np.ndarray:
        stepper = self.stepper(variant)
        return np.concatenate([stepper.step(frame[None])["logits"] for frame in FRAMES])

    def equalised(self, even: Variant, out: str = "even.tflite") -> Variant:
        step = equalise_litert.Step(self.onnx.path, even.path, even.sha256)
        return step(replace(self.float, state_scales=even.state_scales), self.folder / out, self.aid)


@pytest.fixture(scope="module")
def unequal(tiny_step: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Unequal:
    return Unequal(tiny_step, tmp_path_factory.mktemp("unequal"))


def test_it_answers_as_before_with_its_states_in_the_units_of_the_onnx_file(unequal: Unequal) -> None:
    made = unequal.equalised(unequal.even)
    (name,) = made.state_scales
    assert max(made.state_scales[name]) > 8 * min(made.state_scales[name])
    assert sqnr_db(unequal.logits(unequal.float), unequal.logits(made)) > 100
    assert made.sha256 != unequal.float.sha256
    assert (unequal.folder / made.path).stat().st_size == (unequal.folder / unequal.float.path).stat().st_size


@pytest.mark.parametrize("recipe", ["full", "conv"])
def test_int8_of_unequal_channels_gets_better(unequal: Unequal, recipe: str) -> None:
    wanted = unequal.logits(unequal.float)[20:]
    reached = []
    for i, given in enumerate((unequal.float, unequal.equalised(unequal.even))):
        made = int8_litert.Step(recipe)(given, unequal.folder / f"{recipe}{i}.tflite", unequal.aid)  # type: ignore[arg-type]
        got = unequal.logits(made)[20:]
        reached.append(sqnr_db(wanted - wanted.mean(0), got - got.mean(0)))
    assert reached[1] > reached[0] + 3


def test_a_layer_that_the_file_does_not_have_is_named_and_nothing_written(unequal: Unequal) -> None:
    model = onnx.load(unequal.folder / "model.onnx")
    for initial in model.graph.initializer:
        if len(initial.dims) == 4:
            initial.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(initial) * 1.01, initial.name))
    onnx.save(model, unequal.folder / "other.onnx")
    step = equalise_litert.Step("other.onnx", unequal.even.path)
    with pytest.raises(UsageError, match="no layer with the weights of 'node_conv2d"):
        step(unequal.float, unequal.folder / "none.tflite", unequal.aid)
    assert not (unequal.folder / "none.tflite").exists()


def test_states_in_other_units_than_the_weights_are_refused(unequal: Unequal) -> None:
    with pytest.raises(ParityError, match="answers another"):
        unequal.equalised(replace(unequal.even, state_scales={}), "wrong.tflite")
    assert not (unequal.folder / "wrong.tflite").exists()
