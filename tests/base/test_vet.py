"""No engine opens a model file that could make it read outside of it, and none of ours is refused."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepv import bundle
from edgepv.base.vet import ONNX, vet_onnx, vet_openvino, vet_tflite
from edgepv.errors import UsageError
from edgepv.runtimes import open_engine
from edgepv.types import Variant

ANYWHERE = ("other.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*")


def outside(location: str = "/etc/hostname") -> TensorProto:
    """Four numbers that lie in another file, or at an address."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(*nodes: onnx.NodeProto, weights: tuple[Any, ...] = (), **more: Any) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)


def add() -> onnx.NodeProto:
    return helper.make_node("Add", ["x", "w"], ["y"])


def constant(**attribute: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["w"], **attribute)


def in_a_branch(depth: int) -> onnx.NodeProto:
    """A constant in a graph inside a graph ... of an If."""
    inner = constant(value=outside())
    for i in range(depth):
        graph = helper.make_graph([inner], f"g{i}", [], [helper.make_tensor_value_info("w", 1, [4])])
        inner = helper.make_node("If", ["c"], ["w"], then_branch=graph, else_branch=graph)
    return inner


def sparse() -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64))
    return helper.make_sparse_tensor(outside(), indices, [8])


def with_sparse() -> onnx.ModelProto:
    made = model(add())
    made.graph.sparse_initializer.append(sparse())
    return made


def in_a_function() -> onnx.ModelProto:
    function = helper.make_function(
        "own", "f", ["x"], ["w"], [constant(value=outside())], [helper.make_opsetid("", 17)]
    )
    return model(add(), functions=[function])


def in_training() -> onnx.ModelProto:
    made = model(add())
    made.training_info.add().algorithm.initializer.append(outside())
    return made


def flagged_only() -> onnx.ModelProto:
    return model(add(), weights=(TensorProto(name="w", data_location=TensorProto.EXTERNAL),))


HIDING: dict[str, Callable[[], onnx.ModelProto]] = {
    "an initializer": lambda: model(add(), weights=(outside(),)),
    "a constant": lambda: model(constant(value=outside()), add()),
    "a list of tensors": lambda: model(constant(values=[outside()]), add()),
    "a sparse attribute": lambda: model(constant(sparse_value=sparse()), add()),
    "a sparse initializer": with_sparse,
    "a branch": lambda: model(in_a_branch(1), add()),
    "a branch of a branch": lambda: model(in_a_branch(5), add()),
    "a function": in_a_function,
    "training": in_training,
    "no location": flagged_only,
}


@pytest.mark.parametrize("hidden", HIDING)
def test_external_data_is_found_wherever_onnx_may_hold_a_tensor(hidden: str) -> None:
    data = HIDING[hidden]().SerializeToString()
    with pytest.raises(UsageError, match="keeps its weights in another file"):
        vet_onnx(data, "m.onnx")


def test_the_table_has_every_way_to_a_tensor_that_onnx_has() -> None:
    """Walks onnx's own schema from ModelProto and compares what leads to a TensorProto."""

    def leads(kind: Any, seen: tuple[str, ...] = ()) -> bool:
        inner = [f.message_type for f in kind.fields if f.message_type and f.message_type.name not in seen]
        return kind.name == "TensorProto" or any(leads(k, (*seen, kind.name)) for k in inner)

    waiting, found = [onnx.ModelProto.DESCRIPTOR], {}
    while waiting:
        kind = waiting.pop()
        if kind.name not in found:
            inner = {} if kind.name == "TensorProto" else {f.number: f.message_type for f in kind.fields}
            kept = {number: k for number, k in inner.items() if k and leads(k)}
            found[kind.name] = {number: k.name for number, k in kept.items()}
            waiting += kept.values()
    assert found == ONNX


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("location", ANYWHERE)
def test_no_engine_is_handed_a_file_with_external_data(
    step_bundle: Path, tmp_path: Path, engine: str, location: str
) -> None:
    """OpenVINO read any file, and with the last of them any address, into the answer."""
    first = bundle.read(step_bundle).content.variants[0]
    (tmp_path / "m.onnx").write_bytes(model(add(), weights=(outside(location),)).SerializeToString())
    with pytest.raises(UsageError, match="keeps its weights in another file"):
        open_engine(replace(first, engine=engine, path="m.onnx"), tmp_path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x3a\x05\x00", "truncated"),
        (b"\x3b\x00", "no protobuf"),
        (b"\x38\x01", "no ONNX message"),
        (b"\x0a\x01x", "no ONNX message"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "truncated"),
        (b"\x08" + b"\x80" * 11, "truncated"),
        (b"\x08\x01\x10\x02ORTM", "a flatbuffer"),
        (b"\x08\x01\x10\x02TFL3", "a flatbuffer"),
    ],
)
def test_bytes_that_are_no_onnx_are_one_line(data: bytes, why: str) -> None:
    with pytest.raises(UsageError, match=rf"m.onnx cannot be opened safely: .*{why}"):
        vet_onnx(data, "m.onnx")


