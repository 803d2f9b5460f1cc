"""What the converters and quantizers make of a stream, stepped for hundreds of frames in every engine."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import ROOT

from edgepv.errors import UsageError
from edgepv.export.audit import audit
from edgepv.export.to_onnx import lower, step_module
from edgepv.export.to_tflite import to_tflite
from edgepv.model.checkpoint import build
from edgepv.model.weights import save
from edgepv.quantize import int8_litert, int8_onnx, int8_openvino
from edgepv.quantize.step import Calibration
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Infer, Stepper, StreamModel, Tensors, convert, copied, roll
from edgepv.stream.verify import against_chunk, steps
from edgepv.types import Checkpoint, ModelSpec, Rewrite, TensorSpec, Variant

pytestmark = pytest.mark.slow

NETS = ROOT / "benchmarks" / "clipnets.py"
SIZE = 48
FRAMES = {
    "c3d": 16,
    "mc3_18": 16,
    "tsm": 8,
    "cnn_lstm": 12,
    "timesformer_banded": 12,
    "x3d_s": 8,
    "slowfast": 16,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "c3d": {"size": SIZE},
    "timesformer_banded": {"frames": 12, "size": SIZE, "depth": 2},
    "x3d_s": {"depths": (1, 1, 1, 1)},
}
RNG = np.random.default_rng(0)


@dataclass(frozen=True, eq=False)
class Made:
    """One net as a stream and as the ONNX file of its step."""

    checkpoint: Checkpoint
    model: StreamModel
    base: Variant
    folder: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    known: dict[str, Made] = {}
    torch.set_num_threads(1)

    def make(name: str) -> Made:
        if name not in known:
            known[name] = _made(name, tmp_path_factory.mktemp(name))
        return known[name]

    return make


def _made(name: str, folder: Path) -> Made:
    t = FRAMES[name]
    spec = ModelSpec(
        name, TensorSpec("clip", (1, 3, t, SIZE, SIZE), "NCTHW"), tuple(f"c{i}" for i in range(8)), frames=t
    )
    options = {"width": 0.125, **OPTIONS.get(name, {})}
    source = folder / "net.py"
    source.write_text(
        f"import sys\nsys.path.insert(0, {str(NETS.parent)!r})\nimport clipnets\n\n\n"
        f"def build():\n    return clipnets.{name}(**{options!r})\n"
    )
    builder = f"{source}:build"
    sys.path.insert(0, str(NETS.parent))
    from edgepv.model.builder import call_builder

    digest = save(call_builder(builder), folder / "w.safetensors")
    clip = Checkpoint(str(folder / "w.safetensors"), digest, builder, spec)
    model = convert(build(clip), spec)
    step = replace(clip, spec=model.spec, rewrite=Rewrite("stream", spec.input))
    return Made(step, model, lower(model, model.spec, folder / "model.onnx"), folder)


def moving(count: int, seed: int = 0) -> np.ndarray:
    """A smooth moving texture, (count, 3, SIZE, SIZE) float32: neighbouring frames resemble each other."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(0.05, 0.6, (3, 4, 3))
    y, x = np.mgrid[:SIZE, :SIZE]
    t = np.arange(count)[:, None, None]
    planes = [sum(np.sin(a * y + b * x + c * t) for a, b, c in w) for w in waves]
    return np.stack(planes, 1).astype(np.float32)


@functools.cache
def _in_litert(made: Made) -> Variant:
    return to_tflite(made.checkpoint, made.base, made.folder / "model.tflite")


@functools.cache
def _feeds(made: Made) -> list[Tensors]:
    stepper = Stepper(steps(made.model), made.model.spec, made.model.stream)
    found = [copied(f) for f, _ in roll(stepper, moving(80, seed=1)) if f and stepper.seen > 30]
    return found[::2]


@pytest.mark.parametrize(
    ("name", "engine"),
    [(n, e) for n in FRAMES for e in ("onnxruntime", "openvino") if (n, e) != ("c3d", "openvino")],
)
def test_a_stream_is_the_same_in_an_engine_over_300_frames(
    made: Callable[[str], Made], name: str, engine: str
) -> None:
    one = made(name)
    opened = open_engine(replace(one.base, engine=engine), one.folder)
    assert against_chunk(one.model, opened.infer, moving(312)) <= 1e-5


@pytest.mark.parametrize("name", ["mc3_18", "tsm", "cnn_lstm", "timesformer_banded"])
def test_a_stream_is_the_same_in_litert_over_300_frames(made: Callable[[str], Made], name: str) -> None:
    one = made(name)
    assert against_chunk(one.model, open_engine(_in_litert(one), one.folder).infer, moving(312)) <= 1e-5


@pytest.mark.parametrize("name", list(FRAMES))
def test_no_graph_of_a_stream_has_more_than_four_dimensions(made: Callable[[str], Made], name: str) -> None:
    import onnx

    one = made(name)
    graph = onnx.shape_inference.infer_shapes(onnx.load(one.folder / one.base.path)).graph
    shapes = {v.name: v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.input, *graph.output)}
    assert max(len(s) for s in shapes.values()) <= 4
    weights = {i.name: i.dims for i in graph.initializer}
    kernels = [weights[n.input[1]] for n in graph.node if n.op_type == "Conv"]
    assert kernels and all(len(k) <= 4 for k in kernels)
    assert all(d.dim_value > 0 for dims in shapes.values() for d in dims)


