"""The nouns of edgepv: frozen values that travel between the rooms, and their JSON form.

Unknown is ``None`` and is printed "not measured". Shapes are written with their layout next to them.
``encode`` and ``decode`` turn any of these into plain JSON data and back; ``decode`` refuses a key it
does not know, so a misspelt option is an error and never a silent default.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import types as pytypes
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeVar

from edgepv.errors import MOST_SHOWN, UsageError, unknown

T = TypeVar("T")

Layout = Literal["NCHW", "NHWC", "NCTHW", "NC", "NKC"]
DType = Literal["float32", "float16", "int8", "uint8", "int32", "int64"]
Task = Literal["classification", "tracking", "restoration"]
Metric = Literal["top1", "delta_avg", "psnr"]
Scores = Literal["logits", "probabilities"]
METRICS: Mapping[Task, Metric] = {
    "classification": "top1",
    "tracking": "delta_avg",
    "restoration": "psnr",
}
"""What a model of each task is judged by."""
Verdict = Literal["pass", "fail", "inconclusive", "not applied"]
_FRACTION = re.compile(r"[-+]?\d{1,18}(\.\d{0,18})?([eE][-+]?\d{1,3})?|[-+]?\d{1,18}/0*[1-9]\d{0,17}")
"""A number of a size that can be worked with: 1e999999999 takes for ever to write out."""
_ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model: its name, static shape, dtype and the meaning of its axes."""

    name: str
    shape: tuple[int, ...]
    layout: Layout = "NCHW"
    dtype: DType = "float32"


@dataclass(frozen=True)
class ModelSpec:
    """What a model eats and answers; nothing of any target.

    input: one video tensor, (1, C, H, W) for a per-frame model, (1, C, T, H, W) for a clip model.
    labels: of a classifier's answers; none for other tasks.
    frames: how many frames one answer looks back on (the window, or the clip length).
    fps: frames per second the model was trained at; the host resamples the camera to it.
    colour: order of the three channels; "grey" for one, as of infrared cameras.
    mean, std: per channel, in units of [0, 1] pixel values, applied as (x - mean) / std.
    outputs: what the model answers, the one it is judged by first; none given: "logits" (1, classes). A
    tracker answers "tracks" (1, K, 3): x and y in image heights, visibility in [0, 1]. A restorer answers
    "image" (1, C, H, W), normalised as its input.
    particles: how many particles it follows (K), for a builder with a parameter of that name.
    degrade: what was done to clean video for a restorer to undo: Gaussian noise of 25/255, half the size, or
    "downscale": the size by the whole factor between its answer and its input. None: nobody says, so no clean
    picture is known, and a restorer is compared with the original alone.
    scores: what a classifier's "logits" are. Of logits the softmax is taken; probabilities, of a head that
    ends in a softmax or in a sigmoid, are scores as they are. Found by itself when a model is exported.
    lag: frames from the one that a restorer's picture shows to the newest of its clip; 2 for the middle of 5.
    """

    name: str
    input: TensorSpec
    labels: tuple[str, ...] = ()
    frames: int = 1
    fps: Fraction = Fraction(10)
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    task: Task = "classification"
    metric: Metric = "top1"
    outputs: tuple[TensorSpec, ...] = ()
    particles: int | None = None
    degrade: Literal["noise-25", "half", "downscale"] | None = None
    scores: Scores = "logits"
    lag: int = 0

    @property
    def answers(self) -> tuple[TensorSpec, ...]:
        """What the model answers, ``outputs`` or the logits of its labels."""
        return self.outputs or (TensorSpec("logits", (1, len(self.labels)), "NC"),)

    @property
    def answer(self) -> TensorSpec:
        """The answer that the model is judged by."""
        return self.answers[0]


