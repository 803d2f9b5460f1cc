"""A conversion told to a person: layer by layer, what is exact, what is saved, and a picture of time.

Everything here is made from an Explanation and two specs; nothing is run and torch is not needed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgepv.base.files import whole_file
from edgepv.base.optional import need
from edgepv.errors import UsageError
from edgepv.types import ModelSpec, StreamProof, StreamSpec

if TYPE_CHECKING:
    from edgepv.stream.interpreter import Layer
    from edgepv.stream.rewrite import Explanation


LEAST_SAVING = 1.2
"""A saving below this is called none."""
FAR = 3
"""Clips' lengths that a stream may look back without a warning: up to about three, what lies beyond the ends
of its clips changes few labels of an untrained net, at seven it changes most."""


@dataclass(frozen=True)
class Row:
    """One layer of a stream.

    rate: clip frames between two of its positions. delay: frames after the clip's own that a position is
    known. span: frames one position rests on, None when it rests on all since a reset. states: names in the
    StreamSpec. rows: what a step computes; held: what the states hold; both as frames from the newest back.
    gflops_clip: of the clip model for one clip. gflops_frame: of the stream for one new frame.
    """

    layer: str
    operator: str
    source: str
    rate: int
    delay: int
    span: int | None
    states: tuple[str, ...]
    state_bytes: int
    gflops_clip: float
    gflops_frame: float
    rows: tuple[int, ...]
    held: tuple[int, ...]


@dataclass(frozen=True)
class StreamTable:
    """One conversion of a model for clips of ``frames`` frames: a result every ``every`` frames.

    stride: frames after which the layers before the last pool have advanced by whole positions. window: why
    the last part computes all frames of the clip at every step, if it does.
    """

    every: int
    stride: int
    frames: int
    stream: StreamSpec
    state_bytes: int
    gflops_clip: float
    gflops_frame: float
    layers: tuple[Row, ...]
    window: str = ""


@dataclass(frozen=True)
class Saving:
    """What a result every ``every`` frames costs, in 10^9 operations per new frame.

    clip: the clip model, run on a clip every ``every`` frames. stream: its conversion, None if there is
    none. times: clip / stream. ideal: clip length / clip stride.
    """

    every: int
    clip: float
    stream: float | None
    times: float | None
    ideal: float
    state_bytes: int | None = None


@dataclass(frozen=True)
class StreamReport:
    """What `edgepv stream` has to say about one model.

    tier: "step" for a model that steps by itself, "stream" for a converted clip model, "window" for one
    of which the host keeps the clip. says: sentences for a person by what they are about.
    """

    model: str
    tier: Literal["step", "stream", "window"]
    says: dict[str, str]
    streams: tuple[StreamTable, ...] = ()
    savings: tuple[Saving, ...] = ()


FADING = (
    "a cumulative mean counts every frame since the last reset: the longer a stream runs, the less a new "
    "frame moves it. edgepv run resets it at scene cuts; reset it yourself where a scene ends"
)


def table_of(explanation: Explanation, stream: StreamSpec, spec: ModelSpec) -> StreamTable:
    """One conversion. spec: of the clip model, (1, C, T, H, W)."""
    return StreamTable(
        every=stream.chunk,
        stride=_stride(explanation.layers),
        frames=spec.frames,
        stream=stream,
        state_bytes=stream.state_bytes,
        gflops_clip=explanation.flops_clip / 1e9,
        gflops_frame=explanation.flops_frame / 1e9,
        layers=tuple(_row(layer, stream, spec.frames) for layer in explanation.layers),
        window=explanation.window,
    )


def _stride(layers: Sequence[Layer]) -> int:
    """Frames after which all has advanced by whole positions that the last layer with a memory looks at."""
    last = max((i for i, layer in enumerate(layers) if layer.states), default=0)
    return math.lcm(*(layer.clock.period for layer in layers[:last]))


def _row(layer: Layer, stream: StreamSpec, frames: int) -> Row:
    clock = layer.clock
    last = clock.period - 1 if layer.positions > 1 else frames - 1
    states = [stream.states[i] for i in layer.states]
    return Row(
        layer=layer.name,
        operator=layer.operator,
        source=layer.place,
        rate=clock.period,
        delay=max(0, clock.ready - last),
        span=None if clock.endless else clock.ready - clock.oldest + 1,
        states=tuple(state.name for state in states),
        state_bytes=sum(state.bytes for state in states),
        gflops_clip=layer.flops_clip / 1e9,
        gflops_frame=layer.flops_frame / 1e9,
        rows=layer.rows,
        held=layer.held,
    )


def savings(streams: Sequence[StreamTable]) -> tuple[Saving, ...]:
    """For a result as often as each stream gives one, and for clips that overlap by half and not at all.

    A stream that answers every S frames serves every multiple of S at the same cost.
    """
    frames = streams[0].frames
    half = {frames // 2} if frames % 2 == 0 else set()
    costs = []
    for every in sorted({t.every for t in streams} | (half | {frames}) - {0}):
        fitting = [t for t in streams if every % t.every == 0]
        if not fitting:
            continue
        one = fitting[-1]
        clip = one.gflops_clip / every
        times = clip / one.gflops_frame if one.gflops_frame else None
        costs.append(Saving(every, clip, one.gflops_frame, times, frames / every, one.state_bytes))
    return tuple(costs)


def of_streams(streams: Sequence[StreamTable], spec: ModelSpec, fps: Fraction | None) -> StreamReport:
    """The report of a converted model.

    streams: one conversion or several that differ in ``every`` alone. fps: frames per second; None if it is
    not known.
    """
    stream, costs = streams[0].stream, savings(streams)
    says = {"class": exactness(stream, fps)}
    if stream.edges:
        says["edges"] = _edges(stream.edges)
    if stream.exactness != "approximate":
        says["proof"] = _proof(stream)
    says["memory"] = _memory(stream, fps)
    if streams[0].window:
        says["window"] = f"its last part computes all frames of the clip at every step: {streams[0].window}"
    if any(row.operator == "cumsum" for row in streams[0].layers):
        says["mean"] = FADING
    says["saving"] = _worth(streams, costs)
    return StreamReport(spec.name, "stream", says, tuple(streams), costs)


def exactness(stream: StreamSpec, fps: Fraction | None) -> str:
    """How close the stream is to the clip model: "exact" where a long video showed it."""
    late = f" after a delay of {_frames(stream.delay, fps)}" if stream.delay else ""
    if stream.exactness == "approximate":
        why = f"approximate, because of {'; and of '.join(stream.because)}"
        return why + (f";{late}" if late else "")
    shown = stream.proof is not None and stream.proof.video is not None
    away = ", away from the ends of the clip" if stream.edges else ""
    return f"exact{late}{away}" if shown else f"by construction{late and ','}{late}{away}"


def _proof(stream: StreamSpec) -> str:
    """What a long video showed, or why it could not."""
    proof = stream.proof
    if proof is None:
        return "not compared with the clip model"
    if proof.video is None:
        return (
            f"on whole clips its answers differ by {proof.clip:.1g} of the largest, allowed {_limit(proof)}; "
            f"on a long video the clip model cannot be asked: {proof.why}"
        )
    return (
        f"on a video of {proof.frames} frames its answers differ from the untouched clip model's by "
        f"{proof.video:.1g} of the largest, allowed {_limit(proof)}"
    )


def _limit(proof: StreamProof) -> str:
    """The tolerance and where it comes from."""
    if proof.floor is None:
        return f"{proof.tolerance:.1g} (the clip model does not run in float64)"
    return f"{proof.tolerance:.1g} (the clip model's own rounding: {proof.floor:.1g})"


def too_far(spec: ModelSpec, stream: StreamSpec) -> str | None:
    """What to say of a stream that rests on far more frames than the clips it was trained on had, or None.

    spec: of the clip model.
    """
    field = stream.receptive_field
    if field is None or field <= FAR * spec.frames or not stream.edges:
        return None
    return (
        f"a stream of {spec.name} sees {field} frames of field where its clips had {spec.frames} and padding "
        "around them, which may cost accuracy: tune it with --stream-tune N, or use --stream window"
    )


def _edges(edges: Sequence[str]) -> str:
    many = f"{len(edges)} operators, first: {edges[0]}" if len(edges) > 1 else edges[0]
    return (
        f"at the ends of a clip the clip model sees padding or a fresh start ({many}); a stream sees real "
        "frames there. The ends reach into every answer of the clip model, so on the same video the two "
        "answers differ: compare their accuracy"
    )


def _memory(stream: StreamSpec, fps: Fraction | None) -> str:
    field = stream.receptive_field
    rests = f"{_frames(field, fps)} (the receptive field)" if field else "every frame since the last reset"
    warm = _frames(stream.warmup, fps)
    return f"an answer rests on {rests}; answers are not valid before {warm} were seen (the warm-up)"


def _worth(streams: Sequence[StreamTable], costs: Sequence[Saving]) -> str:
    """Where the saving ends, and why a result every frame may save less than the clip's length."""
    first, last = streams[0], streams[-1]
    if not last.gflops_frame:
        return "no convolution or matrix product to save"
    if first.every == 1 and first.stream.receptive_field and (costs[0].times or LEAST_SAVING) < LEAST_SAVING:
        return (
            f"{costs[0].times:.1f}x: a step computes all that the clip model does, nothing of a frame is of "
            "use to the next. If the model goes over its frames one by one, give it init_state() and "
            f"step(frame, *states), which costs 1/{first.frames} (docs/spec.md)"
        )
    even = math.ceil(last.gflops_clip / last.gflops_frame)
    ends = f"where one result in {even} frames is enough, the clip model costs no more than the stream"
    if first.every > 1 or first.stride == 1:
        return ends
    return (
        f"for a result every frame the layers behind a stride serve {first.stride} interleaved clips, so it "
        f"saves {costs[0].times:.1f} and not {first.frames} times; {ends}"
    )


