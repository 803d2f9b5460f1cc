"""Reconstruct: particles back into a frame, by their features or by a generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.zoo.particles.decompose import EPS


def splat(masks: Tensor, feature: Tensor, height: int, width: int) -> Tensor:
    """Features laid back on the map: (N, K, M) and (N, K, D) -> (N, D, height, width), height * width = M.

    Each cell gets the mean of the particles that own it, weighted by how much they own; a cell of nobody
    gets zeros. A matrix product in place of a scatter.
    """
    total = feature.transpose(1, 2) @ masks
    return (total / (masks.sum(1, keepdim=True) + EPS)).reshape(-1, feature.shape[2], height, width)


class FromFeatures(nn.Module):
    """A frame from the features of particles: on the map, two convolutions, pixels out of channels.

    dim: of the features. channels: of the frame. height, width: of the map; the frame is ``up`` times as
    high and wide. Source of the last step: Shi et al. 2016, "Real-Time Single Image and Video
    Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network".
    """

    def __init__(
        self, dim: int, channels: int, *, up: int, height: int, width: int, hidden: int = 32
    ) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.mix = nn.Conv2d(dim, hidden, 3, 1, 1)
        self.paint = nn.Conv2d(hidden, channels * up * up, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(up)

    def forward(self, masks: Tensor, feature: Tensor) -> Tensor:
        """masks: (N, K, M); feature: (N, K, dim).

        Returns (N, channels, height * up, width * up), in the unit it was trained on.
        """
        x = splat(masks, feature, self.height, self.width)
        return self.shuffle(self.paint(torch.relu(self.mix(x))))


class Double(nn.Module):
    """Twice the height and width: nearest neighbour, a convolution, a residual convolution.

    A transposed convolution may leave a checkerboard, and some do not convert; this has neither fault.
    Source: Odena, Dumoulin, Olah 2016, "Deconvolution and Checkerboard Artifacts".
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(cin, cout, 3, 1, 1)
        self.refine = nn.Conv2d(cout, cout, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, h, w) -> (N, cout, 2 h, 2 w)."""
        x = torch.relu(self.widen(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return x + torch.relu(self.refine(x))


class Generator(nn.Module):
    """A frame from the features of particles, grown in stages from the map; may be trained as a GAN.

    dim: of the features. widths: channels after each doubling, so the frame is 2^len(widths) times as high
    and wide as the map. channels: of the frame. height, width: of the map.
    """

    def __init__(self, dim: int, channels: int, *, widths: tuple[int, ...], height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.grow = nn.Sequential(*(Double(a, b) for a, b in zip((dim, *widths), widths)))
        self.paint = nn.Conv2d((dim, *widths)[-1], channels, 3, 1, 1)

    def forward(self, masks: Tensor, feature: Tensor) -> Tensor:
        """masks: (N, K, M); feature: (N, K, dim). Returns (N, channels, H, W), in the unit of training."""
        return self.paint(self.grow(splat(masks, feature, self.height, self.width)))


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
