"""A bundle's golden answers on arm64, by the engines' own arm64 builds under emulation: numbers, never speed.

``python benchmarks/arm64.py BUNDLE --root ROOT --site SITE`` replays every variant there; writes arm64.json.
ROOT: an arm64 system with python3, such as Debian's packages for arm64 unpacked into a folder. SITE: the
arm64 wheels of edgepv[cpu,mobile] unpacked into a folder (pip download --platform). qemu-aarch64-static 10 or
later must be on the PATH; Debian 12's 7.2 crashes on these wheels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measured_at import now

from edgepv import bundle
from edgepv.base.files import write_json

HERE = Path(__file__).resolve().parent
OUT = HERE / "arm64.json"
REPLAY = """
import json, sys
from pathlib import Path
from edgepv import bundle
from edgepv.base.machine import device_facts, proof
from edgepv.bundle import golden
from edgepv.errors import EdgepvError
from edgepv.types import encode
found = bundle.read(Path(sys.argv[1]))
recorded, rows = golden.load(found), {}
for variant in found.content.variants:
    wanted = golden.of_variant(recorded, variant.name)
    got = golden.golden_answers(golden.open_engine(variant, found.checked), variant, wanted["frames"])
    rows[variant.name] = {
        "engine": proof(variant.engine).engine,
        "rmse": golden.rmse(got, wanted[variant.name]),
        "limit": golden.tolerance(variant.precision, wanted[variant.name], wanted["torch"]),
        "size": golden.rmse(wanted[variant.name], 0.0),
    }
print("RESULT", json.dumps({"device": encode(device_facts()), "variants": rows}))
"""


def measure(folder: Path, root: Path, site: Path) -> dict[str, Any]:
    """What the variants of a bundle answer there, against what was recorded where it was made."""
    found = bundle.read(folder)
    python = sorted((root / "usr" / "bin").glob("python3.[0-9]*"))[0]
    env = {**os.environ, "PYTHONPATH": f"{site}:{HERE.parent}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["qemu-aarch64-static", "-L", str(root), str(python), "-c", REPLAY, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    if line is None:
        sys.exit(f"no result: {done.stderr.strip().splitlines()[-1:]}")
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    for name, row in result["variants"].items():
        row["holds"] = row["rmse"] <= row["limit"]
        print(f"{found.content.name} {name}: rmse {row['rmse']:.2g} of {row['limit']:.2g} allowed")
    return result | {"measured_at": now()}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--site", type=Path, required=True)
    args = parser.parse_args(argv)
    found = {}
    for folder in args.bundles:
        content = bundle.read(folder).content
        found[f"{content.name} {content.target}"] = measure(folder, args.root, args.site)
    write_json(OUT, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