def of_step(spec: ModelSpec, stream: StreamSpec, gflops: float, fps: Fraction | None) -> StreamReport:
    """A model that brought its own step. gflops: for one new frame."""
    count = len(stream.states)
    field = stream.receptive_field
    says = {
        "states": f"the host keeps {count} state{'' if count == 1 else 's'}, {kilobytes(stream.state_bytes)}",
        "cost": f"{operations(gflops)} GFLOPs for a new frame",
        "memory": f"answers are not valid before {_frames(stream.warmup, fps)} were seen (the warm-up); "
        + (f"an answer rests on {_frames(field, fps)}" if field else "the model states no receptive field"),
    }
    return StreamReport(spec.name, "step", says)


def of_window(spec: ModelSpec, why: str, cure: str, gflops: float) -> StreamReport:
    """A clip model that stays one. why, cure: of the refusal. gflops: for one clip."""
    frames = spec.frames
    wanted = (1, frames // 2, frames) if frames > 2 and frames % 2 == 0 else (1, frames)
    costs = tuple(Saving(n, gflops / n, None, None, frames / n) for n in dict.fromkeys(wanted))
    says = {
        "why": why,
        "cure": f"to stream it, {cure}" if cure else "none is known",
        "window": f"the host keeps the last {frames} frames, and every result computes the whole clip: "
        f"{operations(gflops)} GFLOPs. A result every frame computes each frame {frames} times",
    }
    return StreamReport(spec.name, "window", says, savings=costs)


def _frames(count: int, fps: Fraction | None) -> str:
    """ "5 frames (0.5 s)"; without a known rate "5 frames"."""
    text = f"{count} frame{'' if count == 1 else 's'}"
    return f"{text} ({float(count / fps):.3g} s)" if fps else text


def operations(gflops: float) -> str:
    """10^9 operations with three decimals, or two digits where that is too few."""
    return f"{gflops:.3f}" if gflops >= 0.01 else f"{gflops:.2g}"


def kilobytes(count: int) -> str:
    """Bytes as KB of 1024, like the rest of edgepv prints them."""
    return f"{count / 1024:,.0f} KB" if count >= 10240 or not count else f"{count / 1024:.1f} KB"


def keys(layers: Sequence[Row]) -> list[tuple[str, str, int]]:
    """What a layer is called in every conversion of one model: name, operator, how many times before."""
    seen: Counter[tuple[str, str]] = Counter()
    labels = []
    for row in layers:
        name = (row.layer, row.operator)
        labels.append((*name, seen[name]))
        seen[name] += 1
    return labels


@dataclass(frozen=True)
class AccountLine:
    """One line of the picture: layers of equal span and rate. text: what stands beside it."""

    name: str
    row: Row
    held: tuple[int, ...]
    text: tuple[str, str, str]


def lines(one: StreamTable) -> list[AccountLine]:
    """The lines of the picture, from the input to the answer.

    A layer where span or rate is new, with what all layers of that span and rate hold.
    """
    inner, answer = one.layers[:-1], one.layers[-1:]
    groups: dict[tuple[int | None, int], list[Row]] = {}
    for row in inner:
        groups.setdefault((row.span, row.rate), []).append(row)
    frame = Row("new frames", "", "", 1, 0, 1, (), 0, 0.0, 0.0, tuple(range(one.every)), ())
    last = [_line([row], " = the answer") for row in answer]
    return [_line([frame]), *(_line(rows) for rows in groups.values()), *last]


def _line(rows: list[Row], ending: str = "") -> AccountLine:
    first = rows[0]
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    ages = tuple(sorted({age for row in rows for age in row.held}))
    size = sum(row.state_bytes for row in rows)
    sees = "all" if first.span is None else str(first.span)
    return AccountLine(
        first.layer + more + ending, first, ages, (sees, str(first.rate), kilobytes(size) if size else "")
    )


NEW, SPAN, HELD, CLIP, INK = "#1f4e79", "#bcd3ea", "#d9741a", "#e9ecd9", "#333333"
COLUMNS = (("sees\nframes", 48), ("rate\nframes", 94), ("host\nkeeps", 150))
"""Heads of the columns beside the picture and where they end, in points."""


def check_picture(path: Path) -> None:
    """Raise UsageError for a suffix that is not drawn."""
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"--picture {path}: give a name that ends in .png or .svg")


