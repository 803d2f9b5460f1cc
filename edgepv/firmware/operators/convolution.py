"""Conv: dense, depthwise, or depthwise along the frames of a ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepv.firmware.graph import Node
from edgepv.firmware.layout import needed_border, window
from edgepv.firmware.operators.pointwise import act_of, expression
from edgepv.firmware.tiles import picks
from edgepv.firmware.views import LEAST_CHANNELS, Border, Parts, View, padded, whole_channels

if TYPE_CHECKING:
    from edgepv.firmware.fusion import Product
    from edgepv.firmware.lowering import Lowering

BLOCK = 16
"""Channels whose weights lie together: EDGEPV_BLOCK."""
CACHED_FLOATS = 64 * 1024
"""Weights of more than this leave the second cache before they are used again, so that all pixels take one
block of them before the next is read."""
DEPTHWISE_TILE = 4
"""Pixels of a row of a depthwise convolution that share what they read."""
AS_IS = "{EDGEPV_AS_IS, 0.0f, 0.0f, 0.0f, 0.0f}"


def lower(low: Lowering, product: Product) -> None:
    """A convolution over images (N, C, H, W), with what was fused to it."""
    node = product.node
    w, bias = low.graph.constant(node, 1), low.graph.constant(node, 2)
    assert w is not None
    if w.ndim != 4:
        raise node.refusal("it is no convolution over (N, C, H, W)")
    group, channels = node.attributes.get("group", 1), low.graph.shapes[node.inputs[0]][1]
    bias = np.zeros(w.shape[0], np.float32) if bias is None else bias
    depthwise = group == channels == w.shape[0] and group > 1 and not product.residual
    if group == 1:
        _dense(low, product, w, bias)
    elif depthwise and is_over_time(low, product.node, product.source):
        _taps(low, product, w, bias)
    elif depthwise and channels >= LEAST_CHANNELS:
        _depthwise(low, product, w, bias)
    else:
        _grouped(low, product, w, bias)


def ending(low: Lowering, product: Product) -> tuple[str, str]:
    """(name of the value a group ends in, C of its activation)."""
    for name, other in low.fusions.products.items():
        if other is product:
            act = act_of(low.graph, product.act) if product.act else None
            return name, act or AS_IS
    raise AssertionError(product.node.name)


def packed(w: np.ndarray, sources: int = 1) -> np.ndarray:
    """Weights (answers, sources * channels, down, across) as edgepv_convolve reads them."""
    answers, inputs, down, across = w.shape
    whole = np.zeros((padded(max(answers, LEAST_CHANNELS)), inputs, down, across), np.float32)
    whole[:answers] = w
    blocks = []
    for at in range(0, len(whole), BLOCK):
        block = whole[at : at + BLOCK].reshape(-1, sources, inputs // sources, down, across)
        blocks.append(block.transpose(1, 3, 4, 2, 0).reshape(-1))
    return np.concatenate(blocks)


def lengthened(vector: np.ndarray) -> np.ndarray:
    """A value for each channel, zeros for those that fill up the vectors."""
    dtype = np.int32 if vector.dtype == np.int32 else np.float32
    whole = np.zeros(padded(max(len(vector), LEAST_CHANNELS)), dtype)
    whole[: len(vector)] = vector
    return whole


def room(view: View) -> int:
    """Channels that an image's pixel has room for."""
    channels = view.shape[1]
    return padded(channels) if view.strides[3] == padded(channels) else channels


