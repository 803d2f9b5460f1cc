"""A detector of bright squares, exact by construction, and films in which one walks."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepv.export.from_onnx import read_onnx
from edgepv.types import BoxSpec, ModelSpec, TensorSpec, Variant

SIDE, CELL = 64, 8
CELLS = SIDE // CELL
SIZE = 16
"""A square is 16 px wide and high, and so are the boxes; their middles are where four cells meet."""

SPEC = ModelSpec(
    "bright",
    TensorSpec("picture", (1, 3, SIDE, SIDE)),
    ("person",),
    colour="bgr",
    fps=Fraction(10),
    task="detection",
    metric="ap50",
    outputs=(TensorSpec("found", (1, (CELLS - 1) ** 2, 5), "NKC"),),
    boxes=BoxSpec("decoded", form="cxcywh", unit="px", nms=0.1),
)


def bright_detector(folder: Path, spec: ModelSpec = SPEC) -> Variant:
    """An ONNX file in ``folder`` that says a box wherever 2 x 2 cells are bright; its score is how bright."""
    middles = np.arange(1, CELLS, dtype=np.float32) * CELL
    sides = np.full((CELLS - 1, CELLS - 1), SIZE, np.float32)
    places = np.stack([*np.meshgrid(middles, middles), sides, sides], 2)
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["grey"], axes=[1]),
        helper.make_node(
            "AveragePool", ["grey"], ["bright"], kernel_shape=[SIZE, SIZE], strides=[CELL, CELL]
        ),
        helper.make_node("Reshape", ["bright", "column"], ["scores"]),
        helper.make_node("Concat", ["places", "scores"], ["found"], axis=2),
    ]
    stored = [
        numpy_helper.from_array(np.array([1, -1, 1]), "column"),
        numpy_helper.from_array(places.reshape(1, -1, 4), "places"),
    ]
    ends = [
        helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in (spec.input, spec.answer)
    ]
    graph = helper.make_graph(nodes, "bright", ends[:1], ends[1:], stored)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        folder / "net.onnx",
    )
    return read_onnx(folder / "net.onnx", spec, folder / "float.onnx")[0]


def picture(*middles: tuple[int, int]) -> np.ndarray:
    """64 x 64 px, dark but for white squares around these middles (x, y)."""
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    for x, y in middles:
        frame[y - SIZE // 2 : y + SIZE // 2, x - SIZE // 2 : x + SIZE // 2] = 255
    return frame


def film(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """A file of ten frames a second, without loss."""
    size = (frames[0].shape[1], frames[0].shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 10.0, size)
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path
