"""Clip nets that pruning must cut right, or refuse: each plants one way to be cut wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """Two resolutions, a residual, labels 0 and 1 told by the mean of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv3d(3, 32, 3, (1, 2, 2), 1)
        self.norm = nn.BatchNorm3d(32)
        self.b = nn.Conv3d(32, 32, 3, 1, 1)
        self.c = nn.Conv3d(32, 48, 3, (1, 2, 2), 1)
        self.head = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = torch.relu(self.b(x)) + x
        return self.head(torch.sigmoid(self.c(x)).mean((2, 3, 4)))


class Shift(nn.Module):
    """A temporal shift of the first quarter of the channels, by number (Lin et al. 2019, TSM)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv3d(3, 32, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.b = nn.Conv3d(32, 32, (1, 3, 3), 1, (0, 1, 1))
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        mask = (torch.arange(x.shape[1]) < x.shape[1] // 4).view(1, -1, 1, 1, 1)
        x = torch.where(mask, x.roll(1, 2), x)
        return self.head(torch.relu(self.b(x)).mean((2, 3, 4)))


class ShiftThenNorm(Shift):
    """The same behind a norm of the colours, which no cut touches."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.GroupNorm(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.colours(x))


class SureShift(Shift):
    """The same with an answer that is sure of itself whatever it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class FixedState(nn.Module):
    """Steps with a state that is always 32 channels wide; its clip form knows nothing of that."""

    warmup = 2

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, 2, 1)
        self.head = nn.Linear(32, 2)

    def features(self, frame: Tensor) -> Tensor:
        return torch.relu(self.a(frame)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.features(f) for f in x.unbind(2)]).mean(0))

    def init_state(self) -> dict[str, Tensor]:
        return {"before": torch.zeros(1, 32)}

    def step(self, frame: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        now = self.features(frame)
        return self.head((now + before[:, : now.shape[1]]) / 2), now


class Recurrent(nn.Module):
    """A GRU over frame features."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, 2, 1)
        self.memory = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.stack([torch.relu(self.a(f)).mean((2, 3)) for f in x.unbind(2)], 1)
        return self.head(self.memory(rows)[0][:, -1])


def plain() -> Plain:
    return Plain()


def shift() -> Shift:
    return Shift()


def shift_then_norm() -> ShiftThenNorm:
    return ShiftThenNorm()


def sure_shift() -> SureShift:
    return SureShift()


def fixed_state() -> FixedState:
    return FixedState()


def recurrent() -> Recurrent:
    return Recurrent()
