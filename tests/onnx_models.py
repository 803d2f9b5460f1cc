"""One small net as ONNX files of many kinds: as other exporters write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
FRAMES = 4
CLIP = (1, 3, FRAMES, SIDE, SIDE)
FRAME = (1, 3, SIDE, SIDE)
SPEC = """
name = "other"
labels = ["left", "right"]
frames = {frames}
fps = 10

[input]
name = "clip"
shape = {shape}
layout = "{layout}"
"""


def weights(channels: int = 3, axes: int = 3) -> dict[str, np.ndarray]:
    """Of two convolutions over ``axes`` axes and a head; large enough that answers differ."""
    rng = np.random.default_rng(0)
    kernel = (3,) * axes

    def drawn(*shape: int) -> np.ndarray:
        return (0.2 * rng.standard_normal(shape)).astype(np.float32)

    return {
        "w1": drawn(8, channels, *kernel),
        "b1": drawn(8),
        "w2": drawn(8, 8, *kernel),
        "b2": drawn(8),
        "w3": 4 * drawn(2, 8),
        "b3": drawn(2),
    }


def net(
    shape: Sequence[int | str | None] = CLIP,
    *,
    opset: int = 18,
    kind: Any = np.float32,
    held: str = "initializers",
    front: Sequence[Any] = (),
    video: str = "x",
    entry: int = TensorProto.FLOAT,
    taken: str | None = None,
    answer: str = "out",
    answered: Sequence[int | str | None] = (1, 2),
    more: Sequence[Any] = (),
    channels: int = 3,
    axes: int | None = None,
) -> Any:
    """An ONNX model. shape, video, entry: of its input. front: nodes that make ``taken`` of it.

    kind: dtype of its weights. held: "initializers", "constants" (nodes) or "inputs" (initializers that are
    inputs too). answer, answered: name and shape of its output. more: (node, output) behind the head.
    """
    axes = axes or len(shape) - 2
    values = {name: value.astype(kind) for name, value in weights(channels, axes).items()}
    nodes, stored, inputs = list(front), [], [helper.make_tensor_value_info(video, entry, shape)]
    for name, value in values.items():
        if held == "constants":
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
            continue
        stored.append(numpy_helper.from_array(value, name))
        if held == "inputs":
            inputs.append(helper.make_tensor_value_info(name, stored[-1].data_type, value.shape))
    strides, pads = [1] * (axes - 2) + [2, 2], [1] * axes
    nodes += [
        helper.make_node("Conv", [taken or video, "w1", "b1"], ["c1"], strides=strides, pads=pads * 2),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], strides=strides, pads=pads * 2),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], [answer], transB=1),
        *(node for node, _ in more),
    ]
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    outputs = [helper.make_tensor_value_info(answer, number, answered)]
    outputs += [output for _, output in more if output is not None]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=4 if opset < 13 else 9)


def written(folder: Path, model: Any, name: str = "m.onnx") -> Path:
    """The model in a file."""
    onnx.save(model, folder / name)
    return folder / name


def described(folder: Path, shape: Sequence[int] = CLIP, more: str = "") -> Path:
    """A spec for it."""
    layout, frames = ("NCTHW", shape[2]) if len(shape) == 5 else ("NCHW", 1)
    text = SPEC.format(shape=list(shape), layout=layout, frames=frames)
    (folder / "spec.toml").write_text(text.replace("\n[input]", f"{more}\n[input]"))
    return folder / "spec.toml"


def answers(model: Any, video: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of a model with one input."""
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: video})[0]
    return found
