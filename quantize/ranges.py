"""The range that eight bits spread over, from a histogram of what a tensor held on calibration clips.

    minmax      all of it: nothing clips, one loud value makes every step coarse
    percentile  all but the loudest share of the values
    mse         the range with the least squared error of rounding and clipping together
    entropy     the range that loses the least information

A histogram per tensor is kept, never the activations: a clip model's would not fit in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

from edgepv.base.late import np
from edgepv.base.optional import ort_session
from edgepv.base.options import Option
from edgepv.errors import ModelError, UsageError, unknown
from edgepv.stream import Tensors

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)
Span = tuple[float, float]
Tensor = TypeVar("Tensor", int, str)
"""A tensor of a file, by number or by name."""

RANGES = {
    "option": Option(
        "INT8 ranges on cpu: minmax, percentile, mse or entropy (default: minmax, the best on ours)",
        metavar="HOW",
        key="ranges",
    )
}
"""Metadata of a step's field that says how ranges are set."""
BINS = 4096  # of each sign: 8 or more to each of 256 levels, however the range fell into them
LEVELS = 256  # of eight bits
PERCENTILE = 99.99  # per cent of values inside the range: one in ten thousand is clipped
TIGHTEST = 8.0  # halvings of the range that are tried: below 1/256 of it one level is left


def check_method(method: str) -> None:
    """Raise UsageError for a name that is not one of ``METHODS``."""
    if method not in METHODS:
        raise UsageError(unknown("range estimator", method, METHODS))


class Histogram:
    """How often a tensor's values fall into equal bins around 0.

    Bins are a power of two wide, so when a louder value comes pairs of bins merge and no count is lost:
    one pass is enough, and the order of the feeds does not matter. Zeros are not counted: every range
    holds 0 exactly, whereas after a ReLU they would outvote everything else.
    """

    def __init__(self, *, counts: bool = True) -> None:
        """counts: False where only the ends of the range will be asked for."""
        self.low = self.high = 0.0
        self._counting = counts
        self._width = 0.0
        self._counts: np.ndarray = np.zeros(2 * BINS)

    def add(self, values: np.ndarray) -> None:
        """Count a tensor of any shape. Raises ModelError for values that are not finite."""
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not math.isfinite(low) or not math.isfinite(high):
            raise ModelError("its values are not finite on calibration clips")
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not self._counting:
            return
        self._widen(max(-low, high))
        seen = values[values != 0]
        if seen.size:
            places = np.floor(seen * np.float32(1 / self._width)).astype(np.intp) + BINS
            self._counts += np.bincount(np.minimum(places, 2 * BINS - 1), minlength=2 * BINS)

    def _widen(self, loudest: float) -> None:
        if loudest <= self._width * BINS:
            return
        width = 2.0 ** max(-100, math.ceil(math.log2(loudest / BINS)))
        if self._width:
            places = np.floor(np.arange(-BINS, BINS) * (self._width / width)).astype(np.intp) + BINS
            self._counts = np.bincount(places, weights=self._counts, minlength=2 * BINS)
        self._width = width

    def span(self, method: Method) -> Span:
        """(least, largest) value of the range; 0 is always inside, and nothing beyond what was seen."""
        if method == "minmax" or not self._counts.any():
            return self.low, self.high
        edges = np.arange(-BINS, BINS + 1) * self._width
        find = {"percentile": _percentile, "mse": _least_squares, "entropy": _least_divergence}[method]
        low, high = find(self._counts, edges, self.low, self.high)
        return max(min(low, 0.0), self.low), min(max(high, 0.0), self.high)


