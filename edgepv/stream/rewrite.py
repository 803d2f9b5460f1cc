"""Turn a clip model into a step model, or into a clip model without Conv3D."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgepv.errors import ModelError, UsageError
from edgepv.stream.capture import Captured, capture, describe
from edgepv.stream.interpreter import Folded, GraphInterpreter, Layer
from edgepv.stream.loops import find
from edgepv.stream.rules import (  # noqa: F401  (they register the rules)
    assign,
    memory,
    running,
    shape,
    window,
)
from edgepv.stream.times import Clip, Stream
from edgepv.stream.values import MAX_RANK, RefusedError, TimedTensor
from edgepv.types import ModelSpec, StateSpec, StreamSpec

WORTH = 2.0
"""Times that a stream which computes whole clips in its last part must save, else the window is as good."""
POOLS = ("window", "running", "ema")


class NotStreamableError(ModelError):
    """A model that stays a clip model. why: operator, source line and reason. cure: what to change."""

    def __init__(self, name: str, error: RefusedError) -> None:
        self.why, self.cure = error.why, error.cure
        super().__init__(f"{name}: {error.why}. To stream it, {error.cure}")


@dataclass(frozen=True)
class Explanation:
    """What a conversion did. layers: every operator that computes or remembers, in order.

    flops_clip: of the original for one clip. flops_frame: of the stream for one new frame, by the
    formula: each layer's cost per position, as often as it runs. stride: clip frames after which every
    layer has advanced by whole positions. window: why the last part computes all frames at every step, if so.
    """

    layers: tuple[Layer, ...]
    flops_clip: float
    flops_frame: float
    stride: int
    window: str = ""


class Rewritten(nn.Module):
    """A captured graph that runs in another layout of time. Weights are folded once, here."""

    def __init__(self, graph: Captured, folded: Folded, pool: str) -> None:
        super().__init__()
        self._graph, self._pool = graph, pool
        self._facts = folded.facts
        self._names = {}
        for kind, tensors in (("folded", folded), ("weight", graph.constants)):
            for i, (key, value) in enumerate(tensors.items()):
                self._names[kind, key] = f"{kind}_{i}"
                self.register_buffer(f"{kind}_{i}", value)

    def walk(self, time: Any) -> GraphInterpreter:
        """A walk over this module's own tensors, so that exporters see them as its weights."""

        def mine(kind: str) -> dict[str, Tensor]:
            return {key: getattr(self, name) for (k, key), name in self._names.items() if k == kind}

        graph = replace(self._graph, constants=mine("weight"))
        return GraphInterpreter(graph, time, Folded(mine("folded"), self._facts), self._pool)


class FlatModel(Rewritten):
    """A clip model whose tensors have at most four dimensions: (1, C, T, H, W) in, as the original."""

    def forward(self, clip: Tensor) -> Tensor:
        """The original's answer."""
        value = self.walk(Clip()).run(_rows_of_clip(clip))
        return _as_original(value)


class StreamModel(Rewritten):
    """A clip model as ``step(frames, *states) -> (answer, *fresh)``.

    frames: (chunk, C, H, W), oldest first. The i-th fresh tensor belongs to the states whose
    ``output`` is the i-th of ``outputs``. ``spec`` has one step's frames as its input, ``stream`` says
    how the states are carried, ``explanation`` what was done.
    """

    def __init__(
        self,
        graph: Captured,
        folded: Folded,
        pool: str,
        *,
        spec: ModelSpec,
        stream: StreamSpec,
        origin: int,
        due: int,
        explanation: Explanation,
    ) -> None:
        super().__init__(graph, folded, pool)
        self.spec, self.stream, self.explanation = spec, stream, explanation
        self.origin, self.due = origin, due  # in frames of the clip: see Stream and Clock.ready

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the fresh tensors, in the order ``step`` gives them."""
        names = dict.fromkeys(s.output for s in self.stream.states)
        return tuple(n for n in names if n != self.spec.input.name)

    def init_state(self) -> dict[str, Tensor]:
        """The states before the first frame, by name."""
        return {s.name: torch.full(s.shape, s.init) for s in self.stream.states}

    def step(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Answer to ``frames`` and what the states need of this step."""
        time = Stream(self.stream.chunk, self.origin, list(states), input=frames)
        return self.answer(self.walk(time).run(frames)), *time.fresh

    def recorded(self) -> torch.fx.GraphModule:
        """``step`` for many calls: its operators as they were met once, without the walk that finds them."""
        from torch.fx.experimental.proxy_tensor import make_fx

        with torch.no_grad():
            frames, states = torch.zeros(self.spec.input.shape), self.init_state().values()
            return make_fx(self.step)(frames, *states)

    def answer(self, value: TimedTensor) -> Tensor:
        """The newest row, in the shape of the original's answer (with one frame where that has T)."""
        return value.rows[-1:].reshape(value.with_rows(value.rows, value.clock, 1).dims)


