"""emx-onnx-cgen: C generated of an ONNX file, compiled by gcc for this CPU.

default: of the float file, gcc -O3. tuned: gcc -Ofast with the processor's own vectors in full width. Weights
are told to stay in the C: above 100 KB it writes them to a file that the caller has to load, else they are 0.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from serve import Case, Infer, Tensors


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write model.so."""
    tool = Path(sys.executable).parent / "emx-onnx-cgen"
    source = out / "model.c"
    inside = ["--large-weight-threshold", "0"]
    subprocess.run([tool, "compile", "--model-name", "peer", *inside, case.model, source], check=True)
    speed = ["-Ofast", "-mprefer-vector-width=512"] if tuned else ["-O3"]
    subprocess.run(
        ["gcc", *speed, "-march=native", "-w", "-fPIC", "-shared", source, "-o", out / "model.so", "-lm"],
        check=True,
    )
    signature = re.search(r"^void peer\(([^)]*)\)", source.read_text(), re.MULTILINE)
    if signature is None:
        raise RuntimeError("the generated C has no function of the model's name")
    source.unlink()
    return {"file": "model.so", "engine": "generated C", "int8": [0, 0], "signature": signature[1]}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Called through ctypes."""
    shapes = [
        [int(n) for n in re.findall(r"\[(?:restrict )?(\d+)\]", one)] for one in made["signature"].split(",")
    ]
    given, answered = shapes[: len(case.names["inputs"])], shapes[len(case.names["inputs"]) :]
    function = ctypes.CDLL(str(out / made["file"])).peer
    outputs = [np.zeros(shape, np.float32) for shape in answered]

    def infer(feeds: Tensors) -> Tensors:
        values = [
            np.ascontiguousarray(feeds[name]).reshape(s) for name, s in zip(case.names["inputs"], given)
        ]
        function(*(ctypes.c_void_p(v.ctypes.data) for v in (*values, *outputs)))
        return case.by_name([value.copy() for value in outputs])

    return infer
