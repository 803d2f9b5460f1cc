"""A clip net as short as it can be written."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Net(nn.Module):
    """A net spelled as one function of a clip and its layers."""

    def __init__(self, run: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.run = nn.ModuleList(layers), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, *self.layers)
