"""The audit counts matrix products beside convolutions: an INT8 file of an attention net is mostly float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepv.metrics import gate

onnx = pytest.importorskip("onnx")
quantization = pytest.importorskip("onnxruntime.quantization")

from edgepv.base.files import sha256  # noqa: E402
from edgepv.export.audit import audit  # noqa: E402
from edgepv.types import Audit, ConvPlan, Measurement, ModelSpec, TensorSpec, Variant  # noqa: E402

SPEC = ModelSpec("net", TensorSpec("clip", (1, 3, 16, 16)), ("a", "b"))


class Clips:
    """Four calibration inputs."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [rng.standard_normal((1, 3, 16, 16)).astype(np.float32) for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {"clip": self.left.pop()} if self.left else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution to patches and three products behind it: float, with the convolution or all in INT8."""
    made = tmp_path_factory.mktemp("products")
    h, rng = onnx.helper, np.random.default_rng(1)
    weights = {"w": (8, 3, 4, 4), "a": (8, 8), "b": (8, 8), "c": (8, 2)}
    held = [
        onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    held.append(onnx.numpy_helper.from_array(np.array([1, 8, 16]), "tokens"))
    nodes = [
        h.make_node("Conv", ["clip", "w"], ["p"], "patch", strides=[4, 4]),
        h.make_node("Reshape", ["p", "tokens"], ["r"], "reshape"),
        h.make_node("Transpose", ["r"], ["t"], "turn", perm=[0, 2, 1]),
        h.make_node("MatMul", ["t", "a"], ["u"], "query"),
        h.make_node("MatMul", ["u", "b"], ["v"], "value"),
        h.make_node("MatMul", ["v", "c"], ["logits"], "head"),
    ]
    kind = onnx.TensorProto.FLOAT
    ends = [
        [h.make_tensor_value_info("clip", kind, (1, 3, 16, 16))],
        [h.make_tensor_value_info("logits", kind, (1, 16, 2))],
    ]
    graph = h.make_graph(nodes, "net", *ends, held)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=8), made / "float.onnx")
    for name, ops in (("conv", ["Conv"]), ("all", ["Conv", "MatMul"])):
        quantization.quantize_static(
            str(made / "float.onnx"),
            str(made / f"{name}.onnx"),
            Clips(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=ops,
            per_channel=True,
        )
    return made


def variant(folder: Path, name: str, engine: str) -> Variant:
    path = folder / f"{name}.onnx"
    return Variant(
        name, engine, "int8", "step", path.name, sha256(path), SPEC, None,
        {"clip": "clip"}, {"logits": "logits"},
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_products_left_in_float_are_counted_and_named(folder: Path, engine: str) -> None:
    pytest.importorskip(engine)
    found = audit(variant(folder, "conv", engine), folder)
    assert (found.int8, len(found.convolutions)) == (1, 1)
    assert (found.int8_products, len(found.products)) == (0, 3)
    assert found.silent_float == ()  # nobody planned them otherwise
    row = Measurement("onnx-int8", "cpu", engine, "int8", "step", "measured", audit=found)
    first = found.products[0].node
    says = f"onnx-int8: INT8 1/1 convolutions, 0/3 matrix products; 3 run in float, first {first}"
    assert gate.float_remainder(row) == says


def test_products_in_int8_are_counted_too(folder: Path) -> None:
    found = audit(variant(folder, "all", "onnxruntime"), folder)
    assert (found.int8, found.int8_products, len(found.products)) == (1, 3, 3)
    row = Measurement("onnx-int8", "cpu", "onnxruntime", "int8", "step", "measured", audit=found)
    assert gate.float_remainder(row) is None and gate.gate_failure(row) is None


def test_planned_products_of_an_engine_that_is_not_here_are_named(folder: Path) -> None:
    found = audit(variant(folder, "all", "tensorrt"), folder)
    assert found.products[0] == ConvPlan("query", "int8", None)


def test_a_net_of_products_alone_is_int8_in_name_only_if_they_all_run_in_float() -> None:
    rows = (ConvPlan("query", "float", "float"), ConvPlan("value", "float", "float"))
    found = Audit("x", (), products=rows)
    row = Measurement("x", "cpu", "onnxruntime", "int8", "window", "measured", audit=found)
    assert gate.gate_failure(row) == "INT8 in name only: all 2 matrix products run in float"
