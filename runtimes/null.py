"""An engine with no hardware: answers at once, or after a programmed delay. For tests of what is above.

The file is a JSON list of delays in ms, used in turn; every output is zeros, except that the first
label scores 1.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np

from edgepv.runtimes.engine import check_inputs, expected_inputs
from edgepv.stream import Tensors
from edgepv.types import Variant


class NullEngine:
    """Sleeps the next delay and answers the first label."""

    def __init__(self, variant: Variant, delays_ms: list[float]) -> None:
        self._variant = variant
        self._delays = itertools.cycle(delays_ms or [0.0])

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once; the states come out as they went in."""
        check_inputs(inputs, expected_inputs(self._variant))
        time.sleep(next(self._delays) / 1e3)
        states = self._variant.stream.states if self._variant.stream else ()
        scores = np.zeros((1, len(self._variant.spec.labels)), np.float32)
        scores[0, 0] = 1.0
        answers = dict.fromkeys(self._variant.outputs, scores)
        return answers | {s.output: inputs[s.name] for s in states}

    def close(self) -> None:
        """Nothing to free."""


def open(variant: Variant, path: Path, threads: int) -> NullEngine:
    """Load the list of delays."""
    return NullEngine(variant, [float(d) for d in json.loads(path.read_text())])
