"""What is computed on codes of eight bits: convolutions, and what goes element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgepv.firmware.graph import Code, Node
from edgepv.firmware.layout import needed_border, window
from edgepv.firmware.loops import runs
from edgepv.firmware.numbers import literal
from edgepv.firmware.operators.convolution import (
    BLOCK,
    DEPTHWISE_TILE,
    is_over_time,
    lengthened,
    plus,
    room,
    sources_of,
)
from edgepv.firmware.states import RESHAPES, root_of
from edgepv.firmware.tiles import MOST_PIXELS_OF_CODES, picks
from edgepv.firmware.views import LEAST_CHANNELS, Parts, View, padded, whole_channels

if TYPE_CHECKING:
    from edgepv.firmware.integers import Ends
    from edgepv.firmware.lowering import Lowering

FOUR = 4
"""Channels whose products are summed by one instruction."""
UNSIGNED = 128
"""What an unsigned code is above the signed one that arm64 multiplies."""


def convolution(low: Lowering, node: Node) -> None:
    """A convolution over images of codes (N, C, H, W)."""
    if node.attributes.get("group", 1) == 1:
        _dense(low, node)
    elif is_over_time(low, node, node.inputs[0]) and node.output in low.graph.codes:
        _taps(low, node)
    else:
        _depthwise(low, node)


def _ends(low: Lowering, node: Node, ends: Ends, inputs: list[View], *, signed: bool) -> list[str]:
    """C of what sums begin with and become; the constants of it are added to the inputs of a layer."""
    names = []
    sums = ends.weights.sum(axis=(1, 2, 3), dtype=np.int32)
    sign = np.int32(UNSIGNED) * sums if signed else None
    for vector in (ends.begin, sign, ends.scale, ends.shift):
        if vector is not None:
            names.append(f"x{len(inputs)}")
            inputs.append(low.constant(node.name, lengthened(vector)))
        else:
            names.append("NULL")
    code = low.graph.codes.get(node.output)
    bounds = f"{{{0 if code is None else code.zero}, {ends.low}, {ends.high}}}"
    return [
        f"const edgepv_ends ends = {{{', '.join(names)}}};",
        f"const edgepv_bounds to = {bounds};",
    ]


def _shape(shape: dict[str, int]) -> str:
    items = ", ".join(f".{key} = {value}" for key, value in shape.items())
    return f"const edgepv_shape s = {{{items}}};"


def _into(node: Node, low: Lowering, at: int = 0) -> str:
    """Where a convolution's answers go: codes, or floats."""
    place = plus("y0", at)
    return f"{place}, NULL" if node.output in low.graph.codes else f"NULL, {place}"


