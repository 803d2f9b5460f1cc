"""INT8 on rolled states: it runs in integers, keeps the states' scale, and does not drift."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support import CLIPS, Tiny

from edgepv.data.calibration import calibration_set, rolled_feeds
from edgepv.data.clips import find_clips
from edgepv.data.frames import model_frames
from edgepv.data.split import split_clips
from edgepv.errors import UsageError
from edgepv.export.audit import audit
from edgepv.export.to_onnx import lower
from edgepv.export.to_tflite import to_tflite
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.quantize import int8_litert, int8_onnx, int8_openvino
from edgepv.quantize.ranges import Histogram, Method
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.stream import Stepper, Tensors
from edgepv.types import Variant

pytestmark = pytest.mark.slow


class Ready:
    """The tiny step model lowered, with rolled calibration inputs."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.folder = folder
        self.source = from_files(tiny.model, tiny.weights, read_spec(tiny.spec), trust_pickle=False)
        self.base = lower(build(self.source), self.source.spec, folder / "model.onnx")
        spec = self.source.spec
        calibration, held = split_clips(find_clips(CLIPS, spec.labels), calibration=8)
        self.held = [model_frames(c.path, spec) for c in held[:6]]
        chosen = calibration_set(calibration, spec)
        self.feeds = rolled_feeds(self.stepper(self.base), chosen, spec)

    def stepper(self, variant: Variant) -> Stepper:
        return Stepper(open_engine(variant, self.folder).infer, variant.spec, variant.stream)

    def logits(self, variant: Variant, frames: np.ndarray) -> np.ndarray:
        stepper = self.stepper(variant)
        return np.concatenate([stepper.step(f[None])["logits"] for f in frames])


