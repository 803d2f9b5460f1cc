"""Model files by themselves, .onnx, .tflite and OpenVINO's .xml: what they take is read from the file.

With a spec, an ONNX file is stepped as ``edgepv export`` would: every input NAME beside the video is a state
that is fed from the output NAME_next.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgepv.base.files import sha256
from edgepv.base.optional import litert_interpreter, need, ort_options, ort_session
from edgepv.base.quiet import hush_native
from edgepv.base.vet import vet_onnx, vet_openvino, vet_tflite
from edgepv.errors import EngineError, UsageError
from edgepv.measure.artifacts.artifact import (
    FREE,
    Artifact,
    Asked,
    Opened,
    engine_facts,
    file_facts,
    noise,
    over_calls,
    static_shape,
)
from edgepv.measure.artifacts.bundled import of_variant
from edgepv.runtimes.engines.ort import first_line
from edgepv.stream import Tensors
from edgepv.types import DType, ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

ORT_TYPES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of types where numpy's differ: "tensor(float)"."""


@dataclass(frozen=True)
class Port:
    """One input as a file describes it; FREE in place of an axis it leaves open. dtype: numpy's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def of_onnx(path: Path, asked: Asked, threads: int, stack: contextlib.ExitStack) -> Artifact:
    """An ONNX file, by ONNX Runtime. Raises EngineError if that refuses it, UsageError if it is not safe."""
    if asked.spec:
        return _with_spec(path, asked.spec, threads, stack)
    return _by_signature(path, "onnx", "onnxruntime", _onnx_ports(path), asked, threads)


def of_openvino(path: Path, asked: Asked, threads: int) -> Artifact:
    """An OpenVINO .xml and the .bin beside it. Raises like ``of_onnx``."""
    return _by_signature(path, "openvino", "openvino", _openvino_ports(path), asked, threads)


def of_tflite(path: Path, asked: Asked, threads: int) -> Artifact:
    """A TFLite file, by LiteRT. Raises like ``of_onnx``."""
    with hush_native():
        interpreter = _interpreter(path, threads)
        runner = interpreter.get_signature_runner() if interpreter.get_signature_list() else None
    if runner:
        ports = [_litert_port(name, one) for name, one in runner.get_input_details().items()]
        signature = ports, list(runner.get_output_details())
        return _by_signature(path, "tflite", "litert", signature, asked, threads)
    ports = [_litert_port(one["name"], one) for one in interpreter.get_input_details()]
    digest, size = file_facts(path)
    shapes = {p.name: (static_shape(path.name, p.name, p.shape, asked), p.dtype) for p in ports}
    return Artifact(
        name=path.name,
        kind="tflite",
        **engine_facts("litert", threads),
        sha256=digest,
        bytes=size,
        opener=f"{__name__}:unsigned_litert",
        arguments={"path": str(path), "inputs": shapes},
    )


def _with_spec(path: Path, spec: str, threads: int, stack: contextlib.ExitStack) -> Artifact:
    """An ONNX file as a step or a window over frames. Raises UsageError if the spec does not fit it."""
    from edgepv.export.from_onnx import read_onnx
    from edgepv.model.spec import read_spec

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    variant, _ = read_onnx(path, read_spec(Path(spec)), folder / "model.onnx")
    variant = replace(variant, name=path.name, path="model.onnx")
    return of_variant(variant, folder, "onnx", threads)


def _by_signature(
    path: Path,
    kind: str,
    engine: str,
    signature: tuple[Sequence[Port], Sequence[str]],
    asked: Asked,
    threads: int,
) -> Artifact:
    """A file as a variant that is called with what its signature says, by the engine that bundles use.

    The first input takes the place of the video, the others those of states that nobody feeds back.
    """
    ports, outputs = signature
    shapes = {p.name: static_shape(path.name, p.name, p.shape, asked) for p in ports}
    if not ports or not outputs:
        raise UsageError(f"{path}: it has no inputs or no outputs, so there is nothing to call")
    first, *rest = ports
    variant = Variant(
        name=path.name,
        engine=engine,
        precision="fp32",
        form="step",
        path=path.name,
        sha256=sha256(path),
        spec=ModelSpec(path.name, TensorSpec(first.name, shapes[first.name], dtype=_dtype(first))),
        stream=StreamSpec(
            tuple(StateSpec(p.name, outputs[0], shapes[p.name], _dtype(p)) for p in rest), warmup=1
        ),
        inputs={p.name: p.name for p in ports},
        outputs={name: name for name in outputs},
    )
    return of_variant(variant, path.parent, kind, threads, steps=False)


def _dtype(port: Port) -> DType:
    known = ("float32", "float16", "int8", "uint8", "int32", "int64")
    if port.dtype not in known:
        raise UsageError(f"input '{port.name}' is of type {port.dtype}; bench feeds {', '.join(known)}")
    return cast("DType", port.dtype)


def _onnx_ports(path: Path) -> tuple[list[Port], list[str]]:
    data = path.read_bytes()
    vet_onnx(data, path.name)
    try:
        session = ort_session(data, ort_options(rewrites="none"))
    except Exception as e:  # onnxruntime raises a dozen types of its own
        raise EngineError(f"ONNX Runtime cannot load {path}: {first_line(e)}") from e
    ports = []
    for one in session.get_inputs():
        kind = one.type.removeprefix("tensor(").removesuffix(")")
        shape = tuple(n if isinstance(n, int) and n > 0 else FREE for n in one.shape)
        ports.append(Port(one.name, shape, ORT_TYPES.get(kind, kind)))
    return ports, [one.name for one in session.get_outputs()]


def _openvino_ports(path: Path) -> tuple[list[Port], list[str]]:
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise UsageError(f"{path} keeps its weights in {weights.name}, which is not beside it. Copy it there")
    data, values = path.read_bytes(), weights.read_bytes()
    vet_openvino(data, path.name, len(values))
    try:
        model = need("openvino", extra="cpu").Core().read_model(data, values)
    except RuntimeError as e:
        raise EngineError(f"OpenVINO cannot load {path}: {first_line(e)}") from e
    ports = [
        Port(
            _port_name(one),
            tuple(FREE if n.is_dynamic else n.get_length() for n in one.get_partial_shape()),
            np.dtype(one.get_element_type().to_dtype()).name,
        )
        for one in model.inputs
    ]
    return ports, [_port_name(one) for one in model.outputs]


def _port_name(port: Any) -> str:
    names = sorted(port.get_names())
    if not names:
        raise UsageError("an input or output of the OpenVINO model has no name. Convert it again with names")
    return str(names[0])


def _interpreter(path: Path, threads: int) -> Any:
    interpreter_type = litert_interpreter()
    data = path.read_bytes()
    vet_tflite(data, path.name)
    try:
        return interpreter_type(model_content=data, num_threads=threads)
    except (RuntimeError, ValueError) as e:
        raise EngineError(f"LiteRT cannot load {path}: {first_line(e)}") from e


def _litert_port(name: str, detail: Mapping[str, Any]) -> Port:
    shape = detail.get("shape_signature", detail["shape"])
    fixed = detail["shape"] if len(shape) == 0 else shape
    return Port(name, tuple(int(n) if n > 0 else FREE for n in fixed), np.dtype(detail["dtype"]).name)


class UnsignedLiteRt:
    """A TFLite file without a signature: inputs go by the names of its tensors."""

    def __init__(self, interpreter: Any, shapes: Mapping[str, Sequence[int]]) -> None:
        self._interpreter = interpreter
        self._places = {one["name"]: one["index"] for one in interpreter.get_input_details()}
        for name, shape in shapes.items():
            interpreter.resize_tensor_input(self._places[name], list(shape))
        interpreter.allocate_tensors()
        self._outputs = {one["name"]: one["index"] for one in interpreter.get_output_details()}

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; tensors by the file's names."""
        for name, value in inputs.items():
            self._interpreter.set_tensor(self._places[name], value)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(place) for name, place in self._outputs.items()}

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None


def unsigned_litert(path: str, inputs: dict[str, tuple[list[int], str]], threads: int) -> Opened:
    """Open a TFLite file that has no signature. inputs: name -> (shape, dtype)."""
    with hush_native():
        interpreter = _interpreter(Path(path), threads)
        engine = UnsignedLiteRt(interpreter, {name: shape for name, (shape, _) in inputs.items()})
    feeds = {name: noise(shape, dtype) for name, (shape, dtype) in inputs.items()}
    return over_calls(engine, feeds)
