"""A model under the load of a camera: frames come at their rate, whether or not it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from edgepv.base.machine import LoadWatch
from edgepv.metrics.times import busy_reason, calls_needed
from edgepv.types import CameraLoad

LOOK_S = 1.0
"""Between two looks at the machine's load."""


def at_camera_rate(
    step: Callable[[], object],
    fps: float,
    seconds: float,
    *,
    threads: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> CameraLoad:
    """Step once for each frame of a camera of ``fps`` that runs for ``seconds``.

    A frame's time runs from the moment it comes, so that what waits for a slow one before it is counted too.
    Of several that wait, the newest is computed, as ``edgepv run`` does. seconds: at least two frames are
    taken.
    """
    period, frames = 1 / fps, max(2, round(seconds * fps))
    watch, took = LoadWatch(), []
    number = overruns = dropped = 0
    begun = looked = clock() + period
    while number < frames:
        now = clock()
        newest = min(frames - 1, int((now - begun) / period))
        if newest > number:
            dropped += newest - number
            number = newest
        due = begun + number * period
        if due > now:
            sleep(due - now)
        step()
        took.append(clock() - due)
        overruns += took[-1] > period
        number += 1
        if clock() - looked > LOOK_S:
            watch.sample()
            looked = clock()
    return CameraLoad(
        fps=fps,
        frames=frames,
        overruns=overruns + dropped,
        dropped=dropped,
        p50_ms=1e3 * float(np.median(took)),
        p95_ms=supported(took, 95),
        p99_ms=supported(took, 99),
        p999_ms=supported(took, 99.9),
        most_ms=1e3 * max(took),
        inconclusive=busy_reason(watch.load(), threads),
    )


def supported(seconds: Sequence[float] | np.ndarray, percentile: float) -> float | None:
    """A percentile in ms; None of fewer times than it needs (``metrics.times.calls_needed``)."""
    if len(seconds) < calls_needed(percentile):
        return None
    return 1e3 * float(np.percentile(np.asarray(seconds), percentile))
