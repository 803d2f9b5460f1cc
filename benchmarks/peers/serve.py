"""A peer in a process and an environment of its own: it makes its file of a model, then answers and is timed.

``python serve.py PEER.py CASE OUT make default|tuned`` and ``... serve ...``; benchmarks/peers.py starts it.
Of the environment it needs numpy and what the peer's file imports. A peer's file has two functions:
``make(case, out, tuned)`` writes its model into the folder ``out`` and returns facts of it, which
``open_model(case, out, made)`` is given again; it returns what answers: tensors by the model's names in,
tensors by name out. Commands and answers of ``serve`` are pickled over standard input and output.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
Tensors = dict[str, np.ndarray]
Infer = Callable[[Tensors], Tensors]
MEMORY = 8 << 30
"""Bytes that a peer may ask for: a calibration that keeps every activation took all of a machine of 23 GB.
With half as much NNCF could not begin, which reserves more than it uses."""
WARM = 1
"""Calls of a turn that are not timed: the caches hold what others left in them."""


@dataclass(frozen=True)
class Case:
    """A model in a folder: model.onnx in float, checkpoint.json, calibration.npz and what they are called."""

    folder: Path

    @property
    def model(self) -> Path:
        """The float model, opset 18, static shapes."""
        return self.folder / "model.onnx"

    @property
    def names(self) -> dict[str, list[str]]:
        """Names of "inputs" and "outputs" in the order of the graph."""
        found: dict[str, list[str]] = json.loads((self.folder / "names.json").read_text())
        return found

    def quantized(self) -> bytes:
        """The INT8 file of ONNX Runtime's quantize_static, for peers that only run what others quantized."""
        path = self.folder / "quantized.onnx"
        if not path.is_file():
            raise RuntimeError("ONNX Runtime made no INT8 file of it")
        return path.read_bytes()

    def calibration(self) -> list[Tensors]:
        """Inputs that set the ranges, states included: the same for every peer."""
        with np.load(self.folder / "calibration.npz") as held:
            count = len(held[self.names["inputs"][0]])
            return [{name: held[name][i] for name in self.names["inputs"]} for i in range(count)]

    def module(self) -> tuple[Any, tuple[Any, ...]]:
        """The torch module, of a model that steps its step, and example inputs in the order of the graph."""
        sys.path.insert(0, str(ROOT))
        import torch

        from edgepv.export.to_onnx import step_module, stream_spec
        from edgepv.model.checkpoint import build
        from edgepv.types import Checkpoint, decode

        given = decode(Checkpoint, json.loads((self.folder / "checkpoint.json").read_text()))
        module = build(given)
        if stream_spec(module, given.spec):
            module = step_module(module)
        first = self.calibration()[0]
        return module.eval(), tuple(torch.from_numpy(first[n]) for n in self.names["inputs"])

    def tensors(self) -> list[tuple[Any, ...]]:
        """The calibration inputs as torch takes them."""
        import torch

        names = self.names["inputs"]
        return [tuple(torch.from_numpy(feed[n]) for n in names) for feed in self.calibration()]

    def by_name(self, outputs: Any) -> Tensors:
        """What a model answers in the order of the graph, by name."""
        return dict(zip(self.names["outputs"], (np.asarray(o) for o in outputs), strict=True))


def convolutions(program: Any) -> int:
    """Convolutions in a graph that torch exported, as its user wrote them."""
    return sum(str(node.target).startswith("aten.conv") for node in program.graph.nodes)


def onnxruntime_session(path: Path) -> Infer:
    """ONNX Runtime as its users open it, on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds)))


def openvino_model(path: Path) -> Infer:
    """OpenVINO as its users open it, on one thread: what is float runs in bfloat16 where the CPU has it."""
    import openvino as ov

    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.outputs]

    def infer(feeds: Tensors) -> Tensors:
        found = request.infer(feeds)
        return {name: found[name].copy() for name in names}

    return infer


def turn(infer: Infer, feeds: list[Tensors], calls: int) -> tuple[list[float], float]:
    """(seconds of each call by the clock, CPU seconds of a call over all threads)."""
    for i in range(WARM):
        infer(feeds[i % len(feeds)])
    walls = []
    cpu = time.process_time()
    for i in range(calls):
        start = time.perf_counter()
        infer(feeds[i % len(feeds)])
        walls.append(time.perf_counter() - start)
    return walls, (time.process_time() - cpu) / calls


def serve(infer: Infer, commands: Any, answers: Any) -> None:
    """Answer commands until there are no more: ("infer", feeds) and ("turn", feeds, calls).

    What keeps its states itself is also asked ("reset",) and ("write", state, value).
    """
    while True:
        try:
            what, *given = pickle.load(commands)
        except EOFError:
            return
        try:
            if what in ("reset", "write"):
                told: Any = getattr(infer, what)(*given) or True
            else:
                told = infer(*given) if what == "infer" else turn(infer, *given)
        except Exception as e:  # a library's own error is the peer's result
            told = f"{type(e).__name__}: {e}"
        pickle.dump(told, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def main() -> None:
    """Entry of the process."""
    peer, case, out, what, kind = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to where the answers go
    sys.path.insert(0, str(Path(peer).parent))
    module = importlib.import_module(Path(peer).stem)
    if what == "make":
        made = module.make(Case(Path(case)), Path(out), kind == "tuned")
        Path(out, "made.json").write_text(json.dumps(made))
        return
    made = json.loads(Path(out, "made.json").read_text())
    infer = module.open_model(Case(Path(case)), Path(out), made)
    pickle.dump(hasattr(infer, "reset"), answers)  # it is open, and says whether it keeps its states
    answers.flush()
    serve(infer, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