def picture(account: StreamReport, path: Path) -> None:
    """Draw the time axis of the first stream of ``account`` as .png or .svg, whole or not at all."""
    need("matplotlib", extra="compress")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    one = account.streams[0]
    chart = lines(one)
    with rc_context({"svg.hashsalt": "edgepv", "font.size": 9, "hatch.linewidth": 0.4}):
        figure = Figure(figsize=(11, 2.4 + 0.27 * len(chart)), layout="constrained")
        axes = figure.subplots()
        left = _oldest(one, chart)
        marks = [*_bands(axes, one, left, len(chart)), *_bars(axes, chart, left)]
        _texts(axes, account, chart, (left - 1, 0.5))
        figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False)
        with whole_file(path) as tmp:
            stamp = {"Date": None} if path.suffix == ".svg" else {"Software": None}
            figure.savefig(tmp, dpi=110, metadata=stamp)


def _oldest(one: StreamTable, chart: Sequence[AccountLine]) -> int:
    """The oldest frame of the picture, counted from the newest, which is 0."""
    ends = [one.stream.delay + one.frames, *(line.row.span or 0 for line in chart)]
    without_bound = 2 if one.stream.receptive_field is None else 0
    return 1 - max(*ends, *(age + 1 for line in chart for age in line.held)) - without_bound


