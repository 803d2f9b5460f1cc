"""What one new frame costs, counted by torch itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepv.export.to_onnx import example_inputs, step_module, stream_spec
from edgepv.types import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def gflops_per_frame(module: nn.Module, spec: ModelSpec) -> float:
    """10^9 floating point operations (multiply and add are two) for one new frame.

    A window model computes its whole clip again for every frame, and is charged for it.
    Source: torch.utils.flop_counter; counts convolutions and matrix products, nn.LSTM and nn.GRU not.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    stream = stream_spec(module, spec)
    target = step_module(module) if stream else module
    values = example_inputs(spec, stream).values()
    plain = sdpa_kernel(SDPBackend.MATH)  # fused attention on a CPU is not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        target(*(torch.from_numpy(v) for v in values))
    return float(counter.get_total_flops()) / 1e9 / (stream.chunk if stream else 1)
