"""A float ONNX graph as a torch module that torch.export takes, for converters that start from torch.

The graph is in the form of ``from_onnx``: static shapes, float32, weights as initializers. onnx2torch, the
package that others use for this, reads the numbers of slices and shapes from tensors while it runs, which
torch.export refuses, and wants torchvision; here every number is known before anything runs. What each
operator means is said by ONNX.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.base.optional import need, ort_options, ort_session
from edgepv.errors import ModelError

NUMBERS = {"Clip": (1, 2), "Resize": (1, 2, 3), "Pad": (1, 2, 3), "Pow": (1,)}
"""Operator -> those of its inputs that are numbers, known before anything runs, if they are constants."""


class OnnxModule(nn.Module):
    """The graph of an ONNX file: tensors in the order of ``inputs`` in, those of ``outputs`` out, as a tuple.

    Raises ModelError that names the operators for which there is no torch here.
    """

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        onnx = need("onnx", extra="compress")
        graph = _folded(path).graph
        self.names_in, self.names_out = tuple(inputs), tuple(outputs)
        self.constants = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
        self.nodes = [_Node(node) for node in graph.node]
        if unknown := sorted({n.kind for n in self.nodes if n.kind not in OPERATORS}):
            raise ModelError(
                f"{path.name}: the operators {', '.join(unknown)} of an ONNX file do not go to LiteRT. Leave "
                "mobile out of --target, or give the model as file.py:builder"
            )
        floats = (name for name, value in self.constants.items() if value.dtype == np.float32)
        self.weights = {name: f"weight_{i}" for i, name in enumerate(floats)}
        for name, ours in self.weights.items():
            self.register_buffer(ours, torch.from_numpy(self.constants[name].copy()))

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Every node in order."""
        known: dict[str, Tensor] = dict(zip(self.names_in, values, strict=True))
        for node in self.nodes:
            read = [self._value(node, i, known) for i in range(len(node.reads))]
            made = OPERATORS[node.kind](node, *read)
            made = made if isinstance(made, tuple | list) else (made,)
            known.update(zip(node.writes, made))
        return tuple(known[name] for name in self.names_out)

    def _value(self, node: _Node, place: int, known: dict[str, Tensor]) -> Any:
        """What a node reads at a place: a tensor, or numbers as numpy has them; None for nothing."""
        name = node.reads[place]
        if not name or name in known:
            return known.get(name)
        numbers = place in NUMBERS.get(node.kind, ()) or name not in self.weights
        return self.constants[name] if numbers else getattr(self, self.weights[name])


class _Node:
    """One node: its operator, what it reads and writes, and its attributes by name."""

    def __init__(self, node: Any) -> None:
        import onnx

        self.kind, self.name = node.op_type, node.name
        self.reads, self.writes = tuple(node.input), tuple(node.output)
        self._said = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def get(self, name: str, otherwise: Any = None) -> Any:
        """An attribute, text as str."""
        value = self._said.get(name, otherwise)
        return value.decode() if isinstance(value, bytes) else value

    def refuse(self, what: str) -> ModelError:
        """What of this node is not known here."""
        return ModelError(
            f"{self.kind} '{self.name}' of an ONNX file does not go to LiteRT with {what}. Leave mobile out "
            "of --target, or give the model as file.py:builder"
        )


def _folded(path: Path) -> Any:
    """The model with its constants folded."""
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "folded.onnx"
        options = ort_options(rewrites="basic")
        options.optimized_model_filepath = str(out)
        ort_session(path.read_bytes(), options)
        return onnx.load(out)


def _ints(value: Any) -> list[int]:
    """Whole numbers of a constant."""
    return [int(v) for v in np.asarray(value).ravel()]


def _padded(node: _Node, x: Tensor, axes: int, value: float) -> tuple[Tensor, list[int]]:
    """(the input, the padding that is alike at both ends of each axis): what is not goes into the input."""
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise node.refuse(f"auto_pad = {node.get('auto_pad')}")
    pads = node.get("pads", [0] * 2 * axes)
    before, after = list(pads[:axes]), list(pads[axes:])
    if before == after:
        return x, before
    flat = [n for i in reversed(range(axes)) for n in (before[i], after[i])]
    return F.pad(x, flat, value=value), [0] * axes


