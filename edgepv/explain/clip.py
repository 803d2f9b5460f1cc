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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgepv.base.console import Console
from edgepv.base.files import refuse_out, write_json
from edgepv.base.tasks import task_of
from edgepv.bundle.archive import opened
from edgepv.bundle.manifest import Bundle, check
from edgepv.bundle.proof import proven
from edgepv.data.frames import preprocess, within
from edgepv.data.video import open_video, taken
from edgepv.errors import UsageError, unknown
from edgepv.explain.deletion import Deletion, Without, chance, contributions, deletion
from edgepv.explain.occlusion import Cover, followed
from edgepv.explain.picture import PICTURE_SIDE, Explanation, picture
from edgepv.runtimes.engine import Engine, on_this_host, open_engine
from edgepv.runtimes.player import LIFE, Player
from edgepv.stream import KeepsStates
from edgepv.types import ModelSpec, Variant

LONGEST = 120
"""Frames of a clip that are explained; the rest is left out."""


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
    if not task_of(spec).classifies:
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
    explanation = Explanation(
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
        return explanation
    worth, particle_deletion = _judged(without_particles, player.particles, at, console, "particles")
    return replace(explanation, particles=tuple(worth.tolist()), particle_deletion=particle_deletion)


def _judged(
    without: Without, count: int, label: int, console: Console, what: str
) -> tuple[np.ndarray, Deletion]:
    worth = contributions(without, count, label, lambda n: console.track(n, f"without single {what}"))
    return worth, deletion(
        without, worth, label, show=lambda n: console.track(n, f"deleting {what} in random orders")
    )


def _opened(bundle: Bundle, chosen: Variant) -> tuple[Engine, Variant]:
    """The engine of a variant; of another one of the same file where the engine keeps the particles itself.

    Particles are killed in states that the host hands over. Raises UsageError if there is no such variant.
    """
    engine = open_engine(chosen, bundle.checked)
    states = chosen.stream.states if chosen.stream else ()
    if not isinstance(engine.infer, KeepsStates) or LIFE not in [state.name for state in states]:
        return engine, chosen
    engine.close()
    for other in bundle.content.variants:
        if other.path == chosen.path and other.engine != chosen.engine:
            return open_engine(other, bundle.checked), other
    raise UsageError(
        f"{chosen.name} keeps its particles itself, and {bundle.folder} has no other variant of "
        f"{chosen.path} to kill them in. Name one that ONNX Runtime or OpenVINO runs: --variant"
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
    hide: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Explanation:
    """Explain a bundle's answer to a video; writes the picture ``out`` and the same as JSON beside it.

    hide: makes of each frame, (H, W, 3) uint8 BGR, in order, the one that may be drawn; the model sees all.
    Raises UsageError for a bundle whose model gives no label, and for a label it does not have.
    """
    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"--out {out}: give a name that ends in .png or .svg")
    _refuse_foreign(out)
    with opened(folder) as bundle:
        chosen = on_this_host(bundle.variant(variant))
        if not task_of(chosen.spec).classifies:
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
        engine, chosen = _opened(bundle, chosen)
        try:
            player = Player(engine, chosen)
            explanation = explain(player, frames, console, label=label, grid=grid, source=source.name)
            places = followed(player, frames)
        finally:
            engine.close()
    picture(explanation, [hide(one) for one in pictures] if hide else pictures, places, out)
    write_json(out.with_suffix(".json"), explanation)
    return explanation


def _refuse_foreign(out: Path) -> None:
    """Raise UsageError if ``out`` cannot be written, or the JSON beside it is no earlier explanation."""
    refuse_out(out)
    beside = out.with_suffix(".json")
    if out.is_dir() or beside.is_dir():
        raise UsageError(f"--out {out}: there is a folder of the name it or its JSON would get")
    if beside.is_file() and b'"cell_deletion"' not in beside.read_bytes():
        raise UsageError(f"{beside} is no earlier explanation and would be replaced. Give another --out")


def first_frames(path: Path, spec: ModelSpec) -> tuple[np.ndarray, list[np.ndarray]]:
    """Up to ``LONGEST`` frames of a video at the model's rate, in two forms; more are not decoded.

    Returns (T, C, h, w) float32 as the model sees them, and small pictures (H, W, 3) uint8 BGR.
    """
    seen, pictures = [], []
    with open_video(path) as video:
        for frame in itertools.islice(taken(video, spec.fps), LONGEST):
            seen.append(preprocess(frame.pixels, spec))
            pictures.append(within(frame.pixels, PICTURE_SIDE))
    return np.concatenate(seen), pictures


def rows(explanation: Explanation, most: int = 5) -> list[tuple[str, str, str]]:
    """(kind, part, what the score loses without it), the largest contributions of each kind first."""
    cells = np.array(explanation.cells)
    order = np.argsort(-cells, axis=None, kind="stable")[:most]
    parts = [
        ("cell", "row {}, column {}".format(*np.unravel_index(i, cells.shape)), cells.flat[i]) for i in order
    ]
    if explanation.particles is not None:
        worth = np.array(explanation.particles)
        parts += [("particle", str(i), worth[i]) for i in np.argsort(-worth, kind="stable")[:most]]
    return [(kind, part, f"{value:+.3f}") for kind, part, value in parts]


def verdicts(explanation: Explanation) -> list[str]:
    """One line per deletion."""
    told = [("cells", explanation.cell_deletion), ("particles", explanation.particle_deletion)]
    return [
        f"{what}: deletion AUC {d.auc:.3f}, random {d.random:.3f} ({d.low:.3f} to {d.high:.3f}): {d.verdict}"
        for what, d in told
        if d is not None
    ]