def _dense(low: Lowering, product: Product, w: np.ndarray, bias: np.ndarray) -> None:
    node, (end, act) = product.node, ending(low, product)
    sources = sources_of(low, product.source, needed_border(low.graph, node))
    residual = low.image(product.residual) if product.residual else None
    scale = low.view(product.scale) if product.scale else None
    y = low.result(end)
    frames, answers, height, width = y.shape
    vector = (height, width) == w.shape[2:] == sources[0].shape[2:] == (1, 1) and frames == len(sources) == 1
    if vector and scale is None and residual is None:
        dense(low, node.name, sources[0], w[:, :, 0, 0], bias, y, room(y), act)
        return
    strides, dilations, pads = window(node)
    x = sources[0]
    _, _, row, pixel = x.strides
    flat = w.shape[2:] == strides == (1, 1) and not any(pads) and height * width > 1
    flat = flat and all(_flat(v) for v in (x, y, *((residual,) if residual else ())))
    shape = {
        "sources": len(sources), "taps_down": w.shape[2], "taps_across": w.shape[3],
        "channels": w.shape[1] // len(sources),
        "tap_row": row * dilations[0], "tap_pixel": pixel * dilations[1],
        "step_row": row * strides[0], "step_pixel": pixel * strides[1],
        "height": 1 if flat else height, "width": height * width if flat else width, "answers": answers,
        "y_row": y.strides[2], "y_pixel": y.strides[3],
        "r_row": residual.strides[2] if residual else 0, "r_pixel": residual.strides[3] if residual else 0,
        "padded": room(y), "blocks_first": int(w.size > CACHED_FLOATS),
    }  # fmt: skip
    rows, columns = picks(shape["height"], shape["width"])
    weights = low.constant(node.name, packed(w, len(sources)))
    inputs = [*sources, weights, low.constant(node.name, lengthened(bias))]
    outputs, lines = [y], shape_lines(shape, act)
    if residual:
        inputs.append(residual)
    name_w, name_r = f"x{len(sources)}", f"x{len(sources) + 2}" if residual else "NULL"
    if scale:
        inputs.append(scale)
        outputs.append(low.scratch(f"{node.name} scaled", weights.shape[0]))
        lines.append(f"edgepv_scale_weights(s, {name_w}, x{len(inputs) - 1}, y1);")
        name_w = "y1"
    before = pads[0] * row + pads[1] * pixel
    for n in range(frames):
        at = ", ".join(plus(f"x{k}", n * v.strides[0] - before) for k, v in enumerate(sources))
        of = name_r if not residual else plus(name_r, n * residual.strides[0])
        lines += ["{", f"    const float *const x[] = {{{at}}};"]
        call = f"{rows}, {columns}, x, {name_w}, x{len(sources) + 1}, {of}, {plus('y0', n * y.strides[0])}"
        lines += [f"    edgepv_convolve(s, act, {call});", "}"]
    low.layer("conv", node.name, tuple(inputs), tuple(outputs), tuple(lines))


def dense(
    low: Lowering, name: str, x: View, w: np.ndarray, bias: np.ndarray, y: View, space: int, act: str
) -> None:
    """One vector by a matrix. w: (answers, channels). space: values that y has room for."""
    answers, channels = w.shape
    matrix = np.zeros((channels, padded(max(answers, LEAST_CHANNELS))), np.float32)
    matrix[:, :answers] = w.T
    inputs = (x, low.constant(name, matrix), low.constant(name, lengthened(bias)))
    lines = (
        f"const edgepv_act act = {act};",
        f"edgepv_dense({channels}, {answers}, {space}, act, x0, x1, x2, y0);",
    )
    low.layer("dense", name, inputs, (y,), lines)


def shape_lines(shape: dict[str, int], act: str) -> list[str]:
    """C of the constants that a kernel takes its sizes and its activation from."""
    items = [f".{key} = {value}" for key, value in shape.items()]
    return [f"const edgepv_shape s = {{{', '.join(items)}}};", f"const edgepv_act act = {act};"]


def sources_of(low: Lowering, name: str, border: Border) -> list[View]:
    """What a convolution reads: the parts of what was never put together, if they lie alike, or one image."""
    value = low.values.get(name)
    if isinstance(value, Parts) and value.axis == 1 and value.views[0].shape[0] == 1:
        first = value.views[0]
        alike = all(
            v.shape == first.shape and v.strides[2:] == first.strides[2:] and v.strides[1] == 1
            and low.has_border(v, border)
            for v in value.views
        )  # fmt: skip
        if alike:
            return list(value.views)
    return [low.image(name, border)]


def _flat(view: View) -> bool:
    """Whether the pixels of an image are one row."""
    return view.shape[2] == 1 or view.strides[2] == view.shape[3] * view.strides[3]


def plus(name: str, values: int) -> str:
    """C of a pointer some values further, or back."""
    return name if values == 0 else f"{name} {'+' if values > 0 else '-'} {abs(values)}"


def is_over_time(low: Lowering, node: Node, source: str) -> bool:
    """Whether a kernel (frames, 1) goes over rows that are kept apart."""
    value = low.values.get(source)
    kernel = low.graph.shapes[node.inputs[1]][2:]
    apart = isinstance(value, Parts) and value.axis == 2 and all(v.shape[2] == 1 for v in value.views)
    if not apart or not isinstance(value, Parts) or value.views[0].shape[0] != 1:
        return False
    first = value.views[0]
    alike = all(whole_channels(v) and v.strides[3] == first.strides[3] for v in value.views)
    plain_window = window(node) == ((1, 1), (1, 1), (0, 0, 0, 0))
    return alike and plain_window and kernel == (len(value.views), 1)


