"""Slice assignment, ``out[:, 1:, :k] = x[:, :-1, :k]``: captured as a chain of slices and scatters.

What is being written to is held as a canvas, a list of boxes over a constant, until something reads it.
Then it is cut along the one dimension besides time in which the boxes differ, so that every piece is one
value moved in time, and the pieces are joined.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from edgepv.stream.canvas import Canvas
from edgepv.stream.interpreter import GraphInterpreter, rule
from edgepv.stream.rules.shape import cut, joined, sliced, with_one
from edgepv.stream.values import RefusedError, TimedTensor


def canvas_of(walk: GraphInterpreter, x: Any, name: str) -> Canvas | None:
    """A canvas, or one made of a constant that is the same number everywhere."""
    if not isinstance(x, Tensor):
        return x if isinstance(x, Canvas) else None
    fill = walk.fact(name, lambda: float(x.flatten()[0]) if bool((x == x.flatten()[0]).all()) else None)
    return None if fill is None else Canvas(tuple(x.shape), fill, ())


@rule("slice", "narrow_copy")
def slice_of(
    walk: GraphInterpreter, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """A range of one dimension, of a value or of a canvas."""
    if isinstance(x, TimedTensor):
        return sliced(walk, x, dim, start, end, step)
    if step != 1:
        return sliced(walk, resolved(walk, x), dim, start, end, step)
    dim %= len(x.dims)
    a, b, _ = slice(start, end).indices(x.dims[dim])
    writes = []
    for box, value in x.writes:
        low, high = max(a, box[dim][0]), min(b, box[dim][1])
        if low < high:
            part = cut(walk, value, dim, low - box[dim][0], high - box[dim][0])
            writes.append(((*box[:dim], (low - a, high - a), *box[dim + 1 :]), part))
    dims = (*x.dims[:dim], b - a, *x.dims[dim + 1 :])
    return Canvas(dims, x.fill, tuple(writes), (x, dim, a), len(writes))


@rule("copy")
def copied(walk: GraphInterpreter, x: Any, source: Any, *_: Any) -> Any:
    """The right-hand side of an assignment."""
    dims = tuple(walk.node.meta["val"].shape)
    if isinstance(source, Tensor):
        return walk.constant("", lambda: source.expand(dims))
    if source.dims != dims:
        raise RefusedError("assigns a value of another shape")
    return source


@rule("slice_scatter")
def overwritten(
    walk: GraphInterpreter, x: Any, part: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """``x`` with a range of one dimension replaced."""
    dims = tuple(walk.node.meta["val"].shape)
    dim %= len(dims)
    a, b, step = slice(start, end, step).indices(dims[dim])
    if step != 1:
        raise RefusedError("assigns to every second element")
    if b - a == dims[dim]:
        return part
    canvas = canvas_of(walk, x, "under")
    if canvas is None:
        return _patched(walk, x, part, dim, a, b)
    if isinstance(part, Tensor):
        part = canvas_of(walk, part, "over")
        if part is None or part.fill != canvas.fill:
            raise RefusedError("assigns a constant")
    if isinstance(part, TimedTensor):
        box = tuple((a, b) if d == dim else (0, size) for d, size in enumerate(dims))
        return replace(canvas, writes=(*canvas.writes, (box, part)))
    fresh = part.writes
    if part.parent and part.parent[0] is x and part.parent[1:] == (dim, a):
        fresh = part.writes[part.old :]
    elif canvas.writes:
        return _patched(walk, resolved(walk, canvas), resolved(walk, part), dim, a, b)
    moved = [((*box[:dim], (box[dim][0] + a, box[dim][1] + a), *box[dim + 1 :]), v) for box, v in fresh]
    return replace(canvas, writes=(*canvas.writes, *moved))


@rule("select_scatter")
def overwritten_one(walk: GraphInterpreter, x: Any, part: Any, dim: int, index: int) -> Any:
    """``x`` with one element of a dimension replaced."""
    dims = walk.node.meta["val"].shape
    index %= dims[dim]
    return overwritten(walk, x, with_one(part, dim % len(dims)), dim, index, index + 1)


def _patched(walk: GraphInterpreter, x: Any, part: Any, dim: int, a: int, b: int) -> Any:
    """A value with a range replaced, as a join of what stays and what is new."""
    before = [_range(walk, x, dim, 0, a)] if a else []
    size = walk.node.meta["val"].shape[dim]
    after = [_range(walk, x, dim, b, size)] if b < size else []
    return joined(walk, [*before, part, *after], dim)


def _range(walk: GraphInterpreter, x: Any, dim: int, start: int, end: int) -> Any:
    if isinstance(x, Tensor):
        return walk.constant(f"_{start}", lambda: x.narrow(dim, start, end - start))
    return cut(walk, x, dim, start, end)


@rule("painted")
def resolved(walk: GraphInterpreter, canvas: Canvas) -> TimedTensor:
    """The picture on a canvas as one value: what any other operator gets of it."""
    time = next((v.axis.at for _, v in canvas.writes if v.axis), -1)
    whole = [(0, size) for size in canvas.dims]
    torn = {d for box, _ in canvas.writes for d, span in enumerate(box) if span != whole[d] and d != time}
    if len(torn) > 1:
        raise RefusedError("assigns to boxes that differ in several dimensions")
    dim = torn.pop() if torn else (1 if time != 1 else 2)
    ends = sorted({0, canvas.dims[dim], *(e for box, _ in canvas.writes for e in box[dim])})
    pieces = [_piece(walk, canvas, dim, time, a, b) for a, b in pairwise(ends)]
    whole_picture: TimedTensor = joined(walk, pieces, dim) if len(pieces) > 1 else pieces[0]
    return whole_picture


def _piece(walk: GraphInterpreter, canvas: Canvas, dim: int, time: int, a: int, b: int) -> Any:
    """Elements a to b of ``dim``: the last write there, with the constant before and behind it in time."""
    shape = [*canvas.dims]
    shape[dim] = b - a
    empty = walk.constant(f"_empty{a}", lambda: torch.full(shape, canvas.fill))
    over = [(box, v) for box, v in canvas.writes if box[dim][0] <= a and b <= box[dim][1]]
    if not over:
        return empty
    box, value = over[-1]
    part = cut(walk, value, dim, a - box[dim][0], b - box[dim][0])
    first, last = box[time]
    if (first, last) == (0, canvas.dims[time]):
        return part
    if len(over) > 1:
        raise RefusedError("assigns twice to the same elements")
    before = [empty.narrow(time, 0, first)] if first else []
    behind = [empty.narrow(time, last, canvas.dims[time] - last)] if last < canvas.dims[time] else []
    return joined(walk, [*before, part, *behind], time)