@dataclass(frozen=True)
class StateSpec:
    """One state of a streamed model: graph input ``name`` is fed from what ``output`` was before.

    ``output`` names a graph output, or the model's own input (then the host keeps the frames it fed).
    update "replace": the value of ``period`` steps ago. update "shift": the last ``shape[0]`` rows,
    oldest first; with a period, those of ``period``, 2 * ``period``, ... steps ago.
    fresh: rows that one step adds to a "shift" state. shape: static, at most rank 4. init: the value
    every element starts with. first: the first step whose output counts; what a recurrent layer makes of
    frames that are not there yet is ignored.
    """

    name: str
    output: str
    shape: tuple[int, ...]
    dtype: DType = "float32"
    update: Literal["replace", "shift"] = "replace"
    init: float = 0.0
    fresh: int = 1
    period: int = 1
    first: int = 0

    @property
    def bytes(self) -> int:
        """Bytes that must be kept from step to step. A host may hold more, to save copies."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype] * self.period


@dataclass(frozen=True)
class StreamProof:
    """How far a converted stream was found from its clip model, in shares of the largest answer (at least 1).

    clip: on whole clips, with their padding put back in. floor: how far the clip model itself is in float32
    from float64; None where it does not run in float64. tolerance: what was allowed, from the floor.
    video: from the untouched module, away from the ends of a video of ``frames`` frames; None where it could
    not be asked, for the reason ``why``.
    """

    clip: float
    tolerance: float
    floor: float | None = None
    video: float | None = None
    frames: int = 0
    why: str = ""


@dataclass(frozen=True)
class StreamSpec:
    """How a model is stepped. Before ``warmup`` frames were seen its answers are not valid.

    chunk: new frames per step. delay: frames the answer is late.
    receptive_field: frames that can influence one answer; None when it is unbounded.
    exactness: against the clip model it was made from, None for a model that brought its own step.
    because: operators that make it approximate. edges: operators through which the clip model sees the
    ends of its clips (padding, a recurrent start); a stream has real frames there, so it is exact
    against the clip model away from those ends. proof: what was found when it was converted; without one,
    or where the proof has no ``video``, "exact" and "delayed" are so by construction only.
    """

    states: tuple[StateSpec, ...]
    warmup: int
    receptive_field: int | None = None
    chunk: int = 1
    delay: int = 0
    exactness: Literal["exact", "delayed", "approximate"] | None = None
    because: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    proof: StreamProof | None = field(default=None, compare=False)

    @property
    def state_bytes(self) -> int:
        """Bytes of all states together."""
        return sum(state.bytes for state in self.states)


@dataclass(frozen=True)
class StepRecord:
    """One step of the line: what was done, to what, with which options and tools."""

    name: str
    options: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    tools: dict[str, str]


@dataclass(frozen=True)
class Rewrite:
    """How a clip model is laid out anew once its weights are in (see edgepv.stream).

    clip: the input of the clip model, (1, C, T, H, W). "stream": a step over ``every`` new frames, in
    which a mean over the clip becomes ``pool``. "flat": the same clip model without Conv3D.
    """

    kind: Literal["stream", "flat"]
    clip: TensorSpec
    every: int = 1
    pool: Literal["window", "running", "ema"] = "window"


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk (safetensors) and how to rebuild the module that holds them.

    builder: "package.module:function" or "path/file.py:function", returns a torch module.
    spec: of the module after ``rewrite``.
    """

    weights: str
    sha256: str
    builder: str
    spec: ModelSpec
    steps: tuple[StepRecord, ...] = ()
    rewrite: Rewrite | None = None


@dataclass(frozen=True)
class QuantScheme:
    """Where the integers of an INT8 artifact came from.

    weight_bits: how many of the eight bits the weights use. With 7, no sum can saturate on any CPU.
    """

    tool: str
    activations: str
    weights: str
    calibration_digest: str
    calibration_feeds: int
    kept_float: tuple[str, ...] = ()
    weight_bits: int = 8


@dataclass(frozen=True)
class Variant:
    """One runnable file of a model: the engine that reads it and how its tensors are named.

    inputs, outputs: our tensor name -> the name inside the file (LiteRT renames them).
    form: "step" eats one frame and explicit states; "window" eats the last T frames.
    """

    name: str
    engine: str
    precision: Literal["fp32", "bf16", "fp16", "int8"]
    form: Literal["step", "window"]
    path: str
    sha256: str
    spec: ModelSpec
    stream: StreamSpec | None
    inputs: dict[str, str]
    outputs: dict[str, str]
    scheme: QuantScheme | None = None
    options: dict[str, str] = field(default_factory=dict)
    steps: tuple[StepRecord, ...] = ()


@dataclass(frozen=True)
class ConvPlan:
    """One convolution or matrix product as planned and as the engine runs it (None: the engine hides it)."""

    node: str
    planned: str
    executed: str | None


