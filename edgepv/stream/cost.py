"""Floating point operations of the original's operators, from the shapes they were captured with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch


def flops(node: torch.fx.Node, name: str, args: list[Any]) -> float:
    """Operations for one clip, a multiply and an add being two; 0 for what is no product of matrices."""
    value = node.meta["val"]
    out = math.prod(value.shape) if isinstance(value, torch.Tensor) else 0
    if name.startswith("aten::conv"):
        per_output = math.prod(_shape(node, 1)[1:])
        if "transpose" in name:
            return 2.0 * math.prod(_shape(node, 0)) * per_output
        return 2.0 * out * per_output
    if name in ("aten::linear", "aten::matmul", "aten::mm", "aten::bmm"):
        return 2.0 * out * _shape(node, 0)[-1]
    if name == "aten::addmm":
        return 2.0 * out * _shape(node, 1)[-1]
    if name == "aten::scaled_dot_product_attention":
        q, k = _shape(node, 0), _shape(node, 1)
        return 4.0 * math.prod(q) * k[-2]
    if name in ("aten::gru", "aten::lstm"):
        steps = math.prod(_shape(node, 0)[:-1])
        weights = [w for w in args[2] if w.ndim == 2]
        return 2.0 * steps * _elements(weights)
    if name in ("aten::gru_cell", "aten::lstm_cell"):
        return 2.0 * _shape(node, 0)[0] * _elements(args[2:4])
    return 0.0


def _elements(weights: Sequence[torch.Tensor]) -> int:
    return sum(w.numel() for w in weights)


def _shape(node: torch.fx.Node, index: int) -> tuple[int, ...]:
    argument = node.args[index]
    assert isinstance(argument, torch.fx.Node)
    return tuple(argument.meta["val"].shape)
