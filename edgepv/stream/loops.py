"""Recurrences that are spelled as a Python loop over the frames.

A captured graph holds such a loop unrolled: h1 = f(x0, zeros), h2 = f(x1, h1), h3 = f(x2, h2). Rounds are
told by pairing operators with the same ones of the round before, from the frames that each round picks. What
one round hands to the next, and the first takes as a constant, is a state. A stream computes one round per
frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgepv.stream.capture import Captured, kind
from edgepv.stream.interpreter import Folded, GraphInterpreter, moved, state_name
from edgepv.stream.rules.running import endless
from edgepv.stream.times import Clip, Stream
from edgepv.stream.values import Axis, Clock, RefusedError, TimedTensor, in_time, row_shape

BLANK = frozenset(
    f"aten::{x}" for x in ("zeros_like", "new_zeros", "ones_like", "new_ones", "full_like", "new_full")
)
"""Operators that read nothing but a shape."""
CELLS = frozenset(f"aten::{x}_cell" for x in ("gru", "lstm", "rnn_tanh", "rnn_relu"))
"""Operators that have a rule of their own for a loop over frames."""


@dataclass(frozen=True)
class Loop:
    """One recurrence.

    body: operators of the second round that lie between its states, in order. states: what the first round
    hands on -> (the operator of the second round that makes it anew, the constant that the first began with).
    outer: what the body reads from outside of the second round -> the same of the first. rounds: operator of
    any round -> (that of the body, how many rounds after the first). count: of the rounds.
    """

    body: tuple[Node, ...]
    states: dict[Node, tuple[Node, Node]]
    outer: dict[Node, Node]
    rounds: dict[str, tuple[str, int]]
    count: int


@dataclass
class Pairs:
    """Operators that are the same in two rounds.

    moving: what depends on the video. before: operator -> the same one of the round before. starts: what the
    second round reads -> the constant that the first reads there.
    """

    graph: Captured
    moving: set[Node]
    before: dict[Node, Node] = field(default_factory=dict)
    starts: dict[Node, Node] = field(default_factory=dict)

    def alike(self, x: Any, y: Any, pairing: Pairs) -> bool:
        """Whether ``x`` is in a round what ``y`` is in the one before. pairing: takes what that supposes."""
        if isinstance(x, Node) and isinstance(y, Node):
            return self._nodes_alike(x, y, pairing)
        if isinstance(x, list | tuple) and isinstance(y, list | tuple):
            return len(x) == len(y) and all(self.alike(a, b, pairing) for a, b in zip(x, y))
        return type(x) is type(y) and bool(x == y)

    def _nodes_alike(self, x: Node, y: Node, pairing: Pairs) -> bool:
        if x not in self.moving:
            return y not in self.moving and self._same_constant(x, y)
        if y in self.moving:
            return self.before.get(x) is y
        known = pairing.starts.get(x, self.starts.get(x))
        if known is not None or x in self.before:
            return known is y or self.before.get(x) is y
        inside = Pairs(self.graph, self.moving)
        if x.target == y.target and x not in self.before and self.call_alike(x, y, inside):
            pairing.before |= {**inside.before, x: y}
            pairing.starts |= inside.starts
        else:
            pairing.starts[x] = y
        return True

    def call_alike(self, x: Node, y: Node, pairing: Pairs) -> bool:
        """The same operator on what is alike."""
        same = x.target == y.target and x.kwargs.keys() == y.kwargs.keys()
        pairs = [(x.args, y.args), *((x.kwargs[k], y.kwargs[k]) for k in x.kwargs)] if same else []
        return same and all(self.alike(a, b, pairing) for a, b in pairs)

    def _same_constant(self, x: Node, y: Node) -> bool:
        if x is y:
            return True
        values = [self.graph.constants.get(n.name) for n in (x, y)]
        if all(isinstance(v, Tensor) for v in values):
            return torch.equal(*values)  # type: ignore[arg-type]
        return x.op == y.op == "call_function" and self.call_alike(x, y, Pairs(self.graph, self.moving))


def find(graph: Captured, clip: Tensor) -> tuple[Loop, ...]:
    """The recurrences of a graph over the frames of its clips. clip: rows of one, (T, C, H, W).

    None if there is one besides that cannot be told, or that runs backwards: they would not fit together.
    """
    frames = _frames(graph, clip)
    if not frames:
        return ()
    backwards, _ = _recurrences(_paired(graph, {first: second for second, first in frames.items()}))
    loops, whole = _recurrences(_paired(graph, frames))
    return loops if whole and not backwards else ()


def _recurrences(pairs: Pairs) -> tuple[tuple[Loop, ...], bool]:
    """(the recurrences, whether they are all of those that begin with a constant)."""
    depth = {n: d for n in pairs.before if (d := _depth(pairs.before, n))}
    makers = {pairs.before[n]: n for n, d in depth.items() if d == 1}
    states = {x: (makers[x], start) for x, start in pairs.starts.items() if x in makers}
    second = [n for n in pairs.graph.nodes if depth.get(n) == 1]
    ahead = _reached(second, set(states))
    back = _leading(second, {maker for maker, _ in states.values()}, set(states))
    core = [n for n in second if n in ahead and n in back]
    loops = [loop for part in _parts(core, states) if (loop := _loop(pairs, part, states))]
    return tuple(loops), {x for loop in loops for x in loop.states} == set(pairs.starts)


def _paired(graph: Captured, frames: dict[Node, Node]) -> Pairs:
    moving = {graph.input}
    for node in graph.nodes:
        if moving & set(node.all_input_nodes) and kind(node) not in BLANK:
            moving.add(node)
    pairs = Pairs(graph, moving)
    pairs.before |= frames
    taken = set(pairs.before.values())
    for node in graph.nodes:
        if node not in moving or node in pairs.before:
            continue
        for other in _candidates(pairs, node):
            pairing = Pairs(graph, moving)
            if other not in taken and pairs.call_alike(node, other, pairing):
                pairs.before |= {**pairing.before, node: other}
                pairs.starts |= pairing.starts
                taken.add(other)
                break
    return pairs


def _frames(graph: Captured, clip: Tensor) -> dict[Node, Node]:
    """What picks one frame of a tensor -> what picks the frame before it, of the same."""
    picked: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        if place := _place(node):
            picked.setdefault(place, []).append(node)
    earlier: dict[Node, Node] = {}
    for (*what, index), nodes in picked.items():
        earlier |= dict(zip(nodes, picked.get((*what, index - 1), ())))
    if not earlier:
        return {}
    walk = GraphInterpreter(graph, Clip(), Folded())
    with contextlib.suppress(RefusedError):
        walk.run(clip)
    return {node: before for node, before in earlier.items() if _in_time(walk, node)}


def _in_time(walk: GraphInterpreter, node: Node) -> bool:
    """Whether what a node picks from runs over time there."""
    source: Any = node.args[0]
    if kind(node) == "getitem":
        parts, whole = walk.values.get(source.name), walk.values.get(source.args[0].name)
        one = isinstance(parts, list | tuple) and all(isinstance(p, TimedTensor) and p.n == 1 for p in parts)
        return one and isinstance(whole, TimedTensor) and whole.n > 1
    value, dim = walk.values.get(source.name), node.args[1]
    return isinstance(value, TimedTensor) and isinstance(dim, int) and in_time(value, dim % len(value.dims))


def _place(node: Node) -> tuple[Any, ...] | None:
    """(source, dimension, index) of an operator that picks one element; None for others."""
    name, args = kind(node), node.args
    if not args or not isinstance(args[0], Node) or (name == "getitem" and not args[0].args):
        return None
    if name in ("aten::select", "getitem") and isinstance(args[-1], int):
        return (args[0], *args[1:-1], name, args[-1])
    if name == "aten::slice" and len(args) == 4 and all(isinstance(a, int) for a in args[1:]):
        _, dim, start, end = args
        return (args[0], dim, name, start) if end == start + 1 else None  # type: ignore[operator]
    return None


def _candidates(pairs: Pairs, node: Node) -> Iterator[Node]:
    for given in node.all_input_nodes:
        if (before := pairs.before.get(given)) is not None:
            yield from (user for user in before.users if user.target == node.target)


def _depth(before: dict[Node, Node], node: Node) -> int:
    count = 0
    while node in before:
        node, count = before[node], count + 1
    return count


def _reached(nodes: list[Node], start: set[Node]) -> set[Node]:
    reached = set(start)
    for node in nodes:
        if reached & set(node.all_input_nodes):
            reached.add(node)
    return reached - start


def _leading(nodes: list[Node], ends: set[Node], stop: set[Node]) -> set[Node]:
    leading = set(ends)
    for node in reversed(nodes):
        if node in leading:
            leading |= set(node.all_input_nodes) - stop
    return leading


def _parts(core: list[Node], states: dict[Node, tuple[Node, Node]]) -> list[list[Node]]:
    """The operators by recurrence: those that feed each other or share a state."""
    makers = {maker: x for x, (maker, _) in states.items()}
    groups: list[tuple[list[Node], set[Node]]] = []
    for node in core:
        near = {node, *node.all_input_nodes} | ({makers[node]} if node in makers else set())
        near &= {*core, *states}
        mine = [g for g in groups if g[1] & near]
        groups = [g for g in groups if not any(g is m for m in mine)]
        groups.append(([*(n for g in mine for n in g[0]), node], near.union(*(g[1] for g in mine))))
    order = {node: i for i, node in enumerate(core)}
    return [sorted(nodes, key=order.__getitem__) for nodes, _ in groups]


def _loop(pairs: Pairs, body: list[Node], states: dict[Node, tuple[Node, Node]]) -> Loop | None:
    read = [n for node in body for n in node.all_input_nodes if n not in body]
    mine = {x: states[x] for x in read if x in states}
    outer = {n: pairs.before.get(n) for n in read if n not in mine and n in pairs.moving}
    if not mine or any(maker not in body for maker, _ in mine.values()) or not outer:
        return None
    if any(first not in pairs.moving for first in outer.values()):
        return None
    if _goes_on(pairs, body, mine) or any(kind(node) in CELLS for node in body):
        return None
    inside, rounds, count = set(body), {}, 1
    for node in pairs.before:
        chain = [node]
        while chain[-1] in pairs.before:
            chain.append(pairs.before[chain[-1]])
        if len(chain) > 1 and chain[-2] in inside:
            rounds[node.name] = (chain[-2].name, len(chain) - 1)
            count = max(count, len(chain))
            if chain[-1] in pairs.moving:
                rounds[chain[-1].name] = (chain[-2].name, 0)
    return Loop(tuple(body), mine, {n: f for n, f in outer.items() if f}, rounds, count)


def _goes_on(pairs: Pairs, body: list[Node], states: dict[Node, tuple[Node, Node]]) -> bool:
    """Whether the last round hands its states to one of another kind, such as one that skips a frame."""
    reads = {node.target for node in body if set(node.all_input_nodes) & set(states)}
    after = {before: node for node, before in pairs.before.items()}
    for last in states:
        while last in after:
            last = after[last]
        if any(user.target in reads for user in last.users):
            return True
    return False


def roll(walk: GraphInterpreter, loop: Loop) -> dict[str, Any] | None:
    """What the body makes of every row, by name, at the time of the first round.

    None if it does not go from frame to frame, or does not begin with one number: rounds stay as they are.
    """
    firsts = [walk.demand(node) for node in loop.outer.values()]
    seconds = [walk.demand(node) for node in loop.outer]
    if not walk.fact_of(loop.body[0], "rolls", lambda: all(map(_next_frame, firsts, seconds))):
        return None
    starts = {x: walk.demand(start) for x, (_, start) in loop.states.items()}
    inits = walk.fact_of(loop.body[0], "inits", lambda: [_uniform(s) for s in starts.values()])
    if any(init is None for init in inits):
        return None
    walk.node = loop.body[0]
    rows, clock = walk.align(firsts)
    by_row = _each_row(walk, loop, [replace(v, rows=r) for v, r in zip(firsts, rows)], clock, inits)
    return {node.name: _joined([m[node.name] for m in by_row]) for node in loop.body}


def _next_frame(first: Any, second: Any) -> bool:
    """Whether ``second`` is ``first`` one position later."""
    if (
        not isinstance(first, TimedTensor)
        or not isinstance(second, TimedTensor)
        or first.n != 1
        or second.n != 1
    ):
        return False
    a, b = first.rows, second.rows
    same = a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.stride() == b.stride())
    then, now = first.clock, second.clock
    return same and first.dims == second.dims and now.ready - then.ready == then.period == now.period


def _uniform(start: Any) -> float | None:
    """The number that is everywhere in a constant; None if there are several."""
    flat = start.flatten()
    return float(flat[0]) if bool((flat == flat[0]).all()) else None


def _each_row(
    walk: GraphInterpreter, loop: Loop, outer: list[TimedTensor], clock: Clock, inits: list[float]
) -> list[dict[str, Any]]:
    """The body's values for each row, oldest first; the states go from row to row."""
    after = endless(walk, clock, 1)
    dims = {x: tuple(maker.meta["val"].shape) for x, (maker, _) in loop.states.items()}
    axes = {x: _axis_like(d, outer[0]) for x, d in dims.items()}
    known = len(walk.time.plans) if isinstance(walk.time, Stream) else 0
    states = {}
    for (x, (maker, _)), init in zip(loop.states.items(), inits):
        if isinstance(walk.time, Stream):
            walk.time.label = state_name(maker)
        states[x] = walk.time.hold(outer[0].rows, (1, *row_shape(dims[x], axes[x])), clock, init)
    count, by_row = len(outer[0].rows), []
    for j in range(count):
        inner = GraphInterpreter(walk.graph, Clip(), walk.folded, walk.pool)
        inner.values |= walk.values
        for node, value in zip(loop.outer, outer):
            row = value.rows if count == 1 else value.rows[j : j + 1]
            inner.values[node.name] = replace(value, rows=row, clock=after)
        for (x, state), init in zip(states.items(), inits):
            rows = walk.time.resumed(state, j, clock, init)
            inner.values[x.name] = TimedTensor(rows, dims[x], axes[x], 1, after)
        by_row.append({node.name: inner.compute(node) for node in loop.body})
        states = {x: _as_state(inner.values[m.name], states[x]) for x, (m, _) in loop.states.items()}
        if j == 0:
            walk.adopt(inner, loop.count, count, known, after)
    for state in states.values():
        walk.time.keep(state)
    return by_row


def _axis_like(dims: tuple[int, ...], other: TimedTensor) -> Axis | None:
    axis = other.axis
    fits = axis and len(dims) == len(other.dims) and dims[axis.at] == 1
    return axis if fits else None


def _as_state(value: TimedTensor, like: Tensor) -> Tensor:
    if value.rows.numel() != like.numel():
        raise RefusedError("changes the shape of what it remembers from frame to frame")
    return value.rows.reshape(like.shape)


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, TimedTensor):
        return replace(first, rows=torch.cat([m.rows for m in values]))
    if isinstance(first, list | tuple):
        return type(first)(_joined(list(parts)) for parts in zip(*values))
    return first


def later(value: Any, rounds: int) -> Any:
    """A value of the body so many rounds after the first."""
    period = next((v.clock.period for v in _values(value)), 0)
    return moved(value, rounds * period)


def _values(x: Any) -> Iterator[TimedTensor]:
    if isinstance(x, TimedTensor):
        yield x
    elif isinstance(x, list | tuple):
        for y in x:
            yield from _values(y)
