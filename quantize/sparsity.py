"""2:4 sparsity: which layers a sparse tensor core could run, and what it would cost to make them so.

NVIDIA GPUs from Ampere on (Jetson Orin is one) skip zeros where of every four values two are zero. The four
are consecutive input channels, for one output channel and one position of the kernel. Streaming keeps that:
frames of a kernel over time become channels one whole frame after the other; batch norm scales whole
output channels, and symmetric INT8 leaves zero at zero.

Source: TensorRT developer guide, "Structured Sparsity"; Mishra et al. 2021, "Accelerating Sparse Deep
Neural Networks". Here is no step that sets weights to zero: fine-tuning would fill the zeros again. Train
with masks (NVIDIA's ASP does), and look at the result with this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edgepv.base.late import np
from edgepv.model.checkpoint import build
from edgepv.types import Checkpoint

GROUP, MOST = 4, 2  # the 2:4 pattern: of every four neighbours at most two are not zero


@dataclass(frozen=True)
class LayerSparsity:
    """One convolution or linear layer against the 2:4 pattern.

    weights: how many it has. groups: of four input channels; 0 if the layer's input channels (of one of its
    groups, for a grouped layer) are no multiple of four: then no sparse kernel takes it. broken: groups
    with more than two values. kept: share of the squared weights that remains if the two smaller values of
    each group go; None without groups.
    """

    layer: str
    weights: int
    groups: int
    broken: int
    kept: float | None

    @property
    def sparse(self) -> bool:
        """Whether TensorRT may choose a sparse kernel for this layer."""
        return self.groups > 0 and self.broken == 0


def check(checkpoint: Checkpoint) -> tuple[LayerSparsity, ...]:
    """Every convolution and linear layer, in the model's order.

    Raises what ``checkpoint.build`` does. A streamed checkpoint is looked at as it was trained.
    """
    from torch import nn

    module = build(replace(checkpoint, rewrite=None))
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    layers = ((name, m) for name, m in module.named_modules() if isinstance(m, kinds))
    return tuple(_checked(name, layer.weight.numpy()) for name, layer in layers)


def _checked(name: str, weight: np.ndarray[Any, Any]) -> LayerSparsity:
    """weight: (cout, cin of one group, *kernel)."""
    if weight.shape[1] % GROUP:
        return LayerSparsity(name, weight.size, 0, 0, None)
    fours = np.moveaxis(weight, 1, -1).reshape(-1, GROUP)
    broken = int(((fours != 0).sum(1) > MOST).sum())
    energy = np.sort(np.square(fours, dtype=np.float64), axis=1)
    total = float(energy.sum())
    kept = float(energy[:, MOST:].sum()) / total if total else 1.0
    return LayerSparsity(name, weight.size, len(fours), broken, kept)
