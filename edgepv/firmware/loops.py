"""Nests of C loops over strided tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgepv.firmware.views import Shape


def nest(shape: Shape, strides: Sequence[Shape], inner: Callable[[list[str]], list[str]]) -> list[str]:
    """Lines of C that visit every element of ``shape``.

    strides: of each tensor, the written one first; the loop along its smallest stride is the innermost, and
    axes that lie alike in all tensors are one loop. inner: the statements for the indices of the tensors.
    """
    axes = [(n, tuple(s[i] for s in strides)) for i, n in enumerate(shape) if n != 1]
    axes.sort(key=lambda axis: -abs(axis[1][0]) or 1)
    merged: list[tuple[int, tuple[int, ...]]] = []
    for n, steps in axes:
        if merged and all(outer == n * inner_ for outer, inner_ in zip(merged[-1][1], steps)):
            merged[-1] = (merged[-1][0] * n, steps)
        else:
            merged.append((n, steps))
    lines = []
    for depth, (n, _) in enumerate(merged):
        lines.append("    " * depth + f"for (size_t i{depth} = 0; i{depth} < {n}; i{depth}++) {{")
    indices = [_index([steps[place] for _, steps in merged]) for place in range(len(strides))]
    lines += ["    " * len(merged) + line for line in inner(indices)]
    lines += ["    " * depth + "}" for depth in reversed(range(len(merged)))]
    return lines


def _index(steps: list[int]) -> str:
    """Where the element of the loops' counters lies."""
    numbered = list(enumerate(steps))
    forward = [f"i{depth}" if step == 1 else f"i{depth} * {step}" for depth, step in numbered if step > 0]
    back = [f" - i{depth} * {-step}" for depth, step in numbered if step < 0]
    return (" + ".join(forward) or "0") + "".join(back)