def _conv(node: _Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    axes = w.ndim - 2
    x, pads = _padded(node, x, axes, 0.0)
    run = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    strides, dilations = node.get("strides", [1] * axes), node.get("dilations", [1] * axes)
    out: Tensor = run(x, w, b, strides, pads, dilations, node.get("group", 1))
    return out


def _conv_transpose(node: _Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    axes = w.ndim - 2
    pads = node.get("pads", [0] * 2 * axes)
    if pads[:axes] != pads[axes:] or node.get("output_shape") or axes != 2:
        raise node.refuse(f"pads {pads}")
    ones = [1] * axes
    more = node.get("output_padding", [0] * axes)
    return F.conv_transpose2d(
        x,
        w,
        b,
        node.get("strides", ones),
        pads[:axes],
        more,
        node.get("group", 1),
        node.get("dilations", ones),
    )


def _max_pool(node: _Node, x: Tensor) -> Tensor:
    size = node.get("kernel_shape")
    x, pads = _padded(node, x, len(size), float("-inf"))
    if len(size) != 2 or len(node.writes) > 1:
        raise node.refuse(f"a kernel {size} or indices")
    ones = [1] * len(size)
    strides, dilations = node.get("strides", ones), node.get("dilations", ones)
    return F.max_pool2d(x, size, strides, pads, dilations, bool(node.get("ceil_mode", 0)))


def _average_pool(node: _Node, x: Tensor) -> Tensor:
    size, pads = node.get("kernel_shape"), node.get("pads", [0, 0, 0, 0])
    if len(size) != 2 or pads[:2] != pads[2:]:
        raise node.refuse(f"a kernel {size} and pads {pads}")
    inside, ceil = bool(node.get("count_include_pad", 0)), bool(node.get("ceil_mode", 0))
    return F.avg_pool2d(x, size, node.get("strides", [1, 1]), pads[:2], ceil, inside)


def _slice(node: _Node, x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    starts, ends = _ints(starts), _ints(ends)
    axes = _ints(axes) if axes is not None else list(range(len(starts)))
    steps = _ints(steps) if steps is not None else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps):
        if step < 1:
            raise node.refuse(f"the step {step}")
        places = [slice(None)] * x.ndim
        places[axis] = slice(start, None if end > x.shape[axis] else end, step)
        x = x[tuple(places)]
    return x


def _reshape(node: _Node, x: Tensor, shape: Any) -> Tensor:
    sides = _ints(shape)
    if not node.get("allowzero", 0):
        sides = [x.shape[i] if n == 0 else n for i, n in enumerate(sides)]
    return x.reshape(sides)


def _resize(node: _Node, x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    if sizes is not None and np.size(sizes):
        whole = _ints(sizes)
    else:
        whole = [int(np.floor(n * f)) for n, f in zip(x.shape, np.asarray(scales).tolist())]
    mode, where = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    up = all(n % m == 0 for n, m in zip(whole, x.shape))
    if x.ndim != 4 or whole[:2] != list(x.shape[:2]):
        raise node.refuse(f"the shape {whole}")
    if mode == "nearest" and (up or (where == "asymmetric" and node.get("nearest_mode") == "floor")):
        return F.interpolate(x, size=whole[2:], mode="nearest")
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return F.interpolate(x, size=whole[2:], mode="bilinear", align_corners=where == "align_corners")
    raise node.refuse(f"mode {mode} by {where}")


def _clip(node: _Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    ends = [None if v is None else float(v) for v in (low, high)]
    return torch.clamp(x, *ends)


def _pad(node: _Node, x: Tensor, pads: Any, value: Any = None, axes: Any = None) -> Tensor:
    count = _ints(pads)
    if axes is not None or node.get("mode", "constant") != "constant":
        raise node.refuse(f"mode {node.get('mode')} or axes")
    flat = [n for i in reversed(range(x.ndim)) for n in (count[i], count[i + x.ndim])]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


def _reduced(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def over(node: _Node, x: Tensor, axes: Any = None) -> Tensor:
        chosen = node.get("axes") if axes is None else _ints(axes)
        return run(x, chosen or list(range(x.ndim)), bool(node.get("keepdims", 1)))

    return over


def _power(node: _Node, x: Tensor, exponent: Any) -> Tensor:
    if isinstance(exponent, Tensor) or np.size(exponent) != 1:
        return torch.pow(x, _as_tensor(exponent))
    return x * x if float(exponent) == 2 else torch.pow(x, float(exponent))


def _gather(node: _Node, x: Tensor, places: Any) -> Tensor:
    axis = node.get("axis", 0)
    if np.ndim(places) == 0:
        return x.select(axis, int(places))
    return x.index_select(axis, torch.tensor(_ints(places)))


def _normalised(node: _Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, eps=node.get("epsilon", 1e-5))


def _gemm(node: _Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if node.get("transA", 0) else a
    b = b.t() if node.get("transB", 0) else b
    out: Tensor = node.get("alpha", 1.0) * (a @ b)
    return out if c is None else out + node.get("beta", 1.0) * c


def _axes(node: _Node, axes: Any) -> list[int]:
    return node.get("axes") or _ints(axes)


def _squeeze(node: _Node, x: Tensor, axes: Any = None) -> Tensor:
    for axis in sorted((a % x.ndim for a in _axes(node, axes)), reverse=True):
        x = x.squeeze(axis)
    return x


def _unsqueeze(node: _Node, x: Tensor, axes: Any = None) -> Tensor:
    chosen = _axes(node, axes)
    rank = x.ndim + len(chosen)
    for axis in sorted(a % rank for a in chosen):
        x = x.unsqueeze(axis)
    return x


def _split(node: _Node, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
    axis = node.get("axis", 0)
    even = [x.shape[axis] // len(node.writes)] * len(node.writes)
    return torch.split(x, _ints(sizes) if sizes is not None else even, axis)


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value, np.float32))


def _two(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, a, b: run(_as_tensor(a), _as_tensor(b))


def _one(run: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, x, *_: run(x)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _one(lambda x: x.mean(list(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _one(lambda x: x.amax(list(range(2, x.ndim)), keepdim=True)),
    "BatchNormalization": _normalised,
    "Gemm": _gemm,
    "MatMul": _two(torch.matmul),
    "Add": _two(torch.add),
    "Sub": _two(torch.sub),
    "Mul": _two(torch.mul),
    "Div": _two(torch.div),
    "Min": _two(torch.minimum),
    "Max": _two(torch.maximum),
    "Pow": _power,
    "Relu": _one(F.relu),
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "PRelu": lambda node, x, slope: torch.where(x >= 0, x, x * slope),
    "Elu": lambda node, x: F.elu(x, node.get("alpha", 1.0)),
    "Clip": _clip,
    "Sigmoid": _one(torch.sigmoid),
    "HardSigmoid": lambda n, x: torch.clamp(n.get("alpha", 0.2) * x + n.get("beta", 0.5), 0.0, 1.0),
    "HardSwish": _one(F.hardswish),
    "Mish": _one(F.mish),
    "Tanh": _one(torch.tanh),
    "Softplus": _one(F.softplus),
    "Exp": _one(torch.exp),
    "Log": _one(torch.log),
    "Sqrt": _one(torch.sqrt),
    "Abs": _one(torch.abs),
    "Neg": _one(torch.neg),
    "Erf": _one(torch.erf),
    "Softmax": lambda node, x: torch.softmax(x, node.get("axis", -1)),
    "Identity": _one(lambda x: x),
    "Dropout": _one(lambda x: x),
    "Concat": lambda node, *parts: torch.cat([_as_tensor(p) for p in parts], node.get("axis")),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Transpose": lambda node, x: x.permute(node.get("perm", list(reversed(range(x.ndim))))),
    "Reshape": _reshape,
    "Flatten": lambda n, x: x.reshape(int(np.prod(x.shape[: n.get("axis", 1)])), -1),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": lambda node, x, shape: x * torch.ones(_ints(shape)),
    "Tile": lambda node, x, times: x.repeat(_ints(times)),
    "Pad": _pad,
    "Resize": _resize,
    "DepthToSpace": lambda node, x: _to_space(node, x),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "ReduceMax": _reduced(torch.amax),
}
"""Operator -> what it is in torch, called as (node, inputs)."""


def _to_space(node: _Node, x: Tensor) -> Tensor:
    if node.get("mode", "DCR") != "CRD":
        raise node.refuse("mode DCR")
    return F.pixel_shuffle(x, node.get("blocksize"))
