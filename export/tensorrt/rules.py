"""What TensorRT refuses in an ONNX file, and what it accepts and then computes wrongly or slowly.

NVIDIA's own parser (``trt_parser``) is the judge of the first kind where it is installed; nothing
but these rules sees the second kind on a machine without a GPU. A rule is a row of ``RULES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgepv.export.tensorrt.graph import WEIGHTED, attribute, residual_adds
from edgepv.export.tensorrt.opset import opset_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Severity = Literal["error", "warning", "info"]

LARGEST_TOPK = 3840
"""The largest K that TensorRT's TopK layer takes."""

LAST_OPSET_OF_TENSORRT_8 = 17  # of ONNX; its parser reads no newer one


@dataclass(frozen=True)
class Finding:
    """One thing in a model that TensorRT will not like. node: "" when it is the whole file.

    severity: "error" is refused or computed wrongly, "warning" is slower than planned, "info" only
    matters for one kind of device.
    """

    rule: str
    node: str
    message: str
    severity: Severity


@dataclass(frozen=True)
class Rule:
    """One row of the table: what is looked for, how bad it is, and why."""

    name: str
    severity: Severity
    find: Callable[[View], Iterator[tuple[str, str]]]
    reason: str


@dataclass(frozen=True)
class View:
    """A model with the look-ups the rules share."""

    model: ModelProto
    opset_limit: int

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Name -> value of every tensor written in the file."""
        from onnx import numpy_helper

        values = {i.name: numpy_helper.to_array(i) for i in self.model.graph.initializer}
        for node in self.nodes("Constant"):
            if (value := attribute(node, "value", None)) is not None:
                values[node.output[0]] = numpy_helper.to_array(value)
        return values

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """Tensor name -> the node that computes it."""
        return {out: node for node in self.model.graph.node for out in node.output}

    def nodes(self, *kinds: str) -> Iterator[NodeProto]:
        """The nodes of these operators, in running order."""
        return (node for node in self.model.graph.node if node.op_type in kinds)

    def maker(self, tensor: str, kind: str) -> NodeProto | None:
        """The node of that operator which computes ``tensor``, or None."""
        node = self.makers.get(tensor)
        return node if node is not None and node.op_type == kind else None

    def input(self, node: NodeProto, index: int) -> np.ndarray | None:
        """A node's input, if it is there and written in the file."""
        return self.constants.get(node.input[index]) if len(node.input) > index else None

    def on_weights(self, node: NodeProto) -> bool:
        """Whether a Q or DQ works on a tensor of the file, and so on weights."""
        source = self.maker(node.input[0], "QuantizeLinear") or node
        return source.input[0] in self.constants

    def quantized_conv(self, node: NodeProto) -> bool:
        """Whether the input and the weights of a convolution both come out of a DQ."""
        return all(self.maker(name, "DequantizeLinear") is not None for name in node.input[:2])


def check(model: ModelProto, *, opset_limit: int) -> list[Finding]:
    """Everything in the model that breaks a rule; an empty list is a clean model.

    opset_limit: the newest ONNX opset the device's TensorRT reads (17 for TensorRT 8.5 and 8.6).
    """
    view = View(model, opset_limit)
    return [
        Finding(rule.name, node, f"{what}. {rule.reason}", rule.severity)
        for rule in RULES
        for node, what in rule.find(view)
    ]


def _newer_opset(view: View) -> Iterator[tuple[str, str]]:
    if (opset := opset_of(view.model)) > view.opset_limit:
        yield "", f"the file is opset {opset}, the device reads up to {view.opset_limit}"


