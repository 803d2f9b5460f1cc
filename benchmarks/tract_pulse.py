"""Which clip nets tract's pulse transform makes to step: four simple stacks, and the nets of clipnets.py.

``python benchmarks/tract_pulse.py`` exports each with its time axis left free, as tract wants it, and asks
tract, in an environment of its own (see peers.py), to step it four frames at a time. Nothing is timed. Writes
tract_pulse.json: null for a net that it takes, else its words.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import clipnets
import torch
from measured_at import now
from peers import FOLDER, environment
from torch import nn

from edgepv.base import cache
from edgepv.base.files import write_json
from edgepv.base.machine import device_facts
from edgepv.base.quiet import hush
from edgepv.types import encode

OUT = Path(__file__).resolve().with_suffix(".json")
SIMPLE: dict[str, nn.Module] = {
    "a convolution": nn.Conv3d(3, 4, 3, padding=(0, 1, 1)),
    "two convolutions": nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=(0, 1, 1)), nn.ReLU(), nn.Conv3d(4, 4, 3, padding=(0, 1, 1))
    ),
    "space, then time": nn.Sequential(
        nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU(), nn.Conv3d(4, 4, (3, 1, 1))
    ),
    "strides in space": nn.Sequential(
        nn.Conv3d(3, 4, 3, stride=(1, 2, 2), padding=(0, 1, 1)),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.Conv3d(4, 4, 3),
    ),
}
"""Convolutions without padding in time, and nothing that sees a whole clip."""


def exported(net: nn.Module, frames: int, size: int, out: Path) -> str | None:
    """Write a net with free time as ONNX; returns why that cannot be."""
    example = torch.randn(1, 3, frames, size, size)
    time = torch.export.Dim("T", min=4, max=512)
    try:
        with hush():
            torch.onnx.export(
                net.eval(),
                (example,),
                out,
                dynamo=True,
                opset_version=18,
                external_data=False,
                dynamic_shapes=({2: time},),
            )
    except Exception as e:  # torch raises anything
        first = re.sub(r"\x1b\[\d+m", "", str(e).strip().splitlines()[0])  # without colours
        return f"torch does not export it with time left free: {first[:200]}"
    return None


def asked(nets: dict[str, tuple[nn.Module, int, int]]) -> dict[str, str | None]:
    """What becomes of (net, frames, size) by name."""
    found: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{i}.onnx" for i, name in enumerate(nets)}
        for name, (net, frames, size) in nets.items():
            found[name] = exported(net, frames, size, paths[name])
            print(f"{name}: {found[name] or 'exported'}", flush=True)
        there = {name: str(path) for name, path in paths.items() if found[name] is None}
        python = environment("tract", cache.root() / "peers")
        command = [python, FOLDER / "pulse.py", *there.values()]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found | {name: told[Path(path).stem] for name, path in there.items()}


def main() -> int:
    """Command line, without arguments."""
    torch.set_num_threads(1)
    ours: dict[str, Any] = {net.build.__name__: (net.build(), net.frames, net.size) for net in clipnets.NETS}
    result = {
        "simple": asked({name: (net, 16, 16) for name, net in SIMPLE.items()}),
        "clipnets": asked(ours),
        "measured_at": now(),
        "device": encode(device_facts()),
    }
    write_json(OUT, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
