"""Two very small models as a user would bring them: one that steps, one that eats clips."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyStep(nn.Module):
    """Two convolutions, a residual, one frame of memory after the first, and a mean over 4 frames."""

    warmup = 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.mix = nn.Conv2d(8, 8, (2, 1), groups=8)
        self.last = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 2)

    def init_state(self) -> dict[str, Tensor]:
        return {"before": torch.zeros(1, 8, 1, 256), "pool": torch.zeros(1, 3, 8)}

    def step(self, frame: Tensor, before: Tensor, pool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.relu(self.stem(frame))
        seen = torch.cat([before, x.reshape(1, 8, 1, 256)], 2)
        y = torch.relu(self.mix(seen)).reshape(1, 8, 16, 16)
        y = torch.relu(self.last(y)) + y
        pooled = torch.cat([pool, y.mean((2, 3)).unsqueeze(1)], 1)
        return self.head(pooled.mean(1)), seen[:, :, 1:], pooled[:, 1:]


class TinyClip(nn.Module):
    """One 3-D convolution over four frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 16, 3, (1, 2, 2), 1)
        self.norm = nn.BatchNorm3d(16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3, 4)))


def stepper() -> TinyStep:
    return TinyStep()


def clip() -> TinyClip:
    return TinyClip()


def broken() -> TinyClip:
    raise RuntimeError("the config file is missing")


def not_a_module() -> str:
    return "a string"


class TinyCeil(TinyClip):
    """A padded pooling whose last window hangs over the edge: OpenVINO counts what is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool3d(3, 2, 1, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(torch.relu(self.norm(self.conv(x)))).mean((2, 3, 4)))


def ceil() -> TinyCeil:
    return TinyCeil()


class Fourier(TinyClip):
    """Uses a complex FFT, which no converter here takes."""

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.linalg.svd(x.flatten(2)[0])[1]
        return self.head(spectrum.mean() + torch.zeros(1, 16))


def fourier() -> Fourier:
    return Fourier()
