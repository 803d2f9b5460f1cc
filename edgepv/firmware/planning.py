"""Where each buffer lies in the arena: as long as it is needed, and where it fits first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgepv.firmware.program import ALIGN_FLOATS, Layer
from edgepv.firmware.views import Buffer

PLANNED = frozenset({"arena", "input"})


@dataclass(frozen=True)
class Life:
    """The first and the last layer that need a buffer; -1: it is filled before the step."""

    buffer: Buffer
    first: int
    last: int

    @property
    def floats(self) -> int:
        """Its size, so that the next lies aligned."""
        return -(-self.buffer.floats // ALIGN_FLOATS) * ALIGN_FLOATS

    def meets(self, other: Life) -> bool:
        """Whether there is a layer that needs both."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """offsets: in floats, of each buffer. bound: no plan can do with fewer floats than live at one time."""

    offsets: dict[Buffer, int]
    floats: int
    bound: int


def plan(layers: Sequence[Layer], kept: Buffer, *, keep: bool) -> Plan:
    """Place every buffer of the arena. kept: the input; keep: it must outlast the step."""
    lives = _lives(layers, kept, keep=keep)
    offsets: dict[Buffer, int] = {}
    placed: list[Life] = []
    for life in sorted(lives, key=lambda life: (-life.floats, life.first)):
        at = 0
        for other in sorted((p for p in placed if p.meets(life)), key=lambda p: offsets[p.buffer]):
            if at + life.floats <= offsets[other.buffer]:
                break
            at = max(at, offsets[other.buffer] + other.floats)
        offsets[life.buffer] = at
        placed.append(life)
    times = range(-1, len(layers))
    bound = max(sum(life.floats for life in lives if life.first <= t <= life.last) for t in times)
    return Plan(offsets, max(offsets[life.buffer] + life.floats for life in lives), bound)


def _lives(layers: Sequence[Layer], kept: Buffer, *, keep: bool) -> list[Life]:
    spans = {kept: (-1, len(layers) if keep else -1)}
    for at, layer in enumerate(layers):
        for view in (*layer.inputs, *layer.outputs):
            if view.buffer.kind in PLANNED:
                first, last = spans.get(view.buffer, (at, at))
                spans[view.buffer] = (first, max(last, at))
    return [Life(buffer, first, last) for buffer, (first, last) in spans.items()]
