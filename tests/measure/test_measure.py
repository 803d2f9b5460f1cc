"""Timing takes turns, counts what it did, and stops when the machine is too busy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from null_bundle import write_null_bundle

from edgepv import bundle
from edgepv.base import machine
from edgepv.data import before
from edgepv.errors import TargetUnavailableError
from edgepv.measure import latency, memory
from edgepv.runtimes.engine import Engine
from edgepv.stream import Tensors
from edgepv.types import StreamSpec, Variant


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


def test_engines_take_turns_and_the_slow_one_is_slower() -> None:
    log: list[str] = []
    found = latency.interleaved(
        {"fast": (Sleeper("fast", 1, log), FEEDS), "slow": (Sleeper("slow", 6, log), FEEDS)},
        threads=1,
        calls=42,
        budget_s=60.0,
        floats=["slow"],
    )
    turn = latency.TURN + 1  # the first call of a turn is not timed
    assert log[: 2 * turn] == ["fast"] * turn + ["slow"] * turn
    assert len(log) == 2 * (42 + latency.WARMUP) / latency.TURN * turn
    assert found["slow"].p50_ms > 2 * found["fast"].p50_ms > 1
    assert found["fast"].n == 42 and found["fast"].interleaved_with == ("fast", "slow")
    assert (found["fast"].p95_ms, found["fast"].p99_ms) == (None, None), "42 calls do not tell"
    pair = found["fast"].against("slow")
    assert pair and pair.wall.low <= pair.wall.value <= pair.wall.high and pair.wall.value < 1
    assert found["slow"].ratios == (), "it is its own reference"
    cpu_ms = found["slow"].cpu_ms
    assert cpu_ms is not None and 0 < cpu_ms < found["slow"].p50_ms, "who sleeps takes no CPU time"


def test_a_busy_machine_gets_fewer_calls_and_says_so() -> None:
    found = latency.interleaved({"a": (Sleeper("a", 1, []), FEEDS)}, threads=1, calls=200, budget_s=0.0)
    assert found["a"].n == latency.MIN_CALLS


def test_who_asks_for_p99_gets_enough_calls_for_it() -> None:
    found = latency.interleaved(
        {"a": (Sleeper("a", 0, []), FEEDS)}, threads=1, calls=latency.SURE_CALLS, budget_s=60.0
    )["a"]
    assert found.n >= latency.SURE_CALLS and found.p95_ms and found.p99_ms
    assert found.p50_ms <= found.p95_ms <= found.p99_ms


def test_who_must_know_the_load_goes_on_until_the_system_tells_it() -> None:
    """Six calls are over in microseconds; of half a second Linux can tell who had the cores."""
    engines = {"a": (Sleeper("a", 1, []), FEEDS)}
    clocks, load = latency.taken_in_turns(engines, calls=6, budget_s=60.0, least_s=machine.LoadWatch.LEAST_S)
    assert 6 < len(clocks["a"].calls) < 600
    assert (load.others is None) == (not Path("/proc/stat").is_file())


STAT = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 800 40 5 6 7 0 0\ncpu1 1 2 3 4 5 6 7 8 0 0\nintr 1\n"


def test_ticks_are_those_of_the_cores_that_may_be_used() -> None:
    assert machine.ticks(STAT.splitlines(), {"cpu0"}) == (100, 20, 30, 800, 40, 5, 6, 7)
    assert machine.ticks(STAT.splitlines(), {"cpu0", "cpu1"}) == (101, 22, 33, 804, 45, 11, 13, 15)
    assert machine.ticks([], {"cpu0"}) == ()


def test_what_others_had_of_the_cores_is_what_this_process_had_not() -> None:
    """Two cores for 10 s: 12 s busy, of which 7.5 s are ours; 1 s stolen; the rest idle or waiting."""
    tick = os.sysconf("SC_CLK_TCK")
    after = tuple(round(tick * s) for s in (8.0, 1.0, 2.0, 6.0, 1.0, 0.5, 0.5, 1.0))
    others, steal = machine.others_and_steal((0,) * 8, after, own_s=7.5, passed_s=10.0)
    assert (others, steal) == (0.45, 0.05)
    assert machine.others_and_steal((0,) * 8, after, own_s=13.0, passed_s=10.0)[0] == 0.0


def test_a_watch_reads_what_the_system_tells_and_no_more(tmp_path: Path) -> None:
    watch = machine.LoadWatch(tmp_path / "no stat", tmp_path)
    load = watch.load()
    assert load.cores >= 1 and load.average >= 0
    assert (load.others, load.steal, load.mhz) == (None, None, None)
    core = min(os.sched_getaffinity(0))
    clock = tmp_path / f"cpu{core}" / "cpufreq" / "scaling_cur_freq"
    clock.parent.mkdir(parents=True)
    clock.write_text("1800000\n")
    watch.sample()
    clock.write_text("2400000\n")
    watch.sample()
    clock.write_text("<unknown>\n")
    assert watch.load().mhz == (1800.0, 2400.0)


def test_a_run_is_watched_as_a_whole(tmp_path: Path) -> None:
    stat, core = tmp_path / "stat", min(os.sched_getaffinity(0))
    stat.write_text(f"cpu{core} 0 0 0 0 0 0 0 0\n")
    watch = machine.LoadWatch(stat, tmp_path)
    time.sleep(watch.LEAST_S)
    stat.write_text(f"cpu{core} 0 0 0 75 0 0 0 25\n")
    assert watch.load().steal == 0.25


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


@pytest.mark.parametrize("chain", [False, True])
def test_a_call_is_timed_with_what_comes_before_the_model_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: bool
) -> None:
    """A chain of 3 ms before a window that is new by one picture, and before a step of two."""
    seen: list[tuple[int, ...]] = []

    def slowly(picture: np.ndarray) -> np.ndarray:
        seen.append(picture.shape)
        time.sleep(0.003)
        return picture

    monkeypatch.setitem(cast(dict[str, Any], before.CHAIN), "clahe", slowly)
    plain = bundle.read(write_null_bundle(tmp_path / "b")).variant()
    window = replace(plain, spec=replace(plain.spec, before=("clahe",)))
    step = replace(window, stream=StreamSpec((), warmup=1, chunk=2))
    variants = {"plain": plain, "window": window, "step": step}
    opened: dict[str, tuple[Engine, Variant]] = {
        name: (Sleeper(name, 0, []), v) for name, v in variants.items()
    }
    monkeypatch.setattr(latency, "noise_feeds", lambda *_: FEEDS[0])
    found = latency.on_noise(opened, threads=1, calls=9, budget_s=60.0, chain=chain)
    calls = (9 + latency.WARMUP) // latency.TURN * (latency.TURN + 1)
    assert seen == [(8, 8, 3)] * (1 + 2) * calls * chain
    if chain:
        assert found["window"].p50_ms > 3 and found["step"].p50_ms > 6
