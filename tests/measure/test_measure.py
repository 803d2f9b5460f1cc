"""Timing takes turns, counts what it did, and stops when the machine is too busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from null_bundle import write_null_bundle

from edgepv import bundle
from edgepv.base import machine
from edgepv.errors import TargetUnavailableError
from edgepv.measure import latency, memory
from edgepv.runtimes.engine import Engine
from edgepv.stream import Tensors


class Sleeper:
    """Takes ``ms`` per call and notes its name in a shared log."""

    def __init__(self, name: str, ms: float, log: list[str]) -> None:
        self.name, self.ms, self.log = name, ms, log
        self.closed = 0

    def infer(self, inputs: Tensors) -> Tensors:
        self.log.append(self.name)
        time.sleep(self.ms / 1e3)
        return {}

    def close(self) -> None:
        self.closed += 1


FEEDS: list[Tensors] = [{"x": np.zeros(1)}]


def test_engines_take_turns_and_the_slow_one_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "BUDGET_S", 60.0)
    log: list[str] = []
    found = latency.interleaved(
        {"fast": (Sleeper("fast", 1, log), FEEDS), "slow": (Sleeper("slow", 6, log), FEEDS)},
        threads=1,
        calls=42,
    )
    turn = latency.TURN + 1  # the first call of a turn is not timed
    assert log[: 2 * turn] == ["fast"] * turn + ["slow"] * turn
    assert len(log) == 2 * (42 + latency.WARMUP) / latency.TURN * turn
    assert found["slow"].p50_ms > 2 * found["fast"].p50_ms > 1
    assert found["fast"].n == 42 and found["fast"].interleaved_with == ("fast", "slow")
    assert found["fast"].p50_ms <= found["fast"].p95_ms <= found["fast"].p99_ms


def test_a_busy_machine_gets_fewer_calls_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "BUDGET_S", 0.0)
    found = latency.interleaved({"a": (Sleeper("a", 1, []), FEEDS)}, threads=1, calls=200)
    assert found["a"].n == latency.MIN_CALLS


def test_device_facts_never_guess() -> None:
    facts = machine.device_facts()
    assert facts.cpu and facts.cores >= 1 and facts.arch


@pytest.mark.usefixtures("apart")
def test_a_process_that_was_large_does_not_make_its_variants_large(tmp_path: Path) -> None:
    found = bundle.read(write_null_bundle(tmp_path / "b"))
    parent = np.ones(50_000_000)  # 381 MiB, every page touched
    del parent
    peak = memory.peak_rss_mib(found.variant(), found.folder)
    assert peak is not None and 5 < peak < 300


@pytest.mark.parametrize(
    ("status", "mib", "why"),
    [
        ("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n", 2.0, "2048 KiB"),
        ("Name:\tpython\n", None, "a kernel that does not count it"),
        (None, None, "a system without /proc"),
    ],
)
def test_peak_memory_is_what_the_system_says_or_not_known(
    status: str | None, mib: float | None, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "status"
    if status is not None:
        path.write_text(status)
    assert memory.peak_mib(path) == mib, why


def test_an_engine_that_cannot_be_opened_closes_those_before_it() -> None:
    first = Sleeper("first", 0, [])

    def missing() -> Engine:
        raise TargetUnavailableError("not here")

    with pytest.raises(TargetUnavailableError):
        latency.open_all({"first": lambda: first, "second": missing})
    assert first.closed == 1


def test_a_call_that_fails_leaves_no_engine_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bundle.read(write_null_bundle(tmp_path / "b"))
    made: list[Sleeper] = []

    def opener(*_: object, **__: object) -> Engine:
        made.append(Sleeper("engine", 0, []))
        return made[-1]

    class Broken(Sleeper):
        def infer(self, inputs: Tensors) -> Tensors:
            raise RuntimeError("out of memory")

    def broken(threads: int) -> Engine:
        made.append(Broken("torch", 0, []))
        return made[-1]

    monkeypatch.setattr(latency, "open_engine", opener)
    original: tuple[Callable[[int], Engine], list[Tensors]] = (broken, FEEDS)
    with pytest.raises(RuntimeError, match="out of memory"):
        latency.latencies([found.variant()], found.folder, FEEDS, original=original)
    assert [engine.closed for engine in made] == [1, 1]
