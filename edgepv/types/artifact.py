"""What is made of a model: a checkpoint, variants of it, the target they are for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edgepv.types.spec import ModelSpec, Rewrite, StreamSpec


@dataclass(frozen=True)
class StepRecord:
    """One step of the line: what was done, to what, with which options and tools; version: of the step."""

    name: str
    options: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    tools: dict[str, str]
    version: int = 1


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk (safetensors) and how to rebuild the module that holds them.

    builder: "package.module:function" or "path/file.py:function", returns a torch module.
    spec: of the module after ``rewrite``.
    """

    weights: str
    sha256: str
    builder: str
    spec: ModelSpec
    steps: tuple[StepRecord, ...] = ()
    rewrite: Rewrite | None = None


@dataclass(frozen=True)
class QuantScheme:
    """Where the integers of an INT8 artifact came from.

    weight_bits: how many of the eight bits the weights use. With 7, no sum can saturate on any CPU.
    """

    tool: str
    activations: str
    weights: str
    calibration_digest: str
    calibration_feeds: int
    kept_float: tuple[str, ...] = ()
    weight_bits: int = 8


@dataclass(frozen=True)
class Variant:
    """One runnable file of a model: the engine that reads it and how its tensors are named.

    inputs, outputs: our tensor name -> the name inside the file (LiteRT renames them).
    form: "step" eats one frame and explicit states; "window" eats the last T frames.
    state_scales: factors of a state's channels (axis 1) by which its values here are those of the float file.
    """

    name: str
    engine: str
    precision: Literal["fp32", "bf16", "fp16", "int8"]
    form: Literal["step", "window"]
    path: str
    sha256: str
    spec: ModelSpec
    stream: StreamSpec | None
    inputs: dict[str, str]
    outputs: dict[str, str]
    scheme: QuantScheme | None = None
    options: dict[str, str] = field(default_factory=dict)
    steps: tuple[StepRecord, ...] = ()
    state_scales: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A device family to pack for. Names its builder and its engines; imports neither.

    builder: "module:function", called by the pipeline to write this target's files. engines: those that run
    them (see ``EngineSpec``).
    min_sqnr_db: the parity promise, per precision, against the torch original.
    """

    name: str
    summary: str
    precisions: tuple[str, ...]
    engines: tuple[str, ...]
    builder: str
    min_sqnr_db: dict[str, float]
    needs_build: tuple[tuple[str, str], ...] = ()
    needs_run: tuple[tuple[str, str], ...] = ()
    status: str = "measured on this host"


@dataclass(frozen=True)
class EngineSpec:
    """What edgepv knows of an engine without importing it; a dotted string is "module:function".

    opener: called as (variant, read, threads), returns the engine (``edgepv.runtimes.engine``).
    packages: the distributions that may bring it, the preferred first; the version of what is there is part
    of a proof. version: called without arguments, returns that version; None: it is that of the package.
    audit: called as (variant, path), returns the ``Audit`` of what it runs in INT8; None: it does not tell.
    tensors: called as (path, feeds), returns every tensor inside a file by name, in the order of the graph,
    stacked over the feeds; None: the first diverging node is not looked for.
    own_names: its files rename tensors, so they are compared with its own float file, not with the ONNX.
    beside: suffixes of files that may belong to a model file, under the same stem.
    stand_in: the engine that runs its files on a host that packs for it, with the same numbers and not the
    same speed; None: it runs there itself, and is timed.
    replays: suffixes of files of other engines that it may be asked to run.
    here: called without arguments, whether this machine runs its files itself and needs no stand-in.
    kept: called as (digest of a bundle), the name of the variant that this device was found to run best; None
    if it was not asked.
    """

    opener: str
    packages: tuple[str, ...] = ()
    audit: str | None = None
    tensors: str | None = None
    own_names: bool = False
    beside: tuple[str, ...] = ()
    stand_in: str | None = None
    replays: tuple[str, ...] = ()
    version: str | None = None
    here: str | None = None
    kept: str | None = None


@dataclass(frozen=True)
class Rung:
    """One variant of a ladder: how long a frame takes it here, and how good it is; None is "not measured".

    accuracy: top-1, known only where it compares with that of the other rungs.
    """

    variant: str
    p50_ms: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Deadline:
    """How long after a frame's arrival its reply must be out, and what is said when the model was too slow.

    on_miss "stale": the last answer, marked stale, with its age. "drop": nothing. "raise": an error, for
    callers that wait for the reply.
    """

    limit_ms: float
    on_miss: Literal["stale", "drop", "raise"] = "stale"
