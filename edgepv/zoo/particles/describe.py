"""Describe: what a particle looks like, by hand-crafted measures and by learned features.

Particles come as soft masks (N, K, M). A measure is a dense map of the frame, averaged down to the masks'
cells and then over each mask, so a description costs one small convolution and one matrix product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.errors import UsageError
from edgepv.zoo.particles.decompose import EPS, Norm, grid, moments, offsets

GREY = torch.tensor([0.299, 0.587, 0.114])
"""Luma of red, green and blue: ITU-R BT.601."""


def pool(masks: Tensor, dense: Tensor) -> Tensor:
    """Mean of a map over each mask: (N, K, M) and (N, D, h, w) with h * w = M -> (N, K, D).

    An empty mask gives zeros.
    """
    total = masks @ dense.flatten(2).transpose(1, 2)
    return total / (masks.sum(-1, keepdim=True) + EPS)


def extend(x: Tensor, by: int) -> Tensor:
    """(N, C, H, W) with its borders repeated ``by`` times, so a filter sees no edge there.

    Slices and Concat: replicate padding is an operator that phones leave to plain code.
    """
    x = torch.cat([x[:, :, :1]] * by + [x] + [x[:, :, -1:]] * by, 2)
    return torch.cat([x[..., :1]] * by + [x] + [x[..., -1:]] * by, 3)


class ColourHistogram(nn.Module):
    """Share of each mask's area in each of ``bins`` levels of each colour channel.

    A value votes for the two nearest bins, linearly, so the histogram moves smoothly and has a gradient.
    low, high: the range of the image's values; what lies outside counts as the end of the range.
    stride: image pixels per cell of the masks, along each axis.
    Source: Swain & Ballard 1991, "Color Indexing"; over soft masks: Comaniciu, Ramesh, Meer 2003.
    """

    centres: Tensor

    def __init__(self, bins: int = 8, *, stride: int = 1, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.stride, self.low, self.high = stride, low, high
        self.step = (high - low) / bins
        centres = low + (torch.arange(bins) + 0.5) * self.step
        self.register_buffer("centres", centres.reshape(1, 1, bins, 1), persistent=False)

    def forward(self, image: Tensor, masks: Tensor) -> Tensor:
        """image: (N, C, H, W); masks: (N, K, M). Returns (N, K, C * bins), each channel summing to 1."""
        half = 0.5 * self.step
        n, _, h, w = image.shape
        values = image.clamp(self.low + half, self.high - half).flatten(2).unsqueeze(2)
        votes = torch.relu(1 - (values - self.centres).abs() * (1 / self.step))
        return pool(masks, F.avg_pool2d(votes.reshape(n, -1, h, w), self.stride))


class TextureEnergy(nn.Module):
    """Mean strength of nine textures in each mask, from Laws' 5 x 5 filters on the grey image.

    The filters are products of level (1 4 6 4 1), edge (-1 -2 0 2 1), spot (-1 0 2 0 -1) and ripple
    (1 -4 6 -4 1); a filter and its transpose count as one, level times level is left out. Each filter is
    scaled to an absolute sum of 1, so an energy is in the image's unit.
    Their order is ``KINDS``. stride: as in ``ColourHistogram``.
    Source: Laws 1980, "Textured Image Segmentation".
    """

    KINDS = ("LE", "LS", "LR", "ES", "ER", "SR", "EE", "SS", "RR")
    filters: Tensor
    merge: Tensor

    def __init__(self, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        rows = torch.tensor(
            [[1.0, 4, 6, 4, 1], [-1.0, -2, 0, 2, 1], [-1.0, 0, 2, 0, -1], [1.0, -4, 6, -4, 1]]
        )
        rows = rows / rows.abs().sum(1, keepdim=True)
        pairs = [(i, j) for i in range(4) for j in range(4) if i or j]
        grey = torch.stack([torch.outer(rows[i], rows[j]) for i, j in pairs]).unsqueeze(1)
        self.register_buffer("filters", grey * GREY.reshape(1, 3, 1, 1), persistent=False)
        merge = torch.zeros(len(pairs), len(self.KINDS))
        for row, (i, j) in enumerate(pairs):
            kind = "LESR"[min(i, j)] + "LESR"[max(i, j)]
            merge[row, self.KINDS.index(kind)] = 1.0 if i == j else 0.5
        self.register_buffer("merge", merge, persistent=False)

    def forward(self, image: Tensor, masks: Tensor) -> Tensor:
        """image: (N, 3, H, W), RGB; masks: (N, K, M). Returns (N, K, 9), in the image's unit."""
        response = F.conv2d(extend(image, 2), self.filters).abs()
        return pool(masks, F.avg_pool2d(response, self.stride)) @ self.merge


