"""The range of a state holds everything that shares it: what it is fed from and what it is joined to."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepv.quantize.int8_onnx import state_overrides
from edgepv.stream import Tensors
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

SHAPE = [1, 2, 4, 4]


def gated(folder: Path) -> Variant:
    """A cell that joins loud features (ten times the frame) to a quiet state (a tanh of both)."""
    nodes = [
        helper.make_node("Mul", ["frame", "ten"], ["loud"], "loud"),
        helper.make_node("Concat", ["loud", "memory"], ["both"], "join", axis=1),
        helper.make_node("Slice", ["both", "0", "2", "1"], ["half"], "half"),
        helper.make_node("Tanh", ["half"], ["memory_next"], "tanh"),
    ]
    graph = helper.make_graph(
        nodes,
        "cell",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in ("frame", "memory")],
        [helper.make_tensor_value_info("memory_next", TensorProto.FLOAT, SHAPE)],
        [
            helper.make_tensor("ten", TensorProto.FLOAT, [], [10.0]),
            *(helper.make_tensor(str(n), TensorProto.INT64, [1], [n]) for n in (0, 1, 2)),
        ],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "cell.onnx")
    spec = ModelSpec("cell", TensorSpec("frame", tuple(SHAPE), "NCHW"), ("a",), 1, Fraction(25))
    stream = StreamSpec((StateSpec("memory", "memory_next", tuple(SHAPE)),), 1)
    names = {"frame": "frame", "memory": "memory"}, {"memory_next": "memory_next"}
    return Variant("cell", "onnxruntime", "fp32", "step", "cell.onnx", "", spec, stream, *names)


def test_what_is_joined_to_a_state_is_not_clipped_to_it(tmp_path: Path) -> None:
    base = gated(tmp_path)
    rng = np.random.default_rng(0)
    feeds: list[Tensors] = [
        {
            "frame": rng.uniform(0, 1, SHAPE).astype(np.float32),
            "memory": rng.uniform(-1, 1, SHAPE).astype(np.float32),
        }
        for _ in range(3)
    ]
    found = state_overrides(tmp_path / base.path, base, feeds)
    assert set(found) == {"memory", "memory_next", "loud", "both"}
    low = min(float(f["memory"].min()) for f in feeds)
    high = max(float(f["frame"].max()) for f in feeds) * 10
    for ((entry),) in found.values():
        assert entry["rmin"] == pytest.approx(low) and entry["rmax"] == pytest.approx(high)
