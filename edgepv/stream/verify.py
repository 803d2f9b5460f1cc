"""Proof that a stream computes what its clip model computes.

Three comparisons, none of which trusts the others' means:

* ``against_clip``: the step function, run frame by frame, against the untouched module on whole clips.
  A clip model sees padding beyond the ends of its clip where a stream sees other frames; so for this
  comparison only, every operator is shown the padding whenever it asks for a position outside the clip.
  Then the two must agree to rounding, edges included, and a wrong delay, state or weight shows.
* ``against_chunk``: any stepped engine, as it will run, over a long video, against the same video
  computed as one single step without carried states. It catches what a host, a converter or an engine
  does to the states, over as many frames as wanted.
* ``against_video``: the step function, run frame by frame over a long video, against the untouched module on
  that video, for clips in its middle, where nobody sees an end (see ``untouched``). It shares nothing with
  the rewriter but what that declares: warm-up and delay. So a wrong clock shows, which ``against_clip``
  reads, too. Not every module can be asked so.

What is allowed is a multiple of the clip model's own floor, its float32 answer against float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from edgepv.errors import ModelError, ParityError
from edgepv.stream.capture import Captured, capture, describe
from edgepv.stream.interpreter import GraphInterpreter, operator
from edgepv.stream.rewrite import StreamModel
from edgepv.stream.step import Infer, Stepper, Tensors
from edgepv.stream.times import Stream, Taps, first_step
from edgepv.stream.untouched import Since, UnfitError, Untouched, Windows
from edgepv.stream.values import Clock, TimedTensor, constant_rows
from edgepv.types import StreamProof

TOLERANCE = 1e-5
"""Allowed where the clip model's floor is not known."""
FLOORS, LEAST, MOST = 8.0, 1e-6, 1e-3
"""Allowed otherwise: so many floors, but not less than some roundings of float32, nor what is no rounding."""
VIDEO, WORK, MEMORY = 200, 5e11, 1e9
"""Of the long video: frames, or as many as take so many operations or bytes."""
ASKED = 24
"""Clips of the long video that are compared."""
SINCE = 6
"""Of these where each is asked for by all frames since the video began."""
Asked: TypeAlias = Untouched | Windows | Since
WHERE = "On whole clips it does not: its layers are read at wrong times"


@dataclass
class Masked(Stream):
    """A step that shows operators the clip's padding. now: frame of the clip this step begins with.

    padded: rows that are others with padding shown -> those and what is shown. States hold the others, as
    they do in a stream, where padding is only another name for the same rows.
    """

    now: int = 0
    padded: dict[int, tuple[Tensor, TimedTensor, float]] = field(default_factory=dict)

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
        """What a stream sees, with rows beyond the clip's ends put to ``fill``; see ``Time.gather``."""
        taps = super().gather(v, offsets, n=n, stride=stride, first=first, fill=fill)
        lags = [v.clock.period * (max(offsets) - o) for o in offsets]
        return self._shown(v, taps, lags, fill)

    def _at(self, v: TimedTensor, clock: Clock, lags: Sequence[int], fill: float = 0.0) -> Taps:
        if id(v.rows) not in self.padded:
            return super()._at(v, clock, lags, fill)
        _, under, shown = self.padded[id(v.rows)]
        taps = self._at(replace(v, rows=under.rows), clock, lags, fill)
        return self._shown(under, taps, lags, shown)

    def _shown(self, v: TimedTensor, taps: Taps, lags: Sequence[int], fill: float) -> Taps:
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
        stacked = torch.cat(rows)
        if list(lags) == [0] and len(taps.joined) == taps.height:
            self.padded[id(stacked)] = stacked, v, fill
        starts = tuple(taps.height * j for j in range(len(lags)))
        return Taps(stacked, starts, 1, taps.height, clock, frozenset(hidden))

    def resumed(self, state: Tensor, row: int, clock: Clock, init: float = 0.0) -> Tensor:
        """The state, or ``init`` at the clip's first position: noise before it does not count."""
        g, first = self.grid(clock)
        return state if self.now + first + g * row > clock.ready else torch.full_like(state, init)


@dataclass
class Long(Stream):
    """Many steps of ``chunk`` frames as one, without carried states."""

    chunk: int = 1

    def resumed(self, state: Tensor, row: int, clock: Clock, init: float = 0.0) -> Tensor:
        """The state, or ``init`` where steps of ``chunk`` frames would not have computed the row before."""
        g, first = self.grid(clock)
        step, before = (first + g * row) // self.chunk, (first + g * (row - 1)) // self.chunk
        counted = step == before or before >= first_step(clock, self.origin, self.chunk)
        return state if counted else torch.full_like(state, init)


