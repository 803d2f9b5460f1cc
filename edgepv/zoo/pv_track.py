"""pv-track: an online point tracker with an exact per-frame step, for any points the host chooses.

An encoder turns each frame into two maps: features of unit length at a quarter of the size, to find a
point again, and finer ones at half the size, to place it. A particle keeps what its point looked like: at
birth, and lately. In each new frame it is looked for where its velocity points, twice over: soft peaks of
the correlation in windows of four widths, one Lucas-Kanade step on the fine features, and where the
neighbours went are candidates; a small recurrent unit weighs them and says whether the point is seen.

Two forms with the same weights and answers: ``forward`` over batches of whole clips, to train, and ``step``
over one frame with explicit states, on a camera. The host bears and kills particles by writing two states.

Positions are in image heights everywhere outside, in cells of a map inside. Reading a map between its
cells is a product with tent weights; nothing is gathered. Sources: particle video, Sand & Teller 2006 and
Harley et al. 2022 (PIPs); iterations on a correlation, Teed & Deng 2020 (RAFT); the step on learned
features, Lucas & Kanade 1981 and Lv et al. 2019 ("Taking a Deeper Look at the Inverse Compositional
Algorithm").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.zoo.particles.decompose import FAR, lattice
from edgepv.zoo.particles.interact import differences, distance

COARSE, FINE = 4, 2
"""Pixels per cell of the two maps."""

REACH = 2
"""Cells of the fine map that a patch extends from its centre."""

SIGMAS = (1.5, 3.0, 6.0, 100.0)
"""Widths of the windows, in cells of the coarse map; the last is the whole frame, to find what was lost."""

ROUNDS = 2
"""How often a position is improved in one frame."""

LIMIT = 0.2
"""Fastest velocity that is carried on, in image heights per frame."""


class Maps(NamedTuple):
    """Features of B frames, laid out for products.

    coarse: (B, C, M). fine: (B, h, w * c), rows of cells. For use inside the model.
    """

    coarse: Tensor
    fine: Tensor


class Wanted(NamedTuple):
    """What particles are looked for by.

    coarse: (B, N, C). inner: (B * N, 1, 9 * c), the middle of the fine patch. slopes: (B * N, 2, 9 * c),
    how the patch changes there per cell along x and y.
    """

    coarse: Tensor
    inner: Tensor
    slopes: Tensor


class Course(NamedTuple):
    """Where particles are taken to be, where they were in the frame before, and the velocity they had."""

    position: Tensor
    before: Tensor
    velocity: Tensor


class Motion(NamedTuple):
    """What B x N particles carry from frame to frame; the states of a step, in their order.

    position, velocity: (B, N, 2). template, recent: (B, N, D), the look at birth and lately. hidden:
    (B, N, H). life: (B, N, 1), as the host writes it.
    """

    position: Tensor
    velocity: Tensor
    template: Tensor
    recent: Tensor
    hidden: Tensor
    life: Tensor


def unit(x: Tensor, dim: int, floor: float) -> Tensor:
    """Vectors along ``dim`` at length 1, or less where they are shorter than about ``floor``."""
    return x / torch.sqrt((x * x).sum(dim, keepdim=True) + floor * floor)


def tents(at: Tensor, cells: Tensor) -> Tensor:
    """Weights of linear interpolation: (..., K) positions in cells and (M,) cell numbers -> (..., K, M).

    A position beyond the first or last cell reads that cell.
    """
    inside = at.clamp(0, cells.shape[0] - 1)
    return torch.relu(1 - (inside.unsqueeze(-1) - cells).abs())


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, (B, C, H, W) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions find."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Encoder(nn.Module):
    """Frames to maps at 1/4 and 1/2 of their size, after taking out each frame's own light and contrast.

    widths: channels at 1/2 and at 1/4. dims: features of the coarse and of the fine map.
    """

    def __init__(self, widths: tuple[int, int], dims: tuple[int, int], *, blocks: int) -> None:
        super().__init__()
        half, quarter = widths
        self.stem = nn.Conv2d(3, half, 3, 2, 1)
        self.fine = nn.Conv2d(half, half, 3, 1, 1)
        self.fine_out = nn.Conv2d(half, dims[1], 1)
        self.down = nn.Conv2d(half, quarter, 3, 2, 1)
        self.blocks = nn.Sequential(*(Residual(quarter) for _ in range(blocks)))
        self.wide = nn.Conv2d(quarter, quarter, 3, 2, 1)
        self.wider = nn.Conv2d(quarter, quarter, 3, 1, 1)
        self.out = nn.Conv2d(quarter, dims[0], 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (B, 3, H, W). Returns coarse (B, C, H/4, W/4) and fine (B, c, H/2, W/2), of unit length."""
        x = frames - frames.mean((2, 3), keepdim=True)
        x = x / torch.sqrt((x * x).mean((1, 2, 3), keepdim=True) + 0.01)
        x = torch.relu(self.stem(x))
        x = torch.relu(self.fine(x))
        fine = self.fine_out(x)
        x = self.blocks(torch.relu(self.down(x)))
        far = torch.relu(self.wider(torch.relu(self.wide(x))))
        x = x + F.interpolate(far, scale_factor=2.0, mode="nearest")
        return unit(self.out(x), 1, 1e-2), unit(fine, 1, 0.1)


