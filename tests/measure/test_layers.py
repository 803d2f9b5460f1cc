"""The work of operators, counted where a reader can count it too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepv.measure.layers import layers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """(1, 3, 8, 8) -> 3 x 3 convolution to 16 channels -> mean -> product with (16, 7)."""
    rng = np.random.default_rng(0)
    weights = {"w": (16, 3, 3, 3), "m": (16, 7)}
    constants = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()
    ]
    constants.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["c", "axes"], ["r"], name="mean", keepdims=0),
        helper.make_node("MatMul", ["r", "m"], ["y"], name="product"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", (1, 3, 8, 8)), ("y", (1, 7)))
    ]
    graph = helper.make_graph(nodes, "g", ends[0], ends[1], constants)
    path = tmp_path_factory.mktemp("layers") / "model.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 10
    onnx.save(made, path)
    return path


def test_operations_are_two_for_each_product(model: Path) -> None:
    found = layers(model)
    work = {layer.kind: layer.operations for layer in found if layer.operations}
    assert list(work.values()) == [2 * 16 * 8 * 8 * 27, 2 * 16 * 7]
    assert {layer.precision for layer in found} == {"fp32"}
    assert all(layer.us >= 0 for layer in found)


def test_bytes_are_those_of_inputs_weights_and_outputs(model: Path) -> None:
    (conv,) = (layer for layer in layers(model) if "Conv" in layer.kind)
    read, written, weights = 4 * 3 * 64, 4 * 16 * 64, 4 * 16 * 27
    assert conv.bytes == read + written + weights
