"""States on the device, on the LABELLED FAKES: after every step they are what a host's would be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepv.errors import EngineError, UsageError
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.trt.bundle import Model, model_of
from edgepv.runtimes.trt.engine import MOST_GRAPHS, TrtEngine
from edgepv.stream import Stepper
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant, encode

MAGIC = b'FAKE TENSORRT ENGINE\n{"kind": "Int8", "rest": "Half"}\n'
FRAME = (1, 3, 2, 2)
OnJetson = Callable[..., ModuleType]
STATES = {
    "replace": [StateSpec("a", "a_next", (1, 3, 2, 2), init=0.5)],
    "replace, every third step": [StateSpec("a", "a_next", (1, 3, 2, 2), period=3)],
    "shift by one row": [StateSpec("a", "a_next", (4, 3, 2, 2), update="shift")],
    "shift by one row, every second step": [StateSpec("a", "a_next", (3, 5), update="shift", period=2)],
    "shift by all rows": [StateSpec("a", "a_next", (2, 3), update="shift", fresh=2)],
    "a step makes more rows than are kept": [StateSpec("a", "a_next", (2, 3), update="shift", fresh=3)],
    "the first outputs do not count": [StateSpec("a", "a_next", (2, 3), update="shift", first=3, init=1.0)],
    "the frames themselves": [StateSpec("a", "frame", (4, 3, 2, 2), update="shift")],
    "whole numbers": [StateSpec("a", "a_next", (1, 3), dtype="int64", init=2.0)],
    "two of one output": [StateSpec(n, "a_next", (d, 3), update="shift") for n, d in (("a", 1), ("b", 3))],
    "many at once": [
        StateSpec("a", "a_next", (1, 3, 2, 2)),
        StateSpec("b", "b_next", (3, 5), update="shift", period=2, first=2),
        StateSpec("c", "frame", (2, 3, 2, 2), update="shift"),
        StateSpec("d", "d_next", (1, 4), period=3, init=-1.0),
    ],
    "so many arrangements that not all are recorded": [
        StateSpec("a", "a_next", (1, 3), period=5),
        StateSpec("b", "b_next", (1, 3), period=7),
    ],
}
KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def step_model(states: list[StateSpec]) -> bytes:
    """An ONNX step whose answer depends on every state, and whose fresh rows depend on frame and state."""
    rng = np.random.default_rng(1)
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}
    outputs: dict[str, Any] = {}
    nodes.append(helper.make_node("ReduceMean", ["frame"], ["level"], keepdims=0))
    for state in states:
        seen = f"{state.name}_seen"
        nodes.append(helper.make_node("Cast", [state.name], [f"{seen}_f"], to=TensorProto.FLOAT))
        weights = rng.standard_normal(state.shape).astype(np.float32)
        constants[f"{seen}_w"] = weights  # rows in another order give another answer
        nodes.append(helper.make_node("Mul", [f"{seen}_f", f"{seen}_w"], [f"{seen}_m"]))
        nodes.append(helper.make_node("ReduceMean", [f"{seen}_m"], [seen], keepdims=0))
        if state.output in ("frame", *outputs):
            continue
        fresh = state.shape[0] if state.update == "replace" else state.fresh
        shape = (fresh, *state.shape[1:])
        constants[f"{seen}_b"] = (3 * rng.standard_normal(shape)).astype(np.float32)
        nodes.append(helper.make_node("Sub", ["level", seen], [f"{seen}_d"]))
        nodes.append(helper.make_node("Mul", [f"{seen}_b", f"{seen}_d"], [f"{seen}_o"]))
        nodes.append(helper.make_node("Cast", [f"{seen}_o"], [state.output], to=KINDS[state.dtype]))
        outputs[state.output] = helper.make_tensor_value_info(state.output, KINDS[state.dtype], shape)
    constants["two"] = np.array([[1.0, -1.0]], np.float32)
    total = "level"
    for state in states:
        nodes.append(helper.make_node("Add", [total, f"{state.name}_seen"], [f"{state.name}_total"]))
        total = f"{state.name}_total"
    nodes.append(helper.make_node("Mul", ["two", total], ["logits"]))
    inputs = [helper.make_tensor_value_info("frame", TensorProto.FLOAT, FRAME)]
    inputs += [helper.make_tensor_value_info(s.name, KINDS[s.dtype], s.shape) for s in states]
    answers = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 2)), *outputs.values()]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "step", inputs, answers, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def variant_of(states: list[StateSpec], data: bytes) -> Variant:
    names = [s.name for s in states]
    outputs = ["logits", *dict.fromkeys(s.output for s in states if s.output != "frame")]
    return Variant(
        name="tensorrt-fp32",
        engine="onnxruntime",
        precision="fp32",
        form="step",
        path="m.onnx",
        sha256=hashlib.sha256(data).hexdigest(),
        spec=ModelSpec("m", TensorSpec("frame", FRAME), ("yes", "no")),
        stream=StreamSpec(tuple(states), warmup=1),
        inputs={n: n for n in ("frame", *names)},
        outputs={n: n for n in outputs},
    )


def stepped(
    states: list[StateSpec], folder: Path
) -> tuple[Variant, bytes, list[np.ndarray], list[np.ndarray]]:
    """(variant, file, frames, answers of the host's own stepping) of 45 frames."""
    data = step_model(states)
    (folder / "m.onnx").write_bytes(data)
    variant = variant_of(states, data)
    rng = np.random.default_rng(2)
    frames = [rng.standard_normal(FRAME).astype(np.float32) for _ in range(45)]
    stepper = Stepper(open_engine(variant, folder).infer, variant.spec, variant.stream)
    return variant, data, frames, [stepper.step(f)["logits"].copy() for f in frames]


@pytest.mark.parametrize("graphs", [True, False], ids=["recorded", "unrecorded"])
@pytest.mark.parametrize("kind", STATES)
def test_a_stream_on_the_device_is_the_stream_on_the_host(
    kind: str, graphs: bool, on_jetson: OnJetson, tmp_path: Path
) -> None:
    variant, data, frames, wanted = stepped(STATES[kind], tmp_path)
    fake = on_jetson()
    engine = TrtEngine(fake, MAGIC + data, model_of(encode(variant)), graphs=graphs)
    for _ in range(2):  # the second time after it has forgotten everything, by graphs that are there
        engine.forget()
        got = [engine.advance({"frame": f})["logits"] for f in frames]
        assert max(np.abs(a - b).max() for a, b in zip(got, wanted)) < 1e-5
    launches = fake.driver.calls.count("cuGraphLaunch")
    assert (launches > 0) == graphs and len(fake.driver.graphs) <= MOST_GRAPHS
    engine.close()
    assert not fake.driver.memory, "every buffer was given back"


def test_no_state_is_copied_to_the_host_or_from_it(on_jetson: OnJetson, tmp_path: Path) -> None:
    variant, data, frames, _ = stepped(STATES["many at once"], tmp_path)
    fake = on_jetson()
    engine = TrtEngine(fake, MAGIC + data, model_of(encode(variant)), graphs=False)
    del fake.driver.calls[:]
    engine.advance({"frame": frames[0]})
    assert fake.driver.calls.count("cuMemcpyHtoDAsync_v2") == 1, "the frame alone"
    assert fake.driver.calls.count("cuMemcpyDtoHAsync_v2") == 1, "the answer alone"


def test_a_state_that_is_replaced_is_not_copied_at_all(on_jetson: OnJetson, tmp_path: Path) -> None:
    variant, data, frames, _ = stepped(STATES["replace"], tmp_path)
    fake = on_jetson()
    engine = TrtEngine(fake, MAGIC + data, model_of(encode(variant)), graphs=False)
    engine.advance({"frame": frames[0]})
    assert "cuMemcpyDtoDAsync_v2" not in fake.driver.calls


def test_a_written_state_is_what_the_next_step_sees(on_jetson: OnJetson, tmp_path: Path) -> None:
    states = STATES["replace, every third step"]
    variant, data, frames, _ = stepped(states, tmp_path)
    stepper = Stepper(open_engine(variant, tmp_path).infer, variant.spec, variant.stream)
    engine = TrtEngine(on_jetson(), MAGIC + data, model_of(encode(variant)))
    value = np.full(states[0].shape, 7.0, np.float32)
    for number, frame in enumerate(frames):
        if number == 5:
            stepper.write("a", value)
            engine.write("a", value)
        assert np.allclose(
            engine.advance({"frame": frame})["logits"], stepper.step(frame)["logits"], atol=1e-5
        )
    with pytest.raises(UsageError, match="unknown state 'b'. Known: a"):
        engine.write("b", value)
    with pytest.raises(UsageError, match=r"state 'a': expected \(1, 3, 2, 2\), got \(1,\)"):
        engine.write("a", value[0, 0, 0, :1])


def test_an_engine_that_cannot_be_recorded_runs_without(on_jetson: OnJetson, tmp_path: Path) -> None:
    variant, data, frames, wanted = stepped(STATES["many at once"], tmp_path)
    fake = on_jetson()
    fake.driver.refuse_graphs = True
    engine = TrtEngine(fake, MAGIC + data, model_of(encode(variant)))
    got = [engine.advance({"frame": f})["logits"] for f in frames]
    assert max(np.abs(a - b).max() for a, b in zip(got, wanted)) < 1e-5
    assert "cuStreamEndCapture failed with error 901" in engine.why_no_graphs
    assert fake.driver.calls.count("cuStreamBeginCapture_v2") == 1, "it is not tried again at every step"


def test_what_is_no_engine_is_refused_and_leaves_nothing(on_jetson: OnJetson, tmp_path: Path) -> None:
    variant, data, _, _ = stepped(STATES["replace"], tmp_path)
    fake, model = on_jetson(), model_of(encode(variant))
    with pytest.raises(EngineError, match="does not take the engine of tensorrt-fp32. Build it again"):
        TrtEngine(fake, b"junk", model)
    other: dict[str, Any] = {**vars(model), "outputs": {"logits": "logits", "z": "z"}}
    with pytest.raises(EngineError, match=r"has other tensors \(a_next, z\)"):
        TrtEngine(fake, MAGIC + data, Model(**other))
    assert not fake.driver.memory


def test_a_window_is_an_engine_without_states(on_jetson: OnJetson, tmp_path: Path) -> None:
    variant, data, frames, _ = stepped([], tmp_path)
    engine = TrtEngine(on_jetson(), MAGIC + data, model_of(encode(variant)))
    got = [engine.advance({"frame": f})["logits"][0, 0] for f in frames[:4]]
    assert np.allclose(got, [f.mean() for f in frames[:4]], atol=1e-6)
    with pytest.raises(UsageError, match=r"the frame must be \(1, 3, 2, 2\), got \(1, 3, 2\)"):
        engine.advance({"frame": frames[0][..., 0]})
