"""ExecuTorch: PT2E quantization for XNNPACK, lowered to XNNPACK.

default: as its documentation does, a scale for each channel of weights. tuned: only convolutions and matrix
products in INT8. Its runtime has threads of its own, told to be one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve import Case, Infer, Tensors, convolutions


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.pte."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    graphs = graphs_written()
    module, example = case.module()
    quantizer, scales = XNNPACKQuantizer(), get_symmetric_quantization_config(is_per_channel=True)
    if tuned:
        aten = torch.ops.aten
        convs = (aten.conv1d.default, aten.conv2d.default)
        for operator in (*convs, aten.conv_transpose2d.input, aten.linear.default):
            quantizer.set_operator_type(operator, scales)
    else:
        quantizer.set_global(scales)
    with torch.no_grad():
        exported = torch.export.export(module, example)
        prepared = prepare_pt2e(exported.module(), quantizer)
        for given in case.tensors():
            prepared(*given)
        program = torch.export.export(convert_pt2e(prepared), example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (out / "int8.pte").write_bytes(lowered.buffer)
    int8 = sum(in_int8(graph) for graph in graphs)
    return {"file": "int8.pte", "engine": "executorch", "int8": [int8, convolutions(exported)]}


def graphs_written() -> list[Any]:
    """A list that every graph is put into that is written for XNNPACK from now on."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    graphs: list[Any] = []
    write = xnnpack_preprocess.serialize_xnnpack_binary

    def noted(graph: Any, *more: Any) -> Any:
        graphs.append(graph)
        return write(graph, *more)

    xnnpack_preprocess.serialize_xnnpack_binary = noted
    return graphs


def in_int8(graph: Any) -> int:
    """Convolutions of XNNPACK's graph from INT8 to INT8; all others of a model run in float."""
    inside = [getattr(value.xvalue_union, "tensor_value", value.xvalue_union) for value in graph.xvalues]
    kinds = {tensor.id_out: tensor.datatype.name for tensor in inside}
    found = [node.xnode_union for node in graph.xnodes if hasattr(node.xnode_union, "group_input_channels")]
    return sum(kinds[one.input1_id] == kinds[one.output_id] == "xnn_datatype_qint8" for one in found)


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by its runtime with XNNPACK, on one thread."""
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(1)
    method = Runtime.get().load_program(out / made["file"]).load_method("forward")
    if method is None:
        raise RuntimeError("the program has no method forward")

    def infer(feeds: Tensors) -> Tensors:
        found = method.execute([torch.from_numpy(feeds[name]) for name in case.names["inputs"]])
        return case.by_name([value.numpy().copy() for value in found])

    return infer
