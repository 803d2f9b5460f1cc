"""An explanation drawn: the frame, what the answer rests on, and the curve of deletion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.explain.deletion import Deletion

PICTURES = 5  # frames in the strip, from the first to the last
PICTURE_SIDE = 320
"""Longer side of a frame under its heat-map, px, at most."""


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


RANKED, DRAWN = "#1f4e79", "#999999"


def picture(
    explanation: Explanation, pictures: Sequence[np.ndarray], places: np.ndarray | None, out: Path
) -> None:
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
    limit = max(np.abs(explanation.cells).max(), 1e-6)
    for axes, i in zip(strip, chosen.tolist()):
        image = _overlaid(axes, explanation, pictures[i], None if places is None else places[i], limit)
        axes.set_title(f"frame {i}", fontsize=8)
    above.colorbar(image, ax=strip, shrink=0.8).set_label("logits lost without the place", fontsize=8)
    above.suptitle(
        f"{explanation.source}: {explanation.label}, probability {explanation.chance:.2f} "
        f"(answer: {explanation.answer})",
        fontsize=10,
    )
    panels = below.subplots(1, 1 if explanation.particles is None else 3, squeeze=False)[0]
    _curve(panels[0], explanation.cell_deletion, "cells")
    if explanation.particles is not None and explanation.particle_deletion is not None:
        panels[1].bar(range(len(explanation.particles)), explanation.particles, color=RANKED)
        panels[1].set_xlabel("particle")
        panels[1].set_ylabel("logits lost without it")
        _curve(panels[2], explanation.particle_deletion, "particles")
    with whole_file(out) as tmp:
        figure.savefig(tmp, format=out.suffix[1:], dpi=110)


def _overlaid(
    axes: Any, explanation: Explanation, frame: np.ndarray, places: np.ndarray | None, limit: float
) -> Any:
    """One frame under the heat-map, with its particles as dots; returns the heat-map's image."""
    height, width = frame.shape[:2]
    box = (0, width, height, 0)
    axes.imshow(frame[:, :, ::-1], extent=box)
    cells = np.array(explanation.cells)
    seen = np.clip(np.abs(cells) / limit, 0, 1) * 0.75
    heat = axes.imshow(cells, extent=box, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=seen)
    if places is not None and explanation.particles is not None:
        most = max(np.abs(explanation.particles).max(), 1e-6)
        axes.scatter(
            *(places * (width, height)).T,
            c=explanation.particles,
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


def _curve(axes: Any, deletion: Deletion, what: str) -> None:
    axes.plot(deletion.shares, deletion.curve, color=RANKED, label=f"by contribution, AUC {deletion.auc:.3f}")
    told = f"random, AUC {deletion.random:.3f} ({deletion.low:.3f} to {deletion.high:.3f})"
    axes.plot(deletion.shares, deletion.random_curve, color=DRAWN, linestyle="--", label=told)
    axes.set(
        xlabel=f"share of {what} deleted", ylabel="probability of the label", xlim=(0, 1), ylim=(0, 1.02)
    )
    axes.set_title(f"{what}: {deletion.verdict}", loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