@dataclass(frozen=True)
class Island:
    """Neighbouring operators of an INT8 artifact that the engine runs in float.

    first: the name of the first of them. operators: their kinds in order. share: of the time of one call;
    None where the engine does not tell.
    """

    first: str
    operators: tuple[str, ...]
    share: float | None


@dataclass(frozen=True)
class Audit:
    """Answer to "is it really INT8?" for one artifact.

    islands: what an INT8 artifact runs in float, the costliest first. conversions: quantize, dequantize and
    convert operators that are executed; their share of the time of one call, None where the engine hides it.
    products: of matrices, as attention and linear layers are made of.
    """

    source: str
    convolutions: tuple[ConvPlan, ...]
    islands: tuple[Island, ...] = ()
    conversions: int | None = None
    conversions_share: float | None = None
    products: tuple[ConvPlan, ...] = ()

    @property
    def int8(self) -> int:
        """How many convolutions run in INT8."""
        return sum(c.executed == "int8" for c in self.convolutions)

    @property
    def int8_products(self) -> int:
        """How many matrix products run in INT8."""
        return sum(c.executed == "int8" for c in self.products)

    @property
    def silent_float(self) -> tuple[str, ...]:
        """Convolutions and matrix products planned in INT8 that stayed float."""
        both = (*self.convolutions, *self.products)
        return tuple(c.node for c in both if c.planned == "int8" and c.executed not in ("int8", None))


def _signed(value: float, digits: int, sign: str) -> str:
    """A number so rounded; nothing has no sign of a loss."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


@dataclass(frozen=True)
class Counted:
    """Points lost by counting clips, with the 95 % interval of that."""

    points: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDrop:
    """What was lost against the original on the same clips, in ``unit``: points (1 point = 1 %), or dB.

    Of a classifier the points are those expected from the margins of all clips (``edgepv.margins``), and
    ``counted`` is what counting the clips alone tells; where margins cannot tell, the points are the counted
    ones, ``counted`` is None and ``why`` says what forbade margins.
    lost, won: clips only the original / only this variant got right; for other metrics than top-1, clips
    that it does worse / better.
    verdict: "not applied" where a label has no clips that could have told. clips_needed: clips that would
    settle ``max_drop`` at this disagreement; None once settled, or if
    not even a million would. groups: how many groups of clips the interval is taken over; None where every
    clip counts for itself. One group has no interval: low and high are the loss itself.
    """

    points: float
    low: float
    high: float
    n: int
    lost: int
    won: int
    max_drop: float
    verdict: Verdict
    clips_needed: int | None = None
    unit: Literal["points", "dB"] = "points"
    groups: int | None = None
    counted: Counted | None = None
    why: str | None = None

    def figures(self, sign: Literal["+", ""] = "") -> tuple[str, str, str]:
        """The loss and the ends of its interval, in ``unit``: counted points with one decimal, else two.

        sign: "+" writes it before what is not negative too.
        """
        digits = 1 if self.unit == "points" and self.counted is None else 2
        loss, low, high = (_signed(value, digits, sign) for value in (self.points, self.low, self.high))
        return loss, low, high

    def interval(self, sign: Literal["+", ""] = "") -> str:
        """ "-2.6 to 2.6", or that one group of clips has none."""
        _, low, high = self.figures(sign)
        return "one group of clips: no interval" if self.groups == 1 else f"{low} to {high}"

    def by_count(self, sign: Literal["+", ""] = "") -> str | None:
        """ "+0.7 (-2.6 to +4.1)" by counting clips, where the points were expected from margins."""
        if self.counted is None:
            return None
        points, low, high = (_signed(value, 1, sign) for value in vars(self.counted).values())
        return f"{points} ({low} to {high})"


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of one label; ``n`` clips carry it."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    n: int


@dataclass(frozen=True)
class Accuracy:
    """A metric over ``n`` clips with its 95 % interval.

    top1, delta_avg: fractions of 1, with Wilson's interval and Student's over the clips. psnr: dB, with
    Student's over the clips. clips: SHA-256 of the clips' bytes and labels; None where nobody noted it.
    groups: how many groups of clips the interval is taken over; None where every clip counts for itself. One
    group has no interval: low and high are the value itself.
    """

    value: float
    low: float
    high: float
    n: int
    macro_f1: float | None = None
    roc_auc: float | None = None
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    metric: Metric = "top1"
    clips: str | None = None
    groups: int | None = None


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer changed, all others as they were: SQNR of the answers, share of ``n`` answers that changed.

    changed: None for what does not classify.
    change: what was done to it, "in INT8" or "cut by 50%". drop: top-1 lost; None without labels.
    """

    layer: str
    sqnr_db: float
    changed: float | None
    n: int
    change: str = "in INT8"
    drop: PairedDrop | None = None