def packed(w: np.ndarray, sources: int) -> np.ndarray:
    """Weights (answers, sources * channels, down, across) as edgepv_code_convolve reads them."""
    answers, inputs, down, across = w.shape
    each = inputs // sources
    fours = -(-each // FOUR)
    whole = np.zeros((padded(max(answers, LEAST_CHANNELS)), sources, fours * FOUR, down, across), np.int8)
    whole[:answers, :, :each] = w.reshape(answers, sources, each, down, across)
    blocks = []
    for at in range(0, len(whole), BLOCK):
        block = whole[at : at + BLOCK].reshape(-1, sources, fours, FOUR, down, across)
        blocks.append(block.transpose(1, 4, 5, 2, 0, 3).reshape(-1))
    return np.concatenate(blocks)


def _dense(low: Lowering, node: Node) -> None:
    ends: Ends = node.attributes["ends"]
    w = ends.weights
    sources = sources_of(low, node.inputs[0], needed_border(low.graph, node))
    y = low.result(node.output)
    strides, dilations, pads = window(node)
    x, count = sources[0], len(sources)
    _, _, row, pixel = x.strides
    frames, answers, height, width = y.shape
    if count == 1 and pixel == w.shape[1] and w.shape[1] % FOUR and dilations[1] == 1:
        # few channels: those of all taps of a row lie together
        w = w.transpose(0, 3, 1, 2).reshape(answers, -1, w.shape[2], 1)
    flat = w.shape[2:] == strides == (1, 1) and not any(pads) and _is_flat(x) and _is_flat(y)
    shape = {
        "sources": count, "taps_down": w.shape[2], "taps_across": w.shape[3],
        "channels": -(-(w.shape[1] // count) // FOUR) * FOUR,
        "tap_row": row * dilations[0], "tap_pixel": pixel * dilations[1],
        "step_row": row * strides[0], "step_pixel": pixel * strides[1],
        "height": 1 if flat else height, "width": height * width if flat else width, "answers": answers,
        "y_row": y.strides[2], "y_pixel": y.strides[3], "padded": room(y),
    }  # fmt: skip
    inputs = [*sources, low.constant(node.name, packed(w, count))]
    lines = [_shape(shape), *_ends(low, node, ends, inputs, signed=True)]
    tile = ", ".join(picks(shape["height"], shape["width"], MOST_PIXELS_OF_CODES, "EDGEPV_PICK_CODES"))
    for n in range(frames):
        before = n * x.strides[0] - pads[0] * row - pads[1] * pixel
        at = ", ".join(plus(f"x{k}", before) for k in range(count))
        call = f"s, to, {tile}, x, x{count}, ends, {_into(node, low, n * y.strides[0])}"
        lines += ["{", f"    const uint8_t *const x[] = {{{at}}};", f"    edgepv_code_convolve({call});", "}"]
    low.layer("code_conv", node.name, tuple(inputs), (y,), tuple(lines))


def _is_flat(view: View) -> bool:
    return view.shape[2] == 1 or view.strides[2] == view.shape[3] * view.strides[3]


def _depthwise(low: Lowering, node: Node) -> None:
    ends: Ends = node.attributes["ends"]
    x = low.padded_image(node.inputs[0], needed_border(low.graph, node))
    y = low.result(node.output)
    frames, channels, height, width = y.shape
    strides, dilations, pads = window(node)
    _, _, row, pixel = x.strides
    down, across = ends.weights.shape[2:]
    shape = {
        "taps_down": down, "taps_across": across, "channels": padded(channels),
        "tap_row": row * dilations[0], "tap_pixel": pixel * dilations[1],
        "step_row": row * strides[0], "step_pixel": pixel * strides[1],
        "height": height, "width": width, "y_row": y.strides[2], "y_pixel": y.strides[3],
    }  # fmt: skip
    inputs = [x, low.constant(node.name, _by_channel(ends.weights))]
    lines = [_shape(shape), *_ends(low, node, ends, inputs, signed=False)]
    for n in range(frames):
        of = plus("x0", n * x.strides[0] - pads[0] * row - pads[1] * pixel)
        call = f"s, to, {min(DEPTHWISE_TILE, width)}, {of}, x1, ends, {_into(node, low, n * y.strides[0])}"
        lines.append(f"edgepv_code_depthwise({call});")
    low.layer("code_depthwise", node.name, tuple(inputs), (y,), tuple(lines))


def _by_channel(w: np.ndarray) -> np.ndarray:
    """Weights (channels, 1, down, across) as (taps, channels)."""
    weights = np.zeros((w.shape[2] * w.shape[3], padded(len(w))), np.int8)
    weights[:, : len(w)] = w.reshape(len(w), -1).T
    return weights


def _taps(low: Lowering, node: Node) -> None:
    """One weight for each frame and channel; sums over the picture on the way, if a mean is wanted."""
    ends: Ends = node.attributes["ends"]
    value = low.values[node.inputs[0]]
    assert isinstance(value, Parts)
    y = low.result(node.output)
    channels, frames = y.shape[1], len(value.views)
    shape = {
        "sources": frames, "channels": padded(channels), "step_pixel": value.views[0].strides[3],
        "width": y.shape[3], "y_pixel": y.strides[3],
    }  # fmt: skip
    inputs = [*value.views, low.constant(node.name, _by_channel(ends.weights))]
    lines = [_shape(shape), *_ends(low, node, ends, inputs, signed=False)]
    outputs = [y]
    if _mean_is_wanted(low, node.output):
        sums = low.scratch(f"{node.name} sums", padded(channels), "int32_t")
        low.sums[node.output] = sums
        outputs.append(sums)
    names = ", ".join(f"x{k}" for k in range(frames))
    lines.append(f"const uint8_t *const x[] = {{{names}}};")
    lines.append(f"edgepv_code_taps(s, to, x, x{frames}, ends, y0, {'y1' if len(outputs) > 1 else 'NULL'});")
    low.layer("code_taps", node.name, tuple(inputs), tuple(outputs), tuple(lines))


def _mean_is_wanted(low: Lowering, name: str) -> bool:
    """Whether something takes the mean over the picture that a row of pixels is."""
    users = list(low.graph.users.get(name, []))
    for user in users:
        if user.op in RESHAPES:
            users += low.graph.users.get(user.output, [])
        elif user.op == "CodeMean" and low.graph.shapes[user.inputs[0]][:2] == low.graph.shapes[name][:2]:
            return True
    return False


def mean(low: Lowering, node: Node) -> None:
    """The mean of each channel over the picture, as float."""
    code, name = low.graph.codes[node.inputs[0]], node.inputs[0]
    channels, height, width = low.graph.shapes[name][1:]
    count = height * width
    sums = low.sums.get(root_of(low.graph, name))
    if sums is None:
        x = low.padded_image(name) if channels >= LEAST_CHANNELS else low.image(name)
        sums = low.scratch(f"{node.name} sums", padded(channels), "int32_t")
        kernel = "edgepv_code_sums(" if whole_channels(x) else "edgepv_code_sums_part_1(0, "
        sizes = f"{padded(channels)}, {height}, {width}, {x.strides[2]}, {x.strides[3]}"
        low.layer("code_sums", node.name, (x,), (sums,), (f"{kernel}{sizes}, x0, y0);",))
    part = literal(float(np.float32(code.scale / count)))
    call = f"edgepv_code_means({channels}, {count}, {code.zero}, {part}, x0, y0);"
    low.layer("code_means", node.name, (sums,), (low.result(node.output),), (call,))


def quantize(low: Lowering, node: Node) -> None:
    """Floats to codes."""
    code = low.graph.codes[node.output]
    _along(low, node, "edgepv_quantize", f"{literal(code.scale)}, {_bounds(code)}")


def dequantize(low: Lowering, node: Node) -> None:
    """Codes to floats."""
    code = low.graph.codes[node.inputs[0]]
    _along(low, node, "edgepv_dequantize", _code(code))


def look_up(low: Lowering, node: Node) -> None:
    """Codes to codes, by a table of all."""
    table = low.constant(node.name, node.attributes["table"])
    _along(low, node, "edgepv_look_up", "x1", table)


def add(low: Lowering, node: Node) -> None:
    """The sum of two."""
    a, b = (low.graph.codes[name] for name in node.inputs)
    code = low.graph.codes[node.output]
    made = f"{literal(code.scale)}, {_bounds(code, node)}"
    _along(low, node, "edgepv_code_add", f"{_code(a)}, {_code(b)}, {made}")


def scale(low: Lowering, node: Node) -> None:
    """An image times a factor for each channel."""
    x, factors = (low.image(name) for name in node.inputs)
    y = low.result(node.output)
    a, b, code = (low.graph.codes[name] for name in (*node.inputs, node.output))
    _, channels, height, width = y.shape
    whole = all(map(whole_channels, (x, factors, y)))
    kernel = "edgepv_code_scale(" if whole else "edgepv_code_scale_part_1(0, "
    flat = _is_flat(x) and _is_flat(y)
    pixels = height * width if flat else width
    steps = f"{padded(channels) if whole else channels}, {pixels}, {x.strides[3]}, {y.strides[3]}"
    of, to = ("x0", "y0") if flat else (f"x0 + i * {x.strides[2]}", f"y0 + i * {y.strides[2]}")
    codes = f"{_code(a)}, {_code(b)}, {literal(code.scale)}, {_bounds(code, node)}"
    call = f"{kernel}{steps}, {codes}, {of}, x1, {to});"
    lines = (call,) if flat else (f"for (size_t i = 0; i < {height}; i++) {{", f"    {call}", "}")
    low.layer("code_scale", node.name, (x, factors), (y,), lines)


def _code(code: Code) -> str:
    return f"(edgepv_code){{{literal(code.scale)}, {code.zero}}}"


def _bounds(code: Code, node: Node | None = None) -> str:
    low, high = (node.attributes["low"], node.attributes["high"]) if node else (0, 255)
    return f"(edgepv_bounds){{{code.zero}, {low}, {high}}}"


def _along(low: Lowering, node: Node, kernel: str, sizes: str, *more: View) -> None:
    """A kernel(how many, sizes, inputs, output) over values that lie together in all tensors."""
    views = [low.view(name).broadcast(low.graph.shapes[node.output]) for name in node.inputs]
    y = low.result(node.output)
    shape = y.shape
    if len(shape) == 4 and all(map(whole_channels, (y, *views))):
        shape = (shape[0], padded(shape[1]), *shape[2:])
    strides = (y.strides, *(view.strides for view in views))

    def call(count: int, at: list[str]) -> list[str]:
        inputs = ", ".join(f"x{k} + {place}" for k, place in enumerate(at[1:]))
        return [f"{kernel}((size_t){count}, {sizes}, {inputs}, y0 + {at[0]});"]

    lines = runs(shape, strides, call)
    low.layer(kernel.removeprefix("edgepv_"), node.name, (*views, *more), (y,), ("{", *lines, "}"))


OPERATORS: Mapping[str, Callable[[Lowering, Node], None]] = MappingProxyType(
    {
        "CodeConv": convolution,
        "CodeMean": mean,
        "CodeTable": look_up,
        "CodeAdd": add,
        "CodeScale": scale,
        "QuantizeLinear": quantize,
        "DequantizeLinear": dequantize,
    }
)
