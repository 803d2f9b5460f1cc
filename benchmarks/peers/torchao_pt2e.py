"""torchao's PT2E quantization for x86, compiled by torch's Inductor.

default: as its tutorial for x86 does, ``torch.compile`` with frozen weights when it is opened. tuned:
compiled ahead by AOTInductor, so that no Python runs, and the matrix products in float, whose quantization
it sets apart.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from serve import Case, Infer, Tensors, convolutions


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write int8.pt2."""
    torch, x86 = imported(out)
    from torch._dynamo.utils import counters
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    module, example = case.module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    if tuned:
        quantizer.set_module_type_qconfig(torch.nn.Linear, None)
    path = str(out / "int8.pt2")
    with torch.no_grad():
        exported = torch.export.export(module, example)
        prepared = prepare_pt2e(exported.module(), quantizer)
        for given in case.tensors():
            prepared(*given)
        program = torch.export.export(convert_pt2e(prepared), example)
        if tuned:
            torch._inductor.aoti_compile_and_package(program, package_path=path)
        else:
            torch.export.save(program, path)
            compiled(torch, program)(*example)
    int8 = counters["inductor"]["qconv_weight_prepack_matcher_count"]
    engine = "torch AOTInductor" if tuned else "torch.compile"
    return {"file": "int8.pt2", "engine": engine, "int8": [int8, convolutions(exported)]}


def imported(out: Path) -> tuple[Any, Any]:
    """(torch on one thread, torchao's quantizer for x86, which brings Inductor the patterns to look for)."""
    asked = {"FREEZING": "1", "COMPILE_THREADS": "1", "CACHE_DIR": str(out / "compiled")}
    os.environ |= {f"TORCHINDUCTOR_{name}": value for name, value in asked.items()}
    import torch
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86

    torch.set_num_threads(1)
    return torch, x86


def compiled(torch: Any, program: Any) -> Any:
    """What answers, compiled at its first call."""
    return torch.compile(program.module())


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by torch, on one thread."""
    torch, _ = imported(out)
    path, ahead = str(out / made["file"]), made["engine"] == "torch AOTInductor"
    model = torch._inductor.aoti_load_package(path) if ahead else compiled(torch, torch.export.load(path))

    def infer(feeds: Tensors) -> Tensors:
        with torch.no_grad():
            found = model(*(torch.from_numpy(feeds[name]) for name in case.names["inputs"]))
        return case.by_name(found if isinstance(found, list | tuple) else [found])

    infer(case.calibration()[0])
    return infer
