"""IREE: an ONNX file compiled for this CPU, in float32; it quantizes nothing itself.

default: as its guide for CPUs says, for this machine's instructions. tuned: at its highest level, O3.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from serve import Case, Infer, Tensors


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write model.vmfb."""
    tools = Path(sys.executable).parent
    subprocess.run([tools / "iree-import-onnx", case.model, "-o", out / "model.mlir"], check=True)
    options = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    options += ["--iree-llvmcpu-target-cpu=host", *(["--iree-opt-level=O3"] if tuned else [])]
    subprocess.run(
        [tools / "iree-compile", out / "model.mlir", *options, "-o", out / "model.vmfb"], check=True
    )
    return {"file": "model.vmfb", "engine": "iree", "int8": [0, 0]}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by IREE's synchronous CPU driver."""
    import iree.runtime as rt

    module = rt.load_vm_flatbuffer_file(str(out / made["file"]), driver="local-sync")
    function = next(
        getattr(module, name) for name in ("main_graph", "main") if name in module.vm_module.function_names
    )

    def infer(feeds: Tensors) -> Tensors:
        found = function(*(feeds[name] for name in case.names["inputs"]))
        several = found if isinstance(found, list | tuple) else [found]
        return case.by_name([np.asarray(value.to_host()) for value in several])

    return infer
