"""Which variant runs, and why the others do not: gates on parity, accuracy and latency, then a preference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgepv.errors import AccuracyGateError, InconclusiveError, LatencyGateError, ParityError, UsageError
from edgepv.metrics.gate import doubtful_loss, gate_failure, within_gate, within_limit
from edgepv.metrics.stats import size
from edgepv.metrics.times import calls_needed, highest
from edgepv.types import Latency, Measurement, PairedTime

SHARED_CORE = 2.0
"""How many times the CPU time a call takes at most where another thread shares its core and caches."""


def choose(
    rows: Sequence[Measurement], *, latency_ms: float | None, prefer: str = "speed"
) -> tuple[Measurement, str]:
    """The row that runs, and the reason in one sentence.

    Among the rows without a fault that were not seen to lose more than the gate, and that answer within
    ``latency_ms`` (p99 on the first thread count): by ``prefer`` the fastest, the smallest file ("size"), or
    the least peak memory ("memory"). Speed is that of the first thread count: a row that is not float32 runs
    only if it is surely faster than the fastest that is: the 95 % interval of the ratio wholly below 1.
    Where nothing is timed here, or the machine was too busy to tell, the smallest file runs. A row that
    lost more on too few clips to tell is shipped, and does not run by itself unless all did: then the one
    that lost least runs, and the reason says what it lost.
    Raises ParityError, AccuracyGateError or LatencyGateError naming what came nearest, InconclusiveError if
    nobody can tell whether any row is in time.
    """
    kept = _within_gates(rows)
    if latency_ms is not None:
        kept = _in_time(kept, latency_ms)
    best, why = {"speed": _fastest, "size": _smallest, "memory": _leanest}[prefer](kept)
    asked = "" if prefer == "speed" else f" (--prefer {prefer})"
    return best, f"{best.variant} runs{asked}: {why}{_but(best)}"


def _within_gates(rows: Sequence[Measurement]) -> list[Measurement]:
    """The rows that compute what the original does and keep the accuracy gate."""
    faithful = [r for r in rows if not r.blocked and (r.parity is None or r.parity.verdict != "fail")]
    if not faithful:
        best = max(rows, key=lambda r: r.parity.least[1] if r.parity else 0.0)
        if best.blocked:
            raise ParityError(
                f"no artifact computes what the original does: {best.blocked}. Use another engine or target, "
                "or change that layer in the model"
            )
        assert best.parity
        what, sqnr = best.parity.least
        raise ParityError(
            f"no artifact computes what the original does: {what} of {best.variant} reaches "
            f"{sqnr:.1f} dB of the {best.parity.min_sqnr_db:.0f} dB promised; first "
            f"diverging node: {best.parity.first_divergence or 'not found'}. Keep that layer in float, "
            "or use --precision fp32"
        )
    kept = [r for r in faithful if within_gate(r)]
    if not kept:
        best = min(faithful, key=lambda r: r.drop.points if r.drop else 0.0)
        raise AccuracyGateError(
            f"no artifact may be shipped; the best is {best.variant}: {gate_failure(best)}. Prune less, use "
            "--precision fp32, or raise --max-drop"
        )
    within = [r for r in kept if within_limit(r.drop)]
    return within or [min(kept, key=lambda r: r.drop.points if r.drop else 0.0)]


def _in_time(rows: Sequence[Measurement], limit_ms: float) -> list[Measurement]:
    """The rows whose p99 is within the limit; those of a busy machine too, which can only be slower."""
    timed = [r for r in rows if r.latency]
    if not timed:
        raise UsageError(f"--latency-ms: {rows[0].target} is not timed on this host. Measure on the device")
    verdicts = {r.variant: answers_within(r.latency[0], limit_ms) for r in timed}
    if kept := [r for r in timed if verdicts[r.variant]]:
        return kept
    open_rows = [r for r in timed if verdicts[r.variant] is None]
    best = min(open_rows or timed, key=lambda r: _highest(r.latency[0])[1])
    latency, (name, ms) = best.latency[0], _highest(best.latency[0])
    where = f"{best.variant} with {name} {ms:.2f} ms on {_threads(latency)}"
    if not open_rows:
        raise LatencyGateError(
            f"no artifact answers within {limit_ms:g} ms; the nearest is {where}. Prune more, or use a "
            "smaller model"
        )
    why = latency.inconclusive or f"{latency.n} calls in the time there was, p99 needs {calls_needed(99)}"
    raise InconclusiveError(
        f"whether an artifact answers within {limit_ms:g} ms is inconclusive: {why}; the nearest is {where}. "
        "Export again on an idle machine"
    )


def answers_within(latency: Latency, limit_ms: float) -> bool | None:
    """Whether p99 is within the limit; None if that cannot be told.

    A busy machine adds time: what is within the limit all the same is, and what is not may be on an idle one,
    unless its CPU time alone is far beyond it. Fewer calls than p99 needs tell only of what is so slow that
    a lower percentile is beyond the limit.
    """
    if latency.p99_ms is not None and latency.p99_ms <= limit_ms:
        return True
    if latency.inconclusive:
        most = SHARED_CORE * latency.threads * limit_ms
        return False if latency.cpu_ms is not None and latency.cpu_ms > most else None
    return False if _highest(latency)[1] > limit_ms else None


def _highest(latency: Latency) -> tuple[str, float]:
    return highest(latency.p50_ms, latency.p95_ms, latency.p99_ms)


def _fastest(rows: Sequence[Measurement]) -> tuple[Measurement, str]:
    """The row that is surely faster than the fastest in float32, by most; else that; why, for both."""
    timed = [r for r in rows if r.latency]
    busy = next((r.latency[0].inconclusive for r in timed if r.latency[0].inconclusive), None)
    if not timed or busy:
        known = f"speed is inconclusive, {busy}" if busy else "its speed is not measured on this host"
        return min(rows, key=_bytes), f"the smallest file; {known}"
    base = min([r for r in timed if r.precision == "fp32"] or timed, key=_p50_ms)
    sure = {pair.wall.value: r for r in timed if (pair := _pair(r, base)) and pair.wall.high < 1}
    if sure:
        best = sure[min(sure)]
        return best, f"{_against(best, base)}; {_typical(best)}, the fastest of {_those(timed)}"
    others = sorted((r for r in timed if r is not base), key=_p50_ms)
    if not others or _p50_ms(base) <= _p50_ms(others[0]):
        why = f"{_typical(base)}, the fastest of {_those(timed)}"
    else:
        why = f"{_typical(base)}; of {_those(timed)} none is surely faster"
    if others:
        why += f"; next is {others[0].variant}, {_against(others[0], base)}"
    slower = [r for r in others if "int8" == r.precision != base.precision and _p50_ms(r) > _p50_ms(base)]
    if slower:
        why += f"; INT8 is slower here ({slower[0].variant}: {_p50_ms(slower[0]):.2f} ms)"
    return base, why


def _smallest(rows: Sequence[Measurement]) -> tuple[Measurement, str]:
    """The row with the smallest file."""
    best = min(rows, key=_bytes)
    told = f" ({size(best.bytes)})" if best.bytes else ""
    return best, f"the smallest file{told} of {_those(rows)}"


def _leanest(rows: Sequence[Measurement]) -> tuple[Measurement, str]:
    """The row whose process takes the least memory, its states in it; the smallest file if not measured."""
    known = {r.rss_mib: r for r in rows if r.rss_mib is not None}
    if not known:
        return min(rows, key=_bytes), "the smallest file; peak memory is not measured on this host"
    least = min(known)
    return known[least], f"peak memory {least:.1f} MiB, the least of {_those(rows)}"


def _bytes(row: Measurement) -> float:
    return math.inf if row.bytes is None else row.bytes


def _p50_ms(row: Measurement) -> float:
    return row.latency[0].p50_ms


def _pair(row: Measurement, base: Measurement) -> PairedTime | None:
    return row.latency[0].against(base.variant)


def _against(row: Measurement, base: Measurement) -> str:
    """ "0.43 (0.41 to 0.45) of the time of onnxruntime-fp32, CPU time 0.44 (0.42 to 0.46)"."""
    pair = _pair(row, base)
    if pair is None:
        return f"{_p50_ms(row) / _p50_ms(base):.2f}x as long"
    cpu = f", CPU time {pair.cpu}" if pair.cpu else ""
    return f"{pair.wall} of the time of {base.variant}{cpu}"


def _typical(row: Measurement) -> str:
    """ "p50 1.20 ms on 1 thread"."""
    return f"p50 {_p50_ms(row):.2f} ms on {_threads(row.latency[0])}"


def _threads(latency: Latency) -> str:
    return f"{latency.threads} thread{'s' if latency.threads > 1 else ''}"


def _but(best: Measurement) -> str:
    """What is to be said of a chosen variant that lost more than the gate, behind the reason why it runs."""
    lost = doubtful_loss(best)
    return f"; {lost}, and nothing that may be shipped lost less" if lost else ""


def _those(rows: Sequence[Measurement]) -> str:
    """ "3 that pass parity": how many rows, and what was shown of every one; none of them has a fault."""
    return f"{len(rows)} {_shown_of(rows)}"


def _shown_of(rows: Sequence[Measurement]) -> str:
    verdicts = {r.drop.verdict if r.drop else None for r in rows}
    if not all(r.parity for r in rows):
        return "that were not compared with the original"
    if "not applied" in verdicts:
        return "that pass parity and whose accuracy is not known for every label"
    if None in verdicts:
        return "that pass parity and whose accuracy is not known"
    if verdicts == {"pass"}:
        return "that pass parity and keep the allowed drop"
    return "that pass parity, none of which surely loses more accuracy than allowed"
