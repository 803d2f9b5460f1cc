"""What was measured of an artifact, with what is needed to believe it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgepv.types.artifact import StepRecord
from edgepv.types.spec import Metric, StreamSpec

Verdict = Literal["pass", "fail", "inconclusive", "not applied"]


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

    Of a classifier the points are those expected from the margins of all clips (``metrics.margins``), and
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
class Flips:
    """Answers of a variant that differ from the original's on video without labels, in 1,000 of ``n``.

    per_1000, low, high: expected from how near the original's two best scores are, with the 95 % interval
    (``metrics.flips``); where that cannot tell, the counted ones, and ``why`` says so. counted: ``changed``
    of ``n``, in 1,000, with its interval. groups: how many clips or groups of clips the intervals are taken
    over; one has no interval: low and high are the figure itself. of: what is counted: of a detector, the
    boxes that either says, and those change that one alone says. surer: by how much the variant's scores of
    the boxes of both are higher, with the 95 % interval; None where nothing tells.
    """

    per_1000: float
    low: float
    high: float
    n: int
    changed: int
    counted: tuple[float, float, float]
    groups: int
    why: str | None = None
    of: Literal["answers", "boxes"] = "answers"
    surer: tuple[float, float, float] | None = None

    def told(self) -> str:
        """ "4.2 (2.9 to 5.5)", or "4.2 (one group: no interval)"."""
        spread = "one group: no interval" if self.groups == 1 else f"{self.low:.1f} to {self.high:.1f}"
        return f"{self.per_1000:.1f} ({spread})"

    def by_count(self) -> str:
        """ "counted 4.0 (1.1 to 14.3)"."""
        value, low, high = self.counted
        return f"counted {value:.1f}" + ("" if self.groups == 1 else f" ({low:.1f} to {high:.1f})")

    def drift(self) -> str | None:
        """ "scores of the others move by +0.012 (-0.003 to +0.027)", of a detector."""
        if self.surer is None:
            return None
        mean, low, high = self.surer
        return f"scores of the others move by {mean:+.3f} ({low:+.3f} to {high:+.3f})"


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
    group has no interval: low and high are the value itself. ap50: of a detector, a fraction of 1, with the
    jackknife's interval over its clips; ap50_95: the mean over overlaps from 0.5 to 0.95. classes: of a
    detector, at the scores that its spec sets and overlap 0.5. miou: of a segmenter, a fraction of 1, with
    the jackknife's interval over its clips, and classes by px.
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
    ap50_95: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; low, high: None where one group of clips tells of no other."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Slice:
    """Some of the held-out clips, and what a variant loses on them against the original.

    kind: what they have in common: their label, their camera (the group that a manifest names), how light the
    picture is, or how fast it changes. name: which ones. before, after: the metric of the original and of the
    variant on these ``n`` clips. lost: in points, or dB, with the paired interval; None: too few clips.
    """

    kind: Literal["label", "camera", "light", "motion"]
    name: str
    n: int
    before: float
    after: float
    lost: Estimate | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """What an alarm at ``threshold`` catches: shares of the clips with and without the label; precision.

    source: who says so, such as the model's card.
    """

    threshold: float
    recall: float
    false_alarms: float
    precision: float | None
    source: str


@dataclass(frozen=True)
class Curve:
    """How a classifier's score tells one label from all others, as its threshold falls.

    positives: of ``n`` clips, those of the label. auc: area under the ROC curve. average_precision: area
    under precision over recall, each step at its own precision. points: (threshold, share of the other clips
    at or above it, share of the label's clips: recall, precision), a selection of all. at: the threshold that
    is used, None where nobody says one.
    """

    label: str
    n: int
    positives: int
    auc: float
    average_precision: float
    points: tuple[tuple[float, float, float, float], ...]
    at: OperatingPoint | None = None


@dataclass(frozen=True)
class Baseline:
    """What a method without a network reaches on the held-out clips. told: what it does."""

    name: str
    told: str
    accuracy: Accuracy


@dataclass(frozen=True)
class Robustness:
    """Two variants on the same clips, spoilt in one way.

    how: the corruption with its numbers. reference, variant: names of the rows: usually float and INT8.
    before, after: the metric of each. lost: by the variant against the reference on clips spoilt alike, with
    the paired interval.
    """

    corruption: str
    how: str
    reference: str
    variant: str
    n: int
    before: Estimate
    after: Estimate
    lost: Estimate


@dataclass(frozen=True)
class LiveRun:
    """Clips replayed as a camera shows them (``edgepv bench --live``): when answers were missed.

    right: share of the ``instants`` at which the latest answer was right; None without such a moment.
    stretches: of equal length, in order: (frames, those without a fresh answer in time, ms from a frame to
    its reply: the median, and the largest).
    """

    name: str
    limit_ms: float
    period_ms: float
    frames: int
    missed: int
    right: float | None
    instants: int
    stretches: tuple[tuple[int, int, float, float], ...]


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
    agreement: share of frames with the same top-1, of a segmenter of places; None for other tasks.
    first_divergence: looked for on "fail" only.
    slope: least and largest over the outputs of the least-squares slope through their means, artifact over
    original; 1 when right, below it when a range clips. flicker: changes of the top-1 from one frame to the
    next, as a share of frames: (original, artifact). worst: the clips it gets least right, worst first.
    track_px: of a tracker, median and 95th percentile of the distance between its points and the original's,
    in px of a frame of 256 x 256. psnr_db: of a restorer, its pictures against the original's. others: SQNR
    in dB of every further answer, such as a classifier's particles, on inputs with equal states. boxes: of a
    detector, the share of boxes that both it and the original have, and the median change of their scores.
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
    boxes: tuple[float, float] | None = None

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
class Peaks:
    """What one core can do at most, as measured: 10^9 operations a second, a multiply and an add being two.

    int8_gops: None where not measured. bandwidth: (bytes read again and again, 10^9 bytes read in a second)
    from few bytes to many. source: what measured it.
    """

    fp32_gops: float
    int8_gops: float | None
    bandwidth: tuple[tuple[int, float], ...]
    source: str


@dataclass(frozen=True)
class Proof:
    """Where a variant gave its golden answers: all that may change an answer of the same file.

    arch, flags: of the CPU, as in ``DeviceFacts``. engine: its name and version.
    """

    arch: str
    flags: tuple[str, ...]
    engine: str


@dataclass(frozen=True)
class Ratio:
    """One time as a share of another, with the 95 % interval of that."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """ "0.43 (0.41 to 0.45)"; with a third decimal where two would not show the width."""
        digits = 2 if self.high - self.low >= 0.01 else 3
        value, low, high = (f"{one:.{digits}f}" for one in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


@dataclass(frozen=True)
class PairedTime:
    """Time of a call as a share of that of the row ``to``, by pairs of the same turn.

    wall: as a clock shows it. cpu: of all threads of the process; None where the system counts none.
    """

    to: str
    wall: Ratio
    cpu: Ratio | None = None


@dataclass(frozen=True)
class MachineLoad:
    """What a machine did besides while something was timed on it; None where the system does not tell.

    cores: that the process may use. average: the largest one-minute load average read before, amid and after,
    the timed calls' own load in it. others: cores busy with other processes, on average. steal: share of the
    cores' time that a hypervisor gave to other machines. mhz: least and largest clock frequency of the cores.
    """

    cores: int
    average: float
    others: float | None = None
    steal: float | None = None
    mhz: tuple[float, float] | None = None


@dataclass(frozen=True)
class Latency:
    """Time of one engine call (one new frame), in ms, after ``warmup`` calls.

    p95_ms, p99_ms: None where ``n`` calls do not support that percentile (``metrics.times``). cpu_ms: p50
    over the turns of the CPU time of a call, all threads of the process. ratios: to the rows in float32 that
    were timed in the same turns. load: of the machine meanwhile. inconclusive: why these times are no ground
    for a choice, None where nothing speaks against it. p50_ends_ms: the 95 % interval of p50. spread_ms:
    times than which 0, 5, 10 ... 100 % of the calls were no longer; () where they were not kept.
    """

    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None
    n: int
    warmup: int
    threads: int
    interleaved_with: tuple[str, ...] = ()
    cpu_ms: float | None = None
    ratios: tuple[PairedTime, ...] = ()
    load: MachineLoad | None = None
    inconclusive: str | None = None
    p50_ends_ms: tuple[float, float] | None = None
    spread_ms: tuple[float, ...] = ()

    def against(self, name: str) -> PairedTime | None:
        """The paired ratio to the row ``name``; None if it was not timed in the same turns."""
        return next((one for one in self.ratios if one.to == name), None)


@dataclass(frozen=True)
class Measurement:
    """One variant on one machine. None is "not measured".

    bytes: of the model file. gflops_per_frame: 10^9 operations for one new frame. rss_mib: peak memory of a
    process that only runs this variant. blocked: why it may not be shipped, whatever its own figures say.
    flips: of a classifier or detector, on the footage that is watched. each_frame: of a classifier, the loss
    of its answers after each valid frame, where ``drop`` is that of clips; n, lost and won count frames.
    slices: parts of the held-out clips, the one that loses most first. curves: of a classifier, of at most
    ``metrics.curves.MOST_LABELS`` labels.
    peaks: of a core of its machine.
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
    flips: Flips | None = None
    each_frame: PairedDrop | None = None
    slices: tuple[Slice, ...] = ()
    curves: tuple[Curve, ...] = ()
    peaks: Peaks | None = None


@dataclass(frozen=True)
class Report:
    """Rows of measurements, the row the others are compared to, and what each step changed.

    runs: the row that runs of each target. stream: how the model was made to step, None for a window.
    frames: the window of the original.
    thumbnails: clip name -> base64 of a JPEG of its middle frame, for the clips in a row's ``Parity.worst``.
    sensitivity: what INT8 of each layer alone costs, the most sensitive first. robustness: of the rows that
    run. baselines: methods without a network. live: replays at camera rate. commands: that made the figures.
    digests: what went in -> its SHA-256.
    """

    title: str
    rows: tuple[Measurement, ...]
    baseline: str
    steps: tuple[StepRecord, ...] = ()
    reasons: tuple[str, ...] = ()
    stream: StreamSpec | None = None
    frames: int = 1
    thumbnails: dict[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    robustness: tuple[Robustness, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    live: tuple[LiveRun, ...] = ()
    commands: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
