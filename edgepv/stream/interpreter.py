"""One pass over a captured graph, operator by operator, in one of the two layouts of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from edgepv.errors import EdgepvError
from edgepv.stream.canvas import Canvas
from edgepv.stream.capture import BATCH_NORM, Captured, describe, kind, layer, place
from edgepv.stream.cost import flops
from edgepv.stream.times import Stream, Taps, Time
from edgepv.stream.values import (
    MAX_RANK,
    Axis,
    Clock,
    RefusedError,
    Sum,
    TimedTensor,
    in_four_dims,
    laid_open,
    reshape,
    static,
)

Rule = Callable[..., Any]
R = TypeVar("R", bound=Rule)
T = TypeVar("T")
RULES: dict[str, Rule] = {}
"""Operator name -> its rule: called with the walk and the operator's own arguments."""


SUMS = ("aten::mul", "aten::div", "aten::clone", "aten::detach", "aten::alias")
"""What may be done to a sum that a stream holds as a mean."""
CALM = frozenset(
    f"aten::{x}" for x in ("scaled_dot_product_attention", "gru", "lstm", "rnn_tanh", "rnn_relu")
)
"""Operators that draw random numbers in training only."""
ASSIGNMENTS = ("aten::slice", "aten::slice_scatter", "aten::select_scatter", "aten::copy")


def rule(*names: str) -> Callable[[R], R]:
    """Register a rule for the operators "aten::NAME"."""

    def register(function: R) -> R:
        RULES.update({f"aten::{name}": function for name in names})
        return function

    return register


@dataclass(frozen=True)
class Layer:
    """One operator that computes, as the explanation shows it.

    flops_clip: of the original for one clip; flops_frame: of the stream for one new frame. states: their
    numbers in StreamSpec.states. rows, held: what a step computes and what those states hold, as frames
    from the newest back to each row.
    """

    name: str
    operator: str
    place: str
    positions: int
    clock: Clock
    flops_clip: float
    flops_frame: float
    states: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    held: tuple[int, ...] = ()


