"""A clip model as a step: its last frames are a state, and what it was fed as a clip is put together of them.

Nothing of what it computes is saved: each step computes the whole clip. It is for models that do not step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgepv.base.optional import need
from edgepv.errors import UsageError
from edgepv.types import StateSpec, StreamSpec, TensorSpec, Variant

FRAMES = "frames"
"""The state: all frames of the window but the newest, oldest first, as the model takes them."""
MOST_RANK = 4
"""Of images in C: a convolution over a clip as a whole has one more."""


def stepped(variant: Variant, onnx_bytes: bytes) -> tuple[Variant, bytes]:
    """A window over frames (1, C, T, H, W) as a step over one frame (1, C, H, W), and its file.

    Raises UsageError for a window of one frame, and for a file that convolves clips as a whole.
    """
    onnx = need("onnx", extra="native")
    model = onnx.load_model_from_string(onnx_bytes)
    _check(variant, model)
    given = variant.spec.input
    _, channels, count, height, width = given.shape
    clip = variant.inputs[given.name]
    frame, before, both, turned, axes = (
        f"{clip}/{part}" for part in ("frame", "before", "all", "turned", "axes")
    )
    kind = onnx.TensorProto.FLOAT
    sizes = {frame: (1, channels, height, width), before: (count - 1, channels, height, width)}
    made = [onnx.helper.make_tensor_value_info(name, kind, size) for name, size in sizes.items()]
    kept = [value for value in model.graph.input if value.name != clip]
    nodes = [
        onnx.helper.make_node("Concat", [before, frame], [both], axis=0),
        onnx.helper.make_node("Transpose", [both], [turned], perm=[1, 0, 2, 3]),
        onnx.helper.make_node("Unsqueeze", [turned, axes], [clip]),
        *model.graph.node,
    ]
    for field, values in (("input", [*made, *kept]), ("node", nodes)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(values)
    model.graph.initializer.append(onnx.helper.make_tensor(axes, onnx.TensorProto.INT64, [1], [0]))
    state = StateSpec(FRAMES, given.name, sizes[before], update="shift", first=1)
    step = replace(
        variant,
        form="step",
        spec=replace(variant.spec, input=TensorSpec(given.name, sizes[frame])),
        stream=StreamSpec((state,), warmup=count),
        inputs={given.name: frame, FRAMES: before},
    )
    return step, model.SerializeToString()


def _check(variant: Variant, model: Any) -> None:
    given = variant.spec.input
    if given.layout != "NCTHW" or given.shape[2] < 2:
        raise UsageError(f"{variant.name} is no window over several frames, but {given.layout} {given.shape}")
    for node in model.graph.node:
        weights = next((w for w in model.graph.initializer if w.name in node.input[1:2]), None)
        if node.op_type == "Conv" and weights is not None and len(weights.dims) > MOST_RANK:
            raise UsageError(
                f"Conv '{node.name}' goes over clips as a whole, and C is generated of images. Export the "
                "model so that it steps, or in its flat form"
            )
