"""Asks tract, in its own environment, to make ONNX files step: ``python pulse.py FILE...`` prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def pulsed(path: str) -> str | None:
    """None where tract's pulse transform takes the model, 4 frames at a time; else why not."""
    import tract

    try:
        tract.onnx().load(path).into_model().transform(tract.Pulse("4", symbol="T"))
    except tract.TractError as e:
        lines = [line.strip() for line in str(e).split("Stack backtrace")[0].splitlines() if line.strip()]
        return lines[-1]
    return None


if __name__ == "__main__":
    print(json.dumps({Path(path).stem: pulsed(path) for path in sys.argv[1:]}))