@pytest.fixture(scope="module")
def ready(tiny_step: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return Ready(tiny_step, tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def int8(ready: Ready) -> dict[str, Variant]:
    """The model in INT8 by every tool."""
    float_tflite = to_tflite(ready.source, ready.base, ready.folder / "model.tflite")
    aid = Calibration(ready.folder, ready.feeds, "digest")
    made = {
        "onnx": int8_onnx.Step()(ready.base, ready.folder / "a.onnx", aid),
        "nncf": int8_openvino.Step()(ready.base, ready.folder / "b.xml", aid),
        "litert-full": int8_litert.Step("full")(float_tflite, ready.folder / "c.tflite", aid),
        "litert-conv": int8_litert.Step("conv")(float_tflite, ready.folder / "d.tflite", aid),
    }
    return {**made, "openvino": replace(made["onnx"], engine="openvino")}


CLIPPING: tuple[Method, ...] = ("percentile", "mse", "entropy")
ALL = ("onnx", "openvino", "nncf", "litert-full", "litert-conv")


@pytest.mark.parametrize("name", ALL)
def test_int8_answers_like_float_on_clips_it_never_saw(
    ready: Ready, int8: dict[str, Variant], name: str
) -> None:
    frames = np.concatenate(ready.held)
    assert sqnr_db(ready.logits(ready.base, frames), ready.logits(int8[name], frames)) > 20


@pytest.mark.parametrize("name", ALL)
def test_every_picture_convolution_runs_in_integers(
    ready: Ready, int8: dict[str, Variant], name: str
) -> None:
    found = audit(int8[name], ready.folder)
    assert len(found.convolutions) == 3 and found.int8 == 3 and not found.silent_float


@pytest.mark.parametrize("name", ALL)
def test_what_stays_in_float_is_told_with_its_price(
    ready: Ready, int8: dict[str, Variant], name: str
) -> None:
    found = audit(int8[name], ready.folder)
    assert found.conversions is not None and len(found.islands) <= 6
    shares = [i.share for i in found.islands] + [found.conversions_share]
    if int8[name].engine == "litert":
        assert shares == [None] * len(shares)
    else:
        assert 0 < sum(s for s in shares if s is not None) < 1
    assert not any("Conv" in kind for i in found.islands for kind in i.operators if kind != "Convert")


def test_a_float_file_is_not_called_int8(ready: Ready) -> None:
    found = audit(ready.base, ready.folder)
    assert found.int8 == 0 and {c.executed for c in found.convolutions} == {"float"}
    assert found.islands == () and found.conversions is None


@pytest.mark.parametrize("name", ["onnx", "litert-full"])
def test_the_error_does_not_grow_with_the_frames(ready: Ready, int8: dict[str, Variant], name: str) -> None:
    frames = np.concatenate([np.concatenate(ready.held)] * 12)[:1000]
    error = ready.logits(ready.base, frames) - ready.logits(int8[name], frames)
    early, late = (np.sqrt((error[a:b] ** 2).mean()) for a, b in ((20, 120), (900, 1000)))
    assert late < 2 * early


def _scales(path: Path) -> dict[str, float]:
    """Scale that every tensor is quantized with, by the name of the tensor before Q/DQ."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    return {
        n.input[0].removesuffix("_QuantizeLinear_Input"): float(constants[n.input[1]])
        for n in graph.node
        if n.op_type == "QuantizeLinear"
    }


def _joined(ready: Ready) -> set[str]:
    """The state, what it is fed from, and the concat between them."""
    import onnx

    concat = next(
        n
        for n in onnx.load(ready.folder / ready.base.path).graph.node
        if n.op_type == "Concat" and ready.base.inputs["before"] in n.input
    )
    return {*concat.input, *concat.output}


@pytest.mark.parametrize("method", ["minmax", *CLIPPING])
def test_a_state_has_one_scale_on_both_sides(ready: Ready, method: Method, tmp_path: Path) -> None:
    made = int8_onnx.Step(ranges=method)(
        ready.base, tmp_path / "s.onnx", Calibration(ready.folder, ready.feeds, "digest")
    )
    scales = _scales(tmp_path / made.path)
    assert len({scales[name] for name in _joined(ready)}) == 1


@pytest.mark.parametrize("method", ["minmax", *CLIPPING])
def test_inputs_and_states_are_spread_over_the_range_that_was_estimated(
    ready: Ready, method: Method, tmp_path: Path
) -> None:
    feeds = [{k: v.copy() for k, v in f.items()} for f in ready.feeds]
    for name in ("frame", "before"):
        feeds[3][name].flat[7] = 100.0
    made = int8_onnx.Step(ranges=method)(
        ready.base, tmp_path / "e.onnx", Calibration(ready.folder, feeds, "digest")
    )
    scales = _scales(tmp_path / made.path)
    for name in ("frame", "before"):
        seen = Histogram()
        for feed in feeds:
            seen.add(feed[name])
        low, high = seen.span(method)
        scale = scales[ready.base.inputs[name]]
        assert high == 100.0 if method == "minmax" else high < 99.0
        if name == "frame":
            assert scale == pytest.approx((high - low) / 255)
        else:  # a state has the range of all it is joined to
            assert (high - low) / 255.01 < scale < 1.1 * (seen.high - seen.low) / 255


@pytest.mark.parametrize("method", CLIPPING)
def test_every_estimator_leaves_every_picture_convolution_in_integers(
    ready: Ready, method: Method, tmp_path: Path
) -> None:
    step, aid = int8_onnx.Step(ranges=method), Calibration(ready.folder, ready.feeds, "digest")
    made, again = (step(ready.base, tmp_path / name, aid) for name in ("e.onnx", "f.onnx"))
    found = audit(made, tmp_path)
    assert found.int8 == len(found.convolutions) == 3 and made.sha256 == again.sha256


@pytest.mark.parametrize(
    "options", [{"ranges": "percentile"}, {"ranges": "mse"}, {"bias": "accurate"}, {"bias": "none"}]
)
def test_every_option_of_nncf_gives_another_net_that_answers_like_float(
    ready: Ready, int8: dict[str, Variant], options: dict[str, Any]
) -> None:
    out = ready.folder / f"nncf-{'-'.join(options.values())}.xml"
    made = int8_openvino.Step(**options)(ready.base, out, Calibration(ready.folder, ready.feeds, "digest"))
    other, mine = (ready.folder / Path(v.path).with_suffix(".bin") for v in (int8["nncf"], made))
    assert made.sha256 != int8["nncf"].sha256 or mine.read_bytes() != other.read_bytes()
    frames = np.concatenate(ready.held)
    assert sqnr_db(ready.logits(ready.base, frames), ready.logits(made, frames)) > 15


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (int8_onnx.Step(ranges=cast(Any, "max")), "unknown range estimator 'max'"),
        (int8_openvino.Step(ranges=cast(Any, "max")), "unknown range estimator 'max'"),
        (int8_openvino.Step(ranges="entropy"), "NNCF sets no INT8 ranges by entropy. It has minmax"),
        (int8_openvino.Step(bias=cast(Any, "slow")), "unknown bias correction 'slow'"),
    ],
)
def test_an_option_that_is_not_there_is_named_with_those_that_are(ready: Ready, step: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        step(ready.base, ready.folder / "none.onnx", Calibration(ready.folder, ready.feeds, "d"))
    assert not (ready.folder / "none.onnx").exists()


def test_zero_states_are_refused(ready: Ready) -> None:
    feeds: list[Tensors] = [{**f, "before": np.zeros_like(f["before"])} for f in ready.feeds]
    with pytest.raises(UsageError, match="state 'before' is zero in every calibration input"):
        int8_onnx.Step()(ready.base, ready.folder / "z.onnx", Calibration(ready.folder, feeds, "d"))
    assert not (ready.folder / "z.onnx").exists()


def test_the_head_and_the_pooled_state_stay_float(ready: Ready, int8: dict[str, Variant]) -> None:
    import onnx

    graph = onnx.load(ready.folder / int8["onnx"].path).graph
    dequantized = {name for n in graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    head = [n for n in graph.node if n.op_type in ("Gemm", "MatMul")]
    assert head and not any(name in dequantized for n in head for name in n.input)


def test_what_only_float_convolutions_need_is_not_quantized_for_them(ready: Ready, tmp_path: Path) -> None:
    import onnx

    names = [n.name for n in onnx.load(ready.folder / ready.base.path).graph.node if n.op_type == "Conv"]
    small = int8_onnx.Step(keep_float=tuple(names))(
        ready.base, tmp_path / "float.onnx", Calibration(ready.folder, ready.feeds, "d")
    )
    made = {n.op_type for n in onnx.load(tmp_path / small.path).graph.node}
    assert len(names) == 3 and not made & {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("name", ["onnx", "litert-full"])
def test_quantizing_twice_gives_equal_bytes(
    ready: Ready, int8: dict[str, Variant], name: str, tmp_path: Path
) -> None:
    step = int8_onnx.Step() if name == "onnx" else int8_litert.Step("full")
    base = ready.base if name == "onnx" else replace(int8[name], path="model.tflite", precision="fp32")
    out = tmp_path / ("x.onnx" if name == "onnx" else "x.tflite")
    assert step(base, out, Calibration(ready.folder, ready.feeds, "digest")).sha256 == int8[name].sha256