class Neighbours(nn.Module):
    """Where the particles around went, and what they know: a softmax over distance and confidence.

    hidden: features of a particle. Each head has a learned slope per image height, and each particle says how
    much it is to be heard. told: features that a particle tells each head.
    """

    def __init__(self, hidden: int, *, heads: int = 2, told: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Linear(hidden, heads)
        self.told = nn.Linear(hidden, told)
        slopes = torch.logspace(1, 3, heads, base=4.0)
        self.slope = nn.Parameter(torch.log(torch.expm1(slopes)).reshape(1, heads, 1, 1))

    def forward(
        self, position: Tensor, moved: Tensor, hidden: Tensor, alive: Tensor
    ) -> tuple[Tensor, Tensor]:
        """position: (B, N, 2); moved: (B, N, 2), in any unit; hidden: (B, N, H); alive: (B, N, 1).

        Returns (B, N, heads * 2), mean motions around, and (B, N, heads * told), what was said. Empty places
        say nothing.
        """
        b, n, _ = position.shape
        far = distance(*differences(position)).unsqueeze(1) * F.softplus(self.slope)
        loud = self.weight(hidden) - FAR * (1 - alive)
        share = torch.softmax(loud.transpose(1, 2).unsqueeze(2) - far, -1)
        said = torch.cat([moved, self.told(hidden)], -1).unsqueeze(1)
        heard = share @ said
        motion = heard[..., :2].transpose(1, 2).reshape(b, n, -1)
        return motion, heard[..., 2:].transpose(1, 2).reshape(b, n, -1)


class Memory(nn.Module):
    """A gated recurrent unit: (..., inputs) and (..., hidden) -> (..., hidden).

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + hidden, 2 * hidden)
        self.fresh = nn.Linear(inputs + hidden, hidden)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """The memory after ``x``."""
        keep, reset = torch.sigmoid(self.gates(torch.cat([x, hidden], -1))).chunk(2, -1)
        fresh = torch.tanh(self.fresh(torch.cat([x, reset * hidden], -1)))
        return keep * hidden + (1 - keep) * fresh


class PvTrack(nn.Module):
    """The whole network, for ``particles`` particles in frames of size x size.

    widths, blocks: of the encoder. dims: features of the coarse and the fine map. hidden: of a particle's
    memory. No weight depends on ``size`` or ``particles``.
    """

    warmup = 1
    home: Tensor
    cells: Tensor
    steps: Tensor
    places: Tensor
    narrow: Tensor
    spread: Tensor

    def __init__(
        self,
        *,
        size: int,
        particles: int,
        widths: tuple[int, int],
        dims: tuple[int, int],
        blocks: int,
        hidden: int,
        heads: int = 2,
        told: int = 8,
    ) -> None:
        super().__init__()
        self.size, self.particles, self.dims, self.memory = size, particles, dims, hidden
        self.side, self.fine_side = size // COARSE, size // FINE
        self.register_buffer("home", lattice(particles).unsqueeze(0), persistent=False)
        self.register_buffer("cells", torch.arange(self.fine_side).float(), persistent=False)
        self.register_buffer("steps", torch.arange(-REACH, REACH + 1).float(), persistent=False)
        narrow = torch.tensor(SIGMAS).reshape(1, -1, 1, 1)
        self.register_buffer("narrow", 0.5 / (narrow * narrow), persistent=False)
        self.register_buffer("spread", 0.5 / (narrow * narrow).clamp(max=36.0), persistent=False)
        self.register_buffer("places", _places(self.side), persistent=False)
        self.encoder = Encoder(widths, dims, blocks=blocks)
        self.neighbours = Neighbours(hidden, heads=heads, told=told)
        known = _INPUTS + heads * (2 + told)
        self.update = Memory(known, hidden)
        self.choose = nn.Linear(hidden, len(SIGMAS) + 2 + heads)
        self.free = nn.Linear(hidden, 2)
        self.judge = nn.Sequential(nn.Linear(known + hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        self.log_heat = nn.Parameter(torch.full((1, len(SIGMAS), 1, 1), math.log(15.0)))
        self.log_damp = nn.Parameter(torch.tensor(math.log(0.03)))
        self.anchor = nn.Parameter(torch.zeros(2))
        nn.init.zeros_(self.free.weight)

    @property
    def look(self) -> int:
        """Numbers that describe what one particle looks like."""
        return self.dims[0] + (2 * REACH + 1) ** 2 * self.dims[1]

    def init_state(self) -> dict[str, Tensor]:
        """Zero states: every particle unused, so the first step bears all of them on the lattice."""
        at, n = self.home, self.particles
        sizes = (2, 2, self.look, self.look, self.memory, 1)
        return {name: at.new_zeros(1, n, size) for name, size in zip(Motion._fields, sizes, strict=True)}

    def step(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One new frame (1, 3, size, size) and the states of ``init_state``.

        Returns (tracks (1, N, 3) of x, y in image heights and visibility, *new states). life at the start: 0
        born now on the lattice, 2 born now at ``position``, 1 goes on, -1 empty: neither moves nor is seen.
        """
        motion, path, seen, _ = self.advance(self.maps(frame), Motion(*states))
        alive = (motion.life + 1) * 0.5
        return torch.cat([path[-1], torch.sigmoid(seen) * alive], -1), *motion

    def forward(self, clip: Tensor, place: Tensor, birth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All frames of B clips: (B, T, 3, size, size), for training.

        place: (B, N, 2), where each particle is born, in image heights; birth: (B, N), in which frame, -1 for
        a place that stays empty. Returns the positions after every round (B, T, ROUNDS, N, 2), the logits of
        being seen (B, T, N), and the logits of where the point is over the cells (B, T, N, M).
        """
        b, t = clip.shape[:2]
        coarse, fine = self.maps(clip.flatten(0, 1))
        coarse, fine = (x.reshape(b, t, *x.shape[1:]) for x in (coarse, fine))
        sizes = (2, 2, self.look, self.look, self.memory, 1)
        motion = Motion(*(place.new_zeros(b, place.shape[1], size) for size in sizes))
        paths, seen, scores = [], [], []
        for now in range(t):
            motion = begun(motion, place, birth, now)
            motion, path, logit, score = self.advance(Maps(coarse[:, now], fine[:, now]), motion)
            motion = motion._replace(position=motion.position.detach())
            paths.append(torch.stack(path, 1))
            seen.append(logit.squeeze(-1))
            scores.append(score)
        return torch.stack(paths, 1), torch.stack(seen, 1), torch.stack(scores, 1)

    def maps(self, frames: Tensor) -> Maps:
        """The features of frames (B, 3, size, size)."""
        coarse, fine = self.encoder(frames)
        rows = fine.permute(0, 2, 3, 1).reshape(-1, self.fine_side, self.fine_side * self.dims[1])
        return Maps(coarse.flatten(2), rows)

    def advance(self, maps: Maps, motion: Motion) -> tuple[Motion, list[Tensor], Tensor, Tensor]:
        """All particles one frame on.

        Returns (what they carry on, positions after every round (B, N, 2), logits of being seen (B, N, 1),
        logits of where the point is over the cells (B, N, M)).
        """
        life = motion.life
        alive = (life + 1).clamp(0, 1)
        unused, written = torch.relu(1 - life.abs()), torch.relu(1 - (life - 2).abs())
        going = alive - unused - written
        before = motion.position * (1 - unused) + self.home * unused
        look = self.seen_at(maps, before)
        template = look + (motion.template - look) * going
        recent = look + (motion.recent - look) * going
        hidden, velocity = motion.hidden * going, motion.velocity * going
        wanted = self.wanted(template, recent)
        score = wanted.coarse @ maps.coarse
        position = before + velocity
        path = []
        for _ in range(ROUNDS):
            at = Course(position, before, velocity)
            clues, moves = self.clues(maps, score, wanted, at, hidden, alive)
            clues = torch.cat([clues, going], -1)
            hidden = self.update(clues, hidden) * alive
            position = position + self.chosen(hidden, moves) * going
            path.append(position)
        judged = self.judge(torch.cat([clues, hidden], -1))
        seen, pace, rate = judged[..., 0:1], judged[..., 1:2], judged[..., 2:3]
        change = (_cut(position) - before) - velocity
        velocity = ((velocity + torch.sigmoid(pace) * change) * going).clamp(-LIMIT, LIMIT)
        learned = 0.2 * torch.sigmoid(rate - 2) * torch.sigmoid(seen) * going
        recent = recent + learned * (self.seen_at(maps, _cut(position)) - recent)
        alive_now = alive * 2 - 1
        score = score * torch.exp(self.log_heat[0, -1])
        return Motion(position, velocity, template, recent, hidden, alive_now), path, seen, score

    def wanted(self, template: Tensor, recent: Tensor) -> Wanted:
        """What to look for: a learned mixture of the look at birth and the recent one, for each map."""
        c, edge = self.dims[0], 2 * REACH + 1
        share = torch.sigmoid(self.anchor)
        coarse = recent[..., :c] + (template[..., :c] - recent[..., :c]) * share[0]
        fine = recent[..., c:] + (template[..., c:] - recent[..., c:]) * share[1]
        fine = fine.reshape(-1, edge, edge, self.dims[1])
        across = (fine[:, 1:-1, 2:] - fine[:, 1:-1, :-2]).reshape(fine.shape[0], 1, -1)
        down = (fine[:, 2:, 1:-1] - fine[:, :-2, 1:-1]).reshape(fine.shape[0], 1, -1)
        inner = fine[:, 1:-1, 1:-1].reshape(fine.shape[0], 1, -1)
        return Wanted(coarse, inner, 0.5 * torch.cat([across, down], 1))

    def seen_at(self, maps: Maps, position: Tensor) -> Tensor:
        """What is at positions (B, N, 2): (B, N, look), a coarse feature and a fine patch of 5 x 5 cells."""
        b, n, _ = position.shape
        at = position * self.side - 0.5
        across, down = (tents(at[..., i], self.cells[: self.side]) for i in (0, 1))
        weights = (down.unsqueeze(-1) * across.unsqueeze(2)).reshape(b, n, -1)
        patch = self.patch(maps, position, self.steps)
        return torch.cat([weights @ maps.coarse.transpose(1, 2), patch.reshape(b, n, -1)], -1)

    def patch(self, maps: Maps, position: Tensor, steps: Tensor) -> Tensor:
        """The fine map at positions plus steps (S,) of cells along both axes: (B * N, S, S, c)."""
        b, n, _ = position.shape
        s, c, side = steps.shape[0], self.dims[1], self.fine_side
        at = position.unsqueeze(-1) * side - 0.5 + steps
        across, down = (tents(at[:, :, i], self.cells) for i in (0, 1))
        rows = down.reshape(b, n * s, side) @ maps.fine
        return across.reshape(b * n, 1, s, side) @ rows.reshape(b * n, s, side, c)

    def clues(
        self, maps: Maps, score: Tensor, wanted: Wanted, at: Course, hidden: Tensor, alive: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What speaks for which move: clues (B, N, inputs); candidates (B, N, moves * 2), in cells."""
        here = _cut(at.position)
        peaks, windows = self.peaks(score, here)
        step, fit = self.lucas_kanade(maps, wanted, here)
        moved = (here - at.before) * self.side
        around, said = self.neighbours(here, moved, hidden, alive)
        follow = around - torch.cat([moved] * self.neighbours.heads, -1)
        pace = torch.cat([moved, at.velocity * self.side], -1) * 0.3
        near, beside = torch.tanh(peaks * 0.25), torch.tanh(follow * 0.5)
        border = torch.tanh(torch.minimum(here, 1 - here) * (0.5 * self.side))
        clues = torch.cat([near, windows, step, fit, pace, border, beside, said], -1)
        return clues, torch.cat([torch.zeros_like(step), peaks, step, follow], -1)

    def peaks(self, score: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """Soft peaks of the correlation in windows around positions (B, N, 2).

        Returns (moves to them (B, N, 8), and of each window the mean score and the spread (B, N, 8)).
        """
        b, n, m = score.shape
        at = here * self.side - 0.5
        dx, dy = (self.cells[: self.side] - at[..., i : i + 1] for i in (0, 1))
        square = ((dy * dy).unsqueeze(-1) + (dx * dx).unsqueeze(2)).reshape(b, 1, n, m)
        score = score.unsqueeze(1)
        share = torch.softmax(score * torch.exp(self.log_heat) - square * self.narrow, -1)
        means = share @ self.places
        centre = means[..., :2]
        spread = torch.relu(means[..., 2:] - (centre * centre).sum(-1, keepdim=True)) * self.spread
        windows = torch.cat([(share * score).sum(-1, keepdim=True), spread], -1)
        moves = centre - (at - (self.side - 1) / 2).unsqueeze(1)
        return moves.transpose(1, 2).reshape(b, n, -1), windows.transpose(1, 2).reshape(b, n, -1)

    def lucas_kanade(self, maps: Maps, wanted: Wanted, here: Tensor) -> tuple[Tensor, Tensor]:
        """One step towards the wanted patch from positions (B, N, 2).

        The step that best explains the difference by the patch's slopes, damped, at most two cells long.
        Returns (step (B, N, 2) in coarse cells; difference left and strength of the slopes (B, N, 2)).
        """
        b, n, _ = here.shape
        seen = self.patch(maps, here, self.steps[1:-1]).reshape(b * n, 1, -1)
        miss = wanted.inner - seen
        products = torch.cat([wanted.slopes, miss], 1) @ torch.cat([wanted.slopes, miss], 1).transpose(1, 2)
        products = products.reshape(b, n, 9)
        damp = torch.exp(self.log_damp)
        xx, xy, mx = products[..., 0:1] + damp, products[..., 1:2], products[..., 2:3]
        yy, my, mm = products[..., 4:5] + damp, products[..., 5:6], products[..., 8:9]
        step = torch.cat([yy * mx - xy * my, xx * my - xy * mx], -1) / (xx * yy - xy * xy)
        step = step / torch.sqrt(1 + (step * step).sum(-1, keepdim=True) * 0.25)
        return step * (FINE / COARSE), torch.cat([mm, xx + yy], -1)

    def chosen(self, hidden: Tensor, moves: Tensor) -> Tensor:
        """The move (B, N, 2) in image heights: a weighted mean of the candidates, and a little of its own."""
        b, n, _ = hidden.shape
        share = torch.softmax(self.choose(hidden), -1).unsqueeze(2)
        mean = (share @ moves.reshape(b, n, -1, 2)).squeeze(2)
        return (mean + torch.tanh(self.free(hidden))) * (1 / self.side)


_INPUTS = 4 * len(SIGMAS) + 4 + 4 + 2 + 1
"""Clues besides the neighbours': windows, step and fit, pace, distance of the border, whether going."""


def _places(side: int) -> Tensor:
    """(M, 3): x, y and x^2 + y^2 of every cell, in cells from the middle of the map."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    at = torch.stack([x, y], -1).reshape(-1, 2).float() - (side - 1) / 2
    return torch.cat([at, (at * at).sum(-1, keepdim=True)], -1)


def _cut(x: Tensor) -> Tensor:
    """``x``; in training, without its gradient: where a map is read is given, what is read is learned."""
    return x.detach() if x.requires_grad else x


def begun(motion: Motion, place: Tensor, birth: Tensor, now: int) -> Motion:
    """``motion`` with the writes of a host before frame ``now``: those born then have life 2 at their place.

    place: (B, N, 2). birth: (B, N), a frame or -1.
    """
    new = (birth == now).unsqueeze(-1).to(place)
    old = ((birth >= 0) & (birth < now)).unsqueeze(-1).to(place)
    position = motion.position * (1 - new) + place * new
    return motion._replace(position=position, life=2 * new + old - (1 - new - old))


def nano(*, size: int = 128, particles: int = 32) -> PvTrack:
    """pv-track nano: trained on frames of 128 x 128."""
    return PvTrack(size=size, particles=particles, widths=(16, 32), dims=(32, 8), blocks=1, hidden=32)


def small(*, size: int = 192, particles: int = 64) -> PvTrack:
    """pv-track small: for frames of 192 x 192."""
    return PvTrack(size=size, particles=particles, widths=(32, 64), dims=(48, 12), blocks=2, hidden=64)