def _zero_point(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        zero = view.input(node, 2)
        if zero is not None and np.any(zero):
            yield node.name, f"the zero point is {_first(zero, zero != 0)}, not 0"


def _bad_scale(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        scale = view.input(node, 1)
        if scale is None:
            yield node.name, "the scale is computed, not written in the file"
        elif not np.all(np.isfinite(scale) & (scale > 0)):
            yield node.name, f"a scale is {_first(scale, ~(np.isfinite(scale) & (scale > 0)))}"


def _int16(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        kind = _code_type(view, node)
        if kind in ("int16", "uint16"):
            yield node.name, f"it works on {kind}"


def _int32_bias(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("DequantizeLinear"):
        if _code_type(view, node) == "int32":
            yield node.name, f"it dequantizes the int32 tensor '{node.input[0]}', often a bias"


def _int8_constant(view: View) -> Iterator[tuple[str, str]]:
    if view.opset_limit > LAST_OPSET_OF_TENSORRT_8:
        return
    for node in view.nodes("DequantizeLinear"):
        codes = view.input(node, 0)
        if codes is not None and codes.dtype == np.int8:
            yield node.name, f"the weights '{node.input[0]}' are INT8 in the file"


def _scatter_reduction(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("ScatterElements", "ScatterND"):
        reduction = attribute(node, "reduction", b"none").decode()
        if reduction != "none":
            yield node.name, f"{node.op_type} with reduction '{reduction}'"


def _pool_indices(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("MaxPool"):
        if len(node.output) > 1 and node.output[1]:
            yield node.name, "MaxPool with its indices as second output"


def _antialias(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("Resize"):
        if attribute(node, "antialias", 0):
            yield node.name, "Resize with antialias"


def _col2im(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("Col2Im"):
        yield node.name, "Col2Im"


def _qlinear(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"):
        yield node.name, node.op_type


def _unsigned(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        if not view.on_weights(node) and _code_type(view, node) == "uint8":
            yield node.name, f"the activation '{node.input[0]}' is uint8"


def _channel_activation(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        scale = view.input(node, 1)
        if not view.on_weights(node) and scale is not None and scale.size > 1:
            yield node.name, f"the activation '{node.input[0]}' has {scale.size} scales"


def _weight_axis(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("Conv", "ConvTranspose"):
        right = 0 if node.op_type == "Conv" else 1
        dequantize = view.maker(node.input[1], "DequantizeLinear")
        for pair in _pair(view, dequantize):
            scale = view.input(pair, 1)
            axis = attribute(pair, "axis", 1)
            if scale is not None and scale.size > 1 and axis != right:
                yield pair.name, f"the weight scales of {node.name} run along axis {axis}"


def _one_sided_add(view: View) -> Iterator[tuple[str, str]]:
    for node in residual_adds(view.model):
        floats = [n for n in node.input if view.maker(n, "DequantizeLinear") is None]
        if len(floats) != 1:
            continue
        maker = view.makers.get(floats[0])
        if maker is None or maker.op_type not in WEIGHTED:
            yield node.name, f"'{floats[0]}' is float and the other side of the Add is quantized"


def _groups(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("Conv", "ConvTranspose"):
        group = attribute(node, "group", 1)
        if group > 1 and group % 4 and view.quantized_conv(node):
            yield node.name, f"an INT8 convolution with {group} groups"


def _large_topk(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("TopK"):
        k = view.input(node, 1)
        if k is not None and k.max() > LARGEST_TOPK:
            yield node.name, f"TopK with K = {k.max()}"


def _conv3d(view: View) -> Iterator[tuple[str, str]]:
    for node in view.nodes("Conv", "ConvTranspose"):
        dequantize = view.maker(node.input[1], "DequantizeLinear")
        pair = [node.input[1], *(p.input[0] for p in _pair(view, dequantize))]
        if any(name in view.constants and view.constants[name].ndim == 5 for name in pair):
            yield node.name, "a 3-D convolution"


RULES = (
    Rule("opset", "error", _newer_opset, "Write the file with to_opset"),
    Rule("zero-point", "error", _zero_point, "The parser takes symmetric Q/DQ only"),
    Rule("scale", "error", _bad_scale, "The parser takes finite scales above 0, as constants"),
    Rule("int16", "error", _int16, "TensorRT has no 16-bit integer layers"),
    Rule("int32-bias", "error", _int32_bias, "Leave biases in float: TensorRT quantizes them"),
    Rule(
        "int8-constant",
        "error",
        _int8_constant,
        "TensorRT 8 stops at 'invalid weights type of Int8': keep float weights behind Q and DQ",
    ),
    Rule("scatter-reduction", "error", _scatter_reduction, "The parser has no such scatter"),
    Rule("pool-indices", "error", _pool_indices, "The parser gives MaxPool one output only"),
    Rule("antialias", "error", _antialias, "The parser has no antialiased Resize; use AveragePool"),
    Rule("col2im", "error", _col2im, "The parser does not know it; write nn.Fold as PixelShuffle"),
    Rule("qlinear", "error", _qlinear, "The parser wants Q/DQ pairs around float operators"),
    Rule(
        "unsigned-activation",
        "error",
        _unsigned,
        "The codes are read again as int8, and those above 127 clip with no message",
    ),
    Rule(
        "channel-activation",
        "error",
        _channel_activation,
        "INT8 kernels take one scale per activation",
    ),
    Rule(
        "weight-axis",
        "error",
        _weight_axis,
        "INT8 kernels take one scale per output channel: axis 0 of Conv, axis 1 of ConvTranspose",
    ),
    Rule(
        "one-sided-add",
        "warning",
        _one_sided_add,
        "No INT8 Add and no convolution to fuse it into: quantize both sides, or neither",
    ),
    Rule(
        "groups",
        "warning",
        _groups,
        "INT8 kernels work on 4 channels at once: the build falls back to float, or fails",
    ),
    Rule("topk", "error", _large_topk, f"It parses and the build fails: at most K = {LARGEST_TOPK}"),
    Rule("dla-conv3d", "info", _conv3d, "A DLA is 2-D only and leaves it to the GPU"),
)
"""Each rule's reason ends the message of its findings."""


def _code_type(view: View, node: NodeProto) -> str:
    """The integer type a Q writes or a DQ reads; without a zero point ONNX means uint8 for a Q."""
    zero = view.input(node, 2)
    if zero is not None:
        return str(zero.dtype)
    if node.op_type == "DequantizeLinear":
        codes = view.input(node, 0)
        if codes is not None:
            return str(codes.dtype)
        source = view.maker(node.input[0], "QuantizeLinear")
        return _code_type(view, source) if source is not None else "unknown"
    return _name_of_type(attribute(node, "output_dtype", 0))


def _name_of_type(code: Any) -> str:
    from onnx import helper

    return str(helper.tensor_dtype_to_np_dtype(code)) if code else "uint8"


def _pair(view: View, dequantize: NodeProto | None) -> list[NodeProto]:
    """A DQ and the Q before it, as far as they are there."""
    if dequantize is None:
        return []
    quantize = view.maker(dequantize.input[0], "QuantizeLinear")
    return [dequantize] if quantize is None else [quantize, dequantize]


def _first(values: np.ndarray, wrong: np.ndarray) -> Any:
    return np.atleast_1d(values)[np.atleast_1d(wrong)][0]
