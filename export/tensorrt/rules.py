"""What TensorRT refuses in an ONNX file, and what it accepts and then computes wrongly or slowly.

NVIDIA's own parser (``parser``) is the judge of the first kind where it is installed; nothing but these rules
sees the second kind on a machine without a GPU. A rule is a row of ``RULES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgepv.export.tensorrt import finders
from edgepv.export.tensorrt.finders import LARGEST_RANK, LARGEST_TOPK, View

if TYPE_CHECKING:
    from onnx import ModelProto

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing in a model that TensorRT will not like. node: "" when it is the whole file.

    severity: "error" is refused or computed wrongly, "warning" is slower than planned or other than it seems,
    "info" only matters for one kind of device. cure: what to do, or what was done.
    """

    rule: str
    node: str
    message: str
    severity: Severity
    cure: str = ""


@dataclass(frozen=True)
class Rule:
    """One row of the table: what is looked for, how bad it is, why, what to do, and who says so."""

    name: str
    severity: Severity
    find: Callable[[View], Iterator[tuple[str, str]]]
    reason: str
    cure: str
    source: str


def check(
    model: ModelProto,
    *,
    opset_limit: int,
    tensorrt: tuple[int, ...] = (8, 5),
    dla: bool = False,
    sparse: bool = True,
) -> list[Finding]:
    """Everything in the model that breaks a rule; an empty list is a clean model.

    opset_limit: the newest ONNX opset that the file may have (17 for TensorRT 8.5 and 8.6). tensorrt: the
    oldest that builds it. dla, sparse: whether its board has a deep learning accelerator, and kernels for 2:4
    sparse weights.
    """
    view = View(model, opset_limit, tensorrt, dla, sparse)
    return [
        Finding(rule.name, node, f"{what}. {rule.reason}", rule.severity, rule.cure)
        for rule in RULES
        for node, what in rule.find(view)
    ]


GUIDE = "docs.nvidia.com/deeplearning/tensorrt, Working with Quantized Types: "
OPERATORS = "github.com/onnx/onnx-tensorrt, docs/operators.md: "
SEEN = "seen with tensorrt-rtx 1.7.1: "
DLA = "docs.nvidia.com/deeplearning/tensorrt, DLA Supported Layers and Restrictions"

