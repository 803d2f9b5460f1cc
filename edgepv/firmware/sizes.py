"""How much flash and memory a firmware takes: sections of compiled objects, and what a session is given."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from edgepv.errors import EngineError

WRITE, ALLOC, EXECUTE = 1, 2, 4  # sh_flags of the ELF format


@dataclass(frozen=True)
class Flash:
    """Bytes of one build by kind of section. data: what is written to, and zeros that are reserved.

    compiler, options: who made it, and how.
    """

    code: int
    constants: int
    data: int
    compiler: str
    options: str


@dataclass(frozen=True)
class Ram:
    """Bytes of memory. arena_lower_bound_bytes: what any order of the layers' tensors needs at one time.

    session_bytes: camera -> what edgepv_need says on the machine that made this; None: not measured.
    """

    state_bytes: int
    arena_bytes: int
    arena_lower_bound_bytes: int
    session_bytes: Mapping[str, int | None]


@dataclass(frozen=True)
class Sizes:
    """What one model takes. flash: processor -> its build, None where nothing compiles for it here.

    selftest_rmse: how far the self-test's answers were from the recorded ones here; None: it was not run.
    """

    weights_bytes: int
    ram: Ram
    flash: Mapping[str, Flash | None]
    selftest_rmse: float | None = None


def sections(elf: bytes) -> tuple[int, int, int]:
    """Bytes of (code, constants, data) in an ELF object or program, little-endian, of 32 or 64 bits.

    Raises EngineError for another file. Source: System V ABI, "Object Files".
    """
    if elf[:4] != b"\x7fELF" or elf[5] != 1:
        raise EngineError("the compiler wrote no little-endian ELF object, so its sections cannot be counted")
    wide = elf[4] == 2
    table, entry, count = struct.unpack_from("<Q10xHH" if wide else "<I10xHH", elf, 0x28 if wide else 0x20)
    totals = [0, 0, 0]
    for at in range(table, table + entry * count, entry):
        form = "<8xQ16xQ" if wide else "<8xI8xI"
        flags, size = struct.unpack_from(form, elf, at)
        if flags & ALLOC:
            totals[0 if flags & EXECUTE else 2 if flags & WRITE else 1] += size
    return totals[0], totals[1], totals[2]
