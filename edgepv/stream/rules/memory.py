"""Operators that remember by themselves: attention over time with a ring of keys, recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgepv.stream.interpreter import GraphInterpreter, rule
from edgepv.stream.rules.running import endless
from edgepv.stream.rules.shape import common_axis
from edgepv.stream.times import Clip
from edgepv.stream.values import (
    Axis,
    Clock,
    RefusedError,
    TimedTensor,
    row_dims,
    row_shape,
    spread_dims,
    with_last_shape,
)

JOINT = (
    "attends to frames and to parts of them at once (joint space-time attention)",
    "divide it: attention over time with a causal mask, then over space",
)


@rule("scaled_dot_product_attention")
def attention(
    walk: GraphInterpreter,
    q: TimedTensor,
    k: Any,
    v: Any,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    **_: object,
) -> TimedTensor:
    """Attention: inside every frame, or over time with a mask that only depends on the distance."""
    if not (isinstance(k, TimedTensor) and isinstance(v, TimedTensor)):
        raise RefusedError("attends to constants")
    rank = len(q.dims)
    over_time = [x.axis is not None and x.axis.at == len(x.dims) - 2 and x.n > 1 for x in (q, k, v)]
    if not any(over_time):
        return _inside_frames(walk, (q, k, v), mask, causal, scale)
    if not all(over_time) or any(x.axis != Axis(rank - 2) for x in (q, k, v)):
        raise RefusedError(*JOINT)
    if isinstance(walk.time, Clip):
        return _over_clip(q, k, v, mask, causal, scale)
    return _over_ring(walk, q, k, v, walk.fact("reach", lambda: _reach(q.n, mask, causal)), scale)


def _inside_frames(
    walk: GraphInterpreter,
    values: Sequence[TimedTensor],
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
) -> TimedTensor:
    rank = max(len(x.dims) for x in values)
    lead = spread_dims(*(x.dims[:-2] for x in values))
    dims = (*lead, values[0].dims[-2], values[2].dims[-1])
    axis, n = common_axis(values, rank)
    if axis and n > 1 and axis.at >= rank - 2:
        raise RefusedError(*JOINT)
    if mask is not None and mask.ndim > 2:
        mask = mask.reshape(mask.shape[-2:]) if mask.numel() == math.prod(mask.shape[-2:]) else mask
        if mask.ndim > 2:
            raise RefusedError("attends with a mask per head or frame")
    rows, clock = walk.align(values)
    order = [d for d in row_dims(dims, axis) if d < len(lead)]

    def laid(x: TimedTensor, rows: Tensor) -> Tensor:
        sizes = [*(1,) * (rank - len(x.dims)), *x.sizes]
        return with_last_shape(rows, [*(sizes[d] for d in order), *x.dims[-2:]])

    q, k, v = map(laid, values, rows)
    attended = F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale)
    return TimedTensor(with_last_shape(attended, row_shape(dims, axis)), dims, axis, n, clock)


def _over_clip(
    q: TimedTensor, k: TimedTensor, v: TimedTensor, mask: Tensor | None, causal: bool, scale: float | None
) -> TimedTensor:
    """All positions at once: time goes back to where attention wants it."""
    a, b, c = (x.rows.reshape(x.n, -1, x.dims[-1]).transpose(0, 1) for x in (q, k, v))
    flat = mask.reshape(mask.shape[-2:]) if mask is not None else None
    attended = F.scaled_dot_product_attention(a, b, c, flat, 0.0, causal, scale=scale)
    dims = (*q.dims[:-1], v.dims[-1])
    return TimedTensor(
        attended.transpose(0, 1).reshape(q.n, *row_shape(dims, q.axis)), dims, q.axis, q.n, q.clock
    )


def _reach(n: int, mask: Tensor | None, causal: bool) -> tuple[int, int]:
    """(frames back, frames ahead) that every frame attends to."""
    if mask is None:
        if not causal:
            raise RefusedError(
                "lets every frame of the clip see every other one (attention over all of the clip)",
                "use a causal mask, best one that looks back a fixed number of frames",
            )
        return n - 1, 0
    if mask.numel() != n * n:
        raise RefusedError("attends over time with a mask per head")
    open_ = mask.reshape(n, n) if mask.dtype == torch.bool else mask.reshape(n, n) == 0
    closed = ~open_ if mask.dtype == torch.bool else torch.isneginf(mask.reshape(n, n))
    if not bool((open_ | closed).all()):
        raise RefusedError("weighs frames by their place in the clip (a mask that is not 0 or -inf)")
    back = [d for d in range(n) if bool(open_.diagonal(-d).all())]
    ahead = [d for d in range(1, n) if bool(open_.diagonal(d).all())]
    band = torch.zeros(n, n, dtype=torch.bool)
    for d in (*(-b for b in back), *ahead):
        band |= torch.diag(torch.ones(n - abs(d), dtype=torch.bool), d)
    if (
        not torch.equal(band, open_)
        or back != list(range(len(back)))
        or ahead != list(range(1, len(ahead) + 1))
    ):
        raise RefusedError("attends over time with a mask that is not a band")
    return len(back) - 1, len(ahead)


def _over_ring(
    walk: GraphInterpreter,
    q: TimedTensor,
    k: TimedTensor,
    v: TimedTensor,
    reach: tuple[int, int],
    scale: float | None,
) -> TimedTensor:
    """The newest frame's query against a ring of keys and values."""
    back, ahead = reach
    offsets = range(-back, ahead + 1)
    walk.spends(len(offsets) / q.n)
    taps = [walk.gather(x, offsets, n=q.n) for x in (k, v)]
    seen_k, seen_v = (t.stacked() for t in taps)
    rows = walk.gather(q, sorted({0, ahead}), n=q.n).each()[0]
    size = q.dims[-1]
    parts = []
    for i in range(len(rows)):
        query = rows[i].reshape(-1, 1, size)
        keys, values = (
            seen[i].reshape(len(offsets), -1, x.dims[-1]).transpose(0, 1)
            for seen, x in ((seen_k, k), (seen_v, v))
        )
        scores = query @ keys.transpose(1, 2) * (scale or size**-0.5)
        if beyond := [j for row, j in taps[0].hidden if row == i]:
            scores[..., beyond] = -torch.inf
        parts.append(torch.softmax(scores, -1) @ values)
    dims = (*q.dims[:-1], v.dims[-1])
    attended = torch.cat([p.reshape(1, *row_shape(dims, q.axis)) for p in parts])
    return TimedTensor(attended, dims, q.axis, q.n, taps[0].clock)


