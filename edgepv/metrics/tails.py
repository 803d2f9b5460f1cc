"""How high a score gets once in so many hours: peaks over a threshold, and what a recording can support.

Coles 2001, "An Introduction to Statistical Modeling of Extreme Values": chapter 4 for the generalised Pareto
tail, 5.3.2 for runs declustering. No engine and no video is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgepv.errors import InconclusiveError

LEAST_PEAKS = 30
"""Fewer separate peaks than this fix no tail: the error of its shape is about 1 / sqrt(n), 0.18 here."""
PEAKS_AN_ALARM = 2
"""A tail begins where peaks are so many times as frequent as alarms shall be."""
REACH = 4.0
"""A level is told for at most so many times the recorded hours: beyond, its interval says nothing."""
QUANTILES = (0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999)
"""Where a tail may begin, shares of the score's values below it."""
SHAPES = (-0.5, 0.5)
"""Shapes that a fit may have: above, a tail so heavy has no variance; below, its end is in the data."""
BLOCK_S = 600.0
"""Length of the blocks that are drawn again for an interval, 10 minutes: what is alike lies in one."""
LEAST_BLOCKS = 20
"""Blocks are shorter where there would be fewer than this: of so few an interval is too narrow."""
DRAWS = 1000
"""Times that the blocks are drawn: 25 of the draws lie beyond each end of a 95 % interval."""
SEED = 0
"""Of the draws: the same footage gives the same interval."""


@dataclass(frozen=True)
class Stretch:
    """A score over time without a break. time_s, score: (n,), in order; at step_s between two of them."""

    time_s: np.ndarray
    score: np.ndarray
    step_s: float

    @property
    def hours(self) -> float:
        """How long it is, the last value's own time with it."""
        return len(self.score) * self.step_s / 3600


@dataclass(frozen=True)
class Pareto:
    """A generalised Pareto tail of peaks above ``start``. rate: of those peaks, an hour."""

    start: float
    rate: float
    shape: float
    scale: float

    def level(self, per_hour: float) -> float:
        """What is exceeded so often. Coles 2001, (4.12)."""
        ratio = self.rate / per_hour
        if abs(self.shape) < 1e-6:
            return self.start + self.scale * float(np.log(ratio))
        return self.start + self.scale / self.shape * float(ratio**self.shape - 1)

    def per_hour(self, level: float) -> float:
        """How often ``level``, at or above ``start``, is exceeded."""
        above = (level - self.start) / self.scale
        if abs(self.shape) < 1e-6:
            return self.rate * float(np.exp(-above))
        return self.rate * float(max(0.0, 1 + self.shape * above) ** (-1 / self.shape))


@dataclass(frozen=True)
class Limit:
    """The level that a score exceeds ``per_hour`` times an hour, as ``hours`` of it say.

    level: with its 95 % interval, low to high. rate_low, rate_high: 95 % interval of how often ``level``
    itself is exceeded an hour. release: where the tail begins; below it a peak is over. peaks: above that.
    beyond: whether the rate is below once in all the hours, so that the level is the tail's word alone.
    """

    per_hour: float
    level: float
    low: float
    high: float
    rate_low: float
    rate_high: float
    release: float
    hours: float
    peaks: int
    beyond: bool


def limit(stretches: Sequence[Stretch], per_hour: float, apart_s: float) -> Limit:
    """The level that is exceeded ``per_hour`` times an hour by peaks ``apart_s`` seconds or more apart.

    The tail begins at the highest of ``QUANTILES`` above which there are ``LEAST_PEAKS`` peaks and twice
    those that the rate asks for; never at the least value, which is that of a score at rest. Intervals are
    over blocks drawn again, as peaks of ten minutes are alike.
    Raises InconclusiveError for a rate too low for these hours, or too few peaks.
    """
    refuse_short([s.hours for s in stretches], per_hour, apart_s)
    hours = sum(s.hours for s in stretches)
    wanted = max(LEAST_PEAKS, PEAKS_AN_ALARM * per_hour * hours)
    start, blocks = _beginning(stretches, wanted, apart_s, hours)
    if not blocks:
        raise InconclusiveError(
            f"{hours:.3g} hours hold fewer than {wanted:.0f} peaks that are {apart_s:g} s apart: too few "
            f"for a threshold of {per_hour:g} an hour. Give more footage, or a shorter --cooldown-s"
        )
    tail = _tail(blocks, start)
    if tail is None:
        raise InconclusiveError("the score hardly moves in this footage and has no tail. Name another")
    level = tail.level(per_hour)
    rng, fits = np.random.default_rng(SEED), []
    for _ in range(DRAWS):
        drawn = _tail([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))], start)
        fits += [drawn] if drawn and drawn.rate > per_hour else []
    low, high = np.quantile([fit.level(per_hour) for fit in fits], [0.025, 0.975]).tolist()
    rare, often = np.quantile([fit.per_hour(level) for fit in fits], [0.025, 0.975]).tolist()
    count = sum(len(block.excesses) for block in blocks)
    return Limit(per_hour, level, low, high, rare, often, start, hours, count, beyond=per_hour * hours < 1)


