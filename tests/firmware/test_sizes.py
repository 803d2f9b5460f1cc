"""Sections are counted as the linker will place them."""

from __future__ import annotations

from pathlib import Path

import pytest
from building import ARMV7, GCC, Machine

from edgepv.errors import EngineError
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


def test_another_file_is_refused() -> None:
    with pytest.raises(EngineError, match="no little-endian ELF"):
        sections(b"MZ" + bytes(100))