@dataclass(frozen=True, eq=False)
class Recurrent(TimedTensor):
    """The hidden state of a cell that is called frame by frame in a loop. cell: what was called."""

    cell: Any = None
    source: Any = None


def _zero_starts(walk: GraphInterpreter, starts: Sequence[Any]) -> None:
    if not walk.fact("zeros", lambda: all(isinstance(s, Tensor) and not bool(s.any()) for s in starts)):
        raise RefusedError("starts its recurrence from something else than zeros", "start from zeros")


def _each_row(x: TimedTensor, batch: int) -> list[Tensor]:
    """(batch, features) of every row, oldest first. One row is not split: converters refuse that."""
    flat = x.rows.reshape(len(x.rows) * batch, -1)
    return [flat] if len(x.rows) == 1 else list(flat.split(batch))


@rule("gru", "lstm", "rnn_tanh", "rnn_relu")
def recurrent(
    walk: GraphInterpreter,
    x: TimedTensor,
    start: Any,
    weights: Sequence[Tensor],
    has_bias: bool,
    layers: int,
    dropout: float,
    train: bool,
    both_ways: bool,
    batch_first: bool,
) -> tuple[TimedTensor, ...]:
    """nn.GRU, nn.LSTM and nn.RNN over time, one cell step per frame."""
    kind = walk.node.target._schema.name[6:]
    if both_ways:
        raise RefusedError("reads the clip backwards as well (bidirectional)", "use a forward one")
    if x.axis is None or x.axis.at != (1 if batch_first else 0) or len(x.dims) != 3:
        raise RefusedError("runs over something else than time")
    _zero_starts(walk, start if isinstance(start, list | tuple) else [start])
    per_layer = 4 if has_bias else 2
    if len(weights) != per_layer * layers:
        raise RefusedError("has a projection (proj_size)")
    clock = endless(walk, x.clock, x.n)
    batch = x.sizes[0 if batch_first else 1]
    rows = _each_row(x, batch)
    states = []
    for i in range(layers):
        of_x, of_h, *biases = weights[i * per_layer : (i + 1) * per_layer]
        mine = (of_x, of_h, *(biases or (None, None)))
        hidden = of_h.shape[1]
        memory = [walk.time.hold(x.rows, (batch, hidden), x.clock) for _ in range(2 if kind == "lstm" else 1)]
        history = []
        for j, row in enumerate(rows):
            memory = CELLS[kind](row, [walk.time.resumed(h, j, x.clock) for h in memory], *mine)
            history.append(memory)
        for h in memory:
            walk.time.keep(h)
        rows = [h[0] for h in history]
        states.append(history[-1:] if isinstance(walk.time, Clip) else history)
    dims = (*x.dims[:2], rows[0].shape[1])
    out = TimedTensor(torch.cat(rows).reshape(-1, *row_shape(dims, x.axis)), dims, x.axis, x.n, clock)
    last = replace(clock, ready=clock.ready + clock.period * (x.n - 1), clean=(1, 0))
    ends = [_last([[h[j] for h in history] for history in states], batch, last) for j in range(len(memory))]
    return (out, *ends)


