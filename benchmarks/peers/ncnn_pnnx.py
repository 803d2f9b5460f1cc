"""ncnn, of what pnnx makes of the ONNX file.

default: as it comes, float16 weights, and float16 or bfloat16 in between where the CPU has them. tuned:
float32 throughout. The tool that sets its INT8 ranges is not on PyPI. Of pv-conv-small's mean over a state of
(1, 16, 104) pnnx keeps no axis, so that its answers have the shape of a picture.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from serve import Case, Infer, Tensors


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write model.ncnn.param and model.ncnn.bin."""
    shapes = ",".join(str(list(v.shape)).replace(" ", "") for v in case.calibration()[0].values())
    (out / "model.onnx").write_bytes(case.model.read_bytes())
    tool = Path(sys.executable).parent / "pnnx"
    half = f"fp16={0 if tuned else 1}"
    subprocess.run([tool, "model.onnx", f"inputshape={shapes}", half], cwd=out, check=True)
    if not (out / "model.ncnn.param").is_file():
        raise RuntimeError("pnnx wrote no file for ncnn")
    return {"file": "model.ncnn.param", "engine": "ncnn", "int8": [0, 0], "half": not tuned}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run on one thread; it has no batch, which is 1 here."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    if not made["half"]:
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(out / made["file"])) or net.load_model(str(out / "model.ncnn.bin")):
        raise RuntimeError("ncnn does not load what pnnx wrote: it has layers that ncnn does not have")
    names = case.names

    def infer(feeds: Tensors) -> Tensors:
        with net.create_extractor() as run:
            for i, name in enumerate(names["inputs"]):
                run.input(f"in{i}", ncnn.Mat(np.ascontiguousarray(feeds[name][0])).clone())
            found = [run.extract(f"out{i}")[1] for i in range(len(names["outputs"]))]
        return case.by_name([np.array(value)[None] for value in found])

    return infer
