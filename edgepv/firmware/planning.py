"""Where each buffer lies in the arena: as long as it is needed, and where it fits first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgepv.firmware.program import Layer
from edgepv.firmware.views import Buffer, aligned

PLANNED = frozenset({"arena", "input"})
TRIED = 12
"""Of the largest buffers, each tried as the first to be placed: by size alone a gap may stay between two."""


@dataclass(frozen=True)
class Life:
    """The first and the last layer that need a buffer; -1: it is filled before the step."""

    buffer: Buffer
    first: int
    last: int

    @property
    def bytes(self) -> int:
        """Its size, so that the next lies aligned."""
        return aligned(self.buffer.bytes)

    def meets(self, other: Life) -> bool:
        """Whether there is a layer that needs both."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """offsets: in bytes, of each buffer. bound: no plan can do with fewer bytes than live at one time."""

    offsets: dict[Buffer, int]
    bytes: int
    bound: int


def plan(layers: Sequence[Layer], kept: Buffer, *, keep: bool) -> Plan:
    """Place every buffer of the arena. kept: the input; keep: it must outlast the step."""
    lives = _lives(layers, kept, keep=keep)
    times = range(-1, len(layers))
    bound = max(sum(life.bytes for life in lives if life.first <= t <= life.last) for t in times)
    order = sorted(lives, key=lambda life: (-life.bytes, life.first))
    best = _first_fit(order)
    for life in order[:TRIED]:
        if best[1] == bound:
            break
        other = [life, *(one for one in order if one is not life)]
        made = _first_fit(other)
        if made[1] < best[1]:
            order, best = other, made
    return Plan(*best, bound)


def _first_fit(order: Sequence[Life]) -> tuple[dict[Buffer, int], int]:
    """(offsets, size of the arena) where each in turn lies as low as those before it allow."""
    offsets: dict[Buffer, int] = {}
    placed: list[Life] = []
    for life in order:
        at = 0
        for other in sorted((p for p in placed if p.meets(life)), key=lambda p: offsets[p.buffer]):
            if at + life.bytes <= offsets[other.buffer]:
                break
            at = max(at, offsets[other.buffer] + other.bytes)
        offsets[life.buffer] = at
        placed.append(life)
    return offsets, max(offsets[life.buffer] + life.bytes for life in order)


def _lives(layers: Sequence[Layer], kept: Buffer, *, keep: bool) -> list[Life]:
    spans = {kept: (-1, len(layers) if keep else -1)}
    for at, layer in enumerate(layers):
        for view in (*layer.inputs, *layer.outputs):
            if view.buffer.kind in PLANNED:
                first, last = spans.get(view.buffer, (at, at))
                spans[view.buffer] = (first, max(last, at))
    return [Life(buffer, first, last) for buffer, (first, last) in spans.items()]
