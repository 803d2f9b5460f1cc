"""Where a compressed model loses: the same comparison on parts of the clips, by label, camera, condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from edgepv.base.tasks import task_of
from edgepv.data.conditions import LEAST
from edgepv.metrics.tasks import task_drop
from edgepv.types import Estimate, ModelSpec, PairedDrop, Slice

MOST_PARTS = 8
"""Parts of one kind that are told, those with the most clips: nobody reads of a hundred cameras."""
Kind: TypeAlias = Literal["label", "camera", "light", "motion"]
Parts: TypeAlias = Mapping[Kind, Sequence[str]]
"""Kind -> the name of the part that each clip belongs to."""


def slices(
    spec: ModelSpec,
    before: np.ndarray,
    after: np.ndarray,
    parts: Parts,
    groups: Sequence[str] | None,
    change: float | None = None,
) -> tuple[Slice, ...]:
    """What ``after`` loses against ``before`` on each part of the clips, the one that loses most first.

    before, after: (n,) from ``metrics.tasks.figures`` on the same clips. groups, change: as in ``task_drop``.
    Parts of fewer than ``LEAST`` clips have no loss, and stand together as one. The intervals are of one part
    each: of twenty, one misses its true loss by chance, and what loses most is the likeliest to be it.
    """
    found = []
    for kind, names in parts.items():
        which = np.asarray(names)
        members = {name: np.flatnonzero(which == name) for name in dict.fromkeys(names)}
        enough = {name: rows for name, rows in members.items() if len(rows) >= LEAST}
        largest = sorted(enough, key=lambda name: -len(enough[name]))[:MOST_PARTS]
        found += [_slice(spec, kind, name, enough[name], before, after, groups, change) for name in largest]
        rest = [rows for name, rows in members.items() if name not in largest]
        if rest:
            few = f"{len(rest)} other" if largest else f"{len(rest)}"
            name = f"{few} {kind}{'s' if len(rest) > 1 else ''}"
            found.append(_too_few(spec, kind, name, np.concatenate(rest), before, after))
    return tuple(sorted(found, key=lambda one: -one.lost.value if one.lost else float("inf")))


def _slice(
    spec: ModelSpec,
    kind: Kind,
    name: str,
    rows: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    groups: Sequence[str] | None,
    change: float | None,
) -> Slice:
    beside = [groups[i] for i in rows] if groups is not None else None
    drop = task_drop(spec, before[rows], after[rows], 0.0, beside, change)
    told = _too_few(spec, kind, name, rows, before, after)
    return Slice(kind, name, told.n, told.before, told.after, estimate(drop))


def _too_few(
    spec: ModelSpec, kind: Kind, name: str, rows: np.ndarray, before: np.ndarray, after: np.ndarray
) -> Slice:
    """The figures alone."""
    classes = task_of(spec).classifies
    was, is_now = (float(np.mean(v[rows] > 0 if classes else v[rows])) for v in (before, after))
    return Slice(kind, name, len(rows), was, is_now)


def estimate(drop: PairedDrop) -> Estimate:
    """A loss with its interval; of one group of clips there is none."""
    return Estimate(drop.points) if drop.groups == 1 else Estimate(drop.points, drop.low, drop.high)
