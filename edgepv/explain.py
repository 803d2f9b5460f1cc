"""What a bundle's answer to a clip rests on: which places of the picture, and which particles.

Contribution is what the label's score loses when a part is taken away for the whole clip. A place is a cell
of a grid, painted over in every frame with the mean colour of the cells around it. A particle is one that the
model follows; it is killed. The score is the label's logit above the mean of all logits, which is what
softmax sees of it, averaged over the valid frames.

Whether the ranking means anything is measured by deletion (Petsiuk et al. 2018, "RISE: Randomized Input
Sampling for Explanation of Black-box Models"): parts go one after another, the largest contribution first,
and the area under the label's probability is held against that of random orders. Lower is better.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.console import Console
from edgepv.base.files import refuse_out, whole_file, write_json
from edgepv.base.optional import need
from edgepv.bundle.archive import opened
from edgepv.bundle.manifest import check
from edgepv.bundle.proof import proven
from edgepv.data.frames import preprocess, within
from edgepv.data.video import open_video, taken
from edgepv.errors import UsageError, unknown
from edgepv.metrics.stats import mean_interval
from edgepv.runtimes.engine import on_this_host, open_engine
from edgepv.runtimes.lane import softmax
from edgepv.runtimes.player import Player, score
from edgepv.types import ModelSpec

ORDERS = 8
"""Random orders that a deletion is held against."""
STAGES = 16
"""Points of a deletion curve, at most."""
LONGEST = 120
"""Frames of a clip that are explained; the rest is left out."""
PARTICLES = "particles"
PICTURES = 5
PICTURE_SIDE = 320
"""Longer side of a frame under its heat-map, px, at most."""


@dataclass(frozen=True)
class Deletion:
    """Area under the label's probability while parts are deleted: 0 best, 1 worst.

    random, low, high: mean of random orders and its 95 % interval (Student's t). shares: of parts deleted.
    curve, random_curve: the probability at each share, in order of contribution and in the mean of the
    random orders.
    """

    auc: float
    random: float
    low: float
    high: float
    shares: tuple[float, ...]
    curve: tuple[float, ...]
    random_curve: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """Whether the ranking found parts that matter more than parts drawn by lot."""
        return "better than random" if self.auc < self.low - 1e-9 else "no better than random"


@dataclass(frozen=True)
class Explanation:
    """One clip, one label.

    answer: the label the model gives; chance: the probability of ``label``. cells: what the score loses
    without each cell, row by row from the top left, in logits. particles: the same without each particle;
    None for a model that follows none. frames: how many were shown.
    """

    source: str
    variant: str
    label: str
    answer: str
    chance: float
    frames: int
    cells: tuple[tuple[float, ...], ...]
    cell_deletion: Deletion
    particles: tuple[float, ...] | None = None
    particle_deletion: Deletion | None = None


class Cover:
    """Paints cells of a grid over, in all frames of a clip (T, C, h, w), as if nothing stood there."""

    def __init__(self, frames: np.ndarray, grid: int) -> None:
        height, width = frames.shape[-2:]
        if not 2 <= grid <= min(height, width):
            raise UsageError(f"--grid {grid}: give 2 to {min(height, width)} cells along a side of the frame")
        self.frames, self.grid = frames, grid
        self._rows = np.linspace(0, height, grid + 1).round().astype(int)
        self._columns = np.linspace(0, width, grid + 1).round().astype(int)
        self._colours = [self._around(cell) for cell in range(grid * grid)]

    def _box(self, cell: int, margin: int = 0) -> tuple[slice, slice]:
        """Rows and columns of a cell, with ``margin`` cells more to each side."""
        y, x = divmod(cell, self.grid)
        top, left = max(0, y - margin), max(0, x - margin)
        bottom, right = min(self.grid, y + margin + 1), min(self.grid, x + margin + 1)
        return (
            slice(self._rows[top], self._rows[bottom]),
            slice(self._columns[left], self._columns[right]),
        )

    def _around(self, cell: int) -> np.ndarray:
        """(T, C, 1, 1) mean colour of the eight cells around a cell, in each frame."""
        outer, inner = self._box(cell, 1), self._box(cell)
        whole, mine = self.frames[:, :, *outer], self.frames[:, :, *inner]
        pixels = whole[0, 0].size - mine[0, 0].size
        total = whole.sum((2, 3), dtype=np.float64) - mine.sum((2, 3), dtype=np.float64)
        return (total / pixels)[:, :, None, None].astype(np.float32)

    def __call__(self, cells: Iterable[int]) -> np.ndarray:
        """The clip without these cells, counted row by row from the top left."""
        frames = self.frames.copy()
        for cell in cells:
            frames[:, :, *self._box(cell)] = self._colours[cell]
        return frames


def chance(logits: np.ndarray, label: int) -> float:
    """The label's probability."""
    return float(softmax(logits)[label])


Without = Callable[[Sequence[int]], np.ndarray]
"""Logits of the clip without the parts named by number."""


def contributions(
    without: Without, count: int, label: int, show: Callable[[range], Iterable[int]]
) -> np.ndarray:
    """(count,) what the label's score loses without each part alone."""
    whole = score(without([]), label)
    return np.array([whole - score(without([part]), label) for part in show(range(count))])


def deletion(
    without: Without,
    worth: np.ndarray,
    label: int,
    *,
    seed: int = 0,
    orders: int = ORDERS,
    show: Callable[[range], Iterable[int]] = iter,
) -> Deletion:
    """Delete parts in order of ``worth``, the largest first, and in ``orders`` random orders."""
    count = len(worth)
    rng = np.random.default_rng(seed)
    steps = np.unique(np.linspace(0, count, min(count, STAGES) + 1).round().astype(int))
    shares = steps / count
    ends = {0: chance(without([]), label), count: chance(without(range(count)), label)}

    def curve(order: np.ndarray) -> list[float]:
        return [
            ends[n] if n in ends else chance(without([int(i) for i in order[:n]]), label)
            for n in steps.tolist()
        ]

    ranked = curve(np.argsort(-worth, kind="stable"))
    drawn = np.array([curve(rng.permutation(count)) for _ in show(range(orders))])
    areas = np.trapezoid(drawn, shares, axis=1)
    low, high = mean_interval(areas)
    return Deletion(
        auc=float(np.trapezoid(ranked, shares)),
        random=float(areas.mean()),
        low=low,
        high=high,
        shares=tuple(shares.tolist()),
        curve=tuple(ranked),
        random_curve=tuple(drawn.mean(0).tolist()),
    )


def explain(
    player: Player,
    frames: np.ndarray,
    console: Console,
    *,
    label: str | None,
    grid: int = 8,
    source: str = "",
) -> Explanation:
    """Explain one label (None: the model's own answer) of a clip (T, C, h, w)."""
    spec = player.variant.spec
    if spec.task != "classification":
        raise UsageError(f"{spec.name} is for {spec.task} and gives no label that could be explained")
    if label is not None and label not in spec.labels:
        raise UsageError(unknown("label", label, spec.labels))
    cover = Cover(frames, grid)
    whole = player.logits(frames)
    at = spec.labels.index(label) if label is not None else int(whole.argmax())

    def without_cells(cells: Sequence[int]) -> np.ndarray:
        return player.logits(cover(cells))

    def without_particles(dead: Sequence[int]) -> np.ndarray:
        return player.logits(frames, dead)

    cells, cell_deletion = _judged(without_cells, grid * grid, at, console, "cells")
    made = Explanation(
        source=source,
        variant=player.variant.name,
        label=spec.labels[at],
        answer=spec.labels[int(whole.argmax())],
        chance=chance(whole, at),
        frames=len(frames),
        cells=tuple(tuple(row) for row in cells.reshape(grid, grid).tolist()),
        cell_deletion=cell_deletion,
    )
    if not player.particles:
        return made
    worth, particle_deletion = _judged(without_particles, player.particles, at, console, "particles")
    return replace(made, particles=tuple(worth.tolist()), particle_deletion=particle_deletion)


def _judged(
    without: Without, count: int, label: int, console: Console, what: str
) -> tuple[np.ndarray, Deletion]:
    worth = contributions(without, count, label, lambda n: console.track(n, f"without single {what}"))
    return worth, deletion(
        without, worth, label, show=lambda n: console.track(n, f"deleting {what} in random orders")
    )


def explain_clip(
    folder: Path,
    source: Path,
    out: Path,
    console: Console,
    *,
    label: str | None = None,
    grid: int = 8,
    variant: str | None = None,
) -> Explanation:
    """Explain a bundle's answer to a video; writes the picture ``out`` and the same as JSON beside it.

    Raises UsageError for a bundle whose model gives no label, and for a label it does not have.
    """
    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"--out {out}: give a name that ends in .png or .svg")
    _refuse_foreign(out)
    with opened(folder) as bundle:
        chosen = on_this_host(bundle.variant(variant))
        if chosen.spec.task != "classification":
            raise UsageError(
                f"{folder} holds a model for {chosen.spec.task}; it gives no label that could be explained. "
                "Give the bundle of a classifier"
            )
        check(bundle)
        fit = proven(bundle, (chosen,), fixed=variant is not None)
        for note in fit.notes:
            console.say(note)
        chosen = on_this_host(fit.variants[0])
        frames, pictures = first_frames(source, chosen.spec)
        if len(pictures) == LONGEST:
            console.say(f"{source}: the first {LONGEST} frames are explained")
        engine = open_engine(chosen, bundle.checked)
        try:
            player = Player(engine, chosen)
            made = explain(player, frames, console, label=label, grid=grid, source=source.name)
            places = followed(player, frames)
        finally:
            engine.close()
    picture(made, pictures, places, out)
    write_json(out.with_suffix(".json"), made)
    return made


