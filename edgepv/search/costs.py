"""A latency model: what a net's layers cost on an engine, fitted to the nets that were measured there.

The time of a net is the sum over its layers of ``a * operations + b * bytes moved + c``, with one ``a`` for
each kind of layer: the form of model that nn-Meter (Zhang et al. 2021) and ProxylessNAS (Cai et al. 2019)
fit. Here it only saves work: it skips candidates far over the budget, and nothing it says is ever reported
as a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS = ("dense", "pointwise", "depthwise", "linear")
FEWEST = 7
"""Measured nets below which an engine's coefficients mean nothing."""


@dataclass(frozen=True)
class Layer:
    """One layer on one clip. gflops: 10^9 operations. mbytes: 10^6 bytes read and written in float."""

    kind: str
    gflops: float
    mbytes: float


def layers_of(module: nn.Module, example: Tensor) -> tuple[Layer, ...]:
    """The convolutions and linear layers of a torch module as they run on ``example``."""
    import torch
    from torch import nn

    layers: list[Layer] = []

    def remember(layer: Any, inputs: Any, out: Any) -> None:
        kind, weights = _kind(layer), layer.weight.numel()
        positions = out.numel() / out.shape[-1 if kind == "linear" else 1]
        moved = inputs[0].numel() + out.numel() + weights
        layers.append(Layer(kind, 2 * weights * positions / 1e9, 4 * moved / 1e6))

    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
    handles = [m.register_forward_hook(remember) for m in module.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(layers)


def _kind(layer: Any) -> str:
    if not hasattr(layer, "kernel_size"):
        return "linear"
    if layer.groups == layer.in_channels > 1:
        return "depthwise"
    return "pointwise" if max(layer.kernel_size) == 1 else "dense"


@dataclass(frozen=True)
class LatencyModel:
    """Of one engine, form and precision. error: median relative one, on nets left out of the fit."""

    coefficients: tuple[float, ...]
    error: float

    def predict(self, net: Sequence[float]) -> float:
        """Milliseconds of a net, given its ``features``."""
        return float(np.dot(net, self.coefficients))


def features(layers: Sequence[Layer]) -> tuple[float, ...]:
    """Operations by kind, bytes, and number of layers of a net."""
    work = [sum(x.gflops for x in layers if x.kind == kind) for kind in KINDS]
    return (*work, sum(x.mbytes for x in layers), float(len(layers)))


def fit(nets: Sequence[Sequence[float]], times_ms: Sequence[float]) -> LatencyModel | None:
    """Non-negative least squares on relative errors over the ``features`` of nets that were timed.

    A net that was timed several times counts once, or it would vouch for itself. None with fewer than
    ``FEWEST`` different nets.
    """
    by_net: dict[tuple[float, ...], list[float]] = {}
    for net, ms in zip(nets, times_ms):
        by_net.setdefault(tuple(net), []).append(ms)
    if len(by_net) < FEWEST:
        return None
    table, times = np.array(list(by_net)), np.array([float(np.median(t)) for t in by_net.values()])
    errors = []
    for i in range(len(table)):
        rest = np.arange(len(table)) != i
        guess = table[i] @ _solve(table[rest], times[rest])
        errors.append(abs(guess / times[i] - 1))
    return LatencyModel(tuple(float(c) for c in _solve(table, times)), float(np.median(errors)))


def _solve(table: np.ndarray, times: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    scale = np.maximum(table.max(0), 1e-12)
    coefficients, _ = nnls(table / scale / times[:, None], np.ones(len(times)))
    return np.asarray(coefficients / scale)
