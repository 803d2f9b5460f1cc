"""An engine with no hardware: answers at once, or after a programmed delay. For tests of what is above.

The file is a JSON list of delays in ms, used in turn; every output is zeros, except that the first
label scores 1.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgepv.base.files import parse_json
from edgepv.errors import UsageError
from edgepv.runtimes.engine import CancelledError, Read, check_inputs, expected_inputs
from edgepv.stream import Tensors
from edgepv.types import Variant, decode

MOST_MS = 60_000


class NullEngine:
    """Waits the next delay, then answers the first label. wait: lets seconds pass; True when cancelled."""

    def __init__(
        self, variant: Variant, delays_ms: list[float], wait: Callable[[float], bool] | None = None
    ) -> None:
        self._variant = variant
        self._delays = itertools.cycle(delays_ms or [0.0])
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; the states come out as they went in."""
        check_inputs(inputs, expected_inputs(self._variant))
        self._ended.clear()
        delay = next(self._delays) / 1e3
        if delay and self._wait(delay):
            raise CancelledError
        states = self._variant.stream.states if self._variant.stream else ()
        answers = {a.name: np.zeros(a.shape, np.float32) for a in self._variant.spec.answers}
        answers[self._variant.spec.answer.name][0, 0] = 1.0
        return answers | {s.output: inputs[s.name] for s in states}

    def cancel(self) -> None:
        """End the delay that runs."""
        self._ended.set()

    def close(self) -> None:
        """Nothing to free."""


def open(variant: Variant, read: Read, threads: int) -> NullEngine:
    """Load the list of delays. Raises UsageError if it is none."""
    delays = decode(tuple[float, ...], parse_json(read(variant.path), Path(variant.path)), where=variant.path)
    if not all(0 <= delay <= MOST_MS for delay in delays):
        raise UsageError(f"{variant.path}: a delay is not from 0 to {MOST_MS} ms. Correct it")
    return NullEngine(variant, list(delays))
