"""What an artifact is, whatever its kind: data that says how it is opened, here or in a fresh process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgepv.base.engines import ENGINES
from edgepv.base.machine import proof
from edgepv.base.registry import resolve
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.measure.latency import rolled_noise
from edgepv.runtimes.engine import Engine
from edgepv.stream import Stepper, Tensors
from edgepv.types import Json, ModelSpec, StreamSpec

FREE = -1
"""In a shape: an axis whose length the file does not say."""


@dataclass(frozen=True)
class Opened:
    """An artifact in memory.

    feeds: makes the inputs of one call, states as they are after a warm-up. step: takes one more frame, its
    states fed back where they are known. chunk: new frames of a call, with the last of
    which a step computes.
    """

    engine: Engine
    feeds: Callable[[], Tensors]
    step: Callable[[], object]
    chunk: int = 1


def over_frames(engine: Engine, spec: ModelSpec, stream: StreamSpec | None) -> Opened:
    """What takes one frame after the other, its states fed back, or the window that it looks back on."""
    stepper = Stepper(engine.infer, spec, stream, into=getattr(engine, "infer_into", None))
    _, channels, *_, height, width = spec.input.shape
    frames = film((1, channels, height, width))
    return Opened(
        engine,
        feeds=lambda: rolled_noise(engine.infer, spec, stream),
        step=lambda: stepper.step(next(frames)),
        chunk=stepper.chunk,
    )


def over_calls(engine: Engine, feeds: Tensors) -> Opened:
    """What is called with the same inputs each time: nothing is fed back."""
    return Opened(engine, lambda: feeds, lambda: engine.infer(feeds))


@dataclass(frozen=True)
class Artifact:
    """Something that can be called. The facts are those of ``edgepv.types.BenchRow``.

    opener: "module:function", called with ``threads`` and the arguments, JSON data, returns ``Opened``.
    library: "module:function" called with the arguments, returns the path of a shared object of generated C;
    None for what is none.
    """

    name: str
    kind: str
    engine: str
    build: str
    policy: str
    sha256: str
    opener: str
    arguments: dict[str, Json] = field(repr=False)
    precision: str | None = None
    bytes: int | None = None
    state_bytes: int | None = None
    rate: float | None = None
    library: str | None = None

    def open(self, threads: int) -> Opened:
        """Load it. Raises TargetUnavailableError if what runs it is not here, UsageError if it is no use."""
        opened: Opened = resolve(self.opener)(threads=threads, **self.arguments)
        return opened


@dataclass(frozen=True)
class Asked:
    """What a user says of artifacts that do not say it themselves.

    shapes: of inputs by name; "" for the only input that has free axes. spec: TOML of an ONNX file or of a
    builder. weights: of a builder.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spec: str | None = None
    weights: str | None = None


def engine_facts(engine: str, threads: int) -> dict[str, Json]:
    """Name, build and thread policy of an engine of the table, as fields of an ``Artifact``.

    An engine that is not here has no build; who opens it is told.
    """
    spec = ENGINES.find(engine)
    try:
        build = resolve(spec.build)() if spec.build else proof(engine).engine
    except TargetUnavailableError:
        build = "not here"
    return {"engine": engine, "build": build, "policy": spec.policy.format(threads=threads)}


def static_shape(name: str, port: str, shape: Sequence[int], asked: Asked) -> tuple[int, ...]:
    """The shape that an input is fed: the file's own, its free axes as the user says.

    name: of the file. port: of the input. Raises UsageError if nobody says how long a free axis is, or if
    what the user says is not what the file says.
    """
    given = asked.shapes.get(port) or (asked.shapes.get("") if FREE in shape else None)
    told = ",".join("?" if n == FREE else str(n) for n in shape)
    if given is None and FREE in shape:
        ones = ",".join("1" if n == FREE else str(n) for n in shape)
        raise UsageError(f"{name}: input '{port}' is ({told}), of any size. Say which: --shape {port}={ones}")
    if given is None:
        return tuple(shape)
    if len(given) != len(shape) or any(own not in (FREE, n) for own, n in zip(shape, given)):
        raise UsageError(f"{name}: input '{port}' is ({told}); --shape says {','.join(map(str, given))}")
    return given


def noise(shape: Sequence[int], dtype: str) -> np.ndarray:
    """An input that nothing is known of: normal noise, noise of all bytes, zeros of what may be an index."""
    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    if kind.kind == "f":
        drawn = rng.standard_normal(min(DRAWN, math.prod(shape)), dtype=np.float32)
        return np.resize(drawn, tuple(shape)).astype(kind)
    if kind.itemsize == 1 and kind.kind in "iu":
        return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, tuple(shape)).astype(kind)
    return np.zeros(tuple(shape), kind)


def film(shape: Sequence[int]) -> Iterator[np.ndarray]:
    """Noise of a shape without end; no two in a row are equal."""
    return itertools.cycle(noise((FILM, *shape), "float32"))


FILM = 4
"""Frames of noise that are shown in turn."""


def shape_of(text: str) -> tuple[str, tuple[int, ...]]:
    """("frame", (1, 3, 8, 8)) of "frame=1,3,8,8"; a shape alone has the name "". Raises UsageError."""
    name, _, numbers = text.rpartition("=")
    parts = numbers.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--shape {text}: give lengths above 0, such as 1,3,224,224 or NAME=1,3,224,224")
    shape = tuple(map(int, parts))
    if math.prod(shape) > MOST_VALUES:
        raise UsageError(f"--shape {text}: more than {MOST_VALUES} values. Give the size of real input")
    return name, shape


DRAWN = 1 << 16
"""Values that are drawn and then repeated: opening is timed, and the noise is no part of that."""

MOST_VALUES = 1 << 30
"""Of one input: 4 GiB of float32, more than any camera's clip."""


def file_facts(path: Path) -> tuple[str, int]:
    """(SHA-256, bytes) of a model file."""
    from edgepv.base.files import sha256

    return sha256(path), path.stat().st_size
