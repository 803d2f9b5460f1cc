"""The device kit as one file: the project's own code that a Jetson's Python can run, zipped (PEP 441)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from edgepv.base.files import whole_file

KIT = "kit.pyz"
MODULES = ("errors.py", "base/trt_layers.py", "base/vet.py", "targets/jetson.json", "runtimes/trt")
"""Files of edgepv, and folders of files, that the kit holds. All of them are Python 3.8."""
MAIN = "import sys\n\nfrom edgepv.runtimes.trt.kit import main\n\nsys.exit(main())\n"
FIXED = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold: equal code gives equal bytes


def write_kit(path: Path) -> None:
    """Write the kit. Its packages have empty ``__init__`` files: the real ones want a newer Python."""
    root = Path(__file__).parents[2]
    places = [p for name in MODULES for p in (sorted((root / name).glob("*.py")) or [root / name])]
    files = {f"edgepv/{p.relative_to(root).as_posix()}": p.read_bytes() for p in places}
    packages = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    for package in packages:
        files.setdefault(f"{package}/__init__.py", b"")
    files["__main__.py"] = MAIN.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, FIXED), files[name], zipfile.ZIP_DEFLATED)
    with whole_file(path) as tmp:
        tmp.write_bytes(b"#!/usr/bin/env python3\n" + packed.getvalue())