def steps(model: StreamModel) -> Infer:
    """The torch step function as an engine."""
    names = [model.spec.input.name, *(s.name for s in model.stream.states)]
    step = model.recorded()

    def infer(feeds: Tensors) -> Tensors:
        with torch.no_grad():
            outputs = step(*(torch.from_numpy(np.array(feeds[n])) for n in names))
        return _named(model, outputs)

    return infer


def _named(model: StreamModel, outputs: Sequence[Tensor]) -> Tensors:
    return {n: v.numpy() for n, v in zip((model.spec.answer.name, *model.outputs), outputs)}


def against_clip(module: nn.Module, model: StreamModel, clips: Sequence[np.ndarray]) -> float:
    """Largest difference of the stepped answer from ``module`` on clips (C, T, H, W).

    As a share of the largest answer (at least 1). For an approximate stream it says how approximate. Raises
    ModelError if ``module`` itself answers what is not finite.
    """
    errors: list[float] = []
    before = steps(model)
    for clip in clips:
        with torch.no_grad():
            wanted = module(torch.from_numpy(clip)[None])
        if not bool(wanted.isfinite().all()):
            raise ModelError(
                f"{model.spec.name}: the original itself answers NaN or infinity, so no stream can be "
                "compared with it. Check its weights: very large ones, or a running_var below 0"
            )
        rows = _rows(wanted, _answer(model))
        scale = float(wanted.abs().max().clamp(min=1))
        errors += [
            float((got - rows[at].flatten()).abs().max()) / scale for at, got in _masked(model, clip, before)
        ]
    return _worst(errors)


def _answer(model: StreamModel) -> TimedTensor:
    """The answer as it comes out of the graph, of a step on nothing."""
    return _walked(model)[1]


def _walked(model: StreamModel) -> tuple[GraphInterpreter, TimedTensor]:
    """A step on nothing: what was computed, and the answer."""
    frames = torch.zeros(model.spec.input.shape)
    walk = model.walk(Stream(model.stream.chunk, model.origin, input=frames))
    with torch.no_grad():
        return walk, walk.run(frames)


def _rows(original: Tensor, like: TimedTensor) -> Tensor:
    """A tensor of the original as rows, one for each position of ``like``."""
    rows = constant_rows(original, like.dims, like.axis, like.n)
    return rows.expand(like.n, *rows.shape[1:])


def _worst(errors: Sequence[float]) -> float:
    """The largest, 0 if there are none; not a number if one is not (Python's max would lose it)."""
    return float(np.max(errors, initial=0.0))