def _taps(low: Lowering, product: Product, w: np.ndarray, bias: np.ndarray) -> None:
    """One weight for each frame and channel; the mean over the picture on the way, if it is wanted."""
    node, (end, act) = product.node, ending(low, product)
    value = low.values[product.source]
    assert isinstance(value, Parts)
    y = low.result(end)
    channels, frames = y.shape[1], len(value.views)
    weights = np.zeros((frames, padded(channels)), np.float32)
    weights[:, :channels] = w.reshape(channels, frames).T
    inputs = (*value.views, low.constant(node.name, weights), low.constant(node.name, lengthened(bias)))
    shape = {
        "sources": frames, "channels": padded(channels), "step_pixel": value.views[0].strides[3],
        "width": y.shape[3], "y_pixel": y.strides[3],
    }  # fmt: skip
    mean = low.mean_of(end)
    outputs = (y,) if mean is None else (y, mean)
    names = ", ".join(f"x{k}" for k in range(frames))
    lines = shape_lines(shape, act)
    lines.append(f"const float *const x[] = {{{names}}};")
    lines.append(f"edgepv_taps(s, act, x, x{frames}, x{frames + 1}, y0, {'NULL' if mean is None else 'y1'});")
    low.layer("taps", node.name, inputs, outputs, tuple(lines))


def _depthwise(low: Lowering, product: Product, w: np.ndarray, bias: np.ndarray) -> None:
    node, (end, act) = product.node, ending(low, product)
    x = low.padded_image(product.source, needed_border(low.graph, node))
    y = low.result(end)
    frames, channels, height, width = y.shape
    strides, dilations, pads = window(node)
    _, _, row, pixel = x.strides
    weights = np.zeros((w.shape[2] * w.shape[3], padded(channels)), np.float32)
    weights[:, :channels] = w.reshape(channels, -1).T
    shape = {
        "sources": 1, "taps_down": w.shape[2], "taps_across": w.shape[3], "channels": padded(channels),
        "tap_row": row * dilations[0], "tap_pixel": pixel * dilations[1],
        "step_row": row * strides[0], "step_pixel": pixel * strides[1],
        "height": height, "width": width, "y_row": y.strides[2], "y_pixel": y.strides[3],
    }  # fmt: skip
    lines = shape_lines(shape, act)
    for n in range(frames):
        of = plus("x0", n * x.strides[0] - pads[0] * row - pads[1] * pixel)
        tile = min(DEPTHWISE_TILE, width)
        lines.append(f"edgepv_depthwise(s, act, {tile}, {of}, x1, x2, {plus('y0', n * y.strides[0])});")
    inputs = (x, low.constant(node.name, weights), low.constant(node.name, lengthened(bias)))
    low.layer("depthwise", node.name, inputs, (y,), tuple(lines))


def _grouped(low: Lowering, product: Product, w: np.ndarray, bias: np.ndarray) -> None:
    """Any other grouping, one sum after another."""
    node, (end, _) = product.node, ending(low, product)
    x = low.image(product.source, needed_border(low.graph, node))
    residual = low.image(product.residual) if product.residual else None
    y = low.result(end)
    strides, dilations, pads = window(node)
    _, each, down, across = w.shape
    members = w.shape[0] // node.attributes.get("group", 1)
    _, _, row, pixel = x.strides
    before = pads[0] * row + pads[1] * pixel
    taken = f"i / {members} * {each} + k + a * {dilations[0] * row} + b * {dilations[1] * pixel}"
    weight = f"x1[((i * {each} + k) * {down} + a) * {across} + b]"
    inputs = [x, low.constant(node.name, w), low.constant(node.name, bias)]
    added = ""
    if residual:
        inputs.append(residual)
        added = (
            f" + x3[n * {residual.strides[0]} + i + v * {residual.strides[2]} + u * {residual.strides[3]}]"
        )
    act = _acted(low, product.act, "sum")
    frames, answers, height, width = y.shape
    lines = [
        f"for (size_t n = 0; n < {frames}; n++) for (size_t v = 0; v < {height}; v++)",
        f"    for (size_t u = 0; u < {width}; u++) for (size_t i = 0; i < {answers}; i++) {{",
        f"        const float *const q = {plus('x0', -before)} + n * {x.strides[0]}"
        f" + v * {strides[0] * row} + u * {strides[1] * pixel};",
        f"        float sum = x2[i]{added};",
        f"        for (size_t k = 0; k < {each}; k++) for (size_t a = 0; a < {down}; a++)",
        f"            for (size_t b = 0; b < {across}; b++) sum += q[{taken}] * {weight};",
        f"        y0[n * {y.strides[0]} + i + v * {y.strides[2]} + u * {y.strides[3]}] = {act};",
        "    }",
    ]
    low.layer("grouped", node.name, tuple(inputs), (y,), tuple(lines))


def _acted(low: Lowering, act: Node | None, value: str) -> str:
    return value if act is None else expression(low.graph, act, [value])
