"""ExecuTorch: PT2E quantization for XNNPACK, lowered to XNNPACK.

default: as its documentation does, a scale for each tensor. tuned: a scale for each channel of weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve import Case, Infer, Tensors


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

    module, example = case.module()
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=tuned))
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(module, example).module(), quantizer)
        for given in case.tensors():
            prepared(*given)
        program = torch.export.export(convert_pt2e(prepared), example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (out / "int8.pte").write_bytes(lowered.buffer)
    return {"file": "int8.pte", "engine": "executorch"}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by its portable runtime with XNNPACK."""
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(out / made["file"]).load_method("forward")
    if method is None:
        raise RuntimeError("the program has no method forward")

    def infer(feeds: Tensors) -> Tensors:
        found = method.execute([torch.from_numpy(feeds[name]) for name in case.names["inputs"]])
        return case.by_name([value.numpy().copy() for value in found])

    return infer
