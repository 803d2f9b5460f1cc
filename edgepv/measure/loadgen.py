"""LoadGen, MLCommons' load generator, asks the same model: an independent clock and an independent rule.

Only the generator is theirs. What comes of it is no MLPerf result: the closed division's rules forbid pruned
weights and states that are kept between queries.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgepv.base.machine import versions
from edgepv.base.optional import need
from edgepv.errors import EngineError
from edgepv.types import LoadGenCheck

LEAST_MS = 1000
"""Milliseconds of a run at least: queries of less than that are over before a clock has settled."""
SUMMARY = "mlperf_log_summary.txt"
P90 = re.compile(r"^90\.0th percentile latency \(ns\) : (\d+)$", re.MULTILINE)
ESTIMATE = re.compile(r"^ \* Early stopping 90\.0th percentile estimate: (\d+)$", re.MULTILINE)
QUERIES = re.compile(r"^ \* Processed at least \d+ queries \((\d+)\)\.$", re.MULTILINE)


def loadgen_check(call: Callable[[], object], queries: int, *, least_ms: int = LEAST_MS) -> LoadGenCheck:
    """Have LoadGen's SingleStream send so many queries one after another, each answered by ``call``.

    Raises TargetUnavailableError if it is not installed, what ``call`` raised, and EngineError if LoadGen
    writes no summary that we can read.
    """
    lg = need("mlperf_loadgen", extra="loadgen")
    raised: list[BaseException] = []

    def issue(samples: list[Any]) -> None:
        for sample in samples:
            try:
                if not raised:
                    call()
            except BaseException as e:  # LoadGen is C++: nothing may go through it
                raised.append(e)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.min_query_count, settings.min_duration_ms = queries, least_ms
    with tempfile.TemporaryDirectory() as folder:
        _run(lg, issue, settings, folder)
        if raised:
            raise raised[0]
        summary = Path(folder) / SUMMARY
        return _parsed(summary.read_text() if summary.is_file() else "", queries)


def _run(lg: Any, issue: Callable[[list[Any]], None], settings: Any, folder: str) -> None:
    """One test, its logs written into a folder."""
    logs = lg.LogSettings()
    logs.log_output.outdir, logs.log_output.copy_summary_to_stdout = folder, False
    logs.enable_trace = False
    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    try:
        lg.StartTestWithLogSettings(system, library, settings, logs)
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(system)


def _parsed(summary: str, asked: int) -> LoadGenCheck:
    """What the summary says."""
    p90, estimate, queries = (one.search(summary) for one in (P90, ESTIMATE, QUERIES))
    if p90 is None:
        raise EngineError("LoadGen wrote no 90th percentile. Measure without --loadgen")
    return LoadGenCheck(
        version="".join(versions(("mlcommons-loadgen",)).values()) or "not known",
        queries=int(queries[1]) if queries else asked,
        p90_ms=int(p90[1]) / 1e6,
        estimate_ms=int(estimate[1]) / 1e6 if estimate else None,
    )
