"""Build an engine from an ONNX file on this device, by TensorRT 8.5 to 11, with Q/DQ as the file has it.

What a TensorRT can do is asked of its module, member by member. Its version is only asked for which file it
is to be given (``device.STRONG_SINCE``).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from edgepv.base.vet import vet_onnx
from edgepv.errors import EngineError
from edgepv.runtimes.trt.bundle import Model
from edgepv.runtimes.trt.device import Device, refuse_memory
from edgepv.runtimes.trt.store import write

Say = Callable[[str], None]

LEAST_WORKSPACE = 64 << 20
"""Bytes of scratch memory of the last attempt: a convolution of our sizes needs a few MiB."""
COPIES = 3
"""Of the weights that a build holds at least: as parsed, as laid out for the GPU, and in the engine."""
SAID_EVERY = 25  # % of a phase of the build between two lines of progress


@dataclass(frozen=True)
class Attempt:
    """One way to build.

    workspace: bytes of scratch memory. level: of the builder's effort, None: its default.
        frugal: without libraries that bring kernels of their own, and without further streams.
    """

    name: str
    workspace: int
    level: int | None = None
    frugal: bool = False


def attempts(free: int) -> list[Attempt]:
    """The ladder of attempts, each needing less memory than the one before. free: bytes on the GPU."""
    half = max(LEAST_WORKSPACE, free // 2)
    return [
        Attempt("all tactics", half),
        Attempt("a quarter of the workspace", max(LEAST_WORKSPACE, half // 4)),
        Attempt("fewer tactics, a sixteenth of the workspace", max(LEAST_WORKSPACE, half // 16), level=2),
        Attempt("the fewest tactics, the least workspace", LEAST_WORKSPACE, level=0, frugal=True),
    ]


def kinds(model: Model, *, strong: bool) -> tuple[str, ...]:
    """Precisions that an engine of a model may be built for, the one with float16 first.

    A strongly typed engine has those of its file. A weakly typed one computes what has no Q/DQ in float16 if
    it may, else in float32.
    """
    if strong:
        return ("int8" if model.int8 else "fp16" if model.strong else "fp32",)
    return ("int8+fp16", "int8+fp32") if model.int8 else ("fp16", "fp32")


def build(
    trt: Any, onnx: bytes, model: Model, device: Device, kind: str, tactics: Path, say: Say
) -> tuple[bytes, Attempt]:
    """The engine of an ONNX file and the attempt that made it. kind: one of ``kinds``.

    tactics: file of TensorRT's timing cache, read and written. say: hears of attempts and progress.
    Raises DeviceError for too little memory, EngineError if TensorRT refuses the file or every attempt, and
    UsageError for a file that keeps weights elsewhere: it could name any.
    """
    vet_onnx(onnx, model.path)
    refuse_memory(device, COPIES * len(onnx) + LEAST_WORKSPACE, f"the build of {model.name}")
    said: list[str] = []
    for attempt in attempts(device.free):
        said.append(attempt.name)
        say(f"{model.name}, {kind}: {attempt.name}, workspace {attempt.workspace >> 20} MiB")
        log = _logger(trt)
        plan = _attempted(trt, log, onnx, model, attempt, kind, tactics, device, say)
        if plan is not None:
            return plan, attempt
        say(f"{model.name}: that failed: {log.last}")
    raise EngineError(
        f"TensorRT {device.tensorrt} builds no engine of {model.name}, after {len(said)} attempts "
        f"({'; '.join(said)}): "
        f"{log.last}. Update JetPack, or export this variant in another precision"
    )


def _attempted(
    trt: Any,
    log: Any,
    onnx: bytes,
    model: Model,
    attempt: Attempt,
    kind: str,
    tactics: Path,
    device: Device,
    say: Say,
) -> bytes | None:
    builder = trt.Builder(log)
    network = builder.create_network(network_flags(trt, strong=device.strong))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError(
            f"TensorRT {device.tensorrt} refuses {model.path}: {(errors or [log.last])[0]}. Export for "
            f"this JetPack"
        )
    config = builder.create_builder_config()
    configure(trt, config, attempt, kind, strong=device.strong)
    cache = config.create_timing_cache(tactics.read_bytes() if tactics.is_file() else b"")
    config.set_timing_cache(cache, False)
    monitor = _watch(trt, config, say)
    plan = None
    with contextlib.suppress(RuntimeError, MemoryError):  # what lack of memory ends as, besides None
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        return None
    del monitor  # the configuration may only point at it, so it lived until here
    made = config.get_timing_cache()
    if made is not None:
        write(tactics, bytes(memoryview(made.serialize())))
    return bytes(memoryview(plan))


def network_flags(trt: Any, *, strong: bool) -> int:
    """Flags of ``create_network``: explicit batch where that is to be said, the file's types where asked."""
    flags = trt.NetworkDefinitionCreationFlag
    wanted = ["EXPLICIT_BATCH"] + (["STRONGLY_TYPED"] if strong else [])
    return sum(1 << int(getattr(flags, name)) for name in wanted if hasattr(flags, name))


def configure(trt: Any, config: Any, attempt: Attempt, kind: str, *, strong: bool) -> None:
    """Write an attempt into a builder's configuration, as far as this TensorRT has what it asks for."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, attempt.workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for precision in () if strong else [p for p in ("int8", "fp16") if p in kind]:
        config.set_flag(getattr(trt.BuilderFlag, precision.upper()))
    if attempt.level is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = attempt.level
    if attempt.frugal:
        if hasattr(config, "set_tactic_sources"):
            config.set_tactic_sources(0)
        if hasattr(config, "max_aux_streams"):
            config.max_aux_streams = 0


def _logger(trt: Any) -> Any:
    """A logger of TensorRT's that keeps its last error for our one line, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "TensorRT says nothing of why"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(str(message).split())[:400]

    return Log()


def _watch(trt: Any, config: Any, say: Say) -> Any:
    """What has the build tell how far it is, where TensorRT can (10 and later); else None."""
    if not (hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor")):
        return None

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, tuple[int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = (num_steps, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            count, told = self.steps.get(phase_name, (0, 0))
            share = 100 * (step + 1) // count if count else 0
            if share >= told + SAID_EVERY:
                self.steps[phase_name] = (count, share)
                say(f"  {phase_name}: {share} %")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    monitor = Progress()
    config.progress_monitor = monitor
    return monitor
