"""How near a model comes to what one core can do, and what holds it back: the roofline.

Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore
architectures". Of a call that computes W operations and moves Q bytes, a core with a peak of P operations a
second and a bandwidth of B bytes a second needs at least the larger of W / P and Q / B. Q is what none can
avoid: weights and states read once, and the new states written. B is that of the memory which holds as much
(Ilic, Pratas and Sousa 2014, "Cache-aware roofline model").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgepv.types import Measurement, Peaks

Limit = Literal["compute", "memory", "overhead"]
FILLED = 0.5
"""Share of the roof from which on the roof is the limit: below it more time passes beside the arithmetic (its
edges, copies, the calls of layers) than in it."""
KINDS = {"fp32": "fp32_gops", "int8": "int8_gops"}
"""Precision -> its peak; of the others none was measured."""


@dataclass(frozen=True)
class Roofline:
    """One row under its roof.

    operations, bytes: of one call; a multiply and an add are two operations. gops: 10^9 operations a second
    that it reaches; roof_gops: that one core allows at this intensity. share: of the roof.
    """

    operations: float
    bytes: int
    gops: float
    roof_gops: float
    share: float
    limit: Limit

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.operations / self.bytes


def bandwidth_gbs(peaks: Peaks, held: int) -> float:
    """10^9 bytes per second of the nearest memory that holds so many bytes, among those measured."""
    return next((gbs for size, gbs in peaks.bandwidth if held <= size), peaks.bandwidth[-1][1])


def peak_gops(peaks: Peaks, precision: str) -> float | None:
    """The peak in a precision; None where none was measured."""
    found: float | None = getattr(peaks, KINDS[precision]) if precision in KINDS else None
    return found


def under_roof(
    operations: float, moved: int, seconds: float, precision: str, peaks: Peaks
) -> Roofline | None:
    """A call of so many operations and bytes that takes ``seconds``; None without a peak, or without work."""
    peak = peak_gops(peaks, precision)
    if peak is None or operations <= 0 or moved <= 0 or seconds <= 0:
        return None
    by_memory = bandwidth_gbs(peaks, moved) * operations / moved
    roof, reached = min(peak, by_memory), operations / seconds / 1e9
    share = reached / roof
    limit: Limit = "overhead" if share < FILLED else "compute" if peak <= by_memory else "memory"
    return Roofline(operations, moved, reached, roof, share, limit)


def of_row(row: Measurement, chunk: int = 1) -> Roofline | None:
    """A timed row on one thread; None where its time, its work or its machine's peaks are not measured.

    chunk: new frames of one call.
    """
    clock = next((one for one in row.latency if one.threads == 1), None)
    if clock is None or row.peaks is None or row.gflops_per_frame is None or row.bytes is None:
        return None
    moved = row.bytes + 2 * (row.state_bytes or 0)
    return under_roof(row.gflops_per_frame * 1e9 * chunk, moved, clock.p50_ms / 1e3, row.precision, row.peaks)


def told(name: str, found: Roofline) -> str:
    """ "openvino-int8 reaches 34 % of what one core allows: held back by overhead"."""
    return f"{name} reaches {100 * found.share:.0f} % of what one core allows: held back by {found.limit}"
