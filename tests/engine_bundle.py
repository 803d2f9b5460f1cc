"""Bundles of tiny ONNX nets with any states, in milliseconds, to hold the C reader against Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepv import bundle
from edgepv.base.files import sha256
from edgepv.bundle.manifest import Content, Measured
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

HEIGHT, WIDTH = 4, 6
MOST = 21.0
"""Below it is what a frame adds to a state; three times that and a quarter of the state fit 8 bits."""


def write_bundle(
    folder: Path,
    states: Sequence[StateSpec] = (),
    *,
    chunk: int = 1,
    frames: int = 0,
    extra: str | None = None,
    colour: str = "rgb",
) -> Path:
    """A bundle of one variant "onnxruntime-fp32" of a net with these states.

    frames: above 0 a clip model of so many frames, without states. extra: the output of a state that is an
    answer too.
    """
    channels = 1 if colour == "grey" else 3
    shape = (1, channels, frames, HEIGHT, WIDTH) if frames else (chunk, channels, HEIGHT, WIDTH)
    outputs = [TensorSpec("logits", (1, 3), "NC")]
    outputs += [TensorSpec(extra, _fresh(s), "NC") for s in states if s.output == extra]
    spec = ModelSpec(
        "tiny",
        TensorSpec("clip", shape, "NCTHW" if frames else "NCHW"),
        ("left", "right", "häuschen"),
        frames=frames or 1,
        colour=colour,  # type: ignore[arg-type]
        mean=(0.485, 0.456, 0.406)[:channels],
        std=(0.229, 0.224, 0.225)[:channels],
        outputs=tuple(outputs) if extra else (),
    )
    return _write(
        folder, net(shape, states), spec, None if frames else StreamSpec(tuple(states), 2, chunk=chunk)
    )


def write_tracker(folder: Path, places: int = 4) -> Path:
    """A bundle of a tracker whose particles drift by a tenth of the picture's height at a frame."""
    states = (
        StateSpec("position", "position_next", (1, places, 2)),
        StateSpec("life", "life_next", (1, places, 1)),
    )
    spec = ModelSpec(
        "drift",
        TensorSpec("clip", (1, 3, HEIGHT, WIDTH)),
        task="tracking",
        metric="delta_avg",
        outputs=(TensorSpec("tracks", (1, places, 3), "NKC"),),
        particles=places,
    )
    return _write(folder, drift(places), spec, StreamSpec(states, 1))


def _write(folder: Path, model: bytes, spec: ModelSpec, stream: StreamSpec | None) -> Path:
    """A bundle of one ONNX file, whose tensors are called as in the spec."""
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "model.onnx").write_bytes(model)
    states = stream.states if stream else ()
    read = {a.name for a in spec.answers} | {s.output for s in states} - {spec.input.name}
    variant = Variant(
        name="onnxruntime-fp32",
        engine="onnxruntime",
        precision="fp32",
        form="step" if stream else "window",
        path="models/model.onnx",
        sha256=sha256(folder / "models" / "model.onnx"),
        spec=spec,
        stream=stream,
        inputs={name: name for name in (spec.input.name, *(s.name for s in states))},
        outputs={name: name for name in sorted(read)},
    )
    content = Content(
        name=spec.name,
        target="cpu",
        spec=spec,
        stream=stream,
        preprocessing="resize",
        postprocessing="softmax",
        calibration_digest=None,
        steps=(),
        variants=(variant,),
        golden={},
        files=bundle.digests(folder, ["models/model.onnx"]),
    )
    bundle.write(folder, content, Measured(variant.name, "host-checked", "pass", ()))
    return folder


def _fresh(state: StateSpec) -> tuple[int, ...]:
    """The shape of what a step adds to a state."""
    rows = state.fresh if state.update == "shift" else state.shape[0]
    return (rows, *state.shape[1:])