def _refuse_foreign(out: Path) -> None:
    """Raise UsageError if ``out`` cannot be written, or the JSON beside it is no earlier explanation."""
    refuse_out(out)
    beside = out.with_suffix(".json")
    if out.is_dir() or beside.is_dir():
        raise UsageError(f"--out {out}: there is a folder of the name it or its JSON would get")
    if beside.is_file() and b'"cell_deletion"' not in beside.read_bytes():
        raise UsageError(f"{beside} is no earlier explanation and would be replaced. Give another --out")


def first_frames(path: Path, spec: ModelSpec) -> tuple[np.ndarray, list[np.ndarray]]:
    """Up to ``LONGEST`` frames of a video at the model's rate, (T, C, h, w) float32 as it sees them and as
    small pictures (H, W, 3) uint8 BGR; more are not decoded."""
    seen, pictures = [], []
    with open_video(path) as video:
        for frame in itertools.islice(taken(video, spec.fps), LONGEST):
            seen.append(preprocess(frame.pixels, spec))
            pictures.append(within(frame.pixels, PICTURE_SIDE))
    return np.concatenate(seen), pictures


def followed(player: Player, frames: np.ndarray) -> np.ndarray | None:
    """(T, K, 2) where the particles were, in shares of width and height; None if the model does not say."""
    if not player.particles or PARTICLES not in [a.name for a in player.variant.spec.answers]:
        return None
    height, width = frames.shape[-2:]
    places = np.stack([out[PARTICLES][0, :, :2].copy() for out in player.steps(frames)])
    return places * (height / width, 1)


