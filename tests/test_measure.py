"""Timing takes turns, counts what it did, and stops when the machine is too busy."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edgepv import measure
from edgepv.stream import Tensors


class Sleeper:
    """Takes ``ms`` per call and notes its name in a shared log."""

    def __init__(self, name: str, ms: float, log: list[str]) -> None:
        self.name, self.ms, self.log = name, ms, log

    def infer(self, inputs: Tensors) -> Tensors:
        self.log.append(self.name)
        time.sleep(self.ms / 1e3)
        return {}

    def close(self) -> None:
        pass


FEEDS: list[Tensors] = [{"x": np.zeros(1)}]


def test_engines_take_turns_and_the_slow_one_is_slower() -> None:
    log: list[str] = []
    found = measure.interleaved(
        {"fast": (Sleeper("fast", 1, log), FEEDS), "slow": (Sleeper("slow", 6, log), FEEDS)},
        threads=1,
        calls=42,
    )
    turn = measure.TURN + 1  # the first call of a turn is not timed
    assert log[: 2 * turn] == ["fast"] * turn + ["slow"] * turn
    assert len(log) == 2 * (42 + measure.WARMUP) / measure.TURN * turn
    assert found["slow"].p50_ms > 2 * found["fast"].p50_ms > 1
    assert found["fast"].n == 42 and found["fast"].interleaved_with == ("fast", "slow")
    assert found["fast"].p50_ms <= found["fast"].p95_ms <= found["fast"].p99_ms


def test_a_busy_machine_gets_fewer_calls_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BUDGET_S", 0.0)
    found = measure.interleaved({"a": (Sleeper("a", 1, []), FEEDS)}, threads=1, calls=200)
    assert found["a"].n == measure.MIN_CALLS


def test_device_facts_never_guess() -> None:
    facts = measure.device_facts()
    assert facts.cpu and facts.cores >= 1 and facts.arch