class OrientationHistogram(nn.Module):
    """How strong the edges in each mask are, and which way the image changes across them.

    Gradients of the grey image by central differences; each pixel shares its gradient's length out over
    ``bins`` directions between 0 and 180 degrees: bin b at 180 b / bins, from x towards y. Opposite
    gradients are one orientation. The vote is a von Mises curve in the doubled angle, which falls to
    exp(-2) at the next bin: smoother than HOG's linear votes, and free of the arc tangent.
    stride: as in ``ColourHistogram``.
    Source: Dalal & Triggs 2005, "Histograms of Oriented Gradients"; the smooth vote is ours.
    """

    gradient: Tensor
    towards: Tensor

    def __init__(self, bins: int = 8, *, stride: int = 1) -> None:
        super().__init__()
        if bins < 2:
            raise UsageError(f"bins = {bins} tells no orientations apart. Use 2 or more")
        self.stride = stride
        across = torch.zeros(2, 3, 3)
        across[0, 1], across[1, :, 1] = torch.tensor([-0.5, 0, 0.5]), torch.tensor([-0.5, 0, 0.5])
        self.register_buffer("gradient", across.unsqueeze(1) * GREY.reshape(1, 3, 1, 1), persistent=False)
        angle = torch.arange(bins) * (2 * math.pi / bins)
        sharpness = 2 / (1 - math.cos(2 * math.pi / bins))
        towards = sharpness * torch.stack([angle.cos(), angle.sin()], 1)
        self.register_buffer("towards", towards.reshape(bins, 2, 1, 1), persistent=False)

    def forward(self, image: Tensor, masks: Tensor) -> Tensor:
        """image: (N, 3, H, W), RGB; masks: (N, K, M).

        Returns (N, K, 1 + bins): the mean gradient, in the image's unit per pixel, then the share of each
        orientation in it. The shares sum to 1, and are 0 where nothing has an edge.
        """
        slopes = F.conv2d(extend(image, 1), self.gradient)
        gx, gy = slopes[:, :1], slopes[:, 1:]
        square = gx * gx + gy * gy
        doubled = torch.cat([gx * gx - gy * gy, 2 * gx * gy], 1) / (square + EPS)
        votes = torch.softmax(F.conv2d(doubled, self.towards), 1)
        length = torch.sqrt(square + EPS * EPS) - EPS  # a root with a finite slope at 0
        histogram = pool(masks, F.avg_pool2d(votes * length, self.stride))
        total = histogram.sum(-1, keepdim=True)
        return torch.cat([total, histogram / (total + EPS)], -1)


class ShapeMoments(nn.Module):
    """Size and elongation of each mask, from its second moments.

    height, width: of the map the masks lie on.
    Source: Hu 1962, "Visual pattern recognition by moment invariants".
    """

    SIZE = 4
    cells: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.register_buffer("cells", grid(height, width), persistent=False)

    def forward(self, masks: Tensor, position: Tensor) -> Tensor:
        """masks: (N, K, M); position: (N, K, 2), a point in or near each mask.

        Returns (N, K, 4): the share of the frame it covers; its root mean square radius in image heights;
        and (xx - yy) / (xx + yy), 2 xy / (xx + yy): a vector as long as the shape is stretched (0 round,
        1 a line), at twice the angle of its long axis.
        """
        _, spread = moments(masks, self.cells, position, self.height)
        xx, yy, xy = spread[..., 0], spread[..., 1], spread[..., 2]
        both = xx + yy
        return torch.stack([masks.mean(-1), torch.sqrt(both), (xx - yy) / both, 2 * xy / both], -1)


WIDEST = 3.0
"""Scales from its centre up to which a particle tells places apart: squares of more would swamp it."""

TERMS = 6
"""Of a polynomial of second degree in two variables."""


def local_terms(weights: Tensor, cells: Tensor, position: Tensor, scale: Tensor) -> Tensor:
    """Weights times the terms of a polynomial about each particle: (N, K, M) -> (N, 6 K, M), term by term.

    The terms are 1, u, v, u^2, u v, v^2 of u = dx / scale and v = dy / scale, held within ``WIDEST``. With
    them a map is read about the particles, and the other way round written from them. cells: (M, 2).
    position: (N, K, 2). scale: (N, K).
    """
    dx, dy = offsets(cells, position)
    u, v = ((d / scale.unsqueeze(-1)).clamp(-WIDEST, WIDEST) for d in (dx, dy))
    wu, wv = weights * u, weights * v
    return torch.cat([weights, wu, wv, wu * u, wu * v, wv * v], 1)


class LocalMoments(nn.Module):
    """Learned features at particles: how a map varies over each mask, as moments up to the second degree.

    A mean alone cannot tell on which side of a particle something is. height, width: of the map.
    """

    cells: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("cells", grid(height, width), persistent=False)

    def forward(self, x: Tensor, masks: Tensor, position: Tensor, scale: Tensor) -> Tensor:
        """x: (N, C, height, width); the rest as in ``local_terms``. Returns (N, K, 6 C)."""
        n, k, _ = masks.shape
        weights = masks / (masks.sum(-1, keepdim=True) + EPS)
        read = local_terms(weights, self.cells, position, scale) @ x.flatten(2).transpose(1, 2)
        return read.reshape(n, TERMS, k, -1).transpose(1, 2).reshape(n, k, -1)


class Fused(nn.Module):
    """Several descriptions as one feature: side by side, a linear layer, a norm.

    sizes: the length of each description, in the order they are given. dim: of the feature.
    """

    def __init__(self, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.mix = nn.Linear(sum(sizes), dim)
        self.norm = Norm(dim)

    def forward(self, *parts: Tensor) -> Tensor:
        """parts: (N, K, size) each. Returns (N, K, dim)."""
        return self.norm(self.mix(torch.cat(parts, -1)))