def _bands(axes: Any, one: StreamTable, left: int, count: int) -> list[Any]:
    """The clip the answer belongs to, what lies beyond it, and the delay; returns what the legend needs."""
    new = 0.5 - one.stream.delay
    old = new - one.frames
    label = f"the clip this answer belongs to, {one.frames} frames"
    marks = [axes.axvspan(old, new, color=CLIP, zorder=0, label=label)]
    field, edged = one.stream.receptive_field, bool(one.stream.edges)
    beyond = [(0.5 - field if field else left - 1.5, old), (new, 0.5)] if edged else []
    for a, b in beyond:
        if a < b:
            label = "frames beyond the clip, which the clip model does not see" if len(marks) == 1 else ""
            hatch = {"facecolor": "none", "edgecolor": "#d4d4d4", "hatch": "//", "linewidth": 0}
            marks.append(axes.axvspan(a, b, zorder=0, label=label, **hatch))
    if one.stream.delay:
        _measure(axes, new, count, f"delay {one.stream.delay}")
    first, field_is = (0.5 - field, str(field)) if field else (left - 0.9, "all since the reset")
    _measure(axes, first, count + 1, f"receptive field {field_is}, warm-up {one.stream.warmup}")
    return marks[:2]


def _measure(axes: Any, start: float, y: float, text: str) -> None:
    """A dimension line to the newest frame with its text above, which may be wider than the line."""
    arrow = {"arrowstyle": "<->", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (start, y - 0.2), (0.5, y - 0.2), arrowprops=arrow)
    axes.text(0.4, y - 0.15, text, ha="right", va="bottom", color=INK)


