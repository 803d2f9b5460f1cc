"""What this machine is: its CPU, its flags, and the versions that a figure was measured with."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edgepv.base.engines import ENGINES
from edgepv.types import DeviceFacts, Json, Proof

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


def proof(engine: str) -> Proof:
    """What an answer of this engine rests on here. Raises UsageError for an engine that nobody offers."""
    facts = device_facts()
    version = next(iter(versions(ENGINES.find(engine).packages).values()), "")
    return Proof(facts.arch, facts.flags, f"{engine} {version}".strip())


def machine() -> dict[str, Json]:
    """What a measured time belongs to."""
    facts = device_facts()
    return {"cpu": facts.cpu, "cores": facts.cores, "arch": facts.arch, "flags": facts.flags}


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Installed version of each distribution; those that are absent are left out."""
    from importlib.metadata import PackageNotFoundError, version

    installed = {}
    for name in distributions:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
