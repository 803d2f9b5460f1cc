"""NVIDIA Jetson: explicit Q/DQ ONNX for TensorRT. The engine is built on the device, never here.

``jetson`` is one bundle for every board with TensorRT 8.5 or later. ``jetson-orin-nano`` is for one board,
and ``jetson-orin-nano@6.2`` for one board with one JetPack. What each of them is stands in jetson.json, with
its sources; that file needs no Python of edgepv to be read, so a device can have it too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from edgepv.base.files import read_json
from edgepv.errors import UsageError, unknown
from edgepv.types import Target, decode

TARGET = Target(
    name="jetson",
    summary="NVIDIA Jetson with TensorRT 8.5 to 11; checked on this host, built on the device; "
    "one board: jetson-orin-nano, one JetPack: jetson-orin-nano@6.2",
    precisions=("fp32", "fp16", "int8"),
    engines=("tensorrt",),
    builder="edgepv.export.for_jetson:build",
    min_sqnr_db={"fp32": 80.0, "fp16": 40.0, "int8": 10.0},
    needs_build=(("torch", "compress"), ("onnx", "compress"), ("onnxruntime", "compress")),
    needs_run=(("onnxruntime", "jetson"),),
    status="host-checked",
)
FIRST_OF_ALL = (8, 5)
"""The oldest TensorRT of the bundle for all boards: older ones read no opset 17."""
STRONG_SINCE = (10, 12)
"""The first TensorRT for which types come from the file; it deprecates the flags that set them."""


@dataclass(frozen=True)
class JetPack:
    """One release line of NVIDIA's software for Jetson.

    l4t: Jetson Linux. python: the version that its tensorrt package is for. tensorrt: the versions that may
    be met, oldest first. opset: the newest of ONNX that all of them are known to read. dla: whether one of
    them builds for a deep learning accelerator; 10.8 to 11.3 do not. boards: that have it. sources: where a
    field was read, several before one source with ", " between. unverified: fields for which no source was
    read that says it.
    """

    l4t: str | None
    ubuntu: str
    python: str
    cuda: str
    tensorrt: tuple[str, ...]
    opset: int
    dla: bool
    boards: tuple[str, ...]
    sources: dict[str, str]
    unverified: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """One kind of Jetson. models: how its device tree calls it, in lower case, any of them.

    sm: compute capability. dla: how many deep learning accelerators its modules have. memory_gb: of its
    modules, shared by CPU and GPU. precisions: what its GPU computes in, of those that edgepv makes. sparse:
    whether it has kernels for weights of which two in four are 0. sources, unverified: as of a JetPack.
    """

    models: tuple[str, ...]
    sm: str
    dla: tuple[int, ...]
    memory_gb: tuple[int, ...]
    precisions: tuple[str, ...]
    sparse: bool
    notes: tuple[str, ...]
    sources: dict[str, str]
    unverified: tuple[str, ...]


@dataclass(frozen=True)
class Jetsons:
    """The table of jetson.json: JetPacks by version, boards by the names of their targets."""

    jetpacks: dict[str, JetPack]
    boards: dict[str, Board]


@dataclass(frozen=True)
class Device:
    """What a bundle is for: boards, each with one of the JetPacks; both by name in the table."""

    boards: tuple[str, ...]
    jetpacks: tuple[str, ...]

    @property
    def tensorrt(self) -> tuple[str, ...]:
        """Every TensorRT version that may be met, oldest first."""
        versions = {v for name in self.jetpacks for v in table().jetpacks[name].tensorrt}
        return tuple(sorted(versions, key=number))

    @property
    def weak(self) -> bool:
        """Whether flags set the types of some build."""
        return any(number(v) < STRONG_SINCE for v in self.tensorrt)

    @property
    def strong(self) -> bool:
        """Whether types come from the file in some build."""
        return any(number(v) >= STRONG_SINCE for v in self.tensorrt)

    @property
    def opset(self) -> int:
        """The newest ONNX opset that every one of them reads."""
        return min(table().jetpacks[name].opset for name in self.jetpacks)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What all its boards compute in."""
        every = [table().boards[name].precisions for name in self.boards]
        return tuple(p for p in TARGET.precisions if all(p in one for one in every))

    @property
    def dla(self) -> bool:
        """Whether one of its modules has a deep learning accelerator, and a TensorRT that builds for it."""
        with_it = [name for name in self.jetpacks if table().jetpacks[name].dla]
        runs = {board for name in with_it for board in table().jetpacks[name].boards}
        return any(max(table().boards[name].dla) for name in self.boards if name in runs)

    @property
    def sparse(self) -> bool:
        """Whether all its boards have kernels for 2:4 sparse weights."""
        return all(table().boards[name].sparse for name in self.boards)


@functools.cache
def table() -> Jetsons:
    """Every board and JetPack that is known."""
    return decode(Jetsons, read_json(Path(__file__).with_suffix(".json")), where="jetson.json")


def unverified() -> dict[str, tuple[str, ...]]:
    """What of the table no source could be read for: the fields of boards and of JetPacks, by their names."""
    rows: dict[str, Board | JetPack] = {**table().boards}
    rows |= {f"JetPack {name}": one for name, one in table().jetpacks.items()}
    return {name: one.unverified for name, one in rows.items() if one.unverified}


def number(version: str) -> tuple[int, ...]:
    """ "10.3.0" -> (10, 3, 0), which compares."""
    return tuple(int(part) for part in version.split("."))


def device(target: str) -> Device:
    """What the target of this name is for: "jetson", "jetson-orin-nano" or "jetson-orin-nano@6.2".

    A later release of a line is that line: 6.2.1 is 6.2. Raises UsageError for a board or a JetPack that is
    not known, with the nearest, and for a JetPack that the board does not have.
    """
    boards, jetpacks = table().boards, table().jetpacks
    if target == TARGET.name:
        read = [name for name, one in jetpacks.items() if number(one.tensorrt[0]) >= FIRST_OF_ALL]
        fit = [name for name in boards if any(name in jetpacks[one].boards for one in read)]
        return Device(tuple(fit), tuple(read))
    board, at, version = target.partition("@")
    if board not in boards:
        raise UsageError(unknown("Jetson board", board, boards))
    runs = [name for name, one in jetpacks.items() if board in one.boards]
    if not at:
        return Device((board,), tuple(runs))
    line = _line(version, runs)
    if line is None and (elsewhere := _line(version, jetpacks)):
        raise UsageError(f"{board} has no JetPack {elsewhere}. It has {', '.join(runs)}")
    if line is None:
        raise UsageError(unknown(f"JetPack of {board}", version, runs))
    return Device((board,), (line,))


def _line(version: str, lines: Iterable[str]) -> str | None:
    """The longest of these release lines that a JetPack version is of: 7.2.2 of 7.2, if not of itself."""
    return max((line for line in lines if f"{version}.".startswith(f"{line}.")), key=len, default=None)


def specialised(name: str) -> Target:
    """The target for one board, or for one board and JetPack. Raises UsageError like ``device``."""
    wanted = device(name)
    about = f"{' or '.join(wanted.boards)}, JetPack {', '.join(wanted.jetpacks)}"
    floor = {p: db for p, db in TARGET.min_sqnr_db.items() if p in wanted.precisions}
    return replace(
        TARGET,
        name=name,
        summary=f"{about}: TensorRT {', '.join(wanted.tensorrt)}; checked on this host, built on the device",
        precisions=wanted.precisions,
        min_sqnr_db=floor,
    )
