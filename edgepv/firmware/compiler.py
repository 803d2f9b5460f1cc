"""The C compilers of this machine: which there are, and sources made into one shared object."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgepv.base.machine import versions
from edgepv.base.optional import present
from edgepv.errors import EngineError, TargetUnavailableError, UsageError

VARIABLE = "EDGEPV_CC"
"""Environment variable with the compiler for this machine; "none" for none."""
COMMANDS = ("gcc", "clang", "cc")
LONGEST_S = 600.0
"""Seconds for one source: several times what the largest built-in net takes on a slow machine."""
MODEL = "model.c"
"""The file with a model's layers; what it is made of is beside it."""
COMPILED = ("-std=gnu99", "-O3", "-fno-unroll-loops", "-w")
"""Tiles are unrolled in the C itself. Clang would unroll what is around them too, as GCC does not: for an AMD
processor a quarter of all bytes, for no instruction less in a convolution."""
CONTRACTED, PLAIN = "-ffp-contract=fast", "-ffp-contract=off"
"""Of a model's layers: a product and a sum are one rounding, as in every engine. Of the core: pictures become
tensors to the bit as in Python."""
MOVABLE = ("-fPIC",)
SHARED = ("-shared", "-Wl,-Bsymbolic", "-Wl,--build-id=none")
"""An object calls the functions that it brings itself, and equal input gives equal bytes."""


@dataclass(frozen=True)
class Processor:
    """A kind of processor that objects are made for. arch: what ``platform.machine`` says of it.

    needs: flags of /proc/cpuinfo that it must have. own: commands on such a machine; cross: on another.
    """

    name: str
    arch: str
    needs: tuple[str, ...]
    options: tuple[str, ...]
    cross: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """What the file of an object for it ends in."""
        return f".{self.name}.so"


PROCESSORS = (
    Processor(
        "x86-64-v3",
        "x86_64",
        ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"),
        ("-march=x86-64-v3", "-mtune=generic"),
        ("x86_64-linux-gnu-gcc",),
    ),
    Processor("arm64", "aarch64", ("asimd",), ("-march=armv8-a",), ("aarch64-linux-gnu-gcc",)),
)
"""What a bundle may hold objects for. Source of the x86 level: the x86-64 psABI, microarchitecture levels."""


@dataclass(frozen=True)
class Compiler:
    """A compiler that can be run. version: the first line that it says of itself."""

    command: str
    version: str


def compiler() -> Compiler | None:
    """What compiles for this machine, or None: what EDGEPV_CC names, else gcc or clang.

    Raises TargetUnavailableError if EDGEPV_CC names what is not here.
    """
    named = os.environ.get(VARIABLE, "")
    if named == "none":
        return None
    found = next(filter(None, map(_asked, (named,) if named else COMMANDS)), None)
    if named and found is None:
        raise TargetUnavailableError(
            f"{VARIABLE}={named}: no such compiler. Name another, or none for no compiler"
        )
    return found


def needed() -> Compiler:
    """Like ``compiler``. Raises TargetUnavailableError where there is none."""
    found = compiler()
    if found is None:
        raise TargetUnavailableError(
            f"no C compiler is on this machine, or {VARIABLE} is none. Install gcc or clang"
        )
    return found


def version() -> str:
    """What a native variant's answers rest on: edgepv, and the compiler, without which it may be refused."""
    found = compiler() if present("onnx") else None
    return " ".join((*versions(("edgepv",)).values(), *([found.version] if found else [])))


def compiler_for(processor: Processor) -> Compiler | None:
    """What compiles for a kind of processor here, or None: this machine's own or a cross compiler."""
    if platform.machine() == processor.arch:
        return compiler()
    return next(filter(None, map(_asked, processor.cross)), None)


def _asked(command: str) -> Compiler | None:
    """The compiler of that command, if it is there and says its version."""
    path = shutil.which(command)
    if path is None:
        return None
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = said.stdout.splitlines()
    return Compiler(path, lines[0].strip()) if lines else None


def cpu_flags(info: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Every flag of this machine's processor; none where the system does not tell."""
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = dict(line.partition(":")[::2] for line in lines)
    named = {name.strip(): value for name, value in fields.items()}
    return frozenset((named.get("flags") or named.get("Features") or "").split())


def processor_here() -> Processor | None:
    """The kind among PROCESSORS that this machine is of."""
    flags = cpu_flags()
    mine = (p for p in PROCESSORS if p.arch == platform.machine() and flags.issuperset(p.needs))
    return next(mine, None)


def shared_object(chosen: Compiler, sources: Mapping[str, bytes], options: Sequence[str]) -> bytes:
    """One shared object of every .c among the sources, with the other files beside them.

    sources: by name, of one plain part each. options: for the processor. Equal input gives equal bytes.
    Raises EngineError with the compiler's first error.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, data in sources.items():
            (place / name).write_bytes(data)
        names = sorted(n for n in sources if n.endswith(".c"))
        objects = compile_objects(chosen, names, (*options, *MOVABLE), place)
        made = place / "model.so"
        link(chosen, [*SHARED, *objects, "-o", str(made)], place)
        return made.read_bytes()


def compile_objects(
    chosen: Compiler, names: Sequence[str], options: Sequence[str], folder: Path
) -> list[str]:
    """Compile the named sources of a folder; returns the names of their objects. Raises like ``run``."""
    objects = []
    for name in names:
        contract = CONTRACTED if name == MODEL else PLAIN
        objects.append(str(PurePosixPath(name).with_suffix(".o")))
        run(chosen, [*COMPILED, *options, contract, "-c", name, "-o", objects[-1]], folder)
    return objects


def link(chosen: Compiler, words: Sequence[str], folder: Path) -> None:
    """Link objects, with the library of mathematics behind them. Raises like ``run``."""
    run(chosen, [*words, "-lm"], folder)


def run(chosen: Compiler, words: Sequence[str], folder: Path) -> None:
    """Run a compiler in a folder. Raises EngineError with its first error, or when it takes LONGEST_S."""
    try:
        done = subprocess.run(
            [chosen.command, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_S,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"{chosen.command} did not finish within {LONGEST_S:.0f} s and was stopped. Use another engine"
        ) from None
    except OSError as e:
        raise UsageError(f"{chosen.command} cannot be run: {e.strerror}. Name another in {VARIABLE}") from e
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        why = next((line for line in lines if "error" in line), next(iter(lines), "it says nothing"))
        raise EngineError(f"{chosen.command} cannot compile the model's C: {why[:400]}. Use another engine")
