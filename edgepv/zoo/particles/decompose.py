"""Decompose: a frame into particles, at four granularities.

``Grid`` cuts a map into equal blocks, which are its pixels, patches of them, or the whole frame; ``Region``
lets K slots compete for the cells of a map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgepv.errors import UsageError

EPS = 1e-6
"""Added to sums of weights before they divide: an empty mask gives zeros, never NaN."""

FAR = 1e4
"""What a softmax takes from a place that must get nothing; float16 still holds it."""


class Particles(NamedTuple):
    """K particles of each of N frames.

    position: (N, K, 2), the centre, in image heights. feature: (N, K, D).
    scale: (N, K), root mean square distance of a particle's area from its centre, in image heights.
    For use inside a model: a named tuple as a model's own answer is refused by litert-torch.
    """

    position: Tensor
    scale: Tensor
    feature: Tensor


class Norm(nn.Module):
    """Layer normalization of the last axis, (..., D) -> (..., D), in operators every parser knows.

    Source: Ba, Kiros, Hinton 2016, "Layer Normalization".
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Each vector with mean 0 and variance 1, then scaled and shifted."""
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias


def grid(height: int, width: int) -> Tensor:
    """Centres of the cells of a map, row by row: (height * width, 2), in image heights."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) / height


def lattice(count: int, *, aspect: float = 1.0) -> Tensor:
    """Where ``count`` particles may start, spread over the frame: (count, 2), in image heights.

    aspect: width / height. The first k of a longer list are the list for k, so particles keep their
    place when their number changes. Source: the R2 low-discrepancy sequence (Roberts 2018).
    """
    plastic = 1.3247179572447460  # the real root of x^3 = x + 1
    n = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    spread = torch.remainder(0.5 + n * torch.tensor([1 / plastic, 1 / (plastic * plastic)]).double(), 1.0)
    return (spread * torch.tensor([aspect, 1.0])).float()


def offsets(cells: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """(dx, dy), each (N, K, M): from position (N, K, 2) to cells (M, 2)."""
    return cells[:, 0] - position[..., 0:1], cells[:, 1] - position[..., 1:2]


def moments(masks: Tensor, cells: Tensor, anchor: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """Centre and spread of soft masks: position (N, K, 2) and second moments (N, K, 3) as xx, yy, xy.

    masks: (N, K, M). anchor: (N, K, 2), a point near each mask; an empty mask stays there. height: rows
    of the map. A cell counts as a square, so even a mask of one cell has the spread of that square.
    Source: image moments (Hu 1962, "Visual pattern recognition by moment invariants").
    """
    weights = masks / (masks.sum(-1, keepdim=True) + EPS)
    dx, dy = offsets(cells, anchor)
    mx, my = (weights * dx).sum(-1), (weights * dy).sum(-1)
    own = 1 / (12 * height * height)
    xx = torch.relu((weights * dx * dx).sum(-1) - mx * mx) + own
    yy = torch.relu((weights * dy * dy).sum(-1) - my * my) + own
    xy = (weights * dx * dy).sum(-1) - mx * my
    return anchor + torch.stack([mx, my], -1), torch.stack([xx, yy, xy], -1)


class Grid(nn.Module):
    """The map cut into rows x cols equal blocks, one particle each; nothing is learned.

    The granularity is the size of the blocks: a cell is a pixel of the map, the whole map the frame, and what
    lies between is a patch. height, width: of the map; UsageError if the blocks do not fill it.
    Source of patches as units: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words".
    """

    masks: Tensor
    position: Tensor

    def __init__(self, height: int, width: int, rows: int, cols: int) -> None:
        super().__init__()
        if height % rows or width % cols:
            raise UsageError(
                f"{rows} x {cols} blocks do not fill a map of {height} x {width}. "
                "Choose numbers that divide both"
            )
        y = torch.arange(height).repeat_interleave(width) // (height // rows)
        x = torch.arange(width).repeat(height) // (width // cols)
        masks = (torch.arange(rows * cols).unsqueeze(1) == y * cols + x).float().unsqueeze(0)
        self.register_buffer("masks", masks, persistent=False)
        centres = grid(rows, cols) * torch.tensor([width * rows / (cols * height), 1.0])
        self.register_buffer("position", centres.unsqueeze(0), persistent=False)


class Region(nn.Module):
    """K slots compete for the cells of a map, each near the place where its particle is expected.

    A softmax over the slots shares every cell out: a cell goes to the slot whose feature asks for it,
    less a penalty of d^2 / (2 reach^2) at distance d from the expected position. Centre and scale are
    the moments of what a slot got, its feature is the mean over it.

    tokens: channels of the map. dim: of the particles' features. height, width: of the map. ``reach`` is
    learned; it starts at 0.25 image heights or, if it is ``relative``, at a quarter of the distance at which
    K particles fill the frame evenly, so that one reach serves any K.
    Source: Locatello et al. 2020, "Object-Centric Learning with Slot Attention"; the distance is ours.
    """

    cells: Tensor

    def __init__(self, tokens: int, dim: int, *, height: int, width: int, relative: bool = False) -> None:
        super().__init__()
        self.height, self.relative, self.aspect = height, relative, width / height
        self.register_buffer("cells", grid(height, width), persistent=False)
        self.token_norm = Norm(tokens)
        self.slot_norm = Norm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(tokens, dim, bias=False)
        self.value = nn.Linear(tokens, dim, bias=False)
        self.log_reach = nn.Parameter(torch.tensor(0.25).log())

    def forward(
        self, x: Tensor, position: Tensor, feature: Tensor, alive: Tensor
    ) -> tuple[Particles, Tensor]:
        """The particles of a frame and their masks (N, K, M), which share out every cell among the living.

        x: (N, C, height, width). position (N, K, 2) and feature (N, K, dim) are what was expected; an
        empty place keeps its position and gets the feature 0. alive: (N, K).
        """
        tokens = self.token_norm(x.flatten(2).transpose(1, 2))
        masks = self.share(tokens, position, feature, alive)
        return self.read(tokens, masks, position), masks

    def read(self, tokens: Tensor, masks: Tensor, position: Tensor) -> Particles:
        """What masks (N, K, M) hold, each near its position (N, K, 2). tokens: (N, M, C), normed."""
        centre, spread = moments(masks, self.cells, position, self.height)
        seen = masks @ self.value(tokens) / (masks.sum(-1, keepdim=True) + EPS)
        return Particles(centre, torch.sqrt(spread[..., 0] + spread[..., 1]), seen)

    def share(self, tokens: Tensor, position: Tensor, feature: Tensor, alive: Tensor) -> Tensor:
        """Masks (N, K, M): over the living slots they sum to 1 in each cell."""
        query = self.query(self.slot_norm(feature))
        fit = query @ self.key(tokens).transpose(1, 2) * query.shape[-1] ** -0.5
        dx, dy = offsets(self.cells, position)
        unit = self.aspect / position.shape[1] if self.relative else 1.0
        near = (dx * dx + dy * dy) * (0.5 / unit * torch.exp(-2 * self.log_reach))
        closed = FAR * (1 - alive.unsqueeze(-1))
        return torch.softmax(fit - near - closed, 1) * alive.unsqueeze(-1)
