"""torchao's PT2E quantization for x86, compiled by torch's AOTInductor.

default: as its tutorial for x86 does. tuned: with the matrix products left in float, whose quantization it
sets apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve import Case, Infer, Tensors


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.pt2."""
    import torch
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    module, example = case.module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    if tuned:
        quantizer.set_module_type_qconfig(torch.nn.Linear, None)
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(module, example).module(), quantizer)
        for given in case.tensors():
            prepared(*given)
        converted = convert_pt2e(prepared)
        program = torch.export.export(converted, example)
        settings = {"freezing": True, "cpp.threads": 1}
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(out / "int8.pt2"), inductor_configs=settings
        )
    return {"file": "int8.pt2", "engine": "torch AOTInductor"}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by torch, on one thread."""
    import torch

    torch.set_num_threads(1)
    model = torch._inductor.aoti_load_package(str(out / made["file"]))

    def infer(feeds: Tensors) -> Tensors:
        with torch.no_grad():
            found = model(*(torch.from_numpy(feeds[name]) for name in case.names["inputs"]))
        return case.by_name(found if isinstance(found, list | tuple) else [found])

    return infer
