"""The test of an explanation: delete what it calls important first, and see whether the answer goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgepv.metrics.stats import mean_interval
from edgepv.runtimes.lane import softmax
from edgepv.runtimes.player import above_mean

ORDERS = 8
"""Random orders that a deletion is held against."""
STAGES = 16
"""Points of a deletion curve, at most."""


@dataclass(frozen=True)
class Deletion:
    """Area under the label's probability while parts are deleted: 0 best, 1 worst.

    random, low, high: mean of random orders and its 95 % interval (Student's t). shares: of parts deleted.
    curve, random_curve: the probability at each share, in order of contribution and in the mean of the
    random orders.
    """

    auc: float
    random: float
    low: float
    high: float
    shares: tuple[float, ...]
    curve: tuple[float, ...]
    random_curve: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """Whether the ranking found parts that matter more than parts drawn by lot."""
        return "better than random" if self.auc < self.low - 1e-9 else "no better than random"


def chance(logits: np.ndarray, label: int) -> float:
    """The label's probability."""
    return float(softmax(logits)[label])


Without = Callable[[Sequence[int]], np.ndarray]
"""Logits of the clip without the parts named by number."""


def contributions(
    without: Without, count: int, label: int, show: Callable[[range], Iterable[int]]
) -> np.ndarray:
    """(count,) what the label's score loses without each part alone."""
    whole = above_mean(without([]), label)
    return np.array([whole - above_mean(without([part]), label) for part in show(range(count))])


def deletion(
    without: Without,
    worth: np.ndarray,
    label: int,
    *,
    seed: int = 0,
    orders: int = ORDERS,
    show: Callable[[range], Iterable[int]] = iter,
) -> Deletion:
    """Delete parts in order of ``worth``, the largest first, and in ``orders`` random orders."""
    count = len(worth)
    rng = np.random.default_rng(seed)
    steps = np.unique(np.linspace(0, count, min(count, STAGES) + 1).round().astype(int))
    shares = steps / count
    ends = {0: chance(without([]), label), count: chance(without(range(count)), label)}

    def curve(order: np.ndarray) -> list[float]:
        return [
            ends[n] if n in ends else chance(without([int(i) for i in order[:n]]), label)
            for n in steps.tolist()
        ]

    ranked = curve(np.argsort(-worth, kind="stable"))
    drawn = np.array([curve(rng.permutation(count)) for _ in show(range(orders))])
    areas = np.trapezoid(drawn, shares, axis=1)
    low, high = mean_interval(areas)
    return Deletion(
        auc=float(np.trapezoid(ranked, shares)),
        random=float(areas.mean()),
        low=low,
        high=high,
        shares=tuple(shares.tolist()),
        curve=tuple(ranked),
        random_curve=tuple(drawn.mean(0).tolist()),
    )
