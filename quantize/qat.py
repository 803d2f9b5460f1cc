"""Training under the rounding of INT8 (quantization-aware training), with the float model as the teacher.

For a model that post-training quantization hurts. Every convolution that will run in integers computes with
weights and inputs rounded to eight bits, and the gradient passes the rounding by (Jacob et al. 2018). What is
saved are the float weights that learned to live with it: same builder, same shapes, so that streaming and
each engine's own quantization follow as for any checkpoint. The rounding is torch's own and nothing is
compiled: NNCF's for torch needs a C++ compiler on the user's machine.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.errors import ModelError, UsageError
from edgepv.model.checkpoint import build
from edgepv.quantize import finetune
from edgepv.quantize.step import CheckpointStep, Training
from edgepv.types import Checkpoint, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

MOMENTUM = 0.1
"""How far a batch moves the range of an input towards its own."""


@dataclass(frozen=True)
class Step(CheckpointStep):
    """learning_rate: at the start, falls to zero as a cosine. batch: clips."""

    name = "qat"
    tools = ("torch",)
    order = 40
    needs_clips = True
    done = ("qat", "trained under INT8 rounding")

    epochs: int = finetune.epochs_option(
        3, "epochs of training under INT8 rounding, for a model that INT8 hurts (default: 0, off)", "qat"
    )
    learning_rate: float = 1e-4
    batch: int = 8
    seed: int = 0

    def requires(self, given: Checkpoint, aid: Training) -> None:
        """Raise UsageError for a model that steps already, and without clips."""
        if given.rewrite is not None:
            raise UsageError(f"{given.spec.name} is already made to step. Train it first, then stream it")
        if not aid.clips:
            raise UsageError("training for INT8 needs labelled clips: --clips DIR with a train split")

    def work(self, given: Checkpoint, out: Path, aid: Training) -> Checkpoint:
        """Train ``given``, rounded, to answer like the teacher and like the labels; its new checkpoint.

        The loss is that of ``finetune``. Statistics of batch norm stay as they are: they are folded into the
        weights later, and noisy ones would move what was learned. Raises UsageError for a model without
        a clip form or without convolutions, and if the loss stops being finite.
        """
        torch = need("torch", extra="compress")
        torch.manual_seed(self.seed)
        model, original = build(given).requires_grad_(True), build(finetune.taught_by(aid))
        layers = picture_convolutions(model, given.spec, aid.clips[0])
        how = finetune.Step(self.epochs, self.learning_rate, self.batch, self.seed)
        with rounded(layers):
            _train_mode(model)
            cure = "Lower the learning rate"
            finetune.train(model, original, aid.clips, aid.truth, how, given.spec, aid.progress, cure=cure)
        return self.saved(given, model.eval(), out, **finetune.lesson(aid))


def picture_convolutions(model: nn.Module, spec: ModelSpec, clip: np.ndarray) -> list[nn.Module]:
    """The layers that engines run in integers: convolutions whose output has picture axes.

    Linear layers and convolutions of one value per channel stay in float; see ``int8_onnx.float_nodes``.
    """
    torch = need("torch", extra="compress")
    nn = torch.nn
    if type(model).forward is nn.Module.forward:
        raise ModelError(
            f"{spec.name} cannot be trained for INT8: it has a step and no forward over clips. "
            "Give it a forward (N, C, T, H, W) -> logits"
        )
    layers: list[Any] = []

    def look(layer: Any, _: Any, out: Any) -> None:
        if out.ndim > 3 and any(n > 1 for n in out.shape[2:]) and layer not in layers:
            layers.append(layer)

    kinds = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
    handles = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            model(torch.from_numpy(finetune.windows(np.random.default_rng(0), [clip], spec.frames)))
    finally:
        for handle in handles:
            handle.remove()
    if not layers:
        raise ModelError(f"{spec.name} has no convolution over pictures: INT8 leaves all of it in float")
    return layers


@contextlib.contextmanager
def rounded(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While it lasts, ``layers`` compute with int8 weights and uint8 inputs; then they are float again.

    Weights: symmetric, a step for each output channel, as every engine here has them. Because the step
    follows the channel's loudest weight, folding a batch norm in later changes none of the integers.
    """
    need("torch", extra="compress")
    from torch.nn.utils import parametrize

    hooks = []
    try:
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", _rounded_weight(layer))
            hooks.append(layer.register_forward_pre_hook(InputRange()))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def _rounded_weight(layer: Any) -> Any:
    """A module that rounds a weight to 255 levels in each output channel."""
    import torch

    axis = 1 if "Transpose" in type(layer).__name__ else 0

    class Rounded(torch.nn.Module):
        def forward(self, weight: Any) -> Any:
            others = [d for d in range(weight.ndim) if d != axis]
            step = weight.detach().abs().amax(others).clamp(min=1e-12) / 127
            zeros = torch.zeros_like(step, dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight, step, zeros, axis, -127, 127)

    return Rounded()


class InputRange:
    """Rounds a layer's input to 256 levels between the ends seen so far, a moving average that holds 0."""

    def __init__(self) -> None:
        self.ends: tuple[float, float] | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The layer's inputs, the first rounded; the ends move by ``MOMENTUM`` of the way to this batch's."""
        import torch

        x, *others = inputs
        seen = min(float(x.detach().min()), 0.0), max(float(x.detach().max()), 0.0)
        was = self.ends or seen
        low, high = (a + MOMENTUM * (b - a) for a, b in zip(was, seen))
        if not math.isfinite(high - low):
            return inputs  # the loss will not be finite either, and says so
        self.ends = low, high
        step = max(high - low, 1e-12) / 255
        zero = min(255, round(-low / step))
        return (torch.fake_quantize_per_tensor_affine(x, step, zero, 0, 255), *others)


def _train_mode(model: Any) -> None:
    """Training mode for everything but batch norm, whose running statistics must not move."""
    from torch.nn.modules.batchnorm import _BatchNorm

    model.train()
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
