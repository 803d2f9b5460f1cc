"""Proof that a stream computes what its clip model computes.

Two comparisons, neither of which trusts the other's means:

* ``against_clip``: the step function, run frame by frame, against the untouched module on whole clips.
  A clip model sees padding beyond the ends of its clip where a stream sees other frames; so for this
  comparison only, every operator is shown the padding whenever it asks for a position outside the clip.
  Then the two must agree to rounding, edges included, and a wrong delay, state or weight shows.
* ``against_chunk``: any stepped engine, as it will run, over a long video, against the same video
  computed as one single step without carried states. It catches what a host, a converter or an engine
  does to the states, over as many frames as wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgepv.errors import ParityError, UsageError
from edgepv.stream.capture import Captured, capture, describe
from edgepv.stream.rewrite import StreamModel
from edgepv.stream.step import Infer, Stepper, Tensors
from edgepv.stream.times import Stream, Taps, first_step
from edgepv.stream.values import Clock, Value, constant_rows
from edgepv.stream.walk import Walk, operator

TOLERANCE = 1e-5


@dataclass
class Masked(Stream):
    """A step that shows operators the clip's padding. now: frame of the clip this step begins with.

    padded: rows that are others with padding shown -> those and what is shown. States hold the others, as
    they do in a stream, where padding is only another name for the same rows.
    """

    now: int = 0
    padded: dict[int, tuple[Tensor, Value, float]] = field(default_factory=dict)

    def gather(
        self, v: Value, offsets: Sequence[int], *, n: int, stride: int = 1, first: int = 0, fill: float = 0.0
    ) -> Taps:
        taps = super().gather(v, offsets, n=n, stride=stride, first=first, fill=fill)
        lags = [v.clock.period * (max(offsets) - o) for o in offsets]
        return self._shown(v, taps, lags, fill)

    def _at(self, v: Value, clock: Clock, lags: Sequence[int], fill: float = 0.0) -> Taps:
        if id(v.rows) not in self.padded:
            return super()._at(v, clock, lags, fill)
        _, under, shown = self.padded[id(v.rows)]
        taps = self._at(replace(v, rows=under.rows), clock, lags, fill)
        return self._shown(under, taps, lags, shown)

    def _shown(self, v: Value, taps: Taps, lags: Sequence[int], fill: float) -> Taps:
        """``taps`` of ``v`` with ``fill`` where they look beyond the clip."""
        clock = taps.clock
        g, first = self.grid(clock)
        rows, hidden = [], set()
        for j, (lag, tap) in enumerate(zip(lags, taps.each())):
            for i, row in enumerate(tap.split(1)):
                late = self.now + first + g * i - lag - v.clock.ready
                inside = late % v.clock.period == 0 and 0 <= late // v.clock.period < v.n
                rows.append(row if inside else torch.full_like(row, fill))
                hidden |= set() if inside else {(i, j)}
        made = torch.cat(rows)
        if list(lags) == [0] and len(taps.joined) == taps.height:
            self.padded[id(made)] = made, v, fill
        starts = tuple(taps.height * j for j in range(len(lags)))
        return Taps(made, starts, 1, taps.height, clock, frozenset(hidden))

    def resumed(self, held: Tensor, row: int, clock: Clock) -> Tensor:
        g, first = self.grid(clock)
        return held if self.now + first + g * row > clock.ready else torch.zeros_like(held)


@dataclass
class Long(Stream):
    """Many steps of ``chunk`` frames as one, without carried states."""

    chunk: int = 1

    def resumed(self, held: Tensor, row: int, clock: Clock) -> Tensor:
        g, first = self.grid(clock)
        step, before = (first + g * row) // self.chunk, (first + g * (row - 1)) // self.chunk
        counted = step == before or before >= first_step(clock, self.origin, self.chunk)
        return held if counted else torch.zeros_like(held)


def steps(model: StreamModel) -> Infer:
    """The torch step function as an engine."""
    names = [model.spec.input.name, *(s.name for s in model.stream.states)]

    def infer(feeds: Tensors) -> Tensors:
        with torch.no_grad():
            made = model.step(*(torch.from_numpy(np.array(feeds[n])) for n in names))
        return _named(model, made)

    return infer


def _named(model: StreamModel, made: Sequence[Tensor]) -> Tensors:
    return {n: v.numpy() for n, v in zip(("logits", *model.outputs), made)}


def against_clip(module: nn.Module, model: StreamModel, clips: Sequence[np.ndarray]) -> float:
    """Largest difference of the stepped answer from ``module`` on clips (C, T, H, W), as a share of the
    largest answer (at least 1). For an approximate stream it says how approximate.

    Raises UsageError if ``module`` itself answers what is not finite.
    """
    errors = []
    for clip in clips:
        with torch.no_grad():
            wanted = module(torch.from_numpy(clip)[None])
        if not bool(wanted.isfinite().all()):
            raise UsageError(
                f"{model.spec.name}: the original itself answers NaN or infinity, so no stream can be "
                "compared with it. Check its weights: very large ones, or a running_var below 0"
            )
        rows = _rows(wanted, _answer(model))
        scale = float(wanted.abs().max().clamp(min=1))
        errors += [float((got - rows[at].flatten()).abs().max()) / scale for at, got in _masked(model, clip)]
    return _worst(errors)


def _answer(model: StreamModel) -> Value:
    """The answer as it comes out of the graph, of a step on nothing."""
    frames = torch.zeros(model.spec.input.shape)
    with torch.no_grad():
        return model.walk(Stream(model.stream.chunk, model.origin, input=frames)).run(frames)


def _rows(original: Tensor, like: Value) -> Tensor:
    """A tensor of the original as rows, one for each position of ``like``."""
    rows = constant_rows(original, like.dims, like.axis, like.n)
    return rows.expand(like.n, *rows.shape[1:])


def _worst(errors: Sequence[float]) -> float:
    """The largest, 0 if there are none; not a number if one is not (Python's max would lose it)."""
    return float(np.max(errors, initial=0.0))


def _masked(model: StreamModel, clip: np.ndarray, keep: list[Any] | None = None) -> list[tuple[int, Tensor]]:
    """(position, answer) to one clip with its padding shown; position 0 alone for one answer per clip.
    Before the clip all states were filled with noise."""
    answer, chunk = _answer(model), model.stream.chunk
    grid = int(np.lcm(chunk, model.explanation.stride))
    begin = model.origin % grid + -(-model.stream.warmup // grid) * grid
    due = [begin + model.due + answer.clock.period * i for i in range(answer.n)]
    last = max(due[-1], begin + clip.shape[1] - 1)
    frames = np.random.default_rng(0).standard_normal((last + 1 + -(last + 1) % chunk, *_picture(clip)))
    frames = frames.astype(np.float32)
    frames[begin : begin + clip.shape[1]] = clip.transpose(1, 0, 2, 3)

    def infer(feeds: Tensors) -> Tensors:
        return _masked_step(model, feeds, stepper.seen - chunk - begin, keep)

    stepper = Stepper(infer, model.spec, model.stream)
    answers = [stepper.step(frame[None])["logits"] for frame in frames]
    return [(i, torch.from_numpy(answers[at]).flatten()) for i, at in enumerate(due) if (at + 1) % chunk == 0]


def _picture(clip: np.ndarray) -> tuple[int, ...]:
    return (clip.shape[0], *clip.shape[2:])


def _masked_step(model: StreamModel, feeds: Tensors, now: int, keep: list[Any] | None) -> Tensors:
    with torch.no_grad():
        tensors = {n: torch.from_numpy(np.array(v)) for n, v in feeds.items()}
        frames = tensors[model.spec.input.name]
        states = [tensors[s.name] for s in model.stream.states]
        time = Masked(model.stream.chunk, model.origin, states, input=frames, now=now)
        walk = model.walk(time)
        made = model.answer(walk.run(frames))
        if keep is not None:
            keep.append((now, walk))
        return _named(model, (made, *time.fresh))


def against_chunk(model: StreamModel, infer: Infer, video: np.ndarray) -> float:
    """Largest difference between ``infer``, stepped over a video (N, C, H, W), and one step over all of it,
    over every answer due; a share of the largest answer (at least 1)."""
    chunk = model.stream.chunk
    grid = int(np.lcm(chunk, model.explanation.stride))
    video = video[: len(video) // grid * grid]
    stepper = Stepper(infer, model.spec, model.stream)
    got = np.concatenate([stepper.step(frame[None])["logits"] for frame in video])
    errors = []
    for phase in range(0, grid, max(1, chunk)):
        with torch.no_grad():
            frames = torch.from_numpy(np.ascontiguousarray(video))
            time = Long(len(video), model.origin + phase, None, input=frames, chunk=chunk)
            value = model.walk(time).run(frames)
        g, first = time.grid(value.clock)
        at = np.arange(first, len(video), g)
        keep = (at + 1) % chunk == 0
        wanted = value.rows.reshape(len(value.rows), -1).numpy()[keep]
        scale = max(1.0, float(np.abs(wanted).max()))
        errors.append(float(np.abs(wanted - got[at[keep]].reshape(len(wanted), -1)).max()) / scale)
    return _worst(errors)


def first_divergence(
    module: nn.Module, model: StreamModel, clip: np.ndarray, tolerance: float = TOLERANCE
) -> str | None:
    """The first operator of the original, in order, whose values the stepped stream does not reproduce on
    ``clip``; None if all of them agree."""
    graph = capture(module, torch.from_numpy(clip)[None])
    kept: list[Any] = []
    _masked(model, clip, kept)
    wanted = _originals(graph, torch.from_numpy(clip)[None])
    for node in graph.nodes:
        original = wanted.get(node.name)
        if not isinstance(original, Tensor) or node.name in graph.affine:
            continue
        error = _worst([_difference(original, walk, node.name, now) for now, walk in kept])
        if not error <= tolerance * max(1.0, float(original.float().abs().max())):
            return f"{describe(node)} differs by {error:.2g}"
    return None


def _originals(graph: Captured, clip: Tensor) -> dict[str, Any]:
    """Every value of the captured graph, computed by the original's own operators."""
    values: dict[str, Any] = {**graph.constants, graph.input.name: clip}

    def look(a: Any) -> Any:
        if isinstance(a, torch.fx.Node):
            return values[a.name]
        return type(a)(look(x) for x in a) if isinstance(a, list | tuple) else a

    with torch.no_grad():
        for node in graph.nodes:
            if node.op == "call_function":
                values[node.name] = operator(node)(
                    *look(node.args), **{k: look(v) for k, v in node.kwargs.items()}
                )
    return values


def _difference(original: Tensor, walk: Walk, name: str, now: int) -> float:
    value = walk.values.get(name)
    if not isinstance(value, Value) or not isinstance(walk.time, Stream):
        return 0.0
    rows = _rows(original, value)
    g, first = walk.time.grid(value.clock)
    errors = []
    for j, row in enumerate(value.rows):
        due = now + first + g * j - value.clock.ready
        at = due // value.clock.period
        if due % value.clock.period == 0 and 0 <= at < value.n:
            errors.append(float((row.flatten().float() - rows[at].flatten().float()).abs().max()))
    return _worst(errors)


def verify(
    module: nn.Module, model: StreamModel, clips: Sequence[np.ndarray], *, tolerance: float = TOLERANCE
) -> float:
    """Largest difference from ``module`` on ``clips`` (C, T, H, W), each as long as the model's clips.

    Raises ParityError naming the first diverging operator if an exact stream differs by more than
    ``tolerance`` of the largest answer, UsageError if ``module`` itself answers NaN. For an approximate one
    the difference is only returned.
    """
    error = against_clip(module, model, clips)
    if model.stream.exactness != "approximate" and not error <= tolerance:
        where = first_divergence(module, model, clips[0], tolerance) or "none found by itself: the states"
        raise ParityError(
            f"{model.spec.name}: the stream differs from the clip model by {error:.2g} of its largest "
            f"answer, allowed {tolerance:g}. First to differ: {where}. Use --stream window, and report it"
        )
    return error
