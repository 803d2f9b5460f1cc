"""Small detectors as specs, and what they answer where boxes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepv.types import BoxSpec, ModelSpec, TensorSpec

SIDE = 64
ROWS = 8 * 8 + 4 * 4


def grid_spec(labels: tuple[str, ...] = ("person", "dog"), **more: Any) -> ModelSpec:
    """A detector of 64 x 64 px with cells of 8 and 16 px."""
    boxes = replace(BoxSpec("grid", strides=(8, 16)), **more)
    return ModelSpec(
        "finder",
        TensorSpec("picture", (1, 3, SIDE, SIDE)),
        labels,
        colour="bgr",
        task="detection",
        metric="ap50",
        outputs=(TensorSpec("found", (1, ROWS, 5 + len(labels)), "NKC"),),
        boxes=boxes,
    )


def grid_answer(
    spec: ModelSpec, found: Sequence[tuple[float, float, float, float, int, float]]
) -> np.ndarray:
    """(rows, 5 + labels) that says boxes (cx, cy, w, h in px of the input, label, score); cells of 8 px."""
    rows = np.zeros((ROWS, 5 + len(spec.labels)), np.float32)
    for cx, cy, w, h, label, score in found:
        column, row = int(cx // 8), int(cy // 8)
        at = rows[8 * row + column]
        at[:4] = cx / 8 - column, cy / 8 - row, np.log(w / 8), np.log(h / 8)
        at[4], at[5 + label] = 1.0, score
    return rows


def constant_net(path: Path, spec: ModelSpec, answer: np.ndarray) -> Path:
    """An ONNX file that gives ``answer`` for every picture."""
    shape = (1, *answer.shape)
    nodes = [
        helper.make_node("ReduceMean", [spec.input.name], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], [spec.answer.name]),
    ]
    stored = [
        numpy_helper.from_array(answer.reshape(shape), "answer"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
        for name, sides in ((spec.input.name, spec.input.shape), (spec.answer.name, shape))
    ]
    graph = helper.make_graph(nodes, "constant", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