def rows(made: Explanation, most: int = 5) -> list[tuple[str, str, str]]:
    """(kind, part, what the score loses without it), the largest contributions of each kind first."""
    cells = np.array(made.cells)
    order = np.argsort(-cells, axis=None, kind="stable")[:most]
    found = [
        ("cell", "row {}, column {}".format(*np.unravel_index(i, cells.shape)), cells.flat[i]) for i in order
    ]
    if made.particles is not None:
        worth = np.array(made.particles)
        found += [("particle", str(i), worth[i]) for i in np.argsort(-worth, kind="stable")[:most]]
    return [(kind, part, f"{value:+.3f}") for kind, part, value in found]


def verdicts(made: Explanation) -> list[str]:
    """One line per deletion."""
    told = [("cells", made.cell_deletion), ("particles", made.particle_deletion)]
    return [
        f"{what}: deletion AUC {d.auc:.3f}, random {d.random:.3f} ({d.low:.3f} to {d.high:.3f}): {d.verdict}"
        for what, d in told
        if d is not None
    ]


RANKED, DRAWN = "#1f4e79", "#999999"


def picture(made: Explanation, pictures: Sequence[np.ndarray], places: np.ndarray | None, out: Path) -> None:
    """Frames under their heat-map, a bar per particle, and the deletion curves; .png or .svg.

    pictures: (H, W, 3) uint8 BGR. places: what ``followed`` returns.
    """
    need("matplotlib", extra="compress")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.2))
    above, below = halves
    strip = above.subplots(1, PICTURES)
    chosen = np.linspace(0, len(pictures) - 1, PICTURES).round().astype(int)
    limit = max(np.abs(made.cells).max(), 1e-6)
    for axes, i in zip(strip, chosen.tolist()):
        image = _overlaid(axes, made, pictures[i], None if places is None else places[i], limit)
        axes.set_title(f"frame {i}", fontsize=8)
    above.colorbar(image, ax=strip, shrink=0.8).set_label("logits lost without the place", fontsize=8)
    above.suptitle(
        f"{made.source}: {made.label}, probability {made.chance:.2f} (answer: {made.answer})", fontsize=10
    )
    panels = below.subplots(1, 1 if made.particles is None else 3, squeeze=False)[0]
    _curve(panels[0], made.cell_deletion, "cells")
    if made.particles is not None and made.particle_deletion is not None:
        panels[1].bar(range(len(made.particles)), made.particles, color=RANKED)
        panels[1].set_xlabel("particle")
        panels[1].set_ylabel("logits lost without it")
        _curve(panels[2], made.particle_deletion, "particles")
    with whole_file(out) as tmp:
        figure.savefig(tmp, format=out.suffix[1:], dpi=110)


