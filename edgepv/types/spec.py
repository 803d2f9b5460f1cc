"""What a model takes and answers: tensors, the model, and the states of its stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, TypeAlias

from edgepv.types.boxes import BoxSpec
from edgepv.types.masks import MaskSpec

Layout = Literal["NCHW", "NHWC", "NCTHW", "NC", "NKC"]
DType = Literal["float32", "float16", "int8", "uint8", "int32", "int64"]
Task: TypeAlias = str
"""Name of a task, see ``edgepv.base.tasks``."""
Metric: TypeAlias = str
"""What a task is judged by, such as "top1"."""
Scores = Literal["logits", "probabilities"]
Before = Literal["clahe", "denoise"]
"""What may be done to a picture before the model, see ``edgepv.data.before``."""
_ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}
"""Bytes of one value."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model: its name, static shape, dtype and the meaning of its axes."""

    name: str
    shape: tuple[int, ...]
    layout: Layout = "NCHW"
    dtype: DType = "float32"

    def in_rows(self, widths: tuple[int, ...]) -> bool | None:
        """Whether (1, N, values) has rows of one of these widths; False: in columns; None: neither."""
        if len(self.shape) != 3:
            return None
        return True if self.shape[2] in widths else False if self.shape[1] in widths else None


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
    "downscale": the size by the whole factor between its answer and its input; "nothing", of a model that
    shows the frame itself again. None: nobody says, so no clean picture is known, and a restorer is compared
    with the original alone.
    scores: what a classifier's "logits" are. Of logits the softmax is taken; probabilities, of a head that
    ends in a softmax or in a sigmoid, are scores as they are. Found by itself when a model is exported.
    lag: frames from the one that a restorer's picture shows to the newest of its clip; 2 for the middle of 5.
    boxes: of a detector, how its answer is to be read; None for other tasks.
    masks: of a segmenter, the same; None: as ``MaskSpec`` says by itself.
    before: what is done to a picture of the model's size before it is normalised, in this order.
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
    degrade: Literal["noise-25", "half", "downscale", "nothing"] | None = None
    scores: Scores = "logits"
    lag: int = 0
    boxes: BoxSpec | None = None
    masks: MaskSpec | None = None
    before: tuple[Before, ...] = ()

    @property
    def answers(self) -> tuple[TensorSpec, ...]:
        """What the model answers, ``outputs`` or the logits of its labels."""
        return self.outputs or (TensorSpec("logits", (1, len(self.labels)), "NC"),)

    @property
    def answer(self) -> TensorSpec:
        """The answer that the model is judged by."""
        return self.answers[0]

    @property
    def fit(self) -> BoxSpec | MaskSpec | None:
        """What says how a picture is fitted into the input; None: it is stretched to it."""
        return self.boxes or self.masks

    @property
    def numbers(self) -> tuple[str, ...]:
        """Further answers that are one number each, (1, 1), such as a surprise."""
        return tuple(a.name for a in self.answers[1:] if a.shape == (1, 1))


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
class Rewrite:
    """How a clip model is laid out anew once its weights are in (see edgepv.stream).

    clip: the input of the clip model, (1, C, T, H, W). "stream": a step over ``every`` new frames, in
    which a mean over the clip becomes ``pool``. "flat": the same clip model without Conv3D.
    """

    kind: Literal["stream", "flat"]
    clip: TensorSpec
    every: int = 1
    pool: Literal["window", "running", "ema"] = "window"
