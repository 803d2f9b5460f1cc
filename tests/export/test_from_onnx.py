"""ONNX files as others write them answer as before, or are refused in one line that says what to do."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import CLIP, FRAME, SIDE, answers, net, written
from support import Tiny

from edgepv.errors import UsageError
from edgepv.export.from_onnx import digest_of, is_quantized, read_onnx
from edgepv.export.to_onnx import lower
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.runtimes import open_engine
from edgepv.types import ModelSpec, TensorSpec, Variant

CLIPS = ModelSpec("other", TensorSpec("clip", CLIP, "NCTHW"), ("left", "right"), frames=4)
FRAMES = ModelSpec("other", TensorSpec("clip", FRAME), ("left", "right"))


def read(folder: Path, model: Any, spec: ModelSpec) -> tuple[Variant, tuple[str, ...]]:
    file = written(folder, model) if not isinstance(model, Path) else model
    return read_onnx(file, spec, folder / "read.onnx")


def video(shape: tuple[int, ...]) -> np.ndarray:
    """Pixels on [0, 1] of the 256 levels that a camera has."""
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.float32) / np.float32(255)


def asked(folder: Path, made: Variant, clip: np.ndarray) -> np.ndarray:
    return open_engine(made, folder).infer({"clip": clip})["logits"]


def refusal(folder: Path, model: Any, spec: ModelSpec) -> str:
    with pytest.raises(UsageError) as caught:
        read(folder, model, spec)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    assert not (folder / "read.onnx").exists()
    return text


def transposed(to: str, *perm: int) -> Any:
    return helper.make_node("Transpose", ["x"], [to], perm=perm)


def of(name: str, shape: tuple[Any, ...] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


WAYS: dict[str, tuple[Any, ModelSpec, str]] = {
    "as it is": (net(answer="logits"), CLIPS, ""),
    "weights as constants": (net(held="constants"), CLIPS, ""),
    "weights as inputs": (net(held="inputs"), CLIPS, ""),
    "opset 11, constants": (net(opset=11, held="constants"), CLIPS, "opset 11; it was converted to 13"),
    "opset 8, inputs": (net(opset=8, held="inputs"), CLIPS, "opset 8; it was converted to 13"),
    "float64": (net(kind=np.float64, entry=TensorProto.DOUBLE), CLIPS, "float64 inside became float32"),
    "free batch": (net(("N", *CLIP[1:]), answered=("N", 2)), CLIPS, "set to the spec's: N = 1"),
    "free axes": (net(("N", 3, "T", "H", "H"), answered=(None, 2)), CLIPS, "N = 1, T = 4, H = 32, H = 32"),
    "free axes without a name": (net((None, 3, None, None, None), answered=(None, 2)), CLIPS, "? = 32"),
    "NTCHW": (
        net((1, 4, 3, SIDE, SIDE), front=[transposed("v", 0, 2, 1, 3, 4)], taken="v", axes=3),
        CLIPS,
        "laid out as NTCHW",
    ),
    "NTHWC": (
        net((1, 4, SIDE, SIDE, 3), front=[transposed("v", 0, 4, 1, 2, 3)], taken="v", axes=3),
        CLIPS,
        "laid out as NTHWC",
    ),
    "frames as a batch": (
        net(
            (4, 3, SIDE, SIDE),
            front=[
                helper.make_node("Unsqueeze", ["x", "zero"], ["u"]),
                helper.make_node("Transpose", ["u"], ["v"], perm=(0, 2, 1, 3, 4)),
            ],
            taken="v",
            axes=3,
        ),
        CLIPS,
        "TCHW, the frames in place of a batch",
    ),
    "one crop": (
        net((1, *CLIP), front=[helper.make_node("Squeeze", ["x", "zero"], ["v"])], taken="v", axes=3),
        CLIPS,
        "NMCTHW, of one crop",
    ),
    "NHWC": (
        net((1, SIDE, SIDE, 3), front=[transposed("v", 0, 3, 1, 2)], taken="v", axes=2),
        FRAMES,
        "laid out as NHWC",
    ),
    "an answer with more axes": (
        net(
            answered=(1, 2),
            more=[(helper.make_node("Unsqueeze", ["out", "zero"], ["far"]), of("far", (1, 1, 2)))],
        ),
        CLIPS,
        "",
    ),
    "frames stacked as channels": (
        net(
            (1, 12, SIDE, SIDE),
            front=[
                helper.make_node("Reshape", ["x", "apart"], ["u"]),
                helper.make_node("Transpose", ["u"], ["v"], perm=(0, 2, 1, 3, 4)),
            ],
            taken="v",
            axes=3,
        ),
        CLIPS,
        "N(TC)HW, the channels of one frame behind those of the other",
    ),
    "nodes in no order": (net(), CLIPS, ""),
    "nodes of one name": (net(), CLIPS, ""),
    "a map beside it": (
        net(
            more=[
                (
                    helper.make_node(
                        "ZipMap", ["out"], ["z"], domain="ai.onnx.ml", classlabels_strings=["a", "b"]
                    ),
                    helper.make_value_info(
                        "z",
                        helper.make_sequence_type_proto(
                            helper.make_map_type_proto(
                                TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
                            )
                        ),
                    ),
                )
            ]
        ),
        CLIPS,
        "",
    ),
    "another answer beside it": (
        net(more=[(helper.make_node("Identity", ["flat"], ["features"]), of("features", (1, 8)))]),
        CLIPS,
        "outputs that the spec does not name are left out: features",
    ),
}
for _model, *_ in WAYS.values():
    _model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "zero"))
    _model.graph.initializer.append(numpy_helper.from_array(np.array((1, 4, 3, SIDE, SIDE)), "apart"))
WAYS["an answer with more axes"][0].graph.output.pop(0)
WAYS["nodes in no order"][0].graph.node.reverse()
WAYS["a map beside it"][0].opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
for _node in WAYS["nodes of one name"][0].graph.node:
    _node.name = "same"


@pytest.mark.parametrize("way", WAYS)
def test_a_file_of_another_kind_answers_as_the_plain_one(way: str, tmp_path: Path) -> None:
    model, spec, says = WAYS[way]
    made, notes = read(tmp_path, model, spec)
    assert says in " ".join(notes) and (made.name, made.precision) == ("onnx-fp32", "fp32")
    clip = video(spec.input.shape)
    plain = answers(net(spec.input.shape), clip)
    assert np.allclose(asked(tmp_path, made, clip), plain, atol=1e-5)
    graph = onnx.load(tmp_path / "read.onnx").graph
    stored = {i.name for i in graph.initializer}
    assert {"w1", "w2"} <= stored and not stored & {i.name for i in graph.input}
    names = [node.name for node in graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert "Constant" not in {node.op_type for node in graph.node}


def test_one_state_may_have_any_names_and_stand_in_front(tmp_path: Path) -> None:
    model = passing(tmp_path / "m.onnx", ("hx", "FLOAT", (1, 2)), VIDEO, names=("hy", "score"))
    made, _ = read(tmp_path, model, THREE)
    assert made.stream and [(s.name, s.output) for s in made.stream.states] == [("hx", "hy")]
    assert made.outputs["logits"] == "score" and made.inputs["frame"] == "x"


def test_casts_that_float16_needed_go_with_it(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    read(tmp_path, convert_float_to_float16(net(FRAME), keep_io_types=True), FRAMES)
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "read.onnx").graph.node}


@pytest.mark.parametrize("kind", ["weights and ends", "ends in float32"])
def test_float16_inside_is_widened(kind: str, tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    model = net(kind=np.float16, entry=half)
    if kind == "ends in float32":
        cast = helper.make_node("Cast", ["x"], ["v"], to=half)
        wide = helper.make_node("Cast", ["out"], ["wide"], to=TensorProto.FLOAT)
        model = net(kind=np.float16, front=[cast], taken="v", more=[(wide, of("wide", (1, 2)))])
        model.graph.output.pop(0)
    made, notes = read(tmp_path, model, CLIPS)
    assert "float16 inside became float32" in notes[0]
    clip = video(CLIP)
    same = answers(net(kind=np.float16, entry=half), clip.astype(np.float16)).astype(np.float32)
    assert np.allclose(asked(tmp_path, made, clip), same, atol=0.02)


def normalising(*, direct: bool, last: bool) -> Any:
    """A net that takes uint8 pixels, and normalises them by 1/255. last: channels last."""
    shape = (1, SIDE, SIDE, 3) if last else FRAME
    front = [helper.make_node("Transpose", ["x"], ["t"], perm=(0, 3, 1, 2))] if last else []
    if direct:
        front = [*front, helper.make_node("Cast", ["t" if last else "x"], ["f"], to=TensorProto.FLOAT)]
    else:
        front = [
            helper.make_node("Cast", ["x"], ["early"], to=TensorProto.INT32),
            helper.make_node("Cast", ["early"], ["f"], to=TensorProto.FLOAT),
        ]
    front.append(helper.make_node("Mul", ["f", "share"], ["v"]))
    model = net(shape, front=front, taken="v", entry=TensorProto.UINT8, axes=2)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "share"))
    return model


@pytest.mark.parametrize(("direct", "last"), [(True, False), (True, True), (False, False)])
def test_a_model_that_takes_pixels_gets_pixels(direct: bool, last: bool, tmp_path: Path) -> None:
    made, notes = read(tmp_path, normalising(direct=direct, last=last), FRAMES)
    assert "takes pixels from 0 to 255" in notes[0]
    clip = video(FRAME)
    assert np.allclose(asked(tmp_path, made, clip), answers(net(FRAME), clip), atol=1e-5)
    twice = replace(FRAMES, mean=(0.5, 0.5, 0.5))
    (tmp_path / "read.onnx").unlink()
    said = refusal(tmp_path, normalising(direct=direct, last=last), twice)
    assert "so the model normalises pixels itself. Leave mean and std out of the spec" in said


def test_functions_and_weights_in_files_beside_it_are_taken_in(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    imports = [helper.make_opsetid("", 18)]
    inlined = helper.make_function("own", "Rectify", ["a"], ["b"], body, imports)
    model = net()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Rectify", "own"
    model.functions.append(inlined)
    model.opset_import.append(helper.make_opsetid("own", 1))
    file = tmp_path / "m.onnx"
    onnx.save(model, file, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    made, _ = read(tmp_path, file, CLIPS)
    clip = video(CLIP)
    assert np.allclose(asked(tmp_path, made, clip), answers(net(), clip), atol=1e-5)
    before = digest_of(file)
    data = bytearray((tmp_path / "m.onnx.data").read_bytes())
    data[5] ^= 1
    (tmp_path / "m.onnx.data").write_bytes(data)
    assert digest_of(file) != before, "other weights are another model"
    (tmp_path / "m.onnx.data").rename(tmp_path / "elsewhere")
    (tmp_path / "read.onnx").unlink()
    assert "m.onnx is not a whole ONNX file" in refusal(tmp_path, file, CLIPS)


def test_weights_outside_of_its_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    model = net()
    onnx.save(model, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    odd = onnx.load(tmp_path / "in" / "m.onnx", load_external_data=False)
    (tmp_path / "in" / "w").rename(tmp_path / "w")
    for tensor in odd.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w"
    file = tmp_path / "in" / "odd.onnx"
    file.write_bytes(odd.SerializeToString())
    assert "odd.onnx is not a whole ONNX file" in refusal(tmp_path, file, CLIPS)


@pytest.mark.parametrize("how", ["QDQ", "QOperator", "dynamic"])
def test_a_quantized_file_is_int8_and_stays_as_it_is(how: str, tmp_path: Path) -> None:
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": video(FRAME)} for _ in range(2)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    source, file = written(tmp_path, net(FRAME), "float.onnx"), tmp_path / "q.onnx"
    if how == "dynamic":
        q.quantize_dynamic(source, file)
    else:
        kind = q.QuantType.QInt8 if how == "QDQ" else q.QuantType.QUInt8
        q.quantize_static(source, file, Reader(), quant_format=q.QuantFormat[how], activation_type=kind)
    given = onnx.load(file)
    assert is_quantized(given) and not is_quantized(net())
    made, notes = read(tmp_path, file, FRAMES)
    assert made.precision == "int8" and made.scheme and made.scheme.tool == "as it was given"
    assert "quantized already: it is run as it is, and not quantized again" in notes[0]
    clip = video(FRAME)
    assert np.allclose(asked(tmp_path, made, clip), answers(given, clip), atol=1e-4)


BIG = net(FRAME)
BIG.ir_version = onnx.IR_VERSION + 1
AHEAD = net(FRAME, opset=onnx.defs.onnx_opset_version() + 1)
MAP = net(FRAME, more=[(helper.make_node("SequenceConstruct", ["out"], ["z"]), None)])
MAP.graph.output.pop(0)
MAP.graph.output.append(
    helper.make_value_info("z", helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None)))
)
ODD = net(FRAME)
ODD.graph.node[1].domain, ODD.graph.node[1].op_type = "mmdeploy", "NMSRotated"
ODD.opset_import.append(helper.make_opsetid("mmdeploy", 1))
TWINS = net(FRAME, more=[(helper.make_node("Softmax", ["out"], ["prob"]), of("prob", (1, 2)))])
BEST = net(FRAME, more=[(helper.make_node("ArgMax", ["out"], ["best"], axis=1), of("best", (1, 1), 7))])
BEST.graph.output.pop(0)
PATHS = net(FRAME)
PATHS.graph.input.append(of("fast", FRAME))
SECOND = net(FRAME)
SECOND.graph.input.append(of("training", (), TensorProto.BOOL))
OLD = net(FRAME, opset=5)
LOUD = net(FRAME)
LOUD.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((8, 3, 3, 3), np.nan, np.float32), "w1"))


@pytest.mark.parametrize(
    ("model", "spec", "says"),
    [
        (net((4, *CLIP[1:])), CLIPS, "a batch of 4; a camera gives one input at a time. Export"),
        (net((1, 3, 8, SIDE, SIDE)), CLIPS, "is float32 (1, 3, 8, 32, 32), the spec says (1, 3, 4, 32, 32)"),
        (net(("H", 3, "H", "H")), FRAMES, "the axis 'H' of input 'x' would be 1 and something else"),
        (BIG, FRAMES, f"has IR version {onnx.IR_VERSION + 1}; onnx {onnx.__version__} here reads up to"),
        (AHEAD, FRAMES, "here reads up to 28. Export it for an older version, like opset 18"),
        (ODD, FRAMES, "no engine here knows the operator 'NMSRotated' of domain 'mmdeploy'"),
        (TWINS, FRAMES, "the outputs out, prob all have the shape of the answer. Name the one that counts"),
        (BEST, FRAMES, "wants the answers logits (1, 2) in floating point; the file has the outputs best"),
        (PATHS, FRAMES, "input 'fast' float32 (1, 3, 32, 32) is neither the video nor a state: there is no"),
        (SECOND, FRAMES, "input 'training' is bool (), and a state is fed as float32"),
        (OLD, FRAMES, "is written in opset 5, and onnx cannot convert it to 13"),
        (MAP, FRAMES, "has no output that is a tensor"),
        (LOUD, FRAMES, "weight 'w1' holds NaN"),
        (net(FRAME, entry=TensorProto.INT64), FRAMES, "input 'x' is int64"),
    ],
)
def test_what_no_host_can_run_is_one_line(model: Any, spec: ModelSpec, says: str, tmp_path: Path) -> None:
    assert says in refusal(tmp_path, model, spec)


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "m.onnx", "w") as archive:
        archive.writestr("inside.onnx", net().SerializeToString())
    return folder / "m.onnx"


def bytes_of(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "m.onnx").write_bytes(data)
        return folder / "m.onnx"

    return make


def folder_of(folder: Path) -> Path:
    (folder / "m.onnx").mkdir()
    return folder / "m.onnx"


def sparse(folder: Path) -> Path:
    with (folder / "m.onnx").open("wb") as f:
        f.truncate((2 << 30) + 10)
    return folder / "m.onnx"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (bytes_of(b""), "holds no operator"),
        (bytes_of(net().SerializeToString()[:-300]), "is not a whole ONNX file"),
        (bytes_of(b"junk"), "is not a whole ONNX file"),
        (zipped, "is a zip archive. Unpack it, and give the .onnx file inside"),
        (bytes_of(b"version https://git-lfs.github.com/spec/v1\n"), "Run: git lfs pull"),
        (bytes_of(b"\x20\0\0\0TFL3" + bytes(40)), "is a TFLite file, not ONNX"),
        (bytes_of(b"<!DOCTYPE html><html>"), "is a web page or XML"),
        (folder_of, "is a folder"),
        (sparse, "is 2.0 GiB; an ONNX message ends at 2 GiB"),
    ],
)
def test_what_is_no_onnx_file_is_named_for_what_it_is(
    make: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    assert says in refusal(tmp_path, make(tmp_path), CLIPS)


def test_a_file_that_edgepv_wrote_reads_back(tiny_step: Tiny, tmp_path: Path) -> None:
    source = from_files(tiny_step.model, tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)
    lower(build(source), source.spec, tmp_path / "m.onnx")
    made, notes = read_onnx(tmp_path / "m.onnx", source.spec, tmp_path / "read.onnx")
    assert made.stream and [s.name for s in made.stream.states] == ["before", "pool"] and notes == ()
    assert made.outputs == {name: name for name in ("logits", "before_next", "pool_next")}


def passing(path: Path, *inputs: tuple[str, str, tuple[Any, ...]], **changes: Any) -> Path:
    """A mean over the first input, which ``inputs`` name with their dtypes and shapes; states go through.

    changes: ``fresh``, the shape of every NAME_next; ``scale``, what the answer is multiplied by; ``names``,
    of the new state and of the answer.
    """

    def info(name: str, dtype: str, shape: tuple[Any, ...]) -> Any:
        return helper.make_tensor_value_info(name, getattr(TensorProto, dtype), shape)

    first = next((name for name, *_ in inputs if name == "x"), inputs[0][0] if inputs else "scale")
    states = [i for i in inputs if i[0] != first]
    fresh, answer = changes.get("names", (None, "logits"))
    times = 2 if "fresh" in changes else 1
    nodes = [
        helper.make_node("Cast", [first], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], [answer]),
        *(helper.make_node("Concat", [n] * times, [fresh or f"{n}_next"], axis=-1) for n, *_ in states),
    ]
    outputs = [info(answer, "FLOAT", (1, 3))]
    outputs += [info(fresh or f"{n}_next", kind, changes.get("fresh", shape)) for n, kind, shape in states]
    scale = numpy_helper.from_array(np.full((1, 3), changes.get("scale", 1), np.float32), "scale")
    graph = helper.make_graph(nodes, "g", [info(*i) for i in inputs], outputs, [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


THREE = ModelSpec("net", TensorSpec("frame", (1, 3, 8, 8)), ("a", "b", "c"))
VIDEO = ("x", "FLOAT", (1, 3, 8, 8))


@pytest.mark.parametrize(
    ("inputs", "changes", "says"),
    [
        ([VIDEO, ("s", "INT64", (1, 2))], {}, "input 's' is int64 (1, 2), and a state is fed as float32"),
        (
            [VIDEO, ("s", "FLOAT", (1, 2))],
            {"fresh": (1, 4)},
            "state input 's' is float32 (1, 2), its output 's_next' is float32 (1, 4). Make both",
        ),
        ([], {}, "has no input; its first is the video, float32 (1, 3, 8, 8)"),
        ([VIDEO], {"scale": np.nan}, "weight 'scale' holds NaN"),
    ],
)
def test_an_onnx_file_that_no_host_can_feed_is_refused(
    tmp_path: Path, inputs: list[Any], changes: dict[str, Any], says: str
) -> None:
    assert says in refusal(tmp_path, passing(tmp_path / "m.onnx", *inputs, **changes), THREE)


def test_a_weight_of_minus_infinity_is_a_mask_and_taken(tmp_path: Path) -> None:
    file = passing(tmp_path / "m.onnx", VIDEO, ("s", "FLOAT", (1, 2)), scale=-np.inf)
    made, _ = read(tmp_path, file, THREE)
    assert made.stream and [(s.name, s.shape) for s in made.stream.states] == [("s", (1, 2))]