RULES = (
    Rule(
        "opset",
        "error",
        finders.newer_opset,
        "Its parser knows no newer operators",
        "write the file at that opset (edgepv does)",
        OPERATORS + "8.2 up to opset 13, 8.5 and 8.6 up to 17, 10.0 up to 20",
    ),
    Rule(
        "operator",
        "error",
        finders.operator,
        "The parser stops at an operator that it does not know",
        "express it in other operators; LayerNormalization and Reciprocal edgepv spells out itself",
        OPERATORS + "the column Supported at 8.2, 8.5, 8.6, 10.1",
    ),
    Rule(
        "zero-point",
        "error",
        finders.zero_point,
        "The parser takes symmetric Q/DQ only",
        "quantize with zero points of 0",
        OPERATORS + "zero_point must be 0",
    ),
    Rule(
        "scale",
        "error",
        finders.bad_scale,
        "The parser takes finite scales above 0, as constants",
        "calibrate with clips in which that tensor moves",
        SEEN + "scales must all be positive",
    ),
    Rule(
        "int16",
        "error",
        finders.int16,
        "TensorRT has no 16-bit integer layers",
        "quantize to int8",
        OPERATORS + "INT8, FP8, INT4 alone",
    ),
    Rule(
        "int32-bias",
        "error",
        finders.int32_bias,
        "TensorRT quantizes biases itself",
        "leave biases in float (QuantizeBias=False)",
        SEEN + "a DequantizeLinear's input has type Int32",
    ),
    Rule(
        "int8-constant",
        "error",
        finders.int8_constant,
        "TensorRT 8 stops at 'invalid weights type of Int8'",
        "keep float weights behind Q and DQ (AddQDQPairToWeight=True)",
        "TensorRT 8's importer: invalid weights type of Int8",
    ),
    Rule(
        "float64",
        "warning",
        finders.double,
        "TensorRT computes it in float32 and clamps what does not fit",
        "export the model in float32",
        OPERATORS + "DOUBLE is cast to FLOAT",
    ),
    Rule(
        "rank",
        "error",
        finders.rank,
        f"A tensor has at most {LARGEST_RANK} dimensions there",
        "join axes by a Reshape",
        "docs.nvidia.com/deeplearning/tensorrt, Dims::MAX_DIMS = 8",
    ),
    Rule(
        "pool-rank",
        "error",
        finders.pool_rank,
        "Pooling is over two or three axes, without dilations",
        "pool over a 4-D tensor",
        OPERATORS + "2D or 3D pooling only, dilations must be empty or all ones",
    ),
    Rule(
        "grid-rank",
        "error",
        finders.grid_rank,
        "Up to TensorRT 10 GridSample is over 4-D inputs",
        "sample each frame by itself",
        OPERATORS + "GridSample at 10.1, input must be 4D; " + SEEN + "5-D is taken",
    ),
    Rule(
        "scatter-reduction",
        "error",
        finders.scatter_reduction,
        "The parser has no such scatter",
        "use a product with a one-hot mask",
        OPERATORS + "ScatterND, reduction is not supported",
    ),
    Rule(
        "pool-indices",
        "error",
        finders.pool_indices,
        "The parser gives MaxPool one output only",
        "find them by a comparison with the pooled values",
        OPERATORS + "Indices output tensor unsupported",
    ),
    Rule(
        "antialias",
        "error",
        finders.antialias,
        "The parser has no antialiased Resize",
        "use AveragePool",
        OPERATORS + "Resize, antialiasing is not supported",
    ),
    Rule(
        "resize-mode",
        "warning",
        finders.resize_mode,
        "TensorRT's own list up to 10.1 has nearest and linear, and not every transformation of coordinates",
        "use linear at half_pixel or align_corners",
        OPERATORS + "Resize, supported modes",
    ),
    Rule(
        "col2im",
        "error",
        finders.col2im,
        "The parser does not know it",
        "write nn.Fold as PixelShuffle",
        OPERATORS + "Col2Im, N",
    ),
    Rule(
        "topk",
        "error",
        finders.large_topk,
        f"It parses and the build fails: at most K = {LARGEST_TOPK}",
        "take fewer",
        OPERATORS + "TopK, K must be less than 3840",
    ),
    Rule(
        "topk-unsorted",
        "error",
        finders.topk_unsorted,
        "TopK is sorted there",
        "set sorted = 1",
        OPERATORS + "TopK, sorted must be 1",
    ),
    Rule(
        "computed-axes",
        "error",
        finders.computed_axes,
        "Axes are constants there",
        "fold constants, or fix the axes",
        OPERATORS + "axes must be an initializer",
    ),
    Rule(
        "dynamic-shape",
        "error",
        finders.dynamic_shape,
        "The bundle's builds give no optimization profile",
        "export with static shapes",
        "docs.nvidia.com/deeplearning/tensorrt, Working with Dynamic Shapes: a profile is needed",
    ),
    Rule(
        "qlinear",
        "error",
        finders.qlinear,
        "The parser wants Q/DQ pairs around float operators",
        "quantize in the form QDQ, not QOperator",
        OPERATORS + "QLinearConv, ConvInteger, N",
    ),
    Rule(
        "unsigned-activation",
        "error",
        finders.unsigned,
        "The codes are read again as int8, and those above 127 clip with no message",
        "quantize activations to int8",
        SEEN + "it is taken without a message",
    ),
    Rule(
        "channel-activation",
        "error",
        finders.channel_activation,
        "INT8 kernels take one scale per activation",
        "quantize activations per tensor",
        GUIDE + "activations per tensor",
    ),
    Rule(
        "weight-axis",
        "error",
        finders.weight_axis,
        "INT8 kernels take one scale per output channel",
        "put the scales along axis 0 of Conv, axis 1 of ConvTranspose",
        GUIDE + "weights per channel, the K dimension",
    ),
    Rule(
        "one-sided-add",
        "warning",
        finders.one_sided_add,
        "No INT8 Add and no convolution to fuse it into",
        "quantize both sides, or neither (edgepv does)",
        GUIDE + "Q/DQ placement, residual connections",
    ),
    Rule(
        "concat-scales",
        "warning",
        finders.concat_scales,
        "Each part is written again with the scale of the whole, in a pass of its own",
        "give the parts one scale (edgepv does for states)",
        GUIDE + "Q/DQ placement, commuting layers",
    ),
    Rule(
        "groups",
        "warning",
        finders.groups,
        "INT8 kernels work on 4 channels at once: the build falls back to float, or fails",
        "leave it in float (edgepv does)",
        "docs.nvidia.com/deeplearning/tensorrt, vectorized formats: INT8 in fours",
    ),
    Rule(
        "no-int8",
        "info",
        finders.no_int8,
        "It has no INT8 kernel: it computes in float, on rounded values",
        "let it read the float tensor, unless that undoes a fusion before it",
        "docs.nvidia.com/deeplearning/tensorrt, support matrix: layers and precisions",
    ),
    Rule(
        "fp16-range",
        "warning",
        finders.fp16_range,
        "float16 ends at 65504, and a sum stops to grow at 2048",
        "done: it stays in float32 here, and weakly typed builds leave out --fp16",
        "IEEE 754 binary16; on the calibration clips",
    ),
    Rule(
        "sparsity",
        "info",
        finders.sparsity,
        "Sparse kernels need 2:4 along the input channels; other zeros are multiplied like any number",
        "prune two in each four, or prune channels (--prune)",
        "docs.nvidia.com/deeplearning/tensorrt, Structured Sparsity",
    ),
    Rule(
        "dla-conv3d",
        "info",
        finders.conv3d,
        "A DLA is 2-D only and leaves it to the GPU",
        "export as a stream, whose step is 2-D",
        DLA,
    ),
    Rule(
        "dla-operator",
        "info",
        finders.dla_operator,
        "No DLA runs those: each goes to the GPU, and cuts the net in two",
        "build for the GPU",
        DLA,
    ),
    Rule(
        "dla-qdq",
        "info",
        finders.dla_qdq,
        "A DLA takes no explicit quantization",
        "for a DLA build the float file, in FP16",
        "developer.nvidia.com, TensorRT developer guide, DLA: does not support Explicit Quantization",
    ),
)
"""Each rule's reason ends the message of its findings."""


def listed() -> list[tuple[str, str, str, str, str]]:
    """(rule, severity, why, cure, source) of every rule, for the documentation."""
    return [(r.name, r.severity, r.reason, r.cure, r.source) for r in RULES]
