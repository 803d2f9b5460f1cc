"""Where a model's time goes, operator by operator, as ONNX Runtime's profile tells, and the work of each."""

from __future__ import annotations

import math
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepv.base.optional import need, ort_options, ort_session
from edgepv.export import islands
from edgepv.export.audit import CONV_OPS, INTEGER_PRODUCTS, PRODUCT_OPS


@dataclass(frozen=True)
class Layer:
    """One operator as the engine runs it.

    us: microseconds of a call, those of operators of one name together. operations: multiplies and adds of
    a convolution or a product of matrices; 0 for all others. bytes: of its inputs, weights and outputs.
    precision: "int8" or "fp32".
    """

    name: str
    kind: str
    us: float
    operations: float
    bytes: int
    precision: str


def layers(path: Path) -> list[Layer]:
    """The operators of an ONNX file in the order that they run in, on one thread; inputs are zeros.

    A convolution computes, for each value it gives, a product for each of its weights of that channel;
    channels that the engine adds to fill its blocks of 8 or 16 count as what it computes.
    """
    onnx = need("onnx", extra="compress")
    with tempfile.TemporaryDirectory() as folder:
        options = ort_options()
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        events = islands.profiled(ort_session(path, options))
        graph = onnx.load(Path(folder) / "optimised.onnx").graph
    weights = {node.name: _weights(node, graph) for node in graph.node}
    first: dict[str, dict[str, Any]] = {}
    us: dict[str, list[float]] = {}
    for event in events:
        name = event["name"].removesuffix(islands.KERNEL)
        first.setdefault(name, event["args"])
        us.setdefault(name, []).append(event["dur"])
    each = {name: statistics.median(one) * len(one) / islands.CALLS for name, one in us.items()}
    return [_layer(name, args, each[name], weights.get(name)) for name, args in first.items()]


def _layer(name: str, args: dict[str, Any], us: float, weights: tuple[tuple[int, ...], int] | None) -> Layer:
    kind = args["op_name"]
    outputs = _shapes(args["output_type_shape"])
    operations, held = 0.0, int(args["parameter_size"])
    if kind in (*CONV_OPS, *PRODUCT_OPS) and outputs:
        shown = [shape for shape in _shapes(args["input_type_shape"])[1:] if len(shape) > 1]
        if weights:
            shape, held = weights
        else:
            shape = shown[0] if shown else ()
        operations = 2.0 * math.prod(outputs[0]) * _fan_in(kind, shape)
    moved = int(args["activation_size"]) + int(args["output_size"]) + held
    integer = kind in INTEGER_PRODUCTS or kind.startswith("QLinear") or kind == "ConvInteger"
    return Layer(name, kind, us, operations, moved, "int8" if integer else "fp32")


def _weights(node: Any, graph: Any) -> tuple[tuple[int, ...], int] | None:
    """(shape, bytes) of a node's weights as the optimised graph has them; None where they are no constant.

    The profile does not show what a kernel has packed for itself.
    """
    found = [one for one in graph.initializer if one.name in node.input and len(one.dims) > 1]
    if not found:
        return None
    values = need("onnx.numpy_helper", extra="compress").to_array(found[0])
    return values.shape, values.nbytes


def _fan_in(kind: str, shape: tuple[int, ...]) -> float:
    """Products for each value of the result: of the weights, those of one channel or column."""
    if not shape:
        return 0.0
    return math.prod(shape) / (shape[0] if kind in CONV_OPS else shape[-1])


def _shapes(told: list[dict[str, list[int]]]) -> list[tuple[int, ...]]:
    """Shapes of tensors as a profile has them, each under its type."""
    return [tuple(shape) for one in told for shape in one.values()]
