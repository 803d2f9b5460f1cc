"""Torch-Pruning by itself: channels cut, nothing trained after it, float32 in ONNX Runtime.

default: half of the channels, as its first example does. tuned: a tenth, in multiples of eight. It does not
know that a state of a model that steps keeps its size, and cuts what feeds it: such a model fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve import Case, Infer, onnxruntime_session


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write pruned.onnx."""
    import torch
    import torch_pruning as tp

    module, example = case.module()
    for weight in module.parameters():
        weight.requires_grad_(True)
    heads = [m for m in module.modules() if isinstance(m, torch.nn.Linear)][-1:]
    asked = {"pruning_ratio": 0.1, "round_to": 8} if tuned else {"pruning_ratio": 0.5}
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    tp.pruner.BasePruner(module, example, importance=importance, ignored_layers=heads, **asked).step()
    with torch.no_grad():
        module(*example)  # what no longer fits together is found here
    torch.onnx.export(
        module,
        example,
        out / "pruned.onnx",
        dynamo=True,
        opset_version=18,
        external_data=False,
        input_names=case.names["inputs"],
        output_names=case.names["outputs"],
    )
    return {"file": "pruned.onnx", "engine": "onnxruntime"}


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by ONNX Runtime."""
    return onnxruntime_session(out / made["file"])
