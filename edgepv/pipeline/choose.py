"""Which variant runs, and why the others do not: gates on parity, accuracy and latency."""

from __future__ import annotations

from collections.abc import Sequence

from edgepv.errors import AccuracyGateError, LatencyGateError, ParityError, UsageError
from edgepv.metrics.gate import doubtful_loss, gate_failure, within_gate, within_limit
from edgepv.types import Measurement


def choose(rows: Sequence[Measurement], *, latency_ms: float | None) -> tuple[Measurement, str]:
    """The row that runs, and the reason in one sentence.

    Among the rows without a fault that were not seen to lose more than the gate, the one with the
    lowest p50 on the first thread count; where nothing is timed here, the smallest file. A row that
    lost more on too few clips to tell is shipped, and does not run by itself unless all did: then the one
    that lost least runs, and the reason says what it lost. ``latency_ms``: p99 gate.
    Raises ParityError, AccuracyGateError or LatencyGateError naming what came nearest.
    """
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
    kept = within or [min(kept, key=lambda r: r.drop.points if r.drop else 0.0)]
    timed = [r for r in kept if r.latency]
    if not timed and latency_ms is not None:
        raise UsageError(f"--latency-ms: {rows[0].target} is not timed on this host. Measure on the device")
    if not timed:
        best = min(kept, key=lambda r: r.bytes or 0)
        why = f"{best.variant} runs: the smallest file; its speed is not measured on this host"
        return best, why + _but(best)
    in_time = [r for r in timed if latency_ms is None or r.latency[0].p99_ms <= latency_ms]
    if latency_ms is not None and not in_time:
        best = min(timed, key=lambda r: r.latency[0].p99_ms)
        raise LatencyGateError(
            f"no artifact answers within {latency_ms:g} ms; the nearest is {best.variant} with p99 "
            f"{best.latency[0].p99_ms:.2f} ms on {best.latency[0].threads} thread. Prune more, or use a "
            "smaller model"
        )
    best = min(in_time, key=lambda r: r.latency[0].p50_ms)
    return best, _why(best, in_time) + _but(best)


def _but(best: Measurement) -> str:
    """What is to be said of a chosen variant that lost more than the gate, behind the reason why it runs."""
    lost = doubtful_loss(best)
    return f"; {lost}, and nothing that may be shipped lost less" if lost else ""


def _why(best: Measurement, timed: Sequence[Measurement]) -> str:
    p50 = best.latency[0].p50_ms
    others = sorted((r for r in timed if r is not best), key=lambda r: r.latency[0].p50_ms)
    text = (
        f"{best.variant} runs: p50 {p50:.2f} ms on {best.latency[0].threads} thread, the fastest of "
        f"{len(timed)} {_shown_of(timed)}"
    )
    if others:
        text += f"; next is {others[0].variant}, {others[0].latency[0].p50_ms / p50:.2f}x as long"
    slower = [r for r in others if r.precision == "int8" and best.precision != "int8"]
    if slower:
        text += f"; INT8 is slower here ({slower[0].variant}: {slower[0].latency[0].p50_ms:.2f} ms)"
    return text


def _shown_of(rows: Sequence[Measurement]) -> str:
    """What was shown of every one of the rows, none of which has a fault: words after "the fastest of 3"."""
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
