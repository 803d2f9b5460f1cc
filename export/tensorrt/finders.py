"""What the rules look for: a function for each, a view of the model in, (node, what was found there) out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.export import half
from edgepv.export.tensorrt.graph import WEIGHTED, attribute, residual_adds, shapes
from edgepv.export.tensorrt.opset import opset_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

LARGEST_TOPK = 3840
"""The largest K that TensorRT's TopK layer takes."""
LARGEST_RANK = 8
"""The most dimensions of a TensorRT tensor (``Dims::MAX_DIMS``)."""
LAST_OPSET_OF_TENSORRT_8 = 17  # of ONNX; its parser reads no newer one
GRID_5D_SINCE = (11,)
"""The first TensorRT seen to take a GridSample over 5-D: a parser of 11's time; those up to 10.1 do not."""
SPARSE_SHARE = 0.5
"""Zeros that a 2:4 pattern has; weights with fewer were not meant to be sparse."""

SINCE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("GridSample", "HardSwish", "MeanVarianceNormalization", "Mod", "NonZero"), (8, 5)),
    **dict.fromkeys(("OneHot", "Reciprocal", "RoiAlign", "Shrink", "Trilu", "Xor"), (8, 5)),
    **dict.fromkeys(("GroupNormalization", "IsInf", "LayerNormalization"), (8, 6)),
    **dict.fromkeys(("CastLike", "DeformConv", "Gelu", "Hardmax", "Mish"), (10, 0)),
}
"""Operator -> the first TensorRT whose parser lists it, of those that came after 8.0. Source:
docs/operators.md of github.com/onnx/onnx-tensorrt at 8.2, 8.5, 8.6 and 10.1."""
NEVER = frozenset(
    (
        *("AffineGrid", "Bernoulli", "BitShift", "CenterCropPad", "Compress", "DFT", "Det", "ImageDecoder"),
        *("DynamicQuantizeLinear", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "Optional"),
        *("NegativeLogLikelihoodLoss", "STFT", "SequenceAt", "SequenceConstruct", "SequenceMap", "Unique"),
        *("SoftmaxCrossEntropyLoss", "SplitToSequence", "TfIdfVectorizer", "StringNormalizer"),
    )
)
"""Operators that none of those lists has."""
NO_INT8 = frozenset(
    (
        *(
            "ArgMax",
            "ArgMin",
            "CumSum",
            "Einsum",
            "GRU",
            "GridSample",
            "InstanceNormalization",
            "LRN",
            "LSTM",
        ),
        *("LayerNormalization", "NonMaxSuppression", "RNN", "Softmax", "TopK"),
    )
)
"""Operators without INT8 kernel, of those that video models have. Source: TensorRT's support matrix, layers
and precisions."""
DLA_TAKES = frozenset(
    (
        *("Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv", "Div"),
        *("ConvTranspose", "DequantizeLinear", "Equal", "Flatten", "Gemm", "Greater", "Identity", "LRN"),
        *("LeakyRelu", "Less", "Max", "MaxPool", "Min", "Mul", "PRelu", "Pow", "QuantizeLinear", "Relu"),
        *("Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Tanh", "Transpose"),
        "Unsqueeze",
    )
)
"""Operators that a deep learning accelerator may take, 4-D; each has limits of its own. Q and DQ have a rule
of their own. Source: NVIDIA's page "DLA Supported Layers and Restrictions"."""
RESIZE_MODES = ("nearest", "linear")
RESIZE_COORDINATES = (
    *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"),
    *("asymmetric", "align_corners"),
)
REDUCES = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceL1", "ReduceL2")
DOUBLE = 11  # onnx.TensorProto.DOUBLE


