"""OpenVINO on the CPU. Reads ONNX (float or Q/DQ) and OpenVINO's own .xml."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np

from edgepv.base.optional import need
from edgepv.base.vet import vet_onnx, vet_openvino
from edgepv.errors import EngineError, TargetUnavailableError
from edgepv.runtimes.engine import Read, check_inputs, check_names, expected_inputs
from edgepv.runtimes.engines.ort import first_line
from edgepv.stream import Tensors
from edgepv.types import Variant

# OpenVINO's own choice on a CPU with bf16 is bf16; an honest fp32 row has to ask for f32.
HINT = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}


class OvEngine:
    """A compiled OpenVINO model and one infer request."""

    def __init__(self, variant: Variant, compiled: Any) -> None:
        self.compiled = compiled
        self._expected = expected_inputs(variant)
        self._request = compiled.create_infer_request()
        self._inputs = variant.inputs
        ports = {name: port for port in compiled.outputs for name in port.get_names()}
        check_names(variant, [variant_name(p, variant) for p in compiled.inputs], ports)
        self._ports = {ours: ports[theirs] for ours, theirs in variant.outputs.items()}

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; outputs are copies, because the request reuses its buffers."""
        check_inputs(inputs, self._expected)
        feeds = {self._inputs[name]: value for name, value in inputs.items()}
        result = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        return {name: np.array(result[port]) for name, port in self._ports.items()}

    def close(self) -> None:
        """Free the compiled model."""
        self._request = self.compiled = None


def variant_name(port: Any, variant: Variant) -> str:
    """The one of a port's names that the variant knows it by; else any of them."""
    names = sorted(port.get_names())
    return next((name for name in names if name in variant.inputs.values()), "".join(names[:1]))


def open(variant: Variant, read: Read, threads: int) -> OvEngine:
    """Load an ONNX or .xml file.

    Raises EngineError if OpenVINO refuses it, UsageError if it is not safe to open, TargetUnavailableError
    for bfloat16 on a CPU that has none: it would silently be float32.
    """
    ov = need("openvino", extra="cpu")
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": HINT[variant.precision],
    }
    files = _files(variant.path, read)
    core = ov.Core()
    try:
        compiled = core.compile_model(core.read_model(*files), "CPU", config)
    except RuntimeError as e:
        raise EngineError(f"OpenVINO cannot load {variant.path}: {_telling(e)}") from e
    runs = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if variant.precision == "bf16" and runs != "bf16":
        raise TargetUnavailableError(
            f"{variant.name} is for a CPU with bfloat16, and OpenVINO would run it in {runs} here. Run "
            "another variant of the bundle"
        )
    return OvEngine(variant, compiled)


def build() -> str:
    """Which OpenVINO is here."""
    return f"openvino {need('openvino', extra='cpu').get_version()}"


def _telling(error: RuntimeError) -> str:
    """The line of OpenVINO's error that says something: the first ones name places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line[3:] for line in lines if line.startswith("-- ")]
    reasons += [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return reasons[0] if reasons else first_line(error)


def _files(path: str, read: Read) -> tuple[bytes, ...]:
    """The bytes of a model, and those of the .bin beside an .xml."""
    model = read(path)
    if not path.endswith(".xml"):
        vet_onnx(model, path)
        return (model,)
    weights = read(str(PurePosixPath(path).with_suffix(".bin")))
    vet_openvino(model, path, len(weights))
    return model, weights