class Folded(dict[str, Tensor]):
    """Constants made once while planning, by name: reordered weights, masks, norms.

    facts: what was found out about constants then; exporters trace with tensors that hold no numbers.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, facts: dict[Any, Any] | None = None):
        super().__init__(tensors or {})
        self.facts = {} if facts is None else facts


@dataclass
class GraphInterpreter:
    """Runs every operator's rule on real tensors.

    folded: constants and facts about them, filled by the first walk. pool: what a mean over time becomes.
    edges: operators that show the ends of a clip to the model. approximations: reasons why the result is
    not exact. windowed: nodes that get all frames of the clip at every step.
    """

    graph: Captured
    time: Time
    folded: Folded
    pool: str = "window"
    edges: dict[str, str] = field(default_factory=dict)
    approximations: dict[str, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    flops_clip: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)
    node: Any = None
    _memo: dict[Any, Any] = field(default_factory=dict)
    _looked: bool = False
    _share: float = 1.0
    _input: Any = None
    _rolled: dict[int, Any] = field(default_factory=dict)
    windowed: set[str] = field(default_factory=set)

    def run(self, x: Tensor) -> TimedTensor:
        """The answer for rows of input frames ``x``, (m, C, H, W).

        Raises RefusedError at an operator that cannot be rewritten, with its name and source line.
        """
        self._input = x
        for node in self.graph.nodes:
            if node.op in ("placeholder", "call_function") and node.name not in self.values:
                try:
                    if not self._in_loop(node):
                        self.compute(node)
                except RefusedError as e:
                    raise RefusedError(f"{describe(self.node)} {e.why}", e.cure) from e
                except EdgepvError:
                    raise
                except Exception as e:  # not met before
                    why = f"is used in a way that no rule foresees ({type(e).__name__}: {str(e)[:120]})"
                    raise RefusedError(f"{describe(self.node)} {why}") from e
        result = self.values[self.graph.output.name]
        if not isinstance(result, TimedTensor):
            raise RefusedError("answers the same whatever the video shows", "let forward() use its input")
        if isinstance(result, Sum):
            raise RefusedError(f"{describe(self.graph.output)} {Sum.REFUSED[0]}", Sum.REFUSED[1])
        return result

    def compute(self, node: torch.fx.Node) -> Any:
        """The value of a node whose arguments are known, kept."""
        self.node = node
        self.values[node.name] = self._value(node)
        return self.values[node.name]

    def demand(self, node: torch.fx.Node) -> Any:
        """The value of a node ahead of its turn."""
        if node.name not in self.values:
            for given in node.all_input_nodes:
                self.demand(given)
            self.compute(node)
        return self.values[node.name]

    @property
    def rolled(self) -> bool:
        """Whether every recurrence of the graph became one round per frame."""
        return all(body is not None for body in self._rolled.values())

    def _in_loop(self, node: torch.fx.Node) -> bool:
        """Whether a node belongs to a recurrence; the first of them makes all of it."""
        from edgepv.stream.loops import later, roll

        loop = next((p for p in self.graph.loops if node.name in p.rounds), None)
        if loop is None or not isinstance(self.time, Stream):
            return False
        if id(loop) not in self._rolled:
            self._rolled[id(loop)] = roll(self, loop)
        body = self._rolled[id(loop)]
        if body is None:
            return False
        name, rounds = loop.rounds[node.name]
        self.values[node.name] = later(body[name], rounds)
        return True

    def adopt(self, inner: GraphInterpreter, rounds: int, height: int, known: int, clock: Clock) -> None:
        """Take the layers of one row of a recurrence as those of all its rounds. known: states before it."""
        self.flops_clip += rounds * inner.flops_clip
        if not isinstance(self.time, Stream):
            return
        plans = self.time.plans[known:]
        ages = tuple(sorted({age for plan in plans for age in plan.ages}))
        for i, one in enumerate(inner.layers):
            entry = replace(
                one,
                clock=clock,
                flops_clip=rounds * one.flops_clip,
                flops_frame=one.flops_frame * height / self.time.every,
                rows=self.time.ages(clock, range(height)),
            )
            if i == len(inner.layers) - 1:
                entry = replace(entry, states=tuple(range(known, known + len(plans))), held=ages)
            self.layers.append(entry)

    def _value(self, node: torch.fx.Node) -> Any:
        if node is self.graph.input:
            dims, x = tuple(node.meta["val"].shape), self._input
            return TimedTensor(x, dims, Axis(2), dims[2], Clock(1, 0, 0, (0, dims[2] - 1)))
        if node.op == "placeholder":
            return self.graph.constants[node.name]
        if node.name in self.graph.folded:
            return self._resolve(node.args[0])
        args = [self._resolve(a) for a in node.args]
        kwargs = {k: self._resolve(v) for k, v in node.kwargs.items()}
        name = kind(node)
        if name == "getitem":
            return args[0][args[1]]
        if static(args) and static(list(kwargs.values())):
            return self.constant("", lambda: operator(node)(*args, **kwargs))
        return self._once(name, args, kwargs)

    def _resolve(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return (
                (self.values[argument.name],)
                if kind(argument) == BATCH_NORM and argument.name in self.graph.folded
                else self.values[argument.name]
            )
        if isinstance(argument, list | tuple):
            return type(argument)(self._resolve(a) for a in argument)
        return argument

    def _once(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The rule's result, computed once for each operator and the rows it sees.

        The same operator on the same rows at another time is not computed again: a loop over frames costs one
        frame. Not so if it looks at several frames, which have other ends then.
        """
        function = RULES.get(name) or _pointwise(self.node) or _no_rule
        known = 0
        if isinstance(self.time, Stream):
            known = len(self.time.plans)
            self.time.label = state_name(self.node)
        if name not in SUMS and any(isinstance(v, Sum) for v in _values([args, kwargs])):
            raise RefusedError(*Sum.REFUSED)
        if name not in ASSIGNMENTS:
            args, kwargs = self._painted(args), {k: self._painted(v) for k, v in kwargs.items()}
        begin = _first_ready([args, kwargs])
        norm = id(self.graph.affine.get(self.node.name))
        key = (name, norm, _key(args, begin), _key(kwargs, begin))
        cost = flops(self.node, name, args)
        self.flops_clip += cost
        if key in self._memo:
            then, result, noted, _ = self._memo[key]
            for i in noted:
                self.layers[i] = replace(self.layers[i], flops_clip=self.layers[i].flops_clip + cost)
            return moved(result, begin - then)
        self._looked, self._share = False, 1.0
        result = self._ruled(function, args, kwargs)
        first = len(self.layers)
        self._note(name, cost, result, known)
        if not self._looked:
            inputs = (args, kwargs)  # what is held keeps its id
            self._memo[key] = (begin, result, range(first, len(self.layers)), inputs)
        return result

    def _ruled(self, function: Rule, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The rule's result; where it refuses and windows are allowed, the operator's own on all frames."""
        if not isinstance(self.time, Stream) or not self.graph.windows:
            return function(self, *args, **kwargs)
        opened = any(n.name in self.windowed for n in self.node.all_input_nodes)
        if not opened:
            before = self.time.mark()
            try:
                return function(self, *args, **kwargs)
            except EdgepvError:
                raise
            except Exception:
                if self._random(args):
                    raise
                self.time.back(before)
        self.windowed.add(self.node.name)
        args, kwargs = self._opened(args), {k: self._opened(v) for k, v in kwargs.items()}
        try:
            return function(self, *args, **kwargs)
        except EdgepvError:
            raise
        except Exception:
            shapes = [v.dims for v in _values([args, kwargs])]
            if not shapes or max(map(len, shapes)) > MAX_RANK:
                raise
            return self._own(args, kwargs)

    def _random(self, args: list[Any]) -> bool:
        """Whether the operator draws numbers: what only could, with dropout, does not without."""
        name = kind(self.node)
        if name in CALM:
            return name.endswith("attention") and len(args) > 4 and args[4] > 0
        return torch.Tag.nondeterministic_seeded in getattr(operator(self.node), "tags", ())

    def _opened(self, x: Any) -> Any:
        """Arguments with all frames of the clip as a plain dimension."""
        if isinstance(x, Sum):
            raise RefusedError(*Sum.REFUSED)
        if isinstance(x, TimedTensor):
            if x.n == 1:
                return (
                    TimedTensor(in_four_dims(x.rows, x.dims, None), x.dims, None, 1, x.clock) if x.axis else x
                )
            taps = self.gather(x, range(x.n), n=1)
            return laid_open(x, taps.stacked(), taps.clock)
        return type(x)(self._opened(y) for y in x) if isinstance(x, list | tuple) else x

    def _own(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The original's operator on plain values, row by row."""
        values = _values([args, kwargs])
        rows, clock = self.align(values)
        results = []
        for j in range(len(rows[0])):
            given = {id(v): r[j : j + 1].reshape(v.dims) for v, r in zip(values, rows)}

            def look(x: Any, given: dict[int, Tensor] = given) -> Any:
                if isinstance(x, TimedTensor):
                    return given[id(x)]
                return type(x)(map(look, x)) if isinstance(x, list | tuple) else x

            results.append(operator(self.node)(*look(args), **{k: look(v) for k, v in kwargs.items()}))

        def lay(parts: list[Any]) -> Any:
            if isinstance(parts[0], Tensor):
                dims = tuple(parts[0].shape)
                joined = torch.cat([p.reshape(1, -1) for p in parts]) if len(parts) > 1 else parts[0]
                return TimedTensor(
                    in_four_dims(joined.reshape(len(parts), -1), dims, None), dims, None, 1, clock
                )
            return type(parts[0])(map(lay, map(list, zip(*parts))))

        return lay(results)

    def _painted(self, x: Any) -> Any:
        """What was assigned to piece by piece, read."""
        if isinstance(x, Canvas):
            return RULES["aten::painted"](self, x)
        return type(x)(self._painted(y) for y in x) if isinstance(x, list | tuple) else x

    def _note(self, name: str, cost: float, result: Any, known: int) -> None:
        """Record a layer if it computes or remembers; ``known`` states were there before it."""
        out = result[0] if isinstance(result, tuple | list) and result else result
        time = self.time
        plans = time.plans[known:] if isinstance(time, Stream) else []
        if not isinstance(out, TimedTensor) or not (cost or plans):
            return
        height = len(out.rows)
        each = self._share * cost / out.n * height / (time.every if isinstance(time, Stream) else 1)
        entry = Layer(layer(self.node), name[6:], place(self.node), out.n, out.clock, cost, each)
        if isinstance(time, Stream):
            entry = replace(
                entry,
                states=tuple(range(known, len(time.plans))),
                rows=time.ages(out.clock, range(height)),
                held=tuple(sorted({age for plan in plans for age in plan.ages})),
            )
        self.layers.append(entry)

    def constant(self, suffix: str, make: Callable[[], T]) -> T:
        """A constant of this node, made by the first walk and kept."""
        key = f"{self.node.name}{suffix}"
        if key not in self.folded:
            value = make()
            if not isinstance(value, Tensor):
                return value
            self.folded[key] = value.detach().contiguous()
        return cast("T", self.folded[key])

    def fact(self, name: str, find: Callable[[], Any]) -> Any:
        """Something about a constant of this node, found out by the first walk only."""
        return self.fact_of(self.node, name, find)

    def fact_of(self, node: torch.fx.Node, name: str, find: Callable[[], Any]) -> Any:
        """``fact`` of another node."""
        key = (node.name, name)
        if key not in self.folded.facts:
            self.folded.facts[key] = find()
        return self.folded.facts[key]

    def gather(
        self,
        v: TimedTensor,
        offsets: Sequence[int],
        *,
        n: int,
        stride: int = 1,
        first: int = 0,
        fill: float = 0.0,
    ) -> Taps:
        """``time.gather``, noting whether it looks beyond the ends of the clip."""
        beyond = first + min(offsets) < 0 or (n - 1) * stride + first + max(offsets) > v.n - 1
        self._looked |= beyond or len(offsets) > 1
        if beyond:
            self.edges.setdefault(layer(self.node), place(self.node))
        return self.time.gather(v, offsets, n=n, stride=stride, first=first, fill=fill)

    def align(self, values: Sequence[TimedTensor]) -> tuple[list[Tensor], Clock]:
        """``time.align``. What was pooled over the clip and goes back to its frames is not exact."""
        if len({v.n == 1 for v in values}) > 1:
            self.approximate("joins frames with a mean over the clip; a stream takes the clip that ends now")
        return self.time.align(values)

    def spends(self, share: float) -> None:
        """Declare that the stream does only this share of the original's operations at this node."""
        self._share = share

    def approximate(self, why: str) -> None:
        """Declare that what this node becomes is not what the clip model computes."""
        if isinstance(self.time, Stream):
            self.approximations.setdefault(describe(self.node), why)

    def reshaped(self, v: TimedTensor) -> TimedTensor:
        """``v`` in the shape that the original's tensor has after this node."""
        return reshape(v, tuple(self.node.meta["val"].shape))


def operator(node: torch.fx.Node) -> Callable[..., Any]:
    """The function a call node calls."""
    assert callable(node.target)
    return node.target


def state_name(node: torch.fx.Node) -> str:
    """A name for a state made at ``node``, as graphs like it: letters, digits, underscores.

    Exporters name their own tensors after operators ("cat", "mean_1"), so a bare operator's name is not used.
    """
    name = layer(node)
    return "".join(c if c.isalnum() else "_" for c in (f"top.{name}" if name == node.name else name))


def _pointwise(node: torch.fx.Node) -> Rule | None:
    tags = getattr(node.target, "tags", ())
    return RULES["aten::pointwise"] if torch.Tag.pointwise in tags else None


def _no_rule(walk: GraphInterpreter, *_: Any, **__: Any) -> Any:
    raise RefusedError("has no rule that keeps it exact frame by frame")


def _first_ready(arguments: Any) -> int:
    ready = [v.clock.ready for v in _values(arguments)]
    return ready[0] if ready else 0


def _values(x: Any) -> list[TimedTensor]:
    if isinstance(x, TimedTensor):
        return [x]
    if isinstance(x, dict):
        x = list(x.values())
    return [v for y in x for v in _values(y)] if isinstance(x, list | tuple) else []


def _key(x: Any, begin: int) -> Any:
    if isinstance(x, TimedTensor):
        c = x.clock
        return ("v", id(x.rows), x.dims, x.axis, x.n, c.period, c.ready - begin, c.oldest - begin, c.clean)
    if isinstance(x, Tensor):
        return ("t", id(x))
    if isinstance(x, dict):
        return tuple((k, _key(v, begin)) for k, v in x.items())
    if isinstance(x, list | tuple):
        return tuple(_key(y, begin) for y in x)
    return ("o", id(x)) if hasattr(x, "dims") else repr(x)


def moved(x: Any, frames: int) -> Any:
    """Values of the same rows, so many frames further on."""
    if isinstance(x, TimedTensor):
        return replace(x, clock=x.clock.later(frames)) if frames else x
    if isinstance(x, list | tuple):
        return type(x)(moved(y, frames) for y in x)
    return x