def _percentile(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> Span:
    """At most 0.01 % of the values clip at either end (Wu et al. 2020, section 3.3)."""
    spare = counts.sum() * (1 - PERCENTILE / 100)
    first = int(np.searchsorted(np.cumsum(counts), spare, side="right"))
    last = len(counts) - int(np.searchsorted(np.cumsum(counts[::-1]), spare, side="right"))
    return float(edges[first]), float(edges[last])


def shares() -> np.ndarray:
    """(257,) candidates, as shares of the whole range: 1 first, 2 % apart, down to 1/256."""
    found: np.ndarray = 0.5 ** (np.arange(257) / (256 / TIGHTEST))
    return found


def _least_squares(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> Span:
    """The ends that minimise the squared error of clipping plus that of rounding.

    Inside the range an error is uniform over a step, so its square is step * step / 12 on average.
    Source: Sung, Shin and Hwang 2015; in this form, for known distributions, Banner et al. 2019 (ACIQ).
    """
    lows, highs = low * shares(), high * shares()
    centres = (edges[:-1] + edges[1:]) / 2
    cut_low, lost_low = _clipped(counts[::-1], -centres[::-1], -lows)
    cut_high, lost_high = _clipped(counts, centres, highs)
    step = (highs[None] - lows[:, None]) / (LEVELS - 1)
    inside = counts.sum() - lost_low[:, None] - lost_high[None]
    error = cut_low[:, None] + cut_high[None] + inside * step * step / 12
    i, j = np.unravel_index(np.argmin(error), error.shape)
    return float(lows[i]), float(highs[j])


def _clipped(counts: np.ndarray, centres: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(squared error, number) of the values above each of ``ends``, in one pass from the loud end."""

    def above(values: np.ndarray) -> np.ndarray:
        return np.append(np.cumsum(values[::-1])[::-1], 0.0)[np.searchsorted(centres, ends)]

    n, first, second = above(counts), above(counts * centres), above(counts * centres * centres)
    return np.maximum(second - 2 * ends * first + ends * ends * n, 0.0), n


def _least_divergence(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> Span:
    """The threshold whose 256 levels diverge least (Kullback-Leibler) from the histogram.

    One threshold for both signs; what clips is counted at the ends of the reference only. A level is never
    narrower than a bin. Source: Migacz 2017, "8-bit Inference with TensorRT".
    """
    centres, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    best, span = math.inf, (low, high)
    for threshold in max(-low, high) * shares():
        bottom, top = max(low, -threshold), min(high, threshold)
        if top - bottom < LEVELS * width:
            break
        a, b = np.searchsorted(centres, (bottom, top))
        level = ((centres[a:b] - bottom) * (LEVELS / (top - bottom))).astype(np.intp)
        divergence = _divergence(counts, int(a), int(b), level)
        if divergence < best:
            best, span = divergence, (bottom, top)
    return span


def _divergence(counts: np.ndarray, a: int, b: int, level: np.ndarray) -> float:
    """Of bins a to b, those beyond added to the outermost, from the same bins averaged over each level."""
    inside = counts[a:b]
    reference = inside.copy()
    reference[0] += counts[:a].sum()
    reference[-1] += counts[b:].sum()
    used = inside > 0
    totals = np.bincount(level, inside, LEVELS) / np.maximum(np.bincount(level, used, LEVELS), 1)
    quantized = np.where(used, totals[level], 0.0)
    p = reference[reference > 0] / reference.sum()
    q = np.maximum(quantized[reference > 0] / max(quantized.sum(), 1.0), 1e-9)
    return float(np.sum(p * np.log(p / q)))


def linked(links: Sequence[tuple[Tensor, Tensor]], seeds: Collection[Tensor]) -> list[set[Tensor]]:
    """Tensors that hang together by ``links``, one set for every group that holds one of ``seeds``."""
    groups: list[set[Tensor]] = []
    for seed in sorted(seeds):
        if any(seed in group for group in groups):
            continue
        group, more = {seed}, True
        while more:
            more = False
            for a, b in links:
                if (a in group) != (b in group):
                    group |= {a, b}
                    more = True
        groups.append(group)
    return groups


def of_model(
    path: Path, feeds: Sequence[Tensors], method: Method, names: Collection[str] | None = None
) -> dict[str, Span]:
    """Range of every float tensor of an ONNX model over ``feeds``, by the names inside the file.

    names: of the tensors that are wanted; None for all.
    The shapes must be inferred already (``int8_onnx.preprocess``). Raises ModelError, naming the tensor, if
    one holds values that are not finite.
    """
    import onnx

    model = onnx.load(path)
    graph = model.graph
    there = {v.name for v in graph.input} | {name for node in graph.node for name in node.output}
    wanted = {
        v.name: v
        for v in (*graph.value_info, *graph.output)
        if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        and v.name in there  # neither a constant nor what a fusion left of a tensor
        and (names is None or v.name in names)
    }
    known = {v.name for v in graph.output}
    graph.output.extend(v for name, v in wanted.items() if name not in known)
    session = ort_session(model.SerializeToString())
    seen: dict[str, Histogram] = {}
    for feed in feeds:
        values = dict(zip(wanted, session.run(list(wanted), feed)))
        for name, value in (values | feed).items():
            if value.dtype != np.float32 or not (names is None or name in names):
                continue
            try:
                seen.setdefault(name, Histogram(counts=method != "minmax")).add(value)
            except UsageError as e:
                raise ModelError(f"INT8 ranges: tensor '{name}': {e}. Check the weights and the clips") from e
    return {name: one.span(method) for name, one in seen.items()}