def _rows_of_clip(clip: Tensor) -> Tensor:
    return clip[0].transpose(0, 1)


def _as_original(v: TimedTensor) -> Tensor:
    """The rows of a whole clip in the shape the original answers in."""
    if v.axis is None:
        return v.rows.reshape(v.dims)
    at, outer, inner = v.axis
    split = v.rows.reshape(v.n, *v.dims[:at], outer, inner, *v.dims[at + 1 :])
    return split.movedim(0, at + 1).reshape(v.dims)


def convert(module: nn.Module, spec: ModelSpec, *, every: int = 1, pool: str = "window") -> StreamModel:
    """Rewrite a clip model into a per-frame stream model with the same weights.

    spec: of the clip model, input (1, C, T, H, W). every: frames per step and per answer; 1 answers
    every frame, the clip's stride costs least. pool: what a mean over the clip becomes, "window" (exact),
    "running" or "ema".

    Raises NotStreamableError naming the operator, its source line and the cure when the model cannot be
    streamed, UsageError for an ``every`` that does not fit the model's strides.
    """
    if pool not in POOLS:
        raise UsageError(f"unknown pool '{pool}'. Known: {', '.join(POOLS)}")
    if spec.input.layout != "NCTHW":
        raise UsageError(f"{spec.name} eats single frames already (layout {spec.input.layout})")
    try:
        with torch.no_grad():
            graph = capture(module, _example(spec))
            try:
                return _convert(graph, spec, every, pool)
            except RefusedError as e:
                return _with_windows(graph, spec, every, pool, e)
    except RefusedError as e:
        raise NotStreamableError(spec.name, e) from e


def _with_windows(
    graph: Captured, spec: ModelSpec, every: int, pool: str, refused: RefusedError
) -> StreamModel:
    """A stream whose last part computes all frames of a clip at every step.

    Raises ``refused`` where that is not possible either, or saves too little.
    """
    try:
        model = _convert(replace(graph, windows=True), spec, every, pool)
    except (RefusedError, UsageError):
        raise refused from None
    done = model.explanation
    if done.flops_clip < WORTH * done.flops_frame * every or not done.flops_frame:
        raise refused
    model.explanation = replace(done, window=refused.why)
    return model


def flatten(module: nn.Module, spec: ModelSpec) -> FlatModel:
    """Rewrite a clip model without Conv3D and without a tensor of more than four dimensions.

    The answer is the original's, edges included. Raises NotStreamableError like ``convert``.
    """
    try:
        with torch.no_grad():
            graph, folded = capture(module, _example(spec)), Folded()
            walk = GraphInterpreter(graph, Clip(), folded)
            walk.run(_rows_of_clip(_example(spec)))
            _check_ranks(walk)
            return FlatModel(graph, folded, "window").eval()
    except RefusedError as e:
        raise NotStreamableError(spec.name, e) from e


def _example(spec: ModelSpec) -> Tensor:
    if min(spec.input.shape) < 1:
        raise UsageError(f"{spec.name}: input shape {spec.input.shape} leaves sizes open. Give every size")
    return torch.randn(spec.input.shape, generator=torch.Generator().manual_seed(0))