@dataclass(frozen=True)
class View:
    """A model with the look-ups the rules share."""

    model: ModelProto
    opset_limit: int
    tensorrt: tuple[int, ...]
    dla: bool
    sparse: bool

    @cached_property
    def graphs(self) -> tuple[GraphProto, ...]:
        """The graph, and those inside its nodes: branches of an If, bodies of a Loop."""
        return tuple(_graphs(self.model.graph))

    @cached_property
    def every(self) -> tuple[NodeProto, ...]:
        """The nodes of all graphs."""
        return tuple(node for graph in self.graphs for node in graph.node)

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Name -> value of every tensor written in the file."""
        from onnx import numpy_helper

        values = {i.name: numpy_helper.to_array(i) for graph in self.graphs for i in graph.initializer}
        for node in self.nodes("Constant"):
            if (value := attribute(node, "value", None)) is not None:
                values[node.output[0]] = numpy_helper.to_array(value)
        return values

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """Tensor name -> the node that computes it."""
        return {out: node for node in self.every for out in node.output}

    def nodes(self, *kinds: str) -> Iterator[NodeProto]:
        """The nodes of these operators, in running order."""
        return (node for node in self.every if node.op_type in kinds)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> static shape."""
        return shapes(self.model)

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


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, then those inside it."""
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for inside in (*([item.g] if item.HasField("g") else []), *item.graphs):
                yield from _graphs(inside)


def newer_opset(view: View) -> Iterator[tuple[str, str]]:
    """A file in a newer opset than is read."""
    if (opset := opset_of(view.model)) > view.opset_limit:
        yield "", f"the file is opset {opset}, the device reads up to {view.opset_limit}"


def zero_point(view: View) -> Iterator[tuple[str, str]]:
    """Codes that do not have 0 at 0."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        zero = view.input(node, 2)
        if zero is not None and np.any(zero):
            yield node.name, f"the zero point is {_first(zero, zero != 0)}, not 0"


def bad_scale(view: View) -> Iterator[tuple[str, str]]:
    """Scales that are computed, not finite, or not above 0."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        scale = view.input(node, 1)
        if scale is None:
            yield node.name, "the scale is computed, not written in the file"
        elif not np.all(np.isfinite(scale) & (scale > 0)):
            yield node.name, f"a scale is {_first(scale, ~(np.isfinite(scale) & (scale > 0)))}"


def int16(view: View) -> Iterator[tuple[str, str]]:
    """Q or DQ on 16-bit integers."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        kind = _code_type(view, node)
        if kind in ("int16", "uint16"):
            yield node.name, f"it works on {kind}"


def int32_bias(view: View) -> Iterator[tuple[str, str]]:
    """A bias as int32 behind a DQ."""
    for node in view.nodes("DequantizeLinear"):
        if _code_type(view, node) == "int32":
            yield node.name, f"it dequantizes the int32 tensor '{node.input[0]}', often a bias"


def int8_constant(view: View) -> Iterator[tuple[str, str]]:
    """INT8 constants in a file that TensorRT 8 builds."""
    if view.opset_limit > LAST_OPSET_OF_TENSORRT_8:
        return
    for node in view.nodes("DequantizeLinear"):
        codes = view.input(node, 0)
        if codes is not None and codes.dtype == np.int8:
            yield node.name, f"the weights '{node.input[0]}' are INT8 in the file"


def scatter_reduction(view: View) -> Iterator[tuple[str, str]]:
    """A scatter that adds or multiplies."""
    for node in view.nodes("ScatterElements", "ScatterND"):
        reduction = attribute(node, "reduction", b"none").decode()
        if reduction != "none":
            yield node.name, f"{node.op_type} with reduction '{reduction}'"


def pool_indices(view: View) -> Iterator[tuple[str, str]]:
    """MaxPool that tells its indices."""
    for node in view.nodes("MaxPool"):
        if len(node.output) > 1 and node.output[1]:
            yield node.name, "MaxPool with its indices as second output"


def antialias(view: View) -> Iterator[tuple[str, str]]:
    """Resize with antialias."""
    for node in view.nodes("Resize"):
        if attribute(node, "antialias", 0):
            yield node.name, "Resize with antialias"


def col2im(view: View) -> Iterator[tuple[str, str]]:
    """Col2Im, which nn.Fold becomes."""
    for node in view.nodes("Col2Im"):
        yield node.name, "Col2Im"


def qlinear(view: View) -> Iterator[tuple[str, str]]:
    """Operators on integers, without Q/DQ."""
    for node in view.nodes("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"):
        yield node.name, node.op_type


