"""What every training here has in common: steps down a finite loss, the best weights so far, its saved state.

Which clips are drawn, what is lost on them and when it ends is each trainer's own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


def cosine(step: float, steps: float) -> float:
    """Share of the highest learning rate: from 1 at step 0 along half a cosine to 0 after ``steps``.

    Source: Loshchilov & Hutter 2017, "SGDR", without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def refuse_diverged(loss: float, when: str, cure: str, most: float = math.inf) -> None:
    """Raise UsageError, ending in ``cure``, for a loss that is not finite or not below ``most``.

    when: "step 3", for the message.
    """
    if not loss < most:
        what = f"a loss of {loss:.3g}" if math.isfinite(loss) else "the loss is not finite"
        raise UsageError(f"training diverged in {when} ({what}). {cure}")


class Trainer:
    """An optimizer on those weights of a torch module that train.

    weight_decay: of all of them, or of ``only_matrices``: kernels and matrices, not biases and norms. clip:
    largest norm of the gradient, None for any. share: what is done to the module's gradients before they are
    clipped. cure, most: of ``refuse_diverged``. optimizer: makes it of torch's parameter groups, AdamW if not
    given. steps: how many were taken.
    """

    def __init__(
        self,
        model: nn.Module,
        weight_decay: float,
        *,
        only_matrices: bool = False,
        clip: float | None = None,
        share: Callable[[nn.Module], None] = lambda model: None,
        cure: str = "Lower the learning rate",
        most: float = math.inf,
        optimizer: Callable[[list[dict[str, Any]]], Any] | None = None,
    ) -> None:
        torch = need("torch", extra="compress")
        self._model, self._clip, self._share = model, clip, share
        self._cure, self._most = cure, most
        self.steps = 0
        trained = [p for p in model.parameters() if p.requires_grad]
        decaying = [p for p in trained if p.ndim > 1 or not only_matrices]
        groups = [{"params": decaying, "weight_decay": weight_decay}]
        if only_matrices:
            groups.append({"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0})
        self.optimizer = optimizer(groups) if optimizer else torch.optim.AdamW(groups)

    def step(self, loss: Tensor, rate: float) -> float:
        """One step at learning rate ``rate`` down a loss, a tensor of one number; returns the number.

        Raises UsageError, with the weights as they were, if it is not finite or not below ``most``.
        """
        value = float(loss.detach())
        refuse_diverged(value, f"step {self.steps}", self._cure, self._most)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        self._share(self._model)
        if self._clip is not None:
            need("torch", extra="compress").nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self.optimizer.step()
        self.steps += 1
        return value

    def state_dict(self) -> dict[str, Any]:
        """What the next step rests on, but for the weights."""
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


class Best:
    """The weights of the epoch with the lowest validation loss, the first of equal ones; None before any."""

    def __init__(self) -> None:
        self.weights: dict[str, Any] | None = None
        self.loss, self.epoch = math.inf, -1

    def offer(self, model: nn.Module, loss: float, epoch: int) -> None:
        """Keep a copy of the weights if no earlier epoch lost less."""
        if loss < self.loss:
            self.loss, self.epoch = loss, epoch
            self.weights = copy.deepcopy(model.state_dict())

    def restore(self, model: nn.Module) -> None:
        """Give a module the best weights; without any it keeps its own."""
        if self.weights is not None:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far."""
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        vars(self).update(state)


class Part(Protocol):
    """What has a state that a training goes on from, like a module of torch, a ``Trainer`` and ``Best``."""

    def state_dict(self) -> Any:
        """Plain data and tensors."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from what ``state_dict`` gave."""


class SavedRun:
    """A training in one file, from which the same command goes on after a kill.

    path: of the file; None saves nothing. parts: by name, all that changes while it trains.
    """

    def __init__(self, path: Path | None, **parts: Part) -> None:
        self._path, self._parts = path, parts

    def save(self, log: list[dict[str, Any]]) -> None:
        """Write the parts and the log so far; a kill meanwhile leaves the file of before."""
        if self._path is None:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}
        with whole_file(self._path) as tmp:
            need("torch", extra="compress").save({**state, "log": log}, tmp)

    def resume(self, device: Any = None) -> list[dict[str, Any]]:
        """Give the parts their saved state, tensors on ``device``; the log of before, empty without a file.

        Raises UsageError, with the parts as they were, for a file of another kind of training.
        """
        if self._path is None or not self._path.is_file():
            return []
        state = need("torch", extra="compress").load(self._path, weights_only=True, map_location=device)
        if not isinstance(state, dict) or set(state) != {*self._parts, "log"}:
            raise UsageError(f"{self._path} is not a training of this kind. Remove it to begin anew")
        log: list[dict[str, Any]] = state.pop("log")
        for name, saved in state.items():
            self._parts[name].load_state_dict(saved)
        return log
