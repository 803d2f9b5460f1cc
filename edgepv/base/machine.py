"""What this machine is: its CPU, its flags, and the versions that a figure was measured with."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgepv.base.engines import ENGINES
from edgepv.base.registry import resolve

if TYPE_CHECKING:
    from edgepv.types import DeviceFacts, MachineLoad, Proof

TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)


def device_facts() -> DeviceFacts:
    """What this machine is. Never guesses: what the system does not say is left out."""
    from edgepv.types import DeviceFacts

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {k.strip(): v.strip() for k, v in fields.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return DeviceFacts(
        cpu=fields.get("model name", platform.processor() or "not known"),
        cores=len(os.sched_getaffinity(0)),
        arch=platform.machine(),
        flags=tuple(f for f in TELLING_FLAGS if f in flags),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 2),
    )


class LoadWatch:
    """What a machine does besides, from its making until ``load()``; call ``sample()`` now and then between.

    It reads /proc/stat, the load average and the clock frequency of the cores that the process may use. stat,
    cpus: where Linux tells them.
    """

    LEAST_S = 0.5
    """Shortest time of which shares are told: 50 ticks of a core, so that one counted wrongly is 2 %."""

    def __init__(self, stat: Path = Path("/proc/stat"), cpus: Path = Path("/sys/devices/system/cpu")) -> None:
        self._stat, self._cpus, self._usable = stat, cpus, sorted(os.sched_getaffinity(0))
        self._averages: list[float] = []
        self._mhz: list[float] = []
        self.sample()
        self._begun, self._own = time.perf_counter(), time.process_time()
        self._ticks = self._counted()

    def sample(self) -> None:
        """Read load average and frequency."""
        self._averages.append(os.getloadavg()[0])
        for n in self._usable:
            with contextlib.suppress(OSError, ValueError):  # no such file, or "<unknown>" in it
                text = (self._cpus / f"cpu{n}" / "cpufreq" / "scaling_cur_freq").read_text()
                self._mhz.append(int(text) / 1e3)

    def load(self) -> MachineLoad:
        """What was seen so far."""
        from edgepv.types import MachineLoad

        self.sample()
        passed, own = time.perf_counter() - self._begun, time.process_time() - self._own
        now, before = self._counted(), self._ticks
        others = steal = None
        if now and before and passed >= self.LEAST_S:
            others, steal = others_and_steal(before, now, own_s=own, passed_s=passed)
        mhz = (min(self._mhz), max(self._mhz)) if self._mhz else None
        average = round(max(self._averages), 2)
        return MachineLoad(len(self._usable), average, others, steal, mhz)

    def _counted(self) -> tuple[int, ...]:
        lines = self._stat.read_text().splitlines() if self._stat.is_file() else []
        return ticks(lines, {f"cpu{n}" for n in self._usable})


def ticks(lines: Iterable[str], cpus: set[str]) -> tuple[int, ...]:
    """Ticks of user, nice, system, idle, iowait, irq, softirq and steal of some cores; () if not told.

    Source: proc(5), /proc/stat.
    """
    rows = [row[1:9] for line in lines if (row := line.split()) and row[0] in cpus and len(row) > 8]
    return tuple(sum(map(int, column)) for column in zip(*rows))


def others_and_steal(
    before: tuple[int, ...], after: tuple[int, ...], *, own_s: float, passed_s: float
) -> tuple[float, float]:
    """(cores busy with other processes, share of the cores' time stolen) between two readings of ``ticks``.

    own_s: CPU time of this process meanwhile. passed_s: by the clock.
    """
    user, nice, system, idle, iowait, irq, softirq, steal = (b - a for a, b in zip(before, after))
    busy = user + nice + system + irq + softirq
    others = busy / os.sysconf("SC_CLK_TCK") - own_s
    every = busy + idle + iowait + steal
    return round(max(0.0, others) / passed_s, 2), round(steal / every, 3) if every else 0.0


def proof(engine: str) -> Proof:
    """What an answer of this engine rests on here. Raises UsageError for an engine that nobody offers."""
    from edgepv.types import Proof

    facts, spec = device_facts(), ENGINES.find(engine)
    installed = versions(spec.packages)
    version = resolve(spec.version)() if spec.version else next(iter(installed.values()), "")
    return Proof(facts.arch, facts.flags, f"{engine} {version}".strip())


def machine() -> dict[str, object]:
    """What a measured time belongs to."""
    facts = device_facts()
    return {"cpu": facts.cpu, "cores": facts.cores, "arch": facts.arch, "flags": facts.flags}


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Installed version of each distribution; those that are absent are left out."""
    return {name: found for name in distributions if (found := _version(name))}


@functools.cache
def _version(distribution: str) -> str | None:
    """Read once: Python looks through all that is installed, and a search asks hundreds of times."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
