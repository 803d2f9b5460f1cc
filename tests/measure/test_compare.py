"""Two results: the same setup, or the facts that differ; then a verdict that noise does not turn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import Run

from edgepv.errors import InconclusiveError, UsageError
from edgepv.measure.compare import compared, shift
from edgepv.types import BenchResult, BenchRow, BenchSetup, DeviceFacts, Latency, encode

DEVICE = DeviceFacts("A CPU", 4, "x86_64", ("avx2",), "Linux 6.1", "3.11.2", load=0.1)
TURNS = 120


def row(name: str, ms: float, sha: str, *, seed: int, drift: float = 1.0) -> BenchRow:
    """Times around ``ms``, each turn 5 % up or down. drift: what the machine's clock did to all of them."""
    rng = np.random.default_rng(seed)
    turns = tuple((drift * ms * np.exp(0.05 * rng.standard_normal(TURNS))).tolist())
    times = Latency(ms, None, None, 3 * TURNS, 6, 1, cpu_ms=ms)
    return BenchRow(name, "onnx", "ort", "ort 1", "1 thread", sha, times, None, 1e3 / ms, turns, turns)


def result(*rows: BenchRow, device: DeviceFacts = DEVICE, threads: int = 1) -> BenchResult:
    return BenchResult(1, "2026-01-01T00:00:00+00:00", BenchSetup(device, threads, "0.1.0"), rows)


def test_faster_slower_and_undecided() -> None:
    old = result(row("a", 10.0, "1", seed=1), row("b", 10.0, "2", seed=2), row("c", 10.0, "3", seed=3))
    new = result(row("a", 8.0, "4", seed=4), row("b", 12.0, "5", seed=5), row("c", 10.0, "6", seed=6))
    found = {one.name: one for one in compared(old, new)}
    assert [found[n].verdict for n in "abc"] == ["faster", "slower", "undecided"]
    assert found["a"].wall.low < 0.8 < found["a"].wall.high and found["a"].against is None
    assert found["b"].cpu and found["b"].cpu.value == pytest.approx(1.2, abs=0.02)


def test_the_same_file_in_both_takes_the_machines_drift_out() -> None:
    """The second run's clock was 30 % slower for all; the artifact became 10 % faster all the same."""
    old = result(row("a", 10.0, "1", seed=1), row("same", 5.0, "s", seed=2))
    new = result(row("a", 9.0, "2", seed=3, drift=1.3), row("same", 5.0, "s", seed=4, drift=1.3))
    change = compared(old, new)[0]
    assert change.against == "same" and change.verdict == "faster"
    assert change.wall.value == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        ({"device": replace(DEVICE, cpu="B CPU")}, "cpu: A CPU / B CPU"),
        ({"device": replace(DEVICE, flags=())}, r"flags: \['avx2'\] / \[\]"),
        ({"threads": 2}, "threads: 1 / 2"),
    ],
)
def test_unlike_setups_are_refused_by_their_facts(other: dict[str, object], fact: str) -> None:
    old, one = result(row("a", 10.0, "1", seed=1)), row("a", 9.0, "2", seed=2)
    new = result(one, **other)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"unlike setups are not compared: {fact}"):
        compared(old, new)


def test_another_build_of_the_engine_is_another_setup_and_another_load_is_not() -> None:
    old = result(row("a", 10.0, "1", seed=1))
    new = result(replace(row("a", 9.0, "1", seed=2), build="ort 2"), device=replace(DEVICE, load=7.0))
    with pytest.raises(UsageError, match="compared: build of a: ort 1 / ort 2. Measure"):
        compared(old, new)
    assert compared(old, result(row("a", 9.0, "1", seed=2), device=replace(DEVICE, load=7.0)))


def test_a_busy_result_says_nothing_and_strangers_have_nothing_in_common() -> None:
    old, busy = result(row("a", 10.0, "1", seed=1)), row("a", 9.0, "1", seed=2)
    busy = replace(busy, latency=replace(busy.latency, inconclusive="machine was busy (load 9.0 on 2 cores)"))
    with pytest.raises(InconclusiveError, match="the newer result is inconclusive: machine was busy"):
        compared(old, result(busy))
    with pytest.raises(UsageError, match="no artifact is in both results: a against b"):
        compared(old, result(row("b", 1.0, "1", seed=1)))


def test_the_interval_holds_no_change_19_times_in_20() -> None:
    """600 pairs of runs of one speed; 5 % of the intervals may leave 1 out, by chance up to 8 %."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(600):
        found = shift(*(0.1 * rng.standard_normal(TURNS) for _ in range(2)))
        assert found
        missed += not found.low <= 1 <= found.high
    assert 0.02 * 600 < missed < 0.08 * 600
    assert shift(np.zeros(5), np.zeros(TURNS)) is None, "fewer turns than stretches"


def test_the_command_reads_two_results(run: Run, tmp_path: Path) -> None:
    for name, ms in (("old", 10.0), ("new", 8.0)):
        (tmp_path / name).write_text(json.dumps(encode(result(row("a", ms, name, seed=len(name))))))
    (tmp_path / "no").write_text('{"rows": []}')
    code, out, err = run("bench", "--compare", tmp_path / "old", tmp_path / "new")
    assert code == 0 and "faster" in out and "the clock alone" in out, err
    code, out, err = run("bench", "--compare", tmp_path / "old", tmp_path / "no")
    assert code == 2 and "has schema None; this edgepv reads 1" in err
    code, out, err = run("bench", "x", "--compare", tmp_path / "old", tmp_path / "new")
    assert code == 2 and "measures nothing" in err
