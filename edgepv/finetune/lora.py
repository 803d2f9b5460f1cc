"""Low-rank adapters: a trained network learns something new while its own weights stay as they are.

Every convolution and linear layer computes with W + D, where only D is trained: D = (alpha / rank) up down,
with ``down`` (rank, columns) and ``up`` (rows, rank), W seen as a matrix of one row per output channel.
``up`` starts at zero, so an adapted network first answers exactly as before. Afterwards W + D is one weight
again: ``merged`` gives back the layers the network had, with their names, and nothing costs time on a device.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", for linear layers. Here W of a
convolution is flattened over its kernel. A weight so small that ``up`` and ``down`` would hold as many
numbers (a depthwise kernel, mostly) gets a D of its own shape instead.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgepv.base.files import whole_file
from edgepv.errors import UsageError
from edgepv.model.surgery import fit_to_weights

RANK = 8
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Delta(nn.Module):
    """What training adds to one weight; a parametrization, called with the weight itself."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.scale = alpha / rank
        self.low_rank = rank * (rows + columns) < rows * columns
        if self.low_rank:
            self.down = nn.Parameter(weight.new_empty(rank, columns))
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
            self.up = nn.Parameter(weight.new_zeros(rows, rank))
        else:
            self.full = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight to compute with, in the shape of ``weight``."""
        if not self.low_rank:
            return weight + self.full
        return weight + (self.up @ self.down).view_as(weight) * self.scale


def inject(
    module: nn.Module, rank: int = RANK, alpha: float | None = None, *, head: str | None = None
) -> nn.Module:
    """Put adapters on ``module``, in place: from here on only they, the norms and ``head`` train.

    alpha: weight of what is learned, over ``rank``; None: twice the rank. head: name of the layer that gives
    the logits; it trains whole. A weight that two layers share, or that is computed from others already
    (weight norm), stays frozen. Raises UsageError for a rank below 1.
    """
    if rank < 1:
        raise UsageError(f"--rank {rank}: an adapter needs at least rank 1. 4 to 16 are usual")
    module.requires_grad_(False)
    uses = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))

    def shared(layer: nn.Module) -> bool:
        return uses[id(layer.weight)] > 1

    for name, layer in list(module.named_modules()):
        if name == head or isinstance(layer, NORMS):
            layer.requires_grad_(True)
        elif isinstance(layer, KINDS) and not parametrize.is_parametrized(layer) and not shared(layer):
            delta = Delta(layer.weight.detach(), rank, 2 * rank if alpha is None else alpha)
            parametrize.register_parametrization(layer, "weight", delta)
    return module


def merged(module: nn.Module) -> nn.Module:
    """A frozen copy of an injected module in which every W + D is one weight: layers and names as before."""
    whole = copy.deepcopy(module)
    for layer in list(whole.modules()):
        if _adapted(layer):
            weight = cast(Tensor, layer.weight).detach()
            # torch's remove_parametrizations also strips the class, which a copy shares with its original
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer.parametrizations
            layer.register_parameter("weight", nn.Parameter(weight))
    return whole.requires_grad_(False)


def _adapted(layer: nn.Module) -> bool:
    """Whether ``inject`` put an adapter on this very layer."""
    return parametrize.is_parametrized(layer, "weight") and isinstance(
        cast(nn.ModuleDict, layer.parametrizations)["weight"][0],  # type: ignore[index]
        Delta,
    )


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def learned(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all that training an injected module changes: ``trainable``, and what norms count."""
    counted = [f"{name}." for name, m in module.named_modules() if isinstance(m, NORMS)]
    names = [n for n, _ in module.named_buffers() if n.startswith(tuple(counted))] if counted else []
    state = module.state_dict()
    return {name: state[name].detach().clone() for name in (*trainable(module), *names) if name in state}


def save(module: nn.Module, path: Path, *, rank: int, alpha: float | None = None, head: str) -> None:
    """Write what an injected module learned as safetensors; the arguments of ``inject`` go with it."""
    from safetensors.torch import save as packed

    how = {"rank": str(rank), "alpha": str(2 * rank if alpha is None else alpha), "head": head}
    with whole_file(path) as tmp:
        tmp.write_bytes(packed({k: v.cpu().contiguous() for k, v in learned(module).items()}, how))


def load(module: nn.Module, path: Path) -> nn.Module:
    """The network that ``save`` wrote an adapter of, merged. module: the one it was trained on; it changes.

    Raises UsageError if the file is no adapter, or one of another network.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            how = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as e:
        raise UsageError(f"{path} cannot be read as an adapter ({e}). It may be truncated") from e
    if not {"rank", "alpha", "head"} <= set(how):
        raise UsageError(f"{path} is no adapter: it has no rank. Give the adapter.safetensors of a finetune")
    fit_to_weights(module, state)
    inject(module, int(how["rank"]), float(how["alpha"]), head=how["head"])
    try:
        unknown = module.load_state_dict(state, strict=False).unexpected_keys
    except RuntimeError as e:
        raise UsageError(f"{path} does not fit this network: {str(e).splitlines()[-1].strip()}") from e
    if unknown or set(trainable(module)) - set(state):
        raise UsageError(f"{path} was trained on another network than {type(module).__name__}")
    return merged(module)
