"""How a layer is cut into tiles whose sums stay in registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MOST_PIXELS = (3, 6, 14)
"""Pixels of 16 channels whose sums fit the registers: 16 of 4 lanes; 16 of 8, or 32 of 4; 32 of 16."""
MOST_PIXELS_OF_CODES = (4, 6, 14)
"""The same of EDGEPV_PICK_CODES: 16 registers of 8 lanes where a weight takes two, or one; 32 of 16."""
LEAST_PIXELS = 4
"""Fewer sums than this take as long: each waits for the one before it."""
OVERHEAD = 1.0
"""What the start and the end of a tile cost, in pixels."""
ANOTHER_KIND = 0.03
"""Share of the time that a tile of one more size must save to be worth its code, which is unrolled."""


def tile(height: int, width: int, most: int) -> tuple[int, int]:
    """(rows, columns) of the tile of at most ``most`` pixels that covers an image for the least cost."""
    shapes = [(r, c) for r in range(1, min(most, height) + 1) for c in range(1, min(most // r, width) + 1)]
    return min(shapes, key=lambda shape: (_cost(height, width, *shape), shape))


def _cost(height: int, width: int, rows: int, columns: int) -> float:
    kinds = [(r * c, down * across) for r, down in _cut(height, rows) for c, across in _cut(width, columns)]
    time = sum((max(pixels, LEAST_PIXELS) + OVERHEAD) * count for pixels, count in kinds)
    return time * (1 + ANOTHER_KIND * (len(kinds) - 1))


def _cut(length: int, size: int) -> Iterator[tuple[int, int]]:
    """(length, count) of each kind of piece that ``length`` is cut into: of ``size``, and what is left."""
    if length >= size:
        yield size, length // size
    if length % size:
        yield length % size, 1


def picks(
    height: int, width: int, most: Sequence[int] = MOST_PIXELS, macro: str = "EDGEPV_PICK"
) -> tuple[str, str]:
    """The C of a tile's (rows, columns), chosen when the compiler knows its lanes."""
    choices = [tile(height, width, pixels) for pixels in most]
    rows, columns = ([str(choice[axis]) for choice in choices] for axis in (0, 1))
    return f"{macro}({', '.join(rows)})", f"{macro}({', '.join(columns)})"
