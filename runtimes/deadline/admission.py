"""Several cameras on one machine: who may run, and on which rung at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgepv.errors import DeviceError

SHARE = 0.8
"""Of the cores' time that cameras may plan with: the rest is for reading frames, receivers and the system."""


@dataclass(frozen=True)
class Demand:
    """What one camera wants: model frames per second, and per rung of its ladder the ms a frame takes.

    accuracy: per rung; None where it is not known, then a slower rung is taken to be better.
    """

    camera: str
    fps: float
    profiles_ms: tuple[float, ...]
    accuracy: tuple[float | None, ...] = ()

    def load(self, rung: int) -> float:
        """Cores that the camera keeps busy on a rung."""
        return self.fps * self.profiles_ms[rung] / 1e3


def admit(demands: Sequence[Demand], cores: int) -> dict[str, int]:
    """The largest rung each camera may use, so that all together keep at most 80 % of the cores busy.

    Everyone starts on the smallest rung; then the step up that gains most accuracy for the load it adds is
    granted, again and again. A camera never needs more than one core, since it works on one frame at a
    time. Raises DeviceError naming the cameras that do not fit even on their smallest rungs; they are the
    last ones.
    """
    room = SHARE * cores
    rungs = {d.camera: len(d.profiles_ms) - 1 for d in demands}
    used = 0.0
    for i, demand in enumerate(demands):
        used += demand.load(rungs[demand.camera])
        if used > room:
            names = ", ".join(d.camera for d in demands[i:])
            raise DeviceError(
                f"no room for camera {names}: {len(demands)} cameras need {used:.2f} cores or more on "
                f"their smallest variants, {room:.2f} of {cores} may be used. "
                "Use fewer cameras or a smaller variant"
            )
    while steps := [d for d in demands if rungs[d.camera] > 0 and used + _added(d, rungs[d.camera]) <= room]:
        best = max(steps, key=lambda d: _gain(d, rungs[d.camera]) / max(_added(d, rungs[d.camera]), 1e-9))
        used += _added(best, rungs[best.camera])
        rungs[best.camera] -= 1
    return rungs


def _added(demand: Demand, rung: int) -> float:
    return demand.load(rung - 1) - demand.load(rung)


def _gain(demand: Demand, rung: int) -> float:
    known = [a for a in demand.accuracy[rung - 1 : rung + 1] if a is not None]
    return known[0] - known[1] if len(known) == 2 else 0.01
