"""An ONNX graph as a torch module answers what ONNX Runtime answers, operator by operator, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgepv.errors import ModelError
from edgepv.export.onnx_module import OnnxModule

RNG = np.random.default_rng(0)
PICTURE = (1, 4, 6, 8)


def drawn(*shape: int) -> np.ndarray:
    return RNG.uniform(0.1, 1, shape).astype(np.float32)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def one_node(
    path: Path, kind: str, constants: Sequence[np.ndarray | None], attributes: dict[str, Any], count: int = 1
) -> Path:
    stored = [numpy_helper.from_array(c, f"c{i}") for i, c in enumerate(constants) if c is not None]
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(constants)]
    outputs = [f"y{i}" for i in range(count)]
    node = helper.make_node(kind, ["x", *names], outputs, name="it", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, PICTURE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    ("Conv", [drawn(3, 4, 3, 3), drawn(3)], {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ("Conv", [drawn(4, 1, 3, 2)], {"group": 4, "pads": [0, 1, 1, 0]}),
    ("ConvTranspose", [drawn(4, 2, 2, 2)], {"strides": [2, 2]}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("GlobalAveragePool", [], {}),
    ("BatchNormalization", [drawn(4), drawn(4), drawn(4), drawn(4)], {"epsilon": 0.01}),
    ("MatMul", [drawn(8, 5)], {}),
    ("Mul", [drawn(1, 4, 1, 1)], {}),
    ("Pow", [number(2)], {}),
    ("Pow", [number(1.5)], {}),
    ("PRelu", [drawn(4, 1, 1)], {}),
    ("LeakyRelu", [], {"alpha": 0.2}),
    ("HardSwish", [], {}),
    ("HardSigmoid", [], {"alpha": 0.3}),
    ("Clip", [number(0.2), number(0.6)], {}),
    ("Clip", [None, number(0.6)], {}),
    ("Softmax", [], {"axis": 1}),
    ("Slice", [whole(1), whole(2**31), whole(3), whole(2)], {}),
    ("Slice", [whole(-3), whole(-1), whole(2)], {}),
    ("Reshape", [whole(0, 2, -1)], {}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Flatten", [], {}),
    ("Squeeze", [whole(0)], {}),
    ("Unsqueeze", [whole(1, -1)], {}),
    ("Gather", [np.array(2, np.int64)], {"axis": 1}),
    ("Gather", [whole(2, 0)], {"axis": 3}),
    ("Pad", [whole(0, 0, 1, 2, 0, 0, 0, 1), number(0.5)], {}),
    ("Tile", [whole(1, 2, 1, 1)], {}),
    ("Expand", [whole(2, 4, 6, 8)], {}),
    ("ReduceMean", [whole(2, 3)], {"keepdims": 0}),
    ("ReduceMax", [whole(1)], {}),
    ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
    ("Resize", [None, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest", "nearest_mode": "floor",
     "coordinate_transformation_mode": "asymmetric"}),
    ("Resize", [None, None, whole(1, 4, 9, 12)], {"mode": "linear"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "constants", "attributes"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_an_operator_is_that_of_onnx_runtime(
    tmp_path: Path, kind: str, constants: list[np.ndarray | None], attributes: dict[str, Any]
) -> None:
    path, x = one_node(tmp_path / "m.onnx", kind, constants, attributes), drawn(*PICTURE) - np.float32(0.3)
    module = OnnxModule(path, ["x"], ["y0"])
    (wanted,) = ort.InferenceSession(path).run(None, {"x": x})
    exported = torch.export.export(module, (torch.from_numpy(x),)).module()
    np.testing.assert_allclose(exported(torch.from_numpy(x))[0].numpy(), wanted, atol=1e-5)


def test_a_split_has_several_outputs(tmp_path: Path) -> None:
    path, x = one_node(tmp_path / "m.onnx", "Split", [whole(1, 3)], {"axis": 1}, 2), drawn(*PICTURE)
    wanted = ort.InferenceSession(path).run(None, {"x": x})
    for a, b in zip(OnnxModule(path, ["x"], ["y0", "y1"])(torch.from_numpy(x)), wanted, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


@pytest.mark.parametrize(
    ("kind", "constants", "attributes", "message"),
    [
        ("Sin", [], {}, "the operators Sin of an ONNX file do not go to LiteRT"),
        ("Slice", [whole(-1), whole(-9), whole(3), whole(-1)], {}, "Slice 'it' .* with the step -1"),
        ("Resize", [None, None, whole(1, 4, 9, 12)], {"mode": "cubic"}, "Resize 'it' .* mode cubic"),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    tmp_path: Path, kind: str, constants: list[np.ndarray | None], attributes: dict[str, Any], message: str
) -> None:
    path = one_node(tmp_path / "m.onnx", kind, constants, attributes)
    with pytest.raises(ModelError, match=message):
        OnnxModule(path, ["x"], ["y0"])(torch.zeros(PICTURE))