def refuse_short(lengths: Sequence[float], per_hour: float, apart_s: float) -> None:
    """Raise InconclusiveError for recordings that cannot support a rate, whatever is in them.

    lengths: of each, in hours.
    """
    hours = sum(lengths)
    if not hours or per_hour * hours * REACH < 1:
        raise InconclusiveError(
            f"{hours:.3g} hours cannot say what happens {per_hour:g} times an hour: that wants "
            f"{1 / per_hour / REACH:.3g} hours or more. Give more footage, or a higher --per-hour"
        )
    room = sum(int(3600 * length / apart_s) + 1 for length in lengths)
    if room < LEAST_PEAKS:
        raise InconclusiveError(
            f"{hours:.3g} hours have room for {room} peaks that are {apart_s:g} s apart, a threshold wants "
            f"{LEAST_PEAKS}. Give more footage, or a shorter --cooldown-s"
        )


@dataclass(frozen=True)
class _Block:
    """A piece of a recording. excesses: of the peaks in it over the start of the tail."""

    hours: float
    excesses: np.ndarray


def _beginning(
    stretches: Sequence[Stretch], wanted: float, apart_s: float, hours: float
) -> tuple[float, list[_Block]]:
    """The highest level with ``wanted`` peaks above it, and the blocks with those; no blocks for none."""
    every = np.concatenate([s.score for s in stretches])
    for start in np.quantile(every, QUANTILES[::-1]).tolist():
        blocks = _blocks(stretches, start, apart_s, hours)
        if sum(len(b.excesses) for b in blocks) >= wanted and start > every.min():
            return start, blocks
    return 0.0, []


def _blocks(stretches: Sequence[Stretch], start: float, apart_s: float, hours: float) -> list[_Block]:
    """Every piece of the recording, with the peaks that begin in it."""
    enough = len(stretches) >= LEAST_BLOCKS  # then a film that is shorter than a block is not cut
    long_s = BLOCK_S if enough else min(BLOCK_S, 3600 * hours / LEAST_BLOCKS)
    found = []
    for stretch in stretches:
        when, high = peaks(stretch, start, apart_s)
        begin = float(stretch.time_s[0])
        number = max(1, round(3600 * stretch.hours / long_s))
        length_s = 3600 * stretch.hours / number
        which = np.minimum(((when - begin) / length_s).astype(int), number - 1)
        found += [_Block(length_s / 3600, high[which == i] - start) for i in range(number)]
    return found


def peaks(stretch: Stretch, start: float, apart_s: float) -> tuple[np.ndarray, np.ndarray]:
    """(when, how high) of what is separate above ``start``: runs less than ``apart_s`` apart are one."""
    above = np.flatnonzero(stretch.score >= start)
    if not len(above):
        return np.zeros(0), np.zeros(0)
    at = stretch.time_s[above]
    first = np.flatnonzero(np.append(True, np.diff(at) >= apart_s))
    return at[first], np.maximum.reduceat(stretch.score[above], first)


def _tail(blocks: Sequence[_Block], start: float) -> Pareto | None:
    """The tail that probability-weighted moments fit; None where no two excesses differ.

    Source: Hosking and Wallis 1987, "Parameter and Quantile Estimation for the Generalized Pareto
    Distribution": steadier than maximum likelihood below some hundred peaks, and it always has an answer.
    """
    excesses = np.sort(np.concatenate([b.excesses for b in blocks]))
    count = len(excesses)
    if count < 2 or excesses[-1] - excesses[0] <= 1e-12:
        return None
    share = (count - np.arange(1, count + 1)) / (count - 1)
    a0, a1 = float(excesses.mean()), float((share * excesses).mean())
    shape = float(np.clip(2 - a0 / max(a0 - 2 * a1, 1e-12), *SHAPES))
    return Pareto(start, count / sum(b.hours for b in blocks), shape, a0 * (1 - shape))