def _convert(graph: Captured, spec: ModelSpec, every: int, pool: str) -> StreamModel:
    """Plan twice: the first pass says when the answer is due, the second starts clips to suit."""
    _, c, _, h, w = spec.input.shape
    if every < 1:
        raise UsageError(f"--every {every}: give a number of frames above 0")
    x = torch.randn((every, c, h, w), generator=torch.Generator().manual_seed(1))
    graph = replace(graph, loops=find(graph, _rows_of_clip(_example(spec))))
    folded = Folded()
    first, answer, _ = _plan(graph, folded, x, every, 0, pool)
    if not first.rolled:
        graph, folded = replace(graph, loops=()), Folded()
        _, answer, _ = _plan(graph, folded, x, every, 0, pool)
    origin = every - 1 - answer.clock.ready
    walk, answer, time = _plan(graph, folded, x, every, origin, pool)
    _check_ranks(walk)
    if answer.n > 1 and answer.axis and answer.axis.outer * answer.axis.inner > 1:
        raise RefusedError(
            f"{describe(graph.output)} answers for all frames of the clip in one dimension",
            "answer once for the clip: by a mean over time, or by the last frame",
        )
    stream = _stream_spec(walk, answer, time, spec)
    cost = Explanation(
        tuple(walk.layers),
        walk.flops_clip,
        sum(layer.flops_frame for layer in walk.layers),
        math.lcm(*(layer.clock.period for layer in walk.layers)),
    )
    per_step = replace(spec.input, shape=(every, c, h, w), layout="NCHW")
    early = max(0, spec.frames - 1 - answer.clock.ready) if answer.n == 1 else 0
    return StreamModel(
        graph,
        folded,
        pool,
        spec=replace(spec, input=per_step, lag=max(0, spec.lag - early)),
        stream=stream,
        origin=origin,
        due=answer.clock.ready,
        explanation=cost,
    ).eval()


def _plan(
    graph: Captured, folded: Folded, x: Tensor, every: int, origin: int, pool: str
) -> tuple[GraphInterpreter, TimedTensor, Stream]:
    time = Stream(every, origin, input=x)
    walk = GraphInterpreter(graph, time, folded, pool)
    return walk, walk.run(x), time


def _check_ranks(walk: GraphInterpreter) -> None:
    """Raise RefusedError for a tensor of more than four dimensions."""
    for node in walk.graph.nodes:
        value = walk.values.get(node.name)
        if isinstance(value, TimedTensor) and value.rows.ndim > MAX_RANK:
            shape = tuple(value.rows.shape)
            raise RefusedError(f"{describe(node)} makes a tensor of {len(shape)} dimensions, {shape}")


def _stream_spec(walk: GraphInterpreter, answer: TimedTensor, time: Stream, spec: ModelSpec) -> StreamSpec:
    names = _unique([p.name for p in time.plans], taken=(spec.input.name, *(a.name for a in spec.answers)))
    fresh = {p.source: f"{name}_next" for p, name in reversed(list(zip(time.plans, names)))}
    fresh[-1] = spec.input.name
    states = tuple(
        StateSpec(
            name,
            fresh[p.source],
            p.shape,
            update=p.update,
            init=p.init,
            fresh=p.fresh,
            period=p.period,
            first=p.first,
        )
        for p, name in zip(time.plans, names)
    )
    clock, last = answer.clock, answer.clock.period - 1 if answer.n > 1 else spec.frames - 1
    field = None if clock.endless else clock.ready - clock.oldest + 1
    delay = max(0, clock.ready - last)
    exact: Any = "approximate" if walk.approximations else "delayed" if delay else "exact"
    return StreamSpec(
        states=states,
        warmup=field or spec.frames + delay,
        receptive_field=field,
        chunk=time.every,
        delay=delay,
        exactness=exact,
        because=tuple(f"{op}: {why}" for op, why in walk.approximations.items()),
        edges=tuple(f"{name} ({where})" if where else name for name, where in walk.edges.items())
        if clock.clean[0] > clock.clean[1] or clock.endless
        else (),
    )


def _unique(names: list[str], taken: tuple[str, ...]) -> list[str]:
    """Names with a number where one comes twice or is taken."""
    unique: list[str] = []
    for name in names:
        n, base = 1, name or "state"
        name = base
        while name in unique or name in taken:
            n += 1
            name = f"{base}_{n}"
        unique.append(name)
    return unique