def net(shape: tuple[int, ...], states: Sequence[StateSpec]) -> bytes:
    """An ONNX net whose answer tells every value of every state and frame apart by a weight of its own.

    All values are whole or halves and small, so that every order of a sum gives the same: engines add up in
    another one where memory is aligned otherwise.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(len(states) + shape[0])
    nodes, constants, sums = [], [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def told(name: str, size: tuple[int, ...], tensor: str) -> str:
        """The sum of a tensor's values by 3 weights each: (3,)."""
        weights = constant(f"{name}_weights", rng.integers(-9, 10, (math.prod(size), 3)))
        constants.append(numpy_helper.from_array(np.array([1, -1]), f"{name}_row"))
        nodes.append(helper.make_node("Reshape", [tensor, f"{name}_row"], [f"{name}_flat"]))
        nodes.append(helper.make_node("MatMul", [f"{name}_flat", weights], [f"{name}_told"]))
        return f"{name}_told"

    def node(kind: str, *inputs: str, out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    node("Mul", "clip", constant("eight", np.array(8)), out="eightfold")
    sums.append(told("clip", shape, node("Round", "eightfold", out="whole")))
    node("Abs", node("ReduceSum", "whole", out="sum", keepdims=0), out="size")
    node("Mod", "size", constant("most", np.array(MOST)), out="base", fmod=1)
    constant("quarter", np.array(0.25))
    made: set[str] = {"clip"}
    inputs = [helper.make_tensor_value_info("clip", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 3))]
    for s in states:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype))
        inputs.append(helper.make_tensor_value_info(s.name, kind, s.shape))
        node("Cast", s.name, out=f"{s.name}_float", to=TensorProto.FLOAT)
        sums.append(told(s.name, s.shape, f"{s.name}_float"))
        if s.output in made:
            continue
        made.add(s.output)
        outputs.append(helper.make_tensor_value_info(s.output, kind, _fresh(s)))
        node("ReduceMax", f"{s.name}_float", out=f"{s.name}_max", keepdims=0)
        some = node("Floor", node("Mul", f"{s.name}_max", "quarter", out=f"{s.name}_q"), out=f"{s.name}_some")
        node("Add", "base", some, out=f"{s.name}_base")
        spread = constant(f"{s.name}_spread", rng.integers(1, 4, _fresh(s)))
        node("Cast", node("Mul", f"{s.name}_base", spread, out=f"{s.name}_new"), out=s.output, to=kind)
    nodes.append(helper.make_node("Sum", sums, ["logits"]))
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def drift(places: int) -> bytes:
    """An ONNX net that moves every particle down and to the right; those that live are visible."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    sizes = {"position": 2, "life": 1, "position_next": 2, "life_next": 1, "tracks": 3}
    ports = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, places, w)) for n, w in sizes.items()}
    clip = helper.make_tensor_value_info("clip", TensorProto.FLOAT, (1, 3, HEIGHT, WIDTH))
    nodes = [
        helper.make_node("ReduceMax", ["clip"], ["light"], keepdims=0),
        helper.make_node("Mul", ["light", "nothing"], ["dark"]),  # so that the frame is looked at
        helper.make_node("Sum", ["position", "dark", "tenth"], ["position_next"]),
        helper.make_node("Clip", ["life", "nothing", "one"], ["visible"]),
        helper.make_node("Concat", ["position_next", "visible"], ["tracks"], axis=2),
        helper.make_node("Identity", ["life"], ["life_next"]),
    ]
    numbers = {"nothing": 0.0, "tenth": 0.1, "one": 1.0}
    constants = [
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()
    ]
    fed, read = (
        [clip, ports["position"], ports["life"]],
        [ports["tracks"], ports["position_next"], ports["life_next"]],
    )
    graph = helper.make_graph(nodes, "drift", fed, read, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


KINDS: dict[str, dict[str, Any]] = {
    "a state that is replaced": {"shape": (1, 5, 3)},
    "rows that shift": {"shape": (4, 16), "update": "shift"},
    "rows that no line of a cache begins with": {"shape": (4, 3), "update": "shift"},
    "two rows a step": {"shape": (5, 16), "update": "shift", "fresh": 2},
    "more rows than are kept": {"shape": (2, 3), "update": "shift", "fresh": 5},
    "a shift of one row": {"shape": (1, 7), "update": "shift"},
    "a period": {"shape": (3, 16), "update": "shift", "period": 3},
    "a replaced one with a period": {"shape": (2, 2), "period": 2},
    "one that begins late": {"shape": (3, 16), "update": "shift", "first": 3},
    "a value to begin with": {"shape": (3, 2), "update": "shift", "init": -1.5},
    "whole numbers": {"shape": (2, 3), "dtype": "int64", "init": 7.0},
    "bytes": {"shape": (3, 64), "dtype": "uint8", "update": "shift"},
    "half floats": {"shape": (2, 32), "dtype": "float16", "update": "shift"},
}
"""States of every kind that a manifest can describe."""