def unsigned(view: View) -> Iterator[tuple[str, str]]:
    """Activations as uint8."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        if not view.on_weights(node) and _code_type(view, node) == "uint8":
            yield node.name, f"the activation '{node.input[0]}' is uint8"


def channel_activation(view: View) -> Iterator[tuple[str, str]]:
    """More than one scale for an activation."""
    for node in view.nodes("QuantizeLinear", "DequantizeLinear"):
        scale = view.input(node, 1)
        if not view.on_weights(node) and scale is not None and scale.size > 1:
            yield node.name, f"the activation '{node.input[0]}' has {scale.size} scales"


def weight_axis(view: View) -> Iterator[tuple[str, str]]:
    """Weight scales along another axis than that of the output channels."""
    for node in view.nodes("Conv", "ConvTranspose"):
        right = 0 if node.op_type == "Conv" else 1
        dequantize = view.maker(node.input[1], "DequantizeLinear")
        for pair in _pair(view, dequantize):
            scale = view.input(pair, 1)
            axis = attribute(pair, "axis", 1)
            if scale is not None and scale.size > 1 and axis != right:
                yield pair.name, f"the weight scales of {node.name} run along axis {axis}"


def one_sided_add(view: View) -> Iterator[tuple[str, str]]:
    """A residual Add with one quantized side, and no convolution on the other."""
    for node in residual_adds(view.model):
        floats = [n for n in node.input if view.maker(n, "DequantizeLinear") is None]
        if len(floats) != 1:
            continue
        maker = view.makers.get(floats[0])
        if maker is None or maker.op_type not in WEIGHTED:
            yield node.name, f"'{floats[0]}' is float and the other side of the Add is quantized"


def groups(view: View) -> Iterator[tuple[str, str]]:
    """Groups of an INT8 convolution that are no multiple of 4."""
    for node in view.nodes("Conv", "ConvTranspose"):
        group = attribute(node, "group", 1)
        if group > 1 and group % 4 and view.quantized_conv(node):
            yield node.name, f"an INT8 convolution with {group} groups"


def large_topk(view: View) -> Iterator[tuple[str, str]]:
    """TopK with more than it can."""
    for node in view.nodes("TopK"):
        k = view.input(node, 1)
        if k is not None and k.max() > LARGEST_TOPK:
            yield node.name, f"TopK with K = {k.max()}"


def conv3d(view: View) -> Iterator[tuple[str, str]]:
    """A 3-D convolution, for a board with a DLA."""
    if not view.dla:
        return
    for node in view.nodes("Conv", "ConvTranspose"):
        dequantize = view.maker(node.input[1], "DequantizeLinear")
        pair = [node.input[1], *(p.input[0] for p in _pair(view, dequantize))]
        if any(name in view.constants and view.constants[name].ndim == 5 for name in pair):
            yield node.name, "a 3-D convolution"


def concat_scales(view: View) -> Iterator[tuple[str, str]]:
    """A Concat of parts with different scales."""
    for node in view.nodes("Concat"):
        dequantizers = [view.maker(name, "DequantizeLinear") for name in node.input]
        scales = [view.input(d, 1) for d in dequantizers if d is not None]
        values = {float(np.ravel(s)[0]) for s in scales if s is not None}
        if len(values) > 1:
            yield node.name, f"its inputs have {len(values)} scales"


def operator(view: View) -> Iterator[tuple[str, str]]:
    """An operator that the oldest TensorRT of the device does not know."""
    have = ".".join(map(str, view.tensorrt))
    for node in view.every:
        if node.domain:
            yield node.name, f"{node.domain}.{node.op_type} is no ONNX operator"
        elif node.op_type in NEVER:
            yield node.name, f"no TensorRT reads {node.op_type}"
        elif view.tensorrt < SINCE.get(node.op_type, (0,)):
            first = ".".join(map(str, SINCE[node.op_type]))
            yield (
                node.name,
                f"{node.op_type} came with TensorRT {first}, and the device may have {have}",
            )


def double(view: View) -> Iterator[tuple[str, str]]:
    """Weights as float64."""
    wide = [i.name for graph in view.graphs for i in graph.initializer if i.data_type == DOUBLE]
    for node in view.every:
        if name := next((n for n in node.input if n in wide), None):
            yield node.name, f"it reads '{name}', which is float64"


def rank(view: View) -> Iterator[tuple[str, str]]:
    """Tensors with too many dimensions."""
    for node in view.every:
        rank = max((len(view.shapes.get(name, ())) for name in (*node.input, *node.output)), default=0)
        if rank > LARGEST_RANK:
            yield node.name, f"a tensor of {rank} dimensions"


def pool_rank(view: View) -> Iterator[tuple[str, str]]:
    """Pooling over one axis or with dilations."""
    for node in view.nodes("AveragePool", "MaxPool"):
        kernel = attribute(node, "kernel_shape", ())
        if len(kernel) not in (2, 3):
            yield node.name, f"{node.op_type} over {len(kernel)} axes"
        elif max(attribute(node, "dilations", (1,))) > 1:
            yield node.name, f"{node.op_type} with dilations"


def grid_rank(view: View) -> Iterator[tuple[str, str]]:
    """GridSample over 5-D, before TensorRT 11."""
    for node in view.nodes("GridSample"):
        if len(view.shapes.get(node.input[0], ())) == 5 and view.tensorrt < GRID_5D_SINCE:
            yield node.name, "GridSample over a 5-D input"


def resize_mode(view: View) -> Iterator[tuple[str, str]]:
    """Resize with a mode that is on no list of TensorRT's."""
    for node in view.nodes("Resize"):
        mode = attribute(node, "mode", b"nearest").decode()
        where = attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()
        if mode not in RESIZE_MODES or where not in RESIZE_COORDINATES:
            yield node.name, f"Resize with mode {mode} at {where}"


