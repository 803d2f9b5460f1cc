"""What a program that is linked with the core rests on: names, sizes and places of fields, statuses.

``abi.json`` is that promise: a change of what stands there breaks programs that exist and wants another
EDGEPV_ABI. What is new is added to it, by ``PYTHONPATH=tests python tests/firmware/test_core_abi.py FOLDER``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from building import ARMV7, CORE, CORTEX_M7, GCC, Machine

pytestmark = pytest.mark.slow
TABLE = Path(__file__).with_name("abi.json")
HEADER = (CORE / "edgepv.h").read_text(encoding="utf-8")
PLAIN = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
NEEDS = {"expf", "memcpy", "memset", "sqrtf", "strcmp"}
"""All that the core asks of a C library."""


def structs() -> dict[str, list[str]]:
    """Fields of each struct of the header, in order."""
    found = re.findall(r"typedef struct \{(.*?)\} (\w+);", PLAIN, re.DOTALL)
    return {name: re.findall(r"(\w+)(?:\[\d+\])?\s*[,;]", body) for body, name in found}


def constants() -> list[str]:
    return [*re.findall(r"\b(EDGEPV_[A-Z0-9_]+)\b(?=\s*[=,}])", PLAIN), "EDGEPV_ABI"]


def functions() -> list[str]:
    return sorted(re.findall(r"(edgepv_\w+)\(", PLAIN))


def measured(machine: Machine, folder: Path) -> dict[str, int]:
    """sizeof, offsetof and the values of constants, as a compiler for that machine has them."""
    asked = {name: name for name in constants()}
    for struct, fields in structs().items():
        asked[struct] = f"sizeof({struct})"
        asked |= {f"{struct}.{field}": f"offsetof({struct}, {field})" for field in fields}
        asked |= {f"{struct}.{field} size": f"sizeof((({struct} *)0)->{field})" for field in fields}
    lines = "\n".join(f'    printf("{name}: %d\\n", (int){value});' for name, value in asked.items())
    source = folder / "abi.c"
    source.write_text(f'#include "edgepv.h"\n#include <stdio.h>\nint main(void)\n{{\n{lines}\n}}\n')
    said = machine.run(machine.build(folder / f"abi-{machine.name}", [source]), folder=folder)
    return {name: int(value) for name, value in (line.split(": ") for line in said.splitlines() if line)}


def symbols(library: Path, kind: str) -> set[str]:
    done = subprocess.run(["nm", "-P", str(library)], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line.split()[1] in kind}


@pytest.mark.parametrize(("machine", "bits"), [(GCC, "64"), (ARMV7, "32"), (CORTEX_M7, "32")])
def test_structs_and_constants_are_as_promised(machine: Machine, bits: str, tmp_path: Path) -> None:
    assert measured(machine, tmp_path) == json.loads(TABLE.read_text())[bits]


def test_the_names_are_as_promised_and_no_others_get_out(tmp_path: Path) -> None:
    promised = json.loads(TABLE.read_text())["functions"]
    assert functions() == promised
    core = GCC.build(tmp_path / "core.o", [CORE / "edgepv_core.c"], "-c")
    assert symbols(core, "TDBRVWC") == set(promised)


@pytest.mark.parametrize("level", ["-O0", "-O3", "-Os"])
def test_it_asks_little_of_a_c_library(tmp_path: Path, level: str) -> None:
    core = GCC.build(tmp_path / "core.o", [CORE / "edgepv_core.c"], "-c", level)
    assert symbols(core, "U") - {"_GLOBAL_OFFSET_TABLE_"} <= NEEDS


def test_it_has_no_memory_of_its_own(tmp_path: Path) -> None:
    core = GCC.build(tmp_path / "core.o", [CORE / "edgepv_core.c"], "-c")
    sizes = subprocess.run(["size", str(core)], capture_output=True, text=True, check=True).stdout
    assert sizes.splitlines()[1].split()[1:3] == ["0", "0"]  # data, bss


def test_cpp_takes_the_header(tmp_path: Path) -> None:
    source = tmp_path / "uses.cpp"
    source.write_text('#include "edgepv.h"\nint main() { return edgepv_abi() == EDGEPV_ABI ? 0 : 1; }\n')
    core = GCC.build(tmp_path / "core.o", [CORE / "edgepv_core.c"], "-c")
    gpp = Machine("g++", ("g++",))
    gpp.need()
    command = ["g++", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{CORE}", str(source), str(core)]
    subprocess.run([*command, "-o", str(tmp_path / "uses")], check=True)
    gpp.run(tmp_path / "uses", folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "why"), [("-ffast-math", "leave out -ffast-math"), ("-mfpmath=387", "-mfpmath=sse")]
)
def test_options_that_would_round_otherwise_are_refused(tmp_path: Path, options: str, why: str) -> None:
    if options.startswith("-mfpmath") and not measured_on_x86():
        pytest.skip("only x86 has another arithmetic")
    with pytest.raises(AssertionError, match=why):
        GCC.build(tmp_path / "core.o", [CORE / "edgepv_core.c"], "-c", options)


def measured_on_x86() -> bool:
    return subprocess.run(["gcc", "-dumpmachine"], capture_output=True, text=True).stdout.startswith("x86")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    table = {"functions": functions(), "64": measured(GCC, out), "32": measured(ARMV7, out)}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
