"""Sections are counted as the linker will place them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from building import ARMV7, CLANG, CORE, GCC, Machine

from edgepv.errors import EngineError
from edgepv.firmware.compiler import COMPILED
from edgepv.firmware.sizes import sections

TOLD = """
extern const unsigned char fixed[1000];
const unsigned char fixed[1000] = {1};
unsigned char written[300] = {1}, empty[70];
"""


@pytest.mark.parametrize("machine", [GCC, ARMV7], ids=lambda m: m.name)
def test_constants_are_told_from_data_in_objects_of_32_and_64_bits(machine: Machine, tmp_path: Path) -> None:
    source = tmp_path / "told.c"
    source.write_text(TOLD)
    made = machine.build(tmp_path / "told.o", [source], "-c").read_bytes()
    assert sections(made) == (0, 1000, 370)


def test_code_is_counted_as_code(tmp_path: Path) -> None:
    source = tmp_path / "code.c"
    source.write_text("int twice(int x);\nint twice(int x) { return 2 * x; }\n")
    code, constants, data = sections(GCC.build(tmp_path / "code.o", [source], "-c").read_bytes())
    assert 3 <= code <= 64 and data == 0 and constants < 200


@pytest.mark.parametrize("machine", [GCC, CLANG], ids=lambda m: m.name)
def test_no_compiler_unrolls_what_is_around_the_tiles(machine: Machine, tmp_path: Path) -> None:
    """Clang made 64 KB of the core for an AMD processor, of which 20 are enough."""
    machine.need()
    words = [machine.compiler[0], *COMPILED, "-march=znver3", "-c", str(CORE / "edgepv_core.c")]
    if subprocess.run([*words, "-o", str(tmp_path / "core.o")], capture_output=True, check=False).returncode:
        pytest.skip(f"{machine.name} does not compile for x86 here")
    code, constants, _ = sections((tmp_path / "core.o").read_bytes())
    assert code + constants < 36_000


def test_another_file_is_refused() -> None:
    with pytest.raises(EngineError, match="no little-endian ELF"):
        sections(b"MZ" + bytes(100))