def _bars(axes: Any, chart: Sequence[AccountLine], left: int) -> list[Any]:
    """Per line the frames a position rests on, the rows held, the rows computed by this step."""
    size = min(24.0, (480 / (1 - left)) ** 2)  # points squared: dots of neighbouring frames stay apart
    for y, line in enumerate(chart):
        newest, span = -min(line.row.rows), line.row.span
        oldest = left - 1.5 if span is None else newest - span + 0.5
        bar = axes.barh(y, newest + 0.5 - oldest, left=oldest, height=0.55, color=SPAN, zorder=2)
        bar.set_label("frames that the newest row rests on")
        dot = axes.scatter([-a for a in line.row.rows], [y] * len(line.row.rows), s=size, color=NEW, zorder=5)
        if span is None:
            axes.scatter([left - 0.7], [y], marker="<", s=24, color=NEW, zorder=5)
        if line.held:
            axes.plot([-line.held[-1], -line.held[0]], [y, y], color=HELD, linewidth=1.2, zorder=3)
        at = [-a for a in line.held]
        ring = axes.scatter(at, [y] * len(at), s=0.8 * size, color="white", edgecolor=HELD, zorder=4)
    dot.set_label("row computed by this step")
    ring.set_label("earlier rows it reads from its states")
    return [bar, dot, ring]


def _texts(
    axes: Any, account: StreamReport, chart: Sequence[AccountLine], limits: tuple[float, float]
) -> None:
    """Axes, title, and the columns beside the picture."""
    axes.set_yticks(range(len(chart)), [line.name for line in chart])
    axes.set_xlim(*limits)
    axes.set_ylim(-0.7, len(chart) + 1.9)
    axes.set_xlabel("frames, 0 is the newest")
    axes.xaxis.get_major_locator().set_params(integer=True)
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for i, (head, points) in enumerate(COLUMNS):
        texts = [*((y, line.text[i]) for y, line in enumerate(chart)), (len(chart) + 0.3, head)]
        for y, text in texts:
            beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(text, (1, y), (points, 0), ha="right", va="center", color=INK, **beside)
    one = account.streams[0]
    each = "every frame" if one.every == 1 else f"every {one.every} frames"
    word = "approximate" if one.stream.because else account.says["class"]
    axes.set_title(f"{account.model}, a result {each}: {word}", loc="left", fontsize=10)