@dataclass(frozen=True)
class WorstClip:
    """A clip on which an artifact is furthest from the original: its name, SQNR, and share of equal top-1."""

    clip: str
    sqnr_db: float
    agreement: float | None


@dataclass(frozen=True)
class Parity:
    """One artifact against the torch original on real frames, over every output value.

    max_abs: in the unit of the answer. sqnr_db: 10 log10(signal power / error power); of tracks, the signal
    is how far they moved.
    saturation: share of 8-bit activation codes at an end of their range, where a value may have been
    clipped; an end that means zero is not counted. None where no such codes can be read.
    agreement: share of frames with the same top-1; None for other tasks. first_divergence: looked for on
    "fail" only.
    slope: least and largest over the outputs of the least-squares slope through their means, artifact over
    original; 1 when right, below it when a range clips. flicker: changes of the top-1 from one frame to the
    next, as a share of frames: (original, artifact). worst: the clips it gets least right, worst first.
    track_px: of a tracker, median and 95th percentile of the distance between its points and the original's,
    in px of a frame of 256 x 256. psnr_db: of a restorer, its pictures against the original's. others: SQNR
    in dB of every further answer, such as a classifier's particles, on inputs with equal states.
    """

    max_abs: float
    sqnr_db: float
    agreement: float | None
    frames: int
    min_sqnr_db: float
    verdict: Verdict
    saturation: float | None = None
    first_divergence: str | None = None
    slope: tuple[float, float] | None = None
    flicker: tuple[float, float] | None = None
    worst: tuple[WorstClip, ...] = ()
    track_px: tuple[float, float] | None = None
    psnr_db: float | None = None
    others: dict[str, float] = field(default_factory=dict)

    @property
    def least(self) -> tuple[str, float]:
        """The answer that is furthest off and its SQNR in dB; "the answer" for the one that is judged."""
        return min({"the answer": self.sqnr_db, **self.others}.items(), key=lambda one: one[1])


@dataclass(frozen=True)
class DeviceFacts:
    """The machine a figure was measured on."""

    cpu: str
    cores: int
    arch: str
    flags: tuple[str, ...]
    os: str
    python: str
    load: float | None = None


@dataclass(frozen=True)
class Proof:
    """Where a variant gave its golden answers: all that may change an answer of the same file.

    arch, flags: of the CPU, as in ``DeviceFacts``. engine: its name and version.
    """

    arch: str
    flags: tuple[str, ...]
    engine: str


@dataclass(frozen=True)
class Latency:
    """Time of one engine call (one new frame), in ms, after ``warmup`` calls."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    n: int
    warmup: int
    threads: int
    interleaved_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One variant on one machine. None is "not measured".

    bytes: of the model file. gflops_per_frame: 10^9 operations for one new frame. rss_mib: peak memory of a
    process that only runs this variant. blocked: why it may not be shipped, whatever its own figures say.
    """

    variant: str
    target: str
    engine: str
    precision: str
    form: str
    status: str
    bytes: int | None = None
    params: int | None = None
    gflops_per_frame: float | None = None
    state_bytes: int | None = None
    latency: tuple[Latency, ...] = ()
    rss_mib: float | None = None
    accuracy: Accuracy | None = None
    drop: PairedDrop | None = None
    parity: Parity | None = None
    audit: Audit | None = None
    device: DeviceFacts | None = None
    note: str | None = None
    blocked: str | None = None


@dataclass(frozen=True)
class Target:
    """A device family to pack for. Names its builder and opener; imports neither.

    builder: "module:function", called by the pipeline to write this target's files.
    min_sqnr_db: the parity promise, per precision, against the torch original. torch_only: it is
    made from torch, never from an ONNX file.
    """

    name: str
    summary: str
    precisions: tuple[str, ...]
    engines: tuple[str, ...]
    builder: str
    min_sqnr_db: dict[str, float]
    needs_build: tuple[tuple[str, str], ...] = ()
    needs_run: tuple[tuple[str, str], ...] = ()
    status: str = "measured on this host"
    torch_only: bool = False


