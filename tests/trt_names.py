"""Write names.json anew: which of the names that edgepv uses are in NVIDIA's own packages on PyPI.

``python tests/trt_names.py`` downloads the binding wheels of several TensorRT versions (1 MB each) and the
header of CUDA's driver. Kept are names, parameter counts and constants alone. A name is found as a whole
string in the bindings' binary: that tells that it is there, not what it does. No wheel of 8.5 is on PyPI.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent / "runtimes" / "trt"
NAMES = HERE / "names.json"
BINDINGS = {
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.12.0": "tensorrt-cu12-bindings==10.12.0.36",
    "10.13.3": "tensorrt-cu12-bindings==10.13.3.9",
    "10.16.1": "tensorrt-cu12-bindings==10.16.1.11",
    "11.4.0": "tensorrt-cu12-bindings==11.4.0.106",
}
HEADERS = {
    "11.8": "nvidia-cuda-runtime-cu11==11.8.89",
    "12.9": "nvidia-cuda-runtime-cu12==12.9.79",
    "13": "nvidia-cuda-runtime==13.5.37",
}
CONSTANTS = (
    "CUDA_ERROR_NO_DEVICE",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
    "CU_DEVICE_ATTRIBUTE_INTEGRATED",
    "CU_STREAM_NON_BLOCKING",
    "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL",
    "CU_MEMHOSTALLOC_PORTABLE",
)


def members(fake: ModuleType) -> set[str]:
    """What a fake tensorrt has: of the module, and of its classes."""
    own = {"calls", "script", "parts", "driver"}
    names = {name for name in vars(fake) if not name.startswith("_")} - own
    for part in fake.parts:
        names |= {name for name in vars(part) if not name.startswith("_")} - {"onnx", "data"}
    return names


def driver_calls() -> dict[str, int]:
    """Functions of the driver that edgepv calls, with how many arguments."""
    import edgepv.runtimes.trt.cuda as module

    found = {}
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, count = node.func.attr, len(node.args)
            if name == "_call" and isinstance(node.args[0], ast.Constant):
                name, count = str(node.args[0].value), count - 1
            if re.match(r"cu[A-Z]", name):
                found[name] = count
    return found


def declared(header: str, name: str) -> int | None:
    """How many parameters the function behind an exported name has; None if it is not in the header.

    The header declares it under its own name, or under a plain one that a #define replaces.
    """
    plain = re.search(rf"#define\s+(\w+)\s+(?:__CUDA_API_PTSZ\()?{name}\b", header)
    for one in (name, *(plain.groups() if plain else ())):
        if match := re.search(rf"CUDAAPI\s+{one}\s*\(([^)]*)\)", header):
            return len(match[1].split(","))
    return None


def constant(header: str, name: str) -> int | None:
    match = re.search(rf"\b{name}\s*=?\s+(0x[0-9a-fA-F]+|\d+)", header)
    return int(match[1], 0) if match else None


def fetched(requirement: str, ending: str, folder: str) -> tuple[str, bytes]:
    """(file name of the wheel, the file in it that ends so)."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:",
         "--python-version",
         "3.10", "--implementation", "cp", "--platform", "manylinux_2_28_x86_64", "--platform",
         "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64", "-d", folder, requirement],
        check=True,
    )  # fmt: skip
    stem = requirement.split("==")[0].replace("-", "_")
    (wheel,) = [p for p in Path(folder).glob("*.whl") if re.match(rf"{stem}-\d", p.name)]
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(ending)]
        return wheel.name, archive.read(name)


def main() -> None:
    sys.path.insert(0, str(HERE / "fake"))
    import fake_tensorrt

    fakes = (fake_tensorrt.make(version, None) for version in ("8.6.1", "10.3.0", "11.4.0"))
    asked = set().union(*map(members, fakes))
    found: dict[str, Any] = {"tensorrt": {}, "cuda.h": {}}
    for version, requirement in BINDINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            wheel, binary = fetched(requirement, "/tensorrt.so", folder)
        there = sorted(n for n in asked if f"{n}\0".encode() in binary)
        found["tensorrt"][version] = {"wheel": wheel, "names": there}
    for version, requirement in HEADERS.items():
        with tempfile.TemporaryDirectory() as folder:
            wheel, data = fetched(requirement, "/include/cuda.h", folder)
        header = data.decode("utf-8", "replace")
        functions = {name: declared(header, name) for name in sorted(driver_calls())}
        constants = {name: constant(header, name) for name in CONSTANTS}
        found["cuda.h"][version] = {"wheel": wheel, "functions": functions, "constants": constants}
    NAMES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
