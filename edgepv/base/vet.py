"""Model files are refused that could make an engine read outside of them; no engine's library is needed.

An ONNX file may name other files, or an address in memory, as the place of its weights. An OpenVINO .xml
names places in its .bin. A TFLite file is a flatbuffer, full of offsets that LiteRT follows unchecked.
Machine code cannot be examined: it is refused unless a signature vouches for its bytes. Python 3.8 reads this
file too: a device looks at a model with it before TensorRT does.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from edgepv.errors import UsageError

DEEPEST = 90  # messages inside each other; protobuf itself reads 100
MOST_FIELDS = 2_000_000
"""Fields that are read of one ONNX file: a bound on the time that a hostile one can take."""
VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5  # protobuf's wire types

ONNX = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
"""Where ONNX messages hold tensors: message -> field number -> message. Source: onnx.proto."""
IR_VERSION, OP_TYPE, EXTERNAL_DATA, DATA_LOCATION = 1, 4, 13, 14  # field numbers of onnx.proto
CONTEXT = b"EPContext"  # a node whose engine lies in a file that it names
FLATBUFFERS = (b"ORTM", b"TFL3")  # engines take bytes with such a mark for a file of another format


def vet_onnx(data: bytes, name: str) -> None:
    """Raise UsageError if any tensor of an ONNX model keeps its values outside of the file.

    Looks at graphs inside nodes, functions and training graphs too. Source of the format: the protobuf
    encoding (protobuf.dev/programming-guides/encoding).
    """
    if data[4:8] in FLATBUFFERS:
        _refuse(name, "it is a flatbuffer")
    waiting, left = [("ModelProto", 0, len(data), 0)], MOST_FIELDS
    while waiting:
        message, start, end, depth = waiting.pop()
        for number, kind, at, stop in _fields(data, start, end, name):
            left -= 1
            if depth > DEEPEST or left < 0:
                _refuse(name, "its messages are nested too deep or too many")
            inner = ONNX[message].get(number)
            if (inner and kind != LEN) or (
                message == "ModelProto" and number == IR_VERSION and kind != VARINT
            ):
                _refuse(name, "it is no ONNX message")
            if inner:
                waiting.append((inner, at, stop, depth + 1))
            elif message == "TensorProto" and _outside(data, number, kind, at, stop):
                raise UsageError(
                    f"{name} keeps its weights in another file. Save it as one: external_data=False"
                )
            elif message == "NodeProto" and number == OP_TYPE and data[at:stop] == CONTEXT:
                _refuse(name, "an EPContext node names another file")


def _outside(data: bytes, number: int, kind: int, at: int, stop: int) -> bool:
    """Whether a field of a TensorProto places its values outside of the file."""
    inline = kind == VARINT and not any(byte & 0x7F for byte in data[at:stop])  # DataLocation.DEFAULT
    return number == EXTERNAL_DATA or (number == DATA_LOCATION and not inline)


def _fields(data: bytes, start: int, end: int, name: str) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, first byte, end) of every field of one protobuf message."""
    while start < end:
        tag, at = _varint(data, start, end, name)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            stop = _varint(data, at, end, name)[1]
        elif kind == LEN:
            size, at = _varint(data, at, end, name)
            stop = at + size
        elif kind in (FIXED64, FIXED32):
            stop = at + (8 if kind == FIXED64 else 4)
        else:
            _refuse(name, "it is no protobuf")
        if not 0 < number < 1 << 29 or stop > end:
            _refuse(name, "it is no protobuf, or truncated")
        yield number, kind, at, stop
        start = stop


def _varint(data: bytes, at: int, end: int, name: str) -> tuple[int, int]:
    """(value, end) of the variable-length integer at ``at``."""
    value = 0
    for i, byte in enumerate(data[at : min(at + 10, end)]):
        value |= (byte & 0x7F) << (7 * i)
        if not byte & 0x80:
            break
    else:
        _refuse(name, "it is no protobuf, or truncated")
    return value, at + i + 1


BITS = {
    **{"boolean": 8, "f16": 16, "f32": 32, "f64": 64, "bf16": 16},
    **{f"{sign}{bits}": bits for sign in "iu" for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)},
}
"""Bits of one element of an OpenVINO type. Narrow floats are not written by edgepv."""


def vet_openvino(data: bytes, name: str, weights: int) -> None:
    """Raise UsageError if an OpenVINO .xml names a place outside of its .bin of ``weights`` bytes."""
    from xml.etree import ElementTree

    if b"<!" in data.replace(b"<!--", b"") or b"\0" in data:
        _refuse(name, "it declares a document type or entities")
    try:
        elements = list(ElementTree.fromstring(data.decode("utf-8")).iter())
    except (ElementTree.ParseError, ValueError, RecursionError) as e:
        _refuse(name, f"it is no XML in UTF-8: {e}")
    for element in elements:
        known = element.attrib
        if "weights_path" in element.tag or any("weights_path" in key for key in known):
            _refuse(name, "it names another file of weights")
        if ("offset" in known or "size" in known) and not _within(known, weights):
            _refuse(name, f"a constant lies outside of its .bin of {weights} bytes")


def _within(known: dict[str, str], weights: int) -> bool:
    """Whether the constant that a data element describes has all its values in the .bin."""
    shape = known.get("shape", "") or "1"
    numbers = [known.get("offset", ""), known.get("size", ""), *re.split(r"\s*,\s*", shape)]
    bits = BITS.get(known.get("element_type", ""))
    if bits is None or not all(re.fullmatch(r"[0-9]{1,12}", n) for n in numbers):
        return False
    offset, size, *lengths = map(int, numbers)
    return offset + size <= weights and math.prod(lengths) * bits <= 8 * size


