"""ONNX Runtime answers what the file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support import Tiny

from edgepv.export.to_onnx import lower
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.runtimes.engines.ort import OrtEngine, session
from edgepv.runtimes.engines.ort import open as open_ort
from edgepv.stream import Stepper, convert


def _strongly_typed_convolution(path: Path) -> None:
    """A 1x1 convolution with a bias, in INT8, with float16 scales whose product float16 can hardly hold."""
    constants = {
        "x_scale": np.float16(2e-3),
        "w_scale": np.float16(6.2e-5),
        "y_scale": np.float16(0.004),
        "zero": np.int8(0),
        "w": np.full((1, 1, 1, 1), 100, np.int8),
        "bias": np.array([0.5], np.float16),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "x_scale", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "zero"], ["w_dq"]),
        helper.make_node("Conv", ["x_dq", "w_dq", "bias"], ["y_half"]),
        helper.make_node("QuantizeLinear", ["y_half", "y_scale", "zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "zero"], ["y_dq"]),
        helper.make_node("Cast", ["y_dq"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 1, 2, 2)) for n in "xy"]
    graph = helper.make_graph(
        nodes,
        "g",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def test_a_bias_beside_float16_scales_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    _strongly_typed_convolution(path)
    x = np.full((1, 1, 2, 2), 0.02, np.float32)
    (y,) = session(path.read_bytes(), path.name, 1, ("CPUExecutionProvider",)).run(None, {"x": x})
    assert np.allclose(y, 0.5 + 0.02 * 0.0062, atol=4e-3)


def test_states_written_in_place_are_the_states_that_were_copied(tiny_clip: Tiny, tmp_path: Path) -> None:
    """The streamed net keeps its own last frames, which the engine does not write, and what a layer made."""
    source = from_files(tiny_clip.model, tiny_clip.weights, read_spec(tiny_clip.spec), trust_pickle=False)
    model = convert(build(source), source.spec)
    variant = lower(model, model.spec, tmp_path / "m.onnx")
    assert variant.stream
    from_the_video = [s.output == variant.spec.input.name for s in variant.stream.states]
    assert any(from_the_video) and not all(from_the_video)
    engine: OrtEngine = open_ort(variant, lambda name: (tmp_path / "m.onnx").read_bytes(), 1)
    copied = Stepper(engine.infer, variant.spec, variant.stream)
    in_place = Stepper(engine.infer, variant.spec, variant.stream, into=engine.infer_into)
    frames = np.random.default_rng(0).standard_normal((40, 1, 3, 32, 32), dtype=np.float32)
    for i, frame in enumerate(frames):
        if i in (15, 16, 30):
            copied.reset()
            in_place.reset()
        assert np.array_equal(copied.step(frame)["logits"], in_place.step(frame)["logits"]), i
