"""What carrying the states costs a host: ``python benchmarks/stream_host.py BUNDLE``.

Steps one ONNX Runtime variant of a streamed bundle three ways, taking turns on one thread: the engine alone
on fixed inputs, a Stepper that copies what the engine hands over, and one whose states the engine writes in
place (IO binding). Writes stream_host.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measured_at import now

from edgepv import bundle
from edgepv.base.files import write_json
from edgepv.base.machine import device_facts
from edgepv.metrics.stats import percentiles_ms
from edgepv.runtimes.engines.ort import OrtEngine
from edgepv.runtimes.engines.ort import open as open_ort
from edgepv.stream import Stepper, copied
from edgepv.types import Variant, encode

OUT = Path(__file__).resolve().with_suffix(".json")
CALLS, WARMUP = 500, 20


def ways(engine: OrtEngine, variant: Variant) -> dict[str, Callable[[np.ndarray], object]]:
    """Name -> one step on a frame."""

    def stepper(place: bool) -> Stepper:
        into = engine.infer_into if place else None
        return Stepper(engine.infer, variant.spec, variant.stream, into=into)

    feeds = copied(stepper(False).feeds(np.zeros(variant.spec.input.shape, np.float32)) or {})
    return {
        "engine alone": lambda frame: engine.infer(feeds),
        "states copied": stepper(False).step,
        "states in place": stepper(True).step,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variants", nargs="+", default=["onnxruntime-fp32", "onnxruntime-int8"])
    args = parser.parse_args()
    opened = bundle.read(args.bundle)
    rows = {}
    for name in args.variants:
        variant = opened.variant(name, None)
        engine = open_ort(variant, opened.checked, 1)
        steps = ways(engine, variant)
        seconds: dict[str, list[float]] = {way: [] for way in steps}
        rng = np.random.default_rng(0)
        for i in range(CALLS + WARMUP):
            frame = rng.standard_normal(variant.spec.input.shape).astype(np.float32)
            for way, step in steps.items():
                start = time.perf_counter()
                step(frame)
                if i >= WARMUP:
                    seconds[way].append(time.perf_counter() - start)
        state = variant.stream.state_bytes if variant.stream else 0
        rows[name] = {"state_bytes": state, "ms": {way: percentiles_ms(s) for way, s in seconds.items()}}
        print(name, {way: f"p50 {percentiles_ms(s)[0]:.3f} ms" for way, s in seconds.items()}, flush=True)
    about = {"measured_at": now(), "device": encode(device_facts()), "threads": 1, "n": CALLS}
    write_json(OUT, about | {"model": opened.content.name, "variants": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
