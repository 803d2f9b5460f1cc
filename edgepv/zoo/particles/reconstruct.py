"""Reconstruct: a frame from the numbers of particles alone, by their features or by a generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.zoo.particles.decompose import grid, offsets
from edgepv.zoo.particles.describe import TERMS, local_terms


class Splat(nn.Module):
    """A map from the features of particles: each paints a polynomial about its centre.

    Near ones share a cell: it belongs to particle k by a softmax over the particles of -d^2 / (2 (width
    scale_k)^2) at distance d; ``width`` starts at 0.7 and is learned. A particle's polynomial is of second
    degree (``local_terms``), its coefficients a linear function of its feature. Nothing but position, scale
    and feature is needed.

    dim: of the features. channels: of the map. height, width: of the map.
    Source: gated local regressors as pictures, Verhack et al. 2016, "A Universal Image Coding Approach Using
    Sparse Steered Mixture-of-Experts Regression".
    """

    cells: Tensor

    def __init__(self, dim: int, channels: int, *, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.register_buffer("cells", grid(height, width), persistent=False)
        self.coefficients = nn.Linear(dim, TERMS * channels)
        self.log_width = nn.Parameter(torch.tensor(0.7).log())

    def forward(self, position: Tensor, scale: Tensor, feature: Tensor) -> Tensor:
        """position: (N, K, 2); scale: (N, K); feature: (N, K, dim). Returns (N, channels, height, width)."""
        n, k, _ = feature.shape
        terms = local_terms(self.share(position, scale), self.cells, position, scale)
        painted = (
            self.coefficients(feature).reshape(n, k, TERMS, -1).transpose(1, 2).reshape(n, TERMS * k, -1)
        )
        return (painted.transpose(1, 2) @ terms).reshape(n, -1, self.height, self.width)

    def share(self, position: Tensor, scale: Tensor) -> Tensor:
        """How much of each cell belongs to each particle, (N, K, M): over the particles it sums to 1."""
        dx, dy = offsets(self.cells, position)
        sharp = 0.5 * torch.exp(-2 * self.log_width) / (scale * scale)
        return torch.softmax(-(dx * dx + dy * dy) * sharp.unsqueeze(-1), 1)


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a ReLU between them, added to their input. (N, C, h, w) throughout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The input plus what the block makes of it."""
        return x + self.second(torch.relu(self.first(x)))


class Generator(nn.Module):
    """Pixels from a map that particles painted: convolutions, then pixels out of channels.

    cin: channels of the map. channels: of the frame, which is ``up`` times as high and wide as the map.
    Source of the last step: Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an
    Efficient Sub-Pixel Convolutional Neural Network".
    """

    def __init__(self, cin: int, channels: int, *, up: int, hidden: int) -> None:
        super().__init__()
        self.up = up
        self.mix = nn.Conv2d(cin, hidden, 3, 1, 1)
        self.block = Residual(hidden)
        self.paint = nn.Conv2d(hidden, channels * up * up, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, h, w) -> (N, channels, h * up, w * up), in the unit it was trained on."""
        x = self.block(torch.relu(self.mix(x)))
        return F.pixel_shuffle(self.paint(torch.relu(x)), self.up)


class Discriminator(nn.Module):
    """For training only, never exported: says of every patch of a frame whether it looks real.

    Three convolutions of stride 2, spectrally normalized, and one that scores: a score sees 46 x 46 pixels.
    Sources: patches, Isola et al. 2017, "Image-to-Image Translation"; norm, Miyato et al. 2018.
    """

    def __init__(self, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for cin, cout in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            conv = nn.Conv2d(cin, cout, 4, 2, 1)
            layers += [nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)]
        score = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4 * width, 1, 4, 1, 1))
        self.layers = nn.Sequential(*layers, score)

    def forward(self, frame: Tensor) -> Tensor:
        """(N, channels, H, W) -> scores (N, 1, h, w), above 0 for real."""
        return self.layers(frame)


def hinge(real: Tensor, generated: Tensor) -> Tensor:
    """What the discriminator minimizes, from its scores of real and of generated frames. For training only.

    Source: Lim & Ye 2017, "Geometric GAN". The generator minimizes -mean(scores of its frames).
    """
    return torch.relu(1 - real).mean() + torch.relu(1 + generated).mean()