def _last(layers: Sequence[list[Tensor]], batch: int, clock: Clock) -> TimedTensor:
    """The final hidden (or cell) state of all layers, (layers, batch, hidden), after every row."""
    dims = (len(layers), batch, layers[0][0].shape[1])
    rows = torch.stack([torch.cat(states) for states in layers]).unflatten(1, (-1, batch)).transpose(0, 1)
    return TimedTensor(with_last_shape(rows, row_shape(dims, None)), dims, None, 1, clock)


@rule("gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(walk: GraphInterpreter, x: TimedTensor, start: Any, *weights: Tensor | None) -> Any:
    """A cell called in a loop over the frames: the loop is rolled up into one state."""
    kind = walk.node.target._schema.name[6:-5]
    begins = list(start) if isinstance(start, list | tuple) else [start]
    if isinstance(walk.time, Clip):
        states = [b.rows if isinstance(b, TimedTensor) else b for b in begins]
        outputs = CELLS[kind](x.rows, states, *weights)
        values = [TimedTensor(m, tuple(m.shape), None, 1, x.clock) for m in outputs]
        return values if len(values) > 1 else values[0]
    mark = tuple(id(w) for w in weights)
    if all(isinstance(b, Recurrent) and b.cell == mark and b.source is x.rows for b in begins):
        gap = x.clock.ready - begins[0].clock.ready
        if gap != x.clock.period:
            raise RefusedError("leaves out frames in its recurrence")
        later = [replace(b, clock=b.clock.later(gap)) for b in begins]
        return later if len(later) > 1 else later[0]
    _zero_starts(walk, begins)
    return _first_cell(walk, x, CELLS[kind], [b.shape[-1] for b in begins], weights, mark)


def _first_cell(
    walk: GraphInterpreter, x: TimedTensor, step: Any, sizes: Sequence[int], weights: Sequence[Any], mark: Any
) -> Any:
    """The first round of a loop over frames; the later rounds are the same rows, later."""
    clock = endless(walk, x.clock, 1)
    batch = x.sizes[0]
    states = [walk.time.hold(x.rows, (batch, size), x.clock) for size in sizes]
    history: list[list[Tensor]] = []
    for j, row in enumerate(_each_row(x, batch)):
        states = step(row, [walk.time.resumed(h, j, x.clock) for h in states], *weights)
        history.append(states)
    for h in states:
        walk.time.keep(h)
    values = []
    for j, h in enumerate(states):
        dims = (batch, h.shape[1])
        rows = torch.cat([m[j] for m in history]).reshape(len(history), *row_shape(dims, None))
        values.append(Recurrent(rows, dims, None, 1, clock, mark, x.rows))
    return values if len(values) > 1 else values[0]


def _gates(x: Tensor, h: Tensor, w_x: Tensor, w_h: Tensor, b_x: Any, b_h: Any) -> tuple[Tensor, Tensor]:
    return F.linear(x, w_x, b_x), F.linear(h, w_h, b_h)


def _gru(x: Tensor, states: list[Tensor], *weights: Any) -> list[Tensor]:
    """Source: torch.nn.GRUCell's documentation."""
    (h,) = states
    of_x, of_h = _gates(x, h, *weights)
    (r_x, z_x, n_x), (r_h, z_h, n_h) = of_x.chunk(3, 1), of_h.chunk(3, 1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    return [n + z * (h - n)]


def _lstm(x: Tensor, states: list[Tensor], *weights: Any) -> list[Tensor]:
    """Source: torch.nn.LSTMCell's documentation."""
    h, c = states
    of_x, of_h = _gates(x, h, *weights)
    i, f, g, o = (of_x + of_h).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def _plain(function: Any) -> Any:
    def step(x: Tensor, states: list[Tensor], *weights: Any) -> list[Tensor]:
        of_x, of_h = _gates(x, states[0], *weights)
        return [function(of_x + of_h)]

    return step


CELLS = {"gru": _gru, "lstm": _lstm, "rnn_tanh": _plain(torch.tanh), "rnn_relu": _plain(torch.relu)}
