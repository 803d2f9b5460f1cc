"""A tensor that a model writes piece by piece, and the box of it that one write covers."""

from __future__ import annotations

from dataclasses import dataclass

from edgepv.stream.values import TimedTensor

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Canvas:
    """A constant ``fill`` with values written over it, later ones on top.

    parent: the canvas this is a slice of, the dimension and where the slice begins; the first ``old``
    writes are the parent's.
    """

    dims: tuple[int, ...]
    fill: float
    writes: tuple[tuple[Box, TimedTensor], ...]
    parent: tuple[Canvas, int, int] | None = None
    old: int = 0
