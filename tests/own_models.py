"""What is the same in tests of a user's own model: its rows in the report, its ONNX file, that for LiteRT."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from support import Run
from torch import nn

from edgepv.types import Measurement, Report, decode


def rows(folder: Path) -> dict[str, Measurement]:
    """Variant -> its row in a bundle's report."""
    return {r.variant: r for r in decode(Report, json.loads((folder / "measured.json").read_text())).rows}


def as_onnx(net: nn.Module, side: int, file: Path) -> Path:
    """A net that takes square pictures, as an older exporter writes it."""
    torch.onnx.export(net.eval(), (torch.rand(1, 3, side, side),), file, input_names=["picture"],
                      output_names=["y"], dynamo=False, opset_version=13)  # fmt: skip
    return file


def for_mobile_in_int8(run: Run, file: Path, spec: Path, clips: Path, out: Path) -> Path:
    """The bundle of an ONNX file, of which the smaller INT8 recipe must be right about all of its clips."""
    code, said, err = run("export", file, "--spec", spec, "--clips", clips, "--target", "mobile",
                          "--precision", "int8", "--out", out)  # fmt: skip
    assert code == 0, err + said
    row = rows(out)["litert-int8-conv"]
    assert row.accuracy and row.accuracy.value == 1.0
    return out
