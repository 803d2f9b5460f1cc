"""Nests of C loops over strided tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgepv.firmware.views import Shape


def nest(shape: Shape, strides: Sequence[Shape], inner: Callable[[list[str]], list[str]]) -> list[str]:
    """Lines of C that visit every element of ``shape``.

    strides: of each tensor, the written one first; the loop along its smallest stride is the innermost, and
    axes that lie alike in all tensors are one loop. inner: the statements for the indices of the tensors.
    """
    return _nested(_merged(shape, strides), len(strides), inner)


def runs(shape: Shape, strides: Sequence[Shape], inner: Callable[[int, list[str]], list[str]]) -> list[str]:
    """Like ``nest``, but what lies together in all tensors is left to one call.

    inner: the statements for that many values, and the indices of the first of them.
    """
    loops, count = _merged(shape, strides), 1
    if loops and set(loops[-1][1]) == {1}:
        count = loops.pop()[0]
    return _nested(loops, len(strides), lambda at: inner(count, at))


def _merged(shape: Shape, strides: Sequence[Shape]) -> list[tuple[int, Shape]]:
    """(length, stride of each tensor) of every loop, the outermost first."""
    axes = [(n, tuple(s[i] for s in strides)) for i, n in enumerate(shape) if n != 1]
    axes.sort(key=lambda axis: -abs(axis[1][0]) or 1)
    merged: list[tuple[int, tuple[int, ...]]] = []
    for n, steps in axes:
        if merged and all(outer == n * inner_ for outer, inner_ in zip(merged[-1][1], steps)):
            merged[-1] = (merged[-1][0] * n, steps)
        else:
            merged.append((n, steps))
    return merged


def _nested(
    loops: Sequence[tuple[int, Shape]], tensors: int, inner: Callable[[list[str]], list[str]]
) -> list[str]:
    lines = []
    for depth, (n, _) in enumerate(loops):
        lines.append("    " * depth + f"for (size_t i{depth} = 0; i{depth} < {n}; i{depth}++) {{")
    indices = [_index([steps[place] for _, steps in loops]) for place in range(tensors)]
    lines += ["    " * len(loops) + line for line in inner(indices)]
    lines += ["    " * depth + "}" for depth in reversed(range(len(loops)))]
    return lines


def _index(steps: list[int]) -> str:
    """Where the element of the loops' counters lies."""
    numbered = list(enumerate(steps))
    forward = [f"i{depth}" if step == 1 else f"i{depth} * {step}" for depth, step in numbered if step > 0]
    back = [f" - i{depth} * {-step}" for depth, step in numbered if step < 0]
    return (" + ".join(forward) or "0") + "".join(back)
