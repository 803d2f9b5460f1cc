"""The last layer of a classifier, found and replaced by one for other labels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgepv.base.optional import need
from edgepv.errors import ModelError
from edgepv.model.surgery import put
from edgepv.quantize.finetune import as_logits
from edgepv.types import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def logits(model: nn.Module, x: Tensor, spec: ModelSpec) -> Tensor:
    """(N, classes) for windows (N, C, T, H, W): the forward of the network, or its steps if it has no other.

    Steps are taken one by one, each window from a fresh state; valid answers are averaged.
    """
    torch = need("torch", extra="compress")
    if type(model).forward is not torch.nn.Module.forward:
        outputs = model(x)
        return as_logits(outputs[0] if isinstance(outputs, tuple) else outputs, spec)
    return as_logits(torch.stack([_stepped(model, clip, spec) for clip in x.transpose(1, 2)]), spec)


def _stepped(model: Any, frames: Any, spec: ModelSpec) -> Any:
    """(classes,) of one clip (T, C, H, W): the mean of what a step model says after each valid frame."""
    states = tuple(model.init_state().values())
    said = []
    for frame in frames:
        answer, *rest = model.step(frame[None], *states)
        states = tuple(rest[len(rest) - len(states) :])
        said.append(answer[0])
    valid = said[int(getattr(model, "warmup", spec.frames)) - 1 :] or said[-1:]
    return sum(valid[1:], valid[0]) / len(valid)


def new_head(model: nn.Module, spec: ModelSpec, labels: Sequence[str], *, seed: int = 0) -> str:
    """Give the network a fresh last layer for ``labels``; returns its name. Rows of labels it knew are kept.

    Raises UsageError if no linear layer gives the logits.
    """
    torch = need("torch", extra="compress")
    name = find_head(model, spec)
    old: Any = model.get_submodule(name)
    torch.manual_seed(seed)
    fresh = torch.nn.Linear(old.in_features, len(labels), bias=old.bias is not None)
    with torch.no_grad():
        for row, label in enumerate(labels):
            if label in spec.labels:
                known = spec.labels.index(label)
                fresh.weight[row] = old.weight[known]
                if old.bias is not None:
                    fresh.bias[row] = old.bias[known]
    put(model, name, fresh)
    return name


def find_head(model: nn.Module, spec: ModelSpec) -> str:
    """Name of the linear layer whose answer the logits are; else of the last one of their width."""
    torch = need("torch", extra="compress")
    called: list[tuple[str, Any]] = []

    def note(name: str, layer: Any, inputs: Any, output: Any) -> None:
        called.append((name, output.detach()))

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    fitting = [(n, m) for n, m in layers if m.out_features == len(spec.labels)]
    hooks = [m.register_forward_hook(functools.partial(note, n)) for n, m in fitting]
    _, channels, *_, height, width = spec.input.shape
    noise = torch.randn(1, channels, spec.frames, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = logits(model.eval(), noise, spec)
    for hook in hooks:
        hook.remove()
    flat = answer.flatten()
    equal = [n for n, out in called if out.numel() == len(flat) and torch.equal(out.flatten(), flat)]
    if not called:
        raise ModelError(
            f"{spec.name}: no linear layer gives its {len(spec.labels)} logits. finetune replaces the last "
            "nn.Linear; let the model end in one"
        )
    return (equal or [n for n, _ in called])[-1]
