"""Every kind of artifact opens, says what it takes, and answers; what is none is one line."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from engine_bundle import write_bundle
from null_bundle import write_null_bundle
from onnx import TensorProto
from onnx_models import described, net, written
from support import ROOT, TINY

from edgepv.bundle.archive import zip_bundle
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.measure.artifacts.artifact import Artifact, Asked, noise, shape_of
from edgepv.measure.artifacts.find import distinct, files_of, found
from edgepv.types import StateSpec

SHAPE = (1, 3, 8, 8)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def answers(artifact: Artifact) -> dict[str, np.ndarray]:
    """What one call gives, through a step first: both ways of calling work."""
    opened = artifact.open(1)
    try:
        for _ in range(opened.chunk):
            opened.step()
        return {name: np.array(value) for name, value in opened.engine.infer(opened.feeds()).items()}
    finally:
        opened.engine.close()


def tflite(path: Path, *, signed: bool) -> Path:
    """max(x, 0) of 4 numbers. signed: with a signature, as converters write today."""
    from ai_edge_litert import schema_py_generated as schema

    model, graph, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    graph.tensors = []
    for name in (b"x", b"y"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, 4], schema.TensorType.FLOAT32, 0
        graph.tensors.append(tensor)
    operator.inputs, operator.outputs, operator.opcodeIndex = [0], [1], 0
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    if signed:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
        signature.inputs[0].name, signature.inputs[0].tensorIndex = b"given", 0
        signature.outputs[0].name, signature.outputs[0].tensorIndex = b"told", 1
        model.signatureDefs = [signature]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def openvino(folder: Path) -> Path:
    """The small net as OpenVINO writes it."""
    import openvino as ov

    onnx = written(folder, net(SHAPE), "for_openvino.onnx")
    ov.save_model(ov.Core().read_model(onnx), folder / "m.xml", compress_to_fp16=False)
    return folder / "m.xml"


def test_an_onnx_file_is_fed_what_its_signature_says(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    path = written(tmp_path, net(SHAPE))
    (one,) = found(str(path), Asked(), 1, stack)
    assert (one.name, one.kind, one.engine, one.bytes) == (
        "m.onnx",
        "onnx",
        "onnxruntime",
        path.stat().st_size,
    )
    assert one.build.startswith("onnxruntime ") and one.policy.startswith("intra-op 1")
    assert one.precision is None and one.state_bytes is None and one.rate is None, "the file does not say"
    assert answers(one)["out"].shape == (1, 2)


def test_a_free_axis_is_asked_for_and_taken_from_the_user(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    path = str(written(tmp_path, net((1, 3, "h", "w"))))
    with pytest.raises(UsageError, match=r"input 'x' is \(1,3,\?,\?\), of any size.*--shape x=1,3,1,1"):
        found(path, Asked(), 1, stack)
    for name in ("", "x"):
        (one,) = found(path, Asked({name: SHAPE}), 1, stack)
        assert answers(one)["out"].shape == (1, 2)
    with pytest.raises(UsageError, match="--shape says 1,4,8,8"):
        found(path, Asked({"x": (1, 4, 8, 8)}), 1, stack)


def test_several_inputs_of_several_types_are_fed(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Cast", ["b"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["a", "n"], ["g"], axis=0),
        helper.make_node("Add", ["g", "f"], ["y"]),
    ]
    kinds = {
        "a": (TensorProto.FLOAT, [3, 4]),
        "b": (TensorProto.UINT8, [2, 4]),
        "n": (TensorProto.INT64, [2]),
    }
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])
    graph = helper.make_graph(nodes, "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (one,) = found(str(written(tmp_path, model)), Asked(), 1, stack)
    assert answers(one)["y"].shape == (2, 4)


def test_an_onnx_file_with_a_spec_is_stepped_with_its_states(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """The state's sum grows from step to step: it is fed back."""
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
        helper.make_node("Reshape", ["m", "one"], ["r"]),
        helper.make_node("Add", ["s", "r"], ["s_next"]),
        helper.make_node("Concat", ["s_next", "s_next"], ["out"], axis=1),
    ]
    shape = helper.make_tensor("one", TensorProto.INT64, [2], [1, 1])
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 1]),
    ]
    outputs = [
        helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2]),
        helper.make_tensor_value_info("s_next", TensorProto.FLOAT, [1, 1]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, [shape]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    path, spec = written(tmp_path, model), described(tmp_path, SHAPE)
    (one,) = found(str(path), Asked(spec=str(spec)), 1, stack)
    assert (one.state_bytes, one.rate, one.precision) == (4, 10.0, "fp32")
    opened = one.open(1)
    told: Any = opened.step
    sums = [float(told()["s_next"][0, 0]) for _ in range(3)]
    assert len(set(sums)) == 3, "what the step before gave is in this one"


@pytest.mark.parametrize("signed", [True, False])
def test_a_tflite_file_with_and_without_a_signature(
    tmp_path: Path, stack: contextlib.ExitStack, signed: bool
) -> None:
    (one,) = found(str(tflite(tmp_path / "m.tflite", signed=signed)), Asked(), 1, stack)
    assert (one.kind, one.engine) == ("tflite", "litert")
    (value,) = answers(one).values()
    assert value.shape == (1, 4) and (value >= 0).all() and (value > 0).any()


def test_an_openvino_model_is_its_xml_and_its_bin(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    path = openvino(tmp_path)
    (one,) = found(str(path), Asked(), 1, stack)
    assert (one.kind, one.engine) == ("openvino", "openvino") and one.build.startswith("openvino ")
    assert answers(one)["out"].shape == (1, 2)
    path.with_suffix(".bin").unlink()
    with pytest.raises(UsageError, match=r"m.bin, which is not beside it"):
        found(str(path), Asked(), 1, stack)


def test_a_bundle_is_all_its_variants_and_its_states_are_fed_back(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    folder = write_bundle(tmp_path / "b", [StateSpec("a", "a_next", (2, 3), update="shift")], chunk=2)
    zip_bundle(folder, tmp_path / "b.zip")
    for word in (folder, tmp_path / "b.zip", f"{folder}:onnxruntime-fp32"):
        (one,) = found(str(word), Asked(), 1, stack)
        assert (one.name, one.kind, one.state_bytes, one.rate) == ("onnxruntime-fp32", "bundle", 24, 10.0)
        assert one.open(1).chunk == 2
        assert answers(one)["logits"].shape == (1, 3)
    with pytest.raises(UsageError, match="unknown variant 'onnxruntime-fp23'.*Did you mean"):
        found(f"{folder}:onnxruntime-fp23", Asked(), 1, stack)


def test_a_builder_is_stepped_with_a_spec_and_called_without(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    (tmp_path / "flat.py").write_text("import torch\n\ndef build():\n    return torch.nn.Flatten()\n")
    word = f"{tmp_path / 'flat.py'}:build"
    with pytest.raises(UsageError, match="nobody says what it takes. Give --shape"):
        found(word, Asked(), 1, stack)
    (one,) = found(word, Asked({"": SHAPE}), 1, stack)
    assert (one.name, one.kind, one.state_bytes) == ("flat.py:build", "torch", None)
    assert answers(one) == {}
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'name = "t"\nlabels = ["fight", "no_fight"]\nframes = 4\nfps = 12.5\n'
        '[input]\nname = "frame"\nshape = [1, 3, 32, 32]\nlayout = "NCHW"\n'
    )
    (one,) = found(f"{TINY}:stepper", Asked(spec=str(spec)), 1, stack)
    assert one.rate == 12.5 and one.state_bytes
    assert answers(one)["logits"].shape == (1, 2)


@pytest.mark.parametrize("suffix", [".engine", ".plan"])
def test_a_tensorrt_engine_is_for_the_device_it_was_built_on(
    tmp_path: Path, stack: contextlib.ExitStack, suffix: str
) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"ptrt")
    with pytest.raises(TargetUnavailableError, match="runs on the device it was built on"):
        found(str(path), Asked(), 1, stack)


def test_on_such_a_device_its_inputs_are_read_from_it(
    tmp_path: Path, stack: contextlib.ExitStack, on_jetson: Any
) -> None:
    """A LABELLED FAKE of TensorRT, which runs the ONNX file behind its mark."""
    fake = on_jetson()
    onnx = written(tmp_path, net(SHAPE)).read_bytes()
    path = tmp_path / "m.engine"
    path.write_bytes(b'FAKE TENSORRT ENGINE\n{"kind": "Half", "rest": "Half"}\n' + onnx)
    (one,) = found(str(path), Asked(), 1, stack)
    assert (one.kind, one.engine, one.build) == ("tensorrt", "tensorrt", "tensorrt 10.3.0")
    assert answers(one)["out"].shape == (1, 2)
    stateful = write_bundle(tmp_path / "b", [StateSpec("a", "a_next", (2, 3), update="shift")])
    path.write_bytes(b"FAKE TENSORRT ENGINE\n{}\n" + (stateful / "models" / "model.onnx").read_bytes())
    with pytest.raises(UsageError, match="has 2 inputs, and an engine file does not say which are states"):
        found(str(path), Asked(), 1, stack)
    path.write_bytes(b"of another device")
    with pytest.raises(UsageError, match="TensorRT does not take"):
        found(str(path), Asked(), 1, stack)
    assert fake


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("nothing.onnx", "nothing.onnx is not there"),
        ("nothing", "nothing is not there"),
        ("weights.pt", "is nothing that bench can measure"),
        ("folder", "neither a bundle nor a firmware"),
        ("broken.onnx", "cannot be opened safely"),
        ("broken.tflite", "no TFLite flatbuffer"),
    ],
)
def test_what_is_no_artifact_is_said_in_one_line(
    tmp_path: Path, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, word: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("weights.pt", "broken.onnx", "broken.tflite"):
        (tmp_path / name).write_bytes(b"\xff" * 64)
    with pytest.raises(UsageError, match=why) as refused:
        found(word, Asked(), 1, stack)
    assert "\n" not in str(refused.value)


def test_artifacts_of_one_name_are_told_apart_and_none_is_twice(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    words = []
    for place in ("old", "new"):
        (tmp_path / place).mkdir()
        words.append(str(written(tmp_path / place, net(SHAPE))))
    ones = [found(word, Asked(), 1, stack)[0] for word in words]
    assert [a.name for a in distinct(ones, words)] == words
    with pytest.raises(UsageError, match="is given twice"):
        distinct([ones[0], ones[0]], [words[0], words[0]])


def test_a_word_is_said_on_another_machine_by_what_was_sent(tmp_path: Path) -> None:
    folder = write_null_bundle(tmp_path / "b")
    sent: list[Path] = []

    def send(path: Path) -> str:
        sent.append(path)
        return f"there/{path.name}"

    assert files_of(f"{folder}:null", send) == "there/b:null"
    assert files_of(f"{TINY}:clip", send) == "there/tiny.py:clip"
    assert files_of("pv-conv-nano", send) == "pv-conv-nano"
    assert sent == [folder, TINY]


@pytest.mark.parametrize("text", ["1,0,3", "x=", "1,a", "-1,3", "100000,100000"])
def test_a_shape_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--shape"):
        shape_of(text)
    assert shape_of("clip=1,3,8") == ("clip", (1, 3, 8)) and shape_of("2,2") == ("", (2, 2))


def test_noise_is_of_the_type_and_no_index_leads_out() -> None:
    assert noise((2, 3), "float16").dtype == np.float16 and noise((2, 3), "float32").std() > 0
    assert np.ptp(noise((64,), "uint8").astype(int)) > 100
    assert not noise((4,), "int64").any()


@pytest.mark.slow
@pytest.mark.usefixtures("compiling")
def test_a_firmware_folder_and_its_object_are_compiled_and_stepped(
    tmp_path: Path, stack: contextlib.ExitStack, step_bundle: Path, run: Any
) -> None:
    """The frame of noise gives the same answers from the folder and from the object that is made of it."""
    from edgepv.measure.mallocs import mallocs

    code, _, err = run("firmware", step_bundle, "--out", tmp_path / "fw")
    assert code == 0, err
    (one,) = found(str(tmp_path / "fw"), Asked(), 1, stack)
    assert (one.name, one.kind, one.engine, one.rate) == ("fw", "generated C", "native", 10.0)
    assert one.state_bytes == json.loads((tmp_path / "fw" / "sizes.json").read_text())["ram"]["state_bytes"]
    assert mallocs(one) == 0
    shutil.copy(one.arguments["path"], tmp_path / "model.so")
    (other,) = found(str(tmp_path / "model.so"), Asked(), 1, stack)
    assert other.state_bytes is None, "an object does not tell it"
    first, second = answers(one), answers(other)
    assert first["0"].shape == (2,) and (first["0"] == second["0"]).all()


def test_the_c_that_counts_is_in_the_package() -> None:
    assert (ROOT / "edgepv" / "measure" / "mallocs.c").is_file()
