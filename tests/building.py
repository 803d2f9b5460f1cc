"""C of the firmware's tests: compiled for this machine or another, and run, under an emulator where need be.

What is not installed skips the test that asks for it; ``tests/system.sh`` installs all of it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import ROOT

CORE = ROOT / "edgepv" / "firmware" / "c"
OWN = ROOT / "tests" / "firmware" / "c"
CORE_WITH_TOY = (CORE / "edgepv_core.c", OWN / "toy.c", OWN / "toy_tracker.c")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wconversion")
"""How every C file here must compile. No option says how to round: sources see to that themselves."""

LONGEST_S = 300.0
"""A program under an emulator on a busy machine takes minutes; one that hangs is ended."""


@dataclass(frozen=True)
class Machine:
    """A compiler and what starts its programs.

    compiler: with the options that every file gets. runner: before the program's name; nothing where it runs
    by itself. extra: sources that each program needs, and how it is linked. level: of optimisation.
    """

    name: str
    compiler: tuple[str, ...]
    runner: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    level: str = "-O2"

    def need(self) -> None:
        """Skip the test that asks unless compiler and runner are installed."""
        for program in (self.compiler[0], *self.runner[:1]):
            if not shutil.which(program):
                pytest.skip(f"{program} is not installed")

    def build(self, out: Path, sources: Sequence[Path], *options: str) -> Path:
        """The program ``out``, or with "-shared" the library. Fails the test with the compiler's words."""
        self.need()
        command = [*self.compiler, *STRICT, self.level, f"-I{CORE}", *options]
        extra = () if "-shared" in options or "-c" in options else self.extra
        _call(
            [*command, *map(str, sources), *extra, "-o", str(out), *(("-lm",) if "-c" not in options else ())]
        )
        return out

    def run(self, program: Path, *arguments: str, folder: Path, before: Sequence[str] = ()) -> str:
        """What a program prints, run in ``folder``; fails the test if it ends with another status than 0.

        before: what starts it, like valgrind. A Cortex-M has no arguments: it reads files.
        """
        return _call([*before, *self.runner, str(program), *arguments], folder)


def _call(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=LONGEST_S, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command)}\nended with {done.returncode}:\n{said}"
    return said


GCC = Machine("gcc", ("gcc",))
CLANG = Machine("clang", ("clang",))
SANITIZED = Machine(
    "sanitized",
    ("gcc", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    level="-O1",  # as AddressSanitizer's makers advise; twice as quick to compile
)
ARM64 = Machine("arm64", ("aarch64-linux-gnu-gcc", "-static"), ("qemu-aarch64", "-cpu", "cortex-a76"))
ARMV7 = Machine("armv7", ("arm-linux-gnueabihf-gcc", "-static", "-mfpu=neon-vfpv4"), ("qemu-arm",))
CORTEX_M7 = Machine(
    "cortex-m7",
    ("arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard"),
    (
        *("qemu-system-arm", "-M", "mps2-an500", "-cpu", "cortex-m7", "-display", "none", "-serial", "none"),
        *("-monitor", "none", "-semihosting-config", "enable=on,target=native", "-kernel"),
    ),
    (str(OWN / "cortex_m7.c"), "--specs=rdimon.specs", "-nostartfiles", f"-T{OWN / 'cortex_m7.ld'}"),
)
HERE = (GCC, CLANG)
ELSEWHERE = (ARM64, ARMV7, CORTEX_M7)