def _drift(reference: Infer, infer: Infer, model: StreamModel) -> tuple[float, float]:
    """RMS error of frames 20 after the warm-up, and of frames 900 to 1000."""
    video = moving(1000, seed=2)
    sides = [
        np.concatenate([Stepper_.step(f[None])["logits"] for f in video])
        for Stepper_ in (Stepper(i, model.spec, model.stream) for i in (reference, infer))
    ]
    error = np.sqrt(((sides[0] - sides[1]) ** 2).mean(1))
    early = max(20, model.stream.warmup)
    return float(error[early : early + 20].mean()), float(error[900:].mean())


def _quantized(one: Made, tool: str) -> Variant:
    feeds = _feeds(one)
    if tool == "onnx":
        return int8_onnx.Step()(one.base, one.folder / "int8.onnx", Calibration(one.folder, feeds, ""))
    if tool == "nncf":
        return int8_openvino.Step()(one.base, one.folder / "int8.xml", Calibration(one.folder, feeds, ""))
    return int8_litert.Step("full")(
        _in_litert(one), one.folder / "int8.tflite", Calibration(one.folder, feeds, "")
    )


@pytest.mark.parametrize("tool", ["onnx", "nncf", "litert"])
def test_an_int8_stream_does_not_drift_over_1000_frames(made: Callable[[str], Made], tool: str) -> None:
    one = made("mc3_18")
    small = _quantized(one, tool)
    early, late = _drift(
        open_engine(one.base, one.folder).infer, open_engine(small, one.folder).infer, one.model
    )
    assert 0 < late <= 1.2 * early
    found = audit(small, one.folder)
    assert found.int8 == len(found.convolutions) > 10 and not found.silent_float


@functools.cache
def _flat(one: Made) -> tuple[Checkpoint, Variant]:
    assert one.checkpoint.rewrite
    clip = replace(one.checkpoint, spec=replace(one.model.spec, input=one.checkpoint.rewrite.clip))
    flat = replace(clip, rewrite=Rewrite("flat", clip.spec.input))
    return flat, lower(build(flat), flat.spec, one.folder / "flat.onnx")


@pytest.mark.parametrize("tool", ["onnx", "litert"])
def test_a_flat_int8_clip_leaves_no_convolution_in_float(made: Callable[[str], Made], tool: str) -> None:
    one = made("mc3_18")
    flat, base = _flat(one)
    frames = moving(60).transpose(1, 0, 2, 3)[None]
    feeds = [{"clip": np.ascontiguousarray(frames[:, :, i : i + 16])} for i in range(0, 40, 4)]
    if tool == "onnx":
        small = int8_onnx.Step()(base, one.folder / "flat-int8.onnx", Calibration(one.folder, feeds, ""))
    else:
        lite = to_tflite(flat, base, one.folder / "flat.tflite")
        small = int8_litert.Step("full")(
            lite, one.folder / "flat-int8.tflite", Calibration(one.folder, feeds, "")
        )
    found = audit(small, one.folder)
    assert found.int8 == len(found.convolutions) > 10 and not found.silent_float


def test_a_state_and_what_it_is_fed_from_have_one_scale(made: Callable[[str], Made]) -> None:
    import onnx
    from onnx import numpy_helper

    one = made("mc3_18")
    small = int8_onnx.Step()(one.base, one.folder / "scales.onnx", Calibration(one.folder, _feeds(one), ""))
    graph = onnx.load(one.folder / small.path).graph
    constants = {i.name: float(numpy_helper.to_array(i)) for i in graph.initializer if not i.dims}
    scale = {n.input[0]: constants[n.input[1]] for n in graph.node if n.op_type == "QuantizeLinear"
             if n.input[1] in constants}  # fmt: skip
    compared = 0
    for state in one.model.stream.states:
        source = state.output if state.output in scale else f"{state.output}_QuantizeLinear_Input"
        if state.name in scale and source in scale:
            assert scale[state.name] == scale[source], state.name
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("tool", ["onnx", "nncf"])
def test_zero_states_are_refused_as_calibration(made: Callable[[str], Made], tool: str) -> None:
    one = made("mc3_18")
    zero = {s.name: np.zeros(s.shape, np.float32) for s in one.model.stream.states}
    feeds = [{"clip": f[None], **zero} for f in moving(8)]
    step = int8_onnx.Step() if tool == "onnx" else int8_openvino.Step()
    with pytest.raises(UsageError, match="zero in every calibration input"):
        step(one.base, one.folder / "zero.onnx", Calibration(one.folder, feeds, ""))


def test_two_states_given_the_same_example_are_told_apart_by_the_exported_graph(
    made: Callable[[str], Made],
) -> None:
    """torch.export fuses inputs that are one tensor object. Planted here, the check must catch it."""
    one = made("mc3_18")
    names = [s.name for s in one.model.stream.states]
    shapes = [s.shape for s in one.model.stream.states]
    a, b = next((i, j) for i in range(len(shapes)) for j in range(i) if shapes[i] == shapes[j])
    examples = [torch.randn(1, 3, SIZE, SIZE), *(torch.randn(s) for s in shapes)]
    examples[1 + a] = examples[1 + b]
    path = one.folder / "aliased.onnx"
    torch.onnx.export(
        step_module(one.model), tuple(examples), str(path), dynamo=True, opset_version=18,
        external_data=False, verbose=False,
        input_names=["clip", *names], output_names=["logits", *one.model.outputs],
    )  # fmt: skip
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {i.name for i in session.get_inputs()}
    outputs = ["logits", *one.model.outputs]

    def infer(feeds: Tensors) -> Tensors:
        present = {k: v for k, v in feeds.items() if k in taken}
        return dict(zip(outputs, session.run(outputs, present)))

    assert against_chunk(one.model, infer, moving(64)) > 1e-3
