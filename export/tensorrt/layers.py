"""Is it really INT8? Read what TensorRT made of a file: the layer information of the built engine.

The file is written on the device by ``trtexec --profilingVerbosity=detailed --exportLayerInfo=FILE``,
as the bundle's build.sh does. What its layers say is read by ``edgepv.base.trt_layers``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgepv.base import trt_layers
from edgepv.base.files import read_json
from edgepv.base.trt_layers import Layer
from edgepv.errors import UsageError
from edgepv.export import islands
from edgepv.export.audit import PLANNED, planned_onnx
from edgepv.types import Audit, ConvPlan, Variant

CURE = "Build again with the bundle's build.sh: it passes --profilingVerbosity=detailed to trtexec"


def of_bundle(layers: Path, read: Callable[[str], bytes], variants: Sequence[Variant]) -> Audit:
    """Audit of an engine built on a Jetson, from the layers.json that build.sh wrote beside it.

    variants: of the bundle whose files ``read`` gives. Raises UsageError for a file whose name fits none of
    them, and for a model that is no whole ONNX file.
    """
    wanted = next((p for p in ("int8", "fp16", "fp32") if f"-{p}-" in layers.name), None)
    files = [v for v in variants if v.engine == "tensorrt" and (v.precision == "int8") == (wanted == "int8")]
    if wanted is None or not files:
        raise UsageError(
            f"{layers.name} fits no TensorRT file of this bundle. Give build.sh's file under its own name, "
            "like model-int8-trt10.3.layers.json"
        )
    data, name = read(files[0].path), files[0].path
    convolutions, products = (planned_onnx(data, name, kind) for kind in PLANNED)
    return audit(layers, convolutions, products)


def audit(layers: Path, planned: Mapping[str, str], products: Mapping[str, str] | None = None) -> Audit:
    """Planned and executed precision of every convolution and matrix product of one TensorRT engine.

    layers: what trtexec wrote. planned, products: ONNX node -> "int8" or "float", in the file the engine was
    built from. executed: "int8", "fp16", "bf16" or "float"; None where no layer names the node, or where the
    layers that name it do not settle it. Every reformat is a conversion here, also one which only changes
    the layout; its time is unknown. Float islands are sought only where INT8 was planned.
    Raises UsageError if the file has no layer details, or names none of the planned convolutions.
    """
    rows = _layers(layers)
    executed = {node: trt_layers.executed(node, rows) for node in planned}
    if planned and not any(trt_layers.named(node, rows) for node in planned):
        raise UsageError(
            f"{layers.name} names none of the {len(planned)} convolutions of the bundle's file, so it says "
            "nothing about them. Give the file that build.sh of this bundle wrote beside the engine"
        )
    source = f"TensorRT's layer information, {layers.name}"
    convolutions = tuple(ConvPlan(node, plan, executed[node]) for node, plan in planned.items())
    multiplied = tuple(
        ConvPlan(n, plan, trt_layers.executed(n, rows)) for n, plan in (products or {}).items()
    )
    if "int8" not in planned.values():
        return Audit(source, convolutions, products=multiplied)
    grouping = islands.grouped([_node(row) for row in rows])
    return Audit(source, convolutions, grouping.islands, grouping.conversions, products=multiplied)


def _layers(path: Path) -> list[Layer]:
    """The layers which are told in detail. A name alone among them tells no precision and is left out."""
    data = read_json(path)
    rows = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise UsageError(
            f'{path.name} has no list "Layers", so it is not TensorRT\'s layer information. {CURE}'
        )
    detailed = [row for row in rows if isinstance(row, dict)]
    if not detailed:
        said = f"names its {len(rows)} layers and says nothing else of them" if rows else "has no layer"
        raise UsageError(f"{path.name} {said}: the engine was built without layer details. {CURE}")
    return detailed


def _node(row: Layer) -> islands.Node:
    inputs, outputs = (
        tuple(str(tensor.get("Name")) for tensor in trt_layers.tensors(row, side))
        for side in ("Inputs", "Outputs")
    )
    return islands.Node(str(row.get("Name")), str(row.get("LayerType")), _runs(row), inputs, outputs, None)


def _runs(row: Layer) -> islands.Runs:
    """A layer whose types are not told, or of integers only, is no float island: that is not known."""
    if trt_layers.kind(row) in trt_layers.CONVERTS:
        return "convert"
    precision = trt_layers.precision(row)
    if trt_layers.kind(row) in trt_layers.MOVES or not (precision or trt_layers.types(row, "Inputs")):
        return "move"
    return "int8" if precision == "int8" else "float"
