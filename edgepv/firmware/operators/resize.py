"""Resize of pictures: nearest or bilinear, by tables of what each pixel is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepv.firmware.graph import Node

if TYPE_CHECKING:
    from edgepv.firmware.lowering import Lowering


def lower(low: Lowering, node: Node) -> None:
    """Every pixel is a mean of two by two, weighted; nearest weighs one of them with 1."""
    x, y = low.image(node.inputs[0]), low.result(node.output)
    if x.shape[:2] != y.shape[:2] or node.attributes.get("antialias", 0):
        raise node.refusal("it changes more than height and width, or is antialiased")
    frames, channels, height, width = y.shape
    scales = low.graph.constant(node, 2)
    known = scales is not None and scales.size == 4
    rows, columns = (
        _table(
            node, x.shape[axis], y.shape[axis], float(scales[axis]) if known and scales is not None else None
        )
        for axis in (2, 3)
    )
    inputs = (x, low.constant(node.name, rows), low.constant(node.name, columns))
    source = f"x0 + n * {x.strides[0]} + c * {x.strides[1]}"
    target = f"y0[n * {y.strides[0]} + c * {y.strides[1]} + v * {y.strides[2]} + u * {y.strides[3]}]"
    body = (
        f"for (size_t n = 0; n < {frames}; n++) for (size_t v = 0; v < {height}; v++) {{",
        f"    const size_t above = (size_t)x1[3 * v] * {x.strides[2]};",
        f"    const size_t below = (size_t)x1[3 * v + 1] * {x.strides[2]};",
        "    const float low = x1[3 * v + 2];",
        f"    for (size_t u = 0; u < {width}; u++) {{",
        f"        const size_t left = (size_t)x2[3 * u] * {x.strides[3]};",
        f"        const size_t right = (size_t)x2[3 * u + 1] * {x.strides[3]};",
        "        const float far = x2[3 * u + 2];",
        f"        for (size_t c = 0; c < {channels}; c++) {{",
        f"            const float *const q = {source};",
        "            const float over = q[above + left] + far * (q[above + right] - q[above + left]);",
        "            const float under = q[below + left] + far * (q[below + right] - q[below + left]);",
        f"            {target} = over + low * (under - over);",
        "        }",
        "    }",
        "}",
    )
    low.layer("resize", node.name, inputs, (y,), body)


def _table(node: Node, source: int, length: int, scale: float | None) -> np.ndarray:
    """(length, 3): the two pixels of one axis that each new one is made of, and the weight of the second."""
    mode = node.attributes.get("mode", b"nearest")
    at = _places(node, source, length, length / source if scale is None else scale)
    if mode == b"linear":
        at = np.clip(at, 0, source - 1)
        first = np.floor(at)
        return np.stack([first, np.minimum(first + 1, source - 1), at - first], 1).astype(np.float32)
    if mode != b"nearest":
        raise node.refusal(f"its mode is '{mode.decode()}'; 'nearest' and 'linear' are known")
    rounding = node.attributes.get("nearest_mode", b"round_prefer_floor")
    rules = {
        b"floor": np.floor(at),
        b"ceil": np.ceil(at),
        b"round_prefer_floor": np.ceil(at - 0.5),
        b"round_prefer_ceil": np.floor(at + 0.5),
    }
    first = np.clip(rules[rounding], 0, source - 1)
    return np.stack([first, first, np.zeros(length)], 1).astype(np.float32)


def _places(node: Node, source: int, length: int, scale: float) -> np.ndarray:
    """Where the new pixels of one axis lie among the old, by ONNX's coordinate transformation."""
    mode = node.attributes.get("coordinate_transformation_mode", b"half_pixel")
    new = np.arange(length, dtype=np.float64)
    if mode == b"asymmetric":
        return new / scale
    if mode == b"align_corners":
        return new * (source - 1) / max(length - 1, 1)
    if mode == b"half_pixel" or (mode == b"pytorch_half_pixel" and length > 1):
        return (new + 0.5) / scale - 0.5
    if mode == b"pytorch_half_pixel":
        return np.zeros(length)
    raise node.refusal(f"its coordinates are '{mode.decode()}', which is not known")
