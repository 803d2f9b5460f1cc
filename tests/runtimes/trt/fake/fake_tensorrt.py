"""A LABELLED FAKE of the module ``tensorrt``, in the versions that edgepv meets; it is not NVIDIA's.

``make("8.6.1", driver)`` gives a module that has of TensorRT 8.6.1 what edgepv asks for, and nothing else: a
member that is not there raises AttributeError, as it would on the device. It records what it was told.
Engines run the ONNX file on the CPU (fake_onnx.py), so answers, and what becomes of states, are real.
"""

from __future__ import annotations

import ctypes
import json
import types
from typing import Any

import fake_onnx
import numpy as np

SINCE_8_6 = ("builder_optimization_level", "max_aux_streams")
SINCE_10 = ("progress_monitor",)
GONE_IN_11 = ("EXPLICIT_BATCH", "FP16", "INT8")
KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
MAGIC = b"FAKE TENSORRT ENGINE\n"


class Script:
    """What a test wants to happen. refuse: attempts to build that fail. error: what is logged then.

    parse_error: why the parser refuses. onnx: another file that the engine secretly runs. rest: what layers
    without Q/DQ are said to run in. kind: what those with Q/DQ are.
    """

    def __init__(self) -> None:
        self.refuse, self.error, self.parse_error = 0, "out of memory", ""
        self.onnx: bytes = b""
        self.kind, self.rest = "Int8", "Half"


