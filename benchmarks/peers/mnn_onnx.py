"""MNN: an ONNX file converted by its converter.

default: float32. tuned: weights in 8 bits, which it computes with in float. Its own converter script reports
each use to its maker and installs a package for that, so its library is called instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from serve import Case, Infer, Tensors


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write model.mnn."""
    import _tools
    import MNN  # noqa: F401  loads what _tools needs

    files = ["--modelFile", str(case.model), "--MNNModel", str(out / "model.mnn")]
    bits = ["--weightQuantBits", "8"] if tuned else []
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "none", *bits])
    if not (out / "model.mnn").is_file():
        raise RuntimeError("its converter wrote no file")
    return {"file": "model.mnn", "engine": "mnn", "int8": [0, 0]}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run on one thread."""
    from MNN import nn
    from MNN.expr import const, convert, data_format, dtype

    names = case.names
    settings = {"precision": "high", "backend": "CPU", "numThread": 1}
    manager = nn.create_runtime_manager((settings,))
    net = nn.load_module_from_file(
        str(out / made["file"]), names["inputs"], names["outputs"], runtime_manager=manager
    )

    def infer(feeds: Tensors) -> Tensors:
        given = [
            const(feeds[n], list(feeds[n].shape), data_format.NCHW, dtype.float) for n in names["inputs"]
        ]
        found = net.forward(given)
        several = found if isinstance(found, list | tuple) else [found]
        return case.by_name([np.array(convert(value, data_format.NCHW).read()) for value in several])

    return infer
