"""MatMul and Gemm: a matrix by a constant one, or by one that the step computes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgepv.firmware.graph import Node
from edgepv.firmware.loops import nest
from edgepv.firmware.operators.convolution import dense, ending, lengthened, packed, shape_lines
from edgepv.firmware.tiles import picks
from edgepv.firmware.views import Buffer, View, padded, plain

if TYPE_CHECKING:
    from edgepv.firmware.fusion import Product
    from edgepv.firmware.lowering import Lowering


def lower(low: Lowering, product: Product) -> None:
    """A matrix product with its bias and activation."""
    node = product.node
    a, b = node.inputs[0], node.inputs[1]
    scale = float(node.attributes.get("alpha", 1.0)) if node.op == "Gemm" else 1.0
    if node.attributes.get("transA", 0):
        raise node.refusal("its first factor is transposed (transA). Transpose it in the model")
    if len(low.graph.shapes[a]) < 2 or len(low.graph.shapes[b]) < 2:
        raise node.refusal("one of its factors is a vector. Give both two axes or more")
    bias = _bias(low, product)
    if product.residual:
        raise AssertionError(node.name)
    right = low.graph.constants.get(b)
    if right is not None and right.ndim == 2:
        right = (right.T if node.attributes.get("transB", 0) else right) * scale
        _by_constant(low, product, right, bias)
    elif node.op == "Gemm":
        raise node.refusal("its second factor is computed in the step. Use MatMul")
    else:
        _by_computed(low, product, bias)


def _bias(low: Lowering, product: Product) -> np.ndarray:
    node, width = product.node, low.graph.shapes[product.node.output][-1]
    bias = np.zeros(width, np.float32) if product.bias is None else product.bias
    if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2]:
        own = low.graph.constant(node, 2)
        assert own is not None
        if own.size != 1 and (own.size != width or own.shape[-1] != width):
            raise node.refusal(f"its bias is {own.shape}, and only one for each column is known")
        bias = bias + own.reshape(-1) * float(node.attributes.get("beta", 1.0))
    return bias.astype(np.float32)


def _by_constant(low: Lowering, product: Product, right: np.ndarray, bias: np.ndarray) -> None:
    node, (end, act) = product.node, ending(low, product)
    depth, width = right.shape
    x = _rows(low, node, low.view(node.inputs[0]))
    y = _matrix(low.result(end))
    if x.shape[0] == 1:
        dense(low, node.name, x, right.T, bias, y, width, act)
        return
    shape = _shape(x.shape[0], depth, width, x.strides[0], width)
    rows, columns = picks(1, x.shape[0])
    weights = low.constant(node.name, packed(right.T[:, :, None, None]))
    lines = [*shape_lines(shape, act), "const float *const x[] = {x0};"]
    lines.append(f"edgepv_convolve(s, act, {rows}, {columns}, x, x1, x2, NULL, y0);")
    inputs = (x, weights, low.constant(node.name, lengthened(bias)))
    low.layer("matrix", node.name, inputs, (y,), tuple(lines))


def _shape(rows: int, depth: int, width: int, x_row: int, y_row: int) -> dict[str, int]:
    """Sizes of a product (rows, depth) by (depth, width), as of a convolution over one row of pixels."""
    return {
        "sources": 1, "taps_down": 1, "taps_across": 1, "channels": depth, "step_pixel": x_row,
        "height": 1, "width": rows, "answers": width, "y_pixel": y_row, "padded": width,
    }  # fmt: skip


def _matrix(view: View) -> View:
    """A tensor as rows of its last axis."""
    flat = view.reshape((math.prod(view.shape[:-1]), view.shape[-1]))
    assert flat is not None
    return flat


def _rows(low: Lowering, node: Node, view: View) -> View:
    """A tensor as rows of its last axis, each in one piece."""
    flat = view.reshape((math.prod(view.shape[:-1]), view.shape[-1]))
    if flat is not None and (flat.strides[1] == 1 or flat.shape[1] == 1):
        return flat
    return _matrix(straightened(low, node, view))


def straightened(low: Lowering, node: Node, view: View) -> View:
    """A tensor that lies row by row."""
    if view.dense:
        return plain(view.buffer, view.shape, view.offset)
    target = plain(Buffer(node.name, "arena", math.prod(view.shape)), view.shape)
    low.copy(node.name, view, target)
    return target


def _by_computed(low: Lowering, product: Product, bias: np.ndarray) -> None:
    """Every matrix of the second factor is packed as constant ones are when the C is written."""
    node, (end, act) = product.node, ending(low, product)
    shape = low.graph.shapes[node.output]
    batch, (rows, width) = shape[:-2], shape[-2:]
    left, right = low.view(node.inputs[0]), low.view(node.inputs[1])
    depth = left.shape[-1]
    if left.strides[-1] != 1 and depth > 1:
        left = straightened(low, node, left)
    left, right = left.broadcast((*batch, rows, depth)), right.broadcast((*batch, depth, width))
    y = low.result(end)
    block = low.scratch(f"{node.name} packed", depth * padded(max(width, 8)))
    sizes = shape_lines(_shape(rows, depth, width, left.strides[-2], y.strides[-2]), act)
    tile = ", ".join(picks(1, rows))
    over = (y.strides[:-2], left.strides[:-2], right.strides[:-2])

    def inner(at: list[str]) -> list[str]:
        return [
            f"edgepv_pack({depth}, {width}, {right.strides[-2]}, {right.strides[-1]}, x1 + {at[2]}, y1);",
            f"const float *const x[] = {{x0 + {at[1]}}};",
            f"edgepv_convolve(s, act, {tile}, x, y1, x2, NULL, y0 + {at[0]});",
        ]

    lines = (*sizes, "{", *nest(batch, over, inner), "}")
    inputs = (left, right, low.constant(node.name, lengthened(bias)))
    low.layer("product", node.name, inputs, (y, block), lines)
