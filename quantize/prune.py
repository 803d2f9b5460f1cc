"""Structured pruning: whole channels go, so every engine gets a smaller dense model.

Torch-Pruning's dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023)
finds which layers must lose a channel together. It is traced through the clip form, before a model is
streamed: on a stepped model it cuts outputs while the states keep their size, without an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepv.checkpoint import build, record, save
from edgepv.errors import UsageError
from edgepv.optional import need
from edgepv.types import Checkpoint, ModelSpec


@dataclass(frozen=True)
class Step:
    """ratio: share of channels to remove, 0 to below 1. round_to: keep widths a multiple of this."""

    ratio: float = 0.25
    round_to: int = 8

    def __call__(self, checkpoint: Checkpoint, out: Path) -> Checkpoint:
        """A smaller checkpoint at ``out`` (.safetensors), rebuilt and run once to prove it whole.

        Raises UsageError if the model cannot be traced, or nothing could be removed.
        """
        if not 0 < self.ratio < 1:
            raise UsageError(f"--prune {self.ratio}: give the share of channels to remove, like 0.25")
        module = build(checkpoint).requires_grad_(True)
        before = _size(module)
        _prune(module, checkpoint.spec, self.ratio, self.round_to)
        after = _size(module)
        if after >= before:
            raise UsageError(
                f"pruning {self.ratio:.0%} removed nothing: widths rounded to {self.round_to} leave "
                "every layer as it is. Ask for a larger --prune"
            )
        digest = save(module, out)
        options = {"ratio": self.ratio, "round_to": self.round_to, "params": [before, after]}
        step = record(
            "prune",
            options,
            {"weights": checkpoint.sha256},
            {"weights": digest},
            ("torch", "torch-pruning"),
        )
        pruned = replace(checkpoint, weights=str(out), sha256=digest, steps=(*checkpoint.steps, step))
        _same_numbers(module, build(pruned), checkpoint.spec)
        return pruned


def clip_example(spec: ModelSpec) -> Any:
    """A random clip (1, C, T, H, W) of the size the model's clip form takes."""
    torch = need("torch", extra="compress")
    shape = spec.input.shape
    if spec.input.layout == "NCHW":
        shape = (shape[0], shape[1], spec.frames, *shape[2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _prune(module: Any, spec: ModelSpec, ratio: float, round_to: int) -> None:
    import torch
    from torch import nn

    tp = need("torch_pruning", extra="compress")
    outputs = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == len(spec.labels)]
    try:
        pruner = tp.pruner.BasePruner(
            module,
            (clip_example(spec),),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            round_to=round_to,
            ignored_layers=outputs,
            num_heads={},
            pruning_ratio_dict={},
        )
        pruner.step()
        with torch.no_grad():
            logits = module(clip_example(spec))
    except Exception as e:  # the tracer fails in as many ways as models are written
        raise UsageError(
            f"{spec.name} cannot be pruned: {type(e).__name__}: {str(e).splitlines()[0][:200]}. "
            "Export it with --prune 0"
        ) from e
    if tuple(logits.shape) != (1, len(spec.labels)):
        raise UsageError(f"pruning changed the shape of {spec.name}'s answer. Export with --prune 0")


def _same_numbers(pruned: Any, rebuilt: Any, spec: ModelSpec) -> None:
    """The checkpoint on disk must be the module that was pruned, or later steps work on a stranger."""
    import torch

    with torch.no_grad():
        a, b = pruned.eval()(clip_example(spec)), rebuilt(clip_example(spec))
    if not torch.allclose(a, b, atol=1e-5):
        raise UsageError(f"{spec.name}: the pruned model does not rebuild from its weights")


def _size(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