def _overlaid(
    axes: Any, made: Explanation, frame: np.ndarray, places: np.ndarray | None, limit: float
) -> Any:
    """One frame under the heat-map, with its particles as dots; returns the heat-map's image."""
    height, width = frame.shape[:2]
    box = (0, width, height, 0)
    axes.imshow(frame[:, :, ::-1], extent=box)
    cells = np.array(made.cells)
    seen = np.clip(np.abs(cells) / limit, 0, 1) * 0.75
    heat = axes.imshow(cells, extent=box, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=seen)
    if places is not None and made.particles is not None:
        most = max(np.abs(made.particles).max(), 1e-6)
        axes.scatter(
            *(places * (width, height)).T,
            c=made.particles,
            cmap="RdBu_r",
            vmin=-most,
            vmax=most,
            s=14,
            edgecolors="k",
            linewidths=0.4,
        )
        axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return heat


def _curve(axes: Any, found: Deletion, what: str) -> None:
    axes.plot(found.shares, found.curve, color=RANKED, label=f"by contribution, AUC {found.auc:.3f}")
    told = f"random, AUC {found.random:.3f} ({found.low:.3f} to {found.high:.3f})"
    axes.plot(found.shares, found.random_curve, color=DRAWN, linestyle="--", label=told)
    axes.set(
        xlabel=f"share of {what} deleted", ylabel="probability of the label", xlim=(0, 1), ylim=(0, 1.02)
    )
    axes.set_title(f"{what}: {found.verdict}", loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
