"""What was called from here and raised although it must not: listeners and receivers, ours or the user's.

A live run outlives them. It counts what they raised, says the first of each in its summary and its health,
and ends with an error.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from edgepv.errors import ReceiverError


class Faults:
    """Calls functions that may raise. From any thread. told: hears (name, why) of the first fault of each."""

    def __init__(self, told: Callable[[str, str], None] = lambda name, why: None) -> None:
        self._told = told
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def call(self, name: str, function: Callable[..., object], *arguments: object) -> None:
        """Call it; what it raises is counted under ``name``, and its result does not matter."""
        try:
            function(*arguments)
        except Exception as e:
            self.add(name, e)

    def add(self, name: str, error: Exception) -> None:
        """Count one error of ``name``."""
        why = " ".join(f"{type(error).__name__}: {error}".split())
        with self._lock:
            self._counts[name] += 1
            first = name not in self._first
            self._first.setdefault(name, why)
        if first:
            self._told(name, why)

    def summary(self) -> dict[str, dict[str, Any]]:
        """name -> {"count", "first"}; empty if nothing raised."""
        with self._lock:
            return {name: {"count": self._counts[name], "first": why} for name, why in self._first.items()}

    def error(self) -> ReceiverError | None:
        """All of it in one line; None if nothing raised."""
        return error_of(self.summary())


def error_of(summary: dict[str, dict[str, Any]]) -> ReceiverError | None:
    """The error that a ``Faults.summary`` is; None for an empty one."""
    if not summary:
        return None
    each = [
        f"{name} raised {fault['count']} times, first {fault['first']}" for name, fault in summary.items()
    ]
    return ReceiverError(f"{'; '.join(each)}. Answers were given all the same. Correct what raised")
