"""Peak memory of one variant, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgepv.base.isolated import call
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Stepper
from edgepv.types import Variant, decode, encode


def peak_rss_mib(variant: Variant, folder: Path) -> float | None:
    """Peak resident memory, in MiB, of a fresh process that loads the variant and steps it 20 times.

    None where the system does not tell.
    """
    mib: float | None = call("edgepv.measure.memory:rss_of", variant=encode(variant), folder=str(folder))
    return mib


def rss_of(variant: dict[str, object], folder: str) -> float | None:
    """Subprocess side of ``peak_rss_mib``."""
    chosen = decode(Variant, variant)
    engine = open_engine(chosen, Path(folder))
    stepper = Stepper(engine.infer, chosen.spec, chosen.stream)
    frame = np.zeros(chosen.spec.input.shape, np.float32)
    frame = frame[:1] if chosen.stream else frame[:, :, 0]
    for _ in range(20):
        stepper.step(frame)
    return peak_mib()


def peak_mib(status: Path = Path("/proc/self/status")) -> float | None:
    """Peak resident memory of this process since it began to run its program, in MiB; None if not told.

    The ``ru_maxrss`` of getrusage is not it: Linux passes on the peak of the process that started this one.
    """
    lines = status.read_text().splitlines() if status.is_file() else []
    told = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(told[0]) / 1024 if told else None