REFUSED = -1  # in place of a table's name: a field that no file of ours has
TFLITE: dict[str, dict[int, Any]] = {
    "Model": {
        1: ["OperatorCode"],
        2: ["SubGraph"],
        3: "text",
        4: ["Buffer"],
        5: 4,
        6: ["Metadata"],
        7: ["SignatureDef"],
        8: REFUSED,  # external buffers
        9: REFUSED,
    },
    "OperatorCode": {1: "text"},
    "SubGraph": {0: ["Tensor"], 1: 4, 2: 4, 3: ["Operator"], 4: "text"},
    "Tensor": {
        0: 4,
        3: "text",
        4: "Quantization",
        6: "Sparsity",
        7: 4,
        9: ["SubType"],
        10: REFUSED,  # its external buffer
    },
    "Quantization": {0: 4, 1: 4, 2: 4, 3: 8, 5: "Options"},
    "Sparsity": {0: 4, 1: 4, 2: ["Dimension"]},
    "Dimension": {3: "Options", 5: "Options"},
    "SubType": {0: 4},
    "Operator": {
        1: 4,
        2: 4,
        4: "Options",
        5: 1,
        7: 1,
        8: 4,
        12: "Options",
    },
    "Buffer": {0: 1},
    "Metadata": {0: "text"},
    "SignatureDef": {0: ["TensorMap"], 1: ["TensorMap"], 2: "text"},
    "TensorMap": {0: "text"},
    "Options": {},
}
"""Table -> slot -> what its offset leads to: a table, a [vector of tables], a text, or a vector of so many
bytes each. Slots that are not named hold numbers. Source: schema.fbs of LiteRT (TFL3); ``Options`` stands for
its 150 tables of options, of which only the place of their numbers is checked."""
BEHIND = {"Buffer": (1, 2), "Operator": (9, 10)}
"""Table -> slots of a place in the file and of how many bytes lie there: quantizers put large weights behind
the flatbuffer, in the same file."""


def vet_tflite(data: bytes, name: str) -> None:
    """Raise UsageError if an offset of a TFLite flatbuffer leads out of it, or weights lie behind it.

    Source of the format: flatbuffers.dev/internals.
    """
    if data[4:8] != b"TFL3":
        _refuse(name, "it is no TFLite flatbuffer")
    seen: set[int] = set()
    try:
        waiting = [("Model", _follow(data, 0))]
        while waiting:
            kind, table = waiting.pop()
            if table not in seen:
                seen.add(table)
                waiting += _tables(data, kind, table, name)
    except (struct.error, OverflowError):
        _refuse(name, "an offset leads out of it")


def _tables(data: bytes, kind: str, table: int, name: str) -> Iterator[tuple[str, int]]:
    """The tables that one table leads to. Raises struct.error for an offset out of ``data``."""
    slots = list(_slots(data, table))
    behind = [_number(data, "<Q", at) for slot, at in slots if slot in BEHIND.get(kind, ())]
    if sum(behind) > len(data):
        _refuse(name, "weights or options lie outside of the file")
    for slot, at in slots:
        target = TFLITE[kind].get(slot)
        if target == REFUSED:
            _refuse(name, "its weights are in another file")
        elif isinstance(target, list):
            start = _follow(data, at)
            for i in range(_length(data, start, 4)):
                yield target[0], _follow(data, start + 4 + 4 * i)
        elif target == "text" or target in (1, 4, 8):
            _length(data, _follow(data, at), 1 if target == "text" else target)
        elif target in TFLITE:
            yield target, _follow(data, at)


def _slots(data: bytes, table: int) -> Iterator[tuple[int, int]]:
    """(slot, place) of the fields that a table holds, each with its 4 bytes in ``data``."""
    vtable = table - _number(data, "<i", table)
    size, inline = _number(data, "<H", vtable), _number(data, "<H", vtable + 2)
    if size < 4 or inline < 4:
        raise struct.error
    _number(data, "<B", table + inline - 1)
    for slot in range((size - 4) // 2):
        place = _number(data, "<H", vtable + 4 + 2 * slot)
        if place >= inline:
            raise struct.error
        if place:
            yield slot, table + place


def _follow(data: bytes, at: int) -> int:
    """Where the offset at ``at`` leads to."""
    target = at + _number(data, "<I", at)
    _number(data, "<I", target)
    return target


def _length(data: bytes, vector: int, width: int) -> int:
    """Elements of a vector that ends in ``data``."""
    count = _number(data, "<I", vector)
    if vector + 4 + count * width > len(data):
        raise struct.error
    return count


def _number(data: bytes, form: str, at: int) -> int:
    if at < 0:  # Python would count from the end
        raise struct.error
    number: int = struct.unpack_from(form, data, at)[0]
    return number


TRUST = "EDGEPV_TRUST_NATIVE"
"""Environment variable: 1 lets machine code of any bundle run, signed or not."""
_vouched: set[str] = set()


def vouch(digests: Iterable[str]) -> None:
    """From now on this process runs files of these SHA-256: a signature that was verified covers them."""
    _vouched.update(digests)


def vouched() -> tuple[str, ...]:
    """Every SHA-256 that was vouched for, for a process that works for this one."""
    return tuple(sorted(_vouched))


def vet_code(data: bytes, name: str) -> None:
    """Raise UsageError for machine code that no verified signature covers, unless TRUST is set to 1."""
    if hashlib.sha256(data).hexdigest() in _vouched or os.environ.get(TRUST) == "1":
        return
    raise UsageError(
        f"{name} is machine code, and no signature that was verified covers it. Give the public key of who "
        f"signed the bundle, or set {TRUST}=1 if you made it yourself"
    )


def _refuse(name: str, why: str) -> NoReturn:
    raise UsageError(f"{name} cannot be opened safely: {why}. Export it again")
