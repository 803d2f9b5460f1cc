"""Answers of an ONNX file for the fake TensorRT: by ONNX Runtime on the CPU, so that they are real.

In a Python without onnxruntime (the kit's 3.8), a process of the Python in FAKE_PYTHON does it.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from typing import Any

try:
    import onnx
    import onnxruntime

    HERE = True
except ImportError:
    HERE = False


class Local:
    """An ONNX file in this process."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], disabled_optimizers=["WeightBiasQuantization"]
        )
        self._model = onnx.load_from_string(data)

    def tensors(self) -> list[Any]:
        """(name, whether it is an input, shape, ONNX Runtime's type) of every input and output."""
        sides = ((self._session.get_inputs(), True), (self._session.get_outputs(), False))
        return [(t.name, is_input, list(t.shape), t.type) for side, is_input in sides for t in side]

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name."""
        names = [t.name for t in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feeds)))

    def layers(self, kind: str, rest: str) -> str:
        """Layer information in TensorRT 10's form: nodes with Q/DQ in ``kind``, the rest in ``rest``."""
        made = {n.output[0] for n in self._model.graph.node if n.op_type == "DequantizeLinear"}
        rows = []
        for node in self._model.graph.node:
            if node.op_type in ("Conv", "MatMul", "Gemm", "ConvTranspose"):
                said = kind if made.issuperset(node.input[:2]) else rest
                tensor = {"Name": node.input[0], "Format/Datatype": said}
                rows.append(
                    {"Name": node.name, "LayerType": "Convolution", "Inputs": [tensor], "Outputs": []}
                )
        return json.dumps({"Layers": rows})


class Remote:
    """An ONNX file in a process of another Python."""

    def __init__(self, data: bytes) -> None:
        self._process = subprocess.Popen(
            [os.environ["FAKE_PYTHON"], __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}
        )
        self._ask(data)

    def _ask(self, what: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        pickle.dump(what, self._process.stdin, protocol=4)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def tensors(self) -> list[Any]:
        return self._ask(("tensors",))

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        asked = {name: (str(v.dtype), v.shape, v.tobytes()) for name, v in feeds.items()}
        return _arrays(self._ask(("run", asked)))

    def layers(self, kind: str, rest: str) -> str:
        return str(self._ask(("layers", kind, rest)))

    def __del__(self) -> None:
        self._process.kill()
        self._process.wait()


def _arrays(packed: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    return {name: np.frombuffer(data, kind).reshape(shape) for name, (kind, shape, data) in packed.items()}


def serve() -> None:
    """The other process: plain bytes go over the pipe, as numpy's own pickles differ between its versions."""
    model = Local(pickle.load(sys.stdin.buffer))
    answer: Any = None
    while True:
        pickle.dump(answer, sys.stdout.buffer, protocol=4)
        sys.stdout.buffer.flush()
        try:
            name, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if name == "run":
            made = model.run(_arrays(arguments[0]))
            answer = {key: (str(v.dtype), v.shape, v.tobytes()) for key, v in made.items()}
        else:
            answer = getattr(model, name)(*arguments)


def opened(data: bytes) -> Any:
    """An ONNX file that can be run."""
    return Local(data) if HERE else Remote(data)


if __name__ == "__main__":
    serve()
