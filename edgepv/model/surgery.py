"""A module made to fit weights that were pruned or split into low-rank layers, and how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def parameters(module: nn.Module) -> int:
    """How many numbers a module has learned."""
    return sum(p.numel() for p in module.parameters())


def fit_to_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Replace each convolution, norm and linear layer whose size differs from its weights.

    Groups follow: a depthwise layer stays depthwise. Where the weights hold ``name.0`` and ``name.1`` for
    one layer ``name`` of the builder, it becomes the two layers of a low-rank split. Other parameters are
    left to load_state_dict, which names a mismatch.
    """
    for name, layer in list(module.named_modules()):
        if getattr(layer, "weight", None) is None:
            continue
        weight = weights.get(f"{name}.weight")
        first, second = weights.get(f"{name}.0.weight"), weights.get(f"{name}.1.weight")
        fitting = None
        if weight is not None and tuple(weight.shape) != tuple(layer.weight.shape):
            fitting = _resized(layer, weight, bias=getattr(layer, "bias", None) is not None)
        elif weight is None and first is not None and second is not None and splittable(layer):
            fitting = split(layer, first, second) if _two_of(layer, first, second) else None
        if fitting is not None:
            put(module, name, fitting)


def put(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Set the submodule ``name`` ("blocks.0.conv1") of ``module``."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)


def splittable(layer: nn.Module) -> bool:
    """Whether ``layer`` is an ungrouped convolution or linear layer, of torch's own classes."""
    from torch import nn

    plain = type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return plain and getattr(layer, "groups", 1) == 1


def _two_of(layer: nn.Module, first: Tensor, second: Tensor) -> bool:
    """Whether two weights are what ``split`` makes of ``layer``, and not some other pair of layers."""
    if first.ndim != layer.weight.ndim or second.ndim != first.ndim:
        return False
    return second.shape[1] == first.shape[0] and all(n == 1 for n in second.shape[2:])


def split(layer: nn.Module, first: Tensor, second: Tensor) -> nn.Sequential:
    """Two layers in a row in place of ``layer``, sized for the weights ``first`` and ``second``.

    first: (r, cin, *kernel), takes over kernel, stride, padding and dilation. second: (cout, r, 1, ...),
    takes over the bias. The layers' own weights are fresh.
    """
    from torch import nn

    bias = layer.bias is not None
    size = {} if isinstance(layer, nn.Linear) else {"kernel_size": 1}
    last = type(layer)(second.shape[1], second.shape[0], bias=bias, **size)
    return nn.Sequential(_resized(layer, first, bias=False), last)


def _resized(layer: Any, weight: Any, *, bias: bool) -> Any:
    """A layer like ``layer`` that holds ``weight``'s shape; None for a kind that has no width."""
    from torch import nn

    kind = type(layer)
    if isinstance(layer, nn.Linear):
        return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return kind(weight.shape[0], eps=layer.eps, momentum=layer.momentum)
    if isinstance(layer, nn.GroupNorm):
        return kind(layer.num_groups, weight.shape[0], layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return kind(tuple(weight.shape), layer.eps, bias=bias)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        depthwise = layer.groups == layer.in_channels > 1
        groups = weight.shape[0] if depthwise else layer.groups
        return kind(
            weight.shape[1] * groups,
            weight.shape[0],
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            groups,
            bias,
            layer.padding_mode,
        )
    return None