def _masked(
    model: StreamModel, clip: np.ndarray, before: Infer, keep: list[Any] | None = None
) -> list[tuple[int, Tensor]]:
    """(position, answer) to one clip with its padding shown; position 0 alone for one answer per clip.

    Before the clip all states were filled with noise, by the step ``before``.
    """
    (walk, answer), chunk = _walked(model), model.stream.chunk
    grid = int(np.lcm(chunk, model.explanation.stride))
    begin = model.origin % grid + -(-model.stream.warmup // grid) * grid
    due = [begin + model.due + answer.clock.period * i for i in range(answer.n)]
    last = max(due[-1], begin + clip.shape[1] - 1)
    frames = np.random.default_rng(0).standard_normal((last + 1 + -(last + 1) % chunk, *_picture(clip)))
    frames = frames.astype(np.float32)
    frames[begin : begin + clip.shape[1]] = clip.transpose(1, 0, 2, 3)

    ready = [v.clock.ready for v in walk.values.values() if isinstance(v, TimedTensor)]
    first = min(0, *ready)  # padding is ready before the clip's first frame

    def infer(feeds: Tensors) -> Tensors:
        now = stepper.seen - chunk - begin
        return before(feeds) if now + chunk <= first else _masked_step(model, feeds, now, keep)

    stepper = Stepper(infer, model.spec, model.stream)
    answers = [stepper.step(frame[None])[model.spec.answer.name] for frame in frames]
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
        answer = model.answer(walk.run(frames))
        if keep is not None:
            keep.append((now, walk))
        return _named(model, (answer, *time.fresh))


def against_chunk(model: StreamModel, infer: Infer, video: np.ndarray) -> float:
    """Largest difference between ``infer``, stepped over a video (N, C, H, W), and one step over all of it.

    Over every answer due; a share of the largest answer (at least 1).
    """
    chunk = model.stream.chunk
    grid = int(np.lcm(chunk, model.explanation.stride))
    video = video[: len(video) // grid * grid]
    stepper = Stepper(infer, model.spec, model.stream)
    got = np.concatenate([stepper.step(frame[None])[model.spec.answer.name] for frame in video])
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
    """The first operator of the original, in order, whose values the stepped stream does not reproduce.

    On ``clip`` (C, T, H, W); None if all of them agree.
    """
    graph = capture(module, torch.from_numpy(clip)[None])
    kept: list[Any] = []
    _masked(model, clip, steps(model), kept)
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


def _difference(original: Tensor, walk: GraphInterpreter, name: str, now: int) -> float:
    value = walk.values.get(name)
    if not isinstance(value, TimedTensor) or not isinstance(walk.time, Stream):
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


def floor(module: nn.Module, clips: Sequence[np.ndarray]) -> float | None:
    """Largest difference of ``module`` in float32 from itself in float64 on clips (C, T, H, W).

    As a share of the largest answer (at least 1). None if it does not run in float64.
    """
    errors = []
    try:
        wide = copy.deepcopy(module).double()
        with torch.no_grad():
            for clip in clips:
                x = torch.from_numpy(clip)[None]
                wanted = wide(x.double())
                if wanted.dtype != torch.float64:
                    return None
                errors.append(_share(module(x).double(), wanted))
    except Exception:  # a module that says itself what it computes in
        return None
    worst = _worst(errors)
    return worst if np.isfinite(worst) else None


def _share(got: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest value (at least 1)."""
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1))


def allowed(floor: float | None) -> float:
    """Difference that rounding explains, for a clip model with this floor."""
    return TOLERANCE if floor is None else min(MOST, max(LEAST, FLOORS * floor))


def against_video(module: nn.Module, model: StreamModel, *, tolerance: float) -> tuple[float, int]:
    """(largest difference of the stepped answer from ``module`` on a long video, frames of that video).

    A share of the largest answer (at least 1). Answers are compared at the declared delay, no other is
    tried, and from the declared warm-up on; where a recurrence remembers for ever, in the second half. The
    frames are noise of changing brightness, so that no two look alike.

    Raises UnfitError where ``module`` is no reference: also if its own answer to the same frames changes by
    more than ``tolerance`` when the video begins earlier. A stream that remembers for ever may be what
    ``module`` answers to the whole video; if it is, that is a proof too.
    """
    spec = model.spec
    shape = (1, spec.input.shape[1], spec.frames, *spec.input.shape[2:])
    try:
        whole = not model.stream.edges and _answer(model).n == 1
        return _compared(model, Windows(module, shape) if whole else Untouched(module, shape), tolerance)
    except UnfitError as unfit:
        if model.stream.receptive_field is not None or model.explanation.stride > 1 or _answer(model).n > 1:
            raise
        try:
            error, frames = _compared(model, Since(module, shape), tolerance)
        except UnfitError:
            raise unfit from None
        if not error <= tolerance:
            raise
        return error, frames


def _compared(model: StreamModel, asked: Asked, tolerance: float) -> tuple[float, int]:
    """``against_video`` with what is asked of the module."""
    shape = (1, model.spec.input.shape[1], model.spec.frames, *model.spec.input.shape[2:])
    frames = _noise(_length(model, asked), shape)
    stepper = Stepper(steps(model), model.spec, model.stream)
    name = model.spec.answer.name
    got = [torch.from_numpy(stepper.step(frame[None].numpy())[name]).flatten() for frame in frames]
    errors: list[float] = []
    for phase in _phases(model, asked):
        due = _due(model, asked, len(frames), phase)
        answers = dict(zip(due, asked.answers(frames[phase:], list(due))))
        scale = max([1.0, *(float(a.abs().max()) for a in answers.values())])
        if not all(bool(a.isfinite().all()) for a in answers.values()):
            raise UnfitError("it answers noise with NaN or infinity")
        if not errors and not isinstance(asked, Since):
            last = dict(list(answers.items())[-4:])
            _check_steady(asked, frames[phase + asked.stride :], last, tolerance * scale)
        errors += [float((got[at] - answers[q].flatten()).abs().max()) / scale for q, at in due.items()]
    if not errors:
        raise UnfitError("none of its clips ends where the stream answers")
    return _worst(errors), len(frames)


def _check_steady(asked: Asked, later: Tensor, answers: dict[int, Tensor], limit: float) -> None:
    """Raise UnfitError if clips are answered otherwise in a video that begins one clip later.

    The last clips are asked for, far from its beginning whatever warm-up is declared: that is to be proven.
    """
    again = asked.answers(later, [q - 1 for q in answers])
    if not _worst([float((a - b).abs().max()) for a, b in zip(answers.values(), again)]) <= limit:
        raise UnfitError("its answer to the same frames depends on when the video began")


def _noise(count: int, shape: Sequence[int]) -> Tensor:
    """Frames (N, C, H, W)."""
    g = torch.Generator().manual_seed(0)
    _, channels, _, *size = shape
    levels = torch.randn((count, channels, 1, 1), generator=g)
    return levels + torch.randn((count, channels, *size), generator=g)


def _length(model: StreamModel, asked: Asked) -> int:
    """Frames of the long video. Raises UnfitError if the fewest that will do are too many to be computed."""
    stream, cost = model.stream, model.explanation
    fewest = stream.warmup * 3 // 2 + model.spec.frames + 4 * math.lcm(asked.stride, stream.chunk)
    if stream.receptive_field is None:
        fewest *= 4
    runs = SINCE if isinstance(asked, Since) else 2 * len(_phases(model, asked))
    work = runs * cost.flops_clip / model.spec.frames + cost.flops_frame
    most = min(VIDEO, WORK / max(work, 1), MEMORY / asked.bytes_per_frame)
    frames = max(fewest, int(most))
    if frames * work > 4 * WORK or frames * asked.bytes_per_frame > 2 * MEMORY:
        raise UnfitError(f"a video of {frames} frames would take too long or too much memory")
    return frames


def _lag(model: StreamModel, asked: Asked) -> int:
    """Frames from the first of a clip to its answer, which does not wait for last ones that nobody reads."""
    return asked.late + model.stream.delay - max(0, asked.late - model.due)


def _phases(model: StreamModel, asked: Asked) -> list[int]:
    """First and last of the frames below a stride with which clips begin that the stream answers for."""
    ends = _lag(model, asked) + 1
    phases = [p for p in range(asked.stride) if (p + ends) % math.gcd(asked.stride, model.stream.chunk) == 0]
    return sorted({*phases[:1], *phases[-1:]})


def _due(model: StreamModel, asked: Asked, count: int, phase: int) -> dict[int, int]:
    """Clip -> frame of a video of ``count`` frames at which it is answered, of some clips from first to last.

    Clip q begins with frame phase + q * stride.
    """
    stream = model.stream
    first = count // 2 if stream.receptive_field is None else stream.warmup - 1 + phase
    due = {}
    for q in range((count - phase - model.spec.frames) // asked.stride + 1):
        at = phase + q * asked.stride + _lag(model, asked)
        if first <= at < count and (at + 1) % stream.chunk == 0:
            due[q] = at
    most = SINCE if isinstance(asked, Since) else ASKED
    return {q: due[q] for q in [*list(due)[:: -(-len(due) // most) or 1], *list(due)[-1:]]}


def verify(
    module: nn.Module, model: StreamModel, clips: Sequence[np.ndarray], *, tolerance: float | None = None
) -> float:
    """Largest difference from ``module`` on ``clips`` (C, T, H, W), each as long as the model's clips.

    tolerance: share of the largest answer; None: what the clip model's own rounding explains.

    Raises ParityError naming the first diverging operator if an exact stream differs by more, UsageError
    if ``module`` itself answers NaN. For an approximate one the difference is only returned.
    """
    error = against_clip(module, model, clips)
    limit = allowed(floor(module, clips)) if tolerance is None else tolerance
    if model.stream.exactness != "approximate" and not error <= limit:
        where = first_divergence(module, model, clips[0], limit) or "none found by itself: the states"
        raise _differs(model, "the clip model", error, limit, f"First to differ: {where}")
    return error


def _differs(model: StreamModel, what: str, error: float, limit: float, where: str) -> ParityError:
    return ParityError(
        f"{model.spec.name}: the stream differs from {what} by {error:.2g} of its largest answer, allowed "
        f"{limit:.2g}. {where}. Use --stream window, and report it"
    )


def prove(module: nn.Module, model: StreamModel, clips: Sequence[np.ndarray] = ()) -> StreamProof:
    """How far ``model`` is from its clip model: on ``clips`` (C, T, H, W), or noise, and on a long video.

    Raises ParityError if an exact stream differs by more than the clip model's own rounding explains,
    UsageError if ``module`` itself answers NaN.
    """
    size = model.spec.input.shape
    clips = clips or [_noise(model.spec.frames, (1, size[1], 0, *size[2:])).transpose(0, 1).numpy()]
    low = floor(module, clips)
    limit = allowed(low)
    proof = StreamProof(verify(module, model, clips, tolerance=limit), limit, low)
    if model.stream.exactness == "approximate":
        return proof
    try:
        error, frames = against_video(module, model, tolerance=limit)
    except UnfitError as e:
        return replace(proof, why=str(e))
    if not error <= limit:
        raise _differs(model, f"the untouched model on a video of {frames} frames", error, limit, WHERE)
    return replace(proof, video=error, frames=frames)