@dataclass(frozen=True)
class Rung:
    """One variant of a ladder: how long a frame takes it here, and how good it is; None is "not measured".

    accuracy: top-1, known only where it compares with that of the other rungs.
    """

    variant: str
    p50_ms: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Deadline:
    """How long after a frame's arrival its reply must be out, and what is said when the model was too slow.

    on_miss "stale": the last answer, marked stale, with its age. "drop": nothing. "raise": an error, for
    callers that wait for the reply.
    """

    limit_ms: float
    on_miss: Literal["stale", "drop", "raise"] = "stale"


@dataclass(frozen=True)
class Report:
    """Rows of measurements, the row the others are compared to, and what each step changed.

    stream: how the model was made to step, None for a window. frames: the window of the original.
    thumbnails: clip name -> base64 of a JPEG of its middle frame, for the clips in a row's ``Parity.worst``.
    """

    title: str
    rows: tuple[Measurement, ...]
    baseline: str
    steps: tuple[StepRecord, ...] = ()
    reasons: tuple[str, ...] = ()
    stream: StreamSpec | None = None
    frames: int = 1
    thumbnails: dict[str, str] = field(default_factory=dict)


RETIRED: Mapping[type, frozenset[str]] = {Measurement: frozenset({"misses"})}
"""Keys that files of older versions have and nobody reads."""


def encode(value: Any) -> Any:
    """Plain JSON data of a noun: dicts, lists, strings, numbers, None. Fractions become "n/d"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    return value


def decode(kind: type[T], data: Any, *, where: str = "") -> T:
    """Build a ``kind`` from JSON data; the inverse of ``encode``.

    Raises UsageError naming the place (``where``) for an unknown or missing key or a wrong type. ``RETIRED``
    keys are passed over.
    """
    return typing.cast(T, _decode(kind, data, where or kind.__name__))


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if origin in (typing.Union, pytypes.UnionType):
        options = [a for a in typing.get_args(kind) if a is not type(None)]
        return None if data is None else _decode(options[0], data, where)
    if origin is Literal:
        return _literal(kind, data, where)
    if origin is tuple:
        return _tuple(typing.get_args(kind), data, where)
    if origin is dict:
        _expect(isinstance(data, dict), where, "a table", data)
        value_kind = typing.get_args(kind)[1]
        return {str(k): _decode(value_kind, v, f"{where}.{str(k)[:MOST_SHOWN]}") for k, v in data.items()}
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    return _scalar(kind, data, where)


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    _expect(isinstance(data, dict), where, "a table", data)
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    known = {f.name for f in fields}
    data = {k: v for k, v in data.items() if k not in RETIRED.get(kind, ())}
    for key in data:
        if key not in known:
            raise UsageError(f"{where}: {unknown('key', str(key), known)}")
    optional = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [f.name for f in fields if f.name not in data and (f.default, f.default_factory) == optional]
    if missing:
        raise UsageError(f"{where}: missing key '{missing[0]}'. Add it; see docs/spec.md")
    return kind(**{k: _decode(hints[k], v, f"{where}.{k}") for k, v in data.items()})


def _tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(data, list | tuple), where, "a list", data)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], v, f"{where}[{i}]") for i, v in enumerate(data))
    _expect(len(args) == len(data), where, f"{len(args)} values", data)
    return tuple(_decode(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, data)))


def _literal(kind: Any, data: Any, where: str) -> Any:
    allowed = typing.get_args(kind)
    if data not in allowed:
        raise UsageError(f"{where}: {unknown('value', str(data), map(str, allowed))}")
    return data


def _scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is Fraction:
        _expect(_FRACTION.fullmatch(str(data)) is not None, where, "a number or 'n/d'", data)
        return Fraction(str(data))
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        _expect(abs(data) <= sys.float_info.max, where, "a number of 64 bits", "a larger one")
        return float(data)
    wrong_bool = kind in (int, float) and isinstance(data, bool)
    _expect(isinstance(data, kind) and not wrong_bool, where, f"a {kind.__name__}", data)
    return data


def _expect(ok: bool, where: str, wanted: str, got: Any) -> None:
    if not ok:
        raise UsageError(f"{where}: expected {wanted}, got {repr(got)[:MOST_SHOWN]}")