def make(version: str, driver: Any) -> types.ModuleType:  # noqa: C901  one class for each of TensorRT's
    """The fake of one version. ``calls`` has what was told to it, ``script`` what it does."""
    number = tuple(int(part) for part in version.split("."))
    trt = types.ModuleType("tensorrt")
    trt.__version__ = version  # type: ignore[attr-defined]
    told: Any = trt
    told.calls, told.script = [], Script()

    def only(kind: type, since: tuple[str, ...], first: tuple[int, ...]) -> None:
        for name in since if number < first else ():
            if name in vars(kind):
                delattr(kind, name)

    class NetworkDefinitionCreationFlag:
        EXPLICIT_BATCH = 0
        STRONGLY_TYPED = 1

    if number >= (11,):
        del NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    if number < (10,):
        del NetworkDefinitionCreationFlag.STRONGLY_TYPED

    class BuilderFlag:
        FP16 = "FP16"
        INT8 = "INT8"

    if number >= (11,):
        del BuilderFlag.FP16, BuilderFlag.INT8

    class DataType:
        FLOAT = "DataType.FLOAT"
        HALF = "DataType.HALF"
        INT32 = "DataType.INT32"
        INT64 = "DataType.INT64"

    if number < (10,):
        del DataType.INT64  # its parser makes INT32 of them

    class TensorIOMode:
        INPUT = "INPUT"
        OUTPUT = "OUTPUT"

    class MemoryPoolType:
        WORKSPACE = "WORKSPACE"

    class ProfilingVerbosity:
        DETAILED = "DETAILED"

    class LayerInformationFormat:
        JSON = "JSON"

    class Severity:
        INTERNAL_ERROR, ERROR = range(2)

    class ILogger:
        pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class Logger(ILogger):
        ERROR = 1

        def __init__(self, severity: int = 1) -> None:
            pass

    class HostMemory(bytes):
        pass

    class TimingCache:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> HostMemory:
            return HostMemory(self.data + b"+tactics")

    class IProgressMonitor:
        pass

    class BuilderConfig:
        builder_optimization_level = 3
        max_aux_streams = None
        progress_monitor: Any = None
        profiling_verbosity: Any = None

        def set_flag(self, flag: str) -> None:
            told.calls.append(("flag", flag))

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            told.calls.append(("workspace", size))

        def set_tactic_sources(self, sources: int) -> None:
            told.calls.append(("tactic sources", sources))

        def create_timing_cache(self, data: bytes) -> TimingCache:
            return TimingCache(data)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> None:
            assert ignore_mismatch is False
            told.calls.append(("timing cache", cache.data))
            self._cache = cache

        def get_timing_cache(self) -> TimingCache:
            return self._cache

    only(BuilderConfig, SINCE_8_6, (8, 6))
    only(BuilderConfig, SINCE_10, (10,))

    class Network:
        onnx = b""

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self._logger: Any = logger

        def create_network(self, flags: int) -> Network:
            told.calls.append(("network", flags))
            return Network()

        def create_builder_config(self) -> BuilderConfig:
            return BuilderConfig()

        def build_serialized_network(self, network: Network, config: Any) -> Any:
            told.calls.append(("level", getattr(config, "builder_optimization_level", None)))
            assert config.profiling_verbosity == ProfilingVerbosity.DETAILED
            monitor = getattr(config, "progress_monitor", None)
            if monitor:
                monitor.phase_start("Building Engine", None, 2)
                assert all(monitor.step_complete("Building Engine", step) for step in range(2))
                monitor.phase_finish("Building Engine")
            if told.script.refuse:
                told.script.refuse -= 1
                self._logger.log(Severity.ERROR, told.script.error)
                return None
            said = json.dumps({"kind": told.script.kind, "rest": told.script.rest, "version": version})
            return HostMemory(MAGIC + said.encode() + b"\n" + (told.script.onnx or network.onnx))

    class ParserError:
        def desc(self) -> str:
            return str(told.script.parse_error)

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: Network, logger: ILogger) -> None:
            self._network = network

        def parse(self, data: bytes) -> bool:
            self._network.onnx = data
            self.num_errors = 1 if told.script.parse_error else 0
            return not told.script.parse_error

        def get_error(self, index: int) -> ParserError:
            return ParserError()

    class EngineInspector:
        def __init__(self, text: str) -> None:
            self._text = text

        def get_engine_information(self, form: str) -> str:
            return self._text

    class ExecutionContext:
        def __init__(self, model: Any, tensors: dict[str, Any]) -> None:
            self._model, self._tensors = model, tensors
            self._places: dict[str, int] = {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            assert address in driver.memory, f"{name} at an address that is the start of no buffer"
            self._places[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 7 and set(self._places) == set(self._tensors)
            places = dict(self._places)
            driver.put(lambda: self._run(places))
            return True

        def _run(self, places: dict[str, int]) -> None:
            feeds = {n: _array(places[n], *t[1:]).copy() for n, t in self._tensors.items() if t[0]}
            made = self._model.run(feeds)
            for name, (is_input, shape, kind) in self._tensors.items():
                if not is_input:
                    _array(places[name], shape, kind)[...] = made[name]

    class CudaEngine:
        num_io_tensors = 0

        def __init__(self, plan: bytes) -> None:
            said, _, onnx = plan[len(MAGIC) :].partition(b"\n")
            self._said, self._model = json.loads(said), fake_onnx.opened(onnx)
            self._tensors = {n: (i, tuple(s), KINDS[k]) for n, i, s, k in self._model.tensors()}
            self.num_io_tensors = len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[index]

        def get_tensor_mode(self, name: str) -> str:
            return TensorIOMode.INPUT if self._tensors[name][0] else TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._tensors[name][1]

        def get_tensor_dtype(self, name: str) -> Any:
            names = {np.float32: "FLOAT", np.float16: "HALF", np.int32: "INT32", np.int64: "INT64"}
            return getattr(DataType, names[self._tensors[name][2]])

        def create_execution_context(self) -> ExecutionContext:
            return ExecutionContext(self._model, self._tensors)

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self._model.layers(self._said["kind"], self._said["rest"]))

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            assert driver.devices, "the real one ends the process here: there is no GPU"

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            return CudaEngine(plan) if plan.startswith(MAGIC) else None

    members: list[Any] = [DataType, TensorIOMode, NetworkDefinitionCreationFlag, BuilderFlag, MemoryPoolType]
    members += [ProfilingVerbosity]
    members += [LayerInformationFormat, ILogger, Logger, Builder, OnnxParser, Runtime]
    members += [IProgressMonitor] if number >= (10,) else []
    for member in members:
        setattr(trt, member.__name__, member)
    told.parts = [
        *members,
        Severity,
        TimingCache,
        BuilderConfig,
        ParserError,
        EngineInspector,
        ExecutionContext,
        CudaEngine,
    ]
    return trt


def _array(address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), kind).reshape(shape)