def test_a_node_that_names_an_engines_file_is_refused() -> None:
    data = model(helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")).SerializeToString()
    with pytest.raises(UsageError, match="an EPContext node names another file"):
        vet_onnx(data, "m.onnx")


def test_graphs_inside_graphs_without_end_are_refused() -> None:
    data = b""
    for _ in range(200):  # a graph in an attribute in a node in a graph ...
        for tag in (0x32, 0x2A, 0x0A):
            size = len(data)
            length = b""
            while size >= 128:
                length, size = length + bytes([size & 127 | 128]), size >> 7
            data = bytes([tag]) + length + bytes([size]) + data
    outer = len(data)
    varint = bytes([outer & 127 | 128, outer >> 7 & 127]) if outer >> 14 == 0 else b"\xff\xff\x7f"
    with pytest.raises(UsageError, match="nested too deep"):
        vet_onnx(b"\x3a" + varint + data, "m.onnx")


XML = (
    '<net name="m" version="11"><layers><layer id="0" name="c" type="Const" version="opset1">'
    '<data element_type="f32" shape="2,2" offset="0" size="16" /></layer></layers></net>'
)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('offset="0"', 'offset="1"', "outside of its .bin"),
        ('offset="0"', f'offset="{2**64 - 8}"', "outside of its .bin"),
        ('offset="0"', 'offset="-1"', "outside of its .bin"),
        ('size="16"', 'size="17"', "outside of its .bin"),
        ('shape="2,2"', 'shape="2,3"', "outside of its .bin"),
        ('shape="2,2"', 'shape="4294967296,4294967296"', "outside of its .bin"),
        ('"f32"', '"string"', "outside of its .bin"),
        ("<layers>", '<rt_info><__weights_path value="/etc/passwd"/></rt_info><layers>', "another file"),
        ("<net", '<!DOCTYPE n [<!ENTITY a "b">]><net', "document type"),
        ("</net>", "", "no XML"),
    ],
)
def test_an_openvino_file_that_points_out_of_its_weights_is_refused(old: str, new: str, why: str) -> None:
    vet_openvino(XML.encode(), "m.xml", 16)
    with pytest.raises(UsageError, match=rf"m.xml cannot be opened safely: .*{re.escape(why)}"):
        vet_openvino(XML.replace(old, new).encode(), "m.xml", 16)


def flatbuffer(change: Callable[[Any, Any], None] = lambda schema, made: None) -> bytes:
    """A TFLite model that adds a constant to its input; ``change`` may alter its tables."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="LiteRT is not installed")
    flatbuffers = pytest.importorskip("flatbuffers")

    def tensor(name: str, buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name.encode(), [1, 4], buffer, 0
        return made

    made = schema.ModelT()
    made.version, code, graph, operator = 3, schema.OperatorCodeT(), schema.SubGraphT(), schema.OperatorT()
    constant = schema.BufferT()
    constant.data = np.frombuffer(np.arange(4, dtype=np.float32).tobytes(), np.uint8)
    made.buffers = [schema.BufferT(), schema.BufferT(), constant, schema.BufferT()]
    code.builtinCode = code.deprecatedBuiltinCode = 0
    graph.tensors = [tensor("x", 1), tensor("w", 2), tensor("y", 3)]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType, operator.builtinOptions = 11, schema.AddOptionsT()
    made.operatorCodes, made.subgraphs = [code], [graph]
    change(schema, made)
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _far(schema: Any, made: Any) -> None:
    made.buffers[2].data, made.buffers[2].offset, made.buffers[2].size = None, 1 << 40, 16


def _large_options(schema: Any, made: Any) -> None:
    operator = made.subgraphs[0].operators[0]
    operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize = 1 << 40, 16


@pytest.mark.parametrize("change", [_far, _large_options])
def test_a_tflite_file_with_parts_outside_of_it_is_refused(change: Any) -> None:
    vet_tflite(flatbuffer(), "m.tflite")
    with pytest.raises(UsageError, match="lie outside of the file"):
        vet_tflite(flatbuffer(change), "m.tflite")


def test_large_weights_behind_the_flatbuffer_are_in_the_file() -> None:
    """As ai-edge-quantizer writes those of pv-conv-small."""

    def placed(offset: int) -> Callable[[Any, Any], None]:
        def change(schema: Any, made: Any) -> None:
            made.buffers[2].data, made.buffers[2].offset, made.buffers[2].size = None, offset, 16

        return change

    end = len(flatbuffer(placed(1 << 20)))
    data = flatbuffer(placed(end)) + np.arange(4, dtype=np.float32).tobytes()
    assert len(data) == end + 16
    vet_tflite(data, "m.tflite")
    with pytest.raises(UsageError, match="lie outside of the file"):
        vet_tflite(data[:-1], "m.tflite")


def test_a_tflite_file_whose_offsets_lead_out_of_it_is_refused() -> None:
    """Every 4 bytes in turn become the largest number; what passes still names no place outside."""
    data = flatbuffer()
    refused = 0
    for at in range(0, len(data) - 3, 4):
        changed = data[:at] + struct.pack("<I", 0x7FFFFFFF) + data[at + 4 :]
        try:
            vet_tflite(changed, "m.tflite")
        except UsageError:
            refused += 1
    assert refused > len(data) // 4 // 3
    for end in range(len(data)):
        with pytest.raises(UsageError, match="cannot be opened safely"):
            vet_tflite(data[:end], "m.tflite")


def test_a_whole_bundle_of_ours_passes(step_bundle: Path) -> None:
    found = bundle.read(step_bundle)
    variants: tuple[Variant, ...] = found.content.variants
    for variant in variants:
        open_engine(variant, found.checked).close()
