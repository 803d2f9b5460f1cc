"""Which of several points no other beats in both of two figures."""

from __future__ import annotations

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which (cost, gain) points no other point beats: no dearer and no worse, and better in one.

    Returns their indices, cheapest first; equal points stand together.
    """

    def beaten(a: tuple[float, float]) -> bool:
        return any(b[0] <= a[0] and b[1] >= a[1] and b != a for b in points)

    return sorted((i for i, p in enumerate(points) if not beaten(p)), key=lambda i: points[i])
