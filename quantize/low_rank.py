"""Low-rank layers: one heavy convolution becomes a narrow one and a 1x1 that widens its answer again.

The weight W (cout, cin * kernel) is cut to its largest singular values, W ~ U V: V is a convolution like
the first with r channels, U a 1x1 convolution from r to cout. A 1x1 convolution and a linear layer become
two of their kind. Exact at full rank; nothing of the layer's stride, padding or delay changes, so a split
clip model streams like the whole one.

Source: Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks for Efficient
Evaluation", and Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and
Detection", section 3.1 (this form of the split), without its correction for the data: fine-tuning does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.optional import need
from edgepv.base.options import option
from edgepv.errors import ModelError, UsageError
from edgepv.model.checkpoint import build
from edgepv.model.surgery import parameters, put, split, splittable
from edgepv.quantize.step import CheckpointStep, Training
from edgepv.types import Checkpoint, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_COST_SHARE = 0.8
"""A layer is split only if the two need at most this share of its multiplications."""
HEAVY = 0.01
"""A layer below this share of the model's multiplications is not worth its error: the head, gates."""
ROUNDING = 1e-10
"""Share of a weight's energy that float32 rounding alone leaves in singular values that are zero."""
TOLERANCE = 1e-5  # of an answer: the same weights read from a file; only sums may be in another order


@dataclass(frozen=True)
class Step(CheckpointStep):
    """Heavy layers are split in two narrow ones."""

    name = "low-rank"
    tools = ("torch",)
    order = 20
    lossy = True
    method = "rank"
    done = ("split", "split into low-rank layers")

    energy: float = option(
        0.9,
        "split heavy layers in two narrow ones that keep this share of their weights' energy, like 0.9 "
        "(default: off)",
        key="low_rank",
        metavar="ENERGY",
        check=lambda energy: 0 < energy <= 1,
        hint="give the share of energy to keep, like 0.9",
        asks=True,
        searched=(0.0, 0.9, 0.8),
        called=lambda energy: f"rank {100 * energy[0]:g} %",
    )

    def requires(self, given: Checkpoint, aid: Training) -> None:
        """Raise UsageError for a model that steps already."""
        if given.rewrite is not None:
            raise UsageError(f"{given.spec.name} is streamed already. Split its layers before that")

    def work(self, given: Checkpoint, out: Path, aid: Training) -> Checkpoint:
        """A checkpoint with split layers, rebuilt and run to prove it whole.

        The record's options say which layers were split, and at what rank. A layer whose weight the
        model's code reads itself stays whole: the model is tried after every split.
        Raises UsageError if no heavy layer gets a fifth cheaper.
        """
        module = build(given)
        before = parameters(module)
        ranks = _split_layers(module, given.spec, self.energy)
        if not ranks:
            raise UsageError(
                f"{given.spec.name}: no heavy layer gets {1 - MOST_COST_SHARE:.0%} cheaper at "
                f"{self.energy:.0%} of its energy. Ask for less energy, or prune it instead"
            )
        checkpoint = self.saved(given, module, out, ranks=ranks, params=[before, parameters(module)])
        _same_numbers(module, build(checkpoint), given.spec)
        return checkpoint


def rank_for(values: Tensor, energy: float) -> int:
    """How many of the singular values (falling) hold ``energy`` of their squares' sum, at least 1."""
    torch = need("torch", extra="compress")
    squares = values.double() ** 2
    left = squares.sum() - torch.cumsum(squares, 0)
    return int((left > max(1 - energy, ROUNDING) * squares.sum()).sum()) + 1


def factorize(weight: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """(first, second) weights of a split: (r, cin, *kernel) and (cout, r, 1, ...).

    The singular values are shared out evenly, so that both halves have the same scale for INT8.
    """
    torch = need("torch", extra="compress")
    u, values, v = torch.linalg.svd(weight.detach().flatten(1).double(), full_matrices=False)
    r = rank_for(values, energy)
    root = values[:r].sqrt()
    first = (root[:, None] * v[:r]).reshape(r, *weight.shape[1:])
    second = (u[:, :r] * root).reshape(len(weight), r, *[1] * (weight.ndim - 2))
    return first.float(), second.float()


def _split_layers(module: Any, spec: ModelSpec, energy: float) -> dict[str, int]:
    """Split in place every layer it pays for; name -> rank."""
    costs = multiplications(module, spec)
    ranks: dict[str, int] = {}
    for name, layer in list(module.named_modules()):
        heavy = costs.get(name, 0) > HEAVY * sum(costs.values())
        two = _two(layer, energy) if heavy and splittable(layer) else None
        if two is None:
            continue
        put(module, name, two)
        try:
            answers(module, spec)
        except Exception:  # it ran before: the model's code asks this layer for what two layers have not
            put(module, name, layer)
        else:
            ranks[name] = len(two[0].weight)
    return ranks


def multiplications(module: nn.Module, spec: ModelSpec) -> dict[str, int]:
    """Multiplications of every convolution and linear layer that the module calls, by name.

    Raises ModelError if the module does not run.
    """
    from torch import nn

    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    costs: dict[str, int] = {}

    def count(name: str) -> Any:
        def add(layer: Any, _: Any, out: Any) -> None:
            places = out.numel() // len(layer.weight)
            costs[name] = costs.get(name, 0) + places * layer.weight.numel()

        return add

    layers = ((name, m) for name, m in module.named_modules() if isinstance(m, kinds))
    hooks = [layer.register_forward_hook(count(name)) for name, layer in layers]
    try:
        answers(module, spec)
    except Exception as e:  # models fail in as many ways as they are written
        line = (str(e).splitlines() or [""])[0][:200]
        raise ModelError(f"{spec.name} does not run on noise: {type(e).__name__}: {line}") from e
    finally:
        for hook in hooks:
            hook.remove()
    return costs


def _two(layer: Any, energy: float) -> Any:
    """The two layers that replace ``layer``; None if that saves too little."""
    import torch

    first, second = factorize(layer.weight, energy)
    if first.numel() + second.numel() > MOST_COST_SHARE * layer.weight.numel():
        return None
    two: Any = split(layer, first, second).eval().requires_grad_(False)
    with torch.no_grad():
        two[0].weight.copy_(first)
        two[1].weight.copy_(second)
        if layer.bias is not None:
            two[1].bias.copy_(layer.bias)
    return two


def answers(module: nn.Module, spec: ModelSpec) -> list[Tensor]:
    """What every form of the module answers to noise: its step, its clip form, or both."""
    torch = need("torch", extra="compress")
    noise = torch.Generator().manual_seed(0)
    shape = spec.input.shape
    outputs: list[Tensor] = []
    own: Any = module
    with torch.no_grad():
        if spec.input.layout == "NCHW" and callable(getattr(module, "init_state", None)):
            outputs += own.step(torch.randn(shape, generator=noise), *own.init_state().values())
            shape = (*shape[:2], spec.frames, *shape[2:])
        if type(module).forward is not torch.nn.Module.forward:
            outputs.append(module(torch.randn(shape, generator=noise)))
    return outputs


def _same_numbers(split_module: Any, rebuilt: Any, spec: ModelSpec) -> None:
    """The checkpoint on disk must be the module that was split, or later steps work on a stranger."""
    import torch

    pairs = zip(answers(split_module, spec), answers(rebuilt, spec), strict=True)
    if not all(torch.allclose(a, b, atol=TOLERANCE) for a, b in pairs):
        raise ModelError(f"{spec.name}: the split model does not rebuild from its weights")