def topk_unsorted(view: View) -> Iterator[tuple[str, str]]:
    """TopK that need not sort."""
    for node in view.nodes("TopK"):
        if not attribute(node, "sorted", 1):
            yield node.name, "TopK with sorted = 0"


def computed_axes(view: View) -> Iterator[tuple[str, str]]:
    """Axes that are computed."""
    for node in view.nodes(*REDUCES, "Unsqueeze", "Squeeze"):
        if len(node.input) > 1 and node.input[1] and view.input(node, 1) is None:
            yield node.name, f"the axes of {node.op_type} are computed"


def dynamic_shape(view: View) -> Iterator[tuple[str, str]]:
    """Inputs without a static shape."""
    for info in view.model.graph.input:
        if info.name not in view.shapes:
            yield "", f"the shape of input '{info.name}' is not static"


def no_int8(view: View) -> Iterator[tuple[str, str]]:
    """Quantized inputs of operators that compute in float alone."""
    for node in view.nodes(*NO_INT8):
        if name := next((n for n in node.input if view.maker(n, "DequantizeLinear") is not None), None):
            yield node.name, f"{node.op_type} reads '{name}', which is quantized"


def fp16_range(view: View) -> Iterator[tuple[str, str]]:
    """What was found beyond float16 on calibration clips, see ``half``."""
    wide = half.noted(view.model)
    for node in wide.nodes:
        yield (
            node,
            f"its values reach {wide.most:.2g}" if wide.most else "it works with a sum that grows for ever",
        )


def dla_operator(view: View) -> Iterator[tuple[str, str]]:
    """Operators that no DLA takes, for a board that has one."""
    if view.dla:
        others = Counter(n.op_type for n in view.every if n.op_type not in DLA_TAKES)
        if others:
            yield (
                "",
                f"of {len(view.every)} operators {sum(others.values())} are {_listed(others)}",
            )


def dla_qdq(view: View) -> Iterator[tuple[str, str]]:
    """Q/DQ pairs, for a board with a DLA."""
    if view.dla and any(True for _ in view.nodes("QuantizeLinear", "DequantizeLinear")):
        yield "", "the file has Q/DQ pairs"


def sparsity(view: View) -> Iterator[tuple[str, str]]:
    """Weights that are 0 by half, not in the pattern of sparse kernels."""
    if not view.sparse:
        return
    for node in view.nodes("Conv", "Gemm"):
        dequantize = view.maker(node.input[1], "DequantizeLinear")
        names = [node.input[1], *(p.input[0] for p in _pair(view, dequantize))]
        weight = next((view.constants[n] for n in names if n in view.constants), None)
        if weight is not None and weight.ndim > 1 and np.mean(weight == 0) >= SPARSE_SHARE:
            group = _in_fours(weight, transposed=node.op_type == "Gemm" and not attribute(node, "transB", 0))
            if group is None or (np.count_nonzero(group, axis=-1) > 2).any():
                yield (
                    node.name,
                    f"{np.mean(weight == 0):.0%} of its weights are 0, not two in each four inputs",
                )


def _in_fours(weight: np.ndarray, *, transposed: bool) -> np.ndarray | None:
    """Weights in fours along the input channels; None where these are no multiple of four."""
    rows = np.moveaxis(weight, 0 if transposed else 1, -1)
    return rows.reshape(-1, 4) if rows.shape[-1] % 4 == 0 else None


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} ({n})" for kind, n in sorted(counts.items(), key=lambda i: (-i[1], i[0])))


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
