"""An engine that TensorRT built, .engine or .plan: measured on the device it was built on alone."""

from __future__ import annotations

from pathlib import Path

from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.measure.artifacts.artifact import (
    Artifact,
    Asked,
    Opened,
    engine_facts,
    file_facts,
    noise,
    over_calls,
    static_shape,
)
from edgepv.runtimes.engines import trt
from edgepv.runtimes.trt import device
from edgepv.runtimes.trt.bundle import Model
from edgepv.runtimes.trt.engine import TrtEngine
from edgepv.stream import Tensors
from edgepv.types import Json

SUFFIXES = (".engine", ".plan", ".trt")


def of_plan(path: Path, asked: Asked, threads: int) -> Artifact:
    """An engine file. Raises TargetUnavailableError without a GPU or tensorrt, UsageError for several inputs.

    Which of several inputs is a state that an output feeds, no engine file tells.
    """
    if not trt.here():
        raise TargetUnavailableError(
            f"{path} is a TensorRT engine, which runs on the device it was built on; this machine has no GPU "
            "or no tensorrt. Run edgepv bench there, or give it --remote ssh://HOST"
        )
    inputs, outputs = _ports(path)
    if len(inputs) != 1:
        raise UsageError(
            f"{path} has {len(inputs)} inputs, and an engine file does not say which are states. Give the "
            "bundle that it was built of"
        )
    (name, shape), *_ = inputs.items()
    digest, size = file_facts(path)
    return Artifact(
        name=path.name,
        kind="tensorrt",
        **engine_facts("tensorrt", threads),
        sha256=digest,
        opener=f"{__name__}:opened",
        arguments={
            "path": str(path),
            "frame": [name, list(static_shape(path.name, name, shape, asked))],
            "outputs": outputs,
        },
        bytes=size,
    )


def _ports(path: Path) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Inputs with their shapes, and the names of the outputs."""
    tensorrt = device.tensorrt()
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise UsageError(f"TensorRT does not take {path}: it is of another device or another TensorRT")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    fed = [n for n in names if engine.get_tensor_mode(n) == tensorrt.TensorIOMode.INPUT]
    return {n: tuple(engine.get_tensor_shape(n)) for n in fed}, [n for n in names if n not in fed]


class PlanEngine:
    """A TensorRT engine without states."""

    def __init__(self, engine: TrtEngine) -> None:
        self._engine = engine

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; tensors by the file's names."""
        return self._engine.advance(inputs)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def opened(path: str, frame: list[Json], outputs: list[str], threads: int) -> Opened:
    """Load an engine file of one input. threads: is not asked, the GPU has its own."""
    name, shape = frame
    model = Model(
        name=Path(path).name,
        path=path,
        sha256="",
        precision="fp32",
        frame=(name, tuple(shape)),
        answers=dict.fromkeys(outputs, ()),
        states=(),
        inputs={name: name},
        outputs={one: one for one in outputs},
        labels=(),
        scores="logits",
        colour="rgb",
        mean=(),
        std=(),
        frames=1,
        chunk=1,
        warmup=1,
        streamed=False,
    )
    engine = PlanEngine(TrtEngine(device.tensorrt(), Path(path).read_bytes(), model))
    return over_calls(engine, {name: noise(shape, "float32")})
