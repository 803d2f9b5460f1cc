"""Weights and scales in float16, for networks whose types are what the file says."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgepv.base.optional import need
from edgepv.errors import UsageError
from edgepv.export import half
from edgepv.export.tensorrt.graph import (
    attribute,
    drop_unused_constants,
    name_nodes,
    quantize_nodes,
    weighted_nodes,
    without_advice,
)
from edgepv.export.tensorrt.opset import IR_VERSION, to_opset

if TYPE_CHECKING:
    from onnx import ModelProto


STRONG_OPSET = 19
"""The first opset whose Q/DQ scales may be float16; TensorRT 10.12 and later read it."""
SMALLEST_FP16 = np.float32(2.0**-14)
"""The smallest float16 with all its bits; below it steps of a scale grow beyond 0.1 %."""


def to_fp16(
    model: ModelProto,
    feeds: Sequence[dict[str, np.ndarray]] = (),
    grown: Sequence[tuple[str, str]] = (),
) -> ModelProto:
    """The model for a strongly typed build: opset 19, float16 inside, float32 inputs and outputs.

    INT8 weights become constants, quantized with the float16 scale the file carries. The types are
    changed by onnxruntime's converter, which keeps Q/DQ in the type of their tensor. What float16 does not
    hold stays in float32: values met with ``feeds``, and what adds to the states of ``grown``; see ``half``.
    Raises UsageError if an activation scale is too small for float16.
    """
    from onnx import checker

    convert = need("onnxruntime.transformers.float16", extra="compress").convert_float_to_float16
    strong: ModelProto = to_opset(model, STRONG_OPSET)
    _check_fp16_scales(strong)
    beyond = half.beyond(strong, feeds) if feeds else {}
    wide = [*beyond, *half.sums(strong, grown)]
    wide += _weights_of(strong, wide)
    _fold_weights(strong, wide)
    with without_advice(), warnings.catch_warnings():  # numbers that it clips are those of nodes it leaves
        warnings.simplefilter("ignore")
        strong = convert(strong, keep_io_types=True, node_block_list=wide)
    half.join_casts(strong)
    half.note(strong, wide, max(beyond.values(), default=0.0))
    strong.ir_version = IR_VERSION[STRONG_OPSET]
    _sort_nodes(strong)
    name_nodes(strong)
    checker.check_model(strong, full_check=True)
    return strong


def _check_fp16_scales(model: ModelProto) -> None:
    from onnx import numpy_helper

    inits = {init.name: init for init in model.graph.initializer}
    for node in quantize_nodes(model, weights=False):
        scale = float(numpy_helper.to_array(inits[node.input[1]]))
        if scale < SMALLEST_FP16:
            raise UsageError(
                f"'{node.input[0]}' never exceeded {127 * scale:.2g} in calibration, too little "
                "for a float16 scale. Add clips that use it, or keep its layer in float"
            )


def _weights_of(model: ModelProto, nodes: Sequence[str]) -> list[str]:
    """The DQ nodes behind the weights of the named convolutions and matrix products."""
    makers = {out: node for node in model.graph.node for out in node.output}
    producers = (makers.get(n.input[1]) for n in weighted_nodes(model) if n.name in nodes)
    return [n.name for n in producers if n is not None and n.op_type == "DequantizeLinear"]


def _fold_weights(model: ModelProto, wide: Sequence[str] = ()) -> None:
    """Replace each float weight and its Q by an INT8 constant, with a scale exact in float16.

    wide: DQ nodes whose scales stay in float32.
    """
    from onnx import numpy_helper

    kept = {node.input[0] for node in model.graph.node if node.name in wide}
    inits = {init.name: init for init in model.graph.initializer}
    for node in quantize_nodes(model, weights=True):
        weight, scale_name, _ = node.input
        scale = numpy_helper.to_array(inits[scale_name])
        scale = scale if node.output[0] in kept else fp16_scale(scale)
        values = numpy_helper.to_array(inits[weight])
        codes = _codes(values, scale, axis=int(attribute(node, "axis", 1)))
        inits[scale_name].CopyFrom(numpy_helper.from_array(scale, scale_name))
        model.graph.initializer.append(numpy_helper.from_array(codes, node.output[0]))
        model.graph.node.remove(node)
    drop_unused_constants(model)


def fp16_scale(scale: np.ndarray) -> np.ndarray:
    """The next float16 at or above each scale, as float32, and at least the smallest normal one.

    Rounded up, so that the largest weight still lands within 127.
    """
    half = np.maximum(scale, SMALLEST_FP16).astype(np.float16)
    low = half.astype(np.float32) < scale
    half[low] = np.nextafter(half[low], np.float16(np.inf))
    up: np.ndarray = half.astype(np.float32)
    return up


def _codes(values: np.ndarray, scale: np.ndarray, *, axis: int) -> np.ndarray:
    """QuantizeLinear with zero point 0, as ONNX defines it: round half to even, then saturate."""
    if scale.ndim:
        scale = scale.reshape([-1 if d == axis else 1 for d in range(values.ndim)])
    codes: np.ndarray = np.clip(np.rint(values / scale), -128, 127).astype(np.int8)
    return codes


def _sort_nodes(model: ModelProto) -> None:
    """Put every node behind the makers of its inputs; the type converter appends its casts last."""
    pending = {out for node in model.graph.node for out in node.output}
    waiting, done = list(model.graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if pending.intersection(node.input):
                later.append(node)
            else:
                pending.difference_update(node.output)
                done.append(node)
        if len(later) == len(waiting):
            raise UsageError(f"the graph has a loop at '{later[0].name}'. Export the model again")
        waiting = later
    del model.graph.node[:]
    model.graph.node.extend(done)
