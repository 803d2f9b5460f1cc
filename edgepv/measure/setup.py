"""The machine that times belong to: what it is set to, how warm it is, what energy it takes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from edgepv.base.machine import device_facts, versions
from edgepv.types import BenchSetup

SYS = Path("/sys")
ENERGY_S = 3.0
"""Seconds of calls one after another whose energy is counted: RAPL counts every millisecond, an INA is read
60 times."""
EVERY_S = 0.05
"""Between two readings of a sensor that tells power."""


def setup(threads: int, root: Path = Path("/")) -> BenchSetup:
    """What this machine is set to. root: where its files lie. What it does not tell is None."""
    cpus = [root / f"sys/devices/system/cpu/cpu{n}/cpufreq" for n in sorted(os.sched_getaffinity(0))]
    governors = {text for cpu in cpus if (text := _text(cpu / "scaling_governor"))}
    least = [int(text) for cpu in cpus if (text := _text(cpu / "scaling_min_freq")).isdigit()]
    most = [int(text) for cpu in cpus if (text := _text(cpu / "scaling_max_freq")).isdigit()]
    return BenchSetup(
        device=device_facts(),
        threads=threads,
        edgepv="".join(versions(("edgepv",)).values()),
        governor=", ".join(sorted(governors)) or None,
        mhz=(min(least) / 1e3, max(most) / 1e3) if least and most else None,
        power_mode=_text(root / "var/lib/nvpmodel/status") or None,
    )


def celsius(root: Path = SYS) -> float | None:
    """Temperature of the hottest sensor that the kernel knows; None where it knows none."""
    told = [_text(zone / "temp") for zone in sorted((root / "class/thermal").glob("thermal_zone*"))]
    known = [int(text) / 1e3 for text in told if text.removeprefix("-").isdigit()]
    return max(known, default=None)


def _text(path: Path) -> str:
    """The text of a file of the system; none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").strip()
    return ""


class EnergyMeter:
    """Joules that this machine takes, by its own sensors: RAPL of the processor, or a Jetson's INA.

    root: where the kernel tells of them. ``known`` is False where none may be read. Between two calls of
    ``joules`` there may be no more than a minute, in which RAPL's counter goes round once at most. Sources:
    the kernel's power capping framework; L4T's "Power Monitor", INA3221, whose VDD_IN is the whole board.
    """

    def __init__(self, root: Path = SYS, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        packages = sorted((root / "class/powercap").glob("intel-rapl:[0-9]"))
        self._packages = [p for p in packages if _text(p / "energy_uj").isdigit()]
        self._rails = [] if self._packages else sorted(_rails(root))
        self.known = bool(self._packages or self._rails)
        self._before = {p: int(_text(p / "energy_uj")) for p in self._packages}
        self._at, self._total = clock(), 0.0

    def joules(self) -> float:
        """Since the meter was made. A power is taken to have held since the reading before."""
        now = self._clock()
        for package, before in self._before.items():
            counted = int(_text(package / "energy_uj") or before)
            lap = int(_text(package / "max_energy_range_uj") or 0) if counted < before else 0
            self._total += (counted - before + lap) / 1e6
            self._before[package] = counted
        for volts, amperes in self._rails:
            watts = int(_text(volts) or 0) * int(_text(amperes) or 0) / 1e6
            self._total += watts * (now - self._at)
        self._at = now
        return self._total


def _rails(root: Path) -> list[tuple[Path, Path]]:
    """(millivolts, milliamperes) of the rail that feeds a whole Jetson board."""
    found = []
    for label in (root / "bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*/in*_label"):
        number = label.name.removeprefix("in").removesuffix("_label")
        pair = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
        if _text(label) == "VDD_IN" and all(_text(path).isdigit() for path in pair):
            found.append(pair)
    return found


def energy_mj(call: Callable[[], object], meter: EnergyMeter) -> float | None:
    """Millijoules of one call, of calls one after another for ``ENERGY_S``; None without a sensor."""
    if not meter.known:
        return None
    begun, read, before, calls = time.perf_counter(), 0.0, meter.joules(), 0
    while (passed := time.perf_counter() - begun) < ENERGY_S:
        call()
        calls += 1
        if passed - read > EVERY_S:
            meter.joules()
            read = passed
    return 1e3 * (meter.joules() - before) / calls
