"""An ONNX graph written in the opset that a TensorRT reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.base.optional import need
from edgepv.errors import ModelError, UsageError
from edgepv.export.tensorrt.graph import (
    attribute,
    drop_unused_constants,
    drop_unused_domains,
    name_nodes,
    one_line,
    shapes,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


IR_VERSION = {13: 7, 17: 8, 18: 8, 19: 9, 20: 9}
"""The oldest file format of each opset, which the parser of that time knows."""


def to_opset(model: ModelProto, opset: int) -> ModelProto:
    """A copy of the model at ``opset``, really written at it and accepted by the ONNX checker.

    Raises ModelError if an operator of the model has no form at that opset.
    """
    onnx = need("onnx", extra="compress")
    source = type(model)()
    source.CopyFrom(model)
    drop_unused_domains(source)
    try:
        if opset_of(source) > 17 >= opset:
            source = _lowered_to_17(onnx.version_converter.convert_version(source, 18))
        if 17 >= opset_of(source) > opset >= 13:
            source = _without_newer(source, opset)
        converted: ModelProto = onnx.version_converter.convert_version(source, opset)
        name_nodes(converted)
        converted.ir_version = IR_VERSION.get(opset, converted.ir_version)
        onnx.checker.check_model(converted, full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as e:
        raise ModelError(
            f"the model has no form at opset {opset} ({one_line(e)}). Export it without that operator"
        ) from e
    if opset_of(converted) != opset:
        raise UsageError(f"asked for opset {opset}, the converter wrote {opset_of(converted)}")
    return converted


def opset_of(model: ModelProto) -> int:
    """The version of the standard ONNX operators a model is written in."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _lowered_to_17(model: ModelProto) -> ModelProto:
    """The opset-18 model at 17, in place.

    The onnx package's own converter cannot do this step: it stops at Split and leaves ReduceMean an attribute
    that the checker and onnxruntime refuse.
    """
    from onnx import defs

    known = shapes(model)
    for node in model.graph.node:
        if node.domain or not defs.has(node.op_type, 17, ""):
            continue
        old = defs.get_schema(node.op_type, 17, "").attributes
        if node.op_type == "Split" and len(node.input) < 2:
            _write_split_sizes(model, node, known)
        elif "axes" in old and len(node.input) > 1:
            _write_axes(model, node)
        _drop_newer_attributes(node, old)
    drop_unused_constants(model)
    next(o for o in model.opset_import if o.domain in ("", "ai.onnx")).version = 17
    return model


def _without_newer(model: ModelProto, opset: int) -> ModelProto:
    """The model of an opset up to 17 at an older one from 13 on, in place.

    Between those two, operators were added, and attributes and types to others; nothing was changed. The onnx
    package's own converter has no step down for most of them (Relu, Add). Raises ValueError for a new one.
    """
    from onnx import defs, numpy_helper

    written = {init.name: init for init in model.graph.initializer}
    for node in model.graph.node:
        if node.domain:
            continue
        if not defs.has(node.op_type, opset, ""):
            raise ValueError(f"{node.name}: {node.op_type} is newer than opset {opset}")
        shape = written.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and numpy_helper.to_array(shape).all():  # what a 0 would mean is of no matter
            _drop(node, "allowzero")
        _drop_newer_attributes(node, defs.get_schema(node.op_type, opset, "").attributes)
    next(o for o in model.opset_import if o.domain in ("", "ai.onnx")).version = opset
    return model


def _write_split_sizes(model: ModelProto, node: NodeProto, known: dict[str, tuple[int, ...]]) -> None:
    """Opset 18 may give the number of parts, 17 wants their sizes; the last may be smaller."""
    from onnx import numpy_helper

    if node.input[0] not in known:
        raise ValueError(f"the shape of '{node.input[0]}' is unknown")
    size, parts = known[node.input[0]][attribute(node, "axis", 0)], len(node.output)
    step = -(-size // parts)
    sizes = np.array([step] * (parts - 1) + [size - step * (parts - 1)], np.int64)
    name = f"{node.output[0]}_sizes"
    model.graph.initializer.append(numpy_helper.from_array(sizes, name))
    node.input.append(name)
    _drop(node, "num_outputs")


def _drop(node: NodeProto, name: str) -> None:
    """Take an attribute away, if it is there."""
    for item in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(item)


def _write_axes(model: ModelProto, node: NodeProto) -> None:
    """Opset 18 gives the axes of a reduction as an input, 17 as an attribute."""
    from onnx import helper, numpy_helper

    axes = next((i for i in model.graph.initializer if i.name == node.input[1]), None)
    if axes is None:
        raise ValueError(f"{node.name}: its axes are computed, not written in the file")
    values = numpy_helper.to_array(axes).tolist()
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", values))


def _drop_newer_attributes(node: NodeProto, old: Mapping[str, Any]) -> None:
    """Remove the attributes opset 17 does not know that say nothing but the default of opset 18.

    One that says something is left there, for the checker to refuse.
    """
    from onnx import defs, helper

    says = helper.get_attribute_value
    newer = defs.get_schema(node.op_type, 18, "").attributes
    for item in [a for a in node.attribute if a.name in newer and a.name not in old]:
        default = newer[item.name].default_value
        if default.type and says(item) == says(default):
            node.attribute.remove(item)
