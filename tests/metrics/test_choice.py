"""Who runs is decided by what times can tell: pairs of turns, enough calls, an idle machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgepv.errors import InconclusiveError, LatencyGateError
from edgepv.metrics import choice
from edgepv.types import Latency, Measurement, PairedTime, Parity, Ratio

PARITY = Parity(0.0, 100.0, 1.0, 100, 80.0, "pass")
BUSY = "machine was busy (load 3.1 on 2 cores, others used 1.4 of them, steal 12 %)"


def row(
    name: str, p50: float, wall: Ratio | None = None, p99: float | None = None, **changes: object
) -> Measurement:
    """A row timed in turns with ``a-fp32``, of which its time is the share ``wall``."""
    pairs = (PairedTime("a-fp32", wall, Ratio(0.44, 0.42, 0.46)),) if wall else ()
    time = {"cpu_ms": p50, "ratios": pairs, **{k: changes.pop(k) for k in ("inconclusive",) if k in changes}}
    latency = Latency(p50, p50, p99, 700 if p99 else 201, 6, 1, **time)  # type: ignore[arg-type]
    precision = name.split("-")[1]
    values = {"bytes": 100, "rss_mib": 50.0, "latency": (latency,), "parity": PARITY, **changes}
    return Measurement(name, "cpu", name.split("-")[0], precision, "step", "ok", **values)  # type: ignore[arg-type]


def chosen(*rows: Measurement, latency_ms: float | None = None, prefer: str = "speed") -> tuple[str, str]:
    best, why = choice.choose(rows, latency_ms=latency_ms, prefer=prefer)
    return best.variant, why


@pytest.mark.parametrize(
    ("wall", "runs", "why"),
    [
        (Ratio(0.43, 0.41, 0.45), "b-int8", "surely faster"),
        (Ratio(0.98, 0.95, 1.01), "a-fp32", "2 % that may be noise"),
        (Ratio(0.97, 0.96, 0.999), "b-int8", "3 %, but surely"),
        (None, "a-fp32", "never timed in the same turns, as in bundles of before"),
        (Ratio(1.2, 1.1, 1.3), "a-fp32", "slower by pairs, whatever its p50"),
    ],
)
def test_int8_displaces_float_only_where_it_is_surely_faster(wall: Ratio | None, runs: str, why: str) -> None:
    assert chosen(row("a-fp32", 2.0), row("b-int8", 1.9, wall))[0] == runs, why


def test_one_sentence_says_how_much_faster_and_against_what() -> None:
    _, why = chosen(row("a-fp32", 2.0), row("b-int8", 0.86, Ratio(0.43, 0.41, 0.45)))
    assert why == (
        "b-int8 runs: 0.43 (0.41 to 0.45) of the time of a-fp32, CPU time 0.44 (0.42 to 0.46); p50 0.86 ms "
        "on 1 thread, the fastest of 2 that pass parity and whose accuracy is not known"
    )
    _, why = chosen(row("a-fp32", 2.0), row("b-int8", 1.96, Ratio(0.98, 0.95, 1.01)))
    assert why.startswith(
        "a-fp32 runs: p50 2.00 ms on 1 thread; of 2 that pass parity and whose accuracy is not "
    )
    assert "none is surely faster; next is b-int8, 0.98 (0.95 to 1.01) of the time of a-fp32, CPU" in why


def test_of_those_that_are_surely_faster_the_fastest_by_pairs_runs() -> None:
    rows = [
        row("a-fp32", 2.0),
        row("b-int8", 1.0, Ratio(0.5, 0.4, 0.6)),
        row("c-int8", 1.1, Ratio(0.45, 0.4, 0.5)),
    ]
    assert chosen(*rows)[0] == "c-int8"


def test_the_reference_is_the_fastest_float() -> None:
    """Twice as fast as the slow float is not surely faster than the fast one."""
    slow = PairedTime("b-fp32", Ratio(0.5, 0.49, 0.51))
    fast = PairedTime("a-fp32", Ratio(1.0, 0.98, 1.02))
    int8 = row("c-int8", 1.0)
    int8 = replace(int8, latency=(replace(int8.latency[0], ratios=(slow, fast)),))
    assert chosen(row("b-fp32", 2.0), row("a-fp32", 1.0), int8)[0] == "a-fp32"


def test_a_busy_machine_ranks_nothing_and_the_smallest_file_runs() -> None:
    fast = row("a-fp32", 1.0, bytes=400, inconclusive=BUSY)
    small = row("b-int8", 2.0, Ratio(2.0, 1.9, 2.1), bytes=100, inconclusive=BUSY)
    assert chosen(fast, small) == ("b-int8", f"b-int8 runs: the smallest file; speed is inconclusive, {BUSY}")


@pytest.mark.parametrize(
    ("prefer", "runs", "said"),
    [
        ("speed", "a-fp32", "a-fp32 runs: p50 1.00 ms"),
        ("size", "b-int8", "b-int8 runs (--prefer size): the smallest file (100 B) of 3"),
        ("memory", "c-int8", "c-int8 runs (--prefer memory): peak memory 20.0 MiB, the least of 3"),
    ],
)
def test_what_is_preferred_decides_among_those_that_keep_the_gates(prefer: str, runs: str, said: str) -> None:
    rows = [
        row("a-fp32", 1.0, bytes=400),
        row("b-int8", 2.0, bytes=100),
        row("c-int8", 3.0, bytes=200, rss_mib=20.0),
        row("d-int8", 0.1, bytes=1, rss_mib=1.0, blocked="wrong in float too"),
    ]
    best, why = chosen(*rows, prefer=prefer)
    assert best == runs and why.startswith(said)


def test_memory_that_nobody_measured_leaves_the_smallest_file() -> None:
    rows = [row("a-fp32", 1.0, bytes=400, rss_mib=None), row("b-int8", 2.0, bytes=None, rss_mib=None)]
    best, why = chosen(*rows, prefer="memory")
    assert best == "a-fp32" and "peak memory is not measured on this host" in why


def test_size_is_preferred_among_those_in_time() -> None:
    rows = [row("a-fp32", 1.0, p99=2.0, bytes=400), row("b-int8", 5.0, p99=9.0, bytes=100)]
    assert chosen(*rows, prefer="size", latency_ms=8.0)[0] == "a-fp32"


@pytest.mark.parametrize(
    ("p50", "p99", "busy", "cpu_ms", "within", "why"),
    [
        (1.0, 7.9, False, 1.0, True, "p99 of enough calls"),
        (1.0, 8.1, False, 1.0, False, "p99 of enough calls"),
        (1.0, 7.9, True, 1.0, True, "what is in time on a busy machine is so on an idle one"),
        (1.0, 8.1, True, 1.0, None, "the machine's doing, or not"),
        (9.0, 12.0, True, 9.0, None, "a core that is shared may take twice the CPU time"),
        (40.0, 50.0, True, 17.0, False, "more than twice the limit in CPU time alone"),
        (1.0, None, False, 1.0, None, "too few calls for p99"),
        (8.1, None, False, 8.1, False, "half of the calls are too slow"),
        (9.0, None, True, None, None, "nobody counted the CPU time"),
    ],
)
def test_a_limit_is_kept_broken_or_not_to_be_told(
    p50: float, p99: float | None, busy: bool, cpu_ms: float | None, within: bool | None, why: str
) -> None:
    inconclusive = BUSY if busy else None
    latency = Latency(p50, None, p99, 700, 6, 1, cpu_ms=cpu_ms, inconclusive=inconclusive)
    assert choice.answers_within(latency, 8.0) is within, why


def test_a_limit_that_nobody_can_tell_is_inconclusive() -> None:
    with pytest.raises(InconclusiveError, match=r"within 8 ms is inconclusive: 201 calls .* p99 needs 662"):
        chosen(row("a-fp32", 1.0), latency_ms=8.0)
    with pytest.raises(
        InconclusiveError, match=r"inconclusive: machine was busy \(load 3.1 .*; the nearest is"
    ):
        chosen(row("a-fp32", 7.0, p99=9.0, inconclusive=BUSY), latency_ms=8.0)


def test_a_limit_that_one_surely_breaks_is_no_question_of_the_others() -> None:
    slow, unknown = row("a-fp32", 9.0, p99=12.0), row("b-int8", 7.0)
    with pytest.raises(InconclusiveError, match="b-int8 with p95 7.00 ms"):
        chosen(slow, unknown, latency_ms=8.0)
    with pytest.raises(LatencyGateError, match="the nearest is a-fp32 with p99 12.00 ms on 1 thread"):
        chosen(slow, latency_ms=8.0)
    assert chosen(slow, row("c-fp32", 7.0, p99=7.5), unknown, latency_ms=8.0)[0] == "c-fp32"
