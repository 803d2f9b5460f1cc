"""What ``edgepv bench --live --json`` wrote, as a part of a report: when answers were missed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgepv.base.files import read_json
from edgepv.errors import UsageError
from edgepv.measure.replay import Replayed
from edgepv.types import LiveRun, Report, decode

STRETCHES = 60
"""Into which a replay is cut: more are finer than a chart shows."""


def read_live(file: Path) -> tuple[LiveRun, ...]:
    """The replays of a file. Raises UsageError if it is none of a live benchmark."""
    data = read_json(file)
    if not isinstance(data, list) or not data:
        raise UsageError(
            f"{file} holds no live benchmark. Make it: edgepv bench BUNDLE --live --json > {file}"
        )
    return tuple(live_run(decode(Replayed, one, where=f"{file}[{i}]")) for i, one in enumerate(data))


def with_live(report: Report, files: Sequence[Path]) -> Report:
    """The same report with the replays of these files too."""
    return replace(report, live=(*report.live, *(run for file in files for run in read_live(file))))


def live_run(replayed: Replayed) -> LiveRun:
    """A replay with its replies summed up in stretches of equal length."""
    return LiveRun(
        name=replayed.name,
        limit_ms=replayed.limit_ms,
        period_ms=replayed.period_ms,
        frames=replayed.frames,
        missed=replayed.missed,
        right=replayed.right / replayed.instants if replayed.instants else None,
        instants=replayed.instants,
        stretches=_stretches(replayed.replies),
    )


def _stretches(replies: Sequence[tuple[float, bool]]) -> tuple[tuple[int, int, float, float], ...]:
    """(frames, missed, median and longest ms) of each stretch of replies (ms, whether missed)."""
    count = min(STRETCHES, len(replies))
    ends = [round(i * len(replies) / count) for i in range(count + 1)] if count else [0]
    found = []
    for start, end in itertools.pairwise(ends):
        times = [ms for ms, _ in replies[start:end]]
        missed = sum(late for _, late in replies[start:end])
        found.append((end - start, missed, statistics.median(times), max(times)))
    return tuple(found)
